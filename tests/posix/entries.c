/*
 * Entries into the kernel, counted by a tracer: waits of no time on sockets that are known to be
 * empty. Its argument is how many a thousand of them may take; if that is a thousand or more, leg
 * plain's, a thousand have to be counted.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loop.h"
#include "raw.h"

#define TIMES 1000
#define SOCKETS 5

/* Nobody else makes this call: the tracer counts from the first one to the second. */
#define MARK SYS_getpgid

struct scene {
    int ep;
    struct pair p[SOCKETS];
};

static void by_poll(const struct scene *s)
{
    struct pollfd all[SOCKETS];

    for (int i = 0; i < SOCKETS; i++)
        all[i] = (struct pollfd){.fd = s->p[i].us, .events = POLLIN};
    CHECK_EQ(poll(all, SOCKETS, 0), 0);
}

static void by_select(const struct scene *s)
{
    struct timeval zero = {0, 0};
    fd_set in;

    FD_ZERO(&in);
    for (int i = 0; i < SOCKETS; i++)
        FD_SET(s->p[i].us, &in);
    CHECK_EQ(select(FD_SETSIZE, &in, NULL, NULL, &zero), 0);
}

static void by_epoll(const struct scene *s)
{
    struct epoll_event ev;

    CHECK_EQ(epoll_wait(s->ep, &ev, 1, 0), 0);
}

static void (*const ways[])(const struct scene *s) = {by_poll, by_select, by_epoll};

static int traced(int argc, char **argv)
{
    size_t way = argc > 1 ? (size_t)atoi(argv[1]) : 0;
    struct scene s = {.ep = MUST(epoll_create1(0))};

    for (int i = 0; i < SOCKETS; i++)
        s.p[i] = ep_pair(s.ep, EPOLLIN, (uint64_t)i);
    for (int i = 0; i < 3; i++)
        ways[way](&s);
    MUST(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
    MUST(raise(SIGSTOP));
    RAW1(MARK, 0);
    for (int i = 0; i < TIMES; i++)
        ways[way](&s);
    RAW1(MARK, 0);
    return 0;
}

/* Its entries between the marks. */
static int count(pid_t pid)
{
    int status, marks = 0, n = 0;
    bool entering = true;

    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFSTOPPED(status));
    MUST(ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL));
    for (;;) {
        struct user_regs_struct regs;

        MUST(ptrace(PTRACE_SYSCALL, pid, NULL, NULL));
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        if (WIFEXITED(status)) {
            CHECK_EQ(WEXITSTATUS(status), 0);
            CHECK_EQ(marks, 2);
            return n;
        }
        if (!WIFSTOPPED(status) || WSTOPSIG(status) != (SIGTRAP | 0x80))
            continue;
        if (entering) {
            MUST(ptrace(PTRACE_GETREGS, pid, NULL, &regs));
            if (regs.orig_rax == MARK)
                marks++;
            else
                n += marks == 1;
        }
        entering = !entering;
    }
}

static int entries(int argc, char **argv)
{
    int most = argc > 1 ? atoi(argv[1]) : TIMES, bad = 0;

    for (size_t way = 0; way < COUNT_OF(ways); way++) {
        char text[8];
        pid_t pid = MUST(fork());
        int n;

        snprintf(text, sizeof(text), "%zu", way);
        if (!pid) {
            execl(test_self, test_self, "--helper", "traced", text, (char *)NULL);
            _exit(126);
        }
        n = count(pid);
        printf("way %zu: %d waits, %d entries\n", way, TIMES, n);
        bad += n > most || (most >= TIMES && n < TIMES);
    }
    return bad != 0;
}

__attribute__((constructor)) static void setup(void)
{
    test_helper = traced;
    test_program = entries;
}

const struct test_case test_cases[] = {CASES_END};
