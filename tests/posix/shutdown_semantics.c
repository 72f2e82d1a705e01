/*
 * shutdown(2): each direction, with bytes unread, while another thread is blocked, and what
 * receives, sends and poll say afterwards; and connect() to nothing, which ends both.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

static void test_shut_wr_ends_ours_and_reads_on(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 40);

        MUST(shutdown(p.us, SHUT_WR));
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        take(&p, 40);
        check_empty(p.us);
        put(&p, 10);
        take(&p, 10);
        CHECK_ERR(send(p.us, "x", 1, MSG_NOSIGNAL), EPIPE);
        peer_fin(&p);
        CHECK_EQ(recv(p.us, buf, 1, 0), 0);
        pair_close(&p);
    }
}

static void test_shut_rd_gives_what_is_there_then_zero_then_later_bytes(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 40);

        MUST(shutdown(p.us, SHUT_RD));
        take(&p, 40);
        CHECK_EQ(recv(p.us, buf, 10, 0), 0);
        CHECK_EQ(recv(p.us, buf, 10, MSG_DONTWAIT), 0);
        CHECK_EQ(peer_sees(p.peer, 10), SEEN_NOTHING);
        put(&p, 10);
        take(&p, 10);
        CHECK_EQ(recv(p.us, buf, 10, 0), 0);
        CHECK_EQ(send(p.us, "x", 1, MSG_NOSIGNAL), 1);
        CHECK_EQ(recv(p.peer, buf, 10, 0), 1);
        pair_close(&p);
    }
}

static void test_shut_rd_polls_readable(void)
{
    struct pair p = pair_open_held(10);

    MUST(shutdown(p.us, SHUT_RD));
    CHECK_EQ(poll_now(p.us, POLLIN | POLLRDHUP), POLLIN | POLLRDHUP);
    take(&p, 10);
    CHECK_EQ(poll_now(p.us, POLLIN | POLLRDHUP), POLLIN | POLLRDHUP);
    CHECK_EQ(recv(p.us, buf, 1, 0), 0);
    CHECK_EQ(poll_now(p.us, POLLIN | POLLRDHUP), POLLIN | POLLRDHUP);
    pair_close(&p);
}

static void test_shut_rdwr_with_bytes_unread_is_a_clean_end(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 40);

        MUST(shutdown(p.us, SHUT_RDWR));
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        CHECK_EQ(poll_now(p.us, POLLIN | POLLRDHUP), POLLIN | POLLRDHUP | POLLHUP);
        take(&p, 40);
        CHECK_EQ(recv(p.us, buf, 10, 0), 0);
        CHECK_ERR(send(p.us, "x", 1, MSG_NOSIGNAL), EPIPE);
        CHECK_EQ(poll_now(p.us, POLLIN | POLLRDHUP), POLLIN | POLLRDHUP | POLLHUP);
        pair_close(&p);
    }
}

static void test_shut_rdwr_then_close_unread_is_as_the_kernel_has_it(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 40);

        MUST(shutdown(p.us, SHUT_RDWR));
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        MUST(close(p.us));
        p.us = -1;
        CHECK_PEER_SEES(p.peer, SEEN_RESET);
        pair_close(&p);
    }
}

struct shut {
    int fd;
    int how;
};

static void act_shutdown(void *arg)
{
    struct shut *s = arg;

    MUST(shutdown(s->fd, s->how));
}

static void test_shutdown_by_another_thread_ends_a_blocked_receive(void)
{
    static const int hows[] = {SHUT_RD, SHUT_RDWR};

    for (size_t i = 0; i < COUNT_OF(hows); i++) {
        for (int warm = 0; warm < 2; warm++) {
            struct pair p = warm ? pair_open_warm() : pair_open();
            struct shut s = {p.us, hows[i]};
            struct later l;

            later(&l, act_shutdown, &s);
            CHECK_EQ(recv(p.us, buf, 10, 0), 0);
            later_join(&l);
            CHECK_EQ(recv(p.us, buf, 10, 0), 0);
            CHECK_EQ(peer_sees(p.peer, hows[i] == SHUT_RD ? 10 : slack(100)),
                     hows[i] == SHUT_RD ? SEEN_NOTHING : SEEN_FIN);
            pair_close(&p);
        }
    }
}

static void test_shut_wr_by_another_thread_leaves_a_receive_blocked(void)
{
    struct pair p = pair_open_warm();
    struct shut s = {p.us, SHUT_WR};
    struct later l;
    struct pollfd pfd = {.fd = p.peer, .events = POLLRDHUP};

    set_timeout(p.us, 50);
    do {
        later(&l, act_shutdown, &s);
        CHECK_ERR(recv(p.us, buf, 10, 0), EAGAIN);
    } while (!later_join(&l));
    CHECK_EQ(poll(&pfd, 1, 0), 1);
    put(&p, 10);
    take(&p, 10);
    pair_close(&p);
}

static void test_shutdown_bad_arguments_change_nothing(void)
{
    struct pair p = pair_open_held(20);
    int fresh = MUST(socket(AF_INET, SOCK_STREAM, 0));

    CHECK_ERR(shutdown(p.us, 3), EINVAL);
    CHECK_ERR(shutdown(p.us, -1), EINVAL);
    CHECK_ERR(shutdown(-1, SHUT_RD), EBADF);
    CHECK_ERR(shutdown(0, SHUT_RD), ENOTSOCK);
    CHECK_ERR(shutdown(fresh, SHUT_RDWR), ENOTCONN);
    close(fresh);
    take(&p, 20);
    check_empty(p.us);
    pair_close(&p);
}

static void test_shutdown_then_peers_reset_is_told_once(void)
{
    struct pair p = pair_open_held(20);

    MUST(shutdown(p.us, SHUT_WR));
    peer_reset(&p);
    take(&p, 20);
    CHECK_ERR(recv(p.us, buf, 10, 0), ECONNRESET);
    CHECK_EQ(recv(p.us, buf, 10, 0), 0);
    pair_close(&p);
}

static void disconnect(int fd)
{
    struct sockaddr none = {.sa_family = AF_UNSPEC};

    MUST(connect(fd, &none, sizeof(none)));
}

static void test_disconnect_drops_what_is_unread(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 40);

        disconnect(p.us);
        CHECK_PEER_SEES(p.peer, SEEN_RESET);
        CHECK_ERR(recv(p.us, buf, 10, 0), ECONNRESET);
        CHECK_ERR(recv(p.us, buf, 10, 0), ENOTCONN);
        pair_close(&p);
    }
}

/* The peer's reset stays to be told when the socket is disconnected, until it is connected again. */
static void test_disconnect_after_a_reset_keeps_the_error(void)
{
    for (int again = 0; again < 2; again++) {
        struct pair p = pair_open_warm();
        struct sockaddr_storage addr;
        socklen_t len = sizeof(int);
        int family, listener, peer;

        MUST(getsockopt(p.us, SOL_SOCKET, SO_DOMAIN, &family, &len));
        listener = MUST(listener_open(family));
        put(&p, 21);
        peer_reset(&p);
        take(&p, 1);
        disconnect(p.us);
        if (again) {
            len = sizeof(addr);
            MUST(getsockname(listener, (struct sockaddr *)&addr, &len));
            MUST(connect(p.us, (struct sockaddr *)&addr, len));
            peer = MUST(accept(listener, NULL, NULL));
            CHECK_EQ(so_error(p.us), 0);
            check_empty(p.us);
            CHECK_EQ(send(peer, "x", 1, 0), 1);
            CHECK_EQ(recv(p.us, buf, 10, 0), 1);
            close(peer);
        } else {
            CHECK_ERR(write(p.us, "x", 1), ECONNRESET);
            CHECK_ERR(recv(p.us, buf, 10, 0), ENOTCONN);
        }
        close(listener);
        pair_close(&p);
    }
}

const struct test_case test_cases[] = {
    CASE(test_shut_wr_ends_ours_and_reads_on),
    CASE(test_shut_rd_gives_what_is_there_then_zero_then_later_bytes),
    CASE(test_shut_rd_polls_readable),
    CASE(test_shut_rdwr_with_bytes_unread_is_a_clean_end),
    CASE(test_shut_rdwr_then_close_unread_is_as_the_kernel_has_it),
    CASE(test_shutdown_by_another_thread_ends_a_blocked_receive),
    CASE(test_shut_wr_by_another_thread_leaves_a_receive_blocked),
    CASE(test_shutdown_bad_arguments_change_nothing),
    CASE(test_shutdown_then_peers_reset_is_told_once),
    CASE(test_disconnect_drops_what_is_unread),
    CASE(test_disconnect_after_a_reset_keeps_the_error),
    CASES_END,
};
