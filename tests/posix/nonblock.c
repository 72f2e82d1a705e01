/*
 * Non-blocking receives: every way to ask for them, toggled at any time, and the truth of EAGAIN:
 * once the kernel has said that bytes are there, the next receive must give them, also in the
 * instant between their arrival and the waking of whoever waits for them.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

static void by_fcntl(int fd, bool on)
{
    set_nonblock(fd, on);
}

static void by_ioctl(int fd, bool on)
{
    int value = on;

    MUST(ioctl(fd, FIONBIO, &value));
}

static void (*const setters[])(int fd, bool on) = {by_fcntl, by_ioctl};

static void test_nonblock_toggled_is_obeyed_at_once(void)
{
    for (size_t s = 0; s < COUNT_OF(setters); s++) {
        struct pair p = pair_open();

        for (int i = 0; i < 20; i++) {
            struct later_put lp;

            setters[s](p.us, true);
            CHECK(fcntl(p.us, F_GETFL) & O_NONBLOCK);
            CHECK_ERR(read(p.us, buf, 10), EAGAIN);
            put(&p, 10);
            CHECK_EQ(read(p.us, buf, 4), 4);
            check_next(&p, buf, 4);
            setters[s](p.us, false);
            CHECK(!(fcntl(p.us, F_GETFL) & O_NONBLOCK));
            take(&p, 6);
            later_put(&lp, &p, 3);
            CHECK_EQ(read(p.us, buf, 10), 3);
            check_next(&p, buf, 3);
            later_join(&lp.l);
        }
        pair_close(&p);
    }
}

static void test_nonblock_set_through_a_dup_is_shared(void)
{
    struct pair p = pair_open_warm();
    int dupped = MUST(dup(p.us));

    set_nonblock(dupped, true);
    CHECK_ERR(read(p.us, buf, 10), EAGAIN);
    CHECK_ERR(read(dupped, buf, 10), EAGAIN);
    CHECK_EQ(close(dupped), 0);
    CHECK_ERR(read(p.us, buf, 10), EAGAIN);
    put(&p, 5);
    take(&p, 5);
    pair_close(&p);
}

static void test_nonblock_from_accept4_and_socket(void)
{
    int listener = MUST(listener_open(AF_INET));
    struct sockaddr_in addr;
    socklen_t len = sizeof(addr);
    struct pair p = {0};
    struct pollfd pfd;

    MUST(getsockname(listener, (struct sockaddr *)&addr, &len));
    p.peer = MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    CHECK_ERR(connect(p.peer, (struct sockaddr *)&addr, len), EINPROGRESS);
    p.us = MUST(accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
    CHECK(fcntl(p.us, F_GETFL) & O_NONBLOCK);
    CHECK_EQ(fcntl(p.us, F_GETFD), FD_CLOEXEC);
    CHECK_ERR(read(p.us, buf, 10), EAGAIN);
    pfd = (struct pollfd){.fd = p.peer, .events = POLLOUT};
    CHECK_EQ(poll(&pfd, 1, 5000), 1);
    CHECK_ERR(read(p.peer, buf, 10), EAGAIN);
    warm_up(&p);
    CHECK_ERR(read(p.us, buf, 10), EAGAIN);
    CHECK_EQ(send(p.us, "x", 1, 0), 1);
    settle(p.peer, 1);
    CHECK_EQ(read(p.peer, buf, 10), 1);
    CHECK_ERR(read(p.peer, buf, 10), EAGAIN);
    close(listener);
    pair_close(&p);
}

static void test_nonblock_accept_is_not_inherited(void)
{
    int listener = MUST(listener_open(AF_INET));
    struct pair p = {0};
    struct later_put lp;

    set_nonblock(listener, true);
    p.peer = connect_to(listener);
    while ((p.us = accept(listener, NULL, NULL)) < 0)
        CHECK_EQ(errno, EAGAIN);
    CHECK(!(fcntl(p.us, F_GETFL) & O_NONBLOCK));
    later_put(&lp, &p, 3);
    CHECK_EQ(read(p.us, buf, 10), 3);
    later_join(&lp.l);
    close(listener);
    pair_close(&p);
}

static void test_nonblock_held_bytes_are_given_then_eagain(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 50);

        set_nonblock(p.us, true);
        for (int i = 0; i < 10; i++) {
            CHECK_EQ(read(p.us, buf, 5), 5);
            check_next(&p, buf, 5);
        }
        for (int i = 0; i < 10; i++)
            CHECK_ERR(read(p.us, buf, 5), EAGAIN);
        pair_close(&p);
    }
}

static void race_receive(struct race *r, const char *said_by)
{
    ssize_t n = recv(r->p.us, buf, 10, MSG_DONTWAIT);

    if (n != 1)
        FAIL("round %d: %s said readable, recv gives %zd (errno %d)", r->round, said_by, n, errno);
    check_next(&r->p, buf, 1);
}

static void run_race(const char *said_by, bool (*readable)(int fd, int ep), bool edge)
{
    struct race r;
    struct epoll_event ev = {.events = EPOLLIN | (edge ? EPOLLET : 0)};
    int ep = MUST(epoll_create1(0));
    struct pair p = pair_open_warm();

    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, p.us, &ev));
    race_start(&r, p);
    while (race_next(&r)) {
        while (!readable(r.p.us, ep))
            ;
        race_receive(&r, said_by);
    }
    race_end(&r);
    close(ep);
}

static bool says_poll(int fd, int ep)
{
    (void)ep;
    return poll_now(fd, POLLIN) & POLLIN;
}

static bool says_select(int fd, int ep)
{
    struct timeval zero = {0, 0};
    fd_set set;

    (void)ep;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    return MUST(select(fd + 1, &set, NULL, NULL, &zero)) == 1;
}

static bool says_epoll(int fd, int ep)
{
    struct epoll_event ev;

    (void)fd;
    return MUST(epoll_wait(ep, &ev, 1, 0)) == 1;
}

static bool says_fionread(int fd, int ep)
{
    int n;

    (void)ep;
    MUST(ioctl(fd, FIONREAD, &n));
    return n > 0;
}

static bool says_peek(int fd, int ep)
{
    (void)ep;
    return recv(fd, buf, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

static void test_eagain_after_poll_said_readable_never_comes(void)
{
    run_race("poll", says_poll, false);
}

static void test_eagain_after_select_said_readable_never_comes(void)
{
    run_race("select", says_select, false);
}

static void test_eagain_after_epoll_said_readable_never_comes(void)
{
    run_race("epoll, level-triggered", says_epoll, false);
}

static void test_eagain_after_an_edge_never_comes(void)
{
    run_race("epoll, edge-triggered", says_epoll, true);
}

static void test_eagain_after_fionread_never_comes(void)
{
    run_race("FIONREAD", says_fionread, false);
}

static void test_eagain_after_peek_never_comes(void)
{
    run_race("MSG_PEEK", says_peek, false);
}

/* Another thread is told by poll and passes the word on. */
struct told {
    struct race r;
    struct worker w;
    int seen;
};

static void *poll_for_another(void *arg)
{
    struct told *t = arg;

    for (int asked = 0;; asked++) {
        unsigned tries = 0;
        int round;

        while ((round = __atomic_load_n(&t->r.round, __ATOMIC_ACQUIRE)) == asked)
            spin(&tries);
        if (round < 0)
            return NULL;
        while (!(poll_now(t->r.p.us, POLLIN) & POLLIN))
            ;
        __atomic_store_n(&t->seen, asked + 1, __ATOMIC_RELEASE);
    }
}

static void test_eagain_after_another_thread_was_told_never_comes(void)
{
    struct told t = {.seen = 0};

    race_start(&t.r, pair_open_warm());
    worker_start(&t.w, poll_for_another, &t);
    while (race_next(&t.r)) {
        unsigned tries = 0;

        while (__atomic_load_n(&t.seen, __ATOMIC_ACQUIRE) < t.r.round)
            spin(&tries);
        race_receive(&t.r, "poll in another thread");
    }
    __atomic_store_n(&t.r.round, -1, __ATOMIC_RELEASE);
    worker_join(&t.w);
    race_end(&t.r);
}

const struct test_case test_cases[] = {
    CASE(test_nonblock_toggled_is_obeyed_at_once),
    CASE(test_nonblock_set_through_a_dup_is_shared),
    CASE_ONCE(test_nonblock_from_accept4_and_socket),
    CASE_ONCE(test_nonblock_accept_is_not_inherited),
    CASE(test_nonblock_held_bytes_are_given_then_eagain),
    CASE_ONCE(test_eagain_after_poll_said_readable_never_comes),
    CASE_ONCE(test_eagain_after_select_said_readable_never_comes),
    CASE_ONCE(test_eagain_after_epoll_said_readable_never_comes),
    CASE_ONCE(test_eagain_after_an_edge_never_comes),
    CASE_ONCE(test_eagain_after_fionread_never_comes),
    CASE_ONCE(test_eagain_after_peek_never_comes),
    CASE_ONCE(test_eagain_after_another_thread_was_told_never_comes),
    CASES_END,
};
