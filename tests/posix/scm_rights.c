/*
 * Descriptors that travel: a connection passed to another process is read there, and one that was
 * received is read here, to the last byte. And what is no TCP at all is left alone: AF_UNIX streams
 * with descriptors in them, datagrams of both kinds.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

static void send_fd(int through, int fd)
{
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct iovec v = {(void *)"f", 1};
    struct msghdr msg = {.msg_iov = &v,
                         .msg_iovlen = 1,
                         .msg_control = control.space,
                         .msg_controllen = sizeof(control.space)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    CHECK_EQ(sendmsg(through, &msg, 0), 1);
}

static int receive_fd(int through)
{
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    char byte;
    struct iovec v = {&byte, 1};
    struct msghdr msg = {.msg_iov = &v,
                         .msg_iovlen = 1,
                         .msg_control = control.space,
                         .msg_controllen = sizeof(control.space)};
    struct cmsghdr *c;
    int fd;

    CHECK_EQ(recvmsg(through, &msg, MSG_CMSG_CLOEXEC), 1);
    c = CMSG_FIRSTHDR(&msg);
    CHECK(c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)));
    memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    return fd;
}

static void check_child(pid_t pid)
{
    int status;

    CHECK_EQ(waitpid(pid, &status, 0), pid);
    if (status)
        FAIL("the child's status is %x", (unsigned)status);
}

static void test_passed_connection_is_read_by_the_other_process(void)
{
    for (int warm = 0; warm < 2; warm++) {
        int through[2];
        struct pair p;
        pid_t pid;

        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, through));
        pid = MUST(fork());
        if (pid == 0) {
            p = (struct pair){.us = receive_fd(through[1]), .peer = -1};
            p.got = warm ? WARM_READS : 0;
            take(&p, 50);
            _exit(0);
        }
        p = warm ? pair_open_warm() : pair_open();
        put(&p, 50);
        send_fd(through[0], p.us);
        MUST(close(p.us));
        check_child(pid);
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        close(p.peer);
        close(through[0]);
        close(through[1]);
    }
}

/* What the sender has not read when it closes its own number is no reason to reset what somebody
 * else holds. */
static void test_passed_connection_outlives_the_senders_close(void)
{
    int through[2];
    struct pair p;
    pid_t pid;
    char word[6] = "";

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, through));
    pid = MUST(fork());
    if (pid == 0) {
        int fd = receive_fd(through[1]);

        while (recv(through[1], word, 1, 0) < 0) /* until the sender has closed */
            CHECK_EQ(errno, EINTR);
        CHECK_EQ(send(fd, "hello", 5, MSG_NOSIGNAL), 5);
        _exit(0);
    }
    p = pair_open_held(10);
    send_fd(through[0], p.us);
    MUST(close(p.us));
    CHECK_EQ(send(through[0], "x", 1, 0), 1);
    CHECK_EQ(recv(p.peer, word, 5, MSG_WAITALL), 5);
    CHECK_EQ(strcmp(word, "hello"), 0);
    check_child(pid);
    close(p.peer);
    close(through[0]);
    close(through[1]);
}

static void test_rights_of_a_bad_length_are_refused(void)
{
    int through[2], fd = -1;
    union {
        struct cmsghdr h;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.h = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec iov = {"x", 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, through));
    memcpy(CMSG_DATA(&control.h), &fd, sizeof(fd));
    for (size_t len = 1; len < CMSG_LEN(0); len++) {
        control.h.cmsg_len = len;
        CHECK_ERR(sendmsg(through[0], &msg, 0), EINVAL);
    }
    control.h.cmsg_len = 1 << 20;
    CHECK_ERR(sendmsg(through[0], &msg, 0), EINVAL);
    close(through[0]);
    close(through[1]);
}

static void test_passed_to_itself_reads_on(void)
{
    int through[2];
    struct pair p = pair_open_warm();
    int other;

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, through));
    put(&p, 50);
    send_fd(through[0], p.us);
    other = receive_fd(through[1]);
    take(&p, 20);
    MUST(close(p.us));
    p.us = other;
    take(&p, 30);
    check_empty(p.us);
    put(&p, 10);
    take(&p, 10);
    MUST(close(p.us));
    CHECK_PEER_SEES(p.peer, SEEN_FIN);
    close(p.peer);
}

static void test_received_connection_works(void)
{
    int through[2];
    struct pair p = {.us = -1};
    int listener = MUST(listener_open(AF_INET));
    pid_t pid;

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, through));
    pid = MUST(fork());
    if (pid == 0) {
        int fd = connect_to(listener);

        send_fd(through[1], fd);
        _exit(0);
    }
    p.us = receive_fd(through[0]);
    p.peer = MUST(accept(listener, NULL, NULL));
    check_child(pid);
    warm_up(&p);
    put(&p, 50);
    take(&p, 20);
    CHECK_EQ(poll_now(p.us, POLLIN), POLLIN);
    take(&p, 30);
    check_empty(p.us);
    MUST(close(p.us));
    CHECK_PEER_SEES(p.peer, SEEN_FIN);
    close(p.peer);
}

static void test_unix_stream_bytes_and_descriptors_are_untouched(void)
{
    struct pair p = pair_open_warm();
    int ends[2], pipe_ends[2], got;
    char byte;

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    MUST(pipe(pipe_ends));
    for (int i = 0; i < 50; i++) {
        CHECK_EQ(send(ends[0], "before", 6, 0), 6);
        CHECK_EQ(recv(ends[1], buf, 3, 0), 3);
        sleep_on_other(&p);
        CHECK_EQ(read(ends[1], buf, 3), 3);
        send_fd(ends[0], pipe_ends[1]);
        sleep_on_other(&p);
        got = receive_fd(ends[1]);
        CHECK_EQ(write(got, "p", 1), 1);
        close(got);
        CHECK_EQ(read(pipe_ends[0], &byte, 1), 1);
    }
    close(ends[0]);
    CHECK_EQ(recv(ends[1], buf, 1, 0), 0);
    close(ends[1]);
    pair_close(&p);
}

static void test_udp_datagrams_keep_their_bounds_and_names(void)
{
    struct pair p = pair_open_warm();
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, from;
    socklen_t len = sizeof(a);
    int rx = MUST(socket(AF_INET, SOCK_DGRAM, 0)), tx = MUST(socket(AF_INET, SOCK_DGRAM, 0));

    MUST(bind(rx, (struct sockaddr *)&a, len));
    MUST(getsockname(rx, (struct sockaddr *)&a, &len));
    MUST(connect(tx, (struct sockaddr *)&a, len));
    for (int i = 0; i < 50; i++) {
        CHECK_EQ(send(tx, "datagram", 8, 0), 8);
        CHECK_EQ(send(tx, "", 0, 0), 0);
        CHECK_EQ(send(tx, "two", 3, 0), 3);
        sleep_on_other(&p);
        CHECK_EQ(recv(rx, buf, 4, MSG_TRUNC), 8);
        CHECK_EQ(recv(rx, buf, 10, 0), 0);
        len = sizeof(from);
        CHECK_EQ(recvfrom(rx, buf, 10, 0, (struct sockaddr *)&from, &len), 3);
        CHECK_EQ(len, sizeof(from));
        CHECK_EQ(from.sin_family, AF_INET);
        CHECK_ERR(recv(rx, buf, 10, MSG_DONTWAIT), EAGAIN);
    }
    close(rx);
    close(tx);
    pair_close(&p);
}

static void test_unix_datagrams_and_packets_keep_their_bounds(void)
{
    static const int types[] = {SOCK_DGRAM, SOCK_SEQPACKET};
    struct pair p = pair_open_warm();

    for (size_t t = 0; t < COUNT_OF(types); t++) {
        int ends[2];

        MUST(socketpair(AF_UNIX, types[t], 0, ends));
        CHECK_EQ(send(ends[0], "one", 3, 0), 3);
        CHECK_EQ(send(ends[0], "three", 5, 0), 5);
        sleep_on_other(&p);
        CHECK_EQ(read(ends[1], buf, 2), 2);
        CHECK_EQ(read(ends[1], buf, 10), 5);
        CHECK_ERR(recv(ends[1], buf, 10, MSG_DONTWAIT), EAGAIN);
        close(ends[0]);
        close(ends[1]);
    }
    pair_close(&p);
}

const struct test_case test_cases[] = {
    CASE(test_passed_connection_is_read_by_the_other_process),
    CASE(test_passed_connection_outlives_the_senders_close),
    CASE(test_rights_of_a_bad_length_are_refused),
    CASE(test_passed_to_itself_reads_on),
    CASE_ONCE(test_received_connection_works),
    CASE_ONCE(test_unix_stream_bytes_and_descriptors_are_untouched),
    CASE_ONCE(test_udp_datagrams_keep_their_bounds_and_names),
    CASE_ONCE(test_unix_datagrams_and_packets_keep_their_bounds),
    CASES_END,
};
