/*
 * The end of a stream and its breaking: bytes first, then the end or the error, and the error once,
 * whoever asks first: a receive, a send, or SO_ERROR. POLLERR shows it and leaves it.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

/*
 * Two ways to a broken connection: nothing has happened between the reset and what follows, or the
 * thread has slept in a receive on another connection.
 */
#define WAYS 2

static struct pair broken_pair(int way, size_t unread)
{
    struct pair p = pair_open_warm();

    if (unread) {
        put(&p, unread + 1);
        take(&p, 1);
    }
    if (way == 0) {
        peer_reset(&p);
    } else {
        struct pair other = pair_open_warm();

        peer_reset(&p);
        sleep_on_other(&other);
        pair_close(&other);
    }
    return p;
}

/* After the error has been taken. */
static void check_spent(int fd)
{
    CHECK_EQ(recv(fd, buf, 10, 0), 0);
    CHECK_EQ(recv(fd, buf, 10, MSG_DONTWAIT), 0);
    CHECK_EQ(so_error(fd), 0);
    CHECK_ERR(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK_EQ(poll_now(fd, POLLIN | POLLRDHUP), POLLIN | POLLRDHUP | POLLHUP);
    CHECK_EQ(recv(fd, buf, 10, 0), 0);
}

static void test_eof_after_bytes_is_zero_for_ever(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 50);

        peer_fin(&p);
        take(&p, 50);
        for (int i = 0; i < 5; i++) {
            CHECK_EQ(recv(p.us, buf, 10, 0), 0);
            CHECK_EQ(recv(p.us, buf, 10, MSG_DONTWAIT), 0);
            CHECK_EQ(recv(p.us, buf, 10, MSG_WAITALL), 0);
            CHECK_EQ(read(p.us, buf, 10), 0);
        }
        CHECK_EQ(so_error(p.us), 0);
        CHECK_EQ(send(p.us, "still open", 10, MSG_NOSIGNAL), 10);
        CHECK_EQ(recv(p.peer, buf, 10, MSG_WAITALL), 10);
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

static void test_eof_while_blocked_is_zero(void)
{
    struct pair p = pair_open_warm();
    struct later l;

    later(&l, act_fin, &p);
    CHECK_EQ(recv(p.us, buf, 10, 0), 0);
    later_join(&l);
    CHECK_EQ(recv(p.us, buf, 10, 0), 0);
    pair_close(&p);
}

static void test_eof_taken_in_while_on_another_is_zero(void)
{
    struct pair other = pair_open_warm();
    struct pair p = pair_open_held(30);

    peer_fin(&p);
    sleep_on_other(&other);
    CHECK_EQ(poll_now(p.us, POLLIN | POLLRDHUP), POLLIN | POLLRDHUP);
    take(&p, 30);
    CHECK_EQ(poll_now(p.us, POLLIN | POLLRDHUP), POLLIN | POLLRDHUP);
    CHECK_EQ(recv(p.us, buf, 10, 0), 0);
    CHECK_EQ(poll_now(p.us, POLLIN | POLLRDHUP), POLLIN | POLLRDHUP);
    pair_close(&p);
    pair_close(&other);
}

static void test_reset_while_blocked_is_econnreset_once(void)
{
    struct pair p = pair_open_warm();
    struct later l;

    later(&l, act_reset, &p);
    CHECK_ERR(recv(p.us, buf, 10, 0), ECONNRESET);
    later_join(&l);
    p.peer = -1;
    check_spent(p.us);
    pair_close(&p);
}

static void test_reset_after_bytes_gives_bytes_first(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 50);

        peer_reset(&p);
        take(&p, 50);
        CHECK_ERR(recv(p.us, buf, 10, 0), ECONNRESET);
        check_spent(p.us);
        pair_close(&p);
    }
}

static void test_reset_is_taken_by_recv(void)
{
    for (int way = 0; way < WAYS; way++) {
        for (size_t unread = 0; unread <= 30; unread += 30) {
            struct pair p = broken_pair(way, unread);

            take(&p, unread);
            CHECK_ERR(recv(p.us, buf, 10, MSG_DONTWAIT), ECONNRESET);
            check_spent(p.us);
            pair_close(&p);
        }
    }
}

static void test_reset_is_taken_by_peek(void)
{
    for (int way = 0; way < WAYS; way++) {
        struct pair p = broken_pair(way, 0);

        CHECK_ERR(recv(p.us, buf, 10, MSG_PEEK), ECONNRESET);
        check_spent(p.us);
        pair_close(&p);
    }
}

static void test_reset_is_taken_by_so_error_bytes_stay(void)
{
    for (int way = 0; way < WAYS; way++) {
        for (size_t unread = 0; unread <= 30; unread += 30) {
            struct pair p = broken_pair(way, unread);

            CHECK_EQ(so_error(p.us), ECONNRESET);
            CHECK_EQ(so_error(p.us), 0);
            take(&p, unread);
            check_spent(p.us);
            pair_close(&p);
        }
    }
}

static ssize_t by_send(int fd)
{
    return send(fd, "x", 1, 0);
}

static ssize_t by_write(int fd)
{
    return write(fd, "x", 1);
}

static ssize_t by_writev(int fd)
{
    struct iovec v = {(void *)"x", 1};

    return writev(fd, &v, 1);
}

static ssize_t by_sendto(int fd)
{
    return sendto(fd, "x", 1, 0, NULL, 0);
}

static ssize_t by_sendmsg(int fd)
{
    struct iovec v = {(void *)"x", 1};
    struct msghdr msg = {.msg_iov = &v, .msg_iovlen = 1};

    return sendmsg(fd, &msg, 0);
}

static ssize_t by_sendmmsg(int fd)
{
    struct iovec v = {(void *)"x", 1};
    struct mmsghdr mm = {.msg_hdr = {.msg_iov = &v, .msg_iovlen = 1}};

    return sendmmsg(fd, &mm, 1, 0);
}

static ssize_t by_sendfile(int fd)
{
    int file = MUST(open(test_self, O_RDONLY));
    off_t at = 0;
    ssize_t n = sendfile(fd, file, &at, 10);
    int saved = errno;

    close(file);
    errno = saved;
    return n;
}

static ssize_t by_splice(int fd)
{
    int ends[2], saved;
    ssize_t n;

    MUST(pipe(ends));
    CHECK_EQ(write(ends[1], "x", 1), 1);
    n = splice(ends[0], NULL, fd, NULL, 1, 0);
    saved = errno;
    close(ends[0]);
    close(ends[1]);
    errno = saved;
    return n;
}

static const struct {
    const char *name;
    ssize_t (*call)(int fd);
} senders[] = {
    {"send", by_send},         {"write", by_write},     {"writev", by_writev},
    {"sendto", by_sendto},     {"sendmsg", by_sendmsg}, {"sendmmsg", by_sendmmsg},
    {"sendfile", by_sendfile}, {"splice", by_splice},
};

/* No SIGPIPE for the error itself: it would end the case, its disposition being the default. */
static void test_reset_is_taken_by_every_send_without_sigpipe(void)
{
    for (int way = 0; way < WAYS; way++) {
        for (size_t i = 0; i < COUNT_OF(senders); i++) {
            struct pair p = broken_pair(way, 0);

            errno = 0;
            if (senders[i].call(p.us) != -1 || errno != ECONNRESET)
                FAIL("%s after a reset (way %d): errno %d", senders[i].name, way, errno);
            check_spent(p.us);
            pair_close(&p);
        }
    }
}

static void test_reset_send_takes_the_error_bytes_stay(void)
{
    for (int way = 0; way < WAYS; way++) {
        struct pair p = broken_pair(way, 30);

        CHECK_ERR(send(p.us, "x", 1, 0), ECONNRESET);
        take(&p, 30);
        check_spent(p.us);
        pair_close(&p);
    }
}

static void test_reset_second_send_is_epipe_and_sigpipe(void)
{
    for (int way = 0; way < WAYS; way++) {
        struct pair p = broken_pair(way, 0);

        catch_signal(SIGPIPE, 0);
        CHECK_ERR(send(p.us, "x", 1, 0), ECONNRESET);
        CHECK_EQ(caught, 0);
        CHECK_ERR(send(p.us, "x", 1, 0), EPIPE);
        CHECK_EQ(caught, 1);
        CHECK_ERR(send(p.us, "x", 1, MSG_NOSIGNAL), EPIPE);
        CHECK_EQ(caught, 1);
        pair_close(&p);
    }
}

static void test_reset_pollerr_shows_it_and_leaves_it(void)
{
    for (int way = 0; way < WAYS; way++) {
        for (size_t unread = 0; unread <= 30; unread += 30) {
            struct pair p = broken_pair(way, unread);
            short all = POLLIN | POLLERR | POLLHUP | POLLRDHUP;

            for (int i = 0; i < 3; i++) {
                CHECK_EQ(poll_now(p.us, POLLIN | POLLRDHUP), all);
                CHECK_EQ(poll_now(p.us, 0), POLLERR | POLLHUP);
            }
            take(&p, unread);
            CHECK_EQ(poll_now(p.us, POLLIN | POLLRDHUP), all);
            CHECK_ERR(recv(p.us, buf, 10, 0), ECONNRESET);
            CHECK_EQ(poll_now(p.us, POLLIN | POLLRDHUP), POLLIN | POLLHUP | POLLRDHUP);
            pair_close(&p);
        }
    }
}

static void test_reset_epollerr_shows_it_and_leaves_it(void)
{
    for (int way = 0; way < WAYS; way++) {
        struct pair p = broken_pair(way, 0);
        struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP};
        int ep = MUST(epoll_create1(0));

        MUST(epoll_ctl(ep, EPOLL_CTL_ADD, p.us, &ev));
        for (int i = 0; i < 3; i++) {
            CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 1);
            CHECK_EQ(ev.events, EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP);
        }
        CHECK_EQ(so_error(p.us), ECONNRESET);
        CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 1);
        CHECK_EQ(ev.events, EPOLLIN | EPOLLHUP | EPOLLRDHUP);
        close(ep);
        pair_close(&p);
    }
}

static void test_fin_then_reset_is_eof_and_epipe(void)
{
    for (int before = 0; before < 2; before++) {
        struct pair p = pair_open_held(10);

        /* The peer closes all; what we send then is answered by a reset, which finds us at EOF. */
        MUST(close(p.peer));
        p.peer = -1;
        wait_tcp_state(p.us, TCP_CLOSE_WAIT);
        take(&p, 10);
        if (before)
            CHECK_EQ(recv(p.us, buf, 10, 0), 0);
        CHECK_EQ(send(p.us, "x", 1, MSG_NOSIGNAL), 1);
        wait_tcp_state(p.us, TCP_CLOSE);
        CHECK_EQ(recv(p.us, buf, 10, 0), 0);
        CHECK_EQ(so_error(p.us), EPIPE);
        check_spent(p.us);
        pair_close(&p);
    }
}

static void test_connection_refused_is_taken_once(void)
{
    int listener = MUST(listener_open(AF_INET));
    struct sockaddr_in addr;
    socklen_t len = sizeof(addr);
    int fd = MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    struct pollfd pfd = {.fd = fd, .events = POLLOUT};

    MUST(getsockname(listener, (struct sockaddr *)&addr, &len));
    close(listener);
    CHECK_ERR(connect(fd, (struct sockaddr *)&addr, len), EINPROGRESS);
    CHECK_EQ(poll(&pfd, 1, 5000), 1);
    CHECK_ERR(recv(fd, buf, 10, 0), ECONNREFUSED);
    CHECK_EQ(recv(fd, buf, 10, 0), 0);
    CHECK_EQ(so_error(fd), 0);
    close(fd);
}

const struct test_case test_cases[] = {
    CASE(test_eof_after_bytes_is_zero_for_ever),
    CASE(test_eof_while_blocked_is_zero),
    CASE(test_eof_taken_in_while_on_another_is_zero),
    CASE(test_reset_while_blocked_is_econnreset_once),
    CASE(test_reset_after_bytes_gives_bytes_first),
    CASE(test_reset_is_taken_by_recv),
    CASE(test_reset_is_taken_by_peek),
    CASE(test_reset_is_taken_by_so_error_bytes_stay),
    CASE(test_reset_is_taken_by_every_send_without_sigpipe),
    CASE(test_reset_send_takes_the_error_bytes_stay),
    CASE(test_reset_second_send_is_epipe_and_sigpipe),
    CASE(test_reset_pollerr_shows_it_and_leaves_it),
    CASE(test_reset_epollerr_shows_it_and_leaves_it),
    CASE(test_fin_then_reset_is_eof_and_epipe),
    CASE_ONCE(test_connection_refused_is_taken_once),
    CASES_END,
};
