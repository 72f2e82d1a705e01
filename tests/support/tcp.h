/*
 * A TCP connection over loopback, and the two streams on it.
 *
 * `us` is the socket under test, `peer` the other end. What the peer sends is payload of stream 0;
 * the pair counts how much was sent and how much was received, so that a case says only how many
 * bytes it wants and the right ones are checked. No function sleeps for a fixed time: put() and
 * peer_*() return when the kernel says that it has arrived.
 */
#ifndef TESTS_SUPPORT_TCP_H
#define TESTS_SUPPORT_TCP_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "test.h"

struct pair {
    int us;
    int peer;
    uint64_t sent;
    uint64_t got;
};

/* A fresh connection: nothing sent, nothing received. */
struct pair pair_open(void);

/*
 * A connection that has already been read from byte by byte, so that whatever wants to learn from
 * the way a program reads has had the chance to.
 */
struct pair pair_open_warm(void);

/* Enough single-byte reads to convince any policy that looks at a few of them. */
#define WARM_READS 160

/* The same, left with n bytes that have arrived but were not read when the byte before them was. */
struct pair pair_open_held(size_t n);

/*
 * The three places where bytes that have arrived may be: n bytes of which nothing has been seen
 * yet, n that were there when others were read, and half and half.
 */
enum where {
    WHERE_QUEUED,
    WHERE_HELD,
    WHERE_BOTH,
};
#define WHERES 3

struct pair pair_open_with(enum where where, size_t n);

void pair_close(struct pair *p);

/* A listening socket on loopback, an ephemeral port; family AF_INET or AF_INET6. */
int listener_open(int family);

/* Connects to where the listener listens. */
int connect_to(int listener);

/* The peer sends n bytes of payload; returns when they are in our receive queue. */
void put(struct pair *p, size_t n);

/* The same without waiting for the arrival: may be called while we are in a receive. */
void put_now(struct pair *p, size_t n);

/* Reads bytewise so that the policy takes the socket, then goes on to the pair's new offsets. */
void warm_up(struct pair *p);

/* Receives exactly n bytes with plain recv calls and checks them. */
void take(struct pair *p, size_t n);

/* These n bytes are the next ones of the stream; moves on. */
void check_next(struct pair *p, const void *buf, size_t n);

/* These n bytes are those that come `ahead` bytes after the next one; does not move. */
void check_ahead(const struct pair *p, const void *buf, uint64_t ahead, size_t n);

/* Nothing more comes: recv(MSG_DONTWAIT) gives EAGAIN. */
void check_empty(int fd);

/* The peer ends its stream, or resets; returns when that has arrived. The reset closes p->peer. */
void peer_fin(struct pair *p);
void peer_reset(struct pair *p);

/* Waits until `total` bytes since the connection's start have arrived in this socket's kernel. */
void settle(int receiver, uint64_t total);

/* Waits until the socket is in this TCP state (TCP_CLOSE_WAIT ...). */
void wait_tcp_state(int fd, int state);
int tcp_state(int fd);

/* closes fd so that the other end gets a reset. */
void reset_close(int fd);

/* What the other end of a connection is told: polls the socket `fd` that was never read from. */
enum seen {
    SEEN_NOTHING, /* nothing within the time */
    SEEN_FIN,
    SEEN_RESET,
};

/* Waits for the end of the connection to be seen on fd, for at most ms; unread data is ignored. */
enum seen peer_sees(int fd, int64_t ms);

#define CHECK_PEER_SEES(fd, what)                                                                  \
    do {                                                                                           \
        enum seen seen_ = peer_sees((fd), slack(100));                                             \
        if (seen_ != (what))                                                                       \
            FAIL("the peer saw %s, wanted %s", seen_name(seen_), #what);                           \
    } while (0)

const char *seen_name(enum seen seen);

int so_error(int fd);
short poll_now(int fd, short events);
void set_nonblock(int fd, bool on);
void set_timeout(int fd, int64_t ms);

#endif
