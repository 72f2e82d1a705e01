/*
 * MSG_WAITALL: until the length is reached, or the stream ends, breaks, is interrupted or runs out
 * of time. A partial count wins over the reason, which stays for the next call.
 */
#include "asleep.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[1 << 20];

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

/*
 * More bytes than small buffers hold, then a reset, and receives of every size: whichever piece of
 * the work meets the error, it is told once, after the last byte.
 */
static void test_reset_behind_many_bytes_is_told_once_after_the_last(void)
{
    static const int flags[] = {0, MSG_WAITALL, MSG_DONTWAIT, MSG_PEEK};

    for (size_t f = 0; f < COUNT_OF(flags); f++) {
        for (size_t size = 1; size <= 5000; size = size * 3 + 1) {
            for (int where = 0; where < WHERES; where++) {
                struct pair p = pair_open_with((enum where)where, 1000);
                ssize_t n;

                peer_reset(&p);
                while (p.got < p.sent) {
                    if (flags[f] == MSG_PEEK) {
                        n = recv(p.us, buf, size, MSG_PEEK);
                        CHECK(n > 0);
                        check_ahead(&p, buf, 0, (size_t)n);
                    }
                    n = recv(p.us, buf, size, flags[f] & ~MSG_PEEK);
                    if (n <= 0)
                        FAIL("flags %x, size %zu, %llu left: %zd (errno %d)", flags[f], size,
                             (unsigned long long)(p.sent - p.got), n, errno);
                    check_next(&p, buf, (size_t)n);
                }
                errno = 0;
                n = recv(p.us, buf, size, flags[f]);
                if (n != -1 || errno != ECONNRESET)
                    FAIL("flags %x, size %zu: %zd (errno %d) instead of ECONNRESET", flags[f], size,
                         n, errno);
                CHECK_EQ(recv(p.us, buf, size, 0), 0);
                pair_close(&p);
            }
        }
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

const struct test_case test_cases[] = {
    CASE(test_waitall_all_waiting_returns_all),
    CASE(test_waitall_rest_comes_later_returns_all),
    CASE(test_waitall_longer_than_receive_buffer_returns_all),
    CASE(test_waitall_partial_then_eof_returns_partial),
    CASE(test_waitall_blocked_then_eof_returns_partial),
    CASE(test_waitall_blocked_then_reset_returns_partial_keeps_error),
    CASE(test_reset_behind_many_bytes_is_told_once_after_the_last),
    CASE(test_waitall_timeout_returns_partial_then_eagain),
    CASE(test_waitall_signal_returns_partial_even_with_restart),
    CASE(test_waitall_signal_nothing_yet_is_eintr),
    CASE(test_waitall_nonblocking_returns_what_is_there),
    CASE(test_waitall_shut_rd_by_another_thread_returns_partial),
    CASES_END,
};
