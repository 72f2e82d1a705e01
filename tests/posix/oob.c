/*
 * Urgent data, where the program says in time that it wants it: SO_OOBINLINE, MSG_OOB, SIOCATMARK,
 * POLLPRI, exceptional sets, SIGURG. A MSG_OOB asked for without any such sign is left out: once
 * the stream has been read past the urgent byte, it is gone.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

static int at_mark(int fd)
{
    int at = -1;

    MUST(ioctl(fd, SIOCATMARK, &at));
    return at;
}

/* The urgent byte has arrived when the kernel says POLLPRI to whoever asks it directly. */
static void put_urgent(struct pair *p, char c)
{
    CHECK_EQ(send(p->peer, &c, 1, MSG_OOB), 1);
    while (!(poll_now(p->us, POLLPRI) & POLLPRI))
        test_yield();
}

static void test_oobinline_urgent_byte_stays_in_the_stream(void)
{
    for (int late = 0; late < 2; late++) {
        struct pair p = pair_open();
        int one = 1;

        if (late)
            warm_up(&p);
        MUST(setsockopt(p.us, SOL_SOCKET, SO_OOBINLINE, &one, sizeof(one)));
        put(&p, 10);
        CHECK_EQ(send(p.peer, "U", 1, MSG_OOB), 1);
        CHECK_EQ(send(p.peer, "v", 1, 0), 1);
        settle(p.us, p.sent + 2);
        CHECK_EQ(at_mark(p.us), 0);
        take(&p, 10);
        CHECK_EQ(at_mark(p.us), 1);
        CHECK_EQ(recv(p.us, buf, 10, 0), 2);
        CHECK_EQ(buf[0], 'U');
        CHECK_EQ(buf[1], 'v');
        CHECK_EQ(at_mark(p.us), 0);
        pair_close(&p);
    }
}

static void test_oobinline_inherited_from_the_listener(void)
{
    int listener = MUST(listener_open(AF_INET));
    struct pair p = {0};
    int one = 1;

    MUST(setsockopt(listener, SOL_SOCKET, SO_OOBINLINE, &one, sizeof(one)));
    p.peer = connect_to(listener);
    p.us = MUST(accept(listener, NULL, NULL));
    close(listener);
    warm_up(&p);
    CHECK_EQ(send(p.peer, "U", 1, MSG_OOB), 1);
    settle(p.us, p.sent + 1);
    CHECK_EQ(at_mark(p.us), 1);
    CHECK_EQ(recv(p.us, buf, 10, 0), 1);
    CHECK_EQ(buf[0], 'U');
    pair_close(&p);
}

static void test_pollpri_interest_finds_the_urgent_byte(void)
{
    for (int late = 0; late < 2; late++) {
        struct pair p = pair_open();
        struct pollfd pfd = {.fd = p.us, .events = POLLIN | POLLPRI};

        if (late)
            warm_up(&p);
        CHECK_EQ(poll(&pfd, 1, 0), 0);
        put(&p, 10);
        put_urgent(&p, 'U');
        CHECK_EQ(poll(&pfd, 1, -1), 1);
        CHECK_EQ(pfd.revents, POLLIN | POLLPRI);
        CHECK_EQ(recv(p.us, buf, 1, MSG_OOB), 1);
        CHECK_EQ(buf[0], 'U');
        CHECK_ERR(recv(p.us, buf, 1, MSG_OOB), EINVAL);
        CHECK_EQ(at_mark(p.us), 0);
        /* A receive stops at the mark, and the urgent byte is not in the stream. */
        CHECK_EQ(recv(p.us, buf, 100, 0), 10);
        check_next(&p, buf, 10);
        CHECK_EQ(at_mark(p.us), 1);
        CHECK_EQ(send(p.peer, "next", 4, 0), 4);
        CHECK_EQ(recv(p.us, buf, 100, 0), 4);
        CHECK_EQ(buf[0], 'n');
        pair_close(&p);
    }
}

static void test_select_exceptions_find_the_urgent_byte(void)
{
    struct pair p = pair_open();
    struct timeval zero = {0, 0};
    fd_set ex;

    warm_up(&p);
    FD_ZERO(&ex);
    FD_SET(p.us, &ex);
    CHECK_EQ(select(p.us + 1, NULL, NULL, &ex, &zero), 0);
    put_urgent(&p, 'U');
    FD_SET(p.us, &ex);
    CHECK_EQ(select(p.us + 1, NULL, NULL, &ex, NULL), 1);
    CHECK_EQ(recv(p.us, buf, 1, MSG_OOB), 1);
    CHECK_EQ(buf[0], 'U');
    pair_close(&p);
}

static void test_epollpri_interest_finds_the_urgent_byte(void)
{
    struct pair p = pair_open_warm();
    struct epoll_event ev = {.events = EPOLLIN | EPOLLPRI};
    int ep = MUST(epoll_create1(0));

    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, p.us, &ev));
    CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 0);
    put_urgent(&p, 'U');
    CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
    CHECK(ev.events & EPOLLPRI);
    CHECK_EQ(recv(p.us, buf, 1, MSG_OOB), 1);
    CHECK_EQ(buf[0], 'U');
    close(ep);
    pair_close(&p);
}

static void test_sigurg_with_an_owner_comes_and_the_byte_is_there(void)
{
    struct pair p = pair_open_warm();

    catch_signal(SIGURG, SA_RESTART);
    MUST(fcntl(p.us, F_SETOWN, getpid()));
    CHECK_EQ(fcntl(p.us, F_GETOWN), getpid());
    CHECK_EQ(send(p.peer, "U", 1, MSG_OOB), 1);
    CHECK_SOON(caught == 1, 5000);
    CHECK_EQ(recv(p.us, buf, 1, MSG_OOB), 1);
    CHECK_EQ(buf[0], 'U');
    put(&p, 10);
    take(&p, 10);
    pair_close(&p);
}

static void test_sigio_with_o_async_comes_with_bytes(void)
{
    struct pair p = pair_open_warm();

    catch_signal(SIGIO, SA_RESTART);
    MUST(fcntl(p.us, F_SETOWN, getpid()));
    MUST(fcntl(p.us, F_SETFL, fcntl(p.us, F_GETFL) | O_ASYNC));
    for (int i = 0; i < 10; i++) {
        caught = 0;
        put(&p, 10);
        CHECK_SOON(caught > 0, 5000);
        take(&p, 10);
    }
    pair_close(&p);
}

const struct test_case test_cases[] = {
    CASE(test_oobinline_urgent_byte_stays_in_the_stream),
    CASE_ONCE(test_oobinline_inherited_from_the_listener),
    CASE(test_pollpri_interest_finds_the_urgent_byte),
    CASE(test_select_exceptions_find_the_urgent_byte),
    CASE(test_epollpri_interest_finds_the_urgent_byte),
    CASE(test_sigurg_with_an_owner_comes_and_the_byte_is_there),
    CASE(test_sigio_with_o_async_comes_with_bytes),
    CASES_END,
};
