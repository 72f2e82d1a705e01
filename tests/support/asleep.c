#include "asleep.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "raw.h"

static long read_proc(pid_t tid, const char *name, char *text, size_t size)
{
    char path[64];
    long fd, n;

    snprintf(path, sizeof(path), "/proc/%d/%s", tid, name);
    fd = RAW4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    n = RAW3(SYS_read, fd, text, size - 1);
    RAW1(SYS_close, fd);
    if (n >= 0)
        text[n] = '\0';
    return n;
}

static bool waits_for_input(long nr)
{
    static const long calls[] = {
        SYS_read,
        SYS_readv,
        SYS_recvfrom,
        SYS_recvmsg,
        SYS_recvmmsg,
        SYS_preadv2,
        SYS_ppoll,
        SYS_pselect6,
        SYS_epoll_pwait,
        SYS_epoll_pwait2,
        SYS_sendfile,
        SYS_splice,
        SYS_accept,
        SYS_io_uring_enter,
        SYS_accept4,
        SYS_rt_sigtimedwait,
        SYS_restart_syscall,
        SYS_sendto, /* these two wait for room */
        SYS_write,
#ifdef SYS_poll
        SYS_poll,
        SYS_select,
        SYS_epoll_wait,
        SYS_pause,
#endif
    };

    for (size_t i = 0; i < COUNT_OF(calls); i++)
        if (calls[i] == nr)
            return true;
    return false;
}

bool thread_asleep(pid_t tid)
{
    char text[512];
    long n = read_proc(tid, "stat", text, sizeof(text));
    const char *state;

    if (n <= 0)
        return false;
    state = strrchr(text, ')');
    if (!state || state[1] != ' ' || state[2] != 'S')
        return false;
    n = read_proc(tid, "syscall", text, sizeof(text));
    if (n <= 0) {
        if (n == -ENOENT || n == -EACCES || n == -EPERM)
            test_skip("/proc/PID/syscall cannot be read (%ld)", -n);
        return false;
    }
    /* "running", or the number of the call and its arguments. */
    if (text[0] < '0' || text[0] > '9' || !waits_for_input(strtol(text, NULL, 10)))
        return false;
    /* A call that slowenter holds has not begun. */
    n = read_proc(tid, "wchan", text, sizeof(text));
    return n <= 0 || !strstr(text, "seccomp");
}

void wait_asleep(pid_t tid)
{
    while (!thread_asleep(tid))
        test_yield();
}

pid_t my_tid(void)
{
    return (pid_t)RAW0(SYS_gettid);
}

static void *later_main(void *arg)
{
    struct later *l = arg;

    while (!thread_asleep(l->target)) {
        if (__atomic_load_n(&l->over, __ATOMIC_ACQUIRE))
            return NULL;
        test_yield();
    }
    l->acted = true;
    l->act(l->arg);
    return NULL;
}

void later(struct later *l, void (*act)(void *arg), void *arg)
{
    l->target = my_tid();
    l->act = act;
    l->arg = arg;
    l->over = 0;
    l->acted = false;
    MUST0(pthread_create(&l->thread, NULL, later_main, l));
}

bool later_join(struct later *l)
{
    __atomic_store_n(&l->over, 1, __ATOMIC_RELEASE);
    MUST0(pthread_join(l->thread, NULL));
    return l->acted;
}

static void act_put(void *arg)
{
    struct later_put *lp = arg;

    put_now(lp->pair, lp->n);
}

void later_put(struct later_put *lp, struct pair *p, size_t n)
{
    lp->pair = p;
    lp->n = n;
    later(&lp->l, act_put, lp);
}

void sleep_on_other(struct pair *other)
{
    struct later_put lp;

    later_put(&lp, other, 1);
    take(other, 1);
    later_join(&lp.l);
}

static void act_kill(void *arg)
{
    struct later_kill *lk = arg;

    MUST0(pthread_kill(lk->thread, lk->sig));
}

void later_kill(struct later_kill *lk, int sig)
{
    lk->thread = pthread_self();
    lk->sig = sig;
    later(&lk->l, act_kill, lk);
}

atomic_int caught;

static void on_signal(int sig)
{
    (void)sig;
    caught++;
}

void catch_signal(int sig, int flags)
{
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = flags};

    caught = 0;
    MUST(sigaction(sig, &sa, NULL));
}

static void act_signal_then_bytes(void *arg)
{
    struct signal_then_bytes *s = arg;

    for (int i = 0; i < s->signals; i++) {
        MUST0(pthread_kill(s->lk.thread, s->lk.sig));
        while (caught <= i)
            test_yield();
        wait_asleep(s->lk.l.target);
    }
    put_now(s->p, 10);
}

void signal_then_bytes(struct signal_then_bytes *s, struct pair *p, int sig, int signals)
{
    s->p = p;
    s->signals = signals;
    s->lk.thread = pthread_self();
    s->lk.sig = sig;
    later(&s->lk.l, act_signal_then_bytes, s);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;

    __atomic_store_n(&w->tid, my_tid(), __ATOMIC_RELEASE);
    return w->run(w->arg);
}

void worker_start(struct worker *w, void *(*run)(void *arg), void *arg)
{
    w->tid = 0;
    w->run = run;
    w->arg = arg;
    MUST0(pthread_create(&w->thread, NULL, worker_main, w));
    while (!__atomic_load_n(&w->tid, __ATOMIC_ACQUIRE))
        test_yield();
}

void *worker_join(struct worker *w)
{
    void *result = NULL;

    MUST0(pthread_join(w->thread, &result));
    return result;
}

static void *acting_main(void *arg)
{
    struct acting *t = arg;

    warm_up(&t->p);
    if (t->unread) {
        put(&t->p, t->unread + 1);
        take(&t->p, 1);
    }
    __atomic_store_n(&t->ready, true, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&t->go, __ATOMIC_ACQUIRE))
        test_yield(); /* no cancellation point */
    if (t->then)
        t->then(t);
    return NULL;
}

void acting_start(struct acting *t, size_t unread, void (*then)(struct acting *t))
{
    *t = (struct acting){.p = pair_open(), .unread = unread, .then = then};
    worker_start(&t->w, acting_main, t);
    while (!__atomic_load_n(&t->ready, __ATOMIC_ACQUIRE))
        test_yield();
}

void *acting_go(struct acting *t)
{
    __atomic_store_n(&t->go, true, __ATOMIC_RELEASE);
    return worker_join(&t->w);
}

void spin(unsigned *tries)
{
    if (++*tries % 1000)
        __asm__ volatile("" : : : "memory");
    else
        test_yield();
}

static void *race_sender(void *arg)
{
    struct race *r = arg;

    for (int sent = 0;; sent++) {
        unsigned tries = 0;
        int round;

        while ((round = __atomic_load_n(&r->round, __ATOMIC_ACQUIRE)) == sent)
            spin(&tries);
        if (round < 0)
            return NULL;
        put_now(&r->p, 1);
    }
}

void race_start(struct race *r, struct pair p)
{
    r->p = p;
    r->round = 0;
    r->until = now_ms() + RACE_MS;
    worker_start(&r->w, race_sender, r);
}

bool race_next(struct race *r)
{
    if (r->round == RACE_ROUNDS || now_ms() > r->until)
        return false;
    __atomic_store_n(&r->round, r->round + 1, __ATOMIC_RELEASE);
    return true;
}

void race_end(struct race *r)
{
    __atomic_store_n(&r->round, -1, __ATOMIC_RELEASE);
    worker_join(&r->w);
    pair_close(&r->p);
}
