/* A pool of buffers, and the kernel's side of it played by the test. */
#ifndef TESTS_UNIT_PBUF_RIG_H
#define TESTS_UNIT_PBUF_RIG_H

#include "unit.h"

#include <liburing.h>

#include "mem.h"
#include "pbuf.h"

enum where { FREE, LENT, HELD };

struct rig {
    struct pbs_pbuf p;
    void *br;
    uint16_t head; /* the kernel takes lent buffers in the order of their publication */
    enum where where[1024];
};

static inline void rig_init(struct rig *r, unsigned total, unsigned size)
{
    memset(r, 0, sizeof(*r));
    r->br = pbs_mem_map(pbs_pbuf_ring_size(total));
    assert_non_null(r->br);
    assert_int_equal(pbs_pbuf_init(&r->p, total, size, r->br, 5), 0);
    assert_int_equal(r->p.bgid, 5);
}

static inline void rig_end(struct rig *r)
{
    unsigned total = r->p.total;

    pbs_pbuf_destroy(&r->p);
    pbs_mem_unmap(r->br, pbs_pbuf_ring_size(total));
}

static inline uint16_t published(const struct rig *r)
{
    return io_uring_smp_load_acquire(&r->p.br->tail);
}

static inline unsigned entry(const struct rig *r, uint16_t at)
{
    const struct io_uring_buf *b = &r->p.br->bufs[at & (r->p.total - 1)];

    assert_in_range(b->bid, 0, r->p.total - 1);
    assert_int_equal(b->addr, (uintptr_t)(r->p.mem + (size_t)b->bid * r->p.stride));
    assert_int_equal(b->len, r->p.size);
    return b->bid;
}

/* The invariant, and that model and pool count alike. */
static inline void check(const struct rig *r)
{
    unsigned n[3] = {0};

    for (unsigned i = 0; i < r->p.total; i++)
        n[r->where[i]]++;
    assert_int_equal(r->p.lent, n[LENT]);
    assert_int_equal(r->p.held, n[HELD]);
    assert_int_equal(r->p.nfree, n[FREE]);
    assert_int_equal(r->p.lent + r->p.held + r->p.nfree, r->p.total);
}

/* Refills and follows in the model: nothing is lent that is lent or held already. */
static inline unsigned refill(struct rig *r)
{
    uint16_t at = published(r);
    unsigned n = 0;

    pbs_pbuf_refill(&r->p);
    for (; at != published(r); at++, n++) {
        unsigned bid = entry(r, at);

        assert_int_equal(r->where[bid], FREE);
        r->where[bid] = LENT;
    }
    check(r);
    return n;
}

/* The kernel fills the next lent buffer. */
static inline struct pbs_piece *fill(struct rig *r, size_t len)
{
    unsigned bid = entry(r, r->head++);
    struct pbs_piece *piece;

    assert_int_equal(r->where[bid], LENT);
    memset(r->p.mem + (size_t)bid * r->p.stride, (int)(bid * 7 + 1) & 0xff, len);
    piece = pbs_pbuf_filled(&r->p, bid, len);
    assert_int_equal(piece->bid, bid);
    assert_int_equal(piece->len, len);
    assert_ptr_equal(piece->data, r->p.mem + (size_t)bid * r->p.stride);
    r->where[bid] = HELD;
    check(r);
    return piece;
}

static inline void home(struct rig *r, struct pbs_piece *piece)
{
    unsigned bid = piece->bid;

    pbs_pbuf_home(&r->p, piece);
    assert_int_equal(r->where[bid], HELD);
    r->where[bid] = FREE;
    check(r);
}

#endif
