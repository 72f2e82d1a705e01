/*
 * Connections that may have buffers of their own, which are given back when they are not used: while the one
 * thread reads them, another one closes their numbers, and has others stand for new connections.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "asleep.h"
#include "leg.h"
#include "proc.h"
#include "stall.h"

#define SLOTS 8
#define FIRST 200 /* number of the first */
#define ROUNDS 1500
#define MS 700       /* fewer on a machine so busy that they take longer */
#define IDLE_MS 1800 /* what was not used from one second's end to the next's is taken away */

/* Of what a connection says, the next piece: who says it, and what has been said before. */
struct word {
    uint16_t who, at;
};

static struct slot {
    int number, peer;
    uint16_t who, said;
} slots[SLOTS];

/* A receive that is under way when the number goes may meet the end of the connection: a listed limit. */
#define RESETS 3

static int resets;
static _Atomic(uint16_t) heard[UINT16_MAX + 1]; /* by who says it */
static atomic_bool over;
static unsigned seed = 1;

static void say(struct slot *s, int words)
{
    struct word all[600];

    for (int i = 0; i < words; i++)
        all[i] = (struct word){s->who, s->said++};
    CHECK_EQ(send(s->peer, all, sizeof(all[0]) * (size_t)words, MSG_NOSIGNAL),
             sizeof(all[0]) * (size_t)words);
}

/* Whole words, in their order, of whatever connection the number stands for. False: nothing is there. */
static bool hear(const struct slot *s)
{
    struct word w[2];
    ssize_t n = recv(s->number, w, sizeof(w), MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EBADF || errno == ENOTSOCK))
        return false;
    if (n < 0 && errno == ECONNRESET && ++resets <= RESETS)
        return false;
    if (n <= 0 || n % (ssize_t)sizeof(w[0]))
        FAIL("a receive gives %zd (errno %d)", n, errno);
    for (int i = 0; i < n / (ssize_t)sizeof(w[0]); i++)
        if (w[i].at != heard[w[i].who]++ || w[i].who != w[0].who)
            FAIL("%d says %d, and %d is due (after %d)", w[i].who, w[i].at, heard[w[i].who] - 1,
                 w[0].who);
    return true;
}

/* The one thread that receives: a little of each, of some less often, and asleep now and then. */
static void *listen_to_all(void *arg)
{
    struct pollfd set[SLOTS];

    for (int i = 0; i < SLOTS; i++)
        set[i] = (struct pollfd){.fd = slots[i].number, .events = POLLIN};
    for (unsigned round = 0; !atomic_load(&over); round++) {
        for (int i = 0; i < SLOTS; i++)
            if (round % (1U << i % 4 * 2) == 0)
                hear(&slots[i]);
        if (round % 8 == 0)
            poll(set, SLOTS, 1);
    }
    return arg;
}

/* The number stands for a connection from here on, which has said something. */
static void renew(struct slot *s)
{
    static uint16_t last;
    struct pair p = pair_open();
    int old = s->peer;

    if (old >= 0 && rand_r(&seed) % 2)
        MUST(close(s->number));
    s->who = ++last;
    s->said = 0;
    s->peer = p.peer;
    say(s, rand_r(&seed) % 600);
    CHECK_EQ(dup2(p.us, s->number), s->number);
    MUST(close(p.us));
    if (old >= 0)
        reset_close(old);
}

/* It is one of those that are served. */
static void wait_heard(const struct slot *s)
{
    unsigned tries = 0;

    while (s->said && !atomic_load(&heard[s->who]))
        spin(&tries);
}

static void open_slots(void)
{
    for (int i = 0; i < SLOTS; i++) {
        slots[i] = (struct slot){.number = FIRST + i, .peer = -1};
        renew(&slots[i]);
    }
}

/* All that the last ones have said is heard. */
static void close_slots(void)
{
    for (int i = 0; i < SLOTS; i++) {
        int64_t until = now_ms() + slack(5000);

        while (heard[slots[i].who] != slots[i].said && now_ms() < until)
            if (!hear(&slots[i]))
                test_yield();
        CHECK_EQ(heard[slots[i].who], slots[i].said);
        MUST(close(slots[i].number));
        reset_close(slots[i].peer);
    }
}

static int come_and_go(void)
{
    int64_t until = now_ms() + MS;
    int maps = 0;
    struct worker w;

    open_slots();
    worker_start(&w, listen_to_all, NULL);
    for (int i = 0; i < ROUNDS && now_ms() < until; i++) {
        struct slot *s = &slots[rand_r(&seed) % SLOTS];

        if (rand_r(&seed) % 4)
            wait_heard(s);
        if (rand_r(&seed) % 3)
            renew(s);
        else if (s->said < 1000)
            say(s, 1 + rand_r(&seed) % 100);
        if (i == 200)
            maps = maps_count();
    }
    if (!TEST_ASAN && !TEST_TSAN && maps && maps_count() > maps + 3 * SLOTS)
        FAIL("%d mappings, and %d before", maps_count(), maps);
    atomic_store(&over, true);
    worker_join(&w);
    close_slots();
    return 0;
}

/* They have used up what they share, and then say nothing for a second: about when that is over they go. */
static int fall_silent(void)
{
    struct timespec nap = {.tv_sec = IDLE_MS / 1000, .tv_nsec = IDLE_MS % 1000 * 1000000},
                    little = {.tv_nsec = 1200000000 / SLOTS};
    struct worker w;

    open_slots();
    worker_start(&w, listen_to_all, NULL);
    for (int i = 0; i < 20 * SLOTS; i++)
        say(&slots[i % SLOTS], 100);
    nanosleep(&nap, NULL);               /* what is tested is a time of nothing */
    for (int i = 0; i < SLOTS; i += 2) { /* the others stay silent */
        renew(&slots[i]);
        nanosleep(&little, NULL);
    }
    atomic_store(&over, true);
    worker_join(&w);
    close_slots();
    return 0;
}

static int helper(int argc, char **argv)
{
    (void)argc;
    return strcmp(argv[0], "silent") == 0 ? fall_silent() : come_and_go();
}

/* Settings that mean nothing to a program, and to the library few buffers, and whose they are. */
static pid_t run(const char *word, const char *groups, const char *inc, const char *size)
{
    pid_t pid = MUST(fork());

    if (pid == 0) {
        MUST(setenv("PBUFSHIM_GROUPS", groups, 1));
        MUST(setenv("PBUFSHIM_INC", inc, 1));
        MUST(setenv("PBUFSHIM_BUFS", "4", 1));
        MUST(setenv("PBUFSHIM_BUF_SIZE", size, 1));
        execl(test_self, test_self, "--helper", word, (char *)NULL);
        _exit(126);
    }
    check_child(pid);
    return pid;
}

static void test_groups_given_back_while_numbers_are_closed(void)
{
    check_counted("shim", run("go", "socket", "on", "512"), "own_groups", SLOTS / 2);
    check_counted("shim", run("go", "socket", "off", "64"), "own_groups", SLOTS / 2);
}

static void test_groups_taken_from_the_silent_while_numbers_are_closed(void)
{
    pid_t pid = run("silent", "auto", "off", "64");

    if (!TEST_TSAN) /* which is too slow for seconds */
        check_counted("shim", pid, "cancel_idle", 1);
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_groups_given_back_while_numbers_are_closed),
    CASE_ONCE(test_groups_taken_from_the_silent_while_numbers_are_closed),
    CASES_END,
};

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = helper;
}
