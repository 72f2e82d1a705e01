/*
 * A process that may use hardly any memory for what it serves: everything is right, by plain calls
 * where there is no room.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "asleep.h"
#include "leg.h"
#include "loop.h"
#include "proc.h"
#include "stall.h"

#define MANY 150
#define THREADS 12

/* Each thread has a connection that it blocks on, and one that it leaves unread. */
static void *blocking_reader(void *arg)
{
    struct pair read = pair_open_warm(), left = pair_open_held(500);

    (void)arg;
    for (int i = 0; i < 100; i++) {
        put(&read, 700);
        take(&read, 300);
        take(&read, 400);
    }
    put(&left, 5000);
    take(&left, 5500);
    check_empty(left.us);
    pair_drop(&read);
    pair_drop(&left);
    return NULL;
}

static void loop_over_many(void)
{
    struct pair *p = calloc(MANY, sizeof(*p));
    int ep = MUST(epoll_create1(EPOLL_CLOEXEC));

    CHECK(p);
    for (int i = 0; i < MANY; i++)
        p[i] = ep_pair(ep, EPOLLIN, (uint64_t)i);
    for (int round = 1; round <= 10; round++) {
        int told = 0;

        for (int i = 0; i < MANY; i++)
            put(&p[i], (size_t)(round * 97));
        for (int i = 0; i < MANY; i++)
            take(&p[i], 50);
        while (told < MANY) {
            struct epoll_event ev[16];
            int n = MUST(epoll_wait(ep, ev, 16, 5000));

            CHECK(n > 0);
            for (int i = 0; i < n; i++) {
                CHECK_EQ(read_all(&p[ev[i].data.u64], 333), (size_t)(round * 97 - 50));
                told++;
            }
        }
        check_quiet(ep, false);
    }
    for (int i = 0; i < MANY; i++)
        pair_drop(&p[i]);
    MUST(close(ep));
    free(p);
}

static int limited(int argc, char **argv)
{
    struct worker w[THREADS];

    (void)argc, (void)argv;
    loop_over_many();
    for (int i = 0; i < THREADS; i++)
        worker_start(&w[i], blocking_reader, NULL);
    for (int i = 0; i < THREADS; i++)
        worker_join(&w[i]);
    loop_over_many();
    return 0;
}

/* Settings that mean nothing to a program, and to the library how much it may have. */
static pid_t run_limited(const char *memory)
{
    pid_t pid = MUST(fork());

    if (pid == 0) {
        MUST(setenv("PBUFSHIM_MEMORY", memory, 1));
        execl(test_self, test_self, "--helper", "limited", (char *)NULL);
        _exit(126);
    }
    check_child(pid);
    return pid;
}

static void test_limit_of_64_kib_is_right_and_counted(void)
{
    pid_t pid = run_limited("64K");

    check_counted("shim", pid, "pass_memory", 1);
}

static void test_limit_reached_on_the_way_is_right(void)
{
    static const char *const memory[] = {"100K", "256K", "600000", "1M", "3M"};

    for (size_t i = 0; i < COUNT_OF(memory); i++)
        run_limited(memory[i]);
}

static void test_limit_far_away_serves_all(void)
{
    pid_t pid = run_limited("1G");

    check_counted("shim", pid, "ring_bytes", 1000000);
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_limit_of_64_kib_is_right_and_counted),
    CASE_ONCE(test_limit_reached_on_the_way_is_right),
    CASE_ONCE(test_limit_far_away_serves_all),
    CASES_END,
};

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = limited;
}
