/*
 * What other threads do to an instance while its loop sleeps: members added, changed and removed;
 * and members and instances that are closed, or go by more than one number.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "asleep.h"
#include "loop.h"

/* epoll_ctl, and then bytes, by another thread as soon as this one sleeps. */
struct change {
    struct later l;
    int ep, op, fd;
    uint32_t events;
    uint64_t data;
    struct pair *then;
    size_t n;
};

static void act_change(void *arg)
{
    struct change *c = arg;

    ep_ctl(c->ep, c->op, c->fd, c->events, c->data);
    if (c->then)
        put_now(c->then, c->n);
}

static void change(struct change *c, struct change how)
{
    *c = how;
    later(&c->l, act_change, c);
}

static const uint32_t triggers[] = {0, EPOLLET};

#define BUSY 99

/* A member that has always something to say, and is heard. */
static void check_busy(int ep, struct pair *busy)
{
    put(busy, 5);
    check_event(ep, BUSY, EPOLLIN);
    CHECK_EQ(read_all(busy, 7), 5);
}

/* A member with 20 bytes unread, of which the loop was told, goes on; so does the busy one. */
static void check_goes_on(int ep, struct pair *p, struct pair *busy, struct epoll_event ev)
{
    CHECK_EQ(read_all(p, 6), 20);
    check_quiet(ep, ev.events & EPOLLET);
    check_busy(ep, busy);
    put(p, 5);
    check_event(ep, ev.data.u64, EPOLLIN);
    CHECK_EQ(read_all(p, 6), 5);
    pair_close(p);
    pair_close(busy);
    close(ep);
}

/* A member that is not asked for input, with n bytes unread; they were seen, or came along while
 * the loop read from another one. */
static struct pair paused(int ep, struct pair *busy, bool seen, size_t n)
{
    struct pair p = ep_pair(ep, EPOLLIN, 1);

    if (seen) {
        put(&p, n + 3);
        check_event(ep, 1, EPOLLIN);
        take(&p, 3);
    }
    ep_ctl(ep, EPOLL_CTL_MOD, p.us, 0, 1);
    if (!seen)
        put(&p, n);
    check_busy(ep, busy);
    return p;
}

static void test_ctl_paused_socket_goes_on_while_the_loop_sleeps(void)
{
    for (int i = 0; i < 24; i++) {
        int ep = MUST(epoll_create1(0));
        struct pair busy = ep_pair(ep, EPOLLIN, BUSY), p = paused(ep, &busy, i & 1, 20);
        struct change c;

        change(&c, (struct change){.ep = ep,
                                   .op = EPOLL_CTL_MOD,
                                   .fd = p.us,
                                   .events = EPOLLIN | triggers[i >> 1 & 1],
                                   .data = 7});
        check_event(ep, 7, EPOLLIN);
        later_join(&c.l);
        check_goes_on(ep, &p, &busy, (struct epoll_event){c.events, {.u64 = c.data}});
    }
}

static void test_ctl_added_while_the_loop_sleeps(void)
{
    for (int i = 0; i < 24; i++) {
        int ep = MUST(epoll_create1(0));
        struct pair busy = ep_pair(ep, EPOLLIN, BUSY);
        struct pair p = i & 4 ? pair_open_held(20) : i & 2 ? pair_open_warm() : pair_open();
        struct change c = {.ep = ep, .op = EPOLL_CTL_ADD, .fd = p.us, .data = 3};

        set_nonblock(p.us, true);
        c.events = EPOLLIN | triggers[i & 1];
        if (!(i & 4)) {
            c.then = &p;
            c.n = 20;
        }
        change(&c, c);
        check_event(ep, 3, EPOLLIN);
        later_join(&c.l);
        settle(p.us, p.sent);
        check_goes_on(ep, &p, &busy, (struct epoll_event){c.events, {.u64 = c.data}});
    }
}

static void test_ctl_removed_while_the_loop_sleeps(void)
{
    for (int i = 0; i < 12; i++) {
        int ep = MUST(epoll_create1(0));
        struct pair busy = ep_pair(ep, EPOLLIN, BUSY),
                    p = ep_pair(ep, EPOLLIN | triggers[i & 1], 1);
        struct change c;

        /* Bytes for the one that is no member any more do not end the sleep; the others do. */
        change(&c,
               (struct change){.ep = ep, .op = EPOLL_CTL_DEL, .fd = p.us, .then = &busy, .n = 5});
        check_event(ep, BUSY, EPOLLIN);
        later_join(&c.l);
        settle(busy.us, busy.sent);
        CHECK_EQ(read_all(&busy, 7), 5);
        put(&p, 5);
        check_quiet(ep, false);
        CHECK_EQ(read_all(&p, 7), 5);
        ep_ctl(ep, EPOLL_CTL_ADD, p.us, EPOLLIN | triggers[i & 1], 2);
        put(&p, 5);
        check_event(ep, 2, EPOLLIN);
        CHECK_EQ(read_all(&p, 7), 5);
        pair_close(&p);
        pair_close(&busy);
        close(ep);
    }
}

static void test_ctl_changed_while_the_loop_sleeps(void)
{
    static const uint32_t to[] = {EPOLLIN, EPOLLIN | EPOLLET, EPOLLIN | EPOLLONESHOT,
                                  EPOLLIN | EPOLLRDNORM};

    for (int i = 0; i < 16; i++) {
        int ep = MUST(epoll_create1(0));
        struct pair busy = ep_pair(ep, EPOLLIN, BUSY),
                    p = ep_pair(ep, EPOLLIN | triggers[i & 1], 1);
        struct change c;

        change(&c, (struct change){.ep = ep,
                                   .op = EPOLL_CTL_MOD,
                                   .fd = p.us,
                                   .events = to[i >> 1 & 3],
                                   .data = 5,
                                   .then = &p,
                                   .n = 20});
        check_event(ep, 5, to[i >> 1 & 3] & (EPOLLIN | EPOLLRDNORM));
        later_join(&c.l);
        settle(p.us, p.sent);
        if (to[i >> 1 & 3] & EPOLLONESHOT)
            check_quiet(ep, false);
        CHECK_EQ(read_all(&p, 7), 20);
        check_quiet(ep, true);
        check_busy(ep, &busy);
        pair_close(&p);
        pair_close(&busy);
        close(ep);
    }
}

struct handed {
    int ep;
    pid_t loop;
    struct pair p;
    uint32_t trigger;
};

/* An acceptor that reads a header and gives the connection to a loop that sleeps. */
static void *hand_over(void *arg)
{
    struct handed *h = arg;

    h->p = pair_open_held(20);
    set_nonblock(h->p.us, true);
    wait_asleep(h->loop);
    ep_ctl(h->ep, EPOLL_CTL_ADD, h->p.us, EPOLLIN | h->trigger, 4);
    return NULL;
}

static void test_ctl_handed_over_with_bytes_unread(void)
{
    for (int i = 0; i < 16; i++) {
        struct handed h = {
            .ep = MUST(epoll_create1(0)), .loop = my_tid(), .trigger = triggers[i & 1]};
        struct pair busy = pair_open();
        struct worker w;

        set_nonblock(busy.us, true);
        ep_ctl(h.ep, EPOLL_CTL_ADD, busy.us, EPOLLIN, BUSY);
        if (i & 2)
            check_empty(busy.us);
        worker_start(&w, hand_over, &h);
        check_event(h.ep, 4, EPOLLIN);
        worker_join(&w);
        CHECK_EQ(read_all(&h.p, 6), 20);
        check_quiet(h.ep, i & 1);
        put(&h.p, 5);
        check_event(h.ep, 4, EPOLLIN);
        CHECK_EQ(read_all(&h.p, 6), 5);
        pair_close(&h.p);
        pair_close(&busy);
        close(h.ep);
    }
}

static void *close_it(void *arg)
{
    MUST(close(*(int *)arg));
    return NULL;
}

static void test_ctl_instance_closed_between_sleeps(void)
{
    struct pair p = pair_open_warm();

    set_nonblock(p.us, true);
    for (int i = 0; i < 20; i++) {
        int ep = MUST(epoll_create1(0));
        struct worker w;

        ep_ctl(ep, EPOLL_CTL_ADD, p.us, EPOLLIN | triggers[i & 1], (uint64_t)i);
        check_empty(p.us);
        put(&p, 20);
        check_event(ep, (uint64_t)i, EPOLLIN);
        if (i & 2)
            take(&p, 9);
        if (i >= 16) {
            worker_start(&w, close_it, &ep);
            worker_join(&w);
        } else {
            close(ep);
        }
        CHECK_EQ(read_all(&p, 6), i & 2 ? 11 : 20);
        put(&p, 4);
        CHECK_EQ(poll_now(p.us, POLLIN), POLLIN);
        CHECK_EQ(read_all(&p, 6), 4);
    }
    pair_close(&p);
}

static void test_dup_members_are_told_each(void)
{
    for (int i = 0; i < 8; i++) {
        uint32_t trigger = triggers[i & 1];
        int ep = MUST(epoll_create1(0));
        struct pair p = ep_pair(ep, EPOLLIN | trigger, 1);
        struct epoll_event ev[4];
        int first = p.us, other;

        if (i & 2)
            put(&p, 5); /* unread when the second number comes */
        other = MUST(dup(first));
        ep_ctl(ep, EPOLL_CTL_ADD, other, EPOLLIN | trigger, 2);
        if (!(i & 2))
            put(&p, 5);
        CHECK_EQ(epoll_wait(ep, ev, 4, -1), 2);
        CHECK_EQ(ev[0].data.u64 + ev[1].data.u64, 3);
        CHECK_EQ(read_all(&p, 3), 5);
        check_quiet(ep, i & 1);
        /* A number goes, and the member that was known by it stays: the socket is open. */
        if (i & 4) {
            MUST(close(first));
            p.us = other;
            CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_DEL, first, ev), EBADF);
        } else {
            MUST(close(other));
        }
        put(&p, 5);
        CHECK_EQ(epoll_wait(ep, ev, 4, -1), 2);
        CHECK_EQ(ev[0].data.u64 + ev[1].data.u64, 3);
        CHECK_EQ(read_all(&p, 3), 5);
        ep_ctl(ep, EPOLL_CTL_DEL, p.us, 0, 0);
        put(&p, 5);
        check_event(ep, i & 4 ? 1 : 2, EPOLLIN);
        CHECK_EQ(read_all(&p, 3), 5);
        pair_close(&p);
        check_quiet(ep, false);
        close(ep);
    }
}

static void test_dup_member_outlives_its_number(void)
{
    for (int i = 0; i < 8; i++) {
        int ep = MUST(epoll_create1(0));
        struct pair p = ep_pair(ep, EPOLLIN | triggers[i & 1], 1);
        int number = p.us, later_on = 0;

        if (i & 2)
            put(&p, 5);
        p.us = MUST(dup(number));
        MUST(close(number));
        if (i & 4) {
            MUST(dup2(p.peer, number)); /* a stranger by that number */
            later_on = number;
        }
        if (!(i & 2))
            put(&p, 5);
        check_event(ep, 1, EPOLLIN);
        CHECK_EQ(read_all(&p, 3), 5);
        for (int k = 0; k < 3; k++) {
            put(&p, 5);
            check_event(ep, 1, EPOLLIN);
            CHECK_EQ(read_all(&p, 3), 5);
        }
        if (later_on)
            close(later_on);
        pair_close(&p);
        check_quiet(ep, false);
        close(ep);
    }
}

/* The instance goes by another number, and the one that its members were added by is closed. */
static void test_dup_instance_goes_on_by_the_other_number(void)
{
    for (int i = 0; i < 16; i++) {
        int ep = MUST(epoll_create1(0)), other;
        struct pair p = ep_pair(ep, EPOLLIN | triggers[i & 1], 1);
        struct pair q = ep_pair(ep, EPOLLIN | triggers[i & 1], 2);

        put(&p, 5);
        check_event(ep, 1, EPOLLIN);
        CHECK_EQ(read_all(&p, 3), 5);
        other = MUST(dup(ep));
        if (i & 2) {
            put(&p, 5);
            check_event(other, 1, EPOLLIN);
            CHECK_EQ(read_all(&p, 3), 5);
        }
        MUST(close(ep));
        for (int k = 0; k < 3; k++) {
            put(&p, 500); /* more than a starved pool has room for */
            check_event(other, 1, EPOLLIN);
            CHECK_EQ(read_all(&p, 30), 500);
        }
        if (i & 4)
            ep_ctl(other, EPOLL_CTL_MOD, q.us, EPOLLIN | triggers[i & 1], 3);
        if (i & 8) { /* its own blocking receive, and whatever that changes */
            struct later_put lp;

            set_nonblock(q.us, false);
            later_put(&lp, &q, 500);
            take(&q, 500);
            later_join(&lp.l);
            set_nonblock(q.us, true);
        }
        check_quiet(other, i & 1);
        put(&q, 5);
        check_event(other, i & 4 ? 3 : 2, EPOLLIN);
        CHECK_EQ(read_all(&q, 3), 5);
        ep_ctl(other, EPOLL_CTL_DEL, p.us, 0, 0);
        put(&p, 5);
        check_quiet(other, i & 1);
        peer_fin(&q);
        check_event(other, i & 4 ? 3 : 2, EPOLLIN);
        pair_close(&p);
        pair_close(&q);
        close(other);
    }
}

const struct test_case test_cases[] = {
    CASE(test_ctl_paused_socket_goes_on_while_the_loop_sleeps),
    CASE(test_ctl_added_while_the_loop_sleeps),
    CASE(test_ctl_removed_while_the_loop_sleeps),
    CASE(test_ctl_changed_while_the_loop_sleeps),
    CASE(test_ctl_handed_over_with_bytes_unread),
    CASE(test_ctl_instance_closed_between_sleeps),
    CASE(test_dup_members_are_told_each),
    CASE(test_dup_member_outlives_its_number),
    CASE(test_dup_instance_goes_on_by_the_other_number),
    CASES_END,
};
