/*
 * A receive with a limit of time, beside connections whose unread bytes are in the way: making room for it
 * takes time, too, and the limit may pass meanwhile. It ends all the same, with what has come by then.
 */
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "asleep.h"
#include "leg.h"
#include "payload.h"
#include "proc.h"
#include "stall.h"

#define PINNED 30
#define EACH 20000 /* bytes unread of each */
#define MS                                                                                         \
    20 /* the limit, which is about as long as nobody looks whether something is in the way */
#define ROUNDS 40
#define ALL 4000 /* bytes: more than come in time */

static struct pair left[PINNED], us;
static atomic_bool over;

/* A byte now and then, in some rounds just when the time is over. */
static void *trickle(void *arg)
{
    unsigned seed = 1;

    while (!atomic_load(&over)) {
        struct timespec some = {.tv_nsec = rand_r(&seed) % 1500000};

        nanosleep(&some, NULL); /* that they come at every moment is what is tested */
        put_now(&us, 1);
    }
    return arg;
}

/* Nobody has read them for long; but they are read in the end. */
static void leave_unread(int round)
{
    for (int i = round % 3; i < PINNED; i += 3) {
        take_in_parts(&left[i], (size_t)(left[i].sent - left[i].got));
        put(&left[i], 1);
        take(&left[i], 1);
        put(&left[i], EACH);
    }
}

static int64_t cpu_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* What has come is the next of the stream, or nothing has. */
static void receive_in_time(int flags)
{
    int64_t since = now_ms(), took, cpu = cpu_ms();
    char some[ALL];
    ssize_t n = recv(us.us, some, sizeof(some), flags);

    took = now_ms() - since;
    if (n < 0)
        CHECK_EQ(errno, EAGAIN);
    else
        check_next(&us, some, (size_t)n);
    if (took > MS + slack(1000) || ((n < 0 || flags) && took < MS / 2)) /* ticks of the kernel's */
        FAIL("%zd bytes after %lld ms", n, (long long)took);
    CHECK(cpu_ms() - cpu < slack(200));
}

static int beside_unread(int argc, char **argv)
{
    struct worker w;

    (void)argc, (void)argv;
    us = pair_open_warm();
    for (int i = 0; i < PINNED; i++)
        left[i] = pair_open_warm();
    set_timeout(us.us, MS);
    for (int round = 0; round < 3; round++) { /* nothing comes */
        leave_unread(round);
        receive_in_time(0);
    }
    worker_start(&w, trickle, NULL);
    for (int round = 0; round < ROUNDS; round++) {
        leave_unread(round);
        receive_in_time(round % 4 ? MSG_WAITALL : 0);
    }
    atomic_store(&over, true);
    worker_join(&w);
    settle(us.us, us.sent);
    take_in_parts(&us, (size_t)(us.sent - us.got));
    for (int i = 0; i < PINNED; i++) {
        take_in_parts(&left[i], (size_t)(left[i].sent - left[i].got));
        check_empty(left[i].us);
        pair_close(&left[i]);
    }
    pair_close(&us);
    return 0;
}

/* Settings that mean nothing to a program, and to the library so few buffers that they lie in the way. */
static void test_limit_passes_while_room_is_made(void)
{
    pid_t pid = MUST(fork());

    if (pid == 0) {
        MUST(setenv("PBUFSHIM_BUFS", "64", 1));
        MUST(setenv("PBUFSHIM_BUF_SIZE", "4096", 1));
        MUST(setenv("PBUFSHIM_GROUPS", "shared", 1));
        execl(test_self, test_self, "--helper", "unread", (char *)NULL);
        _exit(126);
    }
    check_child(pid);
    check_counted("shim", pid, "moved_out", PINNED);
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_limit_passes_while_room_is_made),
    CASES_END,
};

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = beside_unread;
}
