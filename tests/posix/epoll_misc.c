/*
 * epoll, the rest: batches and fairness, MOD and DEL with bytes unread, one-shot and exclusive
 * items, the bits of an end.
 */
#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "loop.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

static void test_batch_of_one_goes_round_all_that_are_ready(void)
{
    enum { N = 12 };
    struct pair all[N];
    int ep = MUST(epoll_create1(0));
    int ends[2];
    int seen[N + 1] = {0};

    /* Sockets in all three states and a pipe; none may starve the others. */
    MUST(pipe(ends));
    CHECK_EQ(write(ends[1], "x", 1), 1);
    ep_ctl(ep, EPOLL_CTL_ADD, ends[0], EPOLLIN, N);
    for (uint64_t i = 0; i < N; i++) {
        all[i] = pair_open_with((enum where)(i % WHERES), 20);
        ep_ctl(ep, EPOLL_CTL_ADD, all[i].us, EPOLLIN, i);
    }
    for (int i = 0; i < 4 * (N + 1); i++) {
        struct epoll_event ev;

        CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
        CHECK_EQ(ev.events, EPOLLIN);
        CHECK(ev.data.u64 <= N);
        seen[ev.data.u64]++;
    }
    for (int i = 0; i <= N; i++)
        if (!seen[i])
            FAIL("item %d of %d was not reported in %d batches of one", i, N, 4 * (N + 1));
    close(ends[0]);
    close(ends[1]);
    for (int i = 0; i < N; i++) {
        take(&all[i], 20);
        pair_close(&all[i]);
    }
    close(ep);
}

static void test_batch_never_reports_an_item_twice(void)
{
    enum { N = 20 };
    struct pair all[N];
    struct epoll_event ev[2 * N];
    int ep = MUST(epoll_create1(0));

    for (uint64_t i = 0; i < N; i++) {
        all[i] = pair_open_with((enum where)(i % WHERES), 20);
        ep_ctl(ep, EPOLL_CTL_ADD, all[i].us, i % 2 ? EPOLLIN : EPOLLIN | EPOLLOUT, i);
    }
    for (int round = 0; round < 10; round++) {
        uint32_t seen = 0;

        CHECK_EQ(epoll_wait(ep, ev, 2 * N, -1), N);
        for (int i = 0; i < N; i++) {
            CHECK(ev[i].data.u64 < N);
            CHECK(!(seen & 1U << ev[i].data.u64));
            seen |= 1U << ev[i].data.u64;
            CHECK_EQ(ev[i].events, ev[i].data.u64 % 2 ? EPOLLIN : EPOLLIN | EPOLLOUT);
        }
        for (int i = 0; i < N; i++)
            take(&all[i], 2);
        CHECK_EQ(epoll_wait(ep, ev, 7, -1), 7);
    }
    for (int i = 0; i < N; i++)
        pair_close(&all[i]);
    close(ep);
}

static void test_mod_with_bytes_unread_takes_effect(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 30);
        int ep = MUST(epoll_create1(0));
        struct epoll_event ev;

        ep_ctl(ep, EPOLL_CTL_ADD, p.us, EPOLLIN, 1);
        CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
        ep_ctl(ep, EPOLL_CTL_MOD, p.us, 0, 2);
        CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 0);
        ep_ctl(ep, EPOLL_CTL_MOD, p.us, EPOLLIN, 3);
        CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
        CHECK_EQ(ev.data.u64, 3);
        take(&p, 10);
        ep_ctl(ep, EPOLL_CTL_MOD, p.us, EPOLLOUT, 4);
        CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
        CHECK_EQ(ev.events, EPOLLOUT);
        CHECK_EQ(ev.data.u64, 4);
        ep_ctl(ep, EPOLL_CTL_MOD, p.us, EPOLLIN | EPOLLET, 5);
        CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
        CHECK_EQ(ev.data.u64, 5);
        take(&p, 20);
        pair_close(&p);
        close(ep);
    }
}

static void test_del_and_add_with_bytes_unread(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 30);
        int ep = MUST(epoll_create1(0));
        struct epoll_event ev;

        for (uint64_t i = 0; i < 10; i++) {
            ep_ctl(ep, EPOLL_CTL_ADD, p.us, EPOLLIN, i);
            CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
            CHECK_EQ(ev.data.u64, i);
            MUST(epoll_ctl(ep, EPOLL_CTL_DEL, p.us, NULL));
            CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 0);
            take(&p, 2);
        }
        ep_ctl(ep, EPOLL_CTL_ADD, p.us, EPOLLIN, 99);
        CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
        take(&p, 10);
        CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 0);
        pair_close(&p);
        close(ep);
    }
}

static void test_oneshot_reports_once_until_armed_again(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 30);
        int ep = MUST(epoll_create1(0));
        struct epoll_event ev;

        ep_ctl(ep, EPOLL_CTL_ADD, p.us, EPOLLIN | EPOLLONESHOT, 1);
        for (uint64_t i = 2; i < 10; i++) {
            CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
            CHECK_EQ(ev.events, EPOLLIN);
            CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 0);
            take(&p, 1);
            put(&p, 1);
            CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 0);
            ep_ctl(ep, EPOLL_CTL_MOD, p.us, EPOLLIN | EPOLLONESHOT, i);
        }
        take(&p, 30);
        pair_close(&p);
        close(ep);
    }
}

/*
 * Reported once it tells nothing more, not even of an end or a reset, until it is armed again: whoever was
 * told of it has the socket to itself. It is a member all the while.
 */
static void test_oneshot_tells_of_no_end_until_armed_again(void)
{
    for (int where = 0; where < WHERES; where++) {
        for (int reset = 0; reset <= 1; reset++) {
            struct pair p = pair_open_with(where, 30);
            int ep = MUST(epoll_create1(0));
            struct epoll_event ev = {.events = EPOLLIN};

            ep_ctl(ep, EPOLL_CTL_ADD, p.us, EPOLLIN | EPOLLRDHUP | EPOLLONESHOT, 1);
            CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
            CHECK_EQ(ev.events, EPOLLIN);
            if (reset)
                peer_reset(&p);
            else
                peer_fin(&p);
            CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 0);
            CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_ADD, p.us, &ev), EEXIST);
            ep_ctl(ep, EPOLL_CTL_MOD, p.us, EPOLLIN | EPOLLRDHUP | EPOLLONESHOT, 2);
            CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
            CHECK_EQ(ev.data.u64, 2);
            CHECK_EQ(ev.events & (EPOLLIN | EPOLLRDHUP), EPOLLIN | EPOLLRDHUP);
            CHECK_EQ(ev.events & EPOLLERR, reset ? EPOLLERR : 0);
            MUST(epoll_ctl(ep, EPOLL_CTL_DEL, p.us, NULL));
            CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_DEL, p.us, NULL), ENOENT);
            CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_MOD, p.us, &ev), ENOENT);
            take(&p, 30);
            pair_close(&p);
            close(ep);
        }
    }
}

/* Once more, and taken out in between. */
static void test_oneshot_reported_is_taken_out_and_added(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 30);
        int ep = MUST(epoll_create1(0));
        struct epoll_event ev;

        for (uint64_t i = 0; i < 3; i++) {
            ep_ctl(ep, EPOLL_CTL_ADD, p.us, EPOLLIN | EPOLLONESHOT, i);
            CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
            CHECK_EQ(ev.data.u64, i);
            MUST(epoll_ctl(ep, EPOLL_CTL_DEL, p.us, NULL));
            CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_DEL, p.us, NULL), ENOENT);
            CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_MOD, p.us, &ev), ENOENT);
        }
        take(&p, 30);
        pair_close(&p);
        close(ep);
    }
}

static void test_exclusive_item_reports(void)
{
    struct pair p = pair_open_held(10);
    int ep = MUST(epoll_create1(0));
    struct epoll_event ev;

    ep_ctl(ep, EPOLL_CTL_ADD, p.us, EPOLLIN | EPOLLEXCLUSIVE, 1);
    CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
    take(&p, 10);
    CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 0);
    put(&p, 10);
    CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
    take(&p, 10);
    pair_close(&p);
    close(ep);
}

static void test_end_bits_are_as_the_kernel_has_them(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20), q = pair_open_with(where, 20);
        int ep = MUST(epoll_create1(0));
        struct epoll_event ev;

        peer_fin(&p);
        ep_ctl(ep, EPOLL_CTL_ADD, p.us, EPOLLIN | EPOLLRDHUP, 1);
        CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
        CHECK_EQ(ev.events, EPOLLIN | EPOLLRDHUP);
        ep_ctl(ep, EPOLL_CTL_MOD, p.us, EPOLLIN, 1);
        CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
        CHECK_EQ(ev.events, EPOLLIN);
        take(&p, 20);
        CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
        CHECK_EQ(recv(p.us, buf, 1, 0), 0);
        CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
        MUST(shutdown(p.us, SHUT_WR));
        CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
        CHECK_EQ(ev.events, EPOLLIN | EPOLLHUP);
        close(p.us);
        close(p.peer);

        peer_reset(&q);
        ep_ctl(ep, EPOLL_CTL_ADD, q.us, 0, 2);
        CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
        CHECK_EQ(ev.events, EPOLLERR | EPOLLHUP);
        ep_ctl(ep, EPOLL_CTL_MOD, q.us, EPOLLIN, 2);
        CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
        CHECK_EQ(ev.events, EPOLLIN | EPOLLERR | EPOLLHUP);
        take(&q, 20);
        CHECK_ERR(recv(q.us, buf, 1, 0), ECONNRESET);
        CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
        CHECK_EQ(ev.events, EPOLLIN | EPOLLHUP);
        close(ep);
        pair_close(&q);
    }
}

const struct test_case test_cases[] = {
    CASE(test_batch_of_one_goes_round_all_that_are_ready),
    CASE(test_batch_never_reports_an_item_twice),
    CASE(test_mod_with_bytes_unread_takes_effect),
    CASE(test_del_and_add_with_bytes_unread),
    CASE(test_oneshot_reports_once_until_armed_again),
    CASE(test_oneshot_tells_of_no_end_until_armed_again),
    CASE(test_oneshot_reported_is_taken_out_and_added),
    CASE(test_exclusive_item_reports),
    CASE(test_end_bits_are_as_the_kernel_has_them),
    CASES_END,
};
