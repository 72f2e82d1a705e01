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
#define FIRST_LENT 2U
#define FIRST_CHUNK 4096U
#define MOST_LENT 0x40000U /* bytes: a fast sender fills no more between two looks */
#define TURNS 4U           /* buffers used to the end before longer ones are lent */
#define SLACK 2            /* times what a new group lends, which are not worth giving back */

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

static size_t pages(size_t n)
{
    return (n + 4095) & ~(size_t)4095;
}

/* One mapping: the kernel's ring, the table, the stack. */
static size_t table_size(unsigned total)
{
    return pages(total * (sizeof(struct io_uring_buf) + sizeof(struct pbs_buf) + sizeof(uint16_t)));
}

static size_t mem_size(const struct pbs_pbuf *p)
{
    return pages((size_t)p->total * p->stride);
}

/* Buffers that all began at the same place of a page would have to share a few places of the cache;
 * those that are filled bit by bit have their ends anywhere. */
static unsigned stride_of(unsigned size, bool inc)
{
    return size % 4096 || inc ? size : size + 64;
}

size_t pbs_pbuf_pinned(unsigned total)
{
    return pages(total * sizeof(struct io_uring_buf));
}

static void check(const struct pbs_pbuf *p)
{
    PBS_ASSERT(p->lent + p->held + p->nfree == p->total);
    (void)p;
}

/* What a new group lends. */
static void begin(struct pbs_pbuf *p)
{
    p->want = least(p->total, FIRST_LENT);
    p->turns = 0;
    p->chunk = p->inc ? least(p->size, FIRST_CHUNK) : p->size;
}

static unsigned most_lent(const struct pbs_pbuf *p)
{
    unsigned n = MOST_LENT / p->size;

    return least(p->total, n < FIRST_LENT ? FIRST_LENT : n);
}

int pbs_pbuf_init(struct pbs_pbuf *p, unsigned total, unsigned size, bool inc, int bgid)
{
    *p = (struct pbs_pbuf){
        .total = total, .size = size, .stride = stride_of(size, inc), .inc = inc, .bgid = bgid};
    p->br = pbs_mem_map(table_size(total));
    p->mem = pbs_mem_reserve(mem_size(p));
    if (!p->br || !p->mem) {
        pbs_pbuf_destroy(p);
        return -ENOMEM;
    }
    pbs_mem_small(p->br, table_size(total));
    p->buf = (struct pbs_buf *)((char *)p->br + total * sizeof(struct io_uring_buf));
    p->free = (uint16_t *)(p->buf + total);
    for (unsigned i = 0; i < total; i++)
        p->free[i] = (uint16_t)(total - 1 - i);
    p->nfree = total;
    begin(p);
    io_uring_buf_ring_init(p->br);
    return 0;
}

void pbs_pbuf_destroy(struct pbs_pbuf *p)
{
    if (p->br)
        pbs_mem_unmap(p->br, table_size(p->total));
    if (p->mem)
        pbs_mem_release(p->mem, mem_size(p));
    pbs_mem_uncharge(p->charged);
    p->charged = 0;
    p->br = NULL;
    p->mem = NULL;
}

static uint8_t *start(const struct pbs_pbuf *p, unsigned bid)
{
    return p->mem + (size_t)bid * p->stride;
}

/* So many bytes of it can be lent; 0: the budget of the process is used up. */
static unsigned afford(struct pbs_pbuf *p, struct pbs_buf *b)
{
    if (b->room >= p->chunk)
        return p->chunk;
    if (!pbs_mem_charge(p->chunk - b->room))
        return b->room;
    p->charged += p->chunk - b->room;
    b->room = p->chunk;
    return p->chunk;
}

void pbs_pbuf_refill(struct pbs_pbuf *p)
{
    int n = 0;

    while (p->lent < p->want && p->nfree) {
        unsigned bid = p->free[p->nfree - 1], len = afford(p, &p->buf[bid]);

        if (!len)
            break;
        p->nfree--;
        p->lent++;
        p->buf[bid].fill = 0;
        p->buf[bid].lent = true;
        io_uring_buf_ring_add(p->br, start(p, bid), len, (unsigned short)bid,
                              io_uring_buf_ring_mask(p->total), n++);
    }
    if (n)
        io_uring_buf_ring_advance(p->br, n);
    check(p);
}

bool pbs_pbuf_grow(struct pbs_pbuf *p)
{
    unsigned most = most_lent(p);

    if (p->chunk < p->size)
        p->chunk = least(p->chunk * 2, p->size);
    else if (p->want < most)
        p->want = least(p->want * 2, most);
    else
        return false;
    return true;
}

const uint8_t *pbs_pbuf_fill(struct pbs_pbuf *p, unsigned bid, size_t len)
{
    struct pbs_buf *b = &p->buf[bid];
    const uint8_t *at = start(p, bid) + b->fill;

    PBS_ASSERT(bid < p->total && b->lent && b->fill + len <= b->room);
    b->fill += (uint32_t)len;
    return at;
}

void pbs_pbuf_ref(struct pbs_pbuf *p, unsigned bid)
{
    PBS_ASSERT(p->buf[bid].lent);
    p->buf[bid].refs++;
    p->out++;
}

static void go_home(struct pbs_pbuf *p, unsigned bid)
{
    p->free[p->nfree++] = (uint16_t)bid;
    p->used = true;
    check(p);
}

void pbs_pbuf_done(struct pbs_pbuf *p, unsigned bid)
{
    struct pbs_buf *b = &p->buf[bid];

    PBS_ASSERT(b->lent && p->lent > 0);
    b->lent = false;
    p->lent--;
    if (p->chunk < p->size && ++p->turns == TURNS) {
        p->turns = 0;
        p->chunk = least(p->chunk * 2, p->size);
    }
    if (b->refs)
        p->held++;
    else
        go_home(p, bid);
}

bool pbs_pbuf_unref(struct pbs_pbuf *p, unsigned bid)
{
    struct pbs_buf *b = &p->buf[bid];

    PBS_ASSERT(bid < p->total && b->refs > 0 && (b->lent || p->held > 0));
    p->out--;
    if (--b->refs || b->lent)
        return false;
    p->held--;
    go_home(p, bid);
    return true;
}

/* Nothing unread lies in it. */
static bool idle(const struct pbs_pbuf *p, unsigned bid)
{
    return !p->buf[bid].refs;
}

/* The whole pages between two addresses are the kernel's to take. */
static void drop(uint8_t *from, uint8_t *to)
{
    uintptr_t a = pages((uintptr_t)from), b = (uintptr_t)to & ~(uintptr_t)4095;

    if (a < b)
        pbs_sys3(SYS_madvise, a, b - a, MADV_DONTNEED);
}

void pbs_pbuf_trim(struct pbs_pbuf *p)
{
    begin(p);
    p->used = false;
    for (unsigned bid = 0, end; bid < p->total; bid = end) {
        bool touched = false;

        for (end = bid; end < p->total && idle(p, end); end++) {
            struct pbs_buf *b = &p->buf[end];

            touched |= b->room > 0;
            if (b->lent) /* the kernel may fill it yet */
                continue;
            pbs_mem_uncharge(b->room);
            p->charged -= b->room;
            b->room = 0;
        }
        if (touched)
            drop(start(p, bid), start(p, end));
        end += end == bid;
    }
}

bool pbs_pbuf_grown(const struct pbs_pbuf *p)
{
    struct pbs_pbuf first = {.total = p->total, .size = p->size, .inc = p->inc};

    begin(&first);
    return p->want > first.want || p->chunk > first.chunk ||
           (p->used && p->charged > SLACK * first.want * first.chunk);
}

void pbs_pbuf_seal(struct pbs_pbuf *p, bool sealed)
{
    pbs_sys3(SYS_mprotect, p->mem, mem_size(p), sealed ? PROT_READ : PROT_READ | PROT_WRITE);
}
