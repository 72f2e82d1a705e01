/* A group of buffers, and the kernel's side of it played by the test. */
#ifndef TESTS_UNIT_PBUF_RIG_H
#define TESTS_UNIT_PBUF_RIG_H

#include "unit.h"

#include <liburing.h>

#include "conf.h"
#include "mem.h"
#include "pbuf.h"

enum where { FREE, LENT, HELD };

struct rig {
    struct pbs_pbuf p;
    uint16_t head; /* the kernel takes lent buffers in the order of their publication */
    enum where where[1024];
};

static inline void rig_init(struct rig *r, unsigned total, unsigned size, bool inc)
{
    memset(r, 0, sizeof(*r));
    assert_int_equal(pbs_pbuf_init(&r->p, total, size, inc, 5), 0);
    assert_int_equal(r->p.bgid, 5);
}

static inline void rig_end(struct rig *r)
{
    pbs_pbuf_destroy(&r->p);
}

static inline uint16_t published(const struct rig *r)
{
    return io_uring_smp_load_acquire(&r->p.br->tail);
}

/* The bid of a published entry. */
static inline unsigned entry(const struct rig *r, uint16_t at)
{
    const struct io_uring_buf *b = &r->p.br->bufs[at & (r->p.total - 1)];

    assert_in_range(b->bid, 0, r->p.total - 1);
    assert_int_equal(b->addr, (uintptr_t)(r->p.mem + (size_t)b->bid * r->p.stride));
    assert_in_range(b->len, 1, r->p.size);
    return b->bid;
}

/* The invariant, and that model and group count alike. */
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

/* The kernel fills the next lent buffer, and has done with it: one piece of it is out. */
static inline unsigned fill(struct rig *r, size_t len)
{
    unsigned bid = entry(r, r->head++);
    uint8_t *start = r->p.mem + (size_t)bid * r->p.stride;

    assert_int_equal(r->where[bid], LENT);
    memset(start, (int)(bid * 7 + 1) & 0xff, len);
    assert_ptr_equal(pbs_pbuf_fill(&r->p, bid, len), start);
    pbs_pbuf_ref(&r->p, bid);
    pbs_pbuf_done(&r->p, bid);
    r->where[bid] = HELD;
    check(r);
    return bid;
}

/* That piece is consumed. */
static inline void home(struct rig *r, unsigned bid)
{
    assert_int_equal(r->where[bid], HELD);
    assert_true(pbs_pbuf_unref(&r->p, bid));
    r->where[bid] = FREE;
    check(r);
}

#endif
