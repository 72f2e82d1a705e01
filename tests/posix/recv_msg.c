/*
 * recvmsg, recvmmsg and the calls that take vectors: what they write beside the bytes, how a batch
 * of messages ends, and what they refuse.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

#ifndef TCP_INQ
#define TCP_INQ 36
#endif

static uint8_t buf[4096];

static void test_recvmsg_noname_leaves_namelen(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);
        struct iovec v = {buf, 5};
        struct msghdr msg = {.msg_namelen = 77, .msg_iov = &v, .msg_iovlen = 1};

        CHECK_EQ(recvmsg(p.us, &msg, 0), 5);
        check_next(&p, buf, 5);
        CHECK_EQ(msg.msg_namelen, 77);
        CHECK_EQ(recvmsg(p.us, &msg, MSG_CMSG_CLOEXEC), 5);
        check_next(&p, buf, 5);
        CHECK_EQ(msg.msg_flags, MSG_CMSG_CLOEXEC);
        CHECK_EQ(recvmsg(p.us, &msg, MSG_PEEK | MSG_WAITALL | MSG_DONTWAIT), 5);
        CHECK_EQ(msg.msg_flags, 0);
        CHECK_EQ(recvmsg(p.us, &msg, MSG_TRUNC), 5);
        p.got += 5;
        CHECK_EQ(msg.msg_flags, 0);
        take(&p, 5);
        pair_close(&p);
    }
}

/* Receives n bytes and what TCP_INQ tells, into a control part of `room` bytes: how much of that is filled. */
static size_t recv_left(struct pair *p, size_t n, int flags, size_t room, int *left, int *msg_flags)
{
    union {
        char bytes[64];
        struct cmsghdr head;
    } control = {.bytes = {0}};
    struct iovec v = {buf, n};
    struct msghdr msg = {.msg_iov = &v,
                         .msg_iovlen = 1,
                         .msg_control = room ? &control : NULL,
                         .msg_controllen = room};

    CHECK_EQ(recvmsg(p->us, &msg, flags), n);
    check_ahead(p, buf, 0, n);
    if (!(flags & MSG_PEEK))
        p->got += n;
    *msg_flags = msg.msg_flags;
    *left = -1;
    if (msg.msg_controllen >= CMSG_LEN(sizeof(int))) {
        CHECK_EQ(control.head.cmsg_len, CMSG_LEN(sizeof(int)));
        CHECK_EQ(control.head.cmsg_level, IPPROTO_TCP);
        CHECK_EQ(control.head.cmsg_type, TCP_INQ);
        memcpy(left, CMSG_DATA(&control.head), sizeof(*left));
    }
    return msg.msg_controllen;
}

/* TCP_INQ is set when bytes are held already: each recvmsg() tells what is left, wherever that is. */
static void test_recvmsg_tells_what_is_left_when_asked_late(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 40);
        int on = 1, left, flags;

        MUST(setsockopt(p.us, IPPROTO_TCP, TCP_INQ, &on, sizeof(on)));
        CHECK_EQ(recv_left(&p, 5, MSG_PEEK, 64, &left, &flags), CMSG_SPACE(sizeof(int)));
        CHECK_EQ(left, 40);
        CHECK_EQ(flags, 0);
        CHECK_EQ(recv_left(&p, 5, 0, CMSG_LEN(sizeof(int)), &left, &flags), CMSG_LEN(sizeof(int)));
        CHECK_EQ(left, 35);
        CHECK_EQ(flags, 0);
        CHECK_EQ(recv_left(&p, 5, 0, CMSG_LEN(0) + 2, &left, &flags), CMSG_LEN(0) + 2);
        CHECK_EQ(flags, MSG_CTRUNC);
        CHECK_EQ(recv_left(&p, 5, 0, CMSG_LEN(0) - 2, &left, &flags), 0);
        CHECK_EQ(flags, MSG_CTRUNC);
        CHECK_EQ(recv_left(&p, 5, 0, 0, &left, &flags), 0);
        CHECK_EQ(flags, MSG_CTRUNC);
        put(&p, 10);
        recv_left(&p, 1, 0, 64, &left, &flags);
        CHECK_EQ(left, 29);
        peer_fin(&p);
        recv_left(&p, 19, 0, 64, &left, &flags);
        CHECK_EQ(left, 11); /* the end counts as one */
        recv_left(&p, 10, 0, 64, &left, &flags);
        CHECK_EQ(left, 1);
        recv_left(&p, 0, 0, 64, &left, &flags);
        CHECK_EQ(left, 1);
        pair_close(&p);
    }
}

static void test_recvmsg_at_eof_and_error_leaves_fields_as_tcp_does(void)
{
    struct pair p = pair_open_warm();
    struct iovec v = {buf, 5};
    char name[64], control[64];
    struct msghdr msg = {.msg_name = name,
                         .msg_namelen = 60,
                         .msg_iov = &v,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = 50,
                         .msg_flags = 0x1234};

    CHECK_ERR(recvmsg(p.us, &msg, MSG_DONTWAIT), EAGAIN);
    CHECK_EQ(msg.msg_namelen, 60);
    CHECK_EQ(msg.msg_controllen, 50);
    CHECK_EQ(msg.msg_flags, 0x1234);
    peer_fin(&p);
    CHECK_EQ(recvmsg(p.us, &msg, 0), 0);
    CHECK_EQ(msg.msg_namelen, 0);
    CHECK_EQ(msg.msg_controllen, 0);
    CHECK_EQ(msg.msg_flags, 0);
    pair_close(&p);
}

static void make_batch(struct mmsghdr mm[4], struct iovec v[4])
{
    memset(mm, 0, 4 * sizeof(*mm));
    for (int i = 0; i < 4; i++) {
        v[i] = (struct iovec){buf + 10 * i, 10};
        mm[i].msg_hdr.msg_iov = &v[i];
        mm[i].msg_hdr.msg_iovlen = 1;
        mm[i].msg_len = 99;
    }
}

static void test_recvmmsg_takes_as_many_as_there_are(void)
{
    for (int where = WHERE_QUEUED; where <= WHERE_HELD; where++) {
        static const int flags[] = {MSG_DONTWAIT, MSG_WAITFORONE};

        for (size_t f = 0; f < COUNT_OF(flags); f++) {
            struct pair p = pair_open_with(where, 25);
            struct mmsghdr mm[4];
            struct iovec v[4];

            make_batch(mm, v);
            CHECK_EQ(recvmmsg(p.us, mm, 4, flags[f], NULL), 3);
            CHECK_EQ(mm[0].msg_len, 10);
            CHECK_EQ(mm[1].msg_len, 10);
            CHECK_EQ(mm[2].msg_len, 5);
            CHECK_EQ(mm[3].msg_len, 99);
            check_next(&p, buf, 25);
            CHECK_ERR(recvmmsg(p.us, mm, 4, MSG_DONTWAIT, NULL), EAGAIN);
            CHECK_EQ(recvmmsg(p.us, mm, 0, MSG_DONTWAIT, NULL), 0);
            pair_close(&p);
        }
    }
}

static void test_recvmmsg_blocks_for_each_message(void)
{
    struct pair p = pair_open_held(25);
    struct mmsghdr mm[4];
    struct iovec v[4];
    struct later_put lp;

    make_batch(mm, v);
    later_put(&lp, &p, 3);
    CHECK_EQ(recvmmsg(p.us, mm, 4, 0, NULL), 4);
    CHECK_EQ(mm[2].msg_len, 5);
    CHECK_EQ(mm[3].msg_len, 3);
    check_next(&p, buf, 25);
    check_next(&p, buf + 30, 3);
    later_join(&lp.l);
    pair_close(&p);
}

static void test_recvmmsg_at_eof_counts_empty_messages(void)
{
    struct pair p = pair_open_held(15);
    struct mmsghdr mm[4];
    struct iovec v[4];

    peer_fin(&p);
    make_batch(mm, v);
    CHECK_EQ(recvmmsg(p.us, mm, 4, 0, NULL), 4);
    CHECK_EQ(mm[0].msg_len, 10);
    CHECK_EQ(mm[1].msg_len, 5);
    CHECK_EQ(mm[2].msg_len, 0);
    CHECK_EQ(mm[3].msg_len, 0);
    check_next(&p, buf, 15);
    pair_close(&p);
}

static void test_recvmmsg_error_comes_before_the_bytes(void)
{
    struct pair p = pair_open_held(15);
    struct mmsghdr mm[4];
    struct iovec v[4];

    peer_reset(&p);
    make_batch(mm, v);
    CHECK_ERR(recvmmsg(p.us, mm, 4, 0, NULL), ECONNRESET);
    CHECK_EQ(recvmmsg(p.us, mm, 4, 0, NULL), 4);
    check_next(&p, buf, 15);
    CHECK_EQ(mm[1].msg_len, 5);
    CHECK_EQ(mm[2].msg_len, 0);
    CHECK_EQ(mm[3].msg_len, 0);
    pair_close(&p);
}

static void test_recvmmsg_timeout_is_counted_between_messages(void)
{
    struct pair p = pair_open_held(25);
    struct mmsghdr mm[4];
    struct iovec v[4];
    struct timespec zero = {0, 0}, minute = {60, 0}, bad = {0, -1};

    make_batch(mm, v);
    CHECK_ERR(recvmmsg(p.us, mm, 4, 0, &bad), EINVAL);
    CHECK_EQ(recvmmsg(p.us, mm, 4, 0, &zero), 1);
    check_next(&p, buf, 10);
    CHECK_EQ(recvmmsg(p.us, mm, 1, 0, &minute), 1);
    check_next(&p, buf, 10);
    CHECK(minute.tv_sec == 59 || minute.tv_sec == 60);
    take(&p, 5);
    pair_close(&p);
}

/* An error after the first message is kept for the next call, also one that is for the kernel alone:
 * a wait without limit that a signal ends gives ERESTARTSYS. */
static void test_recvmmsg_interrupted_after_the_first_message(void)
{
    const int as_in_the_kernel = 512; /* ERESTARTSYS: its headers alone have the name */

    if (TEST_TSAN)
        test_skip("ThreadSanitizer puts handlers off until a call that it knows has ended");
    for (int i = 0; i < 16; i++) {
        bool restart = i & 1, timed = i & 2, all = i & 4;
        struct pair p = pair_open_with(i & 8 ? WHERE_HELD : WHERE_QUEUED, 15);
        struct later_kill lk;
        struct mmsghdr mm[4];
        struct iovec v[4];

        make_batch(mm, v);
        if (timed)
            set_timeout(p.us, 60000);
        catch_signal(SIGUSR1, restart ? SA_RESTART : 0);
        later_kill(&lk, SIGUSR1);
        CHECK_EQ(recvmmsg(p.us, mm, 4, all ? MSG_WAITALL : 0, NULL), 2);
        CHECK_EQ(caught, 1);
        later_join(&lk.l);
        CHECK_EQ(mm[1].msg_len, 5);
        check_next(&p, buf, 15);
        CHECK_EQ(poll_now(p.us, 0), POLLERR);
        CHECK_ERR(recv(p.us, buf, 1, MSG_DONTWAIT), timed ? EINTR : as_in_the_kernel);
        check_empty(p.us);
        put(&p, 10);
        take(&p, 10);
        pair_close(&p);
    }
}

static void test_positioned_reads_are_espipe_take_none(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);
        struct iovec v = {buf, 10};

        CHECK_ERR(pread(p.us, buf, 10, 0), ESPIPE);
        CHECK_ERR(preadv(p.us, &v, 1, 0), ESPIPE);
        CHECK_ERR(preadv2(p.us, &v, 1, 0, 0), ESPIPE);
        CHECK_ERR(preadv64v2(p.us, &v, 1, 7, 0), ESPIPE);
        CHECK_ERR(lseek(p.us, 0, SEEK_CUR), ESPIPE);
        take(&p, 20);
        pair_close(&p);
    }
}

static void test_preadv2_flags_are_as_the_kernel_has_them(void)
{
    struct pair p = pair_open_held(20);
    struct iovec v = {buf, 10};

    CHECK_EQ(preadv2(p.us, &v, 1, -1, RWF_NOWAIT), 10);
    check_next(&p, buf, 10);
    CHECK_ERR(preadv2(p.us, &v, 1, -1, 0x4000), EOPNOTSUPP);
    take(&p, 10);
    CHECK_ERR(preadv2(p.us, &v, 1, -1, RWF_NOWAIT), EAGAIN);
    put(&p, 10);
    CHECK_EQ(preadv2(p.us, &v, 1, -1, RWF_HIPRI), 10);
    check_next(&p, buf, 10);
    pair_close(&p);
}

static void test_readv_many_vectors_are_filled_in_order(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 100);
        struct iovec v[1024];
        ssize_t sum = 0;

        for (int i = 0; i < 1024; i++)
            v[i] = (struct iovec){buf + i, 1};
        while (sum < 100) {
            ssize_t n = readv(p.us, v + sum, 1024 - (int)sum);

            CHECK(n > 0);
            sum += n;
        }
        CHECK_EQ(sum, 100);
        check_next(&p, buf, 100);
        CHECK_EQ(readv(p.us, v, 0), 0);
        check_empty(p.us);
        pair_close(&p);
    }
}

static void test_recvmsg_negative_namelen_is_einval_takes_none(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);
        struct iovec v = {buf, 10};
        char name[32];
        struct msghdr msg = {
            .msg_name = name, .msg_namelen = (socklen_t)-1, .msg_iov = &v, .msg_iovlen = 1};

        CHECK_ERR(recvmsg(p.us, &msg, 0), EINVAL);
        take(&p, 20);
        check_empty(p.us);
        pair_close(&p);
    }
}

/* The kernel writes the name's length after it took the bytes: they are gone, and so it is here. */
static void test_recvfrom_bad_name_is_told_after_the_bytes(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 40);
        struct sockaddr_storage name;
        socklen_t len = (socklen_t)-1;

        CHECK_ERR(recvfrom(p.us, buf, 10, 0, (struct sockaddr *)&name, &len), EINVAL);
        p.got += 10;
        take(&p, 5);
        CHECK_ERR(recvfrom(p.us, buf, 5, 0, (struct sockaddr *)&name, NULL), EFAULT);
        p.got += 5;
        take(&p, 20);
        check_empty(p.us);
        pair_close(&p);
    }
}

static void test_receive_into_itself_works(void)
{
    struct pair p = pair_open_held(20);
    struct iovec v = {buf, 10};
    struct {
        struct msghdr msg;
        struct iovec v;
    } area = {.msg = {.msg_iov = &area.v, .msg_iovlen = 1}};

    if (TEST_ASAN)
        test_skip("AddressSanitizer's own readv looks at the vector after the call");
    /* The vector lies in the buffer that it describes: the kernel has copied it before. */
    v.iov_base = &v;
    CHECK_EQ(readv(p.us, &v, 1), 10);
    check_next(&p, &v, 10);
    area.v = (struct iovec){&area.v, 10};
    CHECK_EQ(recvmsg(p.us, &area.msg, 0), 10);
    check_next(&p, &area.v, 10);
    pair_close(&p);
}

const struct test_case test_cases[] = {
    CASE(test_recvmsg_noname_leaves_namelen),
    CASE(test_recvmsg_tells_what_is_left_when_asked_late),
    CASE(test_recvmsg_at_eof_and_error_leaves_fields_as_tcp_does),
    CASE(test_recvmmsg_takes_as_many_as_there_are),
    CASE(test_recvmmsg_blocks_for_each_message),
    CASE(test_recvmmsg_at_eof_counts_empty_messages),
    CASE(test_recvmmsg_error_comes_before_the_bytes),
    CASE(test_recvmmsg_timeout_is_counted_between_messages),
    CASE(test_recvmmsg_interrupted_after_the_first_message),
    CASE(test_positioned_reads_are_espipe_take_none),
    CASE(test_preadv2_flags_are_as_the_kernel_has_them),
    CASE(test_readv_many_vectors_are_filled_in_order),
    CASE(test_recvmsg_negative_namelen_is_einval_takes_none),
    CASE(test_recvfrom_bad_name_is_told_after_the_bytes),
    CASE(test_receive_into_itself_works),
    CASES_END,
};
