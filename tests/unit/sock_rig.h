/*
 * A socket, and a model of it: plain bytes, and a count for each buffer. Whatever is done to the one
 * is done to the other; check() holds them against each other.
 */
#ifndef TESTS_UNIT_SOCK_RIG_H
#define TESTS_UNIT_SOCK_RIG_H

#include "unit.h"

#include "sock.h"

#define BIDS 6     /* 0 to 4 are buffers, BIDS - 1 stands for memory of our own */
#define MOST 20000 /* bytes held at a time */
#define IOVS 8

struct rig {
    struct pbs_sock *s;
    uint8_t bytes[MOST];
    size_t n;          /* bytes held */
    size_t ends[MOST]; /* of each piece, in bytes from here */
    unsigned owner[MOST];
    bool first[MOST]; /* of its buffer, which had none queued */
    size_t pieces;
    unsigned refs[BIDS]; /* pieces of each buffer that are queued */
    bool parked[BIDS];   /* the first is consumed, and stays while others are queued */
    unsigned consumed[BIDS];
    unsigned homes[BIDS]; /* pieces of each that went home */
    uint64_t next;        /* byte that arrives next */
    struct pbs_piece *made[4096];
    uint8_t *data_of[4096];
    unsigned nmade;
};

static char a_group;

static inline struct pbs_pbuf *group(unsigned from)
{
    return from == BIDS - 1 ? NULL : (struct pbs_pbuf *)&a_group;
}

static inline void home(void *ctx, struct pbs_piece *piece)
{
    struct rig *r = ctx;

    assert_int_equal(piece->len, 0);
    r->homes[piece->group ? piece->buf : BIDS - 1]++;
}

static inline void rig_init(struct rig *r)
{
    memset(r, 0, sizeof(*r));
    r->s = pbs_sock_get();
    assert_non_null(r->s);
}

static inline void rig_end(struct rig *r)
{
    pbs_sock_drop(r->s, r->s->held, home, r);
    assert_null(r->s->pieces);
    assert_null(r->s->holds);
    pbs_lock(&r->s->file.lock);
    pbs_sock_put(r->s);
    for (unsigned i = 0; i < r->nmade; i++) {
        free(r->data_of[i]);
        free(r->made[i]);
    }
}

static inline void arrive(struct rig *r, size_t len, unsigned from)
{
    struct pbs_piece *piece = calloc(1, sizeof(*piece));
    uint8_t *data = malloc(len);

    assert_non_null(piece);
    assert_non_null(data);
    for (size_t i = 0; i < len; i++)
        r->bytes[r->n + i] = data[i] = (uint8_t)(r->next + i) ^ (uint8_t)((r->next + i) >> 8);
    r->next += len;
    r->n += len;
    piece->data = data;
    piece->len = len;
    piece->group = group(from);
    piece->buf = from;
    r->made[r->nmade] = piece;
    r->data_of[r->nmade++] = data;
    r->ends[r->pieces] = r->n;
    r->first[r->pieces] = !r->refs[from];
    r->owner[r->pieces++] = from;
    r->refs[from]++;
    pbs_sock_hold(r->s, piece);
}

/* The model gives n bytes away. */
static inline void gone(struct rig *r, size_t n)
{
    size_t k = 0;

    memmove(r->bytes, r->bytes + n, r->n - n);
    r->n -= n;
    for (; k < r->pieces && r->ends[k] <= n; k++) {
        unsigned of = r->owner[k];

        r->consumed[of]++;
        r->parked[of] = --r->refs[of] && (r->first[k] || r->parked[of]) && of != BIDS - 1;
    }
    r->pieces -= k;
    memmove(r->ends, r->ends + k, r->pieces * sizeof(r->ends[0]));
    memmove(r->owner, r->owner + k, r->pieces * sizeof(r->owner[0]));
    memmove(r->first, r->first + k, r->pieces * sizeof(r->first[0]));
    for (size_t i = 0; i < r->pieces; i++)
        r->ends[i] -= n;
}

static inline void check(const struct rig *r)
{
    struct pbs_hold *h, *tmp;
    struct pbs_piece *piece;
    size_t sum = 0, n = 0;
    unsigned refs[BIDS] = {0};

    for (piece = r->s->pieces; piece; piece = piece->next) {
        assert_true(piece->len > 0);
        sum += piece->len;
        n++;
    }
    assert_int_equal(sum, r->n);
    assert_int_equal(r->s->held, r->n);
    assert_int_equal(n, r->pieces);
    assert_int_equal(pbs_sock_holds(r->s), r->n > 0);
    HASH_ITER(hh, r->s->holds, h, tmp) {
        assert_in_range(h->buf, 0, BIDS - 2);
        assert_true(h->refs > 0);
        refs[h->buf] += h->refs;
    }
    /* One that came alone is not counted before another of a buffer comes. */
    if (!r->s->holds && n && r->s->pieces->group)
        refs[r->s->pieces->buf] = 1;
    for (unsigned i = 0; i < BIDS - 1; i++)
        assert_int_equal(refs[i], r->refs[i] + r->parked[i]);
    for (unsigned i = 0; i < BIDS; i++)
        assert_int_equal(r->homes[i], r->consumed[i] - r->parked[i]);
}

/* ---- somewhere to receive into: a random cut of one array, with empty entries in between ---- */

struct into {
    uint8_t mem[2 * MOST];
    struct iovec iov[IOVS];
    struct pbs_dst dst;
};

static inline void cut(struct into *to, size_t len, uint64_t *rng)
{
    size_t at = 0;
    unsigned n = 0;

    memset(to->mem, 0xee, sizeof(to->mem));
    while (n < IOVS - 1 && at < len) {
        size_t k = rnd(rng, 4) ? rnd(rng, (uint32_t)(len - at) + 1) : 0;

        to->iov[n++] = (struct iovec){to->mem + at, k};
        at += k;
    }
    /* Room behind what may be filled: dst->left is the limit, not the array's end. */
    to->iov[n++] = (struct iovec){to->mem + at, len - at + rnd(rng, 2) * 100};
    to->dst = (struct pbs_dst){.iov = to->iov, .n = n, .left = len};
}

/* The first n bytes are those at the front of the model; nothing is written behind them. */
static inline void check_into(const struct rig *r, const struct into *to, size_t n, size_t len)
{
    assert_int_equal(to->dst.done, n);
    assert_int_equal(to->dst.left, len - n);
    assert_memory_equal(to->mem, r->bytes, n);
    for (size_t i = n; i < n + 64; i++)
        assert_int_equal(to->mem[i], 0xee);
}

static inline size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline void take(struct rig *r, struct into *to, size_t len, uint64_t *rng)
{
    size_t n = least(len, r->n);

    cut(to, len, rng);
    assert_int_equal(pbs_sock_take(r->s, &to->dst, home, r), n);
    check_into(r, to, n, len);
    gone(r, n);
}

static inline void peek(struct rig *r, struct into *to, size_t len, uint64_t *rng)
{
    size_t n = least(len, r->n);

    cut(to, len, rng);
    assert_int_equal(pbs_sock_peek(r->s, &to->dst, 0), n);
    check_into(r, to, n, len);
}

static inline void drop(struct rig *r, size_t len)
{
    size_t n = least(len, r->n);

    assert_int_equal(pbs_sock_drop(r->s, len, home, r), n);
    gone(r, n);
}

static inline void take_front(struct rig *r, struct into *to, size_t len)
{
    bool easy = r->pieces && r->ends[0] > len;

    memset(to->mem, 0xee, sizeof(to->mem));
    assert_int_equal(pbs_sock_take_front(r->s, to->mem, len), easy);
    if (!easy) {
        assert_int_equal(to->mem[0], 0xee);
        return;
    }
    assert_memory_equal(to->mem, r->bytes, len);
    assert_int_equal(to->mem[len], 0xee);
    gone(r, len);
}

static inline void take_only(struct rig *r, struct into *to, size_t len)
{
    bool easy = r->pieces == 1 && r->n == len && !r->s->holds;
    struct pbs_piece *piece;

    memset(to->mem, 0xee, sizeof(to->mem));
    piece = pbs_sock_take_only(r->s, to->mem, len);
    assert_int_equal(piece != NULL, easy);
    if (!easy) {
        assert_int_equal(to->mem[0], 0xee);
        return;
    }
    assert_memory_equal(to->mem, r->bytes, len);
    assert_int_equal(to->mem[len], 0xee);
    home(r, piece);
    gone(r, len);
}

#endif
