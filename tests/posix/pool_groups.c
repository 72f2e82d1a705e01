/*
 * Connections that come and go by the thousand, some with bytes unread: a process has as much mapped,
 * open and resident afterwards as before.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "loop.h"
#include "stall.h"

#define ALIVE 64

static int listener;

struct amounts {
    int maps, fds;
    long kib;
};

static struct amounts measure(void)
{
    return (struct amounts){maps_count(), fds_count(), resident_kib()};
}

/* What the first thousand needed is enough for the next ones. */
static void check_same(struct amounts was)
{
    struct amounts now = measure();

    CHECK_EQ(now.fds, was.fds);
    if (TEST_ASAN || TEST_TSAN) /* their own mappings come and go, too */
        return;
    if (now.maps > was.maps + 4)
        FAIL("%d mappings, and %d before", now.maps, was.maps);
    if (now.kib > was.kib + 512)
        FAIL("%ld KiB, and %ld before", now.kib, was.kib);
}

/* Read byte by byte, and closed in one of four ways. */
static void one_life(struct pair *p, int i)
{
    put(p, 40 + (size_t)(i % 7) * 500);
    for (int k = 0; k < 40; k++)
        take(p, 1);
    if (i % 4 == 0)
        take_in_parts(p, (size_t)(p->sent - p->got));
    if (i % 4 == 1) {
        peer_fin(p);
        take_in_parts(p, (size_t)(p->sent - p->got));
        CHECK_EQ(recv(p->us, &(char){0}, 1, 0), 0);
    }
    if (i % 4 == 2)
        peer_reset(p);
}

static void come_and_go(int n)
{
    for (int i = 0; i < n; i++) {
        struct pair p = pair_from(listener);

        one_life(&p, i);
        pair_drop(&p);
    }
}

static void test_groups_one_after_the_other(void)
{
    struct amounts was;

    listener = MUST(listener_open(AF_INET));
    come_and_go(500);
    was = measure();
    come_and_go(3000);
    check_same(was);
}

/* Many at a time, members of a loop; each is replaced in its turn. */
static void turn_over(int ep, struct pair *p, int n)
{
    for (int i = 0; i < n; i++) {
        struct pair *old = &p[i % ALIVE];

        if (old->us >= 0) {
            take(old, 3);
            if (i % 3)
                CHECK_EQ(read_all(old, 100), 297);
            pair_drop(old);
        }
        *old = pair_from(listener);
        set_nonblock(old->us, true);
        ep_ctl(ep, EPOLL_CTL_ADD, old->us, EPOLLIN, (uint64_t)(i % ALIVE));
        put(old, 350);
        for (int k = 0; k < 50; k++)
            take(old, 1);
        if (i % 16 == 0) {
            struct epoll_event ev[ALIVE];
            int alive = 0;

            for (int k = 0; k < ALIVE; k++)
                alive += p[k].us >= 0;
            CHECK_EQ(epoll_wait(ep, ev, ALIVE, 5000), alive);
        }
    }
}

static void test_groups_many_alive(void)
{
    struct pair *p = calloc(ALIVE, sizeof(*p));
    int ep = MUST(epoll_create1(EPOLL_CLOEXEC));
    struct amounts was;

    CHECK(p);
    listener = MUST(listener_open(AF_INET));
    for (int i = 0; i < ALIVE; i++)
        p[i].us = p[i].peer = -1;
    turn_over(ep, p, 10 * ALIVE);
    for (int i = 0; i < ALIVE; i++)
        CHECK_EQ(p[i].sent - p[i].got, 300);
    was = measure();
    for (int round = 0; round < 5; round++)
        turn_over(ep, p, 8 * ALIVE);
    check_same(was);
    for (int i = 0; i < ALIVE; i++)
        pair_drop(&p[i]);
    MUST(close(ep));
    free(p);
}

static void *one_thread(void *arg)
{
    struct pair p[4];

    for (int i = 0; i < 4; i++)
        p[i] = pair_from(listener);
    for (int i = 0; i < 4; i++)
        one_life(&p[i], i);
    for (int i = 0; i < 4; i++)
        pair_drop(&p[i]);
    return arg;
}

/* Threads that live as long as their few connections do. */
static void test_groups_of_short_threads(void)
{
    struct amounts was = {.maps = 0};

    listener = MUST(listener_open(AF_INET));
    for (int i = 0; i < 300; i++) {
        pthread_t t;

        if (i == 60)
            was = measure();
        MUST0(pthread_create(&t, NULL, one_thread, NULL));
        MUST0(pthread_join(t, NULL));
    }
    check_same(was);
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_groups_one_after_the_other),
    CASE_ONCE(test_groups_many_alive),
    CASE_ONCE(test_groups_of_short_threads),
    CASES_END,
};
