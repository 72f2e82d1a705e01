/*
 * Bytes that move inside the kernel: splice() from a connection takes those that arrived first
 * first, wherever they are, and what refuses a socket leaves them there.
 */
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[8192];

static ssize_t by_name(int in, int out, size_t n, unsigned flags)
{
    return splice(in, NULL, out, NULL, n, flags);
}

static ssize_t by_number(int in, int out, size_t n, unsigned flags)
{
    return syscall(SYS_splice, in, NULL, out, NULL, n, flags);
}

/* To a pipe it takes from any file. */
static ssize_t by_sendfile(int in, int out, size_t n, unsigned flags)
{
    return flags ? splice(in, NULL, out, NULL, n, flags) : sendfile(out, in, NULL, n);
}

static ssize_t by_sendfile_number(int in, int out, size_t n, unsigned flags)
{
    return flags ? splice(in, NULL, out, NULL, n, flags) : syscall(SYS_sendfile, out, in, NULL, n);
}

static ssize_t (*const ways[])(int, int, size_t, unsigned) = {
    by_name,
    by_number,
    by_sendfile,
    by_sendfile_number,
};

/* n bytes through a pipe, in as many calls as it takes. */
static void splice_out(struct pair *p, size_t way, size_t n, unsigned flags)
{
    int ends[2];

    MUST(pipe(ends));
    while (n) {
        size_t part = n < 4096 ? n : 4096;
        ssize_t got = ways[way](p->us, ends[1], part, flags);

        CHECK(got > 0 && (size_t)got <= part);
        CHECK_EQ(read(ends[0], buf, (size_t)got), got);
        check_next(p, buf, (size_t)got);
        n -= (size_t)got;
    }
    close(ends[0]);
    close(ends[1]);
}

static void test_splice_takes_what_came_first_first(void)
{
    static const unsigned flags[] = {0, SPLICE_F_MOVE, SPLICE_F_NONBLOCK, SPLICE_F_MORE};

    for (size_t way = 0; way < COUNT_OF(ways); way++) {
        for (size_t f = 0; f < COUNT_OF(flags); f++) {
            for (int where = 0; where < WHERES; where++) {
                struct pair p = pair_open_with((enum where)where, 100);

                splice_out(&p, way, 30, flags[f]);
                take(&p, 10);
                put(&p, 40);
                splice_out(&p, way, 60, flags[f]);
                CHECK_EQ(poll_now(p.us, POLLIN), POLLIN);
                take(&p, 40);
                check_empty(p.us);
                pair_close(&p);
            }
        }
    }
}

/* One call takes all that has arrived, held or not, as far as the pipe has room. */
static void test_splice_takes_what_is_behind_the_held_bytes(void)
{
    for (size_t way = 0; way < COUNT_OF(ways); way++) {
        for (int where = 0; where < WHERES; where++) {
            struct pair p = pair_open_with((enum where)where, 2000);
            int ends[2];

            MUST(pipe(ends));
            CHECK_EQ(ways[way](p.us, ends[1], 4096, 0), 2000);
            CHECK_EQ(read(ends[0], buf, sizeof(buf)), 2000);
            check_next(&p, buf, 2000);
            check_empty(p.us);
            close(ends[0]);
            close(ends[1]);
            pair_close(&p);
        }
    }
}

/* SPLICE_F_NONBLOCK is about the pipe: the connection waits all the same. */
static void test_splice_waits_for_bytes(void)
{
    for (size_t way = 0; way < COUNT_OF(ways); way++) {
        struct pair p = pair_open_held(20);
        struct later_put lp;

        splice_out(&p, way, 20, 0);
        for (unsigned flags = 0; flags <= SPLICE_F_NONBLOCK; flags += SPLICE_F_NONBLOCK) {
            later_put(&lp, &p, 10);
            splice_out(&p, way, 10, flags);
            later_join(&lp.l);
        }
        put(&p, 5);
        take(&p, 5);
        pair_close(&p);
    }
}

static void test_splice_empty_is_eagain_and_at_the_end_zero(void)
{
    for (size_t way = 0; way < COUNT_OF(ways); way++) {
        struct pair p = pair_open_held(20);
        int ends[2];

        MUST(pipe(ends));
        splice_out(&p, way, 20, SPLICE_F_NONBLOCK);
        set_nonblock(p.us, true);
        CHECK_ERR(ways[way](p.us, ends[1], 10, 0), EAGAIN);
        put(&p, 10);
        peer_fin(&p);
        splice_out(&p, way, 10, 0);
        CHECK_EQ(ways[way](p.us, ends[1], 10, 0), 0);
        CHECK_EQ(recv(p.us, buf, 10, 0), 0);
        close(ends[0]);
        close(ends[1]);
        pair_close(&p);
    }
}

/* A pipe with no room takes nothing, and nothing is lost. */
static void test_splice_into_a_full_pipe_loses_nothing(void)
{
    for (size_t way = 0; way < COUNT_OF(ways); way++) {
        struct pair p = pair_open_held(50);
        int ends[2];

        MUST(pipe2(ends, O_NONBLOCK));
        while (write(ends[1], buf, sizeof(buf)) > 0)
            ;
        CHECK_ERR(ways[way](p.us, ends[1], 50, SPLICE_F_NONBLOCK), EAGAIN);
        take(&p, 50);
        check_empty(p.us);
        close(ends[0]);
        close(ends[1]);
        pair_close(&p);
    }
}

/* A call that finds some room takes what fits and does not wait for more of it: the same thread may
 * be the one that empties the pipe. */
static void test_splice_into_a_nearly_full_pipe_does_not_wait(void)
{
    static const unsigned flags[] = {0, SPLICE_F_NONBLOCK};

    for (size_t way = 0; way < COUNT_OF(ways); way++) {
        for (size_t f = 0; f < COUNT_OF(flags); f++) {
            struct pair p = pair_open_held(8000);
            int ends[2], room;
            ssize_t n;

            MUST(pipe(ends));
            room = MUST(fcntl(ends[1], F_SETPIPE_SZ, sizeof(buf)));
            CHECK_EQ(write(ends[1], buf, (size_t)room - 4096), room - 4096);
            n = ways[way](p.us, ends[1], 8000, flags[f]);
            CHECK(n > 0 && n <= 8000);
            for (int left = room - 4096; left;)
                left -= (int)MUST(read(ends[0], buf, left < 8192 ? (size_t)left : 8192));
            CHECK_EQ(read(ends[0], buf, sizeof(buf)), n);
            check_next(&p, buf, (size_t)n);
            take(&p, 8000 - (size_t)n);
            check_empty(p.us);
            close(ends[0]);
            close(ends[1]);
            pair_close(&p);
        }
    }
}

/* Bytes that a refused splice had before it in its hands are still in front of those behind them. */
static void test_splice_refused_after_a_fork_keeps_the_order(void)
{
    for (int broken = 0; broken < 2; broken++) {
        struct pair p = pair_open_held(8000);
        pid_t pid = MUST(fork());
        int ends[2];

        if (pid == 0)
            _exit(0);
        check_child(pid);
        signal(SIGPIPE, SIG_IGN);
        MUST(pipe2(ends, O_NONBLOCK));
        while (!broken && write(ends[1], buf, sizeof(buf)) > 0)
            ;
        if (broken)
            close(ends[0]);
        CHECK_ERR(splice(p.us, NULL, ends[1], NULL, 8000, SPLICE_F_NONBLOCK),
                  broken ? EPIPE : EAGAIN);
        CHECK_EQ(recv(p.us, buf, 8000, MSG_PEEK), 8000);
        check_ahead(&p, buf, 0, 8000);
        take(&p, 8000);
        check_empty(p.us);
        if (!broken)
            close(ends[0]);
        close(ends[1]);
        pair_close(&p);
    }
}

static void empty_pipe(void *arg)
{
    static uint8_t page[4096];

    CHECK_EQ(read(*(int *)arg, page, sizeof(page)), sizeof(page));
}

static void test_splice_waits_for_room_in_the_pipe(void)
{
    for (size_t way = 0; way < COUNT_OF(ways); way++) {
        struct pair p = pair_open_held(100);
        struct later l;
        int ends[2];

        MUST(pipe(ends));
        MUST(fcntl(ends[1], F_SETPIPE_SZ, 4096));
        CHECK_EQ(write(ends[1], buf, 4096), 4096);
        later(&l, empty_pipe, &ends[0]);
        CHECK_EQ(ways[way](p.us, ends[1], 100, 0), 100);
        CHECK(later_join(&l));
        CHECK_EQ(read(ends[0], buf, sizeof(buf)), 100);
        check_next(&p, buf, 100);
        check_empty(p.us);
        close(ends[0]);
        close(ends[1]);
        pair_close(&p);
    }
}

static void test_refused_calls_leave_the_bytes(void)
{
    struct pair p = pair_open_held(50);
    int ends[2], file = MUST(open("/dev/null", O_WRONLY));
    loff_t at = 0;

    MUST(pipe(ends));
    CHECK_ERR(splice(p.us, &at, ends[1], NULL, 10, 0), EINVAL);
    CHECK_ERR(splice(p.us, NULL, file, NULL, 10, 0), EINVAL);
    CHECK_ERR(splice(p.us, NULL, -1, NULL, 10, 0), EBADF);
    CHECK_ERR(splice(p.us, NULL, ends[0], NULL, 10, SPLICE_F_NONBLOCK), EBADF);
    CHECK_ERR(splice(p.us, NULL, ends[1], NULL, 10, 0x1000), EINVAL);
    CHECK_EQ(splice(p.us, NULL, ends[1], NULL, 0, 0), 0);
    CHECK_ERR(tee(p.us, ends[1], 10, 0), EINVAL);
    CHECK_ERR(syscall(SYS_tee, p.us, ends[1], 10, 0), EINVAL);
    CHECK_ERR(sendfile(ends[1], p.us, &at, 10), ESPIPE);
    CHECK_ERR(sendfile(p.peer, p.us, NULL, 10), EINVAL);
    CHECK_ERR(syscall(SYS_sendfile, p.peer, p.us, NULL, 10), EINVAL);
    CHECK_ERR(copy_file_range(p.us, NULL, file, NULL, 10, 0), EINVAL);
    take(&p, 50);
    check_empty(p.us);
    close(file);
    close(ends[0]);
    close(ends[1]);
    pair_close(&p);
}

/* As a proxy does it: from one connection to another through a pipe, and looked at by tee. */
static void test_relay_through_a_pipe_with_tee(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with((enum where)where, 3000), q = pair_open_held(20);
        int ends[2], copy[2];

        MUST(pipe(ends));
        MUST(pipe(copy));
        while (p.got < p.sent) {
            ssize_t n = splice(p.us, NULL, ends[1], NULL, 700, SPLICE_F_MOVE), out = 0;

            CHECK(n > 0);
            CHECK_EQ(tee(ends[0], copy[1], (size_t)n, 0), n);
            while (out < n)
                out += MUST(splice(ends[0], NULL, q.us, NULL, (size_t)(n - out), 0));
            CHECK_EQ(recv(q.peer, buf, (size_t)n, MSG_WAITALL), n);
            check_ahead(&p, buf, 0, (size_t)n);
            CHECK_EQ(read(copy[0], buf, (size_t)n), n);
            check_next(&p, buf, (size_t)n);
        }
        take(&q, 20);
        check_empty(p.us);
        close(ends[0]);
        close(ends[1]);
        close(copy[0]);
        close(copy[1]);
        pair_close(&p);
        pair_close(&q);
    }
}

/* Takes what there is by TCP_ZEROCOPY_RECEIVE: nothing can be mapped here, it is copied, or left to recv(). */
static size_t take_zerocopy(struct pair *p)
{
    struct tcp_zerocopy_receive z = {
        .inq = 7, .copybuf_address = (uintptr_t)buf, .copybuf_len = sizeof(buf)};
    socklen_t len = sizeof(z);
    uint64_t unread = p->sent - p->got;
    size_t n;

    MUST(getsockopt(p->us, IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE, &z, &len));
    CHECK_EQ(z.length, 0);
    n = (size_t)z.copybuf_len;
    if (!n)
        CHECK_EQ(z.inq, unread);
    CHECK(n <= unread);
    check_next(p, buf, n);
    take(p, z.recv_skip_hint);
    return n + z.recv_skip_hint;
}

/* What was read ahead was left out, and what came after it was given instead. */
static void test_zerocopy_receive_takes_what_came_first_first(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with((enum where)where, 100);

        take(&p, 30);
        put(&p, 50);
        while (p.got < p.sent)
            CHECK(take_zerocopy(&p) > 0);
        put(&p, 20);
        CHECK_EQ(take_zerocopy(&p), 20);
        check_empty(p.us);
        peer_fin(&p);
        CHECK_EQ(recv(p.us, buf, 1, 0), 0);
        pair_close(&p);
    }
}

/* The end, too, comes behind what was read ahead. */
static void test_zerocopy_receive_then_the_end(void)
{
    struct pair p = pair_open_held(100);
    struct tcp_zerocopy_receive z = {0};
    socklen_t len = sizeof(z);

    peer_fin(&p);
    CHECK_EQ(take_zerocopy(&p), 100);
    CHECK_ERR(getsockopt(p.us, IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE, &z, &len), EIO);
    CHECK_EQ(recv(p.us, buf, 1, 0), 0);
    pair_close(&p);
}

static void test_splice_in_the_child_then_reads_in_the_parent(void)
{
    for (size_t way = 0; way < COUNT_OF(ways); way++) {
        struct shared *s = pair_share(pair_open_held(100));
        pid_t pid = MUST(fork());

        if (pid == 0) {
            splice_out(&s->p, way, 40, 0);
            _exit(0);
        }
        check_child(pid);
        take(&s->p, 30);
        splice_out(&s->p, way, 30, 0);
        check_empty(s->p.us);
        put(&s->p, 10);
        splice_out(&s->p, way, 10, 0);
        shared_close(s);
    }
}

const struct test_case test_cases[] = {
    CASE(test_splice_takes_what_came_first_first),
    CASE(test_splice_takes_what_is_behind_the_held_bytes),
    CASE(test_splice_waits_for_bytes),
    CASE(test_splice_empty_is_eagain_and_at_the_end_zero),
    CASE(test_splice_into_a_full_pipe_loses_nothing),
    CASE(test_splice_into_a_nearly_full_pipe_does_not_wait),
    CASE(test_splice_refused_after_a_fork_keeps_the_order),
    CASE(test_splice_waits_for_room_in_the_pipe),
    CASE(test_refused_calls_leave_the_bytes),
    CASE(test_relay_through_a_pipe_with_tee),
    CASE(test_zerocopy_receive_takes_what_came_first_first),
    CASE(test_zerocopy_receive_then_the_end),
    CASE(test_splice_in_the_child_then_reads_in_the_parent),
    CASES_END,
};
