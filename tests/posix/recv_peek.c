/*
 * MSG_PEEK: shows what plain recv would give, wherever the bytes are, and takes none of them.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[1 << 20];

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

static void *reset_soon(void *arg)
{
    struct pair *p = arg;

    /* Somewhere in the midst of the looks that the other thread takes. */
    for (volatile unsigned i = (unsigned)now_ms() % 64 * 50; i; i--)
        ;
    reset_close(p->peer);
    return NULL;
}

/*
 * A look at more than waits asks the kernel for the rest. A reset that arrives between two steps of
 * it must not be used up by that question: the program has been given bytes, not the error.
 */
static void test_peek_while_a_reset_arrives_leaves_the_error(void)
{
    for (int round = 0; round < 600; round++) {
        struct pair p = pair_open_with((enum where)(round % WHERES), 100);
        struct worker w;

        worker_start(&w, reset_soon, &p);
        for (int after = 0; after < 3;) {
            CHECK_EQ(recv(p.us, buf, sizeof(buf), MSG_PEEK | MSG_DONTWAIT), 100);
            if (tcp_state(p.us) == TCP_CLOSE)
                after++;
        }
        worker_join(&w);
        take(&p, 100);
        CHECK_ERR(recv(p.us, buf, 10, MSG_DONTWAIT), ECONNRESET);
        CHECK_EQ(recv(p.us, buf, 10, 0), 0);
        MUST(close(p.us));
    }
}

const struct test_case test_cases[] = {
    CASE(test_peek_bytes_waiting_shows_all_takes_none),
    CASE(test_peek_across_many_sends_shows_all),
    CASE(test_peek_then_exact_reads_of_lines_are_right),
    CASE(test_peek_empty_blocks_or_is_eagain),
    CASE(test_peek_at_eof_is_zero_each_time),
    CASE(test_peek_waitall_waits_for_all),
    CASE(test_peek_trunc_counts_without_copy),
    CASE(test_peek_while_a_reset_arrives_leaves_the_error),
    CASES_END,
};
