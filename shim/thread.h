/*
 * What we know of one thread of the program. A block is made when the thread first touches a
 * record and returns to a list at its end; blocks are never unmapped.
 *
 * Owning thread only, unless a field says otherwise. Signal handlers of the owning thread may run
 * between any two instructions; those that we wrap (sig.h) are put off while crit is not 0.
 */
#ifndef PBS_THREAD_H
#define PBS_THREAD_H

#include <pthread.h>
#include <signal.h>

#include "base.h"
#include "stats.h"

#define PBS_VISITS 4   /* of one call that are closed meanwhile */
#define PBS_PROVED 128 /* entries of the cache of proved pages, a power of two */

/* How the first handler that ran since the start of a wait was installed. */
enum pbs_wait_signal { PBS_SIG_NONE, PBS_SIG_RESTART, PBS_SIG_INTERRUPT };

struct pbs_ring;
struct pbs_sock;

struct pbs_thread {
    uint64_t id;           /* never reused; 0 is nobody */
    unsigned crit;         /* > 0: inside a critical section */
    unsigned deferred;     /* signals put off by it */
    struct pbs_ring *ring; /* NULL until the first adoption, and after a failure to get one */
    int ring_error;        /* errno of that failure; 0: none yet */
    bool dying;            /* in its destructors: no new ring */
    uint64_t saves;        /* plain receives that a ring would have answered */

    /*
     * Counts what told this thread that a socket is ready. A record's dry_epoch equal to it means:
     * the record was seen empty since, so EAGAIN needs no kernel entry (DESIGN: seen_ready).
     */
    uint64_t ready_epoch;

    /*
     * Real calls that this thread is in, or about to make, because nothing is held. Handlers that
     * interrupt it there receive by plain calls: bytes that they drained into the shim would be out
     * of the kernel's sight, and so of that call's. A siglongjmp out leaves it above 0: plain calls.
     */
    unsigned plain;

    /* Moves when a real call on records begins and when it ends, and while a handler runs in it: see
     * pbs_sock.call. Any thread reads. */
    _Atomic(uint32_t) call;

    /* The record that this thread sleeps for. Written here and by this thread's trampoline, read by
     * any thread: while it is set, a close leaves the request alone, as the kernel's own reference
     * would be left. */
    _Atomic(struct pbs_sock *) waiting;
    uint64_t waiting_life; /* pbs_sock.life when that began */
    uint64_t same_life;    /* that of the socket that a call is about which goes on (PBS_RX_SAME) */
    /* Sleeps in its ring for all sockets whose `call` is its own (poll, select); the same holds. */
    atomic_bool polling;
    _Atomic(struct pbs_sock *) broken; /* a wait that a handler ended: look after its request */
    atomic_uint wait_signal;           /* enum pbs_wait_signal, since the start of the wait */
    /* Nothing had come when the first of them ran: what has come since is the next call's. */
    bool wait_quiet;
    /* The wait has made pthread_cancel act at once, and registered this clean-up for it. */
    __pthread_unwind_buf_t *cleanup;

    atomic_int visits[PBS_VISITS]; /* numbers left to this thread, + 1; 0: free (visit.h) */

    char **left; /* an environment that a vfork child has left here (handover.c) */
    size_t left_size;

    unsigned proved_epoch;             /* pbs_user_epoch when the caches were begun */
    uint64_t proved_write[PBS_PROVED]; /* runs of 16 pages, by the run's number (user.h) */
    uint64_t proved_read[PBS_PROVED];

    struct pbs_stats stats;

    /* Signals put off, and the mask to go back to: the one of the context that was interrupted. */
    uint64_t deferred_set;
    uint64_t deferred_mask;

    struct pbs_thread *next, *prev; /* in the list of live threads, or the free list */

    siginfo_t
        deferred_info[64]; /* last: its pages stay untouched as long as no signal is put off */
};

extern __thread struct pbs_thread *pbs_self __attribute__((tls_model("initial-exec")));

/* Whose memory and numbers a thread has. hook_vfork.c writes the 1. */
enum pbs_lent {
    PBS_LENT_NOT,
    PBS_LENT,          /* a child in its parent's memory until that goes on; handlers of its own */
    PBS_LENT_HANDLERS, /* the same, with its parent's */
    PBS_APART,         /* a thread with a table of descriptors of its own */
};
extern __thread int pbs_in_vfork_child __attribute__((tls_model("initial-exec")));

/* This thread's block, made at need. NULL when out of memory: then the plain call is made. */
struct pbs_thread *pbs_thread_make(void);

static inline struct pbs_thread *pbs_thread_get(void)
{
    return pbs_likely(pbs_self != NULL) ? pbs_self : pbs_thread_make();
}

/* Queues what was put off to this thread, or calls its handler, and restores the mask. crit is 0. */
PBS_COLD void pbs_thread_deliver(struct pbs_thread *self);

/*
 * A critical section: no handler of the program runs on this thread before it is left. Short, and
 * never sleeps. Nests.
 */
static inline void pbs_crit_enter(struct pbs_thread *self)
{
    self->crit++;
    atomic_signal_fence(memory_order_seq_cst);
}

static inline void pbs_crit_leave(struct pbs_thread *self)
{
    atomic_signal_fence(memory_order_seq_cst);
    if (--self->crit == 0 && pbs_unlikely(self->deferred))
        pbs_thread_deliver(self);
}

#define pbs_count(self, what) ((self)->stats.n[PBS_STAT_##what]++)
#define pbs_count_n(self, what, k) ((self)->stats.n[PBS_STAT_##what] += (uint64_t)(k))

/* Sets the function that takes a thread's ring apart at its end (rx; thread knows no ring). */
void pbs_thread_init(void (*at_exit)(struct pbs_thread *self));

/* The live thread of which these are the low bits of its id; NULL. The block may be another thread's soon. */
struct pbs_thread *pbs_thread_find(uint32_t id);

/* Adds up the counters of all live threads. */
void pbs_thread_sum(struct pbs_stats *to);

/* In a forked child: only the calling thread is left. */
void pbs_thread_reset(void);

#endif
