/*
 * Edge-triggered epoll: each arrival is reported at least once, or the program hangs for ever. A
 * spurious extra edge is no fault, so none of these counts edges from above.
 */
#include <netinet/in.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

static void add(int ep, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event ev = {.events = events, .data.u64 = data};

    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
}

/* Reads until EAGAIN, as an edge-triggered program must. */
static size_t read_all(struct pair *p)
{
    size_t sum = 0;

    for (;;) {
        ssize_t n = read(p->us, buf, 7);

        if (n < 0) {
            CHECK_EQ(errno, EAGAIN);
            return sum;
        }
        CHECK(n > 0);
        check_next(p, buf, (size_t)n);
        sum += (size_t)n;
    }
}

/* The item is added before the socket's first receive, or later. */
static struct pair pair_in(int ep, bool early, uint32_t events)
{
    struct pair p = pair_open();

    if (early)
        add(ep, p.us, events, 7);
    warm_up(&p);
    set_nonblock(p.us, true);
    if (!early)
        add(ep, p.us, events, 7);
    return p;
}

static void drain_events(int ep)
{
    struct epoll_event ev;

    while (MUST(epoll_wait(ep, &ev, 1, 0)))
        ;
}

static void test_edge_each_arrival_is_reported(void)
{
    for (int early = 0; early < 2; early++) {
        int ep = MUST(epoll_create1(0));
        struct pair p = pair_in(ep, early, EPOLLIN | EPOLLET);
        struct epoll_event ev[4];

        drain_events(ep);
        for (int i = 0; i < 200; i++) {
            put(&p, 20);
            CHECK_EQ(epoll_wait(ep, ev, 4, 5000), 1);
            CHECK_EQ(ev[0].events, EPOLLIN);
            CHECK_EQ(ev[0].data.u64, 7);
            CHECK_EQ(read_all(&p), 20);
        }
        close(ep);
        pair_close(&p);
    }
}

static void test_edge_blocked_is_woken(void)
{
    for (int early = 0; early < 2; early++) {
        int ep = MUST(epoll_create1(0));
        struct pair p = pair_in(ep, early, EPOLLIN | EPOLLET | EPOLLRDHUP | EPOLLOUT);
        struct epoll_event ev[4];

        drain_events(ep);
        for (int i = 0; i < 50; i++) {
            struct later_put lp;

            later_put(&lp, &p, 20);
            CHECK_EQ(epoll_wait(ep, ev, 4, -1), 1);
            CHECK(ev[0].events & EPOLLIN);
            later_join(&lp.l);
            settle(p.us, p.sent);
            CHECK_EQ(read_all(&p), 20);
            drain_events(ep);
        }
        close(ep);
        pair_close(&p);
    }
}

static void test_edge_arrival_while_bytes_wait_is_reported(void)
{
    for (int where = 0; where < WHERES; where++) {
        int ep = MUST(epoll_create1(0));
        struct pair p = pair_open_with(where, 50);
        struct epoll_event ev;

        set_nonblock(p.us, true);
        add(ep, p.us, EPOLLIN | EPOLLET, 7);
        CHECK_EQ(epoll_wait(ep, &ev, 1, 5000), 1);
        drain_events(ep);
        /* Nothing is read, and yet more comes: a new edge each time. */
        for (int i = 0; i < 20; i++) {
            put(&p, 1);
            CHECK_EQ(epoll_wait(ep, &ev, 1, 5000), 1);
            CHECK_EQ(ev.events, EPOLLIN);
            drain_events(ep);
        }
        CHECK_EQ(read_all(&p), 70);
        close(ep);
        pair_close(&p);
    }
}

static void test_edge_arrival_after_a_part_was_read_is_reported(void)
{
    int ep = MUST(epoll_create1(0));
    struct pair p = pair_in(ep, true, EPOLLIN | EPOLLET);
    struct epoll_event ev;

    drain_events(ep);
    for (int i = 0; i < 100; i++) {
        put(&p, 20);
        CHECK_EQ(epoll_wait(ep, &ev, 1, 5000), 1);
        CHECK_EQ(read(p.us, buf, 10), 10);
        check_next(&p, buf, 10);
        drain_events(ep);
        put(&p, 20);
        CHECK_EQ(epoll_wait(ep, &ev, 1, 5000), 1);
        CHECK_EQ(read_all(&p), 30);
        drain_events(ep);
    }
    close(ep);
    pair_close(&p);
}

static void test_edge_taken_in_while_on_another_is_reported(void)
{
    for (int early = 0; early < 2; early++) {
        int ep = MUST(epoll_create1(0));
        struct pair other = pair_open_warm();
        struct pair p = pair_in(ep, early, EPOLLIN | EPOLLET);
        struct epoll_event ev;

        drain_events(ep);
        for (int i = 0; i < 50; i++) {
            put(&p, 5);
            sleep_on_other(&other);
            CHECK_EQ(epoll_wait(ep, &ev, 1, 5000), 1);
            CHECK_EQ(ev.events, EPOLLIN);
            CHECK_EQ(read_all(&p), 5);
            drain_events(ep);
        }
        close(ep);
        pair_close(&p);
        pair_close(&other);
    }
}

static void test_edge_end_is_reported_with_in(void)
{
    for (int bytes = 0; bytes <= 20; bytes += 20) {
        int ep = MUST(epoll_create1(0));
        struct pair p = pair_in(ep, true, EPOLLIN | EPOLLET | EPOLLRDHUP | EPOLLOUT);
        struct epoll_event ev;

        drain_events(ep);
        put(&p, (size_t)bytes);
        peer_fin(&p);
        CHECK_EQ(epoll_wait(ep, &ev, 1, 5000), 1);
        CHECK_EQ(ev.events, EPOLLIN | EPOLLRDHUP | EPOLLOUT);
        take(&p, (size_t)bytes);
        CHECK_EQ(read(p.us, buf, 10), 0);
        close(ep);
        pair_close(&p);
    }
}

static void test_edge_reset_is_reported(void)
{
    int ep = MUST(epoll_create1(0));
    struct pair p = pair_in(ep, true, EPOLLIN | EPOLLET | EPOLLRDHUP);
    struct epoll_event ev;

    drain_events(ep);
    put(&p, 20);
    peer_reset(&p);
    CHECK_EQ(epoll_wait(ep, &ev, 1, 5000), 1);
    CHECK_EQ(ev.events, EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP);
    take(&p, 20);
    CHECK_ERR(read(p.us, buf, 10), ECONNRESET);
    CHECK_EQ(read(p.us, buf, 10), 0);
    close(ep);
    pair_close(&p);
}

static void test_edge_mod_reports_what_waits_again(void)
{
    for (int where = 0; where < WHERES; where++) {
        int ep = MUST(epoll_create1(0));
        struct pair p = pair_open_with(where, 50);
        struct epoll_event ev;

        set_nonblock(p.us, true);
        add(ep, p.us, EPOLLIN | EPOLLET, 7);
        for (uint64_t i = 0; i < 10; i++) {
            CHECK_EQ(epoll_wait(ep, &ev, 1, 5000), 1);
            drain_events(ep);
            ev = (struct epoll_event){.events = EPOLLIN | EPOLLET, .data.u64 = i};
            MUST(epoll_ctl(ep, EPOLL_CTL_MOD, p.us, &ev));
            CHECK_EQ(epoll_wait(ep, &ev, 1, 5000), 1);
            CHECK_EQ(ev.data.u64, i);
            put(&p, 1);
        }
        CHECK_EQ(read_all(&p), 60);
        close(ep);
        pair_close(&p);
    }
}

/* The lost edge: a sender on another core, the receiver asleep or just not yet. */
static void run_race(bool early, uint32_t events)
{
    int ep = MUST(epoll_create1(0));
    struct epoll_event ev;
    struct race r;

    race_start(&r, pair_in(ep, early, events));
    while (race_next(&r)) {
        for (;;) {
            ssize_t n = read(r.p.us, buf, 10);

            if (n == 1) {
                check_next(&r.p, buf, 1);
                break;
            }
            CHECK(n == -1 && errno == EAGAIN);
            if (MUST(epoll_wait(ep, &ev, 1, 5000)) == 0)
                FAIL("round %d: no edge for a byte that was sent", r.round);
        }
    }
    race_end(&r);
    close(ep);
}

static void test_edge_races_with_arrivals_none_is_lost(void)
{
    run_race(true, EPOLLIN | EPOLLET);
}

static void test_edge_added_late_races_none_is_lost(void)
{
    run_race(false, EPOLLIN | EPOLLET | EPOLLOUT | EPOLLRDHUP);
}

const struct test_case test_cases[] = {
    CASE(test_edge_each_arrival_is_reported),
    CASE(test_edge_blocked_is_woken),
    CASE(test_edge_arrival_while_bytes_wait_is_reported),
    CASE(test_edge_arrival_after_a_part_was_read_is_reported),
    CASE(test_edge_taken_in_while_on_another_is_reported),
    CASE(test_edge_end_is_reported_with_in),
    CASE(test_edge_reset_is_reported),
    CASE(test_edge_mod_reports_what_waits_again),
    CASE_ONCE(test_edge_races_with_arrivals_none_is_lost),
    CASE_ONCE(test_edge_added_late_races_none_is_lost),
    CASES_END,
};
