#include "unit.h"

#include <errno.h>

#include "sock.h"

/* ---- memory that runs out when a test says so ---- */

void *__real_pbs_mem_get(size_t size);
void *__wrap_pbs_mem_get(size_t size);

static bool no_memory;

void *__wrap_pbs_mem_get(size_t size)
{
    return no_memory ? NULL : __real_pbs_mem_get(size);
}

/* ---- a socket, and a model of it: plain bytes, and a count for each buffer ---- */

#define BIDS 6     /* 0 to 4 are buffers, BIDS - 1 stands for memory of our own */
#define MOST 20000 /* bytes held at a time */
#define IOVS 8

struct rig {
    struct pbs_sock *s;
    uint8_t bytes[MOST];
    size_t n;          /* bytes held */
    size_t ends[MOST]; /* of each piece, in bytes from here */
    unsigned owner[MOST];
    size_t pieces;
    unsigned refs[BIDS];  /* pieces of each buffer that are queued */
    unsigned homes[BIDS]; /* times that each came home */
    unsigned expected[BIDS];
    uint64_t next; /* byte that arrives next */
    struct pbs_piece *made[4096];
    uint8_t *data_of[4096];
    unsigned nmade;
};

static unsigned slot(uint32_t bid)
{
    return bid == PBS_NO_BID ? BIDS - 1 : bid;
}

static void home(void *ctx, struct pbs_piece *piece)
{
    struct rig *r = ctx;

    assert_int_equal(piece->len, 0);
    r->homes[slot(piece->bid)]++;
}

static void rig_init(struct rig *r)
{
    memset(r, 0, sizeof(*r));
    r->s = pbs_sock_get();
    assert_non_null(r->s);
}

static void rig_end(struct rig *r)
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

static void arrive(struct rig *r, size_t len, unsigned from)
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
    piece->bid = from == BIDS - 1 ? PBS_NO_BID : from;
    r->made[r->nmade] = piece;
    r->data_of[r->nmade++] = data;
    r->ends[r->pieces] = r->n;
    r->owner[r->pieces++] = from;
    r->refs[from]++;
    pbs_sock_hold(r->s, piece);
}

/* The model gives n bytes away. */
static void gone(struct rig *r, size_t n)
{
    size_t k = 0;

    memmove(r->bytes, r->bytes + n, r->n - n);
    r->n -= n;
    for (; k < r->pieces && r->ends[k] <= n; k++) {
        unsigned of = r->owner[k];

        if (--r->refs[of] == 0 || of == BIDS - 1)
            r->expected[of]++;
    }
    r->pieces -= k;
    memmove(r->ends, r->ends + k, r->pieces * sizeof(r->ends[0]));
    memmove(r->owner, r->owner + k, r->pieces * sizeof(r->owner[0]));
    for (size_t i = 0; i < r->pieces; i++)
        r->ends[i] -= n;
}

static void check(const struct rig *r)
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
        assert_in_range(h->bid, 0, BIDS - 2);
        assert_true(h->refs > 0);
        refs[h->bid] += h->refs;
    }
    for (unsigned i = 0; i < BIDS - 1; i++)
        assert_int_equal(refs[i], r->refs[i]);
    assert_memory_equal(r->homes, r->expected, sizeof(r->homes));
}

/* ---- somewhere to receive into: a random cut of one array, with empty entries in between ---- */

struct into {
    uint8_t mem[2 * MOST];
    struct iovec iov[IOVS];
    struct pbs_dst dst;
};

static void cut(struct into *to, size_t len, uint64_t *rng)
{
    size_t at = 0;
    unsigned n = 0;

    memset(to->mem, 0xee, sizeof(to->mem));
    while (n < IOVS - 1 && at < len) {
        size_t k = rnd(rng, 4) ? rnd(rng, (uint32_t)(len - at) + 1) : 0;

        to->iov[n++] = (struct iovec){to->mem + at, k};
        at += k;
    }
    to->iov[n++] = (struct iovec){to->mem + at, len - at};
    to->dst = (struct pbs_dst){.iov = to->iov, .n = n, .left = len};
}

/* The first n bytes are those at the front of the model; nothing is written behind them. */
static void check_into(const struct rig *r, const struct into *to, size_t n, size_t len)
{
    assert_int_equal(to->dst.done, n);
    assert_int_equal(to->dst.left, len - n);
    assert_memory_equal(to->mem, r->bytes, n);
    for (size_t i = n; i < n + 64; i++)
        assert_int_equal(to->mem[i], 0xee);
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void take(struct rig *r, struct into *to, size_t len, uint64_t *rng)
{
    size_t n = least(len, r->n);

    cut(to, len, rng);
    assert_int_equal(pbs_sock_take(r->s, &to->dst, home, r), n);
    check_into(r, to, n, len);
    gone(r, n);
}

static void peek(struct rig *r, struct into *to, size_t len, uint64_t *rng)
{
    size_t n = least(len, r->n);

    cut(to, len, rng);
    assert_int_equal(pbs_sock_peek(r->s, &to->dst), n);
    check_into(r, to, n, len);
}

static void drop(struct rig *r, size_t len)
{
    size_t n = least(len, r->n);

    assert_int_equal(pbs_sock_drop(r->s, len, home, r), n);
    gone(r, n);
}

static void take_front(struct rig *r, struct into *to, size_t len)
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

static void test_random_arrivals_and_receives_agree_with_model(void **state)
{
    static struct rig r;
    static struct into to;

    (void)state;
    for (unsigned seed = 1; seed <= SEEDS; seed++) {
        uint64_t rng = seeded(seed);

        rig_init(&r);
        while (r.nmade < 1000) {
            size_t len = 1 + rnd(&rng, rnd(&rng, 3) ? 40 : 3000);

            switch (rnd(&rng, 8)) {
            case 0:
            case 1:
            case 2:
                if (r.n + len <= MOST)
                    arrive(&r, len, rnd(&rng, BIDS));
                break;
            case 3:
                peek(&r, &to, len, &rng);
                break;
            case 4:
                drop(&r, len);
                break;
            case 5:
                take_front(&r, &to, len);
                break;
            default:
                take(&r, &to, len, &rng);
                break;
            }
            check(&r);
        }
        rig_end(&r);
    }
}

static void test_take_nothing_held_gives_nothing(void **state)
{
    static struct rig r;
    static struct into to;
    uint64_t rng = 1;

    (void)state;
    rig_init(&r);
    take(&r, &to, 100, &rng);
    peek(&r, &to, 100, &rng);
    drop(&r, 100);
    take_front(&r, &to, 100);
    check(&r);
    rig_end(&r);
}

/* A hit may not use a piece up: its buffer would not go home. */
static void test_take_front_exactly_one_piece_left_to_take(void **state)
{
    static struct rig r;
    static struct into to;

    (void)state;
    rig_init(&r);
    arrive(&r, 10, 0);
    assert_false(pbs_sock_take_front(r.s, to.mem, 10));
    assert_true(pbs_sock_take_front(r.s, to.mem, 9));
    gone(&r, 9);
    assert_false(pbs_sock_take_front(r.s, to.mem, 1));
    check(&r);
    rig_end(&r);
}

static void test_hold_several_pieces_of_a_buffer_home_once_after_the_last(void **state)
{
    static struct rig r;

    (void)state;
    rig_init(&r);
    arrive(&r, 5, 2);
    arrive(&r, 5, 3);
    arrive(&r, 5, 2);
    arrive(&r, 5, 2);
    assert_int_equal(HASH_COUNT(r.s->holds), 2);
    drop(&r, 5); /* the first piece of 2, which the table's entry lies in */
    assert_int_equal(r.homes[2], 0);
    drop(&r, 9);
    assert_int_equal(r.homes[2], 0);
    assert_int_equal(r.homes[3], 1);
    check(&r);
    drop(&r, 6);
    assert_int_equal(r.homes[2], 1);
    check(&r);
    arrive(&r, 5, 2); /* the buffer was lent again meanwhile */
    check(&r);
    drop(&r, 5);
    assert_int_equal(r.homes[2], 2);
    rig_end(&r);
}

static void count_home(void *ctx, struct pbs_piece *piece)
{
    uint32_t *wanted = ctx;

    assert_int_equal(piece->bid, (*wanted)++);
}

static void test_hold_many_buffers_table_grows_and_empties(void **state)
{
    static struct pbs_piece piece[1000];
    static const uint8_t byte = 'x';
    struct pbs_sock *s = pbs_sock_get();
    uint32_t homes = 0;

    (void)state;
    assert_non_null(s);
    for (unsigned i = 0; i < COUNT_OF(piece); i++) {
        piece[i] = (struct pbs_piece){.data = &byte, .len = 1, .bid = i};
        pbs_sock_hold(s, &piece[i]);
    }
    assert_int_equal(HASH_COUNT(s->holds), COUNT_OF(piece));
    for (unsigned i = 1; i <= COUNT_OF(piece); i++) {
        assert_int_equal(pbs_sock_drop(s, 1, count_home, &homes), 1);
        assert_int_equal(homes, i);
        assert_int_equal(HASH_COUNT(s->holds), COUNT_OF(piece) - i);
    }
    assert_null(s->holds);
    pbs_lock(&s->file.lock);
    pbs_sock_put(s);
}

static void test_hold_out_of_memory_no_byte_lost_and_buffer_home(void **state)
{
    static struct rig r;
    static struct into to;
    uint64_t rng = 7;

    (void)state;
    rig_init(&r);
    no_memory = true;
    arrive(&r, 100, 1);
    arrive(&r, 50, 4);
    no_memory = false;
    assert_int_equal(r.s->held, 150);
    take(&r, &to, 120, &rng);
    assert_int_equal(r.homes[1], 1);
    take(&r, &to, 120, &rng);
    assert_int_equal(r.homes[4], 1);
    check(&r);
    rig_end(&r);
}

static void test_error_held_given_once(void **state)
{
    struct pbs_sock *s = pbs_sock_get();

    (void)state;
    assert_non_null(s);
    assert_int_equal(pbs_sock_take_error(s), 0);
    assert_false(pbs_sock_holds(s));
    atomic_store(&s->error, ECONNRESET);
    assert_true(pbs_sock_holds(s));
    assert_int_equal(pbs_sock_take_error(s), ECONNRESET);
    assert_int_equal(pbs_sock_take_error(s), 0);
    assert_false(pbs_sock_holds(s));
    pbs_lock(&s->file.lock);
    pbs_sock_put(s);
}

static void test_get_after_put_same_memory_nothing_left_over(void **state)
{
    struct pbs_sock *s = pbs_sock_get(), *again;

    (void)state;
    assert_non_null(s);
    assert_int_equal(s->file.kind, PBS_FILE_SOCK);
    s->tcp = s->at_end = s->nonblock = true;
    s->state = PBS_PASS;
    s->fd = 7;
    s->timeout = 1;
    s->tally.small_full = 3;
    atomic_store(&s->user, 9);
    atomic_store(&s->error, EPIPE);
    pbs_lock(&s->file.lock);
    pbs_sock_put(s);
    assert_int_equal(s->file.kind, PBS_FILE_FREE); /* what a stale pointer finds */
    again = pbs_sock_get();
    assert_ptr_equal(again, s);
    assert_int_equal(s->file.kind, PBS_FILE_SOCK);
    assert_int_equal(s->state, PBS_WATCHED);
    assert_int_equal(s->fd, -1);
    assert_false(s->tcp || s->at_end || s->nonblock || s->timeout || s->user || s->error);
    assert_int_equal(s->tally.small_full, 0);
    assert_false(s->file.lock.held);
    pbs_lock(&s->file.lock);
    pbs_sock_put(s);
}

static void test_get_out_of_memory_null(void **state)
{
    struct pbs_sock *kept[2];

    (void)state;
    kept[0] = pbs_sock_get(); /* whatever the free list holds */
    pbs_sock_reset();
    no_memory = true;
    kept[1] = pbs_sock_get();
    no_memory = false;
    assert_non_null(kept[0]);
    assert_null(kept[1]);
}

static void test_dst_advance_over_empty_entries_stops_at_next_room(void **state)
{
    char mem[10];
    struct iovec iov[] = {{mem, 3}, {mem, 0}, {mem, 4}, {mem, 0}, {mem, 3}};
    struct pbs_dst dst = {.iov = iov, .n = 5, .left = 10};

    (void)state;
    pbs_dst_advance(&dst, 2);
    assert_ptr_equal(dst.iov, &iov[0]);
    assert_int_equal(dst.off, 2);
    pbs_dst_advance(&dst, 1);
    assert_ptr_equal(dst.iov, &iov[2]);
    assert_int_equal(dst.off, 0);
    pbs_dst_advance(&dst, 5);
    assert_ptr_equal(dst.iov, &iov[4]);
    assert_int_equal(dst.off, 1);
    pbs_dst_advance(&dst, 2);
    assert_int_equal(dst.left, 0);
    assert_int_equal(dst.done, 10);
    assert_int_equal(dst.n, 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_arrivals_and_receives_agree_with_model),
        cmocka_unit_test(test_take_nothing_held_gives_nothing),
        cmocka_unit_test(test_take_front_exactly_one_piece_left_to_take),
        cmocka_unit_test(test_hold_several_pieces_of_a_buffer_home_once_after_the_last),
        cmocka_unit_test(test_hold_many_buffers_table_grows_and_empties),
        cmocka_unit_test(test_hold_out_of_memory_no_byte_lost_and_buffer_home),
        cmocka_unit_test(test_error_held_given_once),
        cmocka_unit_test(test_get_after_put_same_memory_nothing_left_over),
        cmocka_unit_test(test_get_out_of_memory_null),
        cmocka_unit_test(test_dst_advance_over_empty_entries_stops_at_next_room),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
