/*
 * SO_RCVTIMEO: set before the first receive or after many, inherited from the listener, counted
 * over a whole call, and without effect on anything that does not block.
 */
#include <netinet/in.h>
#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

/* A receive on an empty socket ends with EAGAIN after at least ms, and not much later. */
static void check_times_out(int fd, int64_t ms, int flags)
{
    int64_t took = 0;

    /* Too early is wrong always; too late only if it is so each time: the machine may be busy. */
    for (int tries = 0; tries < 5; tries++) {
        int64_t start = now_ms();

        CHECK_ERR(recv(fd, buf, 100, flags), EAGAIN);
        took = now_ms() - start;
        if (took < ms - 1)
            break;
        if (took <= ms + slack(500))
            return;
    }
    FAIL("a time of %lld ms took %lld ms", (long long)ms, (long long)took);
}

static void test_timeout_set_on_a_fresh_socket_is_kept(void)
{
    struct pair p = pair_open();

    set_timeout(p.us, 30);
    check_times_out(p.us, 30, 0);
    put(&p, 10);
    take(&p, 10);
    check_times_out(p.us, 30, 0);
    pair_close(&p);
}

static void test_timeout_set_on_a_used_socket_is_kept(void)
{
    struct pair p = pair_open_held(10);

    set_timeout(p.us, 30);
    take(&p, 10);
    check_times_out(p.us, 30, 0);
    check_times_out(p.us, 30, MSG_PEEK);
    check_times_out(p.us, 30, MSG_WAITALL);
    check_times_out(p.us, 30, MSG_TRUNC);
    set_timeout(p.us, 60);
    check_times_out(p.us, 60, 0);
    put(&p, 10);
    take(&p, 10);
    pair_close(&p);
}

static void test_timeout_holds_for_every_call(void)
{
    struct pair p = pair_open_warm();
    struct iovec v = {buf, 10};
    struct msghdr msg = {.msg_iov = &v, .msg_iovlen = 1};
    struct mmsghdr mm = {.msg_hdr = msg};
    int64_t start = now_ms();

    set_timeout(p.us, 20);
    CHECK_ERR(read(p.us, buf, 10), EAGAIN);
    CHECK_ERR(readv(p.us, &v, 1), EAGAIN);
    CHECK_ERR(recvfrom(p.us, buf, 10, 0, NULL, NULL), EAGAIN);
    CHECK_ERR(recvmsg(p.us, &msg, 0), EAGAIN);
    CHECK_ERR(recvmmsg(p.us, &mm, 1, 0, NULL), EAGAIN);
    CHECK_ERR(preadv2(p.us, &v, 1, -1, 0), EAGAIN);
    CHECK(now_ms() - start >= 6 * 20 - 1);
    pair_close(&p);
}

static void test_timeout_off_again_blocks(void)
{
    struct pair p = pair_open_warm();
    struct later_put lp;

    set_timeout(p.us, 20);
    check_times_out(p.us, 20, 0);
    set_timeout(p.us, 0);
    later_put(&lp, &p, 10);
    take(&p, 10);
    later_join(&lp.l);
    pair_close(&p);
}

static void test_timeout_inherited_from_the_listener_is_kept(void)
{
    int listener = MUST(listener_open(AF_INET));
    struct pair p = {0};

    set_timeout(listener, 30);
    p.peer = connect_to(listener);
    p.us = MUST(accept(listener, NULL, NULL));
    check_times_out(p.us, 30, 0);
    warm_up(&p);
    check_times_out(p.us, 30, 0);
    close(listener);
    pair_close(&p);
}

static void test_timeout_bytes_before_its_end_are_given(void)
{
    struct pair p = pair_open_warm();

    set_timeout(p.us, 10000);
    for (int i = 0; i < 20; i++) {
        struct later_put lp;
        int64_t start = now_ms();

        later_put(&lp, &p, 10);
        take(&p, 10);
        later_join(&lp.l);
        CHECK(now_ms() - start < slack(5000));
    }
    pair_close(&p);
}

static void *put_at_60_ms(void *arg)
{
    struct timespec ts = {0, 60 * 1000 * 1000};

    nanosleep(&ts, NULL);
    put_now(arg, 1);
    return NULL;
}

/* Returns how long it took, or -1 if the byte came too late to tell. */
static int64_t time_waitall(enum where where)
{
    struct pair p = pair_open_with(where, 5);
    struct worker w;
    int64_t start, took;
    ssize_t n;

    set_timeout(p.us, 100);
    start = now_ms();
    worker_start(&w, put_at_60_ms, &p);
    n = recv(p.us, buf, 50, MSG_WAITALL);
    took = now_ms() - start;
    CHECK(n == 5 || n == 6);
    check_next(&p, buf, (size_t)n);
    worker_join(&w);
    pair_close(&p);
    return n == 6 ? took : -1;
}

static void test_timeout_waitall_counts_over_the_whole_call(void)
{
    for (int where = 0; where < WHERES; where++) {
        int64_t took = -1;

        /* Each byte that comes does not buy another 100 ms: 160 would be wrong, each time. */
        for (int tries = 0; tries < 10 && (took < 0 || took >= slack(155)); tries++) {
            took = time_waitall((enum where)where);
            CHECK(took < 0 || took >= 99);
        }
        if (took < 0 || took >= slack(155))
            FAIL("a time of 100 ms took %lld ms", (long long)took);
    }
}

static void test_timeout_changed_during_a_receive_counts_from_the_next(void)
{
    struct pair p = pair_open_warm();
    struct later_put lp;

    set_timeout(p.us, 5000);
    later_put(&lp, &p, 1);
    take(&p, 1);
    later_join(&lp.l);
    set_timeout(p.us, 20);
    check_times_out(p.us, 20, 0);
    pair_close(&p);
}

static void test_timeout_nonblocking_is_not_touched(void)
{
    struct pair p = pair_open_warm();
    int64_t start = now_ms();

    set_timeout(p.us, 3000);
    CHECK_ERR(recv(p.us, buf, 10, MSG_DONTWAIT), EAGAIN);
    set_nonblock(p.us, true);
    CHECK_ERR(recv(p.us, buf, 10, 0), EAGAIN);
    CHECK(now_ms() - start < slack(2000));
    set_nonblock(p.us, false);
    set_timeout(p.us, 20);
    check_times_out(p.us, 20, 0);
    pair_close(&p);
}

static void test_timeout_does_not_shorten_poll(void)
{
    struct pair p = pair_open_warm();
    struct pollfd pfd = {.fd = p.us, .events = POLLIN};
    int64_t start = now_ms();

    set_timeout(p.us, 10);
    CHECK_EQ(poll(&pfd, 1, 60), 0);
    CHECK(now_ms() - start >= 59);
    pair_close(&p);
}

static void test_timeout_values_read_back_as_the_kernel_rounds(void)
{
    struct pair p = pair_open_warm();
    struct timeval tv = {2, 0};
    socklen_t len = sizeof(tv);

    MUST(setsockopt(p.us, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
    tv = (struct timeval){9, 9};
    CHECK_EQ(getsockopt(p.us, SOL_SOCKET, SO_RCVTIMEO, &tv, &len), 0);
    CHECK_EQ(tv.tv_sec, 2);
    CHECK_EQ(tv.tv_usec, 0);
    CHECK_EQ(len, sizeof(tv));
    pair_close(&p);
}

static void test_timeout_bad_values_are_refused(void)
{
    struct pair p = pair_open_warm();
    struct timeval tv = {20, 1000000};
    int one = 1;

    set_timeout(p.us, 30);
    CHECK_ERR(setsockopt(p.us, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)), EDOM);
    CHECK_ERR(setsockopt(p.us, SOL_SOCKET, SO_RCVTIMEO, &one, sizeof(one)), EINVAL);
    CHECK_ERR(setsockopt(p.us, SOL_SOCKET, SO_RCVTIMEO, NULL, sizeof(tv)), EFAULT);
    check_times_out(p.us, 30, 0);
    pair_close(&p);
}

static void test_timeout_negative_is_at_once(void)
{
    struct pair p = pair_open_warm();
    struct timeval tv = {-1, 0};
    int64_t start = now_ms();

    MUST(setsockopt(p.us, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
    CHECK_ERR(recv(p.us, buf, 10, 0), EAGAIN);
    CHECK(now_ms() - start < slack(1000));
    put(&p, 10);
    take(&p, 10);
    pair_close(&p);
}

static void test_timeout_smallest_is_not_for_ever(void)
{
    struct pair p = pair_open_warm();
    struct timeval tv = {0, 1};

    MUST(setsockopt(p.us, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
    check_times_out(p.us, 0, 0);
    pair_close(&p);
}

static void test_timeout_for_sending_is_another(void)
{
    struct pair p = pair_open_warm();
    struct timeval tv = {0, 20000};
    struct later_put lp;

    MUST(setsockopt(p.us, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)));
    later_put(&lp, &p, 10);
    take(&p, 10);
    later_join(&lp.l);
    pair_close(&p);
}

static void test_timeout_shared_by_dups(void)
{
    struct pair p = pair_open_warm();
    int dupped = MUST(dup(p.us));

    set_timeout(dupped, 30);
    check_times_out(p.us, 30, 0);
    check_times_out(dupped, 30, 0);
    close(dupped);
    check_times_out(p.us, 30, 0);
    pair_close(&p);
}

static void test_timeout_then_end_of_stream_is_zero(void)
{
    struct pair p = pair_open_warm();

    set_timeout(p.us, 20);
    check_times_out(p.us, 20, 0);
    peer_fin(&p);
    CHECK_EQ(recv(p.us, buf, 10, 0), 0);
    pair_close(&p);
}

const struct test_case test_cases[] = {
    CASE(test_timeout_set_on_a_fresh_socket_is_kept),
    CASE(test_timeout_set_on_a_used_socket_is_kept),
    CASE(test_timeout_holds_for_every_call),
    CASE(test_timeout_off_again_blocks),
    CASE_ONCE(test_timeout_inherited_from_the_listener_is_kept),
    CASE(test_timeout_bytes_before_its_end_are_given),
    CASE(test_timeout_waitall_counts_over_the_whole_call),
    CASE(test_timeout_changed_during_a_receive_counts_from_the_next),
    CASE(test_timeout_nonblocking_is_not_touched),
    CASE(test_timeout_does_not_shorten_poll),
    CASE(test_timeout_values_read_back_as_the_kernel_rounds),
    CASE(test_timeout_bad_values_are_refused),
    CASE(test_timeout_negative_is_at_once),
    CASE(test_timeout_smallest_is_not_for_ever),
    CASE(test_timeout_for_sending_is_another),
    CASE(test_timeout_shared_by_dups),
    CASE(test_timeout_then_end_of_stream_is_zero),
    CASES_END,
};
