/*
 * When a socket is adopted and when it is given up: counters in, verdict out. Pure: no kernel, no
 * lock of its own; the counts belong to the record's one user thread.
 */
#ifndef PBS_POLICY_H
#define PBS_POLICY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "conf.h"

struct pbs_tally {
    uint32_t small_full; /* plain receives in a row that were small and filled what was asked for */
    _Atomic(uint32_t) served; /* receives answered since the window began; a hint */
    uint32_t wakeups;         /* kernel entries of the ring in this window */
    uint32_t bytes;           /* that came by the ring in it: each is copied once more */
    uint32_t burst;           /* bytes that came by it since it was armed */
    uint8_t backoff;          /* doublings of what is wanted before the next adoption */
    uint8_t crowded;          /* times that it used up the buffers that it shares with others */
    bool last_full;           /* the last receive filled what was asked for */
};

/* A receive was answered. Not locked: a second thread's count may get lost. */
static inline void pbs_policy_served(struct pbs_tally *t)
{
    atomic_store_explicit(&t->served, atomic_load_explicit(&t->served, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

/* A plain receive of at most `asked` bytes gave `got` (or -errno). True: it is one that adoption
 * would have answered without the kernel (what `would_save` counts). */
bool pbs_policy_plain(struct pbs_tally *t, size_t asked, long got);

/* Is a ring for a thread that has none yet worth its making? saves: receives of this thread so far
 * that adoption would have answered. A thread of one short connection never gets there. */
bool pbs_policy_ring(uint64_t saves, enum pbs_policy_name policy);

/* Adopt now? blocking: neither O_NONBLOCK nor MSG_DONTWAIT. */
bool pbs_policy_adopt(const struct pbs_tally *t, enum pbs_policy_name policy, bool blocking);

/* Its request ended because no buffer was left, of a group that lends `lent` bytes and not more. */
void pbs_policy_crowded(struct pbs_tally *t, uint64_t lent);

/* A group of buffers of its own? others: sockets that are armed in its ring beside it. */
bool pbs_policy_group(const struct pbs_tally *t, enum pbs_groups_name groups, unsigned others);

/* The ring was entered for this socket. True: it does not pay, give it up (back-off included). */
bool pbs_policy_wakeup(struct pbs_tally *t, enum pbs_policy_name policy);

#endif
