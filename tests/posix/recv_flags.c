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

static void test_peek_bytes_waiting_shows_all_takes_none(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 100);

        for (int again = 0; again < 3; again++) {
            CHECK_EQ(recv(p.us, buf, 10, MSG_PEEK), 10);
            check_ahead(&p, buf, 0, 10);
            CHECK_EQ(recv(p.us, buf, sizeof(buf), MSG_PEEK), 100);
            check_ahead(&p, buf, 0, 100);
            CHECK_EQ(recv(p.us, buf, sizeof(buf), MSG_PEEK | MSG_DONTWAIT), 100);
            check_ahead(&p, buf, 0, 100);
        }
        take(&p, 30);
        CHECK_EQ(recv(p.us, buf, sizeof(buf), MSG_PEEK), 70);
        check_ahead(&p, buf, 0, 70);
        put(&p, 30);
        CHECK_EQ(recv(p.us, buf, sizeof(buf), MSG_PEEK), 100);
        check_ahead(&p, buf, 0, 100);
        take(&p, 100);
        check_empty(p.us);
        pair_close(&p);
    }
}

static void test_peek_across_many_sends_shows_all(void)
{
    struct pair p = pair_open_warm();
    struct iovec parts[2] = {{buf, 100}, {buf + 100, 4000}};
    struct msghdr msg = {.msg_iov = parts, .msg_iovlen = 2};

    for (int i = 0; i < 60; i++)
        put(&p, 7);
    take(&p, 1);
    for (int i = 0; i < 60; i++)
        put(&p, 7);
    CHECK_EQ(recv(p.us, buf, sizeof(buf), MSG_PEEK), 839);
    check_ahead(&p, buf, 0, 839);
    memset(buf, 0, 1000);
    CHECK_EQ(recvmsg(p.us, &msg, MSG_PEEK), 839);
    check_ahead(&p, buf, 0, 839);
    CHECK_EQ(msg.msg_flags, 0);
    take(&p, 839);
    check_empty(p.us);
    pair_close(&p);
}

static void test_peek_then_exact_reads_of_lines_are_right(void)
{
    struct pair p = pair_open();

    /* vsftpd and wget: look, find the end of the line, read exactly that. */
    for (int i = 0; i < 200; i++) {
        size_t line = 1 + (size_t)i % 50;
        ssize_t seen;

        put(&p, line);
        seen = recv(p.us, buf, 4096, MSG_PEEK);
        CHECK_EQ(seen, line);
        check_ahead(&p, buf, 0, line);
        CHECK_EQ(read(p.us, buf, line), line);
        check_next(&p, buf, line);
    }
    pair_close(&p);
}

static void test_peek_empty_blocks_or_is_eagain(void)
{
    struct pair p = pair_open_warm();
    struct later_put lp;

    CHECK_ERR(recv(p.us, buf, 10, MSG_PEEK | MSG_DONTWAIT), EAGAIN);
    later_put(&lp, &p, 10);
    CHECK_EQ(recv(p.us, buf, 100, MSG_PEEK), 10);
    check_ahead(&p, buf, 0, 10);
    later_join(&lp.l);
    take(&p, 10);
    pair_close(&p);
}

static void test_peek_at_eof_is_zero_each_time(void)
{
    struct pair p = pair_open_held(20);

    peer_fin(&p);
    CHECK_EQ(recv(p.us, buf, 100, MSG_PEEK), 20);
    take(&p, 20);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(recv(p.us, buf, 100, MSG_PEEK), 0);
        CHECK_EQ(recv(p.us, buf, 100, MSG_PEEK | MSG_DONTWAIT), 0);
    }
    CHECK_EQ(recv(p.us, buf, 100, 0), 0);
    CHECK_EQ(recv(p.us, buf, 100, MSG_DONTWAIT), 0);
    pair_close(&p);
}

static void test_peek_waitall_waits_for_all(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);
        struct later_put lp;

        CHECK_EQ(recv(p.us, buf, 20, MSG_PEEK | MSG_WAITALL), 20);
        later_put(&lp, &p, 30);
        CHECK_EQ(recv(p.us, buf, 50, MSG_PEEK | MSG_WAITALL), 50);
        check_ahead(&p, buf, 0, 50);
        later_join(&lp.l);
        peer_fin(&p);
        CHECK_EQ(recv(p.us, buf, 60, MSG_PEEK | MSG_WAITALL), 50);
        take(&p, 50);
        pair_close(&p);
    }
}

static void test_peek_trunc_counts_without_copy(void)
{
    struct pair p = pair_open_held(50);

    memset(buf, 0xee, 100);
    CHECK_EQ(recv(p.us, buf, 100, MSG_PEEK | MSG_TRUNC), 50);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(buf[i], 0xee);
    CHECK_EQ(recv(p.us, NULL, 30, MSG_PEEK | MSG_TRUNC), 30);
    take(&p, 50);
    check_empty(p.us);
    pair_close(&p);
}

static void test_waitall_all_waiting_returns_all(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 300);

        CHECK_EQ(recv(p.us, buf, 250, MSG_WAITALL), 250);
        check_next(&p, buf, 250);
        CHECK_EQ(recv(p.us, buf, 50, MSG_WAITALL | MSG_DONTWAIT), 50);
        check_next(&p, buf, 50);
        check_empty(p.us);
        pair_close(&p);
    }
}

static void test_waitall_rest_comes_later_returns_all(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);
        struct later_put lp;

        for (int i = 0; i < 5; i++) {
            later_put(&lp, &p, 100);
            CHECK_EQ(recv(p.us, buf, 110, MSG_WAITALL), 110);
            check_next(&p, buf, 110);
            later_join(&lp.l);
            put(&p, 10);
        }
        take(&p, 20);
        pair_close(&p);
    }
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

static void test_waitall_longer_than_receive_buffer_returns_all(void)
{
    struct pair p = pair_open_warm();
    struct worker w;

    worker_start(&w, send_a_megabyte, &p);
    CHECK_EQ(recv(p.us, buf, 1 << 20, MSG_WAITALL), 1 << 20);
    check_next(&p, buf, 1 << 20);
    worker_join(&w);
    check_empty(p.us);
    pair_close(&p);
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

static void test_waitall_partial_then_eof_returns_partial(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);

        peer_fin(&p);
        CHECK_EQ(recv(p.us, buf, 50, MSG_WAITALL), 20);
        check_next(&p, buf, 20);
        CHECK_EQ(recv(p.us, buf, 50, MSG_WAITALL), 0);
        pair_close(&p);
    }
}

static void act_fin(void *arg)
{
    MUST(shutdown(((struct pair *)arg)->peer, SHUT_WR));
}

static void act_reset(void *arg)
{
    reset_close(((struct pair *)arg)->peer);
}

static void test_waitall_blocked_then_eof_returns_partial(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);
        struct later l;

        later(&l, act_fin, &p);
        CHECK_EQ(recv(p.us, buf, 50, MSG_WAITALL), 20);
        check_next(&p, buf, 20);
        later_join(&l);
        CHECK_EQ(recv(p.us, buf, 50, 0), 0);
        pair_close(&p);
    }
}

static void test_waitall_blocked_then_reset_returns_partial_keeps_error(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);
        struct later l;

        later(&l, act_reset, &p);
        CHECK_EQ(recv(p.us, buf, 50, MSG_WAITALL), 20);
        check_next(&p, buf, 20);
        later_join(&l);
        p.peer = -1;
        CHECK_ERR(recv(p.us, buf, 50, 0), ECONNRESET);
        CHECK_EQ(recv(p.us, buf, 50, 0), 0);
        pair_close(&p);
    }
}

static void test_waitall_timeout_returns_partial_then_eagain(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);
        int64_t start;

        set_timeout(p.us, 40);
        start = now_ms();
        CHECK_EQ(recv(p.us, buf, 50, MSG_WAITALL), 20);
        CHECK(now_ms() - start >= 39);
        check_next(&p, buf, 20);
        CHECK_ERR(recv(p.us, buf, 50, MSG_WAITALL), EAGAIN);
        CHECK(now_ms() - start >= 78);
        put(&p, 50);
        CHECK_EQ(recv(p.us, buf, 50, MSG_WAITALL), 50);
        check_next(&p, buf, 50);
        pair_close(&p);
    }
}

static void test_waitall_signal_returns_partial_even_with_restart(void)
{
    for (int where = 0; where < WHERES; where++) {
        for (int restart = 0; restart < 2; restart++) {
            struct pair p = pair_open_with(where, 20);
            struct later_kill lk;

            catch_signal(SIGUSR1, restart ? SA_RESTART : 0);
            later_kill(&lk, SIGUSR1);
            CHECK_EQ(recv(p.us, buf, 50, MSG_WAITALL), 20);
            CHECK_EQ(caught, 1);
            check_next(&p, buf, 20);
            later_join(&lk.l);
            check_empty(p.us);
            pair_close(&p);
        }
    }
}

static void test_waitall_signal_nothing_yet_is_eintr(void)
{
    struct pair p = pair_open_warm();
    struct later_kill lk;

    catch_signal(SIGUSR1, 0);
    later_kill(&lk, SIGUSR1);
    CHECK_ERR(recv(p.us, buf, 50, MSG_WAITALL), EINTR);
    later_join(&lk.l);
    put(&p, 50);
    take(&p, 50);
    pair_close(&p);
}

static void test_waitall_nonblocking_returns_what_is_there(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);

        CHECK_EQ(recv(p.us, buf, 50, MSG_WAITALL | MSG_DONTWAIT), 20);
        check_next(&p, buf, 20);
        set_nonblock(p.us, true);
        CHECK_ERR(recv(p.us, buf, 50, MSG_WAITALL), EAGAIN);
        put(&p, 30);
        CHECK_EQ(recv(p.us, buf, 50, MSG_WAITALL), 30);
        check_next(&p, buf, 30);
        pair_close(&p);
    }
}

static void act_shut_rd(void *arg)
{
    MUST(shutdown(((struct pair *)arg)->us, SHUT_RD));
}

static void test_waitall_shut_rd_by_another_thread_returns_partial(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);
        struct later l;

        later(&l, act_shut_rd, &p);
        CHECK_EQ(recv(p.us, buf, 50, MSG_WAITALL), 20);
        check_next(&p, buf, 20);
        later_join(&l);
        CHECK_EQ(recv(p.us, buf, 50, 0), 0);
        pair_close(&p);
    }
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
    CHECK_EQ(p.sent - p.got, 10);
    later_join(&lp.l);
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
    CASE(test_peek_bytes_waiting_shows_all_takes_none),
    CASE(test_peek_across_many_sends_shows_all),
    CASE(test_peek_then_exact_reads_of_lines_are_right),
    CASE(test_peek_empty_blocks_or_is_eagain),
    CASE(test_peek_at_eof_is_zero_each_time),
    CASE(test_peek_waitall_waits_for_all),
    CASE(test_peek_trunc_counts_without_copy),
    CASE(test_waitall_all_waiting_returns_all),
    CASE(test_waitall_rest_comes_later_returns_all),
    CASE(test_waitall_longer_than_receive_buffer_returns_all),
    CASE(test_recv_stream_of_odd_sends_is_exact),
    CASE(test_waitall_partial_then_eof_returns_partial),
    CASE(test_waitall_blocked_then_eof_returns_partial),
    CASE(test_waitall_blocked_then_reset_returns_partial_keeps_error),
    CASE(test_waitall_timeout_returns_partial_then_eagain),
    CASE(test_waitall_signal_returns_partial_even_with_restart),
    CASE(test_waitall_signal_nothing_yet_is_eintr),
    CASE(test_waitall_nonblocking_returns_what_is_there),
    CASE(test_waitall_shut_rd_by_another_thread_returns_partial),
    CASE(test_trunc_discards_without_copy),
    CASE(test_trunc_empty_waits),
    CASE(test_len0_read_is_zero_at_once),
    CASE(test_len0_recv_empty_is_eagain_or_waits),
    CASE(test_len0_recv_bytes_waiting_is_zero_takes_none),
    CASE(test_len0_recv_takes_the_error),
    CASE(test_flags_without_meaning_are_ignored),
    CASE(test_errqueue_empty_is_eagain_takes_none),
    CASE(test_oob_flag_without_urgent_byte_is_einval),
    CASE(test_recv_leaves_errno_alone_when_it_works),
    CASES_END,
};
