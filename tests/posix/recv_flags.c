/*
 * The flags of recv(2) on TCP: what each gives on an empty socket, with bytes waiting, and when the
 * stream ends, breaks, is interrupted or runs out of time.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "asleep.h"
#include "payload.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[1 << 20];

static void test_recv_bytes_waiting_come_in_order(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 400);

        for (size_t n = 1; n <= 27; n++)
            take(&p, n);
        take(&p, 22);
        check_empty(p.us);
        pair_close(&p);
    }
}

static void test_recv_fewer_waiting_returns_at_once(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 100);
        size_t sum = 0;

        while (sum < 100) {
            ssize_t n = recv(p.us, buf, sizeof(buf), 0);

            CHECK(n > 0 && n <= 100);
            check_next(&p, buf, (size_t)n);
            sum += (size_t)n;
        }
        CHECK_EQ(sum, 100);
        pair_close(&p);
    }
}

static void test_recv_empty_blocks_until_bytes_come(void)
{
    struct pair p = pair_open();

    for (int i = 0; i < 20; i++) {
        struct later_put lp;

        later_put(&lp, &p, 10);
        CHECK_EQ(recv(p.us, buf, 4096, 0), 10);
        check_next(&p, buf, 10);
        later_join(&lp.l);
    }
    pair_close(&p);
}

static void test_recv_dontwait_empty_is_eagain(void)
{
    struct pair p = pair_open();

    check_empty(p.us);
    warm_up(&p);
    check_empty(p.us);
    put(&p, 100);
    CHECK_EQ(recv(p.us, buf, 60, MSG_DONTWAIT), 60);
    check_next(&p, buf, 60);
    CHECK_EQ(recv(p.us, buf, 40, MSG_DONTWAIT), 40);
    check_next(&p, buf, 40);
    check_empty(p.us);
    set_nonblock(p.us, true);
    CHECK_ERR(recv(p.us, buf, 1, 0), EAGAIN);
    CHECK_ERR(read(p.us, buf, 1), EAGAIN);
    put(&p, 5);
    take(&p, 5);
    CHECK_ERR(recv(p.us, buf, 1, MSG_WAITALL), EAGAIN);
    pair_close(&p);
}

static void test_recv_dontwait_each_arrival_is_seen(void)
{
    struct pair p = pair_open_warm();

    /* Arrived is arrived: not one EAGAIN may come after the kernel has the bytes. */
    for (int i = 0; i < 2000; i++) {
        put(&p, 3);
        CHECK_EQ(recv(p.us, buf, sizeof(buf), MSG_DONTWAIT), 3);
        check_next(&p, buf, 3);
        check_empty(p.us);
    }
    pair_close(&p);
}

static void *send_a_megabyte(void *arg)
{
    struct pair *p = arg;

    for (size_t left = 1 << 20, n; left; left -= n) {
        n = 1 + left * 7 % 1999;
        n = n < left ? n : left;
        put_now(p, n);
    }
    return NULL;
}

static void test_recv_stream_of_odd_sends_is_exact(void)
{
    struct pair p = pair_open_warm();
    struct worker w;

    worker_start(&w, send_a_megabyte, &p);
    for (size_t left = 1 << 20; left;) {
        size_t want = 1 + left * 13 % 777;
        ssize_t n = recv(p.us, buf, want < left ? want : left, 0);

        CHECK(n > 0);
        check_next(&p, buf, (size_t)n);
        left -= (size_t)n;
    }
    worker_join(&w);
    check_empty(p.us);
    pair_close(&p);
}

static void test_trunc_discards_without_copy(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 100);

        memset(buf, 0xee, 100);
        CHECK_EQ(recv(p.us, buf, 40, MSG_TRUNC), 40);
        for (int i = 0; i < 100; i++)
            CHECK_EQ(buf[i], 0xee);
        p.got += 40;
        take(&p, 10);
        CHECK_EQ(recv(p.us, NULL, 40, MSG_TRUNC | MSG_WAITALL), 40);
        p.got += 40;
        take(&p, 10);
        CHECK_ERR(recv(p.us, NULL, 40, MSG_TRUNC | MSG_DONTWAIT), EAGAIN);
        put(&p, 10);
        CHECK_EQ(recv(p.us, buf, sizeof(buf), MSG_TRUNC | MSG_DONTWAIT), 10);
        p.got += 10;
        put(&p, 10);
        take(&p, 10);
        pair_close(&p);
    }
}

static void test_trunc_empty_waits(void)
{
    struct pair p = pair_open_warm();
    struct later_put lp;

    later_put(&lp, &p, 25);
    CHECK_EQ(recv(p.us, NULL, 100, MSG_TRUNC), 25);
    p.got += 25;
    later_join(&lp.l);
    later_put(&lp, &p, 25);
    CHECK_EQ(recv(p.us, NULL, 25, MSG_TRUNC | MSG_WAITALL), 25);
    p.got += 25;
    later_join(&lp.l);
    peer_fin(&p);
    CHECK_EQ(recv(p.us, NULL, 100, MSG_TRUNC), 0);
    pair_close(&p);
}

static void test_len0_read_is_zero_at_once(void)
{
    struct pair p = pair_open_warm();

    CHECK_EQ(read(p.us, buf, 0), 0);
    CHECK_EQ(read(p.us, NULL, 0), 0);
    set_nonblock(p.us, true);
    CHECK_EQ(read(p.us, buf, 0), 0);
    put(&p, 10);
    CHECK_EQ(read(p.us, buf, 0), 0);
    CHECK_EQ(read(p.us, NULL, 0), 0);
    take(&p, 5);
    CHECK_EQ(read(p.us, buf, 0), 0);
    take(&p, 5);
    peer_reset(&p);
    CHECK_EQ(read(p.us, buf, 0), 0);
    CHECK_ERR(read(p.us, buf, 1), ECONNRESET);
    pair_close(&p);
}

static void test_len0_recv_empty_is_eagain_or_waits(void)
{
    struct pair p = pair_open_warm();
    struct later_put lp;

    CHECK_ERR(recv(p.us, buf, 0, MSG_DONTWAIT), EAGAIN);
    CHECK_ERR(recv(p.us, NULL, 0, MSG_DONTWAIT), EAGAIN);
    CHECK_ERR(recv(p.us, NULL, 0, MSG_DONTWAIT | MSG_PEEK), EAGAIN);
    later_put(&lp, &p, 10);
    CHECK_EQ(recv(p.us, buf, 0, 0), 0);
    later_join(&lp.l);
    CHECK_EQ(p.sent - p.got, 10);
    take(&p, 10);
    pair_close(&p);
}

static void end_ours(void *arg)
{
    MUST(shutdown(*(int *)arg, SHUT_WR));
}

/* Whatever wakes it ends it: here the peer's answer to the end of our stream, with nothing to read. */
static void test_len0_recv_is_ended_by_any_news(void)
{
    struct pair p = pair_open_warm();
    struct later l;

    check_empty(p.us);
    later(&l, end_ours, &p.us);
    CHECK_EQ(recv(p.us, buf, 0, 0), 0);
    CHECK(later_join(&l));
    check_empty(p.us);
    put(&p, 10);
    take(&p, 10);
    pair_close(&p);
}

static void test_len0_recv_bytes_waiting_is_zero_takes_none(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);

        CHECK_EQ(recv(p.us, buf, 0, 0), 0);
        CHECK_EQ(recv(p.us, NULL, 0, 0), 0);
        CHECK_EQ(recv(p.us, buf, 0, MSG_DONTWAIT), 0);
        CHECK_EQ(recv(p.us, buf, 0, MSG_PEEK), 0);
        CHECK_EQ(recv(p.us, buf, 0, MSG_WAITALL), 0);
        CHECK_EQ(recv(p.us, buf, 0, MSG_TRUNC), 0);
        take(&p, 20);
        pair_close(&p);
    }
}

static void test_len0_recv_takes_the_error(void)
{
    struct pair p = pair_open_held(5);

    peer_reset(&p);
    take(&p, 5);
    CHECK_ERR(recv(p.us, buf, 0, 0), ECONNRESET);
    CHECK_EQ(recv(p.us, buf, 10, 0), 0);
    pair_close(&p);
}

static void test_flags_without_meaning_are_ignored(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 40);

        CHECK_EQ(recv(p.us, buf, 10, MSG_NOSIGNAL), 10);
        check_next(&p, buf, 10);
        CHECK_EQ(recv(p.us, buf, 10, MSG_CMSG_CLOEXEC), 10);
        check_next(&p, buf, 10);
        CHECK_EQ(recv(p.us, buf, 10, MSG_WAITFORONE), 10);
        check_next(&p, buf, 10);
        take(&p, 10);
        pair_close(&p);
    }
}

static void test_errqueue_empty_is_eagain_takes_none(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);

        CHECK_ERR(recv(p.us, buf, 10, MSG_ERRQUEUE), EAGAIN);
        take(&p, 20);
        CHECK_ERR(recv(p.us, buf, 10, MSG_ERRQUEUE), EAGAIN);
        put(&p, 10);
        take(&p, 10);
        pair_close(&p);
    }
}

static void test_oob_flag_without_urgent_byte_is_einval(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);

        CHECK_ERR(recv(p.us, buf, 1, MSG_OOB), EINVAL);
        take(&p, 20);
        CHECK_ERR(recv(p.us, buf, 1, MSG_OOB), EINVAL);
        put(&p, 10);
        take(&p, 10);
        pair_close(&p);
    }
}

static void test_recv_leaves_errno_alone_when_it_works(void)
{
    struct pair p = pair_open_held(10);

    for (int i = 0; i < 10; i++) {
        errno = 4711;
        CHECK_EQ(recv(p.us, buf, 1, 0), 1);
        CHECK_EQ(errno, 4711);
        check_next(&p, buf, 1);
    }
    put(&p, 10);
    errno = 4711;
    CHECK_EQ(recv(p.us, buf, 10, MSG_DONTWAIT), 10);
    CHECK_EQ(errno, 4711);
    pair_close(&p);
}

const struct test_case test_cases[] = {
    CASE(test_recv_bytes_waiting_come_in_order),
    CASE(test_recv_fewer_waiting_returns_at_once),
    CASE(test_recv_empty_blocks_until_bytes_come),
    CASE(test_recv_dontwait_empty_is_eagain),
    CASE(test_recv_dontwait_each_arrival_is_seen),
    CASE(test_recv_stream_of_odd_sends_is_exact),
    CASE(test_trunc_discards_without_copy),
    CASE(test_trunc_empty_waits),
    CASE(test_len0_read_is_zero_at_once),
    CASE(test_len0_recv_empty_is_eagain_or_waits),
    CASE(test_len0_recv_is_ended_by_any_news),
    CASE(test_len0_recv_bytes_waiting_is_zero_takes_none),
    CASE(test_len0_recv_takes_the_error),
    CASE(test_flags_without_meaning_are_ignored),
    CASE(test_errqueue_empty_is_eagain_takes_none),
    CASE(test_oob_flag_without_urgent_byte_is_einval),
    CASE(test_recv_leaves_errno_alone_when_it_works),
    CASES_END,
};
