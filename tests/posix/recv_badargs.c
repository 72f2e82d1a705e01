/*
 * Wrong arguments: the kernel's errno comes back, and no byte of the stream is lost by it.
 */
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

#define PAGE 4096UL

static uint8_t buf[4096];

/* Through pointers: the compiler knows read() well enough to refuse what is tried here. */
static ssize_t (*volatile do_read)(int fd, void *p, size_t n) = read;
static ssize_t (*volatile do_readv)(int fd, const struct iovec *v, int n) = readv;

static void *const wild = (void *)0x10;     /* user space, never mapped */
static void *const beyond = (void *)-4096L; /* the kernel's half */

static void test_closed_number_is_ebadf(void)
{
    struct pair p = pair_open_held(10);
    int fd = p.us;

    MUST(close(fd));
    CHECK_ERR(recv(fd, buf, 10, 0), EBADF);
    CHECK_ERR(do_read(fd, buf, 10), EBADF);
    CHECK_ERR(recv(fd, wild, 10, 0), EBADF);
    CHECK_ERR(close(fd), EBADF);
    CHECK_ERR(recv(-1, buf, 10, 0), EBADF);
    CHECK_ERR(recv(INT_MAX, buf, 10, 0), EBADF);
    CHECK_ERR(recv(INT_MIN, buf, 10, 0), EBADF);
    p.us = -1;
    pair_close(&p);
}

static void test_file_and_pipe_are_enotsock_for_recv_only(void)
{
    char name[] = "/tmp/recv_badargs.XXXXXX";
    int file = MUST(mkstemp(name));
    int ends[2];

    unlink(name);
    MUST(pipe(ends));
    CHECK_EQ(write(file, "file", 4), 4);
    CHECK_EQ(write(ends[1], "pipe", 4), 4);
    CHECK_ERR(recv(file, buf, 10, 0), ENOTSOCK);
    CHECK_ERR(recv(ends[0], buf, 10, 0), ENOTSOCK);
    CHECK_ERR(recv(ends[0], buf, 10, MSG_PEEK | MSG_DONTWAIT), ENOTSOCK);
    CHECK_EQ(lseek(file, 0, SEEK_SET), 0);
    CHECK_EQ(do_read(file, buf, 10), 4);
    CHECK_EQ(memcmp(buf, "file", 4), 0);
    CHECK_EQ(do_read(file, buf, 10), 0);
    CHECK_EQ(do_read(ends[0], buf, 10), 4);
    CHECK_EQ(memcmp(buf, "pipe", 4), 0);
    CHECK_ERR(do_read(ends[1], buf, 10), EBADF);
    close(file);
    close(ends[0]);
    close(ends[1]);
}

static void test_listening_and_unconnected_are_enotconn(void)
{
    int listener = MUST(listener_open(AF_INET));
    int fresh = MUST(socket(AF_INET, SOCK_STREAM, 0));

    CHECK_ERR(recv(listener, buf, 10, 0), ENOTCONN);
    CHECK_ERR(do_read(listener, buf, 10), ENOTCONN);
    CHECK_ERR(recv(fresh, buf, 10, 0), ENOTCONN);
    CHECK_ERR(do_read(fresh, buf, 10), ENOTCONN);
    CHECK_ERR(recv(fresh, buf, 10, MSG_PEEK), ENOTCONN);
    close(listener);
    close(fresh);
}

static void test_connect_after_a_refused_receive_works(void)
{
    int listener = MUST(listener_open(AF_INET));
    struct sockaddr_in addr;
    socklen_t len = sizeof(addr);
    struct pair p = {0};

    MUST(getsockname(listener, (struct sockaddr *)&addr, &len));
    p.us = MUST(socket(AF_INET, SOCK_STREAM, 0));
    CHECK_ERR(recv(p.us, buf, 10, 0), ENOTCONN);
    MUST(connect(p.us, (struct sockaddr *)&addr, len));
    p.peer = MUST(accept(listener, NULL, NULL));
    close(listener);
    warm_up(&p);
    put(&p, 100);
    take(&p, 100);
    pair_close(&p);
}

static void test_wild_pointer_is_efault_takes_none(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 40);
        struct iovec v = {wild, 10};
        struct msghdr msg = {.msg_iov = &v, .msg_iovlen = 1};

        CHECK_ERR(recv(p.us, wild, 10, 0), EFAULT);
        CHECK_ERR(recv(p.us, NULL, 10, 0), EFAULT);
        CHECK_ERR(do_read(p.us, wild, 10), EFAULT);
        CHECK_ERR(do_read(p.us, NULL, 10), EFAULT);
        CHECK_ERR(recv(p.us, wild, 10, MSG_DONTWAIT), EFAULT);
        CHECK_ERR(recv(p.us, wild, 10, MSG_PEEK), EFAULT);
        CHECK_ERR(recv(p.us, wild, 10, MSG_WAITALL), EFAULT);
        CHECK_ERR(recv(p.us, beyond, 10, 0), EFAULT);
        CHECK_ERR(do_read(p.us, beyond, 10), EFAULT);
        CHECK_ERR(do_readv(p.us, &v, 1), EFAULT);
        CHECK_ERR(recvmsg(p.us, &msg, 0), EFAULT);
        CHECK_ERR(do_readv(p.us, wild, 1), EFAULT);
        CHECK_ERR(recvmsg(p.us, wild, 0), EFAULT);
        CHECK_ERR(recvmmsg(p.us, wild, 1, 0, NULL), EFAULT);
        msg.msg_iov = wild;
        CHECK_ERR(recvmsg(p.us, &msg, 0), EFAULT);
        take(&p, 40);
        check_empty(p.us);
        pair_close(&p);
    }
}

static void test_wild_pointer_nothing_waiting_is_told_after_the_wait(void)
{
    struct pair p = pair_open_warm();
    struct later_put lp;

    CHECK_ERR(recv(p.us, wild, 10, MSG_DONTWAIT), EAGAIN);
    CHECK_ERR(recv(p.us, beyond, 10, MSG_DONTWAIT), EFAULT);
    later_put(&lp, &p, 10);
    CHECK_ERR(recv(p.us, wild, 10, 0), EFAULT);
    later_join(&lp.l);
    take(&p, 10);
    peer_fin(&p);
    CHECK_EQ(recv(p.us, wild, 10, 0), 0);
    CHECK_EQ(recv(p.us, NULL, 10, 0), 0);
    pair_close(&p);
}

static uint8_t *pages(int n, int prot)
{
    void *at = mmap(NULL, (size_t)n * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(at != MAP_FAILED);
    return at;
}

static void test_half_mapped_buffer_enough_room_is_filled(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);
        uint8_t *area = pages(2, PROT_READ | PROT_WRITE);
        ssize_t n, sum = 0;

        MUST(munmap(area + PAGE, PAGE));
        /* The length says more than is mapped; what has come fits. */
        while (sum < 20) {
            n = recv(p.us, area + PAGE - 50, 1000, 0);
            CHECK(n > 0 && n <= 20);
            check_next(&p, area + PAGE - 50, (size_t)n);
            sum += n;
        }
        check_empty(p.us);
        munmap(area, PAGE);
        pair_close(&p);
    }
}

static void test_half_mapped_buffer_too_small_loses_nothing(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 100);
        uint8_t *area = pages(2, PROT_READ | PROT_WRITE);
        ssize_t n;

        MUST(munmap(area + PAGE, PAGE));
        n = recv(p.us, area + PAGE - 30, 100, 0);
        if (n < 0)
            CHECK_EQ(errno, EFAULT);
        else
            CHECK(n <= 30);
        if (n > 0)
            check_next(&p, area + PAGE - 30, (size_t)n);
        take(&p, p.sent - p.got);
        check_empty(p.us);
        munmap(area, PAGE);
        pair_close(&p);
    }
}

/* What came in one piece is refused in one piece, also to a look, and wherever its parts are now. */
static void test_half_mapped_buffer_peek_is_refused(void)
{
    struct pair p = pair_open_warm();
    uint8_t *area = pages(2, PROT_READ | PROT_WRITE);

    MUST(munmap(area + PAGE, PAGE));
    put(&p, 200);
    take(&p, 1);
    CHECK_ERR(recv(p.us, area + PAGE - 150, 300, MSG_PEEK), EFAULT);
    CHECK_EQ(recv(p.us, area + PAGE - 200, 300, MSG_PEEK), 199);
    check_ahead(&p, area + PAGE - 200, 0, 199);
    take(&p, 199);
    check_empty(p.us);
    munmap(area, PAGE);
    pair_close(&p);
}

static void test_second_vector_wild_loses_nothing(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 100);
        struct iovec v[2] = {{buf, 30}, {wild, 30}};
        ssize_t n = do_readv(p.us, v, 2);

        if (n < 0)
            CHECK_EQ(errno, EFAULT);
        else
            CHECK(n <= 30);
        if (n > 0)
            check_next(&p, buf, (size_t)n);
        take(&p, p.sent - p.got);
        check_empty(p.us);
        pair_close(&p);
    }
}

static void test_protected_pages_are_efault_take_none(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);
        uint8_t *readable = pages(1, PROT_READ);
        uint8_t *nothing = pages(1, PROT_NONE);

        CHECK_ERR(recv(p.us, readable, 10, 0), EFAULT);
        CHECK_ERR(recv(p.us, nothing, 10, 0), EFAULT);
        CHECK_ERR(do_read(p.us, (void *)"a constant", 5), EFAULT);
        MUST(mprotect(readable, PAGE, PROT_READ | PROT_WRITE));
        CHECK_EQ(recv(p.us, readable, 10, MSG_WAITALL), 10);
        check_next(&p, readable, 10);
        take(&p, 10);
        munmap(readable, PAGE);
        munmap(nothing, PAGE);
        pair_close(&p);
    }
}

static void test_mapped_file_as_buffer_works_past_its_end_is_efault(void)
{
    char name[] = "/tmp/recv_badargs.XXXXXX";
    int file = MUST(mkstemp(name));
    struct pair p = pair_open_held(40);
    uint8_t *map, back[10];

    unlink(name);
    MUST(ftruncate(file, 100));
    map = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(map != MAP_FAILED);
    CHECK_EQ(recv(p.us, map + 50, 10, 0), 10);
    CHECK_EQ(pread(file, back, 10, 50), 10);
    check_next(&p, back, 10);
    CHECK_ERR(recv(p.us, map + PAGE + 10, 10, 0), EFAULT);
    take(&p, 30);
    munmap(map, 2 * PAGE);
    close(file);
    pair_close(&p);
}

static void test_length_huge_is_as_the_kernel_cuts_it(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 60);
        static const size_t lengths[] = {(size_t)INT_MAX, (size_t)INT_MAX + 1, (size_t)3 << 30,
                                         SIZE_MAX};

        for (size_t i = 0; i < COUNT_OF(lengths); i++) {
            ssize_t n = recv(p.us, buf, lengths[i], 0);

            CHECK(n > 0 && n <= 60);
            check_next(&p, buf, (size_t)n);
            if (p.sent > p.got)
                take(&p, p.sent - p.got);
            put(&p, 20);
        }
        CHECK_EQ(recv(p.us, buf, (size_t)INT_MAX + 5, MSG_PEEK), 20);
        CHECK_EQ(do_read(p.us, buf, (size_t)3 << 30), 20);
        check_next(&p, buf, 20);
        put(&p, 20);
        CHECK_ERR(do_read(p.us, buf, SIZE_MAX), EFAULT);
        CHECK_ERR(do_read(p.us, buf, (size_t)SSIZE_MAX + 1), EFAULT);
        take(&p, 20);
        pair_close(&p);
    }
}

static void test_vector_counts_and_lengths_out_of_range_take_none(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);
        struct iovec v[1025];
        struct msghdr msg = {.msg_iov = v, .msg_iovlen = 1025};

        for (int i = 0; i < 1025; i++)
            v[i] = (struct iovec){buf, 1};
        CHECK_ERR(do_readv(p.us, v, 1025), EINVAL);
        CHECK_ERR(do_readv(p.us, v, -1), EINVAL);
        CHECK_ERR(recvmsg(p.us, &msg, 0), EMSGSIZE);
        CHECK_ERR(preadv2(p.us, v, 1025, -1, 0), EINVAL);
        v[1].iov_len = (size_t)SSIZE_MAX + 1;
        msg.msg_iovlen = 2;
        CHECK_ERR(do_readv(p.us, v, 2), EINVAL);
        CHECK_ERR(recvmsg(p.us, &msg, 0), EINVAL);
        take(&p, 20);
        check_empty(p.us);
        pair_close(&p);
    }
}

/* Pages of the main thread's stack are mapped as they are touched, by the kernel's copy also. */
static __attribute__((noinline)) void receive_into_untouched_stack(struct pair *p)
{
    uint8_t deep[1 << 20];

    __asm__ volatile("" : : "r"(deep) : "memory");
    CHECK_EQ(recv(p->us, deep, sizeof(deep), 0), 20);
    check_next(p, deep, 20);
}

static __attribute__((noinline)) void receive_deeper(struct pair *p)
{
    uint8_t deep[3 << 20];

    __asm__ volatile("" : : "r"(deep) : "memory");
    CHECK_EQ(recv(p->us, deep + 7, 20, MSG_WAITALL), 20);
    check_next(p, deep + 7, 20);
}

static void test_untouched_stack_as_buffer_works(void)
{
    for (int where = WHERE_QUEUED; where <= WHERE_HELD; where++) {
        struct pair p = pair_open_with(where, 20);

        receive_into_untouched_stack(&p);
        put(&p, 20);
        receive_deeper(&p);
        check_empty(p.us);
        pair_close(&p);
    }
}

const struct test_case test_cases[] = {
    CASE(test_closed_number_is_ebadf),
    CASE_ONCE(test_file_and_pipe_are_enotsock_for_recv_only),
    CASE_ONCE(test_listening_and_unconnected_are_enotconn),
    CASE_ONCE(test_connect_after_a_refused_receive_works),
    CASE(test_wild_pointer_is_efault_takes_none),
    CASE(test_wild_pointer_nothing_waiting_is_told_after_the_wait),
    CASE(test_half_mapped_buffer_enough_room_is_filled),
    CASE(test_half_mapped_buffer_too_small_loses_nothing),
    CASE(test_half_mapped_buffer_peek_is_refused),
    CASE(test_second_vector_wild_loses_nothing),
    CASE(test_protected_pages_are_efault_take_none),
    CASE(test_mapped_file_as_buffer_works_past_its_end_is_efault),
    CASE(test_length_huge_is_as_the_kernel_cuts_it),
    CASE(test_vector_counts_and_lengths_out_of_range_take_none),
    CASE(test_untouched_stack_as_buffer_works),
    CASES_END,
};
