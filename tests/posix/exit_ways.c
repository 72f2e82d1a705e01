/*
 * The end of a process is the end of its connections: the peer hears of it at once, however the
 * process ended and whatever its threads were doing; as a reset where bytes were left unread.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "asleep.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

static void by_exit(void)
{
    exit(0);
}

static void by_underscore(void)
{
    _exit(0);
}

static void by_underscore_upper(void)
{
    _Exit(0);
}

static void by_quick_exit(void)
{
    quick_exit(0);
}

static void by_exit_group(void)
{
    syscall(SYS_exit_group, 0);
}

/* Of this thread alone, and the last one. */
static void by_exit_number(void)
{
    syscall(SYS_exit, 0);
}

static void by_term(void)
{
    raise(SIGTERM);
}

static void by_kill(void)
{
    raise(SIGKILL);
}

static void by_abort(void)
{
    abort();
}

static void by_last_thread(void)
{
    pthread_exit(NULL);
}

struct way {
    const char *name;
    void (*end)(void);
    int status;
};

static const struct way ways[] = {
    {"exit", by_exit, 0},
    {"_exit", by_underscore, 0},
    {"_Exit", by_underscore_upper, 0},
    {"quick_exit", by_quick_exit, 0},
    {"exit_group", by_exit_group, 0},
#if !TEST_TSAN /* there is a thread of its own, which does not end */
    {"exit by number", by_exit_number, 0},
#endif
    {"SIGTERM", by_term, SIGTERM},
    {"SIGKILL", by_kill, SIGKILL},
    {"abort", by_abort, SIGABRT},
#if !TEST_TSAN /* there is a thread of its own, which does not end */
    {"pthread_exit", by_last_thread, 0},
#endif
};

static bool of_one_thread(const struct way *way)
{
    return way->end == by_last_thread || way->end == by_exit_number;
}

/* What another thread is doing at that moment. */
enum busy { ALONE, IN_RECV, IN_POLL, IN_EPOLL, HELD_ELSEWHERE, BUSIES };

static struct pair other;

static void *busy_main(void *arg)
{
    struct pollfd pfd = {.fd = other.us, .events = POLLIN};
    struct epoll_event ev = {.events = EPOLLIN};
    int ep = MUST(epoll_create1(0));
    char byte;

    MUST0(pthread_detach(pthread_self()));
    take(&other, WARM_READS);
    switch (*(enum busy *)arg) {
    case IN_RECV:
        recv(other.us, &byte, 1, 0);
        break;
    case IN_POLL:
        poll(&pfd, 1, -1);
        break;
    case IN_EPOLL:
        MUST(epoll_ctl(ep, EPOLL_CTL_ADD, other.us, &ev));
        epoll_wait(ep, &ev, 1, -1);
        break;
    default:
        take(&other, 1); /* of fifty more */
        for (;;)
            pause();
    }
    return NULL;
}

/* One that only pauses is never asleep in a wait for input. */
static void start_busy(enum busy *busy)
{
    struct worker w;

    settle(other.us, WARM_READS + (*busy == HELD_ELSEWHERE ? 50 : 0));
    worker_start(&w, busy_main, busy);
    if (*busy != HELD_ELSEWHERE)
        wait_asleep(w.tid);
    else
        while (__atomic_load_n(&other.got, __ATOMIC_ACQUIRE) <= WARM_READS)
            test_yield();
}

struct scene {
    struct pair p, q;
    pid_t pid;
};

/* A process with two connections ends; of the first so many bytes are unread, the second is busy. */
static struct scene begin(const struct way *way, size_t unread, enum busy busy)
{
    int listener = MUST(listener_open(AF_INET));
    struct scene s = {.p = {.us = -1}, .q = {.us = -1}};

    s.pid = MUST(fork());
    if (s.pid == 0) {
        struct pair p = {.us = connect_to(listener), .peer = -1};

        other.us = connect_to(listener);
        close(listener);
        settle(p.us, WARM_READS + unread);
        for (int i = 0; i < WARM_READS; i++)
            take(&p, 1);
        if (busy != ALONE)
            start_busy(&busy);
        way->end();
        for (;;)
            pause();
    }
    s.p.peer = MUST(accept(listener, NULL, NULL));
    s.q.peer = MUST(accept(listener, NULL, NULL));
    close(listener);
    put_now(&s.q, WARM_READS + (busy == HELD_ELSEWHERE ? 50 : 0));
    put_now(&s.p, WARM_READS + unread);
    return s;
}

static void end_and_look(const struct way *way, enum busy busy, size_t unread)
{
    enum seen q_wanted = busy == HELD_ELSEWHERE || busy == ALONE ? SEEN_RESET : SEEN_FIN;
    struct scene s = begin(way, unread, busy);
    /* After a signal it is a worker of the kernel that ends what a ring has asked for. */
    int64_t patience = slack(way->status ? 1000 : 100);
    enum seen q_seen;

    check_child_status(s.pid, way->status);
    if (peer_sees(s.p.peer, patience) != (unread ? SEEN_RESET : SEEN_FIN))
        FAIL("%s, another thread busy in way %d, %zu bytes unread: not as wanted", way->name, busy,
             unread);
    q_seen = peer_sees(s.q.peer, patience);
    if (q_seen != q_wanted)
        FAIL("%s, the busy connection (way %d): wanted %s, got %s", way->name, busy,
             seen_name(q_wanted), seen_name(q_seen));
    close(s.p.peer);
    close(s.q.peer);
}

static void test_the_peers_hear_of_it(void)
{
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        for (int busy = 0; busy < BUSIES; busy++) {
            if (of_one_thread(&ways[i]) && busy != ALONE)
                continue; /* not the last one then */
            if (ways[i].status && busy == HELD_ELSEWHERE)
                continue; /* no code of the process runs then, to say that bytes were held: a listed limit */
            end_and_look(&ways[i], (enum busy)busy, 0);
            if (!ways[i].status) /* the same */
                end_and_look(&ways[i], (enum busy)busy, 40);
        }
    }
}

static int64_t now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static int by_size(const void *a, const void *b)
{
    return *(const int64_t *)a < *(const int64_t *)b ? -1
                                                     : *(const int64_t *)a > *(const int64_t *)b;
}

/* The kernel closes all before it tells the parent: what comes later than that is late. */
static void test_the_peer_hears_of_it_without_delay(void)
{
    enum { TIMES = 25 };

    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        for (int busy = ALONE; busy <= IN_EPOLL; busy += IN_EPOLL) {
            int64_t took[TIMES];

            if (ways[i].status || (of_one_thread(&ways[i]) && busy))
                continue; /* by a signal nobody can put things in order before */
            for (int k = 0; k < TIMES; k++) {
                struct scene s = begin(&ways[i], 0, (enum busy)busy);
                int64_t ended;

                check_child(s.pid);
                ended = now_us();
                CHECK_PEER_SEES(s.p.peer, SEEN_FIN);
                took[k] = now_us() - ended;
                close(s.p.peer);
                close(s.q.peer);
            }
            qsort(took, TIMES, sizeof(*took), by_size);
            if (took[TIMES / 2] > slack(1000))
                FAIL("%s, busy in way %d: heard of %lld us after the end at the median",
                     ways[i].name, busy, (long long)took[TIMES / 2]);
        }
    }
}

/* The same of many connections that a thread has which is doing something else at the time. */
enum { MANY = 30 };

static int many[MANY];

static void warm_many(void)
{
    for (int i = 0; i < MANY; i++) {
        struct pair p = {.us = many[i], .peer = -1};

        settle(p.us, WARM_READS);
        take(&p, WARM_READS - 1); /* and what comes later, if it can */
        take(&p, 1);
    }
}

static void *away_main(void *arg)
{
    warm_many();
    __atomic_store_n((int *)arg, 1, __ATOMIC_RELEASE);
    for (;;)
        pause();
    return NULL;
}

static pid_t begin_many(const struct way *way, int *peers, void *(*fn)(void *))
{
    int listener = MUST(listener_open(AF_INET));
    pid_t pid = MUST(fork());

    if (pid == 0) {
        struct worker w;
        int there = 0;

        for (int i = 0; i < MANY; i++)
            many[i] = connect_to(listener);
        close(listener);
        worker_start(&w, fn, &there);
        while (!__atomic_load_n(&there, __ATOMIC_ACQUIRE))
            test_yield();
        if (fn == away_main)
            wait_asleep(w.tid);
        way->end();
        for (;;)
            pause();
    }
    for (int i = 0; i < MANY; i++) {
        struct pair p = {.us = -1, .peer = MUST(accept(listener, NULL, NULL))};

        put_now(&p, WARM_READS);
        peers[i] = p.peer;
    }
    close(listener);
    return pid;
}

static void test_the_peers_of_a_thread_elsewhere_hear_of_it_without_delay(void)
{
    enum { TIMES = 15 };

    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        int64_t took[TIMES];

        if (ways[i].status || of_one_thread(&ways[i]))
            continue;
        for (int k = 0; k < TIMES; k++) {
            int peers[MANY];
            int64_t ended;

            check_child(begin_many(&ways[i], peers, away_main));
            ended = now_us();
            for (int n = 0; n < MANY; n++)
                CHECK_PEER_SEES(peers[n], SEEN_FIN);
            took[k] = now_us() - ended;
            for (int n = 0; n < MANY; n++)
                close(peers[n]);
        }
        qsort(took, TIMES, sizeof(*took), by_size);
        if (took[TIMES / 2] > slack(1000))
            FAIL("%s: heard of %lld us after the end at the median", ways[i].name,
                 (long long)took[TIMES / 2]);
    }
}

/* A thread that comes back to its connections at that moment sees no end of them. */
static int told[2];

static void *loop_main(void *arg)
{
    warm_many();
    __atomic_store_n((int *)arg, 1, __ATOMIC_RELEASE);
    for (int i = 0;; i = (i + 1) % MANY) {
        char byte;

        if (recv(many[i], &byte, 1, MSG_DONTWAIT) >= 0 || errno != EAGAIN)
            MUST(write(told[1], "", 1));
    }
    return NULL;
}

static void test_no_thread_sees_the_end(void)
{
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        if (of_one_thread(&ways[i]))
            continue;
        for (int k = 0; k < 10; k++) {
            int peers[MANY];
            char byte;

            MUST0(pipe(told));
            check_child_status(begin_many(&ways[i], peers, loop_main), ways[i].status);
            close(told[1]);
            CHECK_EQ(read(told[0], &byte, 1), 0);
            close(told[0]);
            for (int n = 0; n < MANY; n++)
                close(peers[n]);
        }
    }
}

/* What a stream has yet to write is written at the end, whoever had the connection. */
static void test_streams_are_written_out_at_the_end(void)
{
    for (int k = 0; k < 10; k++) {
        int listener = MUST(listener_open(AF_INET));
        struct pair p = {.us = -1};
        pid_t pid = MUST(fork());
        char word[4];

        if (pid == 0) {
            enum busy busy = HELD_ELSEWHERE;
            FILE *f;

            other.us = connect_to(listener);
            close(listener);
            start_busy(&busy);
            f = fdopen(other.us, "w");
            CHECK(f && fputs("late", f) >= 0);
            exit(0);
        }
        p.peer = MUST(accept(listener, NULL, NULL));
        close(listener);
        put_now(&p, WARM_READS + 50);
        check_child(pid);
        CHECK_EQ(recv(p.peer, word, 4, MSG_WAITALL), 4);
        CHECK_EQ(memcmp(word, "late", 4), 0);
        close(p.peer);
    }
}

/* Functions that run at the end still have their connections. */
static struct pair late;

static void read_at_exit(void)
{
    take(&late, 20);
    CHECK_EQ(send(late.us, "late", 4, MSG_NOSIGNAL), 4);
}

static void test_functions_at_exit_read_on(void)
{
    for (int quick = 0; quick < 2; quick++) {
        int listener = MUST(listener_open(AF_INET));
        pid_t pid = MUST(fork());
        struct pair p = {.us = -1};
        char word[4];

        if (pid == 0) {
            late.us = connect_to(listener);
            close(listener);
            settle(late.us, WARM_READS + 20);
            take(&late, WARM_READS);
            if (quick) {
                CHECK_EQ(at_quick_exit(read_at_exit), 0);
                quick_exit(0);
            }
            CHECK_EQ(atexit(read_at_exit), 0);
            exit(0);
        }
        p.peer = MUST(accept(listener, NULL, NULL));
        close(listener);
        put_now(&p, WARM_READS + 20);
        check_child(pid);
        CHECK_EQ(recv(p.peer, word, 4, MSG_WAITALL), 4);
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        close(p.peer);
    }
}

/* The process that made it has gone; its child is the last one, and reads before it goes. */
static void test_the_last_of_a_family_ends_the_connection(void)
{
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        struct shared *s = pair_share(pair_open_held(60));
        pid_t first = MUST(fork()), second;

        if (first == 0) {
            second = MUST(fork());
            if (second == 0) {
                turn_wait(s, 1);
                take(&s->p, 30);
                ways[i].end();
            }
            take(&s->p, 30);
            ways[i].end();
        }
        check_child_status(first, ways[i].status);
        MUST(close(s->p.us));
        CHECK_EQ(peer_sees(s->p.peer, 5), SEEN_NOTHING);
        turn_to(s, 1);
        CHECK_PEER_SEES(s->p.peer, SEEN_FIN);
        s->p.us = -1;
        shared_close(s);
    }
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_the_peers_hear_of_it),
    CASE_ONCE(test_the_peer_hears_of_it_without_delay),
    CASE_ONCE(test_the_peers_of_a_thread_elsewhere_hear_of_it_without_delay),
    CASE_ONCE(test_no_thread_sees_the_end),
    CASE_ONCE(test_streams_are_written_out_at_the_end),
    CASE_ONCE(test_functions_at_exit_read_on),
    CASE(test_the_last_of_a_family_ends_the_connection),
    CASES_END,
};
