#include "proc.h"

#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "asleep.h"
#include "payload.h"
#include "raw.h"

void check_child_status(pid_t pid, int wanted)
{
    int status;
    pid_t r;

    do
        r = waitpid(pid, &status, 0);
    while (r < 0 && errno == EINTR);
    CHECK_EQ(r, pid);
    if (status != wanted)
        FAIL("the child's status is %#x, wanted %#x", (unsigned)status, (unsigned)wanted);
}

void check_child(pid_t pid)
{
    check_child_status(pid, 0);
}

struct shared *pair_share(struct pair p)
{
    struct shared *s =
        mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    CHECK(s != MAP_FAILED);
    s->p = p;
    return s;
}

void shared_close(struct shared *s)
{
    pair_close(&s->p);
    munmap(s, sizeof(*s));
}

static void look_after_children(void)
{
    siginfo_t info = {.si_pid = 0};

    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid &&
        (info.si_code != CLD_EXITED || info.si_status))
        FAIL("meanwhile a child ended: code %d, status %d", info.si_code, info.si_status);
}

void turn_wait(struct shared *s, int n)
{
    struct timespec look = {.tv_nsec = 100 * 1000000};
    int now;

    while ((now = atomic_load(&s->turn)) != n) {
        RAW4(SYS_futex, &s->turn, FUTEX_WAIT, now, &look);
        look_after_children();
    }
}

void turn_to(struct shared *s, int n)
{
    atomic_store(&s->turn, n);
    RAW3(SYS_futex, &s->turn, FUTEX_WAKE, INT_MAX);
}

void wait_child_asleep(pid_t pid)
{
    for (unsigned tries = 1; !thread_asleep(pid); tries++) {
        if (tries % 64 == 0)
            look_after_children();
        test_yield();
    }
}

char **reader_args(const char *word, int fd, const struct pair *p, size_t count)
{
    static char helper[] = "--helper", name[16], number[16], from[24], n[24], times[] = "3";
    static char *args[9];

    snprintf(name, sizeof(name), "%s", word);
    snprintf(number, sizeof(number), "%d", fd);
    snprintf(from, sizeof(from), "%llu", (unsigned long long)p->got);
    snprintf(n, sizeof(n), "%zu", count);
    args[0] = (char *)test_self;
    args[1] = helper;
    args[2] = name;
    args[3] = number;
    args[4] = from;
    args[5] = n;
    args[6] = times;
    args[7] = NULL;
    return args;
}

static void check_looks(int fd, size_t n)
{
    struct epoll_event ev = {.events = EPOLLIN};
    struct timeval now = {0, 0};
    uint8_t buf[4096];
    fd_set set;
    int count = -1, ep = MUST(epoll_create1(EPOLL_CLOEXEC));
    ssize_t got;

    CHECK_EQ(poll_now(fd, POLLIN), POLLIN);
    FD_ZERO(&set);
    FD_SET(fd, &set);
    CHECK_EQ(select(fd + 1, &set, NULL, NULL, &now), 1);
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
    CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 1);
    close(ep);
    MUST(ioctl(fd, FIONREAD, &count));
    CHECK_EQ(count, n);
    got = recv(fd, buf, sizeof(buf), MSG_PEEK);
    CHECK_EQ(got, n);
}

/* The next image inherits what the descriptor still has. */
static void next_in_chain(int argc, char **argv, const struct pair *p, size_t count)
{
    int left = argc > 4 ? atoi(argv[4]) - 1 : 0;
    char times[16];
    char **args;

    if (left <= 0)
        return;
    args = reader_args("chain", p->us, p, count);
    snprintf(times, sizeof(times), "%d", left);
    args[6] = times;
    execv(test_self, args);
    FAIL("execv: errno %d", errno);
}

int reader_main(int argc, char **argv)
{
    struct pair p = {.us = argc > 1 ? atoi(argv[1]) : 0, .peer = -1};
    size_t count = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
    char byte;

    p.got = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    if (strcmp(argv[0], "hold") == 0)
        return 0;
    if (strcmp(argv[0], "looks") == 0)
        check_looks(p.us, count);
    if (strcmp(argv[0], "bytes") == 0)
        for (; count; count--)
            take(&p, 1);
    take(&p, count);
    if (strcmp(argv[0], "end") == 0)
        CHECK_EQ(recv(p.us, &byte, 1, 0), 0);
    if (strcmp(argv[0], "chain") == 0)
        next_in_chain(argc, argv, &p, count);
    return 0;
}
