/*
 * A handler that runs when a wait was begun and the kernel does not sleep yet: whatever it makes of
 * the sockets, the wait sees it.
 */
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <unistd.h>

#include "asleep.h"
#include "beneath.h"
#include "loop.h"
#include "tcp.h"
#include "test.h"

#define LIMIT 5000 /* ms; no wait here is to end by it */

static uint8_t buf[100];
static struct pair p, q;
static int ep, ends[2];

static void (*in_handler)(void);
static int handled;

static void on_usr1(int sig)
{
    (void)sig;
    in_handler();
    handled++;
}

static void raise_it(void)
{
    raise(SIGUSR1);
}

/* The handler comes at the last moment before the next sleep, which the kernel has to make. */
static void handle_before_sleep(void (*fn)(void))
{
    MUST(sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_usr1, .sa_flags = SA_RESTART},
                   NULL));
    in_handler = fn;
    handled = 0;
    beneath_sleep = raise_it;
}

/*
 * Connections that were read from, and an instance with a pipe in it; exclusive: its loop has to be
 * asleep in epoll_wait, for the kernel to wake no other, whatever else is a member.
 */
static void open_all(bool exclusive)
{
    p = pair_open_warm();
    q = pair_open_warm();
    ep = MUST(epoll_create1(0));
    MUST(pipe(ends));
    ep_ctl(ep, EPOLL_CTL_ADD, ends[0], EPOLLIN | (exclusive ? EPOLLEXCLUSIVE : 0), 9);
}

static void close_all(void)
{
    beneath_sleep = NULL;
    close(ep);
    close(ends[0]);
    close(ends[1]);
    pair_close(&p);
    pair_close(&q);
}

/* The one event is q's; the handler has run. */
static void check_q(void)
{
    struct epoll_event ev[4];

    CHECK_EQ(epoll_wait(ep, ev, 4, LIMIT), 1);
    CHECK_EQ(ev[0].data.u64, 2);
    CHECK_EQ(ev[0].events, EPOLLIN);
    CHECK_EQ(handled, 1);
}

static void add_q(void)
{
    ep_ctl(ep, EPOLL_CTL_ADD, q.us, EPOLLIN, 2);
}

static void ask_q(void)
{
    ep_ctl(ep, EPOLL_CTL_MOD, q.us, EPOLLIN, 2);
}

/* Of ten bytes all but three are read at once. */
static void put_and_take(void)
{
    put(&q, 10);
    take(&q, 7);
}

static void test_window_added_with_bytes_unread_is_reported(void)
{
    for (int i = 0; i < 4; i++) {
        bool held = i & 1;

        open_all(i & 2);
        put(&q, 10);
        if (held)
            take(&q, 1);
        handle_before_sleep(add_q);
        check_q();
        take(&q, held ? 9 : 10);
        check_quiet(ep, false);
        close_all();
    }
}

static void test_window_asked_for_with_bytes_unread_is_reported(void)
{
    for (int held = 0; held < 2; held++) {
        open_all(true);
        ep_ctl(ep, EPOLL_CTL_ADD, q.us, 0, 2);
        put(&q, 10);
        if (held)
            take(&q, 1);
        handle_before_sleep(ask_q);
        check_q();
        take(&q, held ? 9 : 10);
        check_quiet(ep, false);
        close_all();
    }
}

static void test_window_arrived_and_read_in_part_is_reported(void)
{
    open_all(true);
    add_q();
    ep_ctl(ep, EPOLL_CTL_ADD, p.us, EPOLLIN, 1);
    for (int i = 0; i < 5; i++) {
        handle_before_sleep(put_and_take);
        check_q();
        take(&q, 3);
        check_quiet(ep, false);
    }
    close_all();
}

static void test_window_poll_and_select_tell_what_is_left(void)
{
    open_all(false);
    for (int i = 0; i < 5; i++) {
        struct pollfd set[] = {{.fd = q.us, .events = POLLIN}, {.fd = ends[0], .events = POLLIN}};
        struct timeval limit = {.tv_sec = LIMIT / 1000};
        fd_set rd;

        handle_before_sleep(put_and_take);
        CHECK_EQ(poll(set, 2, LIMIT), 1);
        CHECK_EQ(set[0].revents, POLLIN);
        CHECK_EQ(handled, 1);
        take(&q, 3);
        FD_ZERO(&rd);
        FD_SET(q.us, &rd);
        FD_SET(ends[0], &rd);
        handle_before_sleep(put_and_take);
        CHECK_EQ(select(ends[0] + 1, &rd, NULL, NULL, &limit), 1);
        CHECK(FD_ISSET(q.us, &rd));
        CHECK_EQ(handled, 1);
        take(&q, 3);
    }
    close_all();
}

/* Where the receive does not sleep in recv itself, bytes come as soon as it sleeps. */
static void test_window_receive_goes_on_with_what_is_left(void)
{
    for (int i = 0; i < 10; i++) {
        struct later_put lp;
        ssize_t n;

        q = i & 1 ? pair_open_warm() : pair_open();
        handle_before_sleep(put_and_take);
        later_put(&lp, &q, 10);
        n = recv(q.us, buf, sizeof(buf), 0);
        later_join(&lp.l);
        beneath_sleep = NULL;
        CHECK(n > 0);
        check_next(&q, buf, (size_t)n);
        take(&q, q.sent - q.got);
        check_empty(q.us);
        pair_close(&q);
    }
}

const struct test_case test_cases[] = {
    CASE(test_window_added_with_bytes_unread_is_reported),
    CASE(test_window_asked_for_with_bytes_unread_is_reported),
    CASE(test_window_arrived_and_read_in_part_is_reported),
    CASE(test_window_poll_and_select_tell_what_is_left),
    CASE(test_window_receive_goes_on_with_what_is_left),
    CASES_END,
};
