#include "pbuf_rig.h"

#include <sys/mman.h>

static void test_init_all_free_nothing_published_nothing_charged(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, 64, 4096, false);
    check(&r);
    assert_int_equal(published(&r), 0);
    assert_int_equal(r.p.charged, 0);
    assert_false(pbs_pbuf_grown(&r.p));
    rig_end(&r);
}

static void test_refill_idle_thread_lends_few(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, 64, 4096, false);
    assert_int_equal(refill(&r), 2);
    assert_int_equal(refill(&r), 0);
    fill(&r, 1);
    assert_int_equal(refill(&r), 1);
    rig_end(&r);
}

static void test_refill_small_group_lends_all(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, 2, 64, false);
    assert_int_equal(refill(&r), 2);
    fill(&r, 64);
    fill(&r, 1);
    assert_int_equal(refill(&r), 0);
    rig_end(&r);
}

/* A thread that reads one message after the other touches the memory of one buffer. */
static void test_refill_last_home_first_out(void **state)
{
    unsigned a, b;
    struct rig r;

    (void)state;
    rig_init(&r, 64, 64, false);
    refill(&r);
    a = fill(&r, 1);
    b = fill(&r, 1);
    home(&r, a);
    home(&r, b);
    r.p.want = r.p.lent + 1;
    assert_int_equal(refill(&r), 1);
    assert_int_equal(entry(&r, (uint16_t)(published(&r) - 1)), b);
    rig_end(&r);
}

static void test_grow_doubles_until_all_are_lent(void **state)
{
    static const unsigned wants[] = {2, 4, 8, 16, 32};
    struct rig r;

    (void)state;
    rig_init(&r, 64, 64, false);
    for (size_t i = 0; i < COUNT_OF(wants); i++) {
        assert_int_equal(r.p.want, wants[i]);
        refill(&r);
        assert_int_equal(r.p.lent, wants[i]);
        assert_true(pbs_pbuf_grow(&r.p));
        assert_true(pbs_pbuf_grown(&r.p));
    }
    refill(&r);
    assert_int_equal(r.p.lent, 64);
    assert_false(pbs_pbuf_grow(&r.p));
    assert_int_equal(r.p.want, 64);
    rig_end(&r);
}

/* However often the kernel runs out: a fast sender fills no more, and the rest is there for those that
 * hold something. */
static void test_grow_at_most_256_kib_lent(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, 64, 16384, false);
    while (pbs_pbuf_grow(&r.p))
        ;
    for (unsigned held = 0; held < 64; held += 16) {
        assert_int_equal(refill(&r), 16);
        for (int i = 0; i < 16; i++)
            fill(&r, 1);
    }
    assert_int_equal(refill(&r), 0);
    rig_end(&r);
}

static void test_grow_incremental_first_the_length_then_the_number(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, 64, 32768, true);
    for (unsigned chunk = 4096; chunk < 32768; chunk *= 2) {
        assert_int_equal(r.p.chunk, chunk);
        assert_int_equal(r.p.want, 2);
        assert_true(pbs_pbuf_grow(&r.p));
    }
    assert_int_equal(r.p.chunk, 32768);
    assert_int_equal(r.p.want, 2);
    assert_true(pbs_pbuf_grow(&r.p));
    assert_true(pbs_pbuf_grow(&r.p));
    assert_int_equal(r.p.want, 8);
    assert_false(pbs_pbuf_grow(&r.p));
    assert_int_equal(refill(&r), 8);
    assert_int_equal(r.p.charged, 8 * 32768);
    rig_end(&r);
}

/* ---- filled bit by bit ---- */

static void test_fill_bit_by_bit_home_when_done_and_none_is_out(void **state)
{
    const uint8_t *start;
    unsigned bid;
    struct rig r;

    (void)state;
    rig_init(&r, 4, 4096, true);
    refill(&r);
    bid = entry(&r, 0);
    start = r.p.mem + (size_t)bid * r.p.stride;
    for (unsigned i = 0; i < 3; i++) {
        assert_ptr_equal(pbs_pbuf_fill(&r.p, bid, 100), start + (size_t)i * 100);
        pbs_pbuf_ref(&r.p, bid);
    }
    assert_int_equal(r.p.out, 3);
    for (unsigned i = 0; i < 3; i++)
        assert_false(pbs_pbuf_unref(&r.p, bid)); /* none is out, but it is the kernel's yet */
    check(&r);
    assert_ptr_equal(pbs_pbuf_fill(&r.p, bid, 3796), start + 300);
    pbs_pbuf_ref(&r.p, bid);
    pbs_pbuf_done(&r.p, bid);
    r.where[bid] = HELD;
    check(&r);
    home(&r, bid);
    assert_int_equal(r.p.out, 0);
    assert_int_equal(refill(&r), 1); /* and from its start again */
    assert_ptr_equal(pbs_pbuf_fill(&r.p, bid, 1), start);
    rig_end(&r);
}

static void test_done_none_is_out_free_at_once(void **state)
{
    unsigned bid;
    struct rig r;

    (void)state;
    rig_init(&r, 4, 4096, true);
    refill(&r);
    bid = entry(&r, 0);
    pbs_pbuf_fill(&r.p, bid, 10);
    pbs_pbuf_ref(&r.p, bid);
    assert_false(pbs_pbuf_unref(&r.p, bid));
    pbs_pbuf_done(&r.p, bid);
    r.where[bid] = FREE;
    check(&r);
    rig_end(&r);
}

/* ---- the budget of the process ---- */

static void test_refill_budget_used_up_less_or_none(void **state)
{
    unsigned long limit = pbs_conf.memory;
    struct rig r;

    (void)state;
    rig_init(&r, 4, 32768, true);
    pbs_conf.memory = 0;
    assert_int_equal(refill(&r), 0);
    assert_int_equal(r.p.charged, 0);
    pbs_conf.memory = limit;
    assert_int_equal(refill(&r), 2);
    assert_int_equal(r.p.charged, 2 * 4096);
    home(&r, fill(&r, 1));
    assert_true(pbs_pbuf_grow(&r.p));
    pbs_conf.memory = 0;
    assert_int_equal(refill(&r), 1); /* as much of it as was had before */
    assert_int_equal(r.p.br->bufs[2].len, 4096);
    fill(&r, 1);
    assert_int_equal(refill(&r), 0);
    pbs_conf.memory = limit;
    assert_int_equal(refill(&r), 1);
    assert_int_equal(r.p.br->bufs[3].len, 8192);
    rig_end(&r);
}

/* Bytes of the budget that are free, counted by taking them. */
static size_t left(void)
{
    size_t n = 0;

    for (size_t step = 1UL << 28; step; step /= 2)
        while (pbs_mem_charge(step))
            n += step;
    pbs_mem_uncharge(n);
    return n;
}

static void test_destroy_whole_charge_given_back(void **state)
{
    size_t before = left();
    struct rig r;

    (void)state;
    rig_init(&r, 64, 4096, false);
    while (pbs_pbuf_grow(&r.p))
        ;
    refill(&r);
    fill(&r, 4096);
    assert_true(left() <= before - (size_t)64 * 4096);
    rig_end(&r);
    assert_int_equal(left(), before);
}

/* ---- made small again ---- */

static unsigned resident(const struct rig *r)
{
    size_t size = ((size_t)r->p.total * r->p.stride + 4095) & ~(size_t)4095;
    unsigned char in[256];
    unsigned n = 0;

    assert_true(size / 4096 <= sizeof(in));
    assert_int_equal(mincore(r->p.mem, size, in), 0);
    for (size_t i = 0; i < size / 4096; i++)
        n += in[i] & 1;
    return n;
}

static void test_trim_memory_gone_unread_bytes_stay(void **state)
{
    unsigned bids[16];
    struct rig r;

    (void)state;
    rig_init(&r, 16, 16384, false);
    while (pbs_pbuf_grow(&r.p))
        ;
    assert_int_equal(refill(&r), 16);
    for (unsigned i = 0; i < 16; i++)
        bids[i] = fill(&r, 16384);
    assert_true(resident(&r) >= 16 * 4);
    for (unsigned i = 0; i < 16; i++)
        if (i != 7 && i != 8)
            home(&r, bids[i]);
    pbs_pbuf_trim(&r.p);
    check(&r);
    assert_int_equal(r.p.want, 2);
    assert_int_equal(r.p.charged, 2 * 16384);
    assert_in_range(resident(&r), 8, 12);
    for (unsigned i = 7; i <= 8; i++)
        for (unsigned k = 0; k < 16384; k++)
            assert_int_equal(r.p.mem[(size_t)bids[i] * r.p.stride + k], (bids[i] * 7 + 1) & 0xff);
    home(&r, bids[7]);
    home(&r, bids[8]);
    pbs_pbuf_trim(&r.p);
    assert_in_range(resident(&r), 0, 2); /* where pages are shared with what was held */
    assert_int_equal(r.p.charged, 0);
    assert_false(pbs_pbuf_grown(&r.p));
    assert_int_equal(refill(&r), 2); /* and all goes on */
    fill(&r, 16384);
    rig_end(&r);
}

/* ---- what must not happen ---- */

#ifdef PBS_DEBUG
static void home_twice(void *arg)
{
    struct rig *r = arg;
    unsigned bid = fill(r, 1);

    pbs_pbuf_unref(&r->p, bid);
    pbs_pbuf_unref(&r->p, bid);
}

static void done_twice(void *arg)
{
    struct rig *r = arg;

    pbs_pbuf_done(&r->p, fill(r, 1));
}

static void fill_beyond(void *arg)
{
    struct rig *r = arg;

    pbs_pbuf_fill(&r->p, entry(r, 0), 65);
}

static void fill_not_lent(void *arg)
{
    struct rig *r = arg;

    pbs_pbuf_fill(&r->p, r->p.free[0], 1);
}
#endif

static void test_wrong_use_traps_in_debug_builds(void **state)
{
    (void)state;
#ifdef PBS_DEBUG
    static void (*const wrong[])(void *) = {home_twice, done_twice, fill_beyond, fill_not_lent};
    struct rig r;

    rig_init(&r, 8, 64, false);
    refill(&r);
    for (size_t i = 0; i < COUNT_OF(wrong); i++)
        assert_int_not_equal(in_child(wrong[i], &r), 0);
    rig_end(&r);
#else
    skip();
#endif
}

static void random_step(struct rig *r, unsigned *held, unsigned *n, uint64_t *rng)
{
    switch (rnd(rng, 4)) {
    case 0:
        refill(r);
        break;
    case 1:
        if (r->p.lent)
            held[(*n)++] = fill(r, 1 + rnd(rng, r->p.size));
        else
            pbs_pbuf_grow(&r->p);
        break;
    default:
        if (*n) {
            unsigned i = rnd(rng, *n);

            home(r, held[i]);
            held[i] = held[--*n];
        }
        break;
    }
}

static void test_random_orders_every_buffer_is_somewhere_once(void **state)
{
    static unsigned held[1024];

    (void)state;
    for (unsigned seed = 1; seed <= SEEDS; seed++) {
        uint64_t rng = seeded(seed);
        unsigned n = 0;
        struct rig r;

        rig_init(&r, 2u << rnd(&rng, 10), 64 + rnd(&rng, 200), rnd(&rng, 2));
        for (unsigned i = 0; i < 5000; i++)
            random_step(&r, held, &n, &rng);
        while (n)
            home(&r, held[--n]);
        assert_int_equal(r.p.held, 0);
        rig_end(&r);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_init_all_free_nothing_published_nothing_charged),
        cmocka_unit_test(test_refill_idle_thread_lends_few),
        cmocka_unit_test(test_refill_small_group_lends_all),
        cmocka_unit_test(test_refill_last_home_first_out),
        cmocka_unit_test(test_grow_doubles_until_all_are_lent),
        cmocka_unit_test(test_grow_at_most_256_kib_lent),
        cmocka_unit_test(test_grow_incremental_first_the_length_then_the_number),
        cmocka_unit_test(test_fill_bit_by_bit_home_when_done_and_none_is_out),
        cmocka_unit_test(test_done_none_is_out_free_at_once),
        cmocka_unit_test(test_refill_budget_used_up_less_or_none),
        cmocka_unit_test(test_destroy_whole_charge_given_back),
        cmocka_unit_test(test_trim_memory_gone_unread_bytes_stay),
        cmocka_unit_test(test_wrong_use_traps_in_debug_builds),
        cmocka_unit_test(test_random_orders_every_buffer_is_somewhere_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
