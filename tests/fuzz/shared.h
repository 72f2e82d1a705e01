/*
 * What the driver and the runner share: one mapping with a slot for each thread of control in the
 * runner. The driver posts a script line in a slot and wakes it; the runner carries it out and
 * leaves the result. Waking and waiting are raw futex calls, so that the interposer under test,
 * which sees libc calls only, sees nothing but the script's own.
 */
#ifndef FZ_SHARED_H
#define FZ_SHARED_H

#include <stdatomic.h>
#include <stdint.h>

#define FZ_LINE 256
#define FZ_THREADS 4
#define FZ_KIDS 2
#define FZ_SLOTS (FZ_THREADS + FZ_KIDS)
#define FZ_PROCS (1 + FZ_KIDS) /* the runner, and its children */
#define FZ_FDS 24
#define FZ_CONNS 8
#define FZ_LISTENERS 4
#define FZ_EPOLLS 4
#define FZ_EVENTS 16
#define FZ_TEXT 768
#define FZ_SHM_FD 3
#define FZ_RCVBUF (2 << 20) /* asked for; without privilege less may be given */

/* A slot's life. POSTED and IDLE are written by the driver, the rest by the runner. */
enum fz_state { FZ_ABSENT, FZ_IDLE, FZ_POSTED, FZ_RUNNING, FZ_DONE, FZ_GONE };

struct fz_event {
    uint32_t key;
    uint32_t bits;
};

struct fz_slot {
    _Atomic uint32_t state; /* a futex word */
    _Atomic uint32_t handled;
    _Atomic int32_t tid;
    int32_t topups; /* receives that gave fewer bytes than the reference did */
    int64_t want;   /* bytes the reference run got from this line, or 0 */
    int64_t ret;
    int32_t nev;
    struct fz_event ev[FZ_EVENTS];
    char line[FZ_LINE];
    char text[FZ_TEXT];
    char soft[FZ_LINE]; /* how the bytes were cut into messages: void after a top-up */
    char note[FZ_TEXT]; /* what signal handlers did meanwhile */
};

struct fz_fd {
    int32_t num;
    int32_t conn;
    int32_t open;
};

struct fz_shared {
    struct fz_slot slot[FZ_SLOTS];
    struct fz_fd fd[FZ_PROCS][FZ_FDS]; /* each process has numbers of its own */
    int32_t ep[FZ_PROCS][FZ_EPOLLS];
    int32_t port[FZ_LISTENERS];
    int32_t family[FZ_LISTENERS];
    int32_t listener[FZ_LISTENERS];
    int32_t peer_port[2];              /* the driver's listeners: IPv4, IPv6 */
    _Atomic uint64_t rx_off[FZ_CONNS]; /* next byte of the peer's stream that is due */
    _Atomic uint64_t tx_off[FZ_CONNS]; /* bytes the runner has sent */
    _Atomic uint64_t oob_at[FZ_CONNS]; /* 1 + offset of the last urgent byte */
    int32_t inl[FZ_CONNS];             /* SO_OOBINLINE is set */
    int32_t driver;                    /* its process */
    int32_t kid_pid[FZ_KIDS], kid_of[FZ_KIDS];
    int32_t way[2]; /* a socketpair for passing descriptors */
    char again[64]; /* a path to this mapping, for images to come */
};

/* Byte `off` of stream `id`: 0..7 from the peer of connection id, 8..15 to it. */
static inline uint8_t fz_byte(unsigned id, uint64_t off)
{
    uint64_t x = off * 0x9e3779b97f4a7c15u + (id + 1) * 0xbf58476d1ce4e5b9u;

    x ^= x >> 31;
    x *= 0x94d049bb133111ebu;
    return (uint8_t)(x >> 56);
}

#define FZ_TO_PEER(conn) ((unsigned)(conn) + FZ_CONNS)

/* 0 or -errno; ms < 0: no limit. */
int fz_futex_wait(_Atomic uint32_t *word, uint32_t val, long us);
void fz_futex_wake(_Atomic uint32_t *word);

#endif
