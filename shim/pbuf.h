/*
 * One group of provided buffers. A buffer is
 *   free   here, on a stack: the last one home is the first one out, so an idle thread touches few,
 *   lent   in the kernel's buffer ring, to be filled,
 *   held   filled, its bytes not yet all copied out (or on its way home from another thread).
 *
 *   lent + held + free == total
 *
 * Owning thread only, but for pbs_pbuf_home_remote().
 */
#ifndef PBS_PBUF_H
#define PBS_PBUF_H

#include "base.h"
#include "sock.h"

struct io_uring_buf_ring;

struct pbs_pbuf {
    uint8_t *mem;         /* total * stride bytes */
    unsigned total, size; /* total is a power of two */
    unsigned stride;      /* from one buffer to the next */
    unsigned lent, held, nfree;
    unsigned want;           /* how many to lend; grows when the kernel runs out */
    uint16_t *free;          /* stack of bids */
    struct pbs_piece *piece; /* by bid: what a held buffer holds */
    struct io_uring_buf_ring *br;
    int bgid;

    /* Buffers that other threads have emptied: a list by bid. Pushed by any thread, taken whole by
     * the owner, so there is no ABA. Partner: pbs_pbuf_home_remote / pbs_pbuf_refill. */
    atomic_uint returned; /* bid + 1; 0: empty */
    uint32_t *return_next;
};

/* Bytes that a group of `total` buffers needs for the kernel's ring (whole pages). */
size_t pbs_pbuf_ring_size(unsigned total);

/* br: pbs_pbuf_ring_size() bytes, page-aligned, zeroed. 0 or -ENOMEM. Registering is the ring's. */
int pbs_pbuf_init(struct pbs_pbuf *p, unsigned total, unsigned size, void *br, int bgid);
void pbs_pbuf_destroy(struct pbs_pbuf *p);

/* Takes back what other threads returned, and lends up to `want`: one published tail for all. */
void pbs_pbuf_refill(struct pbs_pbuf *p);

/* The kernel ran out of lent buffers: lend more from now on. False: nothing is free. */
bool pbs_pbuf_grow(struct pbs_pbuf *p);

/* Buffer bid was filled with len > 0 bytes: now held. The piece is to be queued by the caller. */
struct pbs_piece *pbs_pbuf_filled(struct pbs_pbuf *p, unsigned bid, size_t len);

/* A held piece is consumed: its buffer is free again. Returning one that is not held traps in
 * debug builds. */
void pbs_pbuf_home(struct pbs_pbuf *p, struct pbs_piece *piece);

/* The same from any other thread. */
void pbs_pbuf_home_remote(struct pbs_pbuf *p, struct pbs_piece *piece);

/* The kernel cannot fill them any more, or can again; what is held can be read. Any thread. */
void pbs_pbuf_seal(struct pbs_pbuf *p, bool sealed);

/* At least one buffer is lent, or could be. */
static inline bool pbs_pbuf_available(const struct pbs_pbuf *p)
{
    return p->lent || p->nfree || atomic_load_explicit(&p->returned, memory_order_relaxed);
}

#endif
