/*
 * One group of provided buffers. A buffer is
 *   free   here, on a stack: the last one home is the first one out, so an idle thread touches few,
 *   lent   in the kernel's buffer ring, to be filled,
 *   held   full, and not all of it copied out (or on its way home from another thread).
 *
 *   lent + held + free == total
 *
 * Incremental (IOU_PBUF_RING_INC, Linux 6.12): the kernel fills a buffer bit by bit, whichever of the
 * group's sockets the bytes are for. A completion names the buffer alone, so that its offset is the sum of
 * those before it: completions come in the order of filling (Linux 6.18). A lent buffer may have pieces out
 * then; it goes home when the kernel has done with it and none is out. Otherwise each completion is the
 * kernel's last on its buffer.
 *
 * Memory is the process's once it has been lent: that is charged (mem.h), and given back when idle.
 * Owning thread only.
 */
#ifndef PBS_PBUF_H
#define PBS_PBUF_H

#include "base.h"

struct io_uring_buf_ring;

struct pbs_buf {
    uint32_t fill; /* bytes that the kernel has put there since it was lent */
    uint32_t room; /* bytes from its start that have ever been lent: charged */
    uint32_t refs; /* pieces out */
    bool lent;
};

struct pbs_pbuf {
    uint8_t *mem;         /* total * stride bytes */
    unsigned total, size; /* total is a power of two */
    unsigned stride;      /* from one buffer to the next */
    unsigned lent, held, nfree;
    unsigned out;        /* pieces, sum of the buffers' refs */
    unsigned want;       /* how many to lend; grows when the kernel runs out */
    unsigned chunk;      /* so many bytes of each; grows before that and with use, if incremental */
    unsigned turns;      /* buffers used to the end since it has grown */
    uint16_t *free;      /* stack of bids */
    struct pbs_buf *buf; /* by bid */
    struct io_uring_buf_ring *br;
    size_t charged;
    int bgid;
    bool inc;
    bool used; /* a buffer has come home since the last trim, which may be able to give it back */

    /* The ring's, which keeps a list of those that want a refill, and one of its sockets' own. */
    bool thirsty;
    struct pbs_pbuf *next_thirsty, *prev, *next;
    struct pbs_sock *sock; /* whose own it is; NULL: shared */
    uint64_t life;         /* of sock, when it got it */
    bool busy;             /* bytes have come since it was last looked at */
    bool leaving; /* idle: its request is to end, and the next is to have the shared group */
};

/* Bytes of it that the kernel pins, from `br` on (whole pages). */
size_t pbs_pbuf_pinned(unsigned total);

/* 0 or -ENOMEM. Registering `br` as bgid is the ring's. */
int pbs_pbuf_init(struct pbs_pbuf *p, unsigned total, unsigned size, bool inc, int bgid);
void pbs_pbuf_destroy(struct pbs_pbuf *p);

/* Lends up to `want`: one published tail for all. Less, if none is free or the budget is used up. */
void pbs_pbuf_refill(struct pbs_pbuf *p);

/* The kernel ran out of lent buffers: lend more from now on. False: that is as much as it lends. */
bool pbs_pbuf_grow(struct pbs_pbuf *p);

/* The kernel has put len bytes into buffer bid, which is lent: where they are. */
const uint8_t *pbs_pbuf_fill(struct pbs_pbuf *p, unsigned bid, size_t len);

/* A piece of it is out. Before pbs_pbuf_done() for the same completion. */
void pbs_pbuf_ref(struct pbs_pbuf *p, unsigned bid);

/* It was the kernel's last on this buffer: held, or free at once if no piece is out. */
void pbs_pbuf_done(struct pbs_pbuf *p, unsigned bid);

/* A piece is consumed. True: its buffer is free again. One more than are out traps in debug builds. */
bool pbs_pbuf_unref(struct pbs_pbuf *p, unsigned bid);

/* Back to what a new group lends, and memory that nothing unread lies in to the kernel. Not while there are
 * completions that it was not told of: their bytes would be lost. */
void pbs_pbuf_trim(struct pbs_pbuf *p);

/* It lends more than a new group does, or may have more memory than that needs. What is lent or held stays:
 * a trim that can give nothing back is not asked for. */
bool pbs_pbuf_grown(const struct pbs_pbuf *p);

/* The kernel cannot fill them any more, or can again; what is held can be read. Any thread. */
void pbs_pbuf_seal(struct pbs_pbuf *p, bool sealed);

#endif
