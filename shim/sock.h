/*
 * One open socket: which bytes of it we hold, in order; the error that we hold; its state.
 * Pure logic: no system call here.
 *
 *   WATCHED --adopt--> ADOPTED <----------------------------+
 *      |                  | armed = 0: IDLE                 |
 *      |                  | armed > 0: ARMED, one multishot | give up, back-off (policy auto)
 *      | not eligible     |            request in one ring  |
 *      v                  v                                 |
 *     PASS <--release-- (cancel) --------------------> WATCHED
 *
 * DRAINING is no state of its own: a record that is not armed and still holds bytes (held > 0) or
 * an error (error != 0). What is held is served first in every state; with nothing held and nothing
 * armed the plain call is right in every state.
 *
 * End of file is never stored: the kernel repeats it. An error that the ring has consumed is, and
 * is given once.
 *
 * Guard: file.lock, for all fields but those marked otherwise. Records are type-stable: a stale
 * pointer may be locked, then pbs_fdtab_is() says whether it still stands for the number.
 */
#ifndef PBS_SOCK_H
#define PBS_SOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

#include "base.h"
#include "policy.h"
#include "spill.h"

#define HASH_NONFATAL_OOM 1
#include "uthash_mem.h"

enum pbs_file_kind { PBS_FILE_FREE, PBS_FILE_SOCK, PBS_FILE_EPOLL };

/* What the fd table points to. */
struct pbs_file {
    struct pbs_lock lock;
    atomic_uint kind; /* enum pbs_file_kind; does not change while nfds > 0 */
    atomic_uint nfds; /* fd numbers of this process that stand for it */

    /* How many processes may hold it (gate.h); any thread reads. */
    _Atomic(uint32_t) entry; /* in the ledger; 0: there was no fork in its life */
    atomic_bool shared;      /* another process may hold it, uncounted, for good */
    uint32_t place;          /* in what a fork hands down (fork.c); guarded by its lock */
};

enum pbs_state { PBS_WATCHED, PBS_ADOPTED, PBS_PASS };

/* A buffer's name within its ring: the group's id and its own. */
static inline uint32_t pbs_buf_name(int bgid, unsigned bid)
{
    return (uint32_t)bgid << 16 | bid;
}

/* How many pieces of one buffer a socket has not let go: of none that is counted nowhere, one. Touched
 * when bytes arrive and when a piece is consumed. */
struct pbs_hold {
    uint32_t buf;
    uint32_t refs;
    UT_hash_handle hh;
};

struct pbs_pbuf;

/* A run of held bytes, in arrival order in its socket's queue. A cache line is what most of them need. */
struct pbs_piece {
    const uint8_t *data; /* first byte not yet consumed */
    size_t len;          /* > 0 while queued */
    struct pbs_piece *prev, *next;
    struct pbs_pbuf *group; /* whose buffer it lies in; NULL: memory of our own */
    uint32_t buf;           /* that buffer's name */
    bool counted;           /* among its socket's holds */
    size_t own_size;        /* else: what is to be freed, from the piece on */
    struct pbs_hold hold;   /* used by the first piece of a buffer that a socket holds */
} __attribute__((aligned(64)));

struct pbs_ring;
struct pbs_item;

struct pbs_sock {
    struct pbs_file file;

    /* Written under the lock and peeked at without it, also through stale pointers. */
    _Atomic(enum pbs_state) state;
    atomic_bool nonblock;   /* O_NONBLOCK, known while ADOPTED */
    atomic_bool armed;      /* a request of it is in the kernel */
    atomic_bool at_end;     /* the ring saw the end of file or an error: nothing is behind */
    atomic_bool unverified; /* see fresh_arm */
    _Atomic(int) error;     /* consumed by the ring, not yet given; 0 none */
    uint32_t seen_at; /* its ring's: where its first piece began at the look for pinned ones */
    _Atomic(int64_t) timeout; /* SO_RCVTIMEO in ns, 0 none, known while ADOPTED */
    _Atomic(size_t) held;     /* bytes held, sum of pieces' len */
    /* Bytes in front of all others, and an error, of which another process may take; NULL: none. */
    _Atomic(struct pbs_spill *) spill;
    /* Membership in a ring: while armed or while pieces lie in its buffers. */
    _Atomic(struct pbs_ring *) ring;

    /* User thread's ready_epoch when it was last seen empty; its alone, but for a look by one that
     * takes it over. */
    _Atomic(uint64_t) dry_epoch;

    _Atomic(uint64_t) user; /* id of the one thread that uses it; 0 none yet. Any thread by CAS */

    /* Another thread's call while a request was armed (visit.h). */
    _Atomic(uint64_t) visit;

    /* Moves when it is put: what was remembered of it is another socket's then. */
    _Atomic(uint64_t) life;

    bool tcp; /* AF_INET or AF_INET6, SOCK_STREAM, IPPROTO_TCP */
    bool listening;
    bool impatient; /* SO_RCVTIMEO was set negative: the kernel tells nobody, accept inherits it */
    /*
     * No completion yet since it was armed. Once the first bytes have come, whether an error is
     * behind them is not known (unverified): one that was there before the arming is reported by no
     * further completion once bytes were (Linux 6.18; an end of file is). A plain receive that finds
     * nothing settles it.
     */
    bool fresh_arm;
    bool stale;   /* what the kernel said of it at its adoption may have changed: ask again */
    bool revoked; /* on the ring's revoke list; guarded, with the next, by ring->lock */
    uint8_t revoke_reason; /* enum pbs_reason, for the count */
    uint8_t spill_file;    /* where spill is */
    int fd;                /* one number that stands for it, for calls about it while adopted */

    int ghost; /* ours, when a call sleeps on it and the program has closed its last; -1 */

    struct pbs_piece *pieces;
    struct pbs_hold *holds;
    struct pbs_pbuf *group; /* its own in its ring, while it is adopted; NULL: it shares one */

    uint64_t rid;    /* key in the ring's table; a new one for each arming */
    unsigned sqe_at; /* its request is in the kernel when the head of submissions is there */

    /* Its user thread's `call` when that last began a real call which names this socket: equal means
     * that it is in it, and the kernel has a reference of its own to the file. */
    _Atomic(uint32_t) call;
    union {
        struct pbs_sock *revoke_next; /* guarded by ring->lock */
        struct pbs_sock *next_free;   /* of one that is put */
    };
    UT_hash_handle hh; /* in ring->socks; guarded by ring->lock */

    struct pbs_tally tally; /* user thread alone */

    struct pbs_item *items; /* memberships in epoll instances */
};

/* A piece in memory of our own, with room for size bytes behind it; NULL: out of memory. */
struct pbs_piece *pbs_piece_own(size_t size);
void pbs_piece_free(struct pbs_piece *piece);

/* Where received bytes go: an iovec array, consumed from the front. */
struct pbs_dst {
    const struct iovec *iov;
    unsigned n;
    size_t off;  /* bytes of iov[0] already filled */
    size_t left; /* bytes that may still be filled, over all */
    size_t done; /* bytes filled */
};

/* Takes a piece that is consumed: one less of its buffer is out, its own memory is freed. */
typedef void pbs_home_fn(void *ctx, struct pbs_piece *piece);

/* What of a file's record begins anew with each life. */
static inline void pbs_file_init(struct pbs_file *f, enum pbs_file_kind kind)
{
    f->kind = kind;
    f->nfds = 0;
    f->entry = 0;
    f->shared = false;
}

/* A new record, unlocked, WATCHED, nfds 0. NULL when out of memory. */
struct pbs_sock *pbs_sock_get(void);

/* nfds 0, not in a ring, nothing held. Caller holds the lock; it is released. */
void pbs_sock_put(struct pbs_sock *s);

/* Queues a piece behind what is held and counts its buffer. Never fails: no byte may be lost. */
void pbs_sock_hold(struct pbs_sock *s, struct pbs_piece *piece);

/* len more bytes have come behind the last piece, in the same buffer: it is that much longer. False: not
 * that case, nothing happened. */
static inline bool pbs_sock_extend(struct pbs_sock *s, uint32_t buf, const uint8_t *data,
                                   size_t len)
{
    struct pbs_piece *last = s->pieces ? s->pieces->prev : NULL; /* of a utlist */

    if (!last || last->data + last->len != data || last->buf != buf || !last->group)
        return false;
    last->len += len;
    atomic_store_explicit(&s->held, atomic_load_explicit(&s->held, memory_order_relaxed) + len,
                          memory_order_relaxed);
    return true;
}

/* Copies held bytes in order to dst, at most dst->left, and consumes them. Returns the count. */
size_t pbs_sock_take(struct pbs_sock *s, struct pbs_dst *dst, pbs_home_fn *home, void *ctx);

/* The commonest case of it: n > 0 bytes that all lie in the first piece, which is not used up by
 * them. False: not that case, nothing happened. Caller has proved the n bytes at buf. */
static inline bool pbs_sock_take_front(struct pbs_sock *s, void *buf, size_t n)
{
    struct pbs_piece *piece = s->pieces;

    if (pbs_unlikely(!piece || piece->len <= n))
        return false;
    memcpy(buf, piece->data, n);
    piece->data += n;
    piece->len -= n;
    atomic_store_explicit(&s->held, atomic_load_explicit(&s->held, memory_order_relaxed) - n,
                          memory_order_relaxed);
    return true;
}

/* The next: n > 0 bytes that are all that is held, in one piece. It is off the queue then and the
 * caller's to send home. NULL: not that case, nothing happened. */
static inline struct pbs_piece *pbs_sock_take_only(struct pbs_sock *s, void *buf, size_t n)
{
    struct pbs_piece *piece = s->pieces;

    if (pbs_unlikely(!piece || piece->len != n || piece->next || s->holds))
        return NULL;
    memcpy(buf, piece->data, n);
    piece->len = 0;
    s->pieces = NULL;
    atomic_store_explicit(&s->held, 0, memory_order_relaxed);
    return piece;
}

/* The same as pbs_sock_take() without consuming; not the first `skip` bytes. */
size_t pbs_sock_peek(const struct pbs_sock *s, struct pbs_dst *dst, size_t skip);

/* Consumes up to n held bytes without copying. Returns the count. */
size_t pbs_sock_drop(struct pbs_sock *s, size_t n, pbs_home_fn *home, void *ctx);

/* What it holds in shared memory; NULL: nothing. */
static inline struct pbs_spill *pbs_sock_spill(struct pbs_sock *s)
{
    /* acquire: whoever looks without the lock sees what the entry was filled with */
    return atomic_load_explicit(&s->spill, memory_order_acquire);
}

/* Takes the held error: 0 or a positive errno, once. */
static inline int pbs_sock_take_error(struct pbs_sock *s)
{
    int err = atomic_exchange_explicit(&s->error, 0, memory_order_relaxed);
    struct pbs_spill *e = pbs_sock_spill(s);

    return pbs_unlikely(!err && e) ? atomic_exchange(&e->error, 0) : err;
}

/* Bytes that are not in the kernel any more. Any thread, as a hint. */
static inline size_t pbs_sock_unread(struct pbs_sock *s)
{
    return atomic_load_explicit(&s->held, memory_order_relaxed) + pbs_spill_left(pbs_sock_spill(s));
}

/* An error that is not in the kernel any more. Any thread, as a hint. */
static inline int pbs_sock_error(struct pbs_sock *s)
{
    struct pbs_spill *e = pbs_sock_spill(s);

    return atomic_load_explicit(&s->error, memory_order_relaxed) ?: (e ? e->error : 0);
}

/* Something of it is held: it is readable whatever the kernel says. Any thread, as a hint. */
static inline bool pbs_sock_holds(struct pbs_sock *s)
{
    return atomic_load_explicit(&s->held, memory_order_relaxed) ||
           atomic_load_explicit(&s->error, memory_order_relaxed) ||
           (pbs_unlikely(pbs_sock_spill(s) != NULL) && (pbs_sock_unread(s) || pbs_sock_error(s)));
}

static inline void pbs_sock_set_dry(struct pbs_sock *s, uint64_t epoch)
{
    atomic_store_explicit(&s->dry_epoch, epoch, memory_order_relaxed);
}

/* Seen empty since anything told its thread that some socket is ready. */
static inline bool pbs_sock_dry(struct pbs_sock *s, uint64_t epoch)
{
    return atomic_load_explicit(&s->dry_epoch, memory_order_relaxed) == epoch;
}

/* Copies as much of len bytes as dst has room for. Returns how much. */
size_t pbs_dst_fill(struct pbs_dst *dst, const uint8_t *data, size_t len);

/* Advances dst over n bytes that somebody else has filled. */
void pbs_dst_advance(struct pbs_dst *dst, size_t n);

/* In a forked child: forgets all records; their memory stays with the parent's image. */
void pbs_sock_reset(void);

#endif
