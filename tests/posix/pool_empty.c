/*
 * Many connections that each have a little unread while others go on: more of them than any pool
 * has buffers. Nobody is late, and what was left is all there when it is read.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "asleep.h"
#include "loop.h"
#include "stall.h"

#define MANY 200
#define PARTS 5
#define BUSY 4

struct crowd {
    int ep;
    uint32_t trigger;
    struct pair p[MANY], b[BUSY];
    unsigned rounds;
};

/* The many are paused, as a server does that has too much to do: asked for nothing. */
static struct crowd *crowd_open(uint32_t trigger)
{
    struct crowd *c = calloc(1, sizeof(*c));

    CHECK(c);
    c->trigger = trigger;
    c->ep = MUST(epoll_create1(EPOLL_CLOEXEC));
    for (int i = 0; i < MANY; i++) {
        c->p[i] = pair_open();
        set_nonblock(c->p[i].us, true);
        ep_ctl(c->ep, EPOLL_CTL_ADD, c->p[i].us, trigger, (uint64_t)i);
        put(&c->p[i], 20);
        CHECK_EQ(read_all(&c->p[i], 5), 20);
    }
    for (int i = 0; i < BUSY; i++)
        c->b[i] = ep_pair(c->ep, EPOLLIN | trigger, MANY + (uint64_t)i);
    return c;
}

static void crowd_close(struct crowd *c)
{
    for (int i = 0; i < MANY; i++)
        pair_drop(&c->p[i]);
    for (int i = 0; i < BUSY; i++)
        pair_drop(&c->b[i]);
    MUST(close(c->ep));
    free(c);
}

/* One of the busy is sent to, told of within a few calls, and read. */
static void go_on(struct crowd *c)
{
    int who = (int)(c->rounds % BUSY);
    size_t n = 1 + c->rounds++ * 131 % 3000;
    struct pair *b = &c->b[who];
    bool told = false;

    put(b, n);
    for (int calls = 0; !told; calls++) {
        struct epoll_event ev[8];
        int k = MUST(epoll_wait(c->ep, ev, 8, 5000));

        if (calls == 30)
            FAIL("%d: not told of in %d calls", who, calls);
        while (k--) {
            if (ev[k].data.u64 == MANY + (uint64_t)who)
                told = true;
            else if (!c->trigger)
                FAIL("told of %d", (int)ev[k].data.u64);
        }
    }
    CHECK_EQ(read_all(b, 700), n);
}

static void fill(struct crowd *c, size_t part)
{
    for (int k = 0; k < PARTS; k++) {
        for (int i = 0; i < MANY; i++) {
            put(&c->p[i], part);
            if (i % 8 == 0)
                go_on(c);
        }
    }
    for (int i = 0; i < 50; i++)
        go_on(c);
}

static void check_all_told(struct crowd *c)
{
    char told[MANY] = {0};
    int seen = 0;

    for (int i = 0; i < MANY; i++)
        ep_ctl(c->ep, EPOLL_CTL_MOD, c->p[i].us, EPOLLIN | c->trigger, (uint64_t)i);
    for (int calls = 0; seen < MANY; calls++) {
        struct epoll_event ev[50];
        int n = MUST(epoll_wait(c->ep, ev, 50, 5000));

        if (n < 1 || calls > 100)
            FAIL("%d of %d told of after %d calls", seen, MANY, calls);
        while (n--)
            if (ev[n].data.u64 < MANY)
                seen += !told[ev[n].data.u64]++;
    }
    for (int i = 0; i < MANY; i++)
        ep_ctl(c->ep, EPOLL_CTL_MOD, c->p[i].us, c->trigger, (uint64_t)i);
}

static void all_have_some(uint32_t trigger)
{
    struct crowd *c = crowd_open(trigger);

    for (size_t part = 3; part <= 300; part += 297) {
        fill(c, part);
        check_all_told(c);
        for (int i = 0; i < MANY; i++) {
            take(&c->p[i], 1);
            if (i % 8 == 0)
                go_on(c);
        }
        for (int i = MANY - 1; i >= 0; i--)
            CHECK_EQ(read_all(&c->p[i], 100), part * PARTS - 1);
        for (int i = 0; i < 50; i++)
            go_on(c);
    }
    crowd_close(c);
}

static void test_empty_pool_in_a_level_triggered_loop(void)
{
    all_have_some(0);
}

static void test_empty_pool_in_an_edge_triggered_loop(void)
{
    all_have_some(EPOLLET);
}

/* A part of each is read at once, so that the rest is what was seen and left. */
static void test_empty_pool_each_partly_read(void)
{
    struct crowd *c = crowd_open(0);
    uint8_t some[600];
    int n;

    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < MANY; i++) {
            put(&c->p[i], 500);
            take(&c->p[i], (size_t)(1 + i));
        }
        for (int i = 0; i < 20; i++)
            go_on(c);
        for (int i = 0; i < MANY; i++) {
            MUST(ioctl(c->p[i].us, FIONREAD, &n));
            CHECK_EQ(n, c->p[i].sent - c->p[i].got);
            CHECK_EQ(recv(c->p[i].us, some, 100, MSG_PEEK), 100);
            check_ahead(&c->p[i], some, 0, 100);
        }
    }
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(read_all(&c->p[i], 600), (size_t)(4 * (499 - i)));
    crowd_close(c);
}

/* Half of them are closed as they are; that is told to their peers, and the others lose nothing. */
static void test_empty_pool_half_closed_unread(void)
{
    struct crowd *c = crowd_open(0);

    fill(c, 200);
    for (int i = 0; i < MANY; i += 2) {
        MUST(close(c->p[i].us));
        CHECK_PEER_SEES(c->p[i].peer, SEEN_RESET);
        c->p[i].us = -1;
    }
    for (int i = 0; i < 50; i++)
        go_on(c);
    for (int i = 1; i < MANY; i += 2)
        CHECK_EQ(read_all(&c->p[i], 333), 200 * PARTS);
    for (int i = 1; i < MANY; i += 2) {
        put(&c->p[i], 50);
        CHECK_EQ(read_all(&c->p[i], 7), 50);
    }
    crowd_close(c);
}

/* No event loop: a thread that blocks on one, and polls all. */
static void test_empty_pool_blocking_reader(void)
{
    struct pair *p = calloc(MANY, sizeof(*p)), b = pair_open_warm();
    struct pollfd *set = calloc(MANY, sizeof(*set));
    struct later_put lp;

    CHECK(p && set);
    for (int i = 0; i < MANY; i++) {
        p[i] = pair_open();
        put(&p[i], 8);
        take(&p[i], 8);
        set[i] = (struct pollfd){.fd = p[i].us, .events = POLLIN};
    }
    for (int k = 0; k < PARTS; k++) {
        for (int i = 0; i < MANY; i++)
            put(&p[i], 250);
        later_put(&lp, &b, 10);
        take(&b, 10);
        later_join(&lp.l);
        CHECK_EQ(poll(set, MANY, 5000), MANY);
    }
    for (int i = 0; i < MANY; i++) {
        take(&p[i], 250 * PARTS);
        check_empty(p[i].us);
    }
    CHECK_EQ(poll(set, MANY, 0), 0);
    for (int i = 0; i < MANY; i++)
        pair_drop(&p[i]);
    pair_drop(&b);
    free(set);
    free(p);
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_empty_pool_in_a_level_triggered_loop),
    CASE_ONCE(test_empty_pool_in_an_edge_triggered_loop),
    CASE_ONCE(test_empty_pool_each_partly_read),
    CASE_ONCE(test_empty_pool_half_closed_unread),
    CASE_ONCE(test_empty_pool_blocking_reader),
    CASES_END,
};
