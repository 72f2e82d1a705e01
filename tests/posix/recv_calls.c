/*
 * Every call that receives: one stream is read through all of them in turn, and what each reports
 * beside the bytes (names, flags, control data, counts) is what TCP reports.
 *
 * Built with -O2 -D_FORTIFY_SOURCE=2, so that the checked variants are among them.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

ssize_t __read(int fd, void *buf, size_t n);
ssize_t __read_chk(int fd, void *buf, size_t n, size_t size);
ssize_t __recv_chk(int fd, void *buf, size_t n, size_t size, int flags);
ssize_t __recvfrom_chk(int fd, void *buf, size_t n, size_t size, int flags,
                       struct sockaddr *restrict addr, socklen_t *restrict len);

static uint8_t buf[4096];

/* n bytes over three vectors, one of them empty. */
static int split(struct iovec v[3], void *p, size_t n)
{
    v[0] = (struct iovec){p, n / 3};
    v[1] = (struct iovec){NULL, 0};
    v[2] = (struct iovec){(uint8_t *)p + n / 3, n - n / 3};
    return 3;
}

static ssize_t by_read(int fd, void *p, size_t n)
{
    return read(fd, p, n);
}

static ssize_t by_under_read(int fd, void *p, size_t n)
{
    return __read(fd, p, n);
}

static ssize_t by_read_chk(int fd, void *p, size_t n)
{
    return __read_chk(fd, p, n, n);
}

static ssize_t by_fortified_read(int fd, void *p, size_t n)
{
    uint8_t local[1000];
    ssize_t got = read(fd, local, n); /* __read_chk: the size of local is known, n is not */

    if (got > 0)
        memcpy(p, local, (size_t)got);
    return got;
}

static ssize_t by_recv(int fd, void *p, size_t n)
{
    return recv(fd, p, n, 0);
}

static ssize_t by_recv_chk(int fd, void *p, size_t n)
{
    return __recv_chk(fd, p, n, n, 0);
}

static ssize_t by_recvfrom(int fd, void *p, size_t n)
{
    struct sockaddr_storage addr;
    socklen_t len = sizeof(addr);
    ssize_t got;

    memset(&addr, 0x55, sizeof(addr));
    got = recvfrom(fd, p, n, 0, (struct sockaddr *)&addr, &len);
    if (got >= 0) {
        CHECK_EQ(len, 0);
        CHECK_EQ(((uint8_t *)&addr)[0], 0x55);
    }
    return got;
}

static ssize_t by_recvfrom_noname(int fd, void *p, size_t n)
{
    return recvfrom(fd, p, n, 0, NULL, NULL);
}

static ssize_t by_recvfrom_chk(int fd, void *p, size_t n)
{
    return __recvfrom_chk(fd, p, n, n, 0, NULL, NULL);
}

static ssize_t by_readv(int fd, void *p, size_t n)
{
    struct iovec v[3];

    return readv(fd, v, split(v, p, n));
}

static ssize_t by_preadv2(int fd, void *p, size_t n)
{
    struct iovec v[3];

    return preadv2(fd, v, split(v, p, n), -1, 0);
}

static ssize_t by_preadv64v2(int fd, void *p, size_t n)
{
    struct iovec v[3];

    return preadv64v2(fd, v, split(v, p, n), -1, 0);
}

static ssize_t by_recvmsg(int fd, void *p, size_t n)
{
    struct sockaddr_storage addr;
    char control[64];
    struct iovec v[3];
    struct msghdr msg = {.msg_name = &addr,
                         .msg_namelen = sizeof(addr),
                         .msg_iov = v,
                         .msg_control = control,
                         .msg_controllen = sizeof(control),
                         .msg_flags = 0x7fff};
    ssize_t got;

    msg.msg_iovlen = (size_t)split(v, p, n);
    got = recvmsg(fd, &msg, 0);
    if (got >= 0) {
        CHECK_EQ(msg.msg_namelen, 0);
        CHECK_EQ(msg.msg_controllen, 0);
        CHECK_EQ(msg.msg_flags, 0);
        CHECK_EQ(msg.msg_iovlen, 3);
        CHECK(msg.msg_name == &addr && msg.msg_control == control && msg.msg_iov == v);
    }
    return got;
}

static ssize_t by_recvmmsg(int fd, void *p, size_t n)
{
    struct iovec v[3];
    struct mmsghdr mm = {.msg_hdr = {.msg_iov = v}, .msg_len = 4711};
    int got;

    mm.msg_hdr.msg_iovlen = (size_t)split(v, p, n);
    got = recvmmsg(fd, &mm, 1, 0, NULL);
    if (got < 0)
        return -1;
    CHECK_EQ(got, 1);
    CHECK_EQ(mm.msg_hdr.msg_flags, 0);
    return mm.msg_len;
}

static const struct {
    const char *name;
    ssize_t (*call)(int fd, void *p, size_t n);
} calls[] = {
    {"read", by_read},
    {"__read", by_under_read},
    {"__read_chk", by_read_chk},
    {"read (fortified)", by_fortified_read},
    {"recv", by_recv},
    {"__recv_chk", by_recv_chk},
    {"recvfrom", by_recvfrom},
    {"recvfrom (no name)", by_recvfrom_noname},
    {"__recvfrom_chk", by_recvfrom_chk},
    {"readv", by_readv},
    {"preadv2", by_preadv2},
    {"preadv64v2", by_preadv64v2},
    {"recvmsg", by_recvmsg},
    {"recvmmsg", by_recvmmsg},
};

#define FOR_EACH_CALL(i) for (size_t i = 0; i < COUNT_OF(calls); i++)

static void expect(struct pair *p, size_t i, size_t n, ssize_t wanted)
{
    ssize_t got;

    memset(buf, 0, n);
    errno = 0;
    got = calls[i].call(p->us, buf, n);
    if (got != wanted)
        FAIL("%s of %zu bytes: wanted %zd, got %zd (errno %d)", calls[i].name, n, wanted, got,
             errno);
    if (got > 0)
        check_next(p, buf, (size_t)got);
}

/* All n bytes, over as many calls as it takes: where bytes lie apart a call may give fewer. */
static void expect_all(struct pair *p, size_t i, size_t n)
{
    while (n) {
        ssize_t got = calls[i].call(p->us, buf, n);

        if (got <= 0)
            FAIL("%s of %zu bytes: got %zd (errno %d)", calls[i].name, n, got, errno);
        check_next(p, buf, (size_t)got);
        n -= (size_t)got;
    }
}

static void expect_errno(struct pair *p, size_t i, int wanted)
{
    errno = 0;
    if (calls[i].call(p->us, buf, 100) != -1 || errno != wanted)
        FAIL("%s: wanted errno %d, got %d", calls[i].name, wanted, errno);
}

static void test_calls_in_turn_give_one_stream(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 26);

        FOR_EACH_CALL(first)
        {
            FOR_EACH_CALL(second)
            {
                expect_all(&p, first, 7);
                put(&p, 20);
                expect_all(&p, second, 13);
            }
        }
        take(&p, 26);
        check_empty(p.us);
        pair_close(&p);
    }
}

static void test_calls_short_return_what_is_there(void)
{
    FOR_EACH_CALL(i)
    {
        struct pair p = pair_open_held(50);

        expect(&p, i, 900, 50);
        put(&p, 50);
        expect(&p, i, 900, 50);
        pair_close(&p);
    }
}

static void test_calls_empty_block_until_bytes_come(void)
{
    struct pair p = pair_open_warm();

    FOR_EACH_CALL(i)
    {
        struct later_put lp;

        later_put(&lp, &p, 10);
        expect(&p, i, 30, 10);
        later_join(&lp.l);
    }
    pair_close(&p);
}

static void test_calls_first_on_a_fresh_socket_block(void)
{
    FOR_EACH_CALL(i)
    {
        struct pair p = pair_open();
        struct later_put lp;

        later_put(&lp, &p, 10);
        expect(&p, i, 30, 10);
        later_join(&lp.l);
        put(&p, 30);
        expect(&p, i, 10, 10);
        expect(&p, i, 10, 10);
        expect(&p, i, 10, 10);
        pair_close(&p);
    }
}

static void test_calls_nonblocking_empty_are_eagain(void)
{
    struct pair p = pair_open_warm();

    set_nonblock(p.us, true);
    FOR_EACH_CALL(i)
    {
        expect_errno(&p, i, EAGAIN);
        put(&p, 20);
        expect(&p, i, 15, 15);
        expect(&p, i, 15, 5);
        expect_errno(&p, i, EAGAIN);
    }
    pair_close(&p);
}

static void test_calls_at_eof_are_zero(void)
{
    struct pair p = pair_open_held(20);

    peer_fin(&p);
    take(&p, 20);
    FOR_EACH_CALL(i)
    {
        expect(&p, i, 10, 0);
        expect(&p, i, 10, 0);
    }
    pair_close(&p);
}

static void test_calls_after_reset_give_bytes_error_eof(void)
{
    FOR_EACH_CALL(i)
    {
        struct pair p = pair_open_held(20);

        peer_reset(&p);
        /* recvmmsg alone asks for the error before it looks at the bytes. */
        if (calls[i].call == by_recvmmsg)
            expect_errno(&p, i, ECONNRESET);
        expect(&p, i, 15, 15);
        expect(&p, i, 15, 5);
        if (calls[i].call != by_recvmmsg)
            expect_errno(&p, i, ECONNRESET);
        expect(&p, i, 15, 0);
        pair_close(&p);
    }
}

static void test_calls_on_a_number_never_opened_are_ebadf(void)
{
    struct pair p = {.us = 999, .peer = -1};

    FOR_EACH_CALL(i) expect_errno(&p, i, EBADF);
    p.us = -1;
    FOR_EACH_CALL(i) expect_errno(&p, i, EBADF);
    p.us = 0x7fffffff;
    FOR_EACH_CALL(i) expect_errno(&p, i, EBADF);
}

static void test_chk_overflow_aborts(void)
{
    for (int which = 0; which < 3; which++) {
        struct pair p = pair_open_held(20);
        pid_t pid = fork();
        ssize_t got;
        int status;

        if (pid == 0) {
            int null = open("/dev/null", O_WRONLY);

            dup2(null, STDERR_FILENO);
            signal(SIGABRT, SIG_DFL);
            if (which == 0)
                got = __read_chk(p.us, buf, 11, 10);
            else if (which == 1)
                got = __recv_chk(p.us, buf, 11, 10, 0);
            else
                got = __recvfrom_chk(p.us, buf, 11, 10, 0, NULL, NULL);
            _exit(got > 0 ? 0 : 1);
        }
        MUST(waitpid(pid, &status, 0));
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
        take(&p, 20);
        pair_close(&p);
    }
}

const struct test_case test_cases[] = {
    CASE(test_calls_in_turn_give_one_stream),
    CASE(test_calls_short_return_what_is_there),
    CASE(test_calls_empty_block_until_bytes_come),
    CASE(test_calls_first_on_a_fresh_socket_block),
    CASE(test_calls_nonblocking_empty_are_eagain),
    CASE(test_calls_at_eof_are_zero),
    CASE(test_calls_after_reset_give_bytes_error_eof),
    CASE_ONCE(test_calls_on_a_number_never_opened_are_ebadf),
    CASE_ONCE(test_chk_overflow_aborts),
    CASES_END,
};
