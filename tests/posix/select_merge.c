/*
 * select and pselect: the same truth as poll's, in sets, with select's own rules for times.
 */
#include <netinet/in.h>
#include <signal.h>
#include <sys/select.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

static int by_select(int n, fd_set *in, fd_set *out, fd_set *ex, int ms)
{
    struct timeval tv = {ms / 1000, ms % 1000 * 1000L};

    return select(n, in, out, ex, ms < 0 ? NULL : &tv);
}

static int by_pselect(int n, fd_set *in, fd_set *out, fd_set *ex, int ms)
{
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000L};

    return pselect(n, in, out, ex, ms < 0 ? NULL : &ts, NULL);
}

static int (*const calls[])(int n, fd_set *in, fd_set *out, fd_set *ex, int ms) = {by_select,
                                                                                   by_pselect};

static fd_set *set_of(fd_set *set, int a, int b)
{
    FD_ZERO(set);
    FD_SET(a, set);
    if (b >= 0)
        FD_SET(b, set);
    return set;
}

static void test_select_bytes_waiting_is_readable_until_taken(void)
{
    for (size_t c = 0; c < COUNT_OF(calls); c++) {
        for (int where = 0; where < WHERES; where++) {
            struct pair p = pair_open_with(where, 50);
            fd_set in;

            for (int i = 0; i < 10; i++) {
                CHECK_EQ(calls[c](p.us + 1, set_of(&in, p.us, -1), NULL, NULL, -1), 1);
                CHECK(FD_ISSET(p.us, &in));
                take(&p, 5);
            }
            CHECK_EQ(calls[c](p.us + 1, set_of(&in, p.us, -1), NULL, NULL, 0), 0);
            CHECK(!FD_ISSET(p.us, &in));
            pair_close(&p);
        }
    }
}

static void test_select_sets_are_told_apart(void)
{
    for (size_t c = 0; c < COUNT_OF(calls); c++) {
        for (int where = 0; where < WHERES; where++) {
            struct pair p = pair_open_with(where, 20), q = pair_open_warm();
            int n = (p.us > q.us ? p.us : q.us) + 1;
            fd_set in, out;

            set_of(&in, p.us, q.us);
            set_of(&out, p.us, q.us);
            CHECK_EQ(calls[c](n, &in, &out, NULL, -1), 3);
            CHECK(FD_ISSET(p.us, &in) && !FD_ISSET(q.us, &in));
            CHECK(FD_ISSET(p.us, &out) && FD_ISSET(q.us, &out));
            set_of(&out, q.us, -1);
            CHECK_EQ(calls[c](n, set_of(&in, p.us, -1), &out, NULL, 0), 2);
            CHECK_EQ(calls[c](n, NULL, set_of(&out, p.us, -1), NULL, 0), 1);
            take(&p, 20);
            CHECK_EQ(calls[c](n, set_of(&in, p.us, q.us), NULL, NULL, 0), 0);
            pair_close(&p);
            pair_close(&q);
        }
    }
}

static void test_select_blocked_is_woken_by_bytes(void)
{
    struct pair p = pair_open(), q = pair_open_warm();
    int n = (p.us > q.us ? p.us : q.us) + 1;

    for (int i = 0; i < 40; i++) {
        struct later_put lp;
        fd_set in;

        later_put(&lp, &p, 9);
        CHECK_EQ(calls[i % 2](n, set_of(&in, p.us, q.us), NULL, NULL, i % 4 < 2 ? -1 : 10000), 1);
        CHECK(FD_ISSET(p.us, &in) && !FD_ISSET(q.us, &in));
        CHECK_EQ(recv(p.us, buf, 100, MSG_DONTWAIT), 9);
        check_next(&p, buf, 9);
        later_join(&lp.l);
    }
    pair_close(&p);
    pair_close(&q);
}

static void test_select_empty_times_out(void)
{
    for (size_t c = 0; c < COUNT_OF(calls); c++) {
        struct pair p = pair_open_warm();
        int64_t start = now_ms();
        fd_set in;

        CHECK_EQ(calls[c](p.us + 1, set_of(&in, p.us, -1), NULL, NULL, 30), 0);
        CHECK(now_ms() - start >= 29);
        pair_close(&p);
    }
}

static void test_select_writes_back_the_time_left_pselect_does_not(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 10);
        struct timeval tv = {10, 0};
        struct timespec ts = {10, 0};
        fd_set in;

        CHECK_EQ(select(p.us + 1, set_of(&in, p.us, -1), NULL, NULL, &tv), 1);
        CHECK((tv.tv_sec == 9 && tv.tv_usec > 0) || (tv.tv_sec == 10 && tv.tv_usec == 0));
        CHECK_EQ(pselect(p.us + 1, set_of(&in, p.us, -1), NULL, NULL, &ts, NULL), 1);
        CHECK_EQ(ts.tv_sec, 10);
        take(&p, 10);
        tv = (struct timeval){0, 20000};
        CHECK_EQ(select(p.us + 1, set_of(&in, p.us, -1), NULL, NULL, &tv), 0);
        CHECK_EQ(tv.tv_sec, 0);
        CHECK_EQ(tv.tv_usec, 0);
        pair_close(&p);
    }
}

static void test_select_limit_below_the_socket_ignores_it(void)
{
    struct pair p = pair_open_held(10);
    fd_set in;

    set_of(&in, p.us, -1);
    CHECK_EQ(by_select(p.us, &in, NULL, NULL, 0), 0);
    take(&p, 10);
    pair_close(&p);
}

static void test_select_exceptions_interest_is_quiet_without_urgent_data(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 10);
        fd_set in, ex;

        set_of(&in, p.us, -1);
        CHECK_EQ(by_select(p.us + 1, &in, NULL, set_of(&ex, p.us, -1), 0), 1);
        CHECK(FD_ISSET(p.us, &in) && !FD_ISSET(p.us, &ex));
        take(&p, 10);
        CHECK_EQ(by_select(p.us + 1, NULL, NULL, set_of(&ex, p.us, -1), 0), 0);
        put(&p, 10);
        take(&p, 10);
        pair_close(&p);
    }
}

static void test_select_end_and_reset_are_readable(void)
{
    struct pair p = pair_open_held(10), q = pair_open_held(10);
    fd_set in, out;

    peer_fin(&p);
    take(&p, 10);
    CHECK_EQ(by_select(p.us + 1, set_of(&in, p.us, -1), NULL, NULL, -1), 1);
    CHECK_EQ(recv(p.us, buf, 1, 0), 0);
    CHECK_EQ(by_select(p.us + 1, set_of(&in, p.us, -1), NULL, NULL, -1), 1);
    peer_reset(&q);
    take(&q, 10);
    set_of(&in, q.us, -1);
    CHECK_EQ(by_select(q.us + 1, &in, set_of(&out, q.us, -1), NULL, -1), 2);
    CHECK_ERR(recv(q.us, buf, 1, 0), ECONNRESET);
    pair_close(&p);
    pair_close(&q);
}

static void test_select_bad_arguments(void)
{
    struct pair p = pair_open_held(10);
    fd_set in;

    CHECK_ERR(by_select(-1, set_of(&in, p.us, -1), NULL, NULL, 0), EINVAL);
    /* A closed number counts within the table of descriptors; past it nothing is looked at. */
    CHECK_ERR(by_select(51, set_of(&in, 50, p.us), NULL, NULL, 0), EBADF);
    CHECK_ERR(select(p.us + 1, (void *)8, NULL, NULL, NULL), EFAULT);
    CHECK_EQ(by_select(0, NULL, NULL, NULL, 10), 0);
    take(&p, 10);
    pair_close(&p);
}

static void test_select_signal_is_eintr_also_with_restart(void)
{
    for (int restart = 0; restart < 2; restart++) {
        struct pair p = pair_open_warm();
        struct later_kill lk;
        fd_set in;

        catch_signal(SIGUSR1, restart ? SA_RESTART : 0);
        later_kill(&lk, SIGUSR1);
        CHECK_ERR(by_select(p.us + 1, set_of(&in, p.us, -1), NULL, NULL, -1), EINTR);
        CHECK_EQ(caught, 1);
        later_join(&lk.l);
        pair_close(&p);
    }
}

const struct test_case test_cases[] = {
    CASE(test_select_bytes_waiting_is_readable_until_taken),
    CASE(test_select_sets_are_told_apart),
    CASE(test_select_blocked_is_woken_by_bytes),
    CASE(test_select_empty_times_out),
    CASE(test_select_writes_back_the_time_left_pselect_does_not),
    CASE(test_select_limit_below_the_socket_ignores_it),
    CASE(test_select_exceptions_interest_is_quiet_without_urgent_data),
    CASE(test_select_end_and_reset_are_readable),
    CASE(test_select_bad_arguments),
    CASE(test_select_signal_is_eintr_also_with_restart),
    CASES_END,
};
