/* A ring's buffers: lent, grown, shrunk; and that no socket keeps what the others need. */
#include "ring.h"

#include <errno.h>

#include "conf.h"
#include "inc.h"
#include "mem.h"

#define HELD_MOST 0x10000 /* bytes held of a socket when its thread enters the kernel again */
#define LOOKS 20000000    /* ns from one look for pinned buffers to the next */
#define PINNED 32         /* sockets, of each look */
#define QUIET 0x10000     /* bytes between two ticks: below, the ring is idle */

/* Filled bit by bit they are used to the end, and can be larger; about what a program leaves unread in
 * sum, either way. */
#define INC_TOTAL 64U
#define INC_SIZE 32768U
#define WHOLE_TOTAL 256U
#define WHOLE_SIZE 4096U

static const struct __kernel_timespec second = {.tv_sec = 1};

int pbs_ring_pool_init(struct pbs_ring *r)
{
    bool inc = pbs_inc_wanted();
    unsigned total = pbs_conf.bufs ?: (inc ? INC_TOTAL : WHOLE_TOTAL);
    unsigned size = pbs_conf.buf_size ?: (inc ? INC_SIZE : WHOLE_SIZE);
    struct io_uring_buf_reg reg = {.ring_entries = total};
    int err = pbs_bgids_init(&r->bgids, PBS_BGIDS);

    if (!err)
        err = pbs_pieces_init(&r->pieces, PBS_RING_PIECES);
    if (!err)
        err = pbs_pbuf_init(&r->pool, total, size, inc, pbs_bgids_get(&r->bgids));
    if (!err && !pbs_ring_charge(pbs_pbuf_pinned(total)))
        err = -EDQUOT;
    if (!err) {
        reg.bgid = (uint16_t)r->pool.bgid;
        reg.ring_addr = (uintptr_t)r->pool.br;
        err = io_uring_register_buf_ring(&r->uring, &reg, inc ? IOU_PBUF_RING_INC : 0);
        if (err)
            pbs_ring_uncharge(pbs_pbuf_pinned(total));
    }
    if (err) {
        pbs_pbuf_destroy(&r->pool);
        pbs_pieces_destroy(&r->pieces);
        pbs_bgids_destroy(&r->bgids);
    }
    return err;
}

void pbs_ring_pool_drop(struct pbs_ring *r)
{
    for (struct pbs_pbuf *g = r->groups; g; g = g->next)
        pbs_pbuf_destroy(g);
    pbs_pbuf_destroy(&r->pool);
    pbs_pieces_destroy(&r->pieces);
    pbs_bgids_destroy(&r->bgids);
}

void pbs_ring_pool_end(struct pbs_ring *r)
{
    pbs_group_end(r);
    pbs_ring_uncharge(pbs_pbuf_pinned(r->pool.total));
    pbs_ring_pool_drop(r);
}

static void thirst(struct pbs_ring *r, struct pbs_pbuf *g)
{
    if (g->thirsty)
        return;
    g->thirsty = true;
    g->next_thirsty = r->thirsty;
    r->thirsty = g;
}

static void refill(struct pbs_ring *r, struct pbs_pbuf *g)
{
    unsigned lent = g->lent;

    pbs_pbuf_refill(g);
    pbs_count_n(r->owner, pool_acquisitions, g->lent - lent);
}

/* A header, and with it one piece of a buffer, is back. */
static void put(struct pbs_ring *r, struct pbs_piece *piece)
{
    struct pbs_pbuf *g = piece->group;

    if (pbs_pbuf_unref(g, piece->buf & 0xffff)) {
        pbs_count(r->owner, recycled);
        thirst(r, g);
    }
    pbs_pieces_put(&r->pieces, piece);
}

static void take_returned(struct pbs_ring *r)
{
    struct pbs_piece *piece = pbs_pieces_returned(&r->pieces), *next;

    for (; piece; piece = next) {
        next = piece->next;
        put(r, piece);
    }
}

void pbs_ring_home(void *ctx, struct pbs_piece *piece)
{
    struct pbs_sock *s = ctx;

    if (!piece->group)
        pbs_piece_free(piece);
    else if (s->ring->owner == pbs_self)
        put(s->ring, piece);
    else
        pbs_pieces_return(&s->ring->pieces, piece);
}

struct pbs_pbuf *pbs_ring_group(struct pbs_ring *r, struct pbs_sock *s)
{
    struct pbs_pbuf *g = s->group;

    if (g && g->leaving) {
        s->group = NULL;
        g->sock = NULL;
        g = NULL;
    }
    if (!g && pbs_policy_group(&s->tally, pbs_conf.groups, r->armed))
        g = pbs_group_get(r, s);
    if (!g)
        g = &r->pool;
    if (!g->lent) {
        take_returned(r);
        refill(r, g);
    }
    return g->lent ? g : NULL;
}

void pbs_ring_filled(struct pbs_ring *r, struct pbs_sock *s, unsigned bid, size_t len, bool more)
{
    struct pbs_pbuf *g = s->group ?: &r->pool;
    const uint8_t *data = pbs_pbuf_fill(g, bid, len);
    uint32_t buf = pbs_buf_name(g->bgid, bid);

    if (g != &r->pool)
        g->busy = r->group_news = true;
    r->bytes += len;
    if (len && !pbs_sock_extend(s, buf, data, len)) {
        struct pbs_piece *piece = pbs_pieces_get(&r->pieces);

        PBS_ASSERT(piece != NULL); /* pbs_ring_pool_prepare() */
        piece->data = data;
        piece->len = len;
        piece->group = g;
        piece->buf = buf;
        pbs_pbuf_ref(g, bid);
        pbs_sock_hold(s, piece);
    }
    if (!more) {
        pbs_pbuf_done(g, bid);
        thirst(r, g);
    }
    if (s->held > HELD_MOST && r->nfat < PBS_RING_FAT && (!r->nfat || r->fat[r->nfat - 1] != s))
        r->fat[r->nfat++] = s;
}

void pbs_ring_ran_out(struct pbs_ring *r, struct pbs_sock *s)
{
    struct pbs_pbuf *g = s->group ?: &r->pool;

    pbs_count(r->owner, enobufs);
    thirst(r, g);
    if (!pbs_pbuf_grow(g) && g == &r->pool)
        pbs_policy_crowded(&s->tally, (uint64_t)g->want * g->chunk);
}

/* Those that held too much when it came, and have not been read since, are not filled further: what
 * follows stays in the kernel, and the peer hears of it. */
static void disarm_fat(struct pbs_ring *r)
{
    while (r->nfat) {
        struct pbs_sock *s = r->fat[--r->nfat];

        pbs_lock(&s->file.lock);
        if (s->ring == r && s->armed && s->held > HELD_MOST && pbs_ring_cancel_sqe(r, s->rid)) {
            pbs_count(r->owner, cancels);
            r->owner->stats.cancel[PBS_WHY_held]++;
        }
        pbs_unlock(&s->file.lock);
    }
}

/* It holds something in our buffers, and has not been read from since the last look; or whether it has
 * does not matter. Its lock is taken if nobody has it: the order is the other one. r->lock held. */
static bool pinned(struct pbs_sock *s, bool any)
{
    uint32_t first; /* the end of an address is enough: within a pool they differ */
    bool yes;

    if (!pbs_lock_try(&s->file.lock))
        return false;
    first = s->pieces && s->pieces->prev->group ? (uint32_t)(uintptr_t)s->pieces->data : 0;
    yes = first && (any || first == s->seen_at);
    s->seen_at = first;
    pbs_unlock(&s->file.lock);
    return yes;
}

/* Copies out what sockets hold in our buffers. True: some of it. */
static bool squeeze(struct pbs_ring *r, bool any)
{
    struct pbs_sock *found[PINNED], *s, *tmp;
    unsigned n = 0, moved = 0;

    pbs_lock(&r->lock);
    HASH_ITER(hh, r->socks, s, tmp) {
        if (n < PINNED && pinned(s, any))
            found[n++] = s;
    }
    pbs_unlock(&r->lock);
    while (n) {
        s = found[--n];
        pbs_lock(&s->file.lock);
        if (s->ring == r && s->pieces && (any || !pbs_mem_used_up()) && pbs_ring_move_out(r, s))
            moved++;
        pbs_unlock(&s->file.lock);
    }
    pbs_count_n(r->owner, moved_out, moved);
    return moved;
}

/* A completion must find a header, and an enter brings no more of them than there is room for. Without
 * memory for that nothing may come: a cancel in the same enter wins. */
static void make_headers(struct pbs_ring *r)
{
    struct io_uring_sqe *sqe;

    while (pbs_pieces_left(&r->pieces) < r->cq && squeeze(r, true))
        take_returned(r);
    if (pbs_pieces_left(&r->pieces) >= r->cq)
        return;
    sqe = pbs_ring_sqe(r);
    if (sqe) {
        io_uring_prep_cancel64(sqe, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
        sqe->user_data = PBS_UD_NONE;
    }
}

static bool grown(const struct pbs_ring *r)
{
    return pbs_pbuf_grown(&r->pool) || r->group_news;
}

/* Completions that nobody has looked at, in the queue or, as it was full, behind it: their bytes lie in
 * buffers that seem to have none. */
static bool unreaped(const struct pbs_ring *r)
{
    return io_uring_cq_ready(&r->uring) ||
           (io_uring_smp_load_acquire(r->uring.sq.kflags) & IORING_SQ_CQ_OVERFLOW);
}

/* Once a second while the ring is larger than at its begin, asleep or not; at the next enter when something
 * is not reaped yet. */
static void tick(struct pbs_ring *r)
{
    struct io_uring_sqe *sqe;

    if (unreaped(r))
        return;
    r->ticked = false;
    if (r->bytes < QUIET) {
        pbs_pbuf_trim(&r->pool);
        for (struct pbs_pbuf *g = r->groups; g; g = g->next)
            if (pbs_pbuf_grown(g))
                pbs_pbuf_trim(g);
        pbs_pieces_trim(&r->pieces);
        pbs_count(r->owner, trims);
    }
    r->bytes = 0;
    r->group_news = false;
    pbs_group_sweep(r, true);
    if (grown(r) || !r->tick_armed)
        return;
    sqe = pbs_ring_sqe(r);
    if (sqe) {
        io_uring_prep_timeout_remove(sqe, PBS_UD_TICK, 0);
        sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
        sqe->user_data = PBS_UD_NONE;
    }
}

static void arm_tick(struct pbs_ring *r)
{
    struct io_uring_sqe *sqe = pbs_ring_sqe(r);

    if (!sqe)
        return;
    io_uring_prep_timeout(sqe, (struct __kernel_timespec *)&second, 0, IORING_TIMEOUT_MULTISHOT);
    sqe->user_data = PBS_UD_TICK;
    r->tick_armed = true;
}

static void refill_all(struct pbs_ring *r)
{
    struct pbs_pbuf *g = r->thirsty, *next;

    r->thirsty = NULL;
    for (; g; g = next) {
        next = g->next_thirsty;
        g->thirsty = false;
        refill(r, g);
        if (g->lent < g->want && g->nfree) /* the budget is used up */
            thirst(r, g);
    }
}

/* Nothing is left to lend: others hold it. */
static bool low(const struct pbs_ring *r)
{
    return r->pool.lent < r->pool.want && r->pool.held;
}

/* The program may only not have come to them yet: what it has left alone for a while is in the way. */
static void look_for_pinned(struct pbs_ring *r)
{
    int64_t now = pbs_now_ns();

    if (now < r->squeeze_at)
        return;
    r->squeeze_at = now + LOOKS;
    if (squeeze(r, false))
        refill_all(r);
}

void pbs_ring_pool_prepare(struct pbs_ring *r, bool sleeps)
{
    if (pbs_unlikely(r->ticked))
        tick(r);
    if (pbs_unlikely(r->ngroups > r->sweep_at))
        pbs_group_sweep(r, false);
    if (pbs_unlikely(r->nfat))
        disarm_fat(r);
    take_returned(r);
    if (r->thirsty)
        refill_all(r);
    if (pbs_unlikely(low(r)))
        look_for_pinned(r);
    if (pbs_unlikely(pbs_pieces_left(&r->pieces) < r->cq))
        make_headers(r);
    if (sleeps && !r->tick_armed && grown(r))
        arm_tick(r);
}

__attribute__((no_sanitize_thread)) static void add(struct pbs_pool_stats *to,
                                                    const struct pbs_pbuf *g)
{
    to->total += g->total;
    to->available += g->nfree + g->lent;
    to->held += g->held;
    to->buf_size = g->size;
}

void pbs_ring_pool_sum(struct pbs_pool_stats *to)
{
    pbs_lock(pbs_ring_list_lock());
    for (struct pbs_ring *r = pbs_ring_list(); r; r = r->next) {
        add(to, &r->pool);
        pbs_lock(&r->lock);
        for (struct pbs_pbuf *g = r->groups; g; g = g->next)
            add(to, g);
        pbs_unlock(&r->lock);
    }
    pbs_unlock(pbs_ring_list_lock());
}
