#include "sock_rig.h"

#include <errno.h>

/* ---- memory that runs out when a test says so ---- */

void *__real_pbs_mem_get(size_t size);
void *__wrap_pbs_mem_get(size_t size);

static bool no_memory;

void *__wrap_pbs_mem_get(size_t size)
{
    return no_memory ? NULL : __real_pbs_mem_get(size);
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

            switch (rnd(&rng, 9)) {
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
            case 6:
                take_only(&r, &to, r.n ? r.n : len);
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

/* Bytes that are all there is need not be queued any more, nor counted. */
static void test_take_only_one_piece_and_no_count(void **state)
{
    static struct rig r;
    static struct into to;

    (void)state;
    rig_init(&r);
    take_only(&r, &to, 10);
    arrive(&r, 10, 0);
    take_only(&r, &to, 9);
    take_only(&r, &to, 10);
    check(&r);
    assert_int_equal(r.homes[0], 1);
    arrive(&r, 10, 0);
    arrive(&r, 10, 0);
    drop(&r, 10);
    take_only(&r, &to, 10); /* the first has to go home with it */
    check(&r);
    assert_int_equal(r.homes[0], 1);
    drop(&r, 10);
    assert_int_equal(r.homes[0], 3);
    rig_end(&r);
}

static void test_hold_several_pieces_of_a_buffer_first_stays_until_the_last(void **state)
{
    static struct rig r;

    (void)state;
    rig_init(&r);
    arrive(&r, 5, 2);
    assert_null(r.s->holds);
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
    drop(&r, 1);
    assert_int_equal(r.homes[2], 1); /* the second */
    check(&r);
    drop(&r, 5);
    assert_int_equal(r.homes[2], 3); /* the last, and the first with it */
    assert_null(r.s->holds);
    check(&r);
    arrive(&r, 5, 2); /* the buffer was lent again meanwhile */
    check(&r);
    drop(&r, 5);
    assert_int_equal(r.homes[2], 4);
    rig_end(&r);
}

static void count_home(void *ctx, struct pbs_piece *piece)
{
    uint32_t *wanted = ctx;

    assert_int_equal(piece->buf, (*wanted)++);
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
        piece[i] = (struct pbs_piece){.data = &byte, .len = 1, .group = group(0), .buf = i};
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

static void test_extend_only_right_behind_the_last_piece_of_the_same_buffer(void **state)
{
    static uint8_t mem[100];
    static struct into to;
    static struct rig r;
    struct pbs_piece a = {.data = mem, .len = 10, .group = group(2), .buf = 2};
    struct pbs_piece own = {.data = mem + 50, .len = 10};

    (void)state;
    for (unsigned i = 0; i < sizeof(mem); i++)
        mem[i] = (uint8_t)i;
    rig_init(&r);
    assert_false(pbs_sock_extend(r.s, 2, mem, 10)); /* nothing is held */
    pbs_sock_hold(r.s, &a);
    assert_false(pbs_sock_extend(r.s, 3, mem + 10, 10)); /* a neighbour */
    assert_false(pbs_sock_extend(r.s, 2, mem + 11, 10)); /* a gap */
    assert_int_equal(r.s->held, 10);
    assert_true(pbs_sock_extend(r.s, 2, mem + 10, 20));
    assert_int_equal(r.s->held, 30);
    assert_true(pbs_sock_take_front(r.s, to.mem, 29));
    assert_true(pbs_sock_extend(r.s, 2, mem + 30, 5));
    assert_true(pbs_sock_take_front(r.s, to.mem + 29, 5));
    assert_memory_equal(to.mem, mem, 34);
    pbs_sock_hold(r.s, &own);
    assert_false(pbs_sock_extend(r.s, 2, mem + 35, 5)); /* something is between */
    assert_false(pbs_sock_extend(r.s, 0, mem + 60, 5)); /* not in a buffer */
    assert_int_equal(r.s->held, 11);
    assert_int_equal(pbs_sock_drop(r.s, 11, home, &r), 11);
    assert_int_equal(r.homes[2], 1);
    assert_int_equal(r.homes[BIDS - 1], 1);
    rig_end(&r);
}

static void test_hold_out_of_memory_no_byte_lost_and_pieces_home(void **state)
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

/*
 * A piece for which there was no memory is not among its buffer's count. That one began with the next
 * piece, the first went home as one of it, and the one in which the count lay never did.
 */
static void test_hold_out_of_memory_for_the_first_alone_all_pieces_home(void **state)
{
    static struct rig r;

    (void)state;
    rig_init(&r);
    arrive(&r, 10, 1);
    no_memory = true;
    arrive(&r, 10, 2); /* in no count */
    no_memory = false;
    arrive(&r, 10, 2); /* the first of a count */
    assert_int_equal(pbs_sock_drop(r.s, 30, home, &r), 30);
    assert_int_equal(r.homes[1], 1);
    assert_int_equal(r.homes[2], 2);
    assert_null(r.s->holds);
    r.n = r.pieces = 0;
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
    s->tcp = true;
    s->at_end = true;
    s->nonblock = true;
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
        cmocka_unit_test(test_take_only_one_piece_and_no_count),
        cmocka_unit_test(test_hold_several_pieces_of_a_buffer_first_stays_until_the_last),
        cmocka_unit_test(test_hold_many_buffers_table_grows_and_empties),
        cmocka_unit_test(test_extend_only_right_behind_the_last_piece_of_the_same_buffer),
        cmocka_unit_test(test_hold_out_of_memory_no_byte_lost_and_pieces_home),
        cmocka_unit_test(test_hold_out_of_memory_for_the_first_alone_all_pieces_home),
        cmocka_unit_test(test_error_held_given_once),
        cmocka_unit_test(test_get_after_put_same_memory_nothing_left_over),
        cmocka_unit_test(test_get_out_of_memory_null),
        cmocka_unit_test(test_dst_advance_over_empty_entries_stops_at_next_room),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
