/*
 * The headers of held pieces, one table for a ring: taken when bytes arrive, given back when they
 * have been copied out. Never more than the table has, so that a completion always finds one: the ring
 * sees to it before it enters the kernel.
 *
 * Owning thread only, but for pbs_pieces_return().
 */
#ifndef PBS_PIECES_H
#define PBS_PIECES_H

#include "base.h"
#include "sock.h"

struct pbs_pieces {
    struct pbs_piece *table;
    struct pbs_piece *free; /* the last one back is the first one out */
    unsigned most, fresh;   /* from fresh on they were never used, nor their memory touched */
    unsigned nfree;         /* on the free list */

    /* What other threads have emptied. Pushed by any thread, taken whole by the owner, so that there is
     * no ABA. Bounded: each is a header of the table. Partner: pbs_pieces_return / _returned. */
    _Atomic(struct pbs_piece *) returned;
};

/* 0 or -ENOMEM. Memory is touched as headers are used. */
int pbs_pieces_init(struct pbs_pieces *p, unsigned most);
void pbs_pieces_destroy(struct pbs_pieces *p);

/* How many more pbs_pieces_get() will succeed. */
static inline unsigned pbs_pieces_left(const struct pbs_pieces *p)
{
    return p->nfree + p->most - p->fresh;
}

/* One that nobody has; NULL: none is left. */
static inline struct pbs_piece *pbs_pieces_get(struct pbs_pieces *p)
{
    struct pbs_piece *piece = p->free;

    if (pbs_unlikely(!piece))
        return p->fresh < p->most ? &p->table[p->fresh++] : NULL;
    p->free = piece->next;
    p->nfree--;
    return piece;
}

static inline void pbs_pieces_put(struct pbs_pieces *p, struct pbs_piece *piece)
{
    PBS_ASSERT(p->nfree < p->fresh);
    piece->next = p->free;
    p->free = piece;
    p->nfree++;
}

/* If none is out, their memory goes back to the kernel. */
void pbs_pieces_trim(struct pbs_pieces *p);

/* Any other thread: the owner finds it at its next look. */
void pbs_pieces_return(struct pbs_pieces *p, struct pbs_piece *piece);

/* All that were returned, linked by next; NULL: none. Each is to be put. */
static inline struct pbs_piece *pbs_pieces_returned(struct pbs_pieces *p)
{
    if (pbs_likely(!atomic_load_explicit(&p->returned, memory_order_relaxed)))
        return NULL;
    /* acquire: the other thread has done with the bytes (its release is in _return) */
    return atomic_exchange_explicit(&p->returned, NULL, memory_order_acquire);
}

#endif
