/*
 * A number that is closed, and stands for another connection at once, while a receive on it has begun
 * and is about to sleep: the receive is on the one or on the other, and neither loses a byte.
 *
 * A request that was prepared by number and not yet given to the kernel was once left alone by the close,
 * as that of a sleeper: it took the other connection's bytes.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "tcp.h"
#include "test.h"

#define ROUNDS 1000
#define BYTES 10

static struct pair first, second;
static atomic_int go;
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
        got = recv(first.us, &byte, 1, 0);
        error = errno;
        atomic_store(&go, -round);
    }
}

static void wait_a_little(unsigned *seed)
{
    for (volatile int i = rand_r(seed) % 3000; i > 0; i--)
        ;
}

static void one_round(int round, unsigned *seed)
{
    int number;

    first = pair_open();
    number = first.us;
    atomic_store(&go, round);
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

const struct test_case test_cases[] = {
    CASE_ONCE(number_stands_for_another_connection_no_byte_is_lost),
    CASES_END,
};
