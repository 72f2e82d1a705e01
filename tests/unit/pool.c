/* Random strings of operations on whole pools (pool_model.h). */
#include "unit.h"

#include "pool_model.h"

#define LENGTH 20000

static void make_string(uint8_t *ops, size_t n, unsigned seed)
{
    uint64_t rng = seeded(seed);

    for (size_t i = 0; i < n; i++)
        ops[i] = (uint8_t)rnd(&rng, 256);
}

/* Each of what such a string can bring about came about, and often. */
static void check_tally(const struct tally *t)
{
    assert_true(t->steps > 50000);
    assert_true(t->filled > 10 * t->steps);
    assert_true(t->extended > 1000);
    assert_true(t->homes > 1000);
    assert_true(t->parked > 100);
    assert_true(t->away > 1000);
    assert_true(t->refused > 100);
    assert_true(t->starved > 100);
    assert_true(t->moved > 1000);
    assert_true(t->trims > 1000);
    assert_true(t->grown > 1000);
}

static void test_random_operations_agree_with_model(void **state)
{
    static uint8_t ops[LENGTH];
    struct tally tally = {0};

    (void)state;
    for (unsigned seed = 1; seed <= SEEDS; seed++) {
        make_string(ops, LENGTH, seed);
        pool_run(ops, LENGTH, &tally);
    }
    print_message(
        "%lu steps: %lu bytes, %lu extended, %lu homes, %lu parked, %lu away, %lu refused, "
        "%lu starved, %lu moved, %lu trims, %lu grown\n",
        tally.steps, tally.filled, tally.extended, tally.homes, tally.parked, tally.away,
        tally.refused, tally.starved, tally.moved, tally.trims, tally.grown);
    check_tally(&tally);
}

/* Short ones begin anew with other sizes, and end with much still held. */
static void test_random_short_strings_everything_comes_home(void **state)
{
    static uint8_t ops[200];
    struct tally tally = {0};

    (void)state;
    for (unsigned seed = 1; seed <= 1000; seed++) {
        uint64_t rng = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

        for (size_t i = 0; i < sizeof(ops); i++)
            ops[i] = (uint8_t)rnd(&rng, 256);
        pool_run(ops, sizeof(ops), &tally);
    }
    assert_true(tally.homes > 1000);
}

static void test_no_operations_nothing_left_behind(void **state)
{
    struct tally tally = {0};

    (void)state;
    pool_run(NULL, 0, &tally);
    assert_int_equal(tally.steps, 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_operations_agree_with_model),
        cmocka_unit_test(test_random_short_strings_everything_comes_home),
        cmocka_unit_test(test_no_operations_nothing_left_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
