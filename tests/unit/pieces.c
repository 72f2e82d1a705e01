/* The table of headers, and pieces that other threads have emptied. */
#include "unit.h"

#include <pthread.h>
#include <sched.h>

#include <liburing.h>

#include "mem.h"
#include "pbuf.h"
#include "pieces.h"

static void test_get_all_then_none_left(void **state)
{
    struct pbs_pieces p;

    (void)state;
    assert_int_equal(pbs_pieces_init(&p, 10), 0);
    for (unsigned i = 0; i < 10; i++) {
        struct pbs_piece *piece;

        assert_int_equal(pbs_pieces_left(&p), 10 - i);
        piece = pbs_pieces_get(&p);
        assert_ptr_equal(piece, &p.table[i]);
        assert_int_equal((uintptr_t)piece % 64, 0);
    }
    assert_null(pbs_pieces_get(&p));
    assert_int_equal(pbs_pieces_left(&p), 0);
    pbs_pieces_put(&p, &p.table[3]);
    pbs_pieces_put(&p, &p.table[8]);
    assert_int_equal(pbs_pieces_left(&p), 2);
    assert_ptr_equal(pbs_pieces_get(&p), &p.table[8]); /* the last one back */
    assert_ptr_equal(pbs_pieces_get(&p), &p.table[3]);
    assert_null(pbs_pieces_get(&p));
    pbs_pieces_destroy(&p);
}

static void test_returned_all_of_them_once(void **state)
{
    struct pbs_piece *piece[3], *back;
    struct pbs_pieces p;

    (void)state;
    assert_int_equal(pbs_pieces_init(&p, 3), 0);
    assert_null(pbs_pieces_returned(&p));
    for (unsigned i = 0; i < 3; i++)
        piece[i] = pbs_pieces_get(&p);
    for (unsigned i = 0; i < 3; i++)
        pbs_pieces_return(&p, piece[i]);
    assert_int_equal(pbs_pieces_left(&p), 0); /* not before the owner has looked */
    back = pbs_pieces_returned(&p);
    for (unsigned i = 3; i--; back = back->next)
        assert_ptr_equal(back, piece[i]);
    assert_null(back);
    assert_null(pbs_pieces_returned(&p));
    pbs_pieces_destroy(&p);
}

static void test_own_every_size_whole_room_behind_it(void **state)
{
    (void)state;
    for (size_t size = 1; size < 20000; size += 1 + size / 3) {
        struct pbs_piece *piece = pbs_piece_own(size);

        assert_non_null(piece);
        assert_ptr_equal(piece->data, piece + 1);
        assert_int_equal(piece->len, size);
        assert_null(piece->group);
        assert_true(piece->own_size >= sizeof(*piece) + size);
        memset(piece + 1, 0xa5, size);
        pbs_piece_free(piece);
    }
}

/* ---- several threads read, each its own socket, while the owner lends and fills on ---- */

#define READERS 3
#define BYTES 3000000u
#define TOTAL 8
#define SIZE 512

static struct ring {
    struct pbs_pbuf p;
    struct pbs_pieces pieces;
    uint16_t head;
    uint32_t left; /* of the buffer at head */
} ring;

static struct reader {
    struct pbs_sock *s;
    pthread_t thread;
    uint64_t sent;           /* by the owner */
    uint64_t got, bad, home; /* by the reader */
    uint64_t rng;
} reader[READERS];

static uint8_t made(uint64_t at)
{
    return (uint8_t)(at * 0x9e3779b1U >> 24);
}

static void return_it(void *ctx, struct pbs_piece *piece)
{
    struct reader *rd = ctx;

    rd->home++;
    pbs_pieces_return(&ring.pieces, piece);
}

static void *read_all(void *arg)
{
    struct reader *rd = arg;
    uint8_t to[1000] = {0};

    while (rd->got < BYTES) {
        struct iovec iov = {to, sizeof(to)};
        struct pbs_dst dst = {.iov = &iov, .n = 1, .left = 1 + rnd(&rd->rng, sizeof(to) - 1)};
        size_t n;

        pbs_lock(&rd->s->file.lock);
        n = pbs_sock_take(rd->s, &dst, return_it, rd);
        pbs_unlock(&rd->s->file.lock);
        for (size_t i = 0; i < n; i++)
            rd->bad += to[i] != made(rd->got++);
        if (!n)
            sched_yield();
    }
    return NULL;
}

static void take_returned(void)
{
    struct pbs_piece *piece = pbs_pieces_returned(&ring.pieces), *next;

    for (; piece; piece = next) {
        next = piece->next;
        pbs_pbuf_unref(&ring.p, piece->buf & 0xffff);
        pbs_pieces_put(&ring.pieces, piece);
    }
}

/* The kernel and the owner's reaping, in one. */
static void arrive(struct reader *rd, uint32_t len)
{
    unsigned bid = ring.p.br->bufs[ring.head & (TOTAL - 1)].bid;
    uint32_t buf = pbs_buf_name(ring.p.bgid, bid);
    uint8_t *data = ring.p.mem + (size_t)bid * ring.p.stride + ring.p.buf[bid].fill;

    for (uint32_t i = 0; i < len; i++)
        data[i] = made(rd->sent++);
    assert_ptr_equal(pbs_pbuf_fill(&ring.p, bid, len), data);
    pbs_lock(&rd->s->file.lock);
    if (!pbs_sock_extend(rd->s, buf, data, len)) {
        struct pbs_piece *piece = pbs_pieces_get(&ring.pieces);

        assert_non_null(piece);
        piece->data = data;
        piece->len = len;
        piece->group = &ring.p;
        piece->buf = buf;
        pbs_pbuf_ref(&ring.p, bid);
        pbs_sock_hold(rd->s, piece);
    }
    pbs_unlock(&rd->s->file.lock);
    ring.left -= len;
    if (!ring.left) {
        pbs_pbuf_done(&ring.p, bid);
        ring.head++;
        ring.left = SIZE;
    }
}

static bool step(uint64_t *rng)
{
    struct reader *rd = &reader[rnd(rng, READERS)];
    uint64_t more = BYTES - rd->sent;
    uint32_t len = 1 + rnd(rng, ring.left);

    take_returned();
    pbs_pbuf_refill(&ring.p);
    assert_int_equal(ring.p.lent + ring.p.held + ring.p.nfree, TOTAL);
    if (!ring.p.lent || !pbs_pieces_left(&ring.pieces))
        sched_yield();
    else if (more)
        arrive(rd, len < more ? len : (uint32_t)more);
    for (unsigned i = 0; i < READERS; i++)
        if (reader[i].sent < BYTES)
            return true;
    return false;
}

static void begin(struct reader *rd, unsigned seed)
{
    *rd = (struct reader){.s = pbs_sock_get(), .rng = seeded(seed)};
    assert_non_null(rd->s);
    assert_int_equal(pthread_create(&rd->thread, NULL, read_all, rd), 0);
}

static void test_readers_at_once_every_byte_in_order_every_buffer_home(void **state)
{
    uint64_t rng = 11;

    (void)state;
    ring.left = SIZE;
    assert_int_equal(pbs_pbuf_init(&ring.p, TOTAL, SIZE, true, 3), 0);
    assert_int_equal(pbs_pieces_init(&ring.pieces, 32), 0);
    while (pbs_pbuf_grow(&ring.p))
        ;
    for (unsigned i = 0; i < READERS; i++)
        begin(&reader[i], i + 1);
    while (step(&rng))
        ;
    for (unsigned i = 0; i < READERS; i++) {
        assert_int_equal(pthread_join(reader[i].thread, NULL), 0);
        assert_int_equal(reader[i].bad, 0);
        assert_true(reader[i].home > BYTES / SIZE / READERS);
        assert_null(reader[i].s->pieces);
        assert_null(reader[i].s->holds);
        pbs_lock(&reader[i].s->file.lock);
        pbs_sock_put(reader[i].s);
    }
    take_returned();
    assert_int_equal(ring.p.held, 0);
    assert_int_equal(ring.p.out, 0);
    assert_int_equal(pbs_pieces_left(&ring.pieces), 32);
    pbs_pbuf_destroy(&ring.p);
    pbs_pieces_destroy(&ring.pieces);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_get_all_then_none_left),
        cmocka_unit_test(test_returned_all_of_them_once),
        cmocka_unit_test(test_own_every_size_whole_room_behind_it),
        cmocka_unit_test(test_readers_at_once_every_byte_in_order_every_buffer_home),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
