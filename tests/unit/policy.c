#include "unit.h"

#include <errno.h>

#include "policy.h"

struct receive {
    size_t asked;
    long got;
    bool saves;        /* adoption would have answered it */
    unsigned in_a_row; /* small full receives after it */
};

static void test_plain_receives_counted_and_judged(void **state)
{
    static const struct receive table[] = {
        {1, 1, false, 1}, /* the first of its kind: the entry was needed */
        {1, 1, true, 2},  /* after a full one the next byte would have been held */
        {4, 4, true, 3},
        {8192, 8192, true, 0}, /* full but large: a copy costs what the entry saves */
        {1, 1, true, 1},
        {4096, 4096, true, 2}, /* the largest small one */
        {4097, 4097, true, 0},
        {100, 40, true, 0}, /* less than asked for: the socket was emptied */
        {100, 100, false, 1},
        {100, -EAGAIN, true, 1}, /* would have been answered without the kernel */
        {100, 100, false, 2},    /* and after it something new has come */
        {100, 0, false, 2},      /* end of file */
        {100, -ECONNRESET, false, 2},
    };
    struct pbs_tally t = {0};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        assert_int_equal(pbs_policy_plain(&t, table[i].asked, table[i].got), table[i].saves);
        assert_int_equal(t.small_full, table[i].in_a_row);
    }
}

static void test_adopt_by_policy_and_history_gives_verdict(void **state)
{
    static const struct {
        enum pbs_policy_name policy;
        uint32_t small_full, backoff;
        bool blocking, verdict;
    } table[] = {
        {PBS_POLICY_ALWAYS, 0, 0, true, true},    {PBS_POLICY_ALWAYS, 0, 16, false, true},
        {PBS_POLICY_NEVER, 1000, 0, true, false}, {PBS_POLICY_NEVER, 1000, 0, false, false},
        {PBS_POLICY_AUTO, 0, 0, true, false},     {PBS_POLICY_AUTO, 3, 0, true, false},
        {PBS_POLICY_AUTO, 4, 0, true, true},      {PBS_POLICY_AUTO, 1000, 0, false, false},
        {PBS_POLICY_AUTO, 7, 1, true, false}, /* each failure doubles what is wanted */
        {PBS_POLICY_AUTO, 8, 1, true, true},      {PBS_POLICY_AUTO, 15, 2, true, false},
        {PBS_POLICY_AUTO, 16, 2, true, true},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        struct pbs_tally t = {.small_full = table[i].small_full, .backoff = table[i].backoff};

        assert_int_equal(pbs_policy_adopt(&t, table[i].policy, table[i].blocking),
                         table[i].verdict);
    }
}

/* Wake-ups until the adoption is given up; at most `most`. */
static unsigned wakeups_until_given_up(struct pbs_tally *t, unsigned served_each, unsigned most)
{
    for (unsigned i = 1; i <= most; i++) {
        t->served += served_each;
        if (pbs_policy_wakeup(t, PBS_POLICY_AUTO))
            return i;
    }
    return most + 1;
}

static void test_wakeup_one_receive_each_given_up_after_a_window(void **state)
{
    struct pbs_tally t = {.small_full = 99};

    (void)state;
    assert_int_equal(wakeups_until_given_up(&t, 1, 1000), 64);
    assert_int_equal(t.backoff, 1);
    assert_int_equal(t.small_full, 0); /* it has to earn it anew */
    assert_int_equal(t.served, 0);
}

static void test_wakeup_two_receives_each_kept(void **state)
{
    struct pbs_tally t = {0};

    (void)state;
    assert_int_equal(wakeups_until_given_up(&t, 2, 1000), 1001);
    assert_int_equal(t.backoff, 0);
}

static void test_wakeup_pattern_changes_judged_by_its_own_window(void **state)
{
    struct pbs_tally t = {0};

    (void)state;
    assert_int_equal(wakeups_until_given_up(&t, 1000, 64), 65);
    /* The riches of the first window do not count in the second. */
    assert_int_equal(wakeups_until_given_up(&t, 0, 1000), 64);
}

static void test_wakeup_each_4096_bytes_have_to_save_one_more(void **state)
{
    struct pbs_tally t = {0};

    (void)state;
    for (unsigned i = 0; i < 64; i++) { /* a header in five reads and a body of 3,000 bytes */
        t.bytes += 3020;
        t.served += 6;
        assert_false(pbs_policy_wakeup(&t, PBS_POLICY_AUTO));
    }
    for (unsigned i = 1; i <= 64; i++) { /* the same with 64 KiB */
        t.bytes += 65556;
        t.served += 6;
        assert_int_equal(pbs_policy_wakeup(&t, PBS_POLICY_AUTO), i == 64);
    }
    assert_int_equal(t.bytes, 0);
}

static void test_ring_wanted_after_enough_saves(void **state)
{
    (void)state;
    assert_true(pbs_policy_ring(0, PBS_POLICY_ALWAYS));
    assert_false(pbs_policy_ring(127, PBS_POLICY_AUTO));
    assert_true(pbs_policy_ring(128, PBS_POLICY_AUTO));
}

static void test_wakeup_policy_always_never_given_up(void **state)
{
    struct pbs_tally t = {0};

    (void)state;
    for (unsigned i = 0; i < 1000; i++)
        assert_false(pbs_policy_wakeup(&t, PBS_POLICY_ALWAYS));
}

static void test_backoff_many_failures_bounded(void **state)
{
    struct pbs_tally t = {0};

    (void)state;
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(wakeups_until_given_up(&t, 0, 1000), 64);
    assert_in_range(t.backoff, 1, 31); /* a shift by 32 would have no meaning */
    t.small_full = UINT32_MAX;
    assert_true(pbs_policy_adopt(&t, PBS_POLICY_AUTO, true));
}

static void test_crowded_own_bytes_are_half_of_what_was_lent(void **state)
{
    struct pbs_tally t = {0};

    (void)state;
    t.burst = 499;
    pbs_policy_crowded(&t, 1000); /* it was the others */
    assert_int_equal(t.crowded, 0);
    t.burst = 500;
    pbs_policy_crowded(&t, 1000);
    assert_int_equal(t.crowded, 1);
}

static void test_group_by_setting_and_crowds_gives_verdict(void **state)
{
    static const struct {
        enum pbs_groups_name groups;
        uint32_t crowded;
        unsigned others;
        bool verdict;
    } table[] = {
        {PBS_GROUPS_SHARED, 1000, 10, false}, {PBS_GROUPS_SOCKET, 0, 0, true},
        {PBS_GROUPS_AUTO, 0, 10, false},      {PBS_GROUPS_AUTO, 3, 10, false},
        {PBS_GROUPS_AUTO, 4, 10, true},       {PBS_GROUPS_AUTO, 4, 1, true},
        {PBS_GROUPS_AUTO, 1000, 0, false}, /* nobody to share with */
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        struct pbs_tally t = {.crowded = table[i].crowded};

        assert_int_equal(pbs_policy_group(&t, table[i].groups, table[i].others), table[i].verdict);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_receives_counted_and_judged),
        cmocka_unit_test(test_adopt_by_policy_and_history_gives_verdict),
        cmocka_unit_test(test_wakeup_one_receive_each_given_up_after_a_window),
        cmocka_unit_test(test_wakeup_two_receives_each_kept),
        cmocka_unit_test(test_wakeup_pattern_changes_judged_by_its_own_window),
        cmocka_unit_test(test_wakeup_each_4096_bytes_have_to_save_one_more),
        cmocka_unit_test(test_ring_wanted_after_enough_saves),
        cmocka_unit_test(test_wakeup_policy_always_never_given_up),
        cmocka_unit_test(test_crowded_own_bytes_are_half_of_what_was_lent),
        cmocka_unit_test(test_group_by_setting_and_crowds_gives_verdict),
        cmocka_unit_test(test_backoff_many_failures_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
