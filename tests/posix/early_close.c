/*
 * A number that is closed, and stands for another connection at once, while a receive on it has begun
 * and is about to sleep: the receive is on the one or on the other, and neither loses a byte.
 *
 * A request that was prepared by number and not yet given to the kernel was once left alone by the close,
 * as that of a sleeper: it took the other connection's bytes.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "asleep.h"
#include "leg.h"
#include "payload.h"
#include "proc.h"
#include "stall.h"
#include "tcp.h"
#include "test.h"

#define ROUNDS 300
#define BYTES 10
#define BY_RING 100

static struct pair first, second;
static atomic_int go, begun;
static atomic_bool over;
static ssize_t got;
static int error;

static void *receive(void *arg)
{
    char byte;

    (void)arg;
    for (int round = 1;; round++) {
        while (atomic_load(&go) != round)
            if (atomic_load(&over))
                return NULL;
        atomic_store(&begun, round);
        got = recv(first.us, &byte, 1, 0);
        error = errno;
        atomic_store(&go, -round);
    }
}

static void wait_a_little(unsigned *seed)
{
    for (volatile int i = rand_r(seed) % 60000; i > 0; i--)
        ;
}

static void one_round(int round, unsigned *seed)
{
    int number;

    first = pair_open();
    number = first.us;
    atomic_store(&go, round);
    while (atomic_load(&begun) != round)
        test_yield();
    wait_a_little(seed);
    CHECK_EQ(dup2(second.us, number), number);
    close(first.peer); /* that it ends if it is on the first */
    put_now(&second, BYTES);
    while (atomic_load(&go) != -round)
        test_yield();
    if (got < 0)
        FAIL("the receive fails with errno %d", error);
    second.got += (uint64_t)got;
    settle(number, second.sent);
    take(&second, BYTES - (size_t)got);
    check_empty(number);
    close(number);
}

static void number_stands_for_another_connection_no_byte_is_lost(void)
{
    unsigned seed = 1;
    pthread_t thread;

    second = pair_open();
    MUST0(pthread_create(&thread, NULL, receive, NULL));
    for (int round = 1; round <= ROUNDS; round++)
        one_round(round, &seed);
    atomic_store(&over, true);
    MUST0(pthread_join(thread, NULL));
    pair_close(&second);
}

static void *receive_on_both(void *arg)
{
    char byte;

    (void)arg;
    CHECK_EQ(recv(first.us, &byte, 1, 0), 0);
    put(&second, BY_RING);
    take(&second, BY_RING);
    return NULL;
}

/* The first has had another user, so that the receive on it is the kernel's. */
static void close_under_a_plain_receive(void)
{
    struct worker w;
    int null = MUST(open("/dev/null", O_RDONLY | O_CLOEXEC));

    first = pair_open();
    second = pair_open();
    check_empty(first.us);
    worker_start(&w, receive_on_both, NULL);
    wait_asleep(w.tid);
    CHECK_EQ(dup2(null, first.us), first.us);
    close(first.peer);
    worker_join(&w);
    close(first.us);
    pair_close(&second);
}

/* A thread that was in the kernel's receive when its socket was closed once stayed there, as far as the
 * library knew, for ever: all its later receives were the kernel's, too. */
static void closed_under_a_receive_the_thread_is_served_again(void)
{
    pid_t pid = MUST(fork());

    if (!pid) {
        close_under_a_plain_receive();
        exit(0);
    }
    check_child(pid);
    check_ring_used(pid, BY_RING);
}

#define MUCH 60000
#define FEW 3
#define MS 1500 /* of rounds on a machine so busy that they would take longer */

static uint64_t was_read;

/* Reads on as long as the number stands for the connection. */
static void *read_in_small_pieces(void *arg)
{
    char some[FEW], why[200];
    ssize_t r;

    (void)arg;
    while ((r = recv(first.us, some, sizeof(some), 0)) > 0) {
        if (payload_compare(0, some, was_read, (size_t)r, why, sizeof(why)))
            FAIL("%s", why);
        was_read += (uint64_t)r;
        atomic_store(&begun, 1);
    }
    if (r < 0 && errno != EBADF && errno != ENOTSOCK)
        FAIL("the receive fails with errno %d", errno);
    return NULL;
}

/* The number goes, and a receive that sleeps comes to its end. */
static void end_it(int way, int null)
{
    if (way == 0)
        MUST(close(first.us));
    else if (way == 1)
        CHECK_EQ(dup2(null, first.us), first.us);
    else
        CHECK_EQ(dup3(null, first.us, O_CLOEXEC), first.us);
    shutdown(first.peer, SHUT_WR); /* ENOTCONN: reset */
}

static void ended(int way)
{
    if (was_read < MUCH)
        CHECK_PEER_SEES(first.peer, SEEN_RESET);
    if (way)
        MUST(close(first.us));
    MUST(close(first.peer));
}

static void begin_round(size_t n)
{
    first = pair_open();
    put(&first, n);
    was_read = 0;
    atomic_store(&begun, 0);
}

/*
 * What was held was once dropped before the number was closed: a receive in between got from the kernel
 * what came behind it.
 */
static void closed_while_it_is_read_bytes_end_without_a_gap(void)
{
    int null = MUST(open("/dev/null", O_RDONLY | O_CLOEXEC));
    int64_t until = now_ms() + MS;
    unsigned seed = 1;

    for (int round = 0; round < ROUNDS && now_ms() < until; round++) {
        struct worker w;

        begin_round(MUCH);
        worker_start(&w, read_in_small_pieces, NULL);
        while (!atomic_load(&begun))
            test_yield();
        wait_a_little(&seed);
        end_it(round % 3, null);
        worker_join(&w);
        ended(round % 3);
    }
    close(null);
}

/*
 * Of two numbers one was once forgotten before it was closed: a receive by it in between got from the kernel
 * what came behind the bytes that were held, for which the other one stood.
 */
static void closed_one_of_two_numbers_the_other_reads_on(void)
{
    int null = MUST(open("/dev/null", O_RDONLY | O_CLOEXEC));
    int64_t until = now_ms() + MS;
    unsigned seed = 1;

    for (int round = 0; round < ROUNDS && now_ms() < until; round++) {
        int other;
        struct worker w;

        begin_round(MUCH / 2);
        other = MUST(dup(first.us));
        worker_start(&w, read_in_small_pieces, NULL);
        while (!atomic_load(&begun))
            test_yield();
        wait_a_little(&seed);
        end_it(round % 3, null);
        worker_join(&w);
        if (round % 3)
            MUST(close(first.us));
        first.us = other;
        first.got = was_read;
        take_in_parts(&first, MUCH / 2 - was_read);
        CHECK_EQ(recv(other, &(char){0}, 1, 0), 0);
        pair_drop(&first);
    }
    close(null);
}

/* The first to read, who then does something else. */
static void *read_once(void *arg)
{
    char some[FEW];

    CHECK_EQ(recv(first.us, some, FEW, 0), FEW);
    was_read = FEW;
    atomic_store(&begun, 2);
    MUST0(pthread_mutex_lock(arg));
    MUST0(pthread_mutex_unlock(arg));
    return NULL;
}

/*
 * A thread that is elsewhere would keep the connection open, so that a close by another one ends it: a third
 * one's receive was once given that end, where it had bytes to get, or no such number any more.
 */
static void closed_while_another_thread_reads_on_bytes_end_without_a_gap(void)
{
    int null = MUST(open("/dev/null", O_RDONLY | O_CLOEXEC));
    int64_t until = now_ms() + MS;
    unsigned seed = 1;

    for (int round = 0; round < ROUNDS && now_ms() < until; round++) {
        struct worker w, away;
        pthread_mutex_t elsewhere = PTHREAD_MUTEX_INITIALIZER;
        int way = leg_is("slowclose") ? 0 : round % 3;

        begin_round(FEW);
        MUST0(pthread_mutex_lock(&elsewhere));
        worker_start(&away, read_once, &elsewhere);
        while (atomic_load(&begun) != 2)
            test_yield();
        put(&first, MUCH - FEW);
        worker_start(&w, read_in_small_pieces, NULL);
        while (atomic_load(&begun) != 1)
            test_yield();
        wait_a_little(&seed);
        end_it(way, null);
        worker_join(&w);
        ended(way);
        MUST0(pthread_mutex_unlock(&elsewhere));
        worker_join(&away);
    }
    close(null);
}

const struct test_case test_cases[] = {
    CASE_ONCE(closed_while_it_is_read_bytes_end_without_a_gap),
    CASE_ONCE(closed_one_of_two_numbers_the_other_reads_on),
    CASE_ONCE(closed_while_another_thread_reads_on_bytes_end_without_a_gap),
    CASE_ONCE(closed_under_a_receive_the_thread_is_served_again),
    CASE_ONCE(number_stands_for_another_connection_no_byte_is_lost),
    CASES_END,
};
