/*
 * Bytes that one thread has been given and another one reads, thousands of times: they are right,
 * and what they lay in can be used again.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "leg.h"
#include "loop.h"
#include "proc.h"
#include "stall.h"

#define READERS 3
#define SHELF 32
#define LEFT 3000
#define FIRST 200 /* read by the thread that is given them, byte by byte */

/* Where the one puts connections, and the others take them. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    struct pair p[SHELF];
    int n;
    bool over;
} shelf = {.lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER};

static void hand_over(struct pair p)
{
    pthread_mutex_lock(&shelf.lock);
    while (shelf.n == SHELF)
        pthread_cond_wait(&shelf.moved, &shelf.lock);
    shelf.p[shelf.n++] = p;
    pthread_cond_broadcast(&shelf.moved);
    pthread_mutex_unlock(&shelf.lock);
}

static bool take_over(struct pair *p)
{
    bool any;

    pthread_mutex_lock(&shelf.lock);
    while (!shelf.n && !shelf.over)
        pthread_cond_wait(&shelf.moved, &shelf.lock);
    any = shelf.n > 0;
    if (any)
        *p = shelf.p[--shelf.n];
    pthread_cond_broadcast(&shelf.moved);
    pthread_mutex_unlock(&shelf.lock);
    return any;
}

static void no_more(void)
{
    pthread_mutex_lock(&shelf.lock);
    shelf.over = true;
    pthread_cond_broadcast(&shelf.moved);
    pthread_mutex_unlock(&shelf.lock);
}

/* Reads what was left, in pieces; some is closed with half of it unread. */
static void *read_what_is_left(void *arg)
{
    struct pair p;

    for (int i = 0; take_over(&p); i++) {
        bool half = i % 5 == 4;

        take_in_parts(&p, half ? LEFT / 2 : LEFT);
        if (!half) {
            check_empty(p.us);
            put(&p, 10);
            take(&p, 10);
        }
        MUST(close(p.us));
        if (half)
            CHECK_PEER_SEES(p.peer, SEEN_RESET);
        p.us = -1;
        pair_drop(&p);
    }
    return arg;
}

/* The thread that all bytes come to first. */
static void give(int connections)
{
    int listener = MUST(listener_open(AF_INET));
    struct worker w[READERS];

    for (int i = 0; i < READERS; i++)
        worker_start(&w[i], read_what_is_left, NULL);
    for (int i = 0; i < connections; i++) {
        struct pair p = pair_from(listener);

        put(&p, FIRST + LEFT);
        for (int k = 0; k < FIRST; k++)
            take(&p, 1);
        hand_over(p);
    }
    no_more();
    for (int i = 0; i < READERS; i++)
        worker_join(&w[i]);
    close(listener);
}

/* The helper: a process of its own, so that its counters can be asked for. */
static int give_in_a_process(int argc, char **argv)
{
    give(argc > 1 ? atoi(argv[1]) : 10);
    return 0;
}

/* Were buffers lost, a thousand connections would be many more than there are of them. */
static void test_threads_buffers_come_home(void)
{
    int n = TEST_TSAN || TEST_ASAN ? 600 : 1500;
    char text[16];
    pid_t pid = MUST(fork());

    snprintf(text, sizeof(text), "%d", n);
    if (pid == 0) {
        execl(test_self, test_self, "--helper", "give", text, (char *)NULL);
        _exit(126);
    }
    check_child(pid);
    /* Nine tenths of what the first thread read and left. */
    check_counted("shim", pid, "ring_bytes", (long)n * (FIRST + LEFT) / 10 * 9);
}

struct loop {
    int ep;
    bool over;
    struct pair p[SHELF];
    struct worker w;
};

static void *loop_main(void *arg)
{
    struct loop *l = arg;

    for (int i = 0; i < SHELF; i++) {
        l->p[i] = ep_pair(l->ep, EPOLLIN, (uint64_t)i);
        put(&l->p[i], 1 + LEFT);
        take(&l->p[i], 1);
    }
    for (int i = 0; i < SHELF; i++) {
        ep_ctl(l->ep, EPOLL_CTL_DEL, l->p[i].us, 0, 0);
        hand_over(l->p[i]);
    }
    return NULL;
}

/* Event loops that give away members; each ends while others still read what it left. */
static void test_threads_loops_end_before_their_bytes_are_read(void)
{
    struct worker readers[READERS];

    for (int round = 0; round < 12; round++) {
        struct loop l = {.ep = MUST(epoll_create1(EPOLL_CLOEXEC))};

        shelf.over = false;
        worker_start(&l.w, loop_main, &l);
        if (round % 2) /* the thread is no more when the first byte of its is read */
            worker_join(&l.w);
        for (int i = 0; i < READERS; i++)
            worker_start(&readers[i], read_what_is_left, NULL);
        if (round % 2 == 0)
            worker_join(&l.w);
        no_more();
        for (int i = 0; i < READERS; i++)
            worker_join(&readers[i]);
        MUST(close(l.ep));
    }
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_threads_buffers_come_home),
    CASE(test_threads_loops_end_before_their_bytes_are_read),
    CASES_END,
};

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = give_in_a_process;
}
