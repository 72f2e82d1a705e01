#include "unit.h"

#include <limits.h>

#include "fdtab.h"

static int setup(void **state)
{
    (void)state;
    return pbs_fdtab_size || pbs_fdtab_init() ? 0 : -1;
}

static int empty(void **state)
{
    (void)state;
    pbs_fdtab_reset();
    return 0;
}

static void test_init_holds_every_number_the_system_allows(void **state)
{
    FILE *f = fopen("/proc/sys/fs/nr_open", "r");
    unsigned long n = 0;

    (void)state;
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%lu", &n), 1);
    fclose(f);
    assert_int_equal(pbs_fdtab_size, n < 4194304 ? n : 4194304);
}

static void test_find_no_number_of_ours_null(void **state)
{
    static const int fds[] = {0, 3, 1000, -1, INT_MIN, INT_MAX};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(fds); i++)
        assert_null(pbs_fdtab_find(fds[i]));
    assert_null(pbs_fdtab_find((int)pbs_fdtab_size));
    assert_null(pbs_fdtab_find((int)pbs_fdtab_size - 1));
}

static void test_set_number_past_the_table_refused(void **state)
{
    struct pbs_file f = {.kind = PBS_FILE_SOCK};

    (void)state;
    assert_false(pbs_fdtab_set((int)pbs_fdtab_size, &f));
    assert_false(pbs_fdtab_set(-1, &f));
    assert_false(pbs_fdtab_set(INT_MAX, &f));
    assert_int_equal(f.nfds, 0);
}

static void test_set_last_number_found(void **state)
{
    int last = (int)pbs_fdtab_size - 1;
    struct pbs_file f = {.kind = PBS_FILE_SOCK};

    (void)state;
    assert_true(pbs_fdtab_set(last, &f));
    assert_ptr_equal(pbs_fdtab_find(last), &f);
    assert_int_equal(pbs_fdtab_next(4, ~0U), last);
    pbs_fdtab_clear(last, &f);
}

static void test_set_and_clear_several_numbers_counted(void **state)
{
    struct pbs_file f = {.kind = PBS_FILE_SOCK}, g = {.kind = PBS_FILE_SOCK};

    (void)state;
    assert_true(pbs_fdtab_set(5, &f));
    assert_true(pbs_fdtab_set(9, &f));
    assert_true(pbs_fdtab_set(7, &g));
    assert_int_equal(f.nfds, 2);
    assert_true(pbs_fdtab_is(9, &f));
    assert_false(pbs_fdtab_is(7, &f));
    pbs_fdtab_clear(7, &f); /* another's: nothing happens */
    assert_ptr_equal(pbs_fdtab_find(7), &g);
    assert_int_equal(f.nfds, 2);
    assert_int_equal(g.nfds, 1);
    pbs_fdtab_clear(5, &f);
    pbs_fdtab_clear(5, &f);
    assert_int_equal(f.nfds, 1);
    assert_null(pbs_fdtab_find(5));
    assert_ptr_equal(pbs_fdtab_find(9), &f);
}

static void test_next_within_bounds_found_in_order(void **state)
{
    struct pbs_file f = {.kind = PBS_FILE_SOCK};

    (void)state;
    assert_int_equal(pbs_fdtab_next(0, ~0U), -1);
    pbs_fdtab_set(3, &f);
    pbs_fdtab_set(100, &f);
    assert_int_equal(pbs_fdtab_next(0, ~0U), 3);
    assert_int_equal(pbs_fdtab_next(3, 3), 3);
    assert_int_equal(pbs_fdtab_next(4, 99), -1);
    assert_int_equal(pbs_fdtab_next(4, 100), 100);
    assert_int_equal(pbs_fdtab_next(101, ~0U), -1);
    assert_int_equal(pbs_fdtab_next(~0U, ~0U), -1);
}

static void test_random_sets_and_clears_agree_with_model(void **state)
{
    static struct pbs_file file[8];
    static struct pbs_file *model[300];

    (void)state;
    for (unsigned seed = 1; seed <= SEEDS; seed++) {
        uint64_t rng = seeded(seed);

        memset(file, 0, sizeof(file));
        memset(model, 0, sizeof(model));
        pbs_fdtab_reset();
        for (unsigned i = 0; i < 3000; i++) {
            unsigned fd = rnd(&rng, COUNT_OF(model)), lo = rnd(&rng, COUNT_OF(model));
            struct pbs_file *f = &file[rnd(&rng, COUNT_OF(file))];
            int next = -1;

            if (!model[fd]) {
                assert_true(pbs_fdtab_set((int)fd, f));
                model[fd] = f;
            } else {
                pbs_fdtab_clear((int)fd, f);
                if (model[fd] == f)
                    model[fd] = NULL;
            }
            assert_ptr_equal(pbs_fdtab_find((int)fd), model[fd]);
            for (unsigned at = lo; next < 0 && at < COUNT_OF(model); at++)
                next = model[at] ? (int)at : -1;
            assert_int_equal(pbs_fdtab_next(lo, ~0U), next);
        }
        for (unsigned k = 0; k < COUNT_OF(file); k++) {
            unsigned n = 0;

            for (unsigned fd = 0; fd < COUNT_OF(model); fd++)
                n += model[fd] == &file[k];
            assert_int_equal(file[k].nfds, n);
        }
    }
}

static void test_reset_nothing_found_and_usable_again(void **state)
{
    struct pbs_file f = {.kind = PBS_FILE_SOCK};

    (void)state;
    pbs_fdtab_set(3, &f);
    pbs_fdtab_set(5000, &f);
    pbs_fdtab_reset();
    assert_null(pbs_fdtab_find(3));
    assert_null(pbs_fdtab_find(5000));
    assert_int_equal(pbs_fdtab_next(0, ~0U), -1);
    assert_true(pbs_fdtab_set(4, &f));
    assert_int_equal(pbs_fdtab_next(0, ~0U), 4);
}

static unsigned strangers;

static struct pbs_file *on_stranger(int fd, struct pbs_file *f)
{
    strangers++;
    pbs_fdtab_reset();
    return fd == 4 ? f : NULL;
}

/* A copy of the process that nobody announced: its records are not its own. */
static void test_find_watched_word_zero_becomes_a_process_of_its_own(void **state)
{
    static atomic_uint word = 1;
    struct pbs_file f = {.kind = PBS_FILE_SOCK};
    atomic_uint *before = pbs_fdtab_watch;

    (void)state;
    pbs_fdtab_watch = &word;
    pbs_fdtab_on_stranger = on_stranger;
    pbs_fdtab_set(3, &f);
    assert_ptr_equal(pbs_fdtab_find(3), &f);
    assert_int_equal(strangers, 0);
    atomic_store(&word, 0);
    assert_null(pbs_fdtab_find(8)); /* a miss does not look: nothing of ours is used */
    assert_int_equal(strangers, 0);
    assert_null(pbs_fdtab_find(3));
    assert_int_equal(strangers, 1);
    pbs_fdtab_set(4, &f);
    assert_ptr_equal(pbs_fdtab_find(4), &f); /* it says what the number stands for */
    assert_int_equal(strangers, 2);
    pbs_fdtab_watch = before;
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_init_holds_every_number_the_system_allows, empty),
        cmocka_unit_test_setup(test_find_no_number_of_ours_null, empty),
        cmocka_unit_test_setup(test_set_number_past_the_table_refused, empty),
        cmocka_unit_test_setup(test_set_last_number_found, empty),
        cmocka_unit_test_setup(test_set_and_clear_several_numbers_counted, empty),
        cmocka_unit_test_setup(test_next_within_bounds_found_in_order, empty),
        cmocka_unit_test_setup(test_random_sets_and_clears_agree_with_model, empty),
        cmocka_unit_test_setup(test_reset_nothing_found_and_usable_again, empty),
        cmocka_unit_test_setup(test_find_watched_word_zero_becomes_a_process_of_its_own, empty),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
