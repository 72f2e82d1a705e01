#include "unit.h"

#include <pthread.h>

#include "base.h"
#include "conf.h"
#include "mem.h"

static void test_get_every_size_aligned_and_writable(void **state)
{
    (void)state;
    for (size_t size = 1; size <= 32768; size += size < 300 ? 1 : 997) {
        uint8_t *p = pbs_mem_get(size);

        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        memset(p, 0xa5, size);
        pbs_mem_put(p, size);
    }
}

/*
 * The tables of some 7,000 sockets take more than the largest size class: they were given memory of
 * a class that does not exist.
 */
static void test_get_beyond_the_classes_zeroed_and_apart(void **state)
{
    (void)state;
    for (size_t size = 32769; size <= (size_t)1 << 22; size += size / 3) {
        uint8_t *p = pbs_mem_get(size), *q = pbs_mem_get(size);

        assert_non_null(p);
        assert_non_null(q);
        for (size_t i = 0; i < size; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xa5, size);
        memset(q, 0x5a, size);
        for (size_t i = 0; i < size; i++)
            assert_int_equal(p[i], 0xa5);
        pbs_mem_put(p, size);
        pbs_mem_put(q, size);
    }
}

static void test_put_same_size_class_given_again(void **state)
{
    void *p = pbs_mem_get(100);

    (void)state;
    pbs_mem_put(p, 100);
    assert_ptr_equal(pbs_mem_get(128), p);
    pbs_mem_put(p, 128);
    pbs_mem_put(NULL, 1);
}

static void test_map_several_pages_zeroed(void **state)
{
    uint8_t *p = pbs_mem_map(3 * 4096);

    (void)state;
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 4096, 0);
    for (size_t i = 0; i < 3 * 4096; i++)
        assert_int_equal(p[i], 0);
    pbs_mem_unmap(p, 3 * 4096);
}

static void test_map_too_large_null(void **state)
{
    (void)state;
    assert_null(pbs_mem_map((size_t)1 << 60));
}

/* A piece that was given out twice shows as a byte that another owner wrote. */
static void test_random_gets_and_puts_never_overlap(void **state)
{
    static struct {
        uint8_t *p;
        size_t size;
        uint8_t mark;
    } piece[200];

    (void)state;
    for (unsigned seed = 1; seed <= SEEDS; seed++) {
        uint64_t rng = seeded(seed);

        for (unsigned i = 0; i < 5000; i++) {
            unsigned k = rnd(&rng, COUNT_OF(piece));

            if (piece[k].p) {
                for (size_t at = 0; at < piece[k].size; at++)
                    if (piece[k].p[at] != piece[k].mark)
                        fail_msg("piece %u, byte %zu was overwritten", k, at);
                pbs_mem_put(piece[k].p, piece[k].size);
                piece[k].p = NULL;
            } else {
                piece[k].size = 1 + rnd(&rng, rnd(&rng, 10) ? 300 : 40000);
                piece[k].mark = (uint8_t)rnd(&rng, 256);
                piece[k].p = pbs_mem_get(piece[k].size);
                assert_non_null(piece[k].p);
                memset(piece[k].p, piece[k].mark, piece[k].size);
            }
        }
    }
}

#define THREADS 4
#define TURNS 50000

static unsigned long shared_count;
static struct pbs_lock count_lock;
static pthread_barrier_t start;

/* All want pieces of one size: four at a time, marked, looked at, put back. */
static void *churn(void *arg)
{
    uintptr_t me = (uintptr_t)arg;
    unsigned long bad = 0;
    uintptr_t *p[4];

    pthread_barrier_wait(&start);
    for (unsigned i = 0; i < TURNS; i++) {
        for (unsigned k = 0; k < COUNT_OF(p); k++) {
            p[k] = pbs_mem_get(64);
            if (!p[k])
                return (void *)1;
            p[k][0] = p[k][7] = me * 1000 + k;
        }
        pbs_lock(&count_lock);
        shared_count++;
        pbs_unlock(&count_lock);
        for (unsigned k = 0; k < COUNT_OF(p); k++) {
            bad += p[k][0] != me * 1000 + k || p[k][7] != me * 1000 + k;
            pbs_mem_put(p[k], 64);
        }
    }
    return (void *)bad;
}

static void test_threads_at_once_no_piece_shared_no_count_lost(void **state)
{
    pthread_t thread[THREADS];

    (void)state;
    pthread_barrier_init(&start, NULL, THREADS);
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, churn, (void *)(i + 1)), 0);
    for (unsigned i = 0; i < THREADS; i++) {
        void *bad = NULL;

        assert_int_equal(pthread_join(thread[i], &bad), 0);
        assert_null(bad);
    }
    assert_int_equal(shared_count, THREADS * TURNS);
}

/* ---- the budget ---- */

/* Bytes of it that are free, counted by taking them. */
static size_t left(void)
{
    size_t n = 0;

    for (size_t step = 1UL << 40; step; step /= 2)
        while (pbs_mem_charge(step))
            n += step;
    pbs_mem_uncharge(n);
    return n;
}

static void test_charge_up_to_the_budget_then_refused_whole(void **state)
{
    size_t free = left();

    (void)state;
    assert_false(pbs_mem_used_up());
    assert_false(pbs_mem_charge(free + 1));
    assert_int_equal(left(), free);
    assert_true(pbs_mem_charge(free));
    assert_true(pbs_mem_used_up());
    assert_false(pbs_mem_charge(1));
    pbs_mem_uncharge(1);
    assert_false(pbs_mem_used_up());
    assert_true(pbs_mem_charge(1));
    pbs_mem_uncharge(free);
    assert_int_equal(left(), free);
}

static void test_budget_what_is_mapped_and_handed_out_counts_reserved_does_not(void **state)
{
    size_t free = left();
    void *p = pbs_mem_map(8192), *q;

    (void)state;
    assert_int_equal(left(), free - 8192);
    pbs_mem_unmap(p, 8192);
    assert_int_equal(left(), free);
    p = pbs_mem_get(100000);
    assert_int_equal(left(), free - 100000);
    pbs_mem_put(p, 100000);
    assert_int_equal(left(), free);
    p = pbs_mem_reserve(8192);
    assert_int_equal(left(), free);
    ((uint8_t *)p)[8191] = 1;
    pbs_mem_release(p, 8192);
    assert_int_equal(left(), free);
    p = pbs_mem_get(20000); /* of a class that nothing else here is of */
    q = pbs_mem_get(20000);
    free = left();
    pbs_mem_put(p, 20000); /* stays with us */
    assert_int_equal(left(), free);
    p = pbs_mem_get(20000);
    assert_int_equal(left(), free);
    pbs_mem_put(p, 20000);
    pbs_mem_put(q, 20000);
}

/* What holds bytes is had in any case. */
static void test_budget_used_up_memory_is_had_all_the_same(void **state)
{
    unsigned long limit = pbs_conf.memory;
    void *p, *q;

    (void)state;
    pbs_conf.memory = 0;
    assert_true(pbs_mem_used_up());
    p = pbs_mem_map(4096);
    q = pbs_mem_get(64);
    assert_non_null(p);
    assert_non_null(q);
    pbs_mem_put(q, 64);
    pbs_mem_unmap(p, 4096);
    pbs_conf.memory = limit;
}

static void reset_then_put(void *arg)
{
    size_t free;

    pbs_mem_reset();
    free = left();
    if (free != pbs_conf.memory)
        abort();
    pbs_mem_unmap(arg, 4096); /* the parent's: that the child has less than nothing is no harm */
    if (left() != free + 4096 || pbs_mem_used_up())
        abort();
}

static void test_reset_child_counts_from_zero(void **state)
{
    void *p = pbs_mem_map(4096);

    (void)state;
    assert_int_equal(in_child(reset_then_put, p), 0);
    pbs_mem_unmap(p, 4096);
}

#define CHARGES 20000

static void *charge_and_uncharge(void *arg)
{
    unsigned long *had = arg;

    pthread_barrier_wait(&start);
    for (unsigned i = 0; i < CHARGES; i++)
        if (pbs_mem_charge(1000)) {
            ++*had;
            pbs_mem_uncharge(1000);
        }
    return NULL;
}

static void test_charge_threads_at_once_nothing_left_over(void **state)
{
    unsigned long limit = pbs_conf.memory, had[THREADS] = {0}, sum = 0;
    pthread_t thread[THREADS];
    size_t free = left();

    (void)state;
    pbs_conf.memory -= free - 1500; /* room for one of them */
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, charge_and_uncharge, &had[i]), 0);
    for (unsigned i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(thread[i], NULL), 0);
        sum += had[i];
    }
    assert_true(sum > 0);
    pbs_conf.memory = limit;
    assert_int_equal(left(), free);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_get_every_size_aligned_and_writable),
        cmocka_unit_test(test_get_beyond_the_classes_zeroed_and_apart),
        cmocka_unit_test(test_put_same_size_class_given_again),
        cmocka_unit_test(test_map_several_pages_zeroed),
        cmocka_unit_test(test_map_too_large_null),
        cmocka_unit_test(test_random_gets_and_puts_never_overlap),
        cmocka_unit_test(test_threads_at_once_no_piece_shared_no_count_lost),
        cmocka_unit_test(test_charge_up_to_the_budget_then_refused_whole),
        cmocka_unit_test(test_budget_what_is_mapped_and_handed_out_counts_reserved_does_not),
        cmocka_unit_test(test_budget_used_up_memory_is_had_all_the_same),
        cmocka_unit_test(test_reset_child_counts_from_zero),
        cmocka_unit_test(test_charge_threads_at_once_nothing_left_over),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
