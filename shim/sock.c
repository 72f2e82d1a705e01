#include "sock.h"

#include <utlist.h>

static struct pbs_lock free_lock;
static struct pbs_sock *free_list; /* guarded by free_lock */

struct pbs_sock *pbs_sock_get(void)
{
    struct pbs_sock *s;

    pbs_lock(&free_lock);
    s = free_list;
    if (s)
        free_list = s->next_free;
    pbs_unlock(&free_lock);
    if (!s)
        s = pbs_mem_get(sizeof(*s));
    if (!s)
        return NULL;
    /* The lock is left alone: a thread with a stale pointer may hold it for a moment. */
    pbs_lock(&s->file.lock);
    pbs_file_init(&s->file, PBS_FILE_SOCK);
    s->state = PBS_WATCHED;
    s->nonblock = s->armed = s->at_end = s->unverified = false;
    s->error = 0;
    s->seen_at = 0;
    s->timeout = 0;
    s->held = 0;
    s->spill = NULL;
    s->ring = NULL;
    s->dry_epoch = 0;
    s->user = 0;
    s->call = 0;
    s->visit = 0;
    memset(&s->tcp, 0, sizeof(*s) - offsetof(struct pbs_sock, tcp));
    s->fd = s->ghost = -1;
    pbs_unlock(&s->file.lock);
    return s;
}

void pbs_sock_put(struct pbs_sock *s)
{
    PBS_ASSERT(!s->file.nfds && !s->ring && !s->armed && !s->pieces && !s->items && !s->spill);
    s->file.kind = PBS_FILE_FREE;
    s->life++;
    pbs_unlock(&s->file.lock);
    pbs_lock(&free_lock);
    s->next_free = free_list;
    free_list = s;
    pbs_unlock(&free_lock);
}

/* Small ones stay with us when they are freed (mem.h). */
#define SMALL 512

static size_t own_size(size_t size)
{
    size += sizeof(struct pbs_piece);
    return size <= SMALL ? size : (size + 4095) & ~(size_t)4095;
}

struct pbs_piece *pbs_piece_own(size_t size)
{
    size_t all = own_size(size);
    struct pbs_piece *piece = all <= SMALL ? pbs_mem_get(all) : pbs_mem_map(all);

    if (!piece)
        return NULL;
    *piece = (struct pbs_piece){.data = (const uint8_t *)(piece + 1), .len = size, .own_size = all};
    return piece;
}

void pbs_piece_free(struct pbs_piece *piece)
{
    if (piece->own_size <= SMALL)
        pbs_mem_put(piece, piece->own_size);
    else
        pbs_mem_unmap(piece, piece->own_size);
}

static struct pbs_hold *hold_find(struct pbs_sock *s, uint32_t buf)
{
    struct pbs_hold *h;

    HASH_FIND(hh, s->holds, &buf, sizeof(buf), h);
    return h;
}

static void hold_add(struct pbs_sock *s, struct pbs_piece *piece)
{
    struct pbs_hold *h = hold_find(s, piece->buf);

    if (h) {
        h->refs++;
        piece->counted = true;
        return;
    }
    piece->hold.buf = piece->buf;
    piece->hold.refs = 1;
    /* Out of memory: the piece goes home all the same when it is consumed, uncounted. */
    HASH_ADD(hh, s->holds, buf, sizeof(piece->hold.buf), &piece->hold);
    piece->counted = piece->hold.hh.tbl != NULL;
}

/* piece has just been queued. One that is alone needs no count, and a table is not made for it: nothing
 * else of its buffer is here. It is counted when a second one comes. */
static void hold_count(struct pbs_sock *s, struct pbs_piece *piece)
{
    struct pbs_piece *first = s->pieces;

    if (first == piece)
        return;
    if (!first->counted && first->group)
        hold_add(s, first);
    hold_add(s, piece);
}

/*
 * A piece is consumed and off the queue. The one in which its buffer's count lies stays until it is the
 * last: it keeps its buffer from going home as any piece does.
 */
static void let_go(struct pbs_sock *s, struct pbs_piece *piece, pbs_home_fn *home, void *ctx)
{
    struct pbs_hold *h = piece->counted ? hold_find(s, piece->buf) : NULL;
    struct pbs_piece *first;

    if (!h) {
        home(ctx, piece);
        return;
    }
    first = (struct pbs_piece *)((char *)h - offsetof(struct pbs_piece, hold));
    if (piece != first) {
        h->refs--;
        home(ctx, piece);
    }
    if (h->refs == 1 && !first->len) {
        HASH_DEL(s->holds, h);
        home(ctx, first);
    }
}

void pbs_sock_hold(struct pbs_sock *s, struct pbs_piece *piece)
{
    PBS_ASSERT(piece->len > 0);
    piece->counted = false;
    DL_APPEND(s->pieces, piece);
    if (piece->group)
        hold_count(s, piece);
    atomic_store_explicit(&s->held,
                          atomic_load_explicit(&s->held, memory_order_relaxed) + piece->len,
                          memory_order_relaxed);
}

static void consume(struct pbs_sock *s, struct pbs_piece *piece, size_t n, pbs_home_fn *home,
                    void *ctx)
{
    PBS_ASSERT(n <= piece->len);
    atomic_store_explicit(&s->held, atomic_load_explicit(&s->held, memory_order_relaxed) - n,
                          memory_order_relaxed);
    piece->data += n;
    piece->len -= n;
    if (piece->len)
        return;
    DL_DELETE(s->pieces, piece);
    let_go(s, piece, home, ctx);
}

void pbs_dst_advance(struct pbs_dst *dst, size_t n)
{
    PBS_ASSERT(n <= dst->left);
    dst->left -= n;
    dst->done += n;
    while (dst->n && dst->iov->iov_len - dst->off <= n) {
        n -= dst->iov->iov_len - dst->off;
        dst->iov++;
        dst->n--;
        dst->off = 0;
    }
    dst->off += n;
}

/* Copies as much of [data, data + len) as dst has room for. */
size_t pbs_dst_fill(struct pbs_dst *dst, const uint8_t *data, size_t len)
{
    size_t done = 0;

    while (done < len && dst->left) {
        size_t room = dst->iov->iov_len - dst->off, n = len - done;

        if (n > room)
            n = room;
        if (n > dst->left)
            n = dst->left;
        memcpy((char *)dst->iov->iov_base + dst->off, data + done, n);
        done += n;
        pbs_dst_advance(dst, n);
    }
    return done;
}

size_t pbs_sock_take(struct pbs_sock *s, struct pbs_dst *dst, pbs_home_fn *home, void *ctx)
{
    struct pbs_piece *piece;
    size_t done = 0;

    while (dst->left && (piece = s->pieces)) {
        size_t n = pbs_dst_fill(dst, piece->data, piece->len);

        consume(s, piece, n, home, ctx);
        done += n;
    }
    return done;
}

size_t pbs_sock_peek(const struct pbs_sock *s, struct pbs_dst *dst, size_t skip)
{
    struct pbs_piece *piece;
    size_t done = 0;

    DL_FOREACH(s->pieces, piece) {
        size_t gone = skip < piece->len ? skip : piece->len;

        if (!dst->left)
            break;
        skip -= gone;
        if (piece->len > gone)
            done += pbs_dst_fill(dst, piece->data + gone, piece->len - gone);
    }
    return done;
}

size_t pbs_sock_drop(struct pbs_sock *s, size_t n, pbs_home_fn *home, void *ctx)
{
    struct pbs_piece *piece;
    size_t done = 0;

    while (done < n && (piece = s->pieces)) {
        size_t k = piece->len < n - done ? piece->len : n - done;

        consume(s, piece, k, home, ctx);
        done += k;
    }
    return done;
}

void pbs_sock_reset(void)
{
    pbs_unlock(&free_lock);
    free_list = NULL;
}
