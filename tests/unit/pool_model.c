/* The operations of the owner and of the kernel, and the run of a string. */
#include "pool_model.h"

#include <stdlib.h>
#include <string.h>

#include <liburing.h>

#include "conf.h"
#include "mem.h"

#define UNLIMITED (1UL << 40)

void *__real_pbs_mem_get(size_t size);
void *__wrap_pbs_mem_get(size_t size);

static bool no_memory;

void *__wrap_pbs_mem_get(size_t size)
{
    return no_memory ? NULL : __real_pbs_mem_get(size);
}

/* ---- the owner lends ---- */

static void follow_lending(struct group *g)
{
    uint16_t tail = io_uring_smp_load_acquire(&g->p.br->tail);

    for (; g->tail != tail; g->tail++) {
        const struct io_uring_buf *e = &g->p.br->bufs[g->tail & (g->p.total - 1)];

        MUST(e->bid < g->p.total && g->where[e->bid] == FREE);
        MUST(e->addr == (uintptr_t)(g->p.mem + (size_t)e->bid * g->p.stride));
        MUST(e->len == g->p.chunk || (e->len && e->len == g->p.buf[e->bid].room));
        g->where[e->bid] = LENT;
        g->kernel[e->bid] = (struct kbuf){.len = e->len};
    }
}

static void op_refill(struct pool *m, struct ops *o)
{
    struct group *g = pool_group(m, o);
    size_t charged = g->p.charged, used = pool_in_use(), now;
    unsigned lent = g->p.lent;

    pbs_pbuf_refill(&g->p);
    follow_lending(g);
    now = pool_in_use();
    MUST(now - used == g->p.charged - charged);
    MUST(now == used || now <= pbs_conf.memory);
    MUST(g->p.lent == lent || g->p.lent <= g->p.want);
    if (g->p.lent < g->p.want && g->p.nfree) {
        MUST(!g->p.buf[g->p.free[g->p.nfree - 1]].room && now + g->p.chunk > pbs_conf.memory);
        m->tally.refused++;
    }
}

static void op_grow(struct pool *m, struct ops *o)
{
    struct group *g = pool_group(m, o);
    unsigned want = g->p.want, chunk = g->p.chunk;
    bool more = pbs_pbuf_grow(&g->p);

    MUST(g->p.want >= want && g->p.chunk >= chunk);
    MUST(more == (g->p.want > want || g->p.chunk > chunk));
    MUST(g->p.want <= g->p.total && g->p.chunk <= g->p.size);
    MUST((size_t)g->p.want * g->p.size <= 0x40000 || g->p.want == 2);
    m->tally.grown += more;
}

/* Not before all completions are looked at: what they tell of would be lost. */
static void op_trim(struct pool *m, struct ops *o)
{
    struct group *g = pool_group(m, o);
    size_t charged = g->p.charged, used = pool_in_use();

    if (m->nqueue)
        return;
    pbs_pbuf_trim(&g->p);
    MUST(used - pool_in_use() == charged - g->p.charged);
    MUST(g->p.want == 2 && g->p.chunk == (g->p.inc && g->p.size > 4096 ? 4096 : g->p.size));
    MUST(!pbs_pbuf_grown(&g->p) || g->p.charged > 4 * g->p.chunk);
    for (unsigned b = 0; b < g->p.total; b++)
        MUST(g->where[b] != FREE || !g->p.buf[b].room);
    m->tally.trims++;
}

/* Nothing more, a little more, or as much as one wants. */
static void op_budget(struct pool *m, struct ops *o)
{
    unsigned b = pool_byte(o);

    (void)m;
    pbs_conf.memory = b < 0x80 ? UNLIMITED : pool_in_use() + (b & 0x7f) * 256UL;
}

static void op_memory(struct pool *m, struct ops *o)
{
    (void)m;
    no_memory = pool_byte(o) >= 0xc0;
}

/* ---- the kernel fills, and tells of it later ---- */

uint32_t pool_room(struct stream *st)
{
    if (st->first)
        memmove(st->bytes, st->bytes + st->first, st->n + st->coming);
    st->first = 0;
    return (uint32_t)(HELD - st->n - st->coming);
}

void pool_append(struct pool *m, unsigned sock, uint8_t *to, uint32_t len)
{
    struct stream *st = &m->stream[sock];

    pool_make(to, len, &st->next, sock);
    memcpy(st->bytes + st->first + st->n + st->coming, to, len);
    st->coming += len;
    m->tally.filled += len;
}

/* last: a request that ends gives its buffer up, with or without bytes. */
static void fill(struct pool *m, struct ops *o, bool last)
{
    struct group *g = pool_group(m, o);
    unsigned sock = pool_sock(o), bid;
    uint32_t most = pool_room(&m->stream[sock]), len;
    struct kbuf *k;

    if (g->head == g->tail)
        m->tally.starved++;
    /* The ring sees to it that each completion finds a header. */
    if (g->head == g->tail || m->nqueue == QUEUE || pbs_pieces_left(&m->pieces) <= m->nqueue ||
        !most)
        return;
    bid = g->p.br->bufs[g->head & (g->p.total - 1)].bid;
    k = &g->kernel[bid];
    len = pool_amount(o, k->len - k->at < most ? k->len - k->at : most);
    len -= last;
    pool_append(m, sock, g->p.mem + (size_t)bid * g->p.stride + k->at, len);
    m->queue[m->nqueue] = (struct completion){
        .g = g,
        .sock = sock,
        .bid = bid,
        .at = g->p.mem + (size_t)bid * g->p.stride + k->at,
        .len = len,
        .more = g->p.inc && k->at + len < k->len && !last,
    };
    k->at += len;
    g->head += !m->queue[m->nqueue++].more;
}

static void op_fill(struct pool *m, struct ops *o)
{
    fill(m, o, false);
}

static void op_last(struct pool *m, struct ops *o)
{
    fill(m, o, true);
}

/* As ring_pool.c does it. */
static void queue_piece(struct pool *m, const struct completion *c, const uint8_t *data)
{
    struct stream *st = &m->stream[c->sock];
    uint32_t buf = pbs_buf_name(c->g->p.bgid, c->bid);
    struct header *last = st->last >= 0 ? &m->header[st->last] : NULL;
    bool extends = last && last->g == c->g && last->bid == c->bid && last->end == data;
    struct pbs_piece *piece;

    MUST(pbs_sock_extend(st->s, buf, data, c->len) == extends);
    if (extends) {
        last->end += c->len;
        m->tally.extended++;
        return;
    }
    piece = pbs_pieces_get(&m->pieces);
    MUST(piece && m->header[piece - m->pieces.table].state == SPARE);
    st->last = (int)(piece - m->pieces.table);
    m->header[st->last] = (struct header){
        .state = QUEUED, .sock = c->sock, .bid = c->bid, .g = c->g, .end = data + c->len};
    piece->data = data;
    piece->len = c->len;
    piece->group = &c->g->p;
    piece->buf = buf;
    pbs_pbuf_ref(&c->g->p, c->bid);
    c->g->refs[c->bid]++;
    st->spared |= no_memory;
    pbs_sock_hold(st->s, piece);
}

static void op_reap(struct pool *m, struct ops *o)
{
    struct completion c = m->queue[0];

    (void)o;
    if (!m->nqueue)
        return;
    memmove(m->queue, m->queue + 1, --m->nqueue * sizeof(c));
    MUST(pbs_pbuf_fill(&c.g->p, c.bid, c.len) == c.at);
    if (c.len)
        queue_piece(m, &c, c.at);
    m->stream[c.sock].coming -= c.len;
    m->stream[c.sock].n += c.len;
    if (!c.more) {
        pbs_pbuf_done(&c.g->p, c.bid);
        c.g->where[c.bid] = c.g->refs[c.bid] ? USED : FREE;
    }
}

static void op_arrive(struct pool *m, struct ops *o)
{
    fill(m, o, false);
    while (m->nqueue)
        op_reap(m, o);
}

/* ---- all of it ---- */

static const struct {
    const char *name;
    void (*run)(struct pool *m, struct ops *o);
} op[] = {
    {"refill", op_refill},    {"grow", op_grow},
    {"trim", op_trim},        {"budget", op_budget},
    {"memory", op_memory},    {"fill", op_fill},
    {"reap", op_reap},        {"thread", pool_op_thread},
    {"take", pool_op_take},   {"peek", pool_op_peek},
    {"drop", pool_op_drop},   {"front", pool_op_front},
    {"own", pool_op_own},     {"move", pool_op_move},
    {"close", pool_op_close}, {"returned", pool_op_returned},
    {"refill", op_refill},    {"fill", op_fill},
    {"reap", op_reap},        {"last", op_last},
    {"arrive", op_arrive},    {"arrive", op_arrive},
    {"take", pool_op_take},   {"refill", op_refill},
};

#define OPS (sizeof(op) / sizeof(op[0]))

static void begin(struct pool *m, struct ops *o)
{
    static const unsigned size[] = {64, 100, 4096, 5000, 16384, 32768, 65536, 333};
    unsigned how = pool_byte(o);

    memset(m, 0, offsetof(struct pool, stream));
    pbs_conf.memory = UNLIMITED;
    MUST(pbs_pieces_init(&m->pieces, PIECES) == 0);
    for (int i = 0; i < GROUPS; i++) {
        unsigned b = pool_byte(o);

        MUST(pbs_pbuf_init(&m->g[i].p, 2U << b / 8 % 6, size[b % 8], how >> i & 1, 7 * i) == 0);
    }
    for (unsigned i = 0; i < SOCKS; i++)
        pool_open_sock(&m->stream[i]);
    for (o->which = 0; o->which < SOCKS * GROUPS; o->which += SOCKS)
        op_refill(m, o);
}

/* Everything comes home, and nothing of the budget is left behind. */
static void end(struct pool *m)
{
    struct ops none = {.at = NULL};

    pool_doing = "the end";
    while (m->nqueue)
        op_reap(m, &none);
    pool_check(m);
    for (unsigned i = 0; i < SOCKS; i++)
        pool_close_sock(m, i);
    pool_op_returned(m, &none);
    MUST(pbs_pieces_left(&m->pieces) == PIECES);
    for (unsigned i = 0; i < GROUPS; i++) {
        MUST(!m->g[i].p.out && !m->g[i].p.held);
        pbs_pbuf_destroy(&m->g[i].p);
        MUST(!m->g[i].p.charged);
    }
    pbs_pieces_destroy(&m->pieces);
}

void pool_run(const uint8_t *ops, size_t n, struct tally *tally)
{
    static struct pool m;
    struct ops o = {.at = ops, .end = ops + n};

    pool_doing = "the begin";
    begin(&m, &o);
    m.tally = *tally;
    while (o.at < o.end) {
        unsigned k = pool_byte(&o);

        o.which = k / OPS;
        pool_doing = op[k % OPS].name;
        op[k % OPS].run(&m, &o);
        pool_check(&m);
        m.tally.steps++;
    }
    no_memory = false;
    end(&m);
    *tally = m.tally;
}
