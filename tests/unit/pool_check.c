/* What holds of a pool after each operation. */
#include "pool_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <utlist.h>

#include "conf.h"
#include "mem.h"

/* What the fuzzer explores is the library, not the model: watched, its loops would take most of the time. */
#ifdef __clang__
#pragma clang attribute push(__attribute__((no_sanitize("coverage"))), apply_to = function)
#endif

const char *pool_doing;

void pool_fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: after %s: not so: %s\n", file, line, pool_doing, what);
    abort();
}

void pool_make(uint8_t *to, size_t len, uint32_t *next, unsigned sock)
{
    for (size_t i = 0; i < len; i++, ++*next)
        to[i] = (uint8_t)((*next * 0x9e3779b1U) >> 24 ^ sock * 0x55);
}

bool pool_untouched(const uint8_t *at, size_t len)
{
    while (len && at[len - 1] == 0xee)
        len--;
    return !len;
}

size_t pool_in_use(void)
{
    unsigned long limit = pbs_conf.memory;
    size_t lo = 0, hi = (size_t)1 << 40; /* more than lo, at most hi */

    pbs_conf.memory = 1;
    if (!pbs_mem_used_up())
        hi = 0;
    while (lo + 1 < hi) {
        size_t mid = lo + (hi - lo) / 2;

        pbs_conf.memory = mid;
        if (pbs_mem_used_up())
            lo = mid;
        else
            hi = mid;
    }
    pbs_conf.memory = limit;
    return lo;
}

static struct header *header_of(struct pool *m, const struct pbs_piece *piece)
{
    MUST(piece >= m->pieces.table && piece < m->pieces.table + m->pieces.most);
    return &m->header[piece - m->pieces.table];
}

/* What one socket has of each buffer. */
struct counts {
    unsigned queued[GROUPS][BUFS], counted[GROUPS][BUFS];
    unsigned refs[GROUPS][BUFS]; /* that the buffer is told of */
    unsigned all;
};

static void count_queue(struct pool *m, unsigned sock, struct counts *c)
{
    struct stream *st = &m->stream[sock];
    struct pbs_piece *piece;
    unsigned own = 0;
    size_t sum = 0;

    DL_FOREACH(st->s->pieces, piece) {
        struct header *h;
        ptrdiff_t g;

        MUST(piece->len > 0);
        sum += piece->len;
        if (!piece->group) {
            own++;
            continue;
        }
        h = header_of(m, piece);
        MUST(h->state == QUEUED && h->sock == sock && h->stamp != m->stamp);
        MUST(piece->group == &h->g->p && piece->buf == pbs_buf_name(h->g->p.bgid, h->bid));
        MUST(piece->data + piece->len == h->end);
        h->stamp = m->stamp;
        g = h->g - m->g;
        c->all++;
        c->queued[g][h->bid]++;
        c->counted[g][h->bid] += piece->counted;
        c->refs[g][h->bid] += !piece->counted;
    }
    MUST(sum == st->n);
    MUST(st->s->held == st->n);
    MUST(own == st->own);
    MUST(pbs_sock_holds(st->s) == (st->n > 0));
}

/* A count is that of the pieces queued, and one more for the piece that it lies in if that is consumed. */
static void count_holds(struct pool *m, unsigned sock, struct counts *c)
{
    struct pbs_hold *hold, *tmp;

    HASH_ITER(hh, m->stream[sock].s->holds, hold, tmp) {
        struct pbs_piece *first =
            (struct pbs_piece *)((char *)hold - offsetof(struct pbs_piece, hold));
        struct header *h = header_of(m, first);
        ptrdiff_t g = h->g - m->g;
        bool parked = !first->len;

        MUST(h->sock == sock && hold->buf == pbs_buf_name(h->g->p.bgid, h->bid));
        MUST(c->counted[g][h->bid] > 0);
        MUST(hold->refs == c->counted[g][h->bid] + parked);
        MUST(parked == (h->stamp != m->stamp));
        if (parked && h->state == QUEUED) {
            h->state = PARKED;
            m->tally.parked++;
        }
        MUST(h->state == (parked ? PARKED : QUEUED));
        h->stamp = m->stamp;
        c->refs[g][h->bid] += hold->refs;
        c->counted[g][h->bid] = 0; /* seen */
    }
}

static void check_sock(struct pool *m, unsigned sock, struct counts *sum)
{
    struct stream *st = &m->stream[sock];
    struct pbs_piece *first = st->s->pieces;
    struct counts c = {.all = 0};

    m->stamp++;
    count_queue(m, sock, &c);
    for (unsigned g = 0; g < GROUPS; g++)
        for (unsigned b = 0; b < m->g[g].p.total; b++)
            MUST(st->spared || !st->s->holds || c.counted[g][b] == c.queued[g][b]);
    count_holds(m, sock, &c);
    if (!st->s->holds && !st->spared) /* one is counted nowhere, and nothing is in front of it */
        MUST(!c.all || (c.all == 1 && first->group));
    for (unsigned g = 0; g < GROUPS; g++)
        for (unsigned b = 0; b < m->g[g].p.total; b++) {
            MUST(!c.counted[g][b]); /* each is in the table */
            sum->refs[g][b] += c.refs[g][b];
        }
    for (unsigned i = 0; i < PIECES; i++) {
        const struct header *h = &m->header[i];

        if (h->sock == sock && (h->state == QUEUED || h->state == PARKED))
            MUST(h->stamp == m->stamp); /* none that nobody has */
    }
}

static void check_group(const struct group *g, const unsigned *refs)
{
    unsigned n[3] = {0}, out = 0;
    size_t room = 0;

    for (unsigned b = 0; b < g->p.total; b++) {
        const struct pbs_buf *buf = &g->p.buf[b];

        n[g->where[b]]++;
        out += buf->refs;
        room += buf->room;
        MUST(buf->lent == (g->where[b] == LENT));
        MUST(buf->refs == g->refs[b]);
        MUST(buf->refs == refs[b]);
        MUST(g->where[b] != FREE || !buf->refs);
        MUST(g->where[b] != USED || buf->refs);
        MUST(buf->room <= g->p.size);
    }
    MUST(g->p.lent == n[LENT] && g->p.held == n[USED] && g->p.nfree == n[FREE]);
    MUST(g->p.lent + g->p.held + g->p.nfree == g->p.total);
    MUST(g->p.out == out);
    MUST(g->p.charged == room);
    for (unsigned i = 0; i < g->p.nfree; i++)
        MUST(g->where[g->p.free[i]] == FREE);
}

void pool_check(struct pool *m)
{
    struct counts sum = {.all = 0};
    unsigned out = 0;

    for (unsigned s = 0; s < SOCKS; s++)
        check_sock(m, s, &sum);
    for (unsigned i = 0; i < PIECES; i++) {
        const struct header *h = &m->header[i];

        out += h->state != SPARE;
        if (h->state == AWAY)
            sum.refs[h->g - m->g][h->bid]++;
    }
    MUST(pbs_pieces_left(&m->pieces) == m->pieces.most - out);
    for (unsigned g = 0; g < GROUPS; g++)
        check_group(&m->g[g], sum.refs[g]);
}

#ifdef __clang__
#pragma clang attribute pop
#endif
