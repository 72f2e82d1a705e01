#include "tcp.h"

#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "payload.h"
#include "raw.h"

/* The names of netinet/tcp.h, whose struct tcp_info ends before tcpi_bytes_received. */
#define TCP_CLOSE_WAIT 8
#define TCP_TIME_WAIT 6
#define TCP_CLOSE 7
#define TCP_LAST_ACK 9

int listener_open(int family)
{
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    if (bind(fd, family == AF_INET6 ? (void *)&v6 : (void *)&v4,
             family == AF_INET6 ? sizeof(v6) : sizeof(v4)) ||
        listen(fd, 512)) {
        close(fd);
        return -1;
    }
    return fd;
}

int connect_to(int listener)
{
    struct sockaddr_storage addr = {0};
    socklen_t len = sizeof(addr);
    int fd;

    MUST(getsockname(listener, (struct sockaddr *)&addr, &len));
    fd = MUST(socket(addr.ss_family, SOCK_STREAM, 0));
    MUST(connect(fd, (struct sockaddr *)&addr, len));
    return fd;
}

struct pair pair_open(void)
{
    struct pair p = {.us = -1};
    int listener = test_side == SIDE_CONNECTED ? listener_open(AF_INET6) : -1;
    int one = 1;
    int near, far;

    if (listener < 0)
        listener = MUST(listener_open(AF_INET));
    near = connect_to(listener);
    far = MUST(accept(listener, NULL, NULL));
    close(listener);
    MUST(setsockopt(near, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)));
    MUST(setsockopt(far, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)));
    p.us = test_side == SIDE_ACCEPTED ? far : near;
    p.peer = test_side == SIDE_ACCEPTED ? near : far;
    return p;
}

void warm_up(struct pair *p)
{
    put(p, WARM_READS);
    for (int i = 0; i < WARM_READS; i++)
        take(p, 1);
}

struct pair pair_open_warm(void)
{
    struct pair p = pair_open();

    warm_up(&p);
    return p;
}

struct pair pair_open_held(size_t n)
{
    struct pair p = pair_open_warm();

    put(&p, n + 1);
    take(&p, 1);
    return p;
}

struct pair pair_open_with(enum where where, size_t n)
{
    struct pair p;

    if (where == WHERE_QUEUED) {
        p = pair_open_warm();
        put(&p, n);
    } else {
        size_t held = where == WHERE_BOTH ? n / 2 : n;

        p = pair_open_held(held);
        if (n > held)
            put(&p, n - held);
    }
    return p;
}

void pair_close(struct pair *p)
{
    if (p->us >= 0)
        MUST(close(p->us));
    if (p->peer >= 0)
        MUST(close(p->peer));
    p->us = p->peer = -1;
}

static struct tcp_info tcp_info_of(int fd)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);
    long ret = RAW5(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, &info, &len);

    if (ret < 0)
        FAIL("TCP_INFO on %d fails with errno %ld", fd, -ret);
    return info;
}

void settle(int receiver, uint64_t total)
{
    /* Not SIOCOUTQ of the sender: acknowledgements may be 40 ms late. */
    while (tcp_info_of(receiver).tcpi_bytes_received < total)
        test_yield();
}

void put_now(struct pair *p, size_t n)
{
    uint8_t buf[4096];

    while (n) {
        size_t part = n < sizeof(buf) ? n : sizeof(buf);
        ssize_t done;

        payload_fill(0, buf, p->sent, part);
        done = send(p->peer, buf, part, MSG_NOSIGNAL);
        if (done < 0)
            FAIL("the peer's send of %zu bytes fails with errno %d", part, errno);
        p->sent += (uint64_t)done;
        n -= (size_t)done;
    }
}

void put(struct pair *p, size_t n)
{
    put_now(p, n);
    settle(p->us, p->sent);
}

void check_next(struct pair *p, const void *buf, size_t n)
{
    check_ahead(p, buf, 0, n);
    __atomic_fetch_add(&p->got, n, __ATOMIC_RELEASE); /* some wait for it in another thread */
}

void check_ahead(const struct pair *p, const void *buf, uint64_t ahead, size_t n)
{
    char why[200];

    if (payload_compare(0, buf, p->got + ahead, n, why, sizeof(why)))
        FAIL("%s", why);
}

void take(struct pair *p, size_t n)
{
    uint8_t buf[4096];

    while (n) {
        size_t part = n < sizeof(buf) ? n : sizeof(buf);
        ssize_t done = recv(p->us, buf, part, 0);

        if (done <= 0)
            FAIL("recv of %zu bytes at offset %llu gives %zd (errno %d)", part,
                 (unsigned long long)p->got, done, errno);
        check_next(p, buf, (size_t)done);
        n -= (size_t)done;
    }
}

void check_empty(int fd)
{
    char byte;

    CHECK_ERR(recv(fd, &byte, 1, MSG_DONTWAIT), EAGAIN);
}

int tcp_state(int fd)
{
    return tcp_info_of(fd).tcpi_state;
}

void wait_tcp_state(int fd, int state)
{
    while (tcp_state(fd) != state)
        test_yield();
}

void peer_fin(struct pair *p)
{
    int state;

    MUST(shutdown(p->peer, SHUT_WR));
    do {
        state = tcp_state(p->us);
        test_yield();
    } while (state != TCP_CLOSE_WAIT && state != TCP_TIME_WAIT && state != TCP_CLOSE);
}

void reset_close(int fd)
{
    struct linger abort_it = {.l_onoff = 1, .l_linger = 0};

    MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &abort_it, sizeof(abort_it)));
    MUST(close(fd));
}

void peer_reset(struct pair *p)
{
    reset_close(p->peer);
    p->peer = -1;
    wait_tcp_state(p->us, TCP_CLOSE);
}

enum seen peer_sees(int fd, int64_t ms)
{
    int64_t until = now_ms() + ms;

    /* The kernel's own word, asked without taking anything; events that stay do not end the wait. */
    do {
        struct pollfd pfd = {.fd = fd, .events = POLLRDHUP};
        int state = tcp_state(fd); /* first: a reset that comes in between is an error by then */

        RAW3(SYS_poll, &pfd, 1, 0);
        if (pfd.revents & POLLERR)
            return SEEN_RESET;
        if (state == TCP_CLOSE_WAIT || state == TCP_LAST_ACK || state == TCP_TIME_WAIT ||
            state == TCP_CLOSE || pfd.revents & POLLRDHUP)
            return SEEN_FIN;
        test_yield();
    } while (now_ms() < until);
    return SEEN_NOTHING;
}

const char *seen_name(enum seen seen)
{
    return seen == SEEN_NOTHING ? "SEEN_NOTHING" : seen == SEEN_FIN ? "SEEN_FIN" : "SEEN_RESET";
}

void set_nonblock(int fd, bool on)
{
    int flags = MUST(fcntl(fd, F_GETFL));

    MUST(fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK));
}

void set_timeout(int fd, int64_t ms)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
}

int so_error(int fd)
{
    int value = -1;
    socklen_t len = sizeof(value);

    MUST(getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &len));
    return value;
}

short poll_now(int fd, short events)
{
    struct pollfd pfd = {.fd = fd, .events = events};

    MUST(poll(&pfd, 1, 0));
    return pfd.revents;
}
