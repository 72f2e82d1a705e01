/*
 * Buffer group ids of one ring: 16 bits, given out bounded, taken back to a free list. Pure.
 * Owning thread only.
 */
#ifndef PBS_BGID_H
#define PBS_BGID_H

#include <stdint.h>

#define PBS_BGIDS 65536U

struct pbs_bgids {
    uint32_t limit; /* ids are 0 to limit - 1; limit <= PBS_BGIDS */
    uint32_t fresh; /* ids from here on were never given out */
    uint32_t nfree; /* ids on the free list */
    uint32_t head;  /* first of them */
    uint16_t *next; /* free list, by id */
    uint64_t *live; /* one bit an id: given out */
};

/* limit: 1 to PBS_BGIDS. -ENOMEM, -EINVAL. Memory is touched only as ids are used. */
int pbs_bgids_init(struct pbs_bgids *b, uint32_t limit);
void pbs_bgids_destroy(struct pbs_bgids *b);

/* An id that nobody has, or -ENOSPC: never one that is live. */
int pbs_bgids_get(struct pbs_bgids *b);

/* Gives an id back. Idempotent: false, and nothing changes, when it is not live. */
int pbs_bgids_put(struct pbs_bgids *b, uint32_t id);

/* How many more pbs_bgids_get() will succeed. */
static inline uint32_t pbs_bgids_remaining(const struct pbs_bgids *b)
{
    return b->limit - b->fresh + b->nfree;
}

#endif
