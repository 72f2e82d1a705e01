#include "unit.h"

#include <errno.h>
#include <sys/epoll.h>

#include "fdtab.h"
#include "item.h"

static struct pbs_thread *self;

static void no_ring(struct pbs_thread *t)
{
    (void)t;
}

static int setup(void **state)
{
    (void)state;
    pbs_thread_init(no_ring);
    self = pbs_thread_get();
    return self && pbs_fdtab_init() ? 0 : -1;
}

static struct pbs_epoll *set_get(void)
{
    struct pbs_epoll *set = pbs_epoll_get();

    assert_non_null(set);
    return set;
}

/* A socket with one number. */
static struct pbs_sock *sock_get(int fd)
{
    struct pbs_sock *s = pbs_sock_get();

    assert_non_null(s);
    assert_true(pbs_fdtab_set(fd, &s->file));
    return s;
}

static void sock_put(struct pbs_sock *s, int fd)
{
    pbs_lock(&s->file.lock);
    pbs_items_drop(s);
    assert_null(s->items);
    pbs_fdtab_clear(fd, &s->file);
    atomic_store(&s->error, 0);
    pbs_sock_put(s);
}

static void add(struct pbs_epoll *set, void *file, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event ev = {.events = events, .data.u64 = data};

    assert_true(pbs_item_add(self, set, file, 100, fd, &ev));
}

static void mod(struct pbs_epoll *set, void *file, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event ev = {.events = events, .data.u64 = data};

    pbs_item_mod(self, set, file, fd, &ev, false);
}

static struct pbs_item *find(struct pbs_epoll *set, void *file, int fd)
{
    return pbs_item_find(set, file, fd);
}

/* An error is held as bytes are, and needs no buffer. */
static void arrive(struct pbs_sock *s)
{
    atomic_store(&s->error, ECONNRESET);
    pbs_items_arrived(s);
}

static void test_find_tells_files_by_the_same_number_apart(void **state)
{
    struct pbs_epoll *set = set_get();
    struct pbs_sock *a = sock_get(5), *b = sock_get(6);

    (void)state;
    add(set, a, 5, EPOLLIN, 1);
    add(set, b, 5, EPOLLIN, 2); /* a dup keeps the first, and its number went on */
    add(set, NULL, 7, EPOLLIN, 3);
    assert_int_equal(find(set, a, 5)->data, 1);
    assert_int_equal(find(set, b, 5)->data, 2);
    assert_int_equal(find(set, NULL, 7)->data, 3);
    assert_null(find(set, NULL, 5));
    assert_null(find(set, a, 7));
    pbs_item_del(self, set, &a->file, 5);
    assert_null(find(set, a, 5));
    assert_int_equal(find(set, b, 5)->data, 2);
    sock_put(a, 5);
    sock_put(b, 6);
    assert_null(find(set, b, 5));
    pbs_epoll_drop(self, set);
}

static void test_add_of_a_number_known_without_file_takes_its_place(void **state)
{
    struct pbs_epoll *set = set_get();
    struct pbs_sock *s = sock_get(5);

    (void)state;
    add(set, NULL, 5, EPOLLIN, 1);
    add(set, s, 5, EPOLLIN | EPOLLEXCLUSIVE, 2);
    assert_null(find(set, NULL, 5));
    assert_int_equal(set->exclusive, 1);
    add(set, s, 5, EPOLLIN, 3);
    assert_int_equal(find(set, s, 5)->data, 3);
    assert_int_equal(set->exclusive, 0);
    assert_int_equal(HASH_CNT(hh, set->by_key), 1);
    sock_put(s, 5);
    pbs_epoll_drop(self, set);
}

static void test_same_data_makes_twins(void **state)
{
    struct pbs_epoll *set = set_get();
    struct pbs_sock *a = sock_get(5), *b = sock_get(6);

    (void)state;
    add(set, a, 5, EPOLLIN, 1);
    assert_true(pbs_items_allow(a, self->id));
    add(set, b, 6, EPOLLIN, 1);
    assert_false(pbs_items_allow(a, self->id));
    assert_false(pbs_items_allow(b, self->id));
    mod(set, b, 6, EPOLLIN, 2); /* has a name of its own from now on */
    assert_true(pbs_items_allow(b, self->id));
    sock_put(a, 5);
    sock_put(b, 6);
    pbs_epoll_drop(self, set);
}

static void test_allow_what_can_be_merged_alone(void **state)
{
    struct pbs_epoll *set = set_get(), *other = set_get();
    struct pbs_sock *s = sock_get(5);

    (void)state;
    assert_true(pbs_items_allow(s, 7)); /* a member of nothing */
    add(set, s, 5, EPOLLIN, 1);
    assert_true(pbs_items_allow(s, 7));
    assert_int_equal(set->waiter, 7);
    assert_false(pbs_items_allow(s, 8));
    mod(set, s, 5, EPOLLIN | EPOLLONESHOT, 1);
    assert_false(pbs_items_allow(s, 7));
    mod(set, s, 5, EPOLLIN | EPOLLET, 1);
    assert_true(pbs_items_allow(s, 7));
    add(other, s, 5, EPOLLIN, 1);
    assert_false(pbs_items_allow(s, 7));
    pbs_item_del(self, other, &s->file, 5);
    assert_true(pbs_items_allow(s, 7));
    set->refused = true;
    assert_false(pbs_items_allow(s, 7));
    set->refused = false;
    set->file.shared = true;
    assert_false(pbs_items_allow(s, 7));
    sock_put(s, 5);
    pbs_epoll_drop(self, set);
    pbs_epoll_drop(self, other);
}

static void test_holds_what_its_events_ask_for(void **state)
{
    struct pbs_epoll *set = set_get();
    struct pbs_sock *s = sock_get(5);
    struct pbs_item *it;

    (void)state;
    add(set, s, 5, EPOLLIN, 1);
    assert_false(pbs_epoll_holds(set));
    arrive(s);
    arrive(s);
    assert_int_equal(set->nready, 1);
    assert_true(pbs_epoll_holds(set));
    mod(set, s, 5, EPOLLOUT, 1);
    assert_false(pbs_epoll_holds(set));
    mod(set, s, 5, EPOLLIN | EPOLLET, 1);
    assert_true(pbs_epoll_holds(set));
    it = find(set, s, 5);
    it->fresh = false; /* reported */
    assert_false(pbs_epoll_holds(set));
    arrive(s);
    assert_true(pbs_epoll_holds(set));
    it->fresh = false;
    mod(set, s, 5, EPOLLIN | EPOLLET, 1); /* a change looks again */
    assert_true(pbs_epoll_holds(set));
    it->spent = true;
    assert_false(pbs_epoll_holds(set));
    atomic_store(&s->error, 0);
    it->spent = false;
    assert_false(pbs_epoll_holds(set));
    pbs_item_unlist(it);
    pbs_item_unlist(it);
    assert_int_equal(set->nready, 0);
    sock_put(s, 5);
    pbs_epoll_drop(self, set);
}

static void test_added_with_something_held_is_listed(void **state)
{
    struct pbs_epoll *set = set_get();
    struct pbs_sock *s = sock_get(5);

    (void)state;
    arrive(s);
    add(set, s, 5, EPOLLIN | EPOLLET, 1);
    assert_int_equal(set->nready, 1);
    assert_true(pbs_epoll_holds(set));
    sock_put(s, 5);
    assert_int_equal(set->nready, 0);
    pbs_epoll_drop(self, set);
}

static void test_inner_set_that_was_dropped_tells_nothing(void **state)
{
    struct pbs_epoll *outer = set_get(), *inner = set_get(), *next;
    struct pbs_sock *s = sock_get(5);

    (void)state;
    add(outer, inner, 8, EPOLLIN, 1);
    add(inner, s, 5, EPOLLIN, 2);
    assert_int_equal(outer->inners, 1);
    arrive(s);
    assert_false(pbs_epoll_holds(outer)); /* nobody tells it */
    pbs_epoll_list_inners(outer);
    assert_true(pbs_epoll_holds(outer));
    pbs_epoll_drop(self, inner);
    next = set_get();
    assert_ptr_equal(next, inner); /* the same memory, another life */
    add(next, s, 5, EPOLLIN, 2);
    assert_true(pbs_epoll_holds(next));
    assert_false(pbs_epoll_holds(outer));
    sock_put(s, 5);
    pbs_epoll_drop(self, next);
    pbs_epoll_drop(self, outer);
}

static void test_rounds_give_each_socket_once(void **state)
{
    enum { N = 50 };
    struct pbs_epoll *set = set_get();
    struct pbs_sock *all[N], *s;

    (void)state;
    for (int i = 0; i < N; i++) {
        all[i] = sock_get(10 + i);
        add(set, all[i], 10 + i, EPOLLIN, (uint64_t)i);
        add(set, NULL, 1000 + i, EPOLLIN, (uint64_t)(1000 + i));
    }
    for (int k = 0; k < 3; k++) {
        unsigned round = pbs_epoll_new_round(set), n = 0;
        bool seen[N] = {0};

        while ((s = pbs_epoll_next_sock(set, round))) {
            uint64_t i = s->items->data;

            assert_true(i < N);
            assert_false(seen[i]);
            seen[i] = true;
            n++;
        }
        assert_int_equal(n, N);
    }
    for (int i = 0; i < N; i++)
        sock_put(all[i], 10 + i);
    pbs_epoll_drop(self, set);
}

/* Members come, change and go at random; a table of them says what has to be there. */
static void test_model_members_are_those_that_were_added(void **state)
{
    enum { FDS = 12, STEPS = 4000 };

    (void)state;
    for (unsigned seed = 1; seed <= SEEDS; seed++) {
        struct {
            bool in;
            uint32_t events;
            uint64_t data;
        } model[FDS] = {{0}};
        uint64_t r = seeded(seed);
        struct pbs_epoll *set = set_get();
        struct pbs_sock *of[FDS];

        for (int i = 0; i < FDS; i++)
            of[i] = i % 3 ? sock_get(20 + i) : NULL;
        for (unsigned step = 0; step < STEPS; step++) {
            static const uint32_t kinds[] = {EPOLLIN, EPOLLIN | EPOLLET, EPOLLOUT,
                                             EPOLLIN | EPOLLEXCLUSIVE};
            unsigned i = rnd(&r, FDS), what = rnd(&r, 4), members = 0, exclusive = 0, ready = 0;
            uint32_t events = kinds[rnd(&r, what == 1 ? 3 : 4)];
            uint64_t data = rnd(&r, 20);

            if (what == 0) {
                add(set, of[i], 20 + (int)i, events, data);
            } else if (what == 1 && !(model[i].events & EPOLLEXCLUSIVE)) {
                mod(set, of[i], 20 + (int)i, events, data); /* no member: nothing happens */
            } else if (what == 2) {
                pbs_item_del(self, set, (struct pbs_file *)of[i], 20 + (int)i);
            } else if (what == 3 && of[i]) {
                atomic_store(&of[i]->error, of[i]->error ? 0 : ECONNRESET);
                if (of[i]->error)
                    pbs_items_arrived(of[i]);
            }
            if (what == 0 || (what == 1 && model[i].in && !(model[i].events & EPOLLEXCLUSIVE))) {
                model[i].in = true;
                model[i].events = events;
                model[i].data = data;
            } else if (what == 2) {
                model[i].in = false;
                model[i].events = 0;
            }
            for (int k = 0; k < FDS; k++) {
                struct pbs_item *it = find(set, of[k], 20 + k);

                assert_int_equal(it != NULL, model[k].in);
                if (!it)
                    continue;
                members++;
                assert_int_equal(it->events, model[k].events);
                assert_int_equal(it->data, model[k].data);
                assert_ptr_equal(it->sock, of[k]);
                assert_true(it->by_data || it->twin);
                for (int j = 0; j < FDS; j++)
                    if (j != k && model[j].in && model[j].data == it->data)
                        assert_true(it->twin);
                exclusive += !!(it->events & EPOLLEXCLUSIVE);
                ready += it->listed;
                if (of[k]) {
                    assert_ptr_equal(of[k]->items, it);
                    assert_true(it->listed || !of[k]->error);
                }
            }
            assert_int_equal(HASH_CNT(hh, set->by_key), members);
            assert_int_equal(set->exclusive, exclusive);
            assert_int_equal(set->nready, ready);
        }
        for (int i = 0; i < FDS; i++)
            if (of[i])
                sock_put(of[i], 20 + i);
        pbs_epoll_drop(self, set);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find_tells_files_by_the_same_number_apart),
        cmocka_unit_test(test_add_of_a_number_known_without_file_takes_its_place),
        cmocka_unit_test(test_same_data_makes_twins),
        cmocka_unit_test(test_allow_what_can_be_merged_alone),
        cmocka_unit_test(test_holds_what_its_events_ask_for),
        cmocka_unit_test(test_added_with_something_held_is_listed),
        cmocka_unit_test(test_inner_set_that_was_dropped_tells_nothing),
        cmocka_unit_test(test_rounds_give_each_socket_once),
        cmocka_unit_test(test_model_members_are_those_that_were_added),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
