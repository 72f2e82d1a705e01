/*
 * One thread's io_uring: create, arm, enter, reap, cancel; and how other threads take a socket
 * back from it.
 *
 * With DEFER_TASKRUN bytes leave a socket only while the owner is inside io_uring_enter(GETEVENTS).
 * So everything about other threads turns on one word, in_enter:
 *
 *   owner                                   revoker
 *   in_enter = 1            (seq_cst)       put the record on the list    (seq_cst)
 *   look at the list: cancel those first    look at in_enter
 *   enter, reap, serve the list             1: kick, wait for `answers` to move
 *   in_enter = 0            (seq_cst)       0: go on; the next enter cancels first, and a cancel
 *   waiters? answers++, wake                   in the same enter always wins
 *
 * Whoever comes second sees the other. The kick is a FUTEX_WAIT armed in the ring (Linux 6.7).
 *
 * Rings are type-stable: a stale pointer may be locked. The kernel's side is never torn down while
 * the thread lives (its epoll_wait would see a spurious EINTR 10 to 20 ms later, Linux 6.18).
 */
#ifndef PBS_RING_H
#define PBS_RING_H

#include <liburing.h>

#include "bgid.h"
#include "gate.h"
#include "pbuf.h"
#include "pieces.h"
#include "sock.h"
#include "thread.h"

#define PBS_RING_SQ 32U
#define PBS_RING_CQ 128U       /* completions that it has room for at first */
#define PBS_RING_CQ_MOST 1024U /* and when it has grown */
#define PBS_RING_NEAR 256U     /* a power of two */
#define PBS_RING_FAT 16U
#define PBS_RING_PIECES (4 * PBS_RING_CQ_MOST)

/*
 * A multishot poll on a descriptor that can be read when something happened. It fires once for a
 * wake-up, not for a level. Owner of the ring alone, but for the atomics.
 */
struct pbs_watch {
    _Atomic(struct pbs_ring *) ring; /* where it was armed last; NULL: never */
    uint64_t ud;
    atomic_bool armed;
    atomic_bool fired; /* since it was last cleared, or it may have been */
    atomic_bool told;  /* it has, by a completion */
    atomic_bool echo;  /* what it tells of next is an end that the ring told of */
    void (*over)(struct pbs_watch *w);
    struct pbs_watch *next;
    struct pbs_watch *over_next; /* guarded, with over, by ring->lock */
};

struct pbs_ring {
    struct io_uring uring;    /* owner alone, as all down to `lock` */
    struct pbs_pbuf pool;     /* shared by the sockets that have no group of their own */
    struct pbs_pbuf *thirsty; /* groups that are to be refilled before the next enter */
    struct pbs_pieces pieces;
    struct pbs_bgids bgids;
    void *mem; /* queues and entries */
    size_t mem_size;
    int64_t squeeze_at; /* when to look next for pinned buffers, CLOCK_MONOTONIC ns */
    uint64_t bytes;     /* since the last tick */
    struct pbs_thread *owner;
    uint64_t last_rid;
    struct pbs_watch *watches;
    struct pbs_sock *fat[PBS_RING_FAT]; /* that may hold more than one socket should */
    unsigned nfat;
    unsigned cq;          /* completions that the queues have room for */
    unsigned ngroups;     /* sockets' own */
    unsigned sweep_at;    /* so many of them are worth a look for those that nobody uses */
    unsigned armed;       /* requests in the kernel */
    unsigned sleep_flags; /* of an enter that sleeps, beside the usual ones */
    unsigned news;        /* completions that a wait could be about, so far */
    unsigned looked;      /* how many there were when the present sleep began */
    bool cancelling;      /* revoked requests were cancelled and may not have ended yet */
    bool kick_armed;
    bool kickable; /* false: the kernel has no FUTEX_WAIT in rings */
    bool tick_armed, ticked;
    bool cq_short;   /* there was not room enough */
    bool cq_tried;   /* to get more */
    bool group_news; /* the next tick may find a group that can be given back */

    struct pbs_lock lock;                 /* guards socks, near, revoked, groups and overs */
    struct pbs_pbuf *groups;              /* sockets' own; owner changes it */
    struct pbs_sock *socks;               /* by rid: armed, or with pieces in our buffers */
    struct pbs_sock *near[PBS_RING_NEAR]; /* those of socks that were found last, by rid's end */
    struct pbs_sock *revoked;
    struct pbs_watch *overs; /* not wanted any more; guarded by lock */
    bool takes_overs;        /* false: the owner is past looking; guarded by lock */
    atomic_uint revokes;     /* records on that list, for the owner's look without the lock */

    atomic_bool orphans; /* a number was closed while the owner slept for its socket among others */

    atomic_bool nudged; /* another thread has something for the owner to look at before it sleeps */

    atomic_uint in_enter; /* partner: revoker's look, see above */
    atomic_uint kick;     /* the word that FUTEX_WAIT watches */
    atomic_uint waiters;  /* revokers waiting for an answer */
    atomic_uint answers;  /* futex: moves after every enter that had waiters */

    unsigned swept;               /* guarded by the list's lock: last pass that saw it */
    struct pbs_ring *next, *prev; /* in the list of live rings, or the free list */
};

/* Rings whose revoke list is not empty, and waits that a handler broke off. Not 0: every hook
 * looks after its own thread's (pbs_attend) before anything else. */
extern atomic_uint pbs_attention;

/* Called with s locked when bytes or an error of s arrive while it has epoll memberships. */
extern void (*pbs_ring_arrived)(struct pbs_sock *s);

/* Called with s locked when its request has ended, or been revoked, and it has memberships. */
extern void (*pbs_ring_unarmed)(struct pbs_sock *s);

/*
 * The calling thread's ring, made at the first call. NULL: refused; self->ring_error says why
 * (EDQUOT: our own quarter of RLIMIT_MEMLOCK) and no second try is made.
 */
struct pbs_ring *pbs_ring_get(struct pbs_thread *self);

/*
 * Prepares a multishot receive on s->fd; the next enter submits it. Owner only, s locked, ADOPTED,
 * not armed, nothing held. 0; -ENOBUFS: no buffer is free; -EAGAIN: a fork is under way;
 * -ENOMEM. The socket joins the ring's table.
 */
int pbs_ring_arm(struct pbs_ring *r, struct pbs_sock *s);

/* A thread may sleep in this ring: it can be kicked, or there is nobody to do so. */
static inline bool pbs_ring_can_sleep(const struct pbs_ring *r)
{
    return r->kickable || __libc_single_threaded;
}

/* The kernel has deferred work, or completions that found the queue full. Owner only. */
static inline bool pbs_ring_deferred(const struct pbs_ring *r)
{
    return io_uring_smp_load_acquire(r->uring.sq.kflags) &
           (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

/* Something waits for an enter: that, unsubmitted entries, or completions that an interrupted wait has
 * left. Owner only. */
static inline bool pbs_ring_pending(const struct pbs_ring *r)
{
    return pbs_ring_deferred(r) || r->uring.sq.sqe_tail != *r->uring.sq.khead ||
           io_uring_cq_ready(&r->uring);
}

/*
 * Enters the kernel once, without sleeping, and reaps. Cancels what was revoked first. Owner only,
 * no lock held.
 */
void pbs_ring_drain(struct pbs_ring *r);

/*
 * Sleeps until a completion comes, the deadline (CLOCK_MONOTONIC ns; 0: none) passes, a handler
 * ran or a kick came; then reaps. mask: the signals masked meanwhile; NULL: those that are. A
 * cancellation point. Owner only, no lock, no critical section.
 * submit_first: an entry of its own for what is unsubmitted, so that EINTR is not hidden behind
 * its count. Returns 0, -EINTR or -ETIME as far as the kernel told.
 */
int pbs_ring_wait(struct pbs_ring *r, int64_t deadline, bool submit_first, const sigset_t *mask);

/* Owner's next sleep, or the one under way, ends at once: there is something to look at again. Any
 * thread but the owner. */
void pbs_ring_nudge(struct pbs_ring *r);

/* Arms w on fd, fired from the start. Owner only. False: no entry was free. */
bool pbs_ring_watch(struct pbs_ring *r, struct pbs_watch *w, int fd);

/* Returns when w has ended. Owner only, no lock held. */
void pbs_ring_unwatch(struct pbs_ring *r, struct pbs_watch *w);

/*
 * w's descriptor is gone, or w is not wanted any more: ended at once, or by its owner at its next
 * call. Then `over` is called, and w may be used for something else. Any thread, no lock held.
 */
void pbs_ring_watch_over(struct pbs_watch *w, void (*over)(struct pbs_watch *w));

/* The last number of a socket for which r's owner sleeps was closed, and its request left. */
void pbs_ring_orphaned(struct pbs_ring *r);

/* Serves the last two. Owner only, no lock held. */
void pbs_ring_tidy(struct pbs_ring *r);

/*
 * Any other system call that sleeps, by the same means: a cancellation point, not begun if
 * self->wait_signal is set, ended with -EINTR by any handler. No lock, no critical section.
 */
long pbs_sleep_call(struct pbs_thread *me, long nr, long a, long b, long c, long d, long e, long f);

/* Cancels s's request and returns when it has ended. Owner only, no lock held. */
void pbs_ring_cancel(struct pbs_ring *r, struct pbs_sock *s, enum pbs_reason why);

/* The same if no number stands for s any more: its request alone keeps the file open. */
void pbs_ring_cancel_orphan(struct pbs_ring *r, struct pbs_sock *s);

/* The owner sleeps in its ring for s: a close leaves the request alone. s locked. */
static inline bool pbs_ring_sleeps_for(const struct pbs_thread *owner, struct pbs_sock *s)
{
    return atomic_load(&owner->waiting) == s ||
           (atomic_load(&owner->polling) && s->call == owner->call);
}

/*
 * The kernel has taken the request of s, and with it a reference of its own to the file: the number that it
 * was prepared by may go. s locked, armed; any thread. (The head moves when all that was submitted has been
 * taken.)
 */
bool pbs_ring_submitted(struct pbs_sock *s);

/* Takes s out of the ring's table if nothing binds it there any more. s locked; any thread. */
void pbs_ring_forget(struct pbs_sock *s);

/* No number stands for s, nothing is armed and nobody sleeps for it: what is held is dropped, and the
 * record is put. s locked; it is unlocked. */
void pbs_ring_dispose(struct pbs_sock *s);

/* A handler of the program is about to run in the middle of a wait: nobody may have to wait for
 * it. Owner only, from its trampoline or its cancellation. True: nothing had come that a wait could give. */
bool pbs_ring_interrupt(struct pbs_thread *self);

/* Cancels all requests of the calling thread's ring. */
void pbs_ring_cancel_all(struct pbs_ring *r, enum pbs_reason why);

/* The thread ends: cancels all, moves what is held to own memory, lets the ring go. */
void pbs_ring_end(struct pbs_thread *self);

/* A piece that was consumed by this thread goes home: pbs_home_fn, ctx is the pbs_sock. */
void pbs_ring_home(void *ctx, struct pbs_piece *piece);

/* Now in the pools of all rings. Any thread; the owners go on meanwhile. */
void pbs_ring_pool_sum(struct pbs_pool_stats *to);

/* ---- other threads (revoke.c) ---- */

/*
 * Ends the adoption of s by its owner, another thread, for good. s locked on entry and on return,
 * unlocked in between. On return no byte of s can move any more, and what has moved is held.
 */
void pbs_ring_revoke(struct pbs_sock *s, enum pbs_reason why);

/* The same for every armed record of every other ring; kicks those inside the kernel. */
void pbs_ring_revoke_others(struct pbs_thread *self, enum pbs_reason why);

/*
 * An exec ends the other threads, and what they have in the kernel runs once more before it is cancelled
 * (Linux 6.18): sealed, it finds no memory to write to, and the bytes stay in the sockets.
 */
void pbs_ring_seal_others(struct pbs_thread *self, bool sealed);

/* The owner takes its revoke list: prepares a cancel for each. In a critical section. True: there
 * was one. */
bool pbs_ring_serve_revokes(struct pbs_ring *r);

/* Takes s from the list if it is there. ring->lock held. */
void pbs_ring_unlist(struct pbs_ring *r, struct pbs_sock *s);

/* Enters until the list is empty and the cancelled requests have ended. In a critical section. */
void pbs_ring_finish_slow(struct pbs_ring *r);

static inline void pbs_ring_finish_revokes(struct pbs_ring *r)
{
    if (pbs_unlikely(r->cancelling || atomic_load(&r->revokes)))
        pbs_ring_finish_slow(r);
}

/* Serves this thread's share of pbs_attention. */
PBS_COLD void pbs_attend_slow(void);

static inline void pbs_attend(void)
{
    if (pbs_unlikely(atomic_load_explicit(&pbs_attention, memory_order_relaxed)))
        pbs_attend_slow();
}

/* s, armed and locked, is on the list of its ring, and for that reason. */
bool pbs_ring_revoked_for(struct pbs_sock *s, enum pbs_reason why);

/* The process ends in self: any other thread sleeps when it comes to attend, and so does not see what
 * becomes of its connections. */
void pbs_ring_end_others(struct pbs_thread *self);
void pbs_ring_end_none(void);

/* In a forked child: there are no rings. */
void pbs_ring_reset(void);

/* ---- between the ring's own files ---- */

#define PBS_UD_NONE 0
#define PBS_UD_KICK 1
#define PBS_UD_FIRST 16 /* rids start here */
#define PBS_UD_WATCH (UINT64_C(1) << 63)

struct io_uring_sqe *pbs_ring_sqe(struct pbs_ring *r);
void pbs_ring_submit(struct pbs_ring *r); /* alone: it runs no deferred work */
bool pbs_ring_cancel_sqe(struct pbs_ring *r, uint64_t rid);
/* Announces an enter and prepares what must come first: returns the entries to submit. In a critical
 * section. */
unsigned pbs_ring_announce(struct pbs_ring *r, bool kickable);
void pbs_ring_enter_now(struct pbs_ring *r);
/* True: something came beside the timer. all: also what found the queue full. */
bool pbs_ring_reap(struct pbs_ring *r);
bool pbs_ring_reap_all(struct pbs_ring *r);
void pbs_ring_watch_fired(struct pbs_ring *r, uint64_t ud, unsigned flags);
void pbs_ring_leave(struct pbs_ring *r);
void pbs_ring_probe_kick(struct pbs_ring *r);
bool pbs_ring_charge(size_t size); /* locked memory: within our quarter of the limit? */
void pbs_ring_uncharge(size_t size);

/* Takes what s holds out of the ring's buffers, into memory of its own. s locked. False: out of memory. */
bool pbs_ring_move_out(struct pbs_ring *r, struct pbs_sock *s);

/* ---- its buffers (ring_pool.c); owner only, in a critical section ---- */

#define PBS_UD_TICK 2

/* Makes the pool that all its sockets share. 0 or -errno. */
int pbs_ring_pool_init(struct pbs_ring *r);

/* Takes all of it apart; the kernel's side of the ring is there still. */
void pbs_ring_pool_end(struct pbs_ring *r);

/* In a forked child: its memory alone. */
void pbs_ring_pool_drop(struct pbs_ring *r);

/* The group that s, about to be armed, receives into; NULL: no buffer of it is free. s locked. */
struct pbs_pbuf *pbs_ring_group(struct pbs_ring *r, struct pbs_sock *s);

/* len bytes of s have come into its group's buffer bid; more: the kernel goes on with that. s locked. */
void pbs_ring_filled(struct pbs_ring *r, struct pbs_sock *s, unsigned bid, size_t len, bool more);

/* The request of s has ended for want of a buffer. s locked. */
void pbs_ring_ran_out(struct pbs_ring *r, struct pbs_sock *s);

/* Before an enter: what came home is lent again, who holds too much is to be cancelled, what is pinned
 * copied out. sleeps: it may be long. */
void pbs_ring_pool_prepare(struct pbs_ring *r, bool sleeps);

/* More room for completions (ring_size.c): ends all requests for that. Nothing more happens if the kernel or
 * the limits refuse. No lock held, no critical section. */
void pbs_ring_make_room(struct pbs_ring *r);
size_t pbs_ring_queue_size(unsigned cq);

/* ---- socket groups (ring_group.c) ---- */

/* A group of its own for s; NULL: refused, counted. s locked. */
struct pbs_pbuf *pbs_group_get(struct pbs_ring *r, struct pbs_sock *s);

/* Gives back those that no socket uses. idle: also takes away those that have not been used lately. No lock
 * held. */
void pbs_group_sweep(struct pbs_ring *r, bool idle);

/* All of them, used or not: nothing is armed, nothing held, and the kernel's side ends with the thread. It is
 * not told: the program may have forbidden the call by a filter. */
void pbs_group_end(struct pbs_ring *r);
struct pbs_lock *pbs_ring_list_lock(void);
struct pbs_ring *pbs_ring_list(void);

#endif
