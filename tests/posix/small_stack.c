/*
 * A process that ends on a small stack, of a coroutine or a handler: its connections end as ever, and
 * nothing beneath the stack is touched.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "proc.h"
#include "tcp.h"
#include "test.h"

#define PAGE 4096

static void by_exit(void)
{
    exit(0);
}

static void by_underscore(void)
{
    _exit(0);
}

static void by_quick_exit(void)
{
    quick_exit(0);
}

static void by_exit_group(void)
{
    syscall(SYS_exit_group, 0);
}

static void (*const ways[])(void) = {by_exit, by_underscore, by_quick_exit, by_exit_group};

/* Two pages, below which there is nothing; what is watched takes more of a stack. */
static void end_on_small_stack(void (*end)(void))
{
    size_t size = (TEST_ASAN || TEST_TSAN ? 32 : 2) * PAGE;
    char *map = mmap(NULL, PAGE + size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ucontext_t here, there;

    CHECK(map != MAP_FAILED);
    MUST(mprotect(map + PAGE, size, PROT_READ | PROT_WRITE));
    MUST(getcontext(&there));
    there.uc_stack = (stack_t){.ss_sp = map + PAGE, .ss_size = size};
    there.uc_link = &here;
    makecontext(&there, end, 0);
    swapcontext(&here, &there);
}

/* The text of the counters was put together on the stack, 8 KiB of it. */
static void test_ends_with_bytes_unread(void)
{
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        int listener = MUST(listener_open(AF_INET));
        struct pair p = {.us = -1};
        pid_t pid = MUST(fork());

        if (pid == 0) {
            p.us = connect_to(listener);
            close(listener);
            settle(p.us, WARM_READS + 40);
            take(&p, WARM_READS);
            end_on_small_stack(ways[i]);
            _exit(1);
        }
        p.peer = MUST(accept(listener, NULL, NULL));
        close(listener);
        put_now(&p, WARM_READS + 40);
        check_child(pid);
        CHECK_PEER_SEES(p.peer, SEEN_RESET);
        close(p.peer);
    }
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_ends_with_bytes_unread),
    CASES_END,
};
