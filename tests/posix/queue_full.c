/*
 * Very many small arrivals at a time on many connections, more than a queue of completions has room for:
 * whoever looks next, in whatever way, finds the bytes in their order.
 */
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "asleep.h"
#include "leg.h"
#include "proc.h"
#include "stall.h"

#define MEMBERS 20
#define MUCH 3000 /* bytes: some 50 buffers */
#define ROUNDS 5
#define THREADS 4 /* one after the other */

static void crowd_open(struct pair *p)
{
    for (int i = 0; i < MEMBERS; i++)
        p[i] = pair_open_warm();
}

static size_t unread(const struct pair *p)
{
    return (size_t)(p->sent - p->got);
}

/* Something is unread of each, and one look has seen what there is. */
static void fill_all(struct pair *p)
{
    for (int i = 0; i < MEMBERS; i++) {
        put(&p[i], 2);
        take(&p[i], 1);
        take(&p[i], 1); /* from here on served again */
        check_empty(p[i].us);
    }
    for (int i = 0; i < MEMBERS; i++)
        put(&p[i], MUCH);
    take(&p[0], 1);
}

static void *take_all(void *arg)
{
    struct pair *p = arg;

    for (int i = 0; i < MEMBERS; i++)
        take_in_parts(&p[i], unread(&p[i]));
    return NULL;
}

static void peek_all(struct pair *p)
{
    uint8_t buf[MUCH];

    for (int i = 0; i < MEMBERS; i++) {
        CHECK_EQ(recv(p[i].us, buf, unread(&p[i]), MSG_PEEK), unread(&p[i]));
        check_ahead(&p[i], buf, 0, unread(&p[i]));
    }
    take_all(p);
}

static void count_all(struct pair *p)
{
    for (int i = 0; i < MEMBERS; i++) {
        int there = 0;

        MUST(ioctl(p[i].us, FIONREAD, &there));
        CHECK_EQ(there, unread(&p[i]));
    }
    take_all(p);
}

/* To another thread. */
static void hand_over(struct pair *p)
{
    struct worker w;

    worker_start(&w, take_all, p);
    worker_join(&w);
}

/* In a thread of its own, which has not been here before. */
static void *rounds(void *arg)
{
    void (*look)(struct pair * p) = *(void (**)(struct pair *))arg;

    for (int i = 0; i < ROUNDS; i++) {
        struct pair p[MEMBERS];

        crowd_open(p);
        fill_all(p);
        look(p);
        for (int k = 0; k < MEMBERS; k++)
            pair_close(&p[k]);
    }
    return NULL;
}

static int crowded(int argc, char **argv)
{
    static void (*ways[])(struct pair * p) = {peek_all, count_all, hand_over};

    (void)argc;
    for (int i = 0; i < THREADS; i++) {
        struct worker w;

        worker_start(&w, rounds, &ways[atoi(argv[1])]);
        worker_join(&w);
    }
    return 0;
}

/* Settings that mean nothing to a program, and to the library many small buffers. */
static void run_crowded(const char *way)
{
    pid_t pid = MUST(fork());

    if (pid == 0) {
        MUST(setenv("PBUFSHIM_BUFS", "1024", 1));
        MUST(setenv("PBUFSHIM_BUF_SIZE", "64", 1));
        MUST(setenv("PBUFSHIM_GROUPS", "shared", 1));
        execl(test_self, test_self, "--helper", "crowded", way, (char *)NULL);
        _exit(126);
    }
    check_child(pid);
    check_counted("shim", pid, "resizes", 1);
}

static void test_queue_full_peek_sees_all(void)
{
    run_crowded("0");
}

static void test_queue_full_all_is_counted(void)
{
    run_crowded("1");
}

static void test_queue_full_another_thread_reads_on(void)
{
    run_crowded("2");
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_queue_full_peek_sees_all),
    CASE_ONCE(test_queue_full_all_is_counted),
    CASE_ONCE(test_queue_full_another_thread_reads_on),
    CASES_END,
};

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = crowded;
}
