#include "pbuf_rig.h"

static void test_init_all_free_nothing_published(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, 64, 4096);
    check(&r);
    assert_int_equal(published(&r), 0);
    assert_true(pbs_pbuf_available(&r.p));
    rig_end(&r);
}

static void test_refill_idle_thread_lends_few(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, 64, 4096);
    assert_int_equal(refill(&r), 2);
    assert_int_equal(refill(&r), 0);
    fill(&r, 1);
    assert_int_equal(refill(&r), 1);
    rig_end(&r);
}

static void test_refill_small_pool_lends_all(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, 2, 64);
    assert_int_equal(refill(&r), 2);
    fill(&r, 64);
    fill(&r, 1);
    assert_int_equal(refill(&r), 0);
    assert_false(pbs_pbuf_available(&r.p));
    rig_end(&r);
}

/* A thread that reads one message after the other touches the memory of one buffer. */
static void test_refill_last_home_first_out(void **state)
{
    struct pbs_piece *a, *b;
    unsigned bid;
    struct rig r;

    (void)state;
    rig_init(&r, 64, 64);
    refill(&r);
    a = fill(&r, 1);
    b = fill(&r, 1);
    home(&r, a);
    bid = b->bid;
    home(&r, b);
    r.p.want = r.p.lent + 1;
    assert_int_equal(refill(&r), 1);
    assert_int_equal(entry(&r, (uint16_t)(published(&r) - 1)), bid);
    rig_end(&r);
}

static void test_grow_doubles_until_all_then_nothing_free(void **state)
{
    static const unsigned wants[] = {2, 4, 8, 16, 32};
    struct rig r;

    (void)state;
    rig_init(&r, 64, 64);
    for (size_t i = 0; i < COUNT_OF(wants); i++) {
        assert_int_equal(r.p.want, wants[i]);
        refill(&r);
        assert_int_equal(r.p.lent, wants[i]);
        assert_true(pbs_pbuf_grow(&r.p));
    }
    assert_int_equal(r.p.want, 64);
    refill(&r);
    assert_int_equal(r.p.lent, 64);
    assert_false(pbs_pbuf_grow(&r.p)); /* all lent: none is free */
    assert_int_equal(r.p.want, 64);
    rig_end(&r);
}

/* However often the kernel runs out: a fast sender fills no more, and the rest is there for those that
 * hold something. */
static void test_grow_large_pool_lends_a_part(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, 256, 64);
    for (int i = 0; i < 10; i++)
        assert_true(pbs_pbuf_grow(&r.p));
    for (unsigned held = 0; held < 256; held += 64) {
        assert_int_equal(refill(&r), 64);
        for (int i = 0; i < 64; i++)
            fill(&r, 1);
        assert_int_equal(r.p.lent, 0);
    }
    assert_int_equal(refill(&r), 0);
    assert_false(pbs_pbuf_grow(&r.p));
    rig_end(&r);
}

#ifdef PBS_DEBUG
static void home_twice(void *arg)
{
    struct rig r;
    struct pbs_piece *piece;

    (void)arg;
    rig_init(&r, 8, 64);
    refill(&r);
    piece = fill(&r, 1);
    pbs_pbuf_home(&r.p, piece);
    pbs_pbuf_home(&r.p, piece);
}
#endif

static void test_home_not_held_traps_in_debug_builds(void **state)
{
    (void)state;
#ifdef PBS_DEBUG
    assert_int_not_equal(in_child(home_twice, NULL), 0);
#else
    skip();
#endif
}

static void random_step(struct rig *r, struct pbs_piece **held, unsigned *n, uint64_t *rng)
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
    assert_int_equal(pbs_pbuf_available(&r->p), r->p.lent || r->p.nfree);
}

static void test_random_orders_every_buffer_is_somewhere_once(void **state)
{
    static struct pbs_piece *held[1024];

    (void)state;
    for (unsigned seed = 1; seed <= SEEDS; seed++) {
        uint64_t rng = seeded(seed);
        unsigned n = 0;
        struct rig r;

        rig_init(&r, 2u << rnd(&rng, 10), 64 + rnd(&rng, 200));
        for (unsigned i = 0; i < 5000; i++)
            random_step(&r, held, &n, &rng);
        while (n)
            home(&r, held[--n]);
        assert_int_equal(r.p.held, 0);
        rig_end(&r);
    }
}

/* The returned list is not looked at before the next refill, and counts as held until then. */
static void test_home_remote_same_buffer_lent_after_refill(void **state)
{
    struct pbs_piece *piece[2];
    struct rig r;

    (void)state;
    rig_init(&r, 2, 64);
    refill(&r);
    piece[0] = fill(&r, 3);
    piece[1] = fill(&r, 4);
    assert_false(pbs_pbuf_available(&r.p));
    pbs_pbuf_home_remote(&r.p, piece[0]);
    pbs_pbuf_home_remote(&r.p, piece[1]);
    check(&r);
    assert_true(pbs_pbuf_available(&r.p));
    r.where[0] = r.where[1] = FREE;
    assert_int_equal(refill(&r), 2);
    rig_end(&r);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_init_all_free_nothing_published),
        cmocka_unit_test(test_refill_idle_thread_lends_few),
        cmocka_unit_test(test_refill_small_pool_lends_all),
        cmocka_unit_test(test_refill_last_home_first_out),
        cmocka_unit_test(test_grow_doubles_until_all_then_nothing_free),
        cmocka_unit_test(test_grow_large_pool_lends_a_part),
        cmocka_unit_test(test_home_not_held_traps_in_debug_builds),
        cmocka_unit_test(test_random_orders_every_buffer_is_somewhere_once),
        cmocka_unit_test(test_home_remote_same_buffer_lent_after_refill),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
