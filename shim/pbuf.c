#include "pbuf.h"

#include <errno.h>
#include <liburing.h>
#include <string.h>
#include <sys/mman.h>

#include "mem.h"

/*
 * Enough for a thread with one connection and short messages; doubles whenever the kernel runs out.
 * Few, since they are filled in turn: each that was lent is a page that has to come into the caches.
 */
#define FIRST_LENT 2
#define MOST_LENT 64 /* the rest is for what many connections hold */

static size_t pages(size_t n)
{
    return (n + 4095) & ~(size_t)4095;
}

/* The table begins with the lists, so that an idle thread touches one page of it. */
static size_t lists_size(unsigned total)
{
    return (total * (sizeof(uint32_t) + sizeof(uint16_t)) + 63) & ~(size_t)63;
}

static size_t table_size(unsigned total)
{
    return pages(lists_size(total) + total * sizeof(struct pbs_piece));
}

/* Buffers that all began at the same place of a page would have to share a few places of the cache. */
static unsigned stride_of(unsigned size)
{
    return size % 4096 ? size : size + 64;
}

size_t pbs_pbuf_ring_size(unsigned total)
{
    return pages(total * sizeof(struct io_uring_buf));
}

static void check(const struct pbs_pbuf *p)
{
    PBS_ASSERT(p->lent + p->held + p->nfree == p->total);
    (void)p;
}

int pbs_pbuf_init(struct pbs_pbuf *p, unsigned total, unsigned size, void *br, int bgid)
{
    *p = (struct pbs_pbuf){
        .total = total, .size = size, .stride = stride_of(size), .br = br, .bgid = bgid};
    p->return_next = pbs_mem_map(table_size(total));
    p->mem = pbs_mem_map(pages((size_t)total * p->stride));
    if (!p->return_next || !p->mem) {
        pbs_pbuf_destroy(p);
        return -ENOMEM;
    }
    p->free = (uint16_t *)(p->return_next + total);
    p->piece = (struct pbs_piece *)((char *)p->return_next + lists_size(total));
    for (unsigned i = 0; i < total; i++)
        p->free[i] = (uint16_t)(total - 1 - i);
    p->nfree = total;
    p->want = total < FIRST_LENT ? total : FIRST_LENT;
    io_uring_buf_ring_init(p->br);
    return 0;
}

void pbs_pbuf_destroy(struct pbs_pbuf *p)
{
    if (p->return_next)
        pbs_mem_unmap(p->return_next, table_size(p->total));
    if (p->mem)
        pbs_mem_unmap(p->mem, pages((size_t)p->total * p->stride));
    p->return_next = NULL;
    p->mem = NULL;
}

static void take_returned(struct pbs_pbuf *p)
{
    /* acquire: the other thread has done with the bytes (its release is in home_remote) */
    unsigned at = atomic_exchange_explicit(&p->returned, 0, memory_order_acquire);

    while (at) {
        unsigned bid = at - 1;

        at = p->return_next[bid];
        pbs_pbuf_home(p, &p->piece[bid]);
    }
}

void pbs_pbuf_refill(struct pbs_pbuf *p)
{
    int n = 0;

    if (atomic_load_explicit(&p->returned, memory_order_relaxed))
        take_returned(p);
    while (p->lent < p->want && p->nfree) {
        unsigned bid = p->free[--p->nfree];

        io_uring_buf_ring_add(p->br, p->mem + (size_t)bid * p->stride, p->size, (unsigned short)bid,
                              io_uring_buf_ring_mask(p->total), n++);
        p->lent++;
    }
    if (n)
        io_uring_buf_ring_advance(p->br, n);
    check(p);
}

bool pbs_pbuf_grow(struct pbs_pbuf *p)
{
    unsigned most = p->total < MOST_LENT ? p->total : MOST_LENT;

    if (p->want < most)
        p->want = p->want * 2 < most ? p->want * 2 : most;
    return p->nfree > 0;
}

struct pbs_piece *pbs_pbuf_filled(struct pbs_pbuf *p, unsigned bid, size_t len)
{
    struct pbs_piece *piece = &p->piece[bid];

    PBS_ASSERT(bid < p->total && p->lent > 0 && len <= p->size);
    p->lent--;
    p->held++;
    piece->data = p->mem + (size_t)bid * p->stride;
    piece->len = len;
    piece->bid = bid;
    check(p);
    return piece;
}

void pbs_pbuf_home(struct pbs_pbuf *p, struct pbs_piece *piece)
{
    PBS_ASSERT(piece->bid < p->total && p->held > 0 && p->nfree < p->total);
    p->held--;
    p->free[p->nfree++] = (uint16_t)piece->bid;
    piece->bid = PBS_NO_BID;
    check(p);
}

void pbs_pbuf_home_remote(struct pbs_pbuf *p, struct pbs_piece *piece)
{
    unsigned bid = piece->bid, head = atomic_load_explicit(&p->returned, memory_order_relaxed);

    do
        p->return_next[bid] = head;
    while (!atomic_compare_exchange_weak_explicit(&p->returned, &head, bid + 1,
                                                  memory_order_release, memory_order_relaxed));
}

void pbs_pbuf_seal(struct pbs_pbuf *p, bool sealed)
{
    pbs_sys3(SYS_mprotect, p->mem, pages((size_t)p->total * p->stride),
             sealed ? PROT_READ : PROT_READ | PROT_WRITE);
}
