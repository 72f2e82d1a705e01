/*
 * Acting on a thread that is asleep: "while it is blocked" without guessing a delay.
 *
 * A thread counts as asleep when the kernel says so and names a call that waits for input
 * (recvfrom, poll, epoll_wait, io_uring_enter ...). These functions use no libc call on a socket
 * and no descriptor for longer than a look at /proc.
 */
#ifndef TESTS_SUPPORT_ASLEEP_H
#define TESTS_SUPPORT_ASLEEP_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "tcp.h"

bool thread_asleep(pid_t tid);
void wait_asleep(pid_t tid);
pid_t my_tid(void);

/* Something that another thread does as soon as the thread that started it is asleep. */
struct later {
    pthread_t thread;
    pid_t target;
    void (*act)(void *arg);
    void *arg;
    int over;
    bool acted;
};

void later(struct later *l, void (*act)(void *arg), void *arg);
/* False if the call ended without that: a timed one may, on a busy machine, and must be repeated. */
bool later_join(struct later *l);

/* The most frequent ones. */
struct later_put {
    struct later l;
    struct pair *pair;
    size_t n;
};
void later_put(struct later_put *lp, struct pair *p, size_t n);

/*
 * Sleeps in a blocking receive on another connection until a byte comes there: whatever else this
 * thread has under way with the kernel gets its turn meanwhile. `other` must be warm.
 */
void sleep_on_other(struct pair *other);

/* pthread_kill() of the thread that called this, when it is asleep. */
struct later_kill {
    struct later l;
    pthread_t thread;
    int sig;
};
void later_kill(struct later_kill *lk, int sig);

/* sigaction() with these flags and an empty mask; the handler counts into caught. */
extern atomic_int caught;
void catch_signal(int sig, int flags);

/* Signals, each when the thread is asleep (again), and then ten bytes. */
struct signal_then_bytes {
    struct later_kill lk;
    struct pair *p;
    int signals;
};
void signal_then_bytes(struct signal_then_bytes *s, struct pair *p, int sig, int signals);

/* A thread that tells its id before its function runs, for those who wait for its sleep. */
struct worker {
    pthread_t thread;
    pid_t tid;
    void *(*run)(void *arg);
    void *arg;
};

void worker_start(struct worker *w, void *(*run)(void *arg), void *arg);
void *worker_join(struct worker *w);

/* A thread that has read from its connection and does something more when it is told to. */
struct acting {
    struct pair p;
    size_t unread;
    bool ready, go;
    void (*then)(struct acting *t);
    struct worker w;
};

/* Returns when the thread has read; so many bytes are left that have arrived. then: NULL or what to do. */
void acting_start(struct acting *t, size_t unread, void (*then)(struct acting *t));
void *acting_go(struct acting *t);

/*
 * A sender on another core: a byte of payload each time the round goes up, so that the receiver
 * meets arrivals at every instant. Both sides spin. RACE_ROUNDS of them, fewer on a machine so
 * busy that they would take more than RACE_MS.
 */
#define RACE_ROUNDS 20000
#define RACE_MS 4000

struct race {
    struct pair p;
    int round;
    int64_t until;
    struct worker w;
};

void race_start(struct race *r, struct pair p);
bool race_next(struct race *r); /* lets the next byte go; false when it is enough */
void race_end(struct race *r);

/* For loops that wait for another core without asking the kernel. */
void spin(unsigned *tries);

#endif
