/*
 * recvmmsg() on a number that is closed, and stands for another connection, while it goes from message
 * to message: all that it gives is of the connection that it began with.
 *
 * It once looked after each message whether the number was still the same record, and then looked the record
 * up again: what a dup2() in between had put there was read as the next message. And a record that
 * was closed and used for the next connection to get that number was taken for the same.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "asleep.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

#define MESSAGES 200
#define ROUNDS 400
#define MS 2000 /* fewer on a machine so busy that they take longer */

static struct mmsghdr mm[MESSAGES];
static struct iovec v[MESSAGES];
static char some[MESSAGES];

static void make_batch(void)
{
    memset(mm, 0, sizeof(mm));
    for (int i = 0; i < MESSAGES; i++) {
        v[i] = (struct iovec){&some[i], 1};
        mm[i].msg_hdr = (struct msghdr){.msg_iov = &v[i], .msg_iovlen = 1};
    }
}

static void *receive_two(void *arg)
{
    make_batch();
    CHECK_EQ(recvmmsg(*(int *)arg, mm, 2, MSG_WAITFORONE, NULL), 1);
    CHECK_EQ(some[0], 'o');
    return NULL;
}

static void check_reads(int fd, char byte)
{
    char got;

    CHECK_EQ(recv(fd, &got, 1, 0), 1);
    CHECK_EQ(got, byte);
}

/* The connection has another holder, so that the thread sleeps in the kernel's call. */
static void test_closed_under_the_first_message_the_next_connection_keeps_its_bytes(void)
{
    int listener = MUST(listener_open(AF_INET)), old_peer = connect_to(listener), new_peer;
    int us = MUST(accept(listener, NULL, NULL)), number = us;
    struct pair turns = pair_open();
    struct worker w;
    pid_t pid;

    if (TEST_TSAN)
        test_skip("a number that is closed under a call is a race to ThreadSanitizer");
    pid = MUST(fork());
    if (!pid) {
        MUST(close(turns.peer));
        _exit((int)read(turns.us, some, 1)); /* until the parent has ended it */
    }
    new_peer = connect_to(listener);
    MUST(send(new_peer, "nn", 2, MSG_NOSIGNAL));
    worker_start(&w, receive_two, &number);
    wait_asleep(w.tid);
    MUST(close(us));
    CHECK_EQ(accept(listener, NULL, NULL), number);
    settle(number, 2);
    MUST(send(old_peer, "o", 1, MSG_NOSIGNAL));
    worker_join(&w);
    check_reads(number, 'n');
    check_reads(number, 'n');
    MUST(close(turns.peer));
    check_child(pid);
    MUST(close(turns.us));
    MUST(close(old_peer));
    MUST(close(new_peer));
    MUST(close(number));
    MUST(close(listener));
}

static atomic_int go, begun, ended; /* rounds; go < 0: no more */

static int wait_for(atomic_int *word, int but)
{
    unsigned tries = 0;
    int now;

    while ((now = atomic_load(word)) == but)
        spin(&tries);
    return now;
}

static int number, batch;

/* All that there is, again and again, as long as it is of the first connection. */
static void *receive_batches(void *arg)
{
    for (int round = 1; wait_for(&go, round - 1) > 0; round++) {
        int n;

        atomic_store(&begun, round);
        make_batch();
        n = recvmmsg(number, mm, MESSAGES, MSG_DONTWAIT, NULL);
        for (int i = 1; i < n; i++)
            if (some[i] != some[0])
                FAIL("round %d: message %d of %d is %c, the first %c", round, i, n, some[i],
                     some[0]);
        atomic_store(&batch, n > 0 && some[0] == 'b' ? n : 0);
        atomic_store(&ended, round);
    }
    return arg;
}

static struct pair filled_with(char byte)
{
    struct pair p = pair_open();
    char all[MESSAGES];

    memset(all, byte, sizeof(all));
    MUST(send(p.peer, all, sizeof(all), MSG_NOSIGNAL));
    settle(p.us, sizeof(all));
    return p;
}

static void one_round(int round, unsigned *seed)
{
    struct pair a = filled_with('a'), b = filled_with('b');
    char rest[MESSAGES + 1];
    int left;

    number = a.us;
    atomic_store(&go, round);
    wait_for(&begun, round - 1);
    for (volatile int i = rand_r(seed) % 8000; i > 0; i--)
        ;
    CHECK_EQ(dup2(b.us, number), number);
    MUST(close(b.us));
    wait_for(&ended, round - 1);
    left = MESSAGES - batch;
    CHECK_EQ(recv(number, rest, sizeof(rest), MSG_DONTWAIT), left ? left : -1);
    for (int i = 0; i < left; i++)
        CHECK_EQ(rest[i], 'b');
    MUST(close(number));
    reset_close(a.peer);
    reset_close(b.peer);
}

static void test_replaced_between_two_messages_all_are_of_one_connection(void)
{
    int64_t until = now_ms() + MS;
    unsigned seed = 1;
    struct worker w;

    worker_start(&w, receive_batches, NULL);
    for (int round = 1; round <= ROUNDS && now_ms() < until; round++)
        one_round(round, &seed);
    atomic_store(&go, -1);
    worker_join(&w);
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_closed_under_the_first_message_the_next_connection_keeps_its_bytes),
    CASE_ONCE(test_replaced_between_two_messages_all_are_of_one_connection),
    CASES_END,
};
