/*
 * A loop's sleep in epoll_wait, and what it is told when it wakes up: members of all kinds, both
 * trigger modes, every way of waiting.
 */
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "asleep.h"
#include "loop.h"

#define DATA UINT64_C(0x8123456789abcdef) /* all 64 bits come back */

static int by_wait(int ep, struct epoll_event *ev, int max, int ms)
{
    return epoll_wait(ep, ev, max, ms);
}

static int by_pwait(int ep, struct epoll_event *ev, int max, int ms)
{
    return epoll_pwait(ep, ev, max, ms, NULL);
}

static int by_pwait2(int ep, struct epoll_event *ev, int max, int ms)
{
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000L};

    return epoll_pwait2(ep, ev, max, ms < 0 ? NULL : &ts, NULL);
}

static int (*const waits[])(int ep, struct epoll_event *ev, int max, int ms) = {by_wait, by_pwait,
                                                                                by_pwait2};
static const uint32_t triggers[] = {0, EPOLLET, EPOLLRDHUP, EPOLLET | EPOLLRDHUP};

#define FOR_EACH_TRIGGER(t) for (size_t t = 0; t < COUNT_OF(triggers); t++)

static void test_loop_asleep_is_woken_by_bytes(void)
{
    FOR_EACH_TRIGGER(t)
    {
        int ep = MUST(epoll_create1(0));
        struct pair p = ep_pair(ep, EPOLLIN | triggers[t], DATA + t);

        for (int i = 0; i < 24; i++) {
            struct epoll_event ev[4];
            struct later_put lp;

            later_put(&lp, &p, 30);
            CHECK_EQ(waits[i % 3](ep, ev, 4, i % 6 < 3 ? -1 : 10000), 1);
            CHECK_EQ(ev[0].events, EPOLLIN);
            CHECK_EQ(ev[0].data.u64, DATA + t);
            later_join(&lp.l);
            settle(p.us, p.sent);
            CHECK_EQ(read_all(&p, i % 2 ? 7 : 4096), 30);
            check_quiet(ep, triggers[t] & EPOLLET);
        }
        pair_close(&p);
        close(ep);
    }
}

static void test_loop_output_beside_input(void)
{
    for (int edge = 0; edge < 2; edge++) {
        int ep = MUST(epoll_create1(0));
        struct pair p = ep_pair(ep, EPOLLIN | (edge ? EPOLLET : 0), 1);

        for (int i = 0; i < 10; i++) {
            ep_ctl(ep, EPOLL_CTL_MOD, p.us, EPOLLIN | EPOLLOUT | (edge ? EPOLLET : 0), 2);
            check_event(ep, 2, EPOLLOUT);
            put(&p, 9);
            check_event(ep, 2, EPOLLIN | EPOLLOUT);
            CHECK_EQ(read_all(&p, 4), 9);
            ep_ctl(ep, EPOLL_CTL_MOD, p.us, EPOLLIN | (edge ? EPOLLET : 0), 3);
            check_quiet(ep, edge);
            put(&p, 9);
            check_event(ep, 3, EPOLLIN);
            CHECK_EQ(read_all(&p, 4), 9);
        }
        pair_close(&p);
        close(ep);
    }
}

/* Bytes wait, in the kernel or beyond it, when the interest is changed. */
static void test_loop_mod_while_an_event_is_pending(void)
{
    for (int seen = 0; seen < 2; seen++) {
        int ep = MUST(epoll_create1(0));
        struct pair p = ep_pair(ep, EPOLLIN, 1);

        for (int i = 0; i < 5; i++) {
            put(&p, 20);
            if (seen) {
                check_event(ep, 1, EPOLLIN);
                take(&p, 3);
            }
            ep_ctl(ep, EPOLL_CTL_MOD, p.us, 0, 2);
            check_quiet(ep, false);
            ep_ctl(ep, EPOLL_CTL_MOD, p.us, EPOLLRDHUP, 3);
            check_quiet(ep, false);
            ep_ctl(ep, EPOLL_CTL_MOD, p.us, EPOLLOUT, 4);
            check_event(ep, 4, EPOLLOUT);
            ep_ctl(ep, EPOLL_CTL_MOD, p.us, EPOLLIN, DATA);
            check_event(ep, DATA, EPOLLIN);
            ep_ctl(ep, EPOLL_CTL_MOD, p.us, EPOLLIN | EPOLLET, 5);
            check_event(ep, 5, EPOLLIN);
            ep_ctl(ep, EPOLL_CTL_MOD, p.us, EPOLLIN | EPOLLRDNORM, 6);
            check_event(ep, 6, EPOLLIN | EPOLLRDNORM);
            ep_ctl(ep, EPOLL_CTL_MOD, p.us, EPOLLRDNORM, 6);
            check_event(ep, 6, EPOLLRDNORM);
            CHECK_EQ(read_all(&p, 6), seen ? 17 : 20);
            ep_ctl(ep, EPOLL_CTL_MOD, p.us, EPOLLIN, 1);
            check_quiet(ep, false);
        }
        pair_close(&p);
        close(ep);
    }
}

static void test_loop_del_while_an_event_is_pending(void)
{
    for (int seen = 0; seen < 2; seen++) {
        int ep = MUST(epoll_create1(0));
        struct pair p = ep_pair(ep, EPOLLIN, 0);

        for (uint64_t i = 1; i < 6; i++) {
            put(&p, 20);
            if (seen) {
                check_event(ep, i - 1, EPOLLIN);
                take(&p, 3);
            }
            MUST(epoll_ctl(ep, EPOLL_CTL_DEL, p.us, NULL));
            CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_DEL, p.us, NULL), ENOENT);
            check_quiet(ep, false);
            ep_ctl(ep, EPOLL_CTL_ADD, p.us, EPOLLIN | (i % 2 ? EPOLLET : 0), i);
            check_event(ep, i, EPOLLIN);
            CHECK_EQ(read_all(&p, 6), seen ? 17 : 20);
            check_quiet(ep, i % 2);
        }
        pair_close(&p);
        close(ep);
    }
}

struct wake {
    struct later l;
    struct pair *p;
    size_t bytes;
    bool reset;
};

static void end_it(void *arg)
{
    struct wake *w = arg;

    if (w->bytes)
        put_now(w->p, w->bytes);
    if (w->reset) {
        reset_close(w->p->peer);
        w->p->peer = -1;
    } else {
        MUST(shutdown(w->p->peer, SHUT_WR));
    }
}

/* The end of the stream, with and without bytes before it, on a loop that sleeps or is busy. */
static void test_loop_end_bits_come_with_input(void)
{
    FOR_EACH_TRIGGER(t)
    {
        for (int i = 0; i < 8; i++) {
            uint32_t hup = triggers[t] & EPOLLRDHUP, end = EPOLLIN | hup, seen = 0;
            int ep = MUST(epoll_create1(0));
            struct pair p = ep_pair(ep, EPOLLIN | triggers[t], 1);
            struct wake w = {.p = &p, .bytes = i & 1 ? 20 : 0, .reset = i & 2};
            uint8_t buf[64];

            if (w.reset)
                end |= EPOLLERR | EPOLLHUP;
            if (i & 4) {
                later(&w.l, end_it, &w);
            } else {
                end_it(&w);
                wait_tcp_state(p.us, w.reset ? TCP_CLOSE : TCP_CLOSE_WAIT);
            }
            /* Asleep, it may be woken for the bytes alone, and told of the end bit by bit. */
            while (seen != end) {
                struct epoll_event ev;

                CHECK_EQ(epoll_wait(ep, &ev, 1, 5000), 1);
                if (i & 4 ? !(ev.events & EPOLLIN) || (ev.events & ~end) : ev.events != end)
                    FAIL("bits %x, wanted %x", ev.events, end);
                seen |= ev.events;
            }
            if (i & 4)
                later_join(&w.l);
            wait_tcp_state(p.us, w.reset ? TCP_CLOSE : TCP_CLOSE_WAIT);
            if (w.bytes)
                take(&p, w.bytes);
            if (w.reset)
                CHECK_ERR(read(p.us, buf, 1), ECONNRESET);
            CHECK_EQ(read(p.us, buf, 1), 0);
            if (!(triggers[t] & EPOLLET))
                check_event(ep, 1, w.reset ? EPOLLIN | EPOLLHUP | hup : end);
            if (p.peer >= 0)
                close(p.peer);
            close(p.us);
            check_quiet(ep, false);
            close(ep);
        }
    }
}

static void test_loop_without_input_interest_is_told_of_the_end(void)
{
    for (int reset = 0; reset < 2; reset++) {
        for (int where = 0; where < WHERES; where++) {
            int ep = MUST(epoll_create1(0));
            struct pair p = ep_pair(ep, EPOLLIN, 1), q = pair_open_with((enum where)where, 20);
            struct epoll_event ev;

            set_nonblock(q.us, true);
            ep_ctl(ep, EPOLL_CTL_ADD, q.us, EPOLLRDHUP, 2);
            check_quiet(ep, false);
            if (reset)
                peer_reset(&q);
            else
                peer_fin(&q);
            CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
            CHECK_EQ(ev.data.u64, 2);
            CHECK_EQ(ev.events, reset ? EPOLLRDHUP | EPOLLHUP | EPOLLERR : EPOLLRDHUP);
            take(&q, 20);
            pair_close(&q);
            check_quiet(ep, false);
            pair_close(&p);
            close(ep);
        }
    }
}

struct foreign {
    struct later l;
    int listener, pipe[2], event, timer;
    int kind, client;
};

static void touch_one(void *arg)
{
    struct foreign *f = arg;
    struct itimerspec soon = {.it_value.tv_nsec = 1000000};
    uint64_t one = 1;

    if (f->kind == 0)
        f->client = connect_to(f->listener);
    else if (f->kind == 1)
        CHECK_EQ(write(f->pipe[1], "x", 1), 1);
    else if (f->kind == 2)
        CHECK_EQ(write(f->event, &one, 8), 8);
    else
        MUST(timerfd_settime(f->timer, 0, &soon, NULL));
}

static void untouch(const struct foreign *f)
{
    uint64_t word;

    if (f->kind == 0) {
        close(MUST(accept(f->listener, NULL, NULL)));
        close(f->client);
    } else if (f->kind == 1) {
        CHECK_EQ(read(f->pipe[0], &word, 8), 1);
    } else {
        CHECK_EQ(read(f->kind == 2 ? f->event : f->timer, &word, 8), 8);
    }
}

static void foreign_open(struct foreign *f, int ep, uint32_t trigger)
{
    f->listener = listener_open(AF_INET);
    MUST(pipe(f->pipe));
    f->event = MUST(eventfd(0, 0));
    f->timer = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
    ep_ctl(ep, EPOLL_CTL_ADD, f->listener, EPOLLIN | trigger, 100);
    ep_ctl(ep, EPOLL_CTL_ADD, f->pipe[0], EPOLLIN | trigger, 101);
    ep_ctl(ep, EPOLL_CTL_ADD, f->event, EPOLLIN | trigger, 102);
    ep_ctl(ep, EPOLL_CTL_ADD, f->timer, EPOLLIN | trigger, 103);
}

static void foreign_close(struct foreign *f)
{
    close(f->listener);
    close(f->pipe[0]);
    close(f->pipe[1]);
    close(f->event);
    close(f->timer);
}

static void test_loop_with_descriptors_of_all_kinds(void)
{
    for (int edge = 0; edge < 2; edge++) {
        int ep = MUST(epoll_create1(0));
        uint32_t trigger = edge ? EPOLLET : 0;
        struct pair p = ep_pair(ep, EPOLLIN | trigger, 1), q = ep_pair(ep, EPOLLIN | trigger, 2);
        struct foreign f;

        foreign_open(&f, ep, trigger);
        for (int i = 0; i < 40; i++) {
            struct pair *other = i % 2 ? &p : &q;
            struct later_put lp;

            f.kind = i % 4;
            if (i % 8 < 4)
                later(&f.l, touch_one, &f);
            else
                touch_one(&f);
            check_event(ep, 100 + (uint64_t)f.kind, EPOLLIN);
            if (!edge) /* left ready: told again, and a sleep is none */
                for (int k = 0; k < 3; k++)
                    check_event(ep, 100 + (uint64_t)f.kind, EPOLLIN);
            if (i % 8 < 4)
                later_join(&f.l);
            if (edge || i % 3) {
                untouch(&f);
                later_put(&lp, other, 5);
                check_event(ep, i % 2 ? 1 : 2, EPOLLIN);
                later_join(&lp.l);
            } else { /* both at once, and by turns if there is room for one */
                struct epoll_event ev[4];

                put(other, 5);
                CHECK_EQ(epoll_wait(ep, ev, 4, -1), 2);
                CHECK_EQ(epoll_wait(ep, &ev[0], 1, -1), 1);
                CHECK_EQ(epoll_wait(ep, &ev[1], 1, -1), 1);
                CHECK(ev[0].data.u64 != ev[1].data.u64);
                untouch(&f);
            }
            settle(other->us, other->sent);
            CHECK_EQ(read_all(other, 9), 5);
            check_quiet(ep, edge);
        }
        foreign_close(&f);
        pair_close(&p);
        pair_close(&q);
        close(ep);
    }
}

const struct test_case test_cases[] = {
    CASE(test_loop_asleep_is_woken_by_bytes),
    CASE(test_loop_output_beside_input),
    CASE(test_loop_mod_while_an_event_is_pending),
    CASE(test_loop_del_while_an_event_is_pending),
    CASE(test_loop_end_bits_come_with_input),
    CASE(test_loop_without_input_interest_is_told_of_the_end),
    CASE(test_loop_with_descriptors_of_all_kinds),
    CASES_END,
};
