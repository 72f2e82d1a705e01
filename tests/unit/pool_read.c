/* The operations of those that read: each done to the pool and to the model. */
#include "pool_model.h"

#include <string.h>

#define IOVS 5

/* ---- pieces that are consumed ---- */

struct taker {
    struct pool *m;
    unsigned sock;
};

static void put(struct pool *m, struct pbs_piece *piece)
{
    struct header *h = &m->header[piece - m->pieces.table];
    bool last = --h->g->refs[h->bid] == 0 && h->g->where[h->bid] == USED;

    MUST(pbs_pbuf_unref(&h->g->p, h->bid) == last);
    if (last) {
        h->g->where[h->bid] = FREE;
        m->tally.homes++;
    }
    h->state = SPARE;
    pbs_pieces_put(&m->pieces, piece);
}

static void home(void *ctx, struct pbs_piece *piece)
{
    const struct taker *t = ctx;
    struct pool *m = t->m;
    struct header *h;

    MUST(!piece->len);
    if (!piece->group) {
        m->stream[t->sock].own--;
        pbs_piece_free(piece);
        return;
    }
    h = &m->header[piece - m->pieces.table];
    MUST(h->sock == t->sock && (h->state == QUEUED || h->state == PARKED));
    if (!m->other) {
        put(m, piece);
        return;
    }
    h->state = AWAY;
    m->tally.away++;
    pbs_pieces_return(&m->pieces, piece);
}

static void gone(struct stream *st, size_t n)
{
    st->first += n;
    st->n -= n;
    if (st->n)
        return;
    st->last = -1;
    st->spared = false;
}

void pool_op_thread(struct pool *m, struct ops *o)
{
    m->other = o->which & 1;
}

void pool_op_returned(struct pool *m, struct ops *o)
{
    struct pbs_piece *piece = pbs_pieces_returned(&m->pieces), *next;

    (void)o;
    for (; piece; piece = next) {
        next = piece->next;
        MUST(m->header[piece - m->pieces.table].state == AWAY);
        put(m, piece);
    }
    for (unsigned i = 0; i < PIECES; i++)
        MUST(m->header[i].state != AWAY);
}

/* ---- somebody reads ---- */

static uint8_t into[HELD + 64];

/* A cut of one array of len bytes, some of them empty; `gets` bytes are about to come. */
static struct pbs_dst cut(struct iovec *iov, size_t len, size_t gets, struct ops *o)
{
    size_t at = 0;
    unsigned n = 0;

    memset(into, 0xee, gets + 64);
    for (unsigned k = pool_byte(o) % IOVS; n < k; n++) {
        iov[n] = (struct iovec){into + at, at < len ? pool_amount(o, (uint32_t)(len - at)) - 1 : 0};
        at += iov[n].iov_len;
    }
    iov[n++] = (struct iovec){into + at, len - at + 64};
    return (struct pbs_dst){.iov = iov, .n = n, .left = len};
}

static void check_into(const struct stream *st, size_t skip, size_t n)
{
    MUST(!memcmp(into, st->bytes + st->first + skip, n));
    MUST(pool_untouched(into + n, 64));
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

void pool_op_take(struct pool *m, struct ops *o)
{
    struct taker t = {.m = m, .sock = pool_sock(o)};
    struct stream *st = &m->stream[t.sock];
    size_t len = pool_amount(o, HELD), n = least(len, st->n);
    struct iovec iov[IOVS];
    struct pbs_dst dst = cut(iov, len, n, o);

    MUST(pbs_sock_take(st->s, &dst, home, &t) == n);
    MUST(dst.done == n && dst.left == len - n);
    check_into(st, 0, n);
    gone(st, n);
}

void pool_op_peek(struct pool *m, struct ops *o)
{
    struct stream *st = &m->stream[pool_sock(o)];
    size_t len = pool_amount(o, HELD), skip = pool_amount(o, HELD) - 1;
    size_t n = least(len, st->n - least(skip, st->n));
    struct iovec iov[IOVS];
    struct pbs_dst dst = cut(iov, len, n, o);

    MUST(pbs_sock_peek(st->s, &dst, skip) == n);
    check_into(st, least(skip, st->n), n);
}

void pool_op_drop(struct pool *m, struct ops *o)
{
    struct taker t = {.m = m, .sock = pool_sock(o)};
    struct stream *st = &m->stream[t.sock];
    size_t len = pool_amount(o, HELD), n = least(len, st->n);

    MUST(pbs_sock_drop(st->s, len, home, &t) == n);
    gone(st, n);
}

/* The short ways, which take what lies in the first piece. */
void pool_op_front(struct pool *m, struct ops *o)
{
    struct taker t = {.m = m, .sock = pool_sock(o)};
    struct stream *st = &m->stream[t.sock];
    size_t front = st->s->pieces ? st->s->pieces->len : 0;
    size_t len = front && o->which >= SOCKS ? front : pool_amount(o, HELD);
    bool only = front && front == st->n && !st->s->holds;
    struct pbs_piece *piece;

    memset(into, 0xee, least(len, front) + 64);
    if (len < front) {
        MUST(pbs_sock_take_front(st->s, into, len));
    } else {
        MUST(!pbs_sock_take_front(st->s, into, len));
        piece = pbs_sock_take_only(st->s, into, len);
        MUST((piece != NULL) == (only && len == front));
        if (!piece)
            len = 0;
        else
            home(&t, piece);
    }
    check_into(st, 0, len);
    if (len)
        gone(st, len);
}

/* ---- memory of our own ---- */

/* Bytes that came by another way. */
void pool_op_own(struct pool *m, struct ops *o)
{
    unsigned sock = pool_sock(o);
    struct stream *st = &m->stream[sock];
    uint32_t most = pool_room(st), len = most ? pool_amount(o, most) : 0;
    struct pbs_piece *piece = len && !st->coming ? pbs_piece_own(len) : NULL;

    if (!piece)
        return;
    MUST(piece->len == len && !piece->group);
    pool_append(m, sock, (uint8_t *)(piece + 1), len);
    st->coming -= len;
    st->n += len;
    st->last = -1;
    st->own++;
    pbs_sock_hold(st->s, piece);
}

/* All that it holds is copied out, as ring.c does it. */
void pool_op_move(struct pool *m, struct ops *o)
{
    struct taker t = {.m = m, .sock = pool_sock(o)};
    struct stream *st = &m->stream[t.sock];
    struct pbs_piece *own = st->n ? pbs_piece_own(st->n) : NULL;
    struct iovec iov = {.iov_len = st->n};
    struct pbs_dst dst = {.iov = &iov, .n = 1, .left = st->n};

    if (!own)
        return;
    iov.iov_base = own + 1;
    MUST(pbs_sock_peek(st->s, &dst, 0) == st->n);
    st->own++;
    pbs_sock_hold(st->s, own);
    MUST(pbs_sock_drop(st->s, st->n, home, &t) == st->n);
    st->last = -1;
    st->spared = false;
    m->tally.moved++;
}

void pool_open_sock(struct stream *st)
{
    st->s = pbs_sock_get();
    MUST(st->s && !st->s->pieces && !st->s->holds && !st->s->held);
    st->first = st->n = st->coming = 0;
    st->next = 0;
    st->own = 0;
    st->last = -1;
    st->spared = false;
}

void pool_close_sock(struct pool *m, unsigned sock)
{
    struct taker t = {.m = m, .sock = sock};
    struct stream *st = &m->stream[sock];

    MUST(pbs_sock_drop(st->s, HELD + 1, home, &t) == st->n);
    MUST(!st->s->pieces && !st->s->holds && !st->own);
    pbs_lock(&st->s->file.lock);
    pbs_sock_put(st->s);
}

void pool_op_close(struct pool *m, struct ops *o)
{
    unsigned sock = pool_sock(o);

    if (m->stream[sock].coming)
        return;
    pool_close_sock(m, sock);
    pool_open_sock(&m->stream[sock]);
}
