/*
 * FIONREAD (SIOCINQ): the number of bytes that a receive would give, wherever they are.
 */
#include <linux/sockios.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

static int waiting(int fd)
{
    int n = -1, m = -1;

    MUST(ioctl(fd, FIONREAD, &n));
    MUST(ioctl(fd, SIOCINQ, &m));
    CHECK_EQ(n, m);
    return n;
}

static void test_fionread_counts_all_that_waits(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 300);

        CHECK_EQ(waiting(p.us), 300);
        for (int left = 290; left >= 0; left -= 10) {
            take(&p, 10);
            CHECK_EQ(waiting(p.us), left);
        }
        put(&p, 25);
        CHECK_EQ(waiting(p.us), 25);
        CHECK_EQ(recv(p.us, buf, 10, MSG_PEEK), 10);
        CHECK_EQ(waiting(p.us), 25);
        CHECK_EQ(recv(p.us, buf, 10, MSG_TRUNC), 10);
        CHECK_EQ(waiting(p.us), 15);
        pair_close(&p);
    }
}

static void test_fionread_fresh_and_empty_is_zero(void)
{
    struct pair p = pair_open();

    CHECK_EQ(waiting(p.us), 0);
    put(&p, 5);
    CHECK_EQ(waiting(p.us), 5);
    take(&p, 5);
    warm_up(&p);
    CHECK_EQ(waiting(p.us), 0);
    check_empty(p.us);
    CHECK_EQ(waiting(p.us), 0);
    pair_close(&p);
}

static void test_fionread_taken_in_while_on_another_is_counted(void)
{
    struct pair other = pair_open_warm();
    struct pair p = pair_open_warm();

    for (int i = 1; i < 20; i++) {
        put(&p, 7);
        sleep_on_other(&other);
        CHECK_EQ(waiting(p.us), 7);
        take(&p, 7);
        CHECK_EQ(waiting(p.us), 0);
    }
    pair_close(&p);
    pair_close(&other);
}

static void test_fionread_through_a_dup_is_the_same(void)
{
    struct pair p = pair_open_held(40);
    int dupped = MUST(dup(p.us));

    CHECK_EQ(waiting(dupped), 40);
    take(&p, 10);
    CHECK_EQ(waiting(dupped), 30);
    close(dupped);
    CHECK_EQ(waiting(p.us), 30);
    pair_close(&p);
}

static void test_fionread_at_the_end_counts_bytes_only(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 40);

        peer_fin(&p);
        CHECK_EQ(waiting(p.us), 40);
        take(&p, 30);
        CHECK_EQ(waiting(p.us), 10);
        take(&p, 10);
        CHECK_EQ(waiting(p.us), 0);
        CHECK_EQ(recv(p.us, buf, 1, 0), 0);
        CHECK_EQ(waiting(p.us), 0);
        pair_close(&p);
    }
}

static void test_fionread_after_a_reset_leaves_the_error(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 40);

        take(&p, 40);
        peer_reset(&p);
        CHECK_EQ(waiting(p.us), 0);
        CHECK_ERR(recv(p.us, buf, 1, 0), ECONNRESET);
        CHECK_EQ(waiting(p.us), 0);
        pair_close(&p);
    }
}

static void test_fionread_then_exact_read_never_blocks(void)
{
    struct pair p = pair_open_warm();

    for (int i = 1; i <= 300; i++) {
        size_t n = 1 + (size_t)i * 37 % 500;

        put(&p, n);
        CHECK_EQ(waiting(p.us), n);
        CHECK_EQ(recv(p.us, buf, n, MSG_WAITALL), n);
        check_next(&p, buf, n);
    }
    pair_close(&p);
}

static void test_fionread_bad_arguments(void)
{
    struct pair p = pair_open_held(20);
    int listener = MUST(listener_open(AF_INET));
    int n;

    CHECK_ERR(ioctl(p.us, FIONREAD, (void *)8), EFAULT);
    CHECK_ERR(ioctl(listener, FIONREAD, &n), EINVAL);
    CHECK_ERR(ioctl(-1, FIONREAD, &n), EBADF);
    close(listener);
    take(&p, 20);
    pair_close(&p);
}

const struct test_case test_cases[] = {
    CASE(test_fionread_counts_all_that_waits),
    CASE(test_fionread_fresh_and_empty_is_zero),
    CASE(test_fionread_taken_in_while_on_another_is_counted),
    CASE(test_fionread_through_a_dup_is_the_same),
    CASE(test_fionread_at_the_end_counts_bytes_only),
    CASE(test_fionread_after_a_reset_leaves_the_error),
    CASE(test_fionread_then_exact_read_never_blocks),
    CASE(test_fionread_bad_arguments),
    CASES_END,
};
