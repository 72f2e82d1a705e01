#include "unit.h"

#include <errno.h>

#include "bgid.h"

static void test_init_limit_out_of_range_refused(void **state)
{
    struct pbs_bgids b;

    (void)state;
    assert_int_equal(pbs_bgids_init(&b, 0), -EINVAL);
    assert_int_equal(pbs_bgids_init(&b, PBS_BGIDS + 1), -EINVAL);
    assert_int_equal(pbs_bgids_init(&b, UINT32_MAX), -EINVAL);
}

static void test_get_all_ids_each_once_then_enospc(void **state)
{
    static uint8_t seen[PBS_BGIDS];
    struct pbs_bgids b;

    (void)state;
    memset(seen, 0, sizeof(seen));
    assert_int_equal(pbs_bgids_init(&b, PBS_BGIDS), 0);
    for (uint32_t i = 0; i < PBS_BGIDS; i++) {
        int id;

        assert_int_equal(pbs_bgids_remaining(&b), PBS_BGIDS - i);
        id = pbs_bgids_get(&b);
        assert_in_range(id, 0, PBS_BGIDS - 1);
        assert_int_equal(seen[id]++, 0);
    }
    assert_int_equal(pbs_bgids_remaining(&b), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pbs_bgids_get(&b), -ENOSPC);
    assert_int_equal(pbs_bgids_remaining(&b), 0);
    pbs_bgids_destroy(&b);
}

static void test_get_after_exhaustion_gives_only_what_came_back(void **state)
{
    static const uint32_t back[] = {0, 7, 31, 63, 64, 65535};
    struct pbs_bgids b;

    (void)state;
    assert_int_equal(pbs_bgids_init(&b, PBS_BGIDS), 0);
    for (uint32_t i = 0; i < PBS_BGIDS; i++)
        assert_true(pbs_bgids_get(&b) >= 0);
    for (size_t i = 0; i < COUNT_OF(back); i++) {
        assert_int_equal(pbs_bgids_put(&b, back[i]), 1);
        assert_int_equal(pbs_bgids_remaining(&b), 1);
        assert_int_equal(pbs_bgids_get(&b), back[i]);
        assert_int_equal(pbs_bgids_get(&b), -ENOSPC);
    }
    pbs_bgids_destroy(&b);
}

static void test_get_limit_of_one_is_kept(void **state)
{
    struct pbs_bgids b;

    (void)state;
    assert_int_equal(pbs_bgids_init(&b, 1), 0);
    assert_int_equal(pbs_bgids_get(&b), 0);
    assert_int_equal(pbs_bgids_get(&b), -ENOSPC);
    pbs_bgids_destroy(&b);
}

/* A second put that went to the free list again would give one id to two owners. */
static void test_put_twice_second_changes_nothing(void **state)
{
    struct pbs_bgids b;
    int one, two;

    (void)state;
    assert_int_equal(pbs_bgids_init(&b, 8), 0);
    one = pbs_bgids_get(&b);
    assert_int_equal(pbs_bgids_put(&b, (uint32_t)one), 1);
    assert_int_equal(pbs_bgids_put(&b, (uint32_t)one), 0);
    assert_int_equal(pbs_bgids_remaining(&b), 8);
    one = pbs_bgids_get(&b);
    two = pbs_bgids_get(&b);
    assert_int_not_equal(one, two);
    pbs_bgids_destroy(&b);
}

static void test_put_id_that_is_not_live_ignored(void **state)
{
    struct pbs_bgids b;

    (void)state;
    assert_int_equal(pbs_bgids_init(&b, 100), 0);
    assert_int_equal(pbs_bgids_get(&b), 0);
    assert_int_equal(pbs_bgids_put(&b, 1), 0); /* never given out */
    assert_int_equal(pbs_bgids_put(&b, 99), 0);
    assert_int_equal(pbs_bgids_put(&b, 100), 0); /* past the limit */
    assert_int_equal(pbs_bgids_put(&b, PBS_BGIDS), 0);
    assert_int_equal(pbs_bgids_put(&b, UINT32_MAX), 0);
    assert_int_equal(pbs_bgids_remaining(&b), 99);
    pbs_bgids_destroy(&b);
}

static void test_destroy_twice_harmless(void **state)
{
    struct pbs_bgids b;

    (void)state;
    assert_int_equal(pbs_bgids_init(&b, 8), 0);
    pbs_bgids_destroy(&b);
    pbs_bgids_destroy(&b);
    assert_int_equal(pbs_bgids_get(&b), -ENOSPC);
}

struct model {
    bool live[PBS_BGIDS];
    uint32_t n; /* live ones */
};

static void step(struct pbs_bgids *b, struct model *m, uint32_t limit, uint64_t *rng, bool filling)
{
    if (rnd(rng, 100) < (filling ? 70u : 30u)) {
        int id = pbs_bgids_get(b);

        if (m->n == limit) {
            assert_int_equal(id, -ENOSPC);
        } else {
            assert_in_range(id, 0, limit - 1);
            assert_false(m->live[id]);
            m->live[id] = true;
            m->n++;
        }
    } else {
        uint32_t id = rnd(rng, limit + 3);
        bool was = id < limit && m->live[id];

        assert_int_equal(pbs_bgids_put(b, id), was);
        if (was) {
            m->live[id] = false;
            m->n--;
        }
    }
    assert_int_equal(pbs_bgids_remaining(b), limit - m->n);
}

static void test_random_gets_and_puts_agree_with_model(void **state)
{
    static struct model m;

    (void)state;
    for (unsigned seed = 1; seed <= SEEDS; seed++) {
        uint64_t rng = seeded(seed);
        uint32_t limit = seed % 4 ? 1 + rnd(&rng, 300) : PBS_BGIDS;
        struct pbs_bgids b;

        memset(&m, 0, sizeof(m));
        assert_int_equal(pbs_bgids_init(&b, limit), 0);
        for (unsigned i = 0; i < 20000; i++)
            step(&b, &m, limit, &rng, i / 1000 % 2 == 0);
        pbs_bgids_destroy(&b);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_init_limit_out_of_range_refused),
        cmocka_unit_test(test_get_all_ids_each_once_then_enospc),
        cmocka_unit_test(test_get_after_exhaustion_gives_only_what_came_back),
        cmocka_unit_test(test_get_limit_of_one_is_kept),
        cmocka_unit_test(test_put_twice_second_changes_nothing),
        cmocka_unit_test(test_put_id_that_is_not_live_ignored),
        cmocka_unit_test(test_destroy_twice_harmless),
        cmocka_unit_test(test_random_gets_and_puts_agree_with_model),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
