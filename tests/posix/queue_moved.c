/*
 * A thread whose queue of completions was full makes more room for the next ones, and puts what it has there:
 * meanwhile another one forks, spawns, or executes something.
 */
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "asleep.h"
#include "leg.h"
#include "proc.h"
#include "stall.h"

#define MEMBERS 10
#define MUCH 3000
#define BEFORE 1 /* times, until it is given so much by one look */
#define ROUNDS 60
#define MS 1500 /* fewer rounds on a machine so busy that they take longer */
#define EXECS (TEST_TSAN ? 3 : 10)

extern char **environ;

/* One thread's connections, and one more that it sleeps on. */
struct crowd {
    struct pair p[MEMBERS], other;
    atomic_bool full;
    bool stays; /* asleep until the process is another one */
    struct worker w;
};

static size_t unread(const struct pair *p)
{
    return (size_t)(p->sent - p->got);
}

/* What has come by one look is more than there is room for. */
static void fill(struct crowd *c)
{
    for (int i = 0; i < MEMBERS; i++) {
        put(&c->p[i], 2);
        take(&c->p[i], 2);
        check_empty(c->p[i].us);
    }
    for (int i = 0; i < MEMBERS; i++)
        put(&c->p[i], MUCH);
    take(&c->p[0], 1);
}

static void take_all(struct crowd *c)
{
    for (int i = 0; i < MEMBERS; i++) {
        take_in_parts(&c->p[i], unread(&c->p[i]));
        check_empty(c->p[i].us);
    }
}

static void *be_crowded(void *arg)
{
    struct crowd *c = arg;
    struct later_put lp;

    c->other = pair_open_warm();
    for (int i = 0; i < MEMBERS; i++)
        c->p[i] = pair_open_warm();
    for (int i = 0; i < BEFORE; i++) {
        fill(c);
        take_all(c);
    }
    fill(c);
    if (!c->stays)
        later_put(&lp, &c->other, 1);
    atomic_store(&c->full, true);
    take(&c->other, 1); /* asleep, and before that there is made more room */
    later_join(&lp.l);
    take_all(c);
    for (int i = 0; i < MEMBERS; i++) {
        put(&c->p[i], 10); /* and so on */
        take(&c->p[i], 10);
        pair_drop(&c->p[i]);
    }
    pair_drop(&c->other);
    return NULL;
}

/* Returns at some moment after its queue was filled. */
static void crowd_start(struct crowd *c, bool stays, unsigned *seed)
{
    unsigned tries = 0;

    atomic_store(&c->full, false);
    c->stays = stays;
    worker_start(&c->w, be_crowded, c);
    while (!atomic_load(&c->full))
        spin(&tries);
    for (volatile int i = rand_r(seed) % 100000; i > 0; i--)
        ;
}

/* A child has nothing of it, and may do the same. */
static void by_fork(void)
{
    pid_t pid = MUST(fork());

    if (!pid) {
        struct pair p;

        if (TEST_TSAN) /* another thread of the parent's may have had a lock of its runtime's */
            _exit(0);
        p = pair_open_held(300);
        take_in_parts(&p, 300);
        exit(0);
    }
    check_child(pid);
}

static void by_spawn(void)
{
    struct pair none = {.us = -1};
    pid_t pid;

    MUST0(posix_spawn(&pid, test_self, NULL, NULL, reader_args("hold", -1, &none, 0), environ));
    check_child(pid);
}

static void by_exec_that_fails(void)
{
    char *nothing[] = {NULL};

    CHECK_ERR(execve("/nothing/there", nothing, environ), ENOENT);
}

static int disturbed(void)
{
    static void (*const ways[])(void) = {by_fork, by_spawn, by_exec_that_fails};
    static struct crowd c;
    int64_t until = now_ms() + MS;
    unsigned seed = 1;

    for (int i = 0; i < ROUNDS && (i < (int)COUNT_OF(ways) || now_ms() < until); i++) {
        crowd_start(&c, false, &seed);
        ways[(size_t)i % COUNT_OF(ways)]();
        worker_join(&c.w);
    }
    return 0;
}

/* Triples of number, offset and count: all that was left. */
static int read_rest(int argc, char **argv)
{
    for (int i = 0; i + 2 < argc; i += 3) {
        struct pair p = {.us = atoi(argv[i]), .got = strtoull(argv[i + 1], NULL, 10)};

        take_in_parts(&p, strtoul(argv[i + 2], NULL, 10));
        check_empty(p.us);
    }
    return 0;
}

static int executed(unsigned seed)
{
    static struct crowd c;
    static char text[3 * MEMBERS][24];
    char *args[4 + 3 * MEMBERS] = {(char *)test_self, (char[]){"--helper"}, (char[]){"rest"}};

    crowd_start(&c, true, &seed);
    for (int i = 0; i < MEMBERS; i++) {
        snprintf(text[3 * i], sizeof(text[0]), "%d", c.p[i].us);
        snprintf(text[3 * i + 1], sizeof(text[0]), "%llu", (unsigned long long)c.p[i].got);
        snprintf(text[3 * i + 2], sizeof(text[0]), "%zu", unread(&c.p[i]));
    }
    for (int i = 0; i < 3 * MEMBERS; i++)
        args[3 + i] = text[i];
    execve(test_self, args, environ);
    FAIL("execve: errno %d", errno);
}

static int helper(int argc, char **argv)
{
    if (strcmp(argv[0], "disturbed") == 0)
        return disturbed();
    if (strcmp(argv[0], "executed") == 0)
        return executed((unsigned)atoi(argv[1]));
    return strcmp(argv[0], "rest") == 0 ? read_rest(argc - 1, argv + 1) : reader_main(argc, argv);
}

/* Settings that mean nothing to a program, and to the library many small buffers. */
static pid_t run(const char *word, int n)
{
    pid_t pid = MUST(fork());
    char number[12];

    if (pid == 0) {
        MUST(setenv("PBUFSHIM_BUFS", "1024", 1));
        MUST(setenv("PBUFSHIM_BUF_SIZE", "64", 1));
        MUST(setenv("PBUFSHIM_GROUPS", "shared", 1));
        snprintf(number, sizeof(number), "%d", n);
        execl(test_self, test_self, "--helper", word, number, (char *)NULL);
        _exit(126);
    }
    check_child(pid);
    return pid;
}

static void test_queue_moved_while_another_thread_makes_processes(void)
{
    check_counted("shim", run("disturbed", 0), "resizes", 3);
}

static void test_queue_moved_while_another_thread_executes(void)
{
    for (int i = 1; i <= EXECS; i++)
        run("executed", i);
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_queue_moved_while_another_thread_makes_processes),
    CASE_ONCE(test_queue_moved_while_another_thread_executes),
    CASES_END,
};

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = helper;
}
