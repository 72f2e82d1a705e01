/*
 * A writer whose receiver does not read: the window closes on it, whatever else the receiver's
 * thread does, and opens again when somebody reads.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "asleep.h"
#include "loop.h"
#include "stall.h"

/* What is sent, and more than may ever be on its way unread. */
#define MUCH ((uint64_t)6 << 20)
#define PUSHED_BACK ((uint64_t)3 << 20)

static uint8_t buf[65536];

/* The thread reads from another connection, asleep and not. */
static void rounds(struct pair *b, int n)
{
    for (int i = 0; i < n; i++) {
        struct later_put lp;

        if (i % 8 == 0) {
            later_put(&lp, b, 100);
            take(b, 100);
            later_join(&lp.l);
        } else {
            put(b, 100);
            take(b, 100);
        }
    }
}

/* Until the writer sleeps, and then for a while: it must not get on. */
static void let_block(struct writer *w, struct pair *b)
{
    uint64_t done;
    int still = 0;

    for (int i = 0; still < 20; i++) {
        done = w->done;
        rounds(b, 10);
        still = w->done == done && thread_asleep(w->w.tid) ? still + 1 : 0;
        CHECK(w->done < PUSHED_BACK);
        CHECK(i < 20000);
    }
}

static void read_rest(struct pair *p, uint64_t n, size_t most)
{
    while (n) {
        ssize_t got = recv(p->us, buf, n < most ? n : most, 0);

        if (got <= 0)
            FAIL("recv at offset %llu gives %zd (errno %d)", (unsigned long long)p->got, got,
                 errno);
        check_next(p, buf, (size_t)got);
        n -= (uint64_t)got;
    }
}

static void test_writer_is_pushed_back_and_goes_on(void)
{
    static const size_t most[] = {sizeof(buf), 1000};

    for (size_t i = 0; i < COUNT_OF(most); i++) {
        struct pair s = pair_open_warm(), b = pair_open_warm();
        struct writer w;

        writer_start(&w, &s, MUCH);
        let_block(&w, &b);
        read_rest(&s, MUCH, most[i]);
        CHECK_EQ(writer_join(&w), 0);
        check_empty(s.us);
        rounds(&b, 20);
        peer_fin(&s);
        CHECK_EQ(recv(s.us, buf, 1, 0), 0);
        pair_close(&s);
        pair_close(&b);
    }
}

/* Stop and go: each time a part is read, as much may follow. */
static void test_writer_goes_on_bit_by_bit(void)
{
    struct pair s = pair_open_warm(), b = pair_open_warm();
    uint64_t total = (uint64_t)3 << 20;
    struct writer w;

    writer_start(&w, &s, total);
    while (s.got - WARM_READS < total) {
        uint64_t left = total - (s.got - WARM_READS);

        rounds(&b, 9);
        read_rest(&s, left < 50000 ? left : 50000, 3000);
    }
    CHECK_EQ(writer_join(&w), 0);
    check_empty(s.us);
    pair_close(&s);
    pair_close(&b);
}

static void test_writer_to_an_edge_triggered_member_goes_on(void)
{
    int ep = MUST(epoll_create1(EPOLL_CLOEXEC));
    struct pair s = ep_pair(ep, EPOLLIN | EPOLLET, 1), b = ep_pair(ep, EPOLLIN | EPOLLET, 2);
    uint64_t first = s.got;
    struct writer w;

    writer_start(&w, &s, MUCH);
    /* Its edges are seen and not acted on. */
    for (int still = 0; still < 20;) {
        uint64_t done = w.done;
        bool told = false;

        put(&b, 10);
        while (!told) {
            struct epoll_event ev[2];
            int n = MUST(epoll_wait(ep, ev, 2, 5000));

            CHECK(n > 0);
            for (int i = 0; i < n; i++)
                told |= ev[i].data.u64 == 2;
        }
        CHECK_EQ(read_all(&b, 64), 10);
        still = w.done == done && thread_asleep(w.w.tid) ? still + 1 : 0;
        CHECK(w.done < PUSHED_BACK);
    }
    read_all(&s, 16384);
    while (s.got - first < MUCH) {
        struct epoll_event ev;

        CHECK_EQ(epoll_wait(ep, &ev, 1, 5000), 1);
        if (ev.data.u64 == 1)
            read_all(&s, 16384);
    }
    CHECK_EQ(writer_join(&w), 0);
    check_empty(s.us);
    pair_close(&s);
    pair_close(&b);
    MUST(close(ep));
}

/* Nobody will read any more: the writer is told so at once. */
static void test_writer_to_a_closed_one_fails(void)
{
    struct pair s = pair_open_warm(), b = pair_open_warm();
    struct writer w;
    int error;

    writer_start(&w, &s, MUCH);
    let_block(&w, &b);
    MUST(close(s.us));
    s.us = -1;
    error = writer_join(&w);
    if (error != ECONNRESET && error != EPIPE)
        FAIL("the writer ends with errno %d", error);
    rounds(&b, 20);
    pair_close(&s);
    pair_close(&b);
}

const struct test_case test_cases[] = {
    CASE(test_writer_is_pushed_back_and_goes_on),
    CASE(test_writer_goes_on_bit_by_bit),
    CASE(test_writer_to_an_edge_triggered_member_goes_on),
    CASE(test_writer_to_a_closed_one_fails),
    CASES_END,
};
