/*
 * Sets that are watched in unusual ways: a select count above all numbers, memory that is changed
 * meanwhile, a member whose number has gone on to another socket, a watcher that is cancelled.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

/*
 * The kernel reads of a set only what its table of descriptors can hold: a count far above that,
 * such as getdtablesize(), goes with sets of the usual size, and with what lies behind them.
 */
static void test_select_count_above_all_numbers_looks_at_the_set_alone(void)
{
    static const int counts[] = {1024, 20000, 70000, 1048576, 0x7fffffff};
    struct {
        fd_set set;
        uint8_t behind[8192];
    } *mine = calloc(1, sizeof(*mine));

    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        for (int where = 0; where < WHERES; where++) {
            struct pair p = pair_open_with((enum where)where, 30);
            struct timeval tv = {2, 0};

            FD_ZERO(&mine->set);
            FD_SET(p.us, &mine->set);
            memset(mine->behind, 0xff, sizeof(mine->behind));
            CHECK_EQ(select(counts[i], &mine->set, NULL, NULL, &tv), 1);
            CHECK(FD_ISSET(p.us, &mine->set));
            for (size_t k = 0; k < sizeof(mine->behind); k++)
                CHECK_EQ(mine->behind[k], 0xff);
            take(&p, 30);
            tv = (struct timeval){0, 1000};
            FD_SET(p.us, &mine->set);
            CHECK_EQ(select(counts[i], &mine->set, NULL, NULL, &tv), 0);
            pair_close(&p);
        }
    }
    free(mine);
}

/*
 * What a wait is about the kernel copies when it begins: a change of the caller's memory meanwhile
 * changes nothing, and of an array the answers alone are written.
 */
struct changed {
    struct later l;
    struct pair *p;
    struct pollfd *set;
    fd_set *rd, *wr;
    int other;
};

/* ThreadSanitizer sees no order between this and the sleeper's look at it. */
__attribute__((no_sanitize("thread"))) static void act_change_the_array(void *arg)
{
    struct changed *c = arg;

    c->set[0] = (struct pollfd){.fd = -1, .revents = 0x1234};
    c->set[1] = (struct pollfd){.fd = c->p->us, .events = POLLIN | POLLOUT, .revents = 0x1234};
    c->set[2] = (struct pollfd){.fd = c->p->us, .events = POLLIN, .revents = 0x1234};
    put_now(c->p, 10);
}

/* A set that the ring can wait for, or with a pipe in it: the answer comes from elsewhere. */
static void test_poll_array_changed_during_the_sleep(void)
{
    for (int mixed = 0; mixed < 2; mixed++) {
        struct pair p = pair_open_warm(), q = pair_open_warm();
        int ends[2], second;
        struct pollfd set[3];
        struct changed c = {.p = &p, .set = set};

        MUST(pipe(ends));
        second = mixed ? ends[0] : q.us;
        set[0] = (struct pollfd){.fd = p.us, .events = POLLIN};
        set[1] = (struct pollfd){.fd = second, .events = POLLIN};
        set[2] = (struct pollfd){.fd = -1};
        later(&c.l, act_change_the_array, &c);
        CHECK_EQ(poll(set, 3, -1), 1);
        later_join(&c.l);
        CHECK_EQ(set[0].fd, -1);
        CHECK_EQ(set[0].events, 0);
        CHECK_EQ(set[0].revents, POLLIN);
        CHECK_EQ(set[1].fd, p.us);
        CHECK_EQ(set[1].events, POLLIN | POLLOUT);
        CHECK_EQ(set[1].revents, 0);
        CHECK_EQ(set[2].fd, p.us);
        CHECK_EQ(set[2].revents, 0);
        take(&p, 10);
        close(ends[0]);
        close(ends[1]);
        pair_close(&p);
        pair_close(&q);
    }
}

__attribute__((no_sanitize("thread"))) static void act_change_the_sets(void *arg)
{
    struct changed *c = arg;

    memset(c->rd, 0, sizeof(*c->rd));
    c->rd->fds_bits[c->other / NFDBITS] |= 1L << c->other % NFDBITS;
    c->wr->fds_bits[c->other / NFDBITS] |= 1L << c->other % NFDBITS;
    put_now(c->p, 10);
}

static void test_select_sets_changed_during_the_sleep(void)
{
    for (int mixed = 0; mixed < 2; mixed++) {
        struct pair p = pair_open_warm(), q = pair_open_warm();
        int ends[2], second;
        fd_set rd, wr;
        struct changed c = {.p = &p, .rd = &rd, .wr = &wr, .other = p.peer};

        MUST(pipe(ends));
        second = mixed ? ends[0] : q.us;
        FD_ZERO(&rd);
        FD_ZERO(&wr);
        FD_SET(p.us, &rd);
        FD_SET(second, &rd);
        later(&c.l, act_change_the_sets, &c);
        CHECK_EQ(select(ends[1] + 1, &rd, &wr, NULL, NULL), 1);
        later_join(&c.l);
        for (int fd = 0; fd <= ends[1]; fd++) {
            CHECK_EQ(FD_ISSET(fd, &rd), fd == p.us);
            CHECK(!FD_ISSET(fd, &wr));
        }
        take(&p, 10);
        close(ends[0]);
        close(ends[1]);
        pair_close(&p);
        pair_close(&q);
    }
}

/* A member lives on by a dup while its number stands for another member. */
static void test_number_reused_in_a_set_while_a_dup_keeps_the_member(void)
{
    for (int how = 0; how < 2; how++) {
        struct pair p = pair_open_warm(), q = pair_open_warm();
        struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 1}, got[4];
        int ep = MUST(epoll_create1(0)), number = p.us;

        MUST(epoll_ctl(ep, EPOLL_CTL_ADD, number, &ev));
        p.us = MUST(dup(number));
        CHECK_EQ(dup2(q.us, number), number);
        close(q.us);
        q.us = number;
        ev.data.u64 = 2;
        MUST(epoll_ctl(ep, EPOLL_CTL_ADD, number, &ev));
        /* Both are read in part. */
        put(&p, 10);
        if (how)
            put(&q, 10);
        take(&p, 1);
        if (how)
            take(&q, 1);
        CHECK_EQ(epoll_wait(ep, got, 4, 1000), how ? 2 : 1);
        if (!how)
            CHECK_EQ(got[0].data.u64, 1);
        MUST(epoll_ctl(ep, EPOLL_CTL_DEL, number, NULL));
        CHECK_EQ(epoll_wait(ep, got, 4, 1000), 1);
        CHECK_EQ(got[0].data.u64, 1);
        take(&p, 9);
        CHECK_EQ(epoll_wait(ep, got, 4, 0), 0);
        close(ep);
        if (how)
            take(&q, 9);
        pair_close(&p);
        pair_close(&q);
    }
}

/* A thread that is cancelled on its way into epoll_wait leaves the instance usable. */
struct watcher {
    struct pair p;
    int ep;
    int stage;
};

static struct watcher watcher_open(void)
{
    return (struct watcher){.p = pair_open(), .ep = MUST(epoll_create1(0))};
}

/* In the thread: bytes are unread, and it is about to watch. */
static void watcher_begin(struct watcher *w)
{
    struct epoll_event ev = {.events = EPOLLIN};

    warm_up(&w->p);
    put(&w->p, 30);
    take(&w->p, 1);
    MUST(epoll_ctl(w->ep, EPOLL_CTL_ADD, w->p.us, &ev));
    __atomic_store_n(&w->stage, 1, __ATOMIC_RELEASE);
}

/* After the thread was cancelled. */
static void watcher_end(struct watcher *w, struct worker *t)
{
    struct epoll_event ev;

    CHECK(worker_join(t) == PTHREAD_CANCELED);
    CHECK_EQ(epoll_wait(w->ep, &ev, 1, 1000), 1);
    MUST(epoll_ctl(w->ep, EPOLL_CTL_DEL, w->p.us, NULL));
    close(w->ep);
    take(&w->p, 29);
    pair_close(&w->p);
}

static void *watch_when_told(void *arg)
{
    struct watcher *w = arg;
    struct epoll_event ev;

    watcher_begin(w);
    while (__atomic_load_n(&w->stage, __ATOMIC_ACQUIRE) != 2)
        ;
    epoll_wait(w->ep, &ev, 1, -1);
    return NULL;
}

static void test_cancel_pending_in_epoll_wait_with_bytes_unread(void)
{
    if (TEST_ASAN)
        test_skip("AddressSanitizer takes a cancelled thread's stack for a damaged one");
    for (int i = 0; i < 5; i++) {
        struct watcher w = watcher_open();
        struct worker t;

        worker_start(&t, watch_when_told, &w);
        CHECK_SOON(__atomic_load_n(&w.stage, __ATOMIC_ACQUIRE) == 1, 5000);
        MUST0(pthread_cancel(t.thread));
        __atomic_store_n(&w.stage, 2, __ATOMIC_RELEASE);
        watcher_end(&w, &t);
    }
}

/* Watched in a loop, cancelled anywhere in it. */
static void *watch_in_a_loop(void *arg)
{
    struct watcher *w = arg;
    struct epoll_event ev;

    watcher_begin(w);
    for (;;) {
        uint8_t some[100];

        epoll_wait(w->ep, &ev, 1, -1);
        recv(w->p.us, some, 100, MSG_PEEK);
    }
    return NULL;
}

static void test_cancel_anywhere_in_a_watching_loop(void)
{
    if (TEST_ASAN)
        test_skip("AddressSanitizer takes a cancelled thread's stack for a damaged one");
    for (int i = 0; i < 100; i++) {
        struct watcher w = watcher_open();
        struct worker t;

        worker_start(&t, watch_in_a_loop, &w);
        CHECK_SOON(__atomic_load_n(&w.stage, __ATOMIC_ACQUIRE) == 1, 5000);
        for (volatile int k = 0; k < rand() % 20000; k++)
            ;
        MUST0(pthread_cancel(t.thread));
        watcher_end(&w, &t);
    }
}

/* The record of an instance that was closed went to the next one: its readiness was reported for the
 * dead member, and two instances could be members of each other. */
static void test_nested_instance_closed_is_told_of_no_more(void)
{
    int outer = MUST(epoll_create1(0)), inner = MUST(epoll_create1(0)), next;
    struct pair p = pair_open_held(10), q = pair_open_held(10);
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 1}, got[4];

    MUST(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &ev));
    MUST(close(inner));
    next = MUST(epoll_create1(0));
    ev.data.u64 = 2;
    MUST(epoll_ctl(next, EPOLL_CTL_ADD, p.us, &ev));
    CHECK_EQ(epoll_wait(outer, got, 4, 0), 0);
    ev.data.u64 = 3;
    MUST(epoll_ctl(outer, EPOLL_CTL_ADD, q.us, &ev));
    CHECK_EQ(epoll_wait(outer, got, 4, 0), 1);
    CHECK_EQ(got[0].data.u64, 3);
    ev.data.u64 = 4;
    MUST(epoll_ctl(next, EPOLL_CTL_ADD, outer, &ev));
    CHECK_EQ(epoll_wait(next, got, 4, 0), 2);
    close(outer);
    close(next);
    pair_close(&p);
    pair_close(&q);
}

/* The number by which a member was added stands for something else, and a dup keeps the member. */
static void test_member_by_dup_shows_nothing_of_its_old_number(void)
{
    int ep = MUST(epoll_create1(0)), through[2];
    struct pair p = pair_open_held(10);
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 7}, got[2];
    int kept = MUST(dup(p.us));

    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, p.us, &ev));
    MUST(pipe(through));
    MUST(dup2(through[0], p.us));
    MUST(close(through[0]));
    MUST(close(through[1])); /* its readers see POLLHUP */
    CHECK_EQ(epoll_wait(ep, got, 2, 0), 1);
    CHECK_EQ(got[0].events, EPOLLIN);
    MUST(close(p.us));
    p.us = kept;
    close(ep);
    pair_close(&p);
}

const struct test_case test_cases[] = {
    CASE(test_select_count_above_all_numbers_looks_at_the_set_alone),
    CASE(test_poll_array_changed_during_the_sleep),
    CASE(test_select_sets_changed_during_the_sleep),
    CASE(test_number_reused_in_a_set_while_a_dup_keeps_the_member),
    CASE(test_cancel_pending_in_epoll_wait_with_bytes_unread),
    CASE(test_cancel_anywhere_in_a_watching_loop),
    CASE(test_nested_instance_closed_is_told_of_no_more),
    CASE(test_member_by_dup_shows_nothing_of_its_old_number),
    CASES_END,
};
