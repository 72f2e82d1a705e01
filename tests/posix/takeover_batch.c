/*
 * What one epoll_wait returns: arrays smaller than what is ready, members that go away while their
 * events are handled, limits of time, signal masks.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "asleep.h"
#include "loop.h"

#define SOCKETS 30
#define PIPES 6
#define ALL (SOCKETS + PIPES)

struct crowd {
    int ep;
    struct pair p[SOCKETS];
    int pipes[PIPES][2];
};

static void crowd_open(struct crowd *c, uint32_t trigger)
{
    c->ep = MUST(epoll_create1(0));
    for (int i = 0; i < SOCKETS; i++)
        c->p[i] = ep_pair(c->ep, EPOLLIN | trigger, (uint64_t)i);
    for (int i = 0; i < PIPES; i++) {
        MUST(pipe(c->pipes[i]));
        ep_ctl(c->ep, EPOLL_CTL_ADD, c->pipes[i][0], EPOLLIN | trigger, (uint64_t)(SOCKETS + i));
    }
    check_quiet(c->ep, trigger);
}

static void crowd_close(struct crowd *c)
{
    for (int i = 0; i < SOCKETS; i++)
        pair_close(&c->p[i]);
    for (int i = 0; i < PIPES; i++) {
        close(c->pipes[i][0]);
        close(c->pipes[i][1]);
    }
    close(c->ep);
}

/* Asks for max at a time, without reading, until every one of the ready ones has been told. */
static void all_told(const struct crowd *c, uint64_t ready, int max, int limit)
{
    struct epoll_event ev[ALL];
    uint64_t seen = 0;

    for (int i = 0; seen != ready; i++) {
        int n;

        if (i == limit)
            FAIL("%d at a time: after %d times, told %llx of %llx", max, i,
                 (unsigned long long)seen, (unsigned long long)ready);
        n = MUST(epoll_wait(c->ep, ev, max, 5000));
        CHECK(n > 0 && n <= max);
        for (int k = 0; k < n; k++) {
            CHECK(ev[k].data.u64 < ALL && (ready >> ev[k].data.u64 & 1));
            CHECK_EQ(ev[k].events, EPOLLIN);
            for (int m = 0; m < k; m++)
                CHECK(ev[m].data.u64 != ev[k].data.u64);
            seen |= UINT64_C(1) << ev[k].data.u64;
        }
    }
}

static void test_batch_smaller_than_what_is_ready_starves_nobody(void)
{
    static const int sizes[] = {1, 2, 7, ALL};
    uint64_t every = (UINT64_C(1) << ALL) - 1;
    struct crowd c;

    crowd_open(&c, 0);
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        for (int k = 0; k < SOCKETS; k++)
            put(&c.p[k], 10);
        for (int k = 0; k < PIPES; k++)
            CHECK_EQ(write(c.pipes[k][1], "x", 1), 1);
        for (int round = 0; round < 3; round++)
            all_told(&c, every, sizes[i], 3 * (ALL / sizes[i]) + 3);
        /* Half of the sockets stay ready, and the rest is told all the same. */
        for (int k = 0; k < SOCKETS; k += 2)
            take(&c.p[k], 10);
        for (int round = 0; round < 3; round++)
            all_told(&c, every & ~UINT64_C(0x15555555), sizes[i], 3 * (ALL / sizes[i]) + 3);
        for (int k = 1; k < SOCKETS; k += 2)
            take(&c.p[k], 10);
        for (int k = 0; k < PIPES; k++) {
            char x;

            CHECK_EQ(read(c.pipes[k][0], &x, 1), 1);
        }
        check_quiet(c.ep, false);
    }
    crowd_close(&c);
}

static void test_batch_smaller_than_what_is_ready_loses_no_edge(void)
{
    static const int sizes[] = {1, 2, 7, ALL};
    uint64_t every = (UINT64_C(1) << ALL) - 1;
    struct crowd c;

    crowd_open(&c, EPOLLET);
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        for (int round = 0; round < 3; round++) {
            for (int k = 0; k < SOCKETS; k++)
                put(&c.p[k], 10);
            for (int k = 0; k < PIPES; k++)
                CHECK_EQ(write(c.pipes[k][1], "x", 1), 1);
            all_told(&c, every, sizes[i], 3 * (ALL / sizes[i]) + 3);
            if (round == 1)
                for (int k = 0; k < SOCKETS; k++)
                    CHECK_EQ(read_all(&c.p[k], 4096), 20);
        }
        for (int k = 0; k < SOCKETS; k++)
            CHECK_EQ(read_all(&c.p[k], 3), 10);
        for (int k = 0; k < PIPES; k++) {
            char x[4];

            CHECK_EQ(read(c.pipes[k][0], x, 4), 3);
        }
        check_quiet(c.ep, true);
    }
    crowd_close(&c);
}

static void test_batch_of_one_with_foreign_ones_ready_does_not_sleep(void)
{
    uint64_t pipes = ((UINT64_C(1) << PIPES) - 1) << SOCKETS;
    struct crowd c;

    crowd_open(&c, 0);
    for (int k = 0; k < PIPES; k++)
        CHECK_EQ(write(c.pipes[k][1], "x", 1), 1);
    for (int round = 0; round < 5; round++) {
        all_told(&c, pipes, 1, 3 * PIPES);
        put(&c.p[round], 10);
        all_told(&c, pipes | UINT64_C(1) << round, 1, 3 * PIPES + 3);
        take(&c.p[round], 10);
    }
    crowd_close(&c);
}

/* Two are ready; while the first one's event is handled, the other goes away. */
static void closed_in_the_batch(bool at_once, bool reuse, bool same_data, uint32_t trigger)
{
    int ep = MUST(epoll_create1(0));
    struct pair p = ep_pair(ep, EPOLLIN | trigger, 1), q = ep_pair(ep, EPOLLIN | trigger, 2);
    struct pair r = pair_open();
    struct epoll_event ev[4];
    struct pair *first = &p, *other = &q;
    int number;

    put(&p, 20);
    put(&q, 20);
    if (at_once) {
        CHECK_EQ(epoll_wait(ep, ev, 4, -1), 2);
    } else {
        CHECK_EQ(epoll_wait(ep, ev, 1, -1), 1);
        if (ev[0].data.u64 == 2) {
            first = &q;
            other = &p;
        }
    }
    CHECK_EQ(read_all(first, 7), 20);
    number = other->us;
    MUST(close(other->us));
    other->us = -1;
    if (reuse) {
        MUST(dup2(r.us, number)); /* what accept() would have given */
        MUST(close(r.us));
        r.us = number;
        set_nonblock(r.us, true);
        ep_ctl(ep, EPOLL_CTL_ADD, r.us, EPOLLIN | trigger, same_data ? (other == &p ? 1 : 2) : 3);
    }
    check_quiet(ep, false);
    if (reuse) {
        check_empty(r.us);
        check_quiet(ep, false);
        put(&r, 5);
        check_event(ep, same_data ? (other == &p ? 1 : 2) : 3, EPOLLIN);
        CHECK_EQ(read_all(&r, 7), 5);
    }
    pair_close(&r);
    put(first, 4);
    check_event(ep, first == &p ? 1 : 2, EPOLLIN);
    pair_close(&p);
    pair_close(&q);
    check_quiet(ep, false);
    close(ep);
}

static void test_batch_socket_closed_in_it_is_not_told(void)
{
    for (int i = 0; i < 16; i++)
        closed_in_the_batch(i & 1, i & 2, i & 4, i & 8 ? EPOLLET : 0);
}

static void test_batch_number_accepted_again_at_once(void)
{
    int ep = MUST(epoll_create1(0)), listener = listener_open(AF_INET);

    ep_ctl(ep, EPOLL_CTL_ADD, listener, EPOLLIN, 0);
    for (int i = 0; i < 50; i++) {
        struct pair p = {.peer = connect_to(listener)};

        check_event(ep, 0, EPOLLIN);
        p.us = MUST(accept(listener, NULL, NULL));
        set_nonblock(p.us, true);
        ep_ctl(ep, EPOLL_CTL_ADD, p.us, EPOLLIN | (i & 1 ? EPOLLET : 0), (uint64_t)p.us);
        check_empty(p.us);
        check_quiet(ep, false);
        put(&p, 300);
        check_event(ep, (uint64_t)p.us, EPOLLIN);
        if (i & 2)
            CHECK_EQ(read_all(&p, 100), 300);
        else
            take(&p, 10);
        MUST(close(p.us));
        MUST(close(p.peer));
        check_quiet(ep, false);
    }
    close(listener);
    close(ep);
}

static int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static void test_loop_time_is_kept(void)
{
    static const int64_t times[] = {0, 200000, 1000000, 30000000};
    int ep = MUST(epoll_create1(0));
    struct pair p = ep_pair(ep, EPOLLIN, 1);
    struct timespec bad = {0, 1000000000};
    struct epoll_event ev;

    for (size_t i = 0; i < COUNT_OF(times); i++) {
        struct timespec ts = {0, times[i]};
        int64_t begin = now_ns(), took;

        CHECK_EQ(epoll_pwait2(ep, &ev, 1, &ts, NULL), 0);
        took = now_ns() - begin;
        CHECK_EQ(ts.tv_nsec, times[i]);
        if (took < times[i] || took > times[i] + slack(200) * 1000000)
            FAIL("epoll_pwait2 of %lld ns took %lld", (long long)times[i], (long long)took);
        begin = now_ns();
        CHECK_EQ(epoll_wait(ep, &ev, 1, (int)(times[i] / 1000000)), 0);
        took = now_ns() - begin;
        if (took < times[i] / 1000000 * 1000000 || took > times[i] + slack(200) * 1000000)
            FAIL("epoll_wait of %lld ns took %lld", (long long)times[i], (long long)took);
    }
    CHECK_ERR(epoll_pwait2(ep, &ev, 1, &bad, NULL), EINVAL);
    CHECK_ERR(epoll_wait(ep, &ev, 0, 0), EINVAL);
    put(&p, 3);
    CHECK_EQ(epoll_pwait2(ep, &ev, 1, &(struct timespec){100, 0}, NULL), 1);
    CHECK_ERR(epoll_pwait2(ep, &ev, 1, &bad, NULL), EINVAL);
    pair_close(&p);
    close(ep);
}

static void test_loop_mask_holds_while_it_sleeps(void)
{
    int ep = MUST(epoll_create1(0));
    struct pair p = ep_pair(ep, EPOLLIN, 1);
    sigset_t none, usr1, now;
    struct epoll_event ev;

    sigemptyset(&none);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    catch_signal(SIGUSR1, SA_RESTART);
    for (int i = 0; i < 20; i++) {
        struct timespec ts = {5, 0};
        struct later_kill lk;
        int before = atomic_load(&caught);

        /* Masked by the program, admitted by the call: pending already, or sent to the sleeper. */
        MUST0(pthread_sigmask(SIG_BLOCK, &usr1, NULL));
        if (i % 2)
            MUST0(pthread_kill(pthread_self(), SIGUSR1));
        else
            later_kill(&lk, SIGUSR1);
        if (i % 4 < 2)
            CHECK_ERR(epoll_pwait(ep, &ev, 1, -1, &none), EINTR);
        else
            CHECK_ERR(epoll_pwait2(ep, &ev, 1, &ts, &none), EINTR);
        CHECK_EQ(atomic_load(&caught), before + 1);
        if (i % 2 == 0)
            later_join(&lk.l);
        MUST0(pthread_sigmask(SIG_SETMASK, NULL, &now));
        CHECK(sigismember(&now, SIGUSR1));
        /* An event that is there wins: the signal goes on waiting. */
        put(&p, 5);
        MUST0(pthread_kill(pthread_self(), SIGUSR1));
        CHECK_EQ(epoll_pwait(ep, &ev, 1, -1, &none), 1);
        CHECK_EQ(atomic_load(&caught), before + 1);
        CHECK_EQ(read_all(&p, 3), 5);
        CHECK_EQ(epoll_pwait(ep, &ev, 1, 0, &none), 0);
        CHECK_EQ(atomic_load(&caught), before + 1);
        MUST0(pthread_sigmask(SIG_SETMASK, &none, NULL));
        CHECK_EQ(atomic_load(&caught), before + 2);
        /* Admitted by the program, masked by the call: it runs when the call is over. */
        MUST0(pthread_kill(pthread_self(), SIGUSR1));
        CHECK_EQ(atomic_load(&caught), before + 3);
        later_kill(&lk, SIGUSR1);
        CHECK_EQ(epoll_pwait(ep, &ev, 1, 30, &usr1), 0);
        later_join(&lk.l);
        CHECK_EQ(atomic_load(&caught), before + (lk.l.acted ? 4 : 3));
    }
    pair_close(&p);
    close(ep);
}

static void test_loop_signal_is_eintr_and_nothing_is_lost(void)
{
    int ep = MUST(epoll_create1(0));
    struct pair p = ep_pair(ep, EPOLLIN | EPOLLET, 1);
    struct epoll_event ev;

    catch_signal(SIGUSR1, SA_RESTART);
    for (int i = 0; i < 50; i++) {
        struct later_kill lk;

        later_kill(&lk, SIGUSR1);
        CHECK_ERR(epoll_wait(ep, &ev, 1, i % 2 ? -1 : 10000), EINTR);
        later_join(&lk.l);
        put(&p, 5);
        check_event(ep, 1, EPOLLIN);
        CHECK_EQ(read_all(&p, 3), 5);
    }
    pair_close(&p);
    close(ep);
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_batch_smaller_than_what_is_ready_starves_nobody),
    CASE_ONCE(test_batch_smaller_than_what_is_ready_loses_no_edge),
    CASE_ONCE(test_batch_of_one_with_foreign_ones_ready_does_not_sleep),
    CASE(test_batch_socket_closed_in_it_is_not_told),
    CASE_ONCE(test_batch_number_accepted_again_at_once),
    CASE(test_loop_time_is_kept),
    CASE(test_loop_mask_holds_while_it_sleeps),
    CASE(test_loop_signal_is_eintr_and_nothing_is_lost),
    CASES_END,
};
