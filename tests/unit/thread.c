#include "unit.h"

#include <pthread.h>

#include "thread.h"

static atomic_uint ends;    /* calls of at_exit */
static bool ran, had_block; /* a destructor of another key: what it found */

static void at_exit_counted(struct pbs_thread *t)
{
    assert_ptr_equal(t, pbs_self);
    ends++;
}

static int setup(void **state)
{
    (void)state;
    pbs_thread_init(at_exit_counted);
    return pbs_thread_get() ? 0 : -1;
}

static void in_thread(void *(*fn)(void *arg), void *arg)
{
    pthread_t t;

    assert_int_equal(pthread_create(&t, NULL, fn, arg), 0);
    assert_int_equal(pthread_join(t, NULL), 0);
}

static void *nothing(void *arg)
{
    *(struct pbs_thread **)arg = pbs_self;
    return NULL;
}

static void *make(void *arg)
{
    *(struct pbs_thread **)arg = pbs_thread_get();
    return NULL;
}

static void test_block_is_made_when_it_is_asked_for(void **state)
{
    struct pbs_thread *t = (void *)1;
    unsigned before = ends;

    (void)state;
    in_thread(nothing, &t);
    assert_null(t);
    assert_int_equal(ends, before); /* nothing to end */
    assert_ptr_equal(pbs_thread_get(), pbs_self);
    assert_ptr_equal(pbs_thread_make(), pbs_self);
}

static void test_block_is_used_again_under_another_id(void **state)
{
    struct pbs_thread *first, *second;
    uint64_t id;

    (void)state;
    in_thread(make, &first);
    assert_non_null(first);
    id = first->id; /* blocks are never unmapped */
    in_thread(make, &second);
    assert_ptr_equal(second, first);
    assert_true(second->id > id);
    assert_true(id > pbs_self->id);
}

static void *dirty(void *arg)
{
    struct pbs_thread *t = pbs_thread_get();

    (void)arg;
    t->plain = 3;
    t->saves = 5;
    t->deferred_set = 1;
    t->proved_write[2] = 9;
    t->stats.n[PBS_STAT_receives] = 11;
    return NULL;
}

static void *clean(void *arg)
{
    struct pbs_thread *t = pbs_thread_get();

    *(bool *)arg = !t->plain && !t->saves && !t->deferred_set && !t->proved_write[2] &&
                   !t->stats.n[PBS_STAT_receives] && !t->dying && !t->ring && t->ready_epoch == 1 &&
                   t->call == 1;
    return NULL;
}

static void test_block_of_a_thread_that_ended_is_clean(void **state)
{
    bool is_clean = false;

    (void)state;
    in_thread(dirty, NULL);
    in_thread(clean, &is_clean);
    assert_true(is_clean);
}

struct crowd {
    pthread_barrier_t all;
    struct pbs_thread *of[64];
    atomic_uint next;
};

static void *join_crowd(void *arg)
{
    struct crowd *c = arg;
    struct pbs_thread *t = pbs_thread_get();

    c->of[atomic_fetch_add(&c->next, 1)] = t;
    t->stats.n[PBS_STAT_receives] += 3;
    pthread_barrier_wait(&c->all);
    return NULL;
}

static uint64_t receives(void)
{
    struct pbs_stats sum;

    memset(&sum, 0, sizeof(sum));
    pbs_thread_sum(&sum);
    return sum.n[PBS_STAT_receives];
}

static void test_blocks_of_threads_that_live_together_are_their_own(void **state)
{
    static struct crowd c;
    pthread_t threads[64];
    uint64_t before = receives();

    (void)state;
    pthread_barrier_init(&c.all, NULL, 65);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, join_crowd, &c), 0);
    while (atomic_load(&c.next) < 64)
        sched_yield();
    pthread_barrier_wait(&c.all);
    for (unsigned i = 0; i < 64; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < 64; i++)
        for (unsigned k = i + 1; k < 64; k++)
            assert_ptr_not_equal(c.of[i], c.of[k]);
    assert_int_equal(receives(), before); /* those who have ended are counted elsewhere */
}

static void test_sum_is_of_the_living(void **state)
{
    uint64_t before = receives();

    (void)state;
    pbs_count_n(pbs_self, receives, 5);
    assert_int_equal(receives(), before + 5);
}

/* Other keys' destructors may receive when ours has run: by plain calls, with the block there. */
static pthread_key_t later_key;

static void later_destructor(void *arg)
{
    (void)arg;
    had_block = pbs_self && pbs_thread_get() == pbs_self && pbs_self->dying;
    ran = true;
}

static void *end_with_a_destructor(void *arg)
{
    (void)arg;
    pbs_thread_get();
    pthread_setspecific(later_key, &later_key);
    return NULL;
}

static void test_end_keeps_the_block_for_other_destructors(void **state)
{
    unsigned before = ends;

    (void)state;
    assert_int_equal(pthread_key_create(&later_key, later_destructor), 0);
    in_thread(end_with_a_destructor, NULL);
    assert_true(ran);
    assert_true(had_block);
    assert_int_equal(ends, before + 1);
    pthread_key_delete(later_key);
}

static void child_is_alone(void *arg)
{
    (void)arg;
    pbs_thread_reset();
    assert_int_equal(receives(), 0);
    pbs_count(pbs_self, receives);
    assert_int_equal(receives(), 1);
}

static void test_reset_leaves_the_caller_alone(void **state)
{
    (void)state;
    pbs_count(pbs_self, receives);
    assert_int_equal(in_child(child_is_alone, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_block_is_made_when_it_is_asked_for),
        cmocka_unit_test(test_block_is_used_again_under_another_id),
        cmocka_unit_test(test_block_of_a_thread_that_ended_is_clean),
        cmocka_unit_test(test_blocks_of_threads_that_live_together_are_their_own),
        cmocka_unit_test(test_sum_is_of_the_living),
        cmocka_unit_test(test_end_keeps_the_block_for_other_destructors),
        cmocka_unit_test(test_reset_leaves_the_caller_alone),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
