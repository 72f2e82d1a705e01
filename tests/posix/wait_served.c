/*
 * A thread asleep in poll, ppoll, select or pselect for sockets that it reads from: how long, what
 * ends it, and what it is told then.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

enum kind { POLL, PPOLL, SELECT, PSELECT, KINDS };

#define MOST 70

/* Waits for input on n descriptors: how many, and in *ready which. us < 0: for ever. */
static int wait_in(enum kind kind, const int *fd, int n, int64_t us, const sigset_t *mask,
                   bool *ready)
{
    struct timespec ts = {us / 1000000, us % 1000000 * 1000};
    struct timeval tv = {us / 1000000, us % 1000000};
    struct pollfd p[MOST];
    fd_set in;
    int top = -1, r;

    FD_ZERO(&in);
    for (int i = 0; i < n; i++) {
        p[i] = (struct pollfd){.fd = fd[i], .events = POLLIN, .revents = 0x7fff};
        if (kind >= SELECT)
            FD_SET(fd[i], &in);
        if (fd[i] > top)
            top = fd[i];
    }
    switch (kind) {
    case POLL:
        r = poll(p, (nfds_t)n, us < 0 ? -1 : (int)(us / 1000));
        break;
    case PPOLL:
        r = ppoll(p, (nfds_t)n, us < 0 ? NULL : &ts, mask);
        break;
    case SELECT:
        r = select(top + 1, &in, NULL, NULL, us < 0 ? NULL : &tv);
        break;
    default:
        r = pselect(top + 1, &in, NULL, NULL, us < 0 ? NULL : &ts, mask);
        break;
    }
    if (r < 0)
        return r;
    for (int i = 0; i < n; i++) {
        bool yes = kind < SELECT ? p[i].revents == POLLIN : FD_ISSET(fd[i], &in);

        if (kind < SELECT && p[i].revents && !yes)
            FAIL("bits %x", p[i].revents);
        if (ready)
            ready[i] = yes;
    }
    if (kind == PPOLL || kind == PSELECT) /* theirs is not written to */
        CHECK(us < 0 || (ts.tv_sec == us / 1000000 && ts.tv_nsec == us % 1000000 * 1000));
    return r;
}

#define FOR_EACH_KIND(k) for (enum kind k = POLL; k < KINDS; k++)

/* Read from before, and seen empty. */
static struct pair pair_seen_empty(void)
{
    struct pair p = pair_open_warm();

    check_empty(p.us);
    return p;
}

static int64_t now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000) + ts.tv_nsec / 1000;
}

static void test_wait_takes_its_time(void)
{
    static const int64_t times[] = {0, 300, 1000, 25000};
    struct pair p = pair_seen_empty(), q = pair_seen_empty();
    int fd[] = {p.us, q.us};

    FOR_EACH_KIND(k)
    {
        for (size_t i = 0; i < COUNT_OF(times); i++) {
            int64_t begin = now_us(), took, least = k == POLL ? times[i] / 1000 * 1000 : times[i];

            CHECK_EQ(wait_in(k, fd, 2, times[i], NULL, NULL), 0);
            took = now_us() - begin;
            if (took < least || took > times[i] + slack(200) * 1000)
                FAIL("kind %d, %lld us: took %lld", k, (long long)times[i], (long long)took);
        }
    }
    pair_close(&p);
    pair_close(&q);
}

static void test_wait_is_ended_by_any_of_many(void)
{
    enum { N = 60 };
    struct pair all[N];
    int fd[N];

    for (int i = 0; i < N; i++) {
        all[i] = pair_seen_empty();
        fd[i] = all[i].us;
    }
    for (int i = 0; i < 48; i++) {
        struct pair *one = &all[i * 7 % N];
        enum kind k = (enum kind)(i % KINDS);
        struct later_put lp;
        bool ready[N];

        later_put(&lp, one, 9);
        CHECK_EQ(wait_in(k, fd, N, i % 8 < 4 ? -1 : 10000000, NULL, ready), 1);
        CHECK(ready[one - all]);
        later_join(&lp.l);
        settle(one->us, one->sent);
        take(one, 9);
        CHECK_EQ(wait_in(k, fd, N, 0, NULL, NULL), 0);
        /* All at once. */
        for (int m = 0; m < N; m++)
            put(&all[m], 3);
        CHECK_EQ(wait_in(k, fd, N, -1, NULL, NULL), N);
        for (int m = 0; m < N; m++)
            take(&all[m], m % 2 ? 3 : 2);
        CHECK_EQ(wait_in(k, fd, N, -1, NULL, ready), N / 2);
        CHECK(ready[0] && !ready[1]);
        for (int m = 0; m < N; m += 2)
            take(&all[m], 1);
    }
    for (int i = 0; i < N; i++)
        pair_close(&all[i]);
}

static void test_select_writes_what_was_left(void)
{
    struct pair p = pair_seen_empty();

    for (int i = 0; i < 12; i++) {
        struct timeval tv = {5, 0};
        int64_t begin = now_us(), left, took;
        struct later_put lp;
        struct later_kill lk;
        fd_set in;
        int r;

        FD_ZERO(&in);
        FD_SET(p.us, &in);
        catch_signal(SIGUSR1, SA_RESTART);
        if (i % 3 == 0)
            later_put(&lp, &p, 4);
        else if (i % 3 == 1)
            later_kill(&lk, SIGUSR1);
        else
            tv = (struct timeval){0, 20000};
        r = select(p.us + 1, &in, NULL, NULL, &tv);
        took = now_us() - begin;
        left = tv.tv_sec * INT64_C(1000000) + tv.tv_usec;
        CHECK(FD_ISSET(p.us, &in) == (i % 3 < 2)); /* left alone when a signal ends it */
        if (i % 3 == 2) {
            CHECK_EQ(r, 0);
            CHECK_EQ(left, 0);
            continue;
        }
        CHECK_EQ(r, i % 3 ? -1 : 1);
        later_join(i % 3 ? &lk.l : &lp.l);
        if (left < 5000000 - took - 1000 || left > 5000000)
            FAIL("%lld us left of 5 s after %lld", (long long)left, (long long)took);
        if (i % 3 == 0)
            take(&p, 4);
    }
    pair_close(&p);
}

static void test_wait_signal_is_eintr(void)
{
    struct pair p = pair_seen_empty();

    catch_signal(SIGUSR1, SA_RESTART);
    for (int i = 0; i < 40; i++) {
        enum kind k = (enum kind)(i % KINDS);
        int before = atomic_load(&caught);
        struct later_kill lk;

        later_kill(&lk, SIGUSR1);
        CHECK_ERR(wait_in(k, &p.us, 1, i % 8 < 4 ? -1 : 10000000, NULL, NULL), EINTR);
        later_join(&lk.l);
        CHECK_EQ(atomic_load(&caught), before + 1);
        put(&p, 3);
        CHECK_EQ(wait_in(k, &p.us, 1, -1, NULL, NULL), 1);
        take(&p, 3);
    }
    pair_close(&p);
}

struct kill_and_put {
    struct later l;
    pthread_t thread;
    struct pair *p;
};

static void act_kill_and_put(void *arg)
{
    struct kill_and_put *a = arg;

    MUST0(pthread_kill(a->thread, SIGUSR1));
    put_now(a->p, 5);
}

static void test_wait_mask_holds_while_it_sleeps(void)
{
    struct pair p = pair_seen_empty();
    sigset_t none, usr1, now;

    sigemptyset(&none);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    catch_signal(SIGUSR1, SA_RESTART);
    for (int i = 0; i < 24; i++) {
        enum kind k = i % 2 ? PPOLL : PSELECT;
        int64_t us = i % 4 < 2 ? -1 : 10000000;
        struct kill_and_put kp = {.thread = pthread_self(), .p = &p};
        int before = atomic_load(&caught);
        struct later_kill lk;

        /* Masked by the program, admitted by the call. Pending, it ends even one of no time. */
        MUST0(pthread_sigmask(SIG_BLOCK, &usr1, NULL));
        if (i % 3) {
            MUST0(pthread_kill(pthread_self(), SIGUSR1));
            CHECK_ERR(wait_in(k, &p.us, 1, i % 3 == 1 ? 0 : us, &none, NULL), EINTR);
        } else {
            later_kill(&lk, SIGUSR1);
            CHECK_ERR(wait_in(k, &p.us, 1, us, &none, NULL), EINTR);
            later_join(&lk.l);
        }
        CHECK_EQ(atomic_load(&caught), before + 1);
        MUST0(pthread_sigmask(SIG_SETMASK, NULL, &now));
        CHECK(sigismember(&now, SIGUSR1));
        /* What is ready wins: the signal goes on waiting. */
        put(&p, 5);
        MUST0(pthread_kill(pthread_self(), SIGUSR1));
        CHECK_EQ(wait_in(k, &p.us, 1, us, &none, NULL), 1);
        CHECK_EQ(atomic_load(&caught), before + 1);
        MUST0(pthread_sigmask(SIG_SETMASK, &none, NULL));
        CHECK_EQ(atomic_load(&caught), before + 2);
        take(&p, 5);
        /* Admitted by the program, masked by the call: it runs when that is over. */
        later(&kp.l, act_kill_and_put, &kp);
        CHECK_EQ(wait_in(k, &p.us, 1, us, &usr1, NULL), 1);
        later_join(&kp.l);
        CHECK_EQ(atomic_load(&caught), before + 3);
        settle(p.us, p.sent);
        take(&p, 5);
    }
    pair_close(&p);
}

/* A child that stops us when we sleep, and lets us go on when we have been seen to stand still. */
static pid_t stopper(pid_t us)
{
    pid_t pid = MUST(fork());
    char path[64], text[512];

    if (pid)
        return pid;
    for (int i = 0; i < 6; i++) {
        ssize_t n = 0;

        wait_asleep(us);
        MUST(kill(us, SIGSTOP));
        snprintf(path, sizeof(path), "/proc/%d/stat", us);
        do {
            int fd = MUST(open(path, O_RDONLY));

            n = read(fd, text, sizeof(text) - 1);
            close(fd);
            text[n > 0 ? n : 0] = '\0';
        } while (!strstr(text, ") T"));
        MUST(kill(us, SIGCONT));
        do {
            int fd = MUST(open(path, O_RDONLY));

            n = read(fd, text, sizeof(text) - 1);
            close(fd);
            text[n > 0 ? n : 0] = '\0';
        } while (strstr(text, ") T"));
    }
    _exit(0);
}

static void test_wait_is_not_ended_by_stop_and_continue(void)
{
    FOR_EACH_KIND(k)
    {
        pid_t pid = stopper(getpid());
        struct pair p = pair_seen_empty();
        int64_t begin = now_us();

        CHECK_EQ(wait_in(k, &p.us, 1, 300000, NULL, NULL), 0);
        CHECK(now_us() - begin >= 300000);
        MUST(kill(pid, SIGKILL));
        CHECK_EQ(waitpid(pid, NULL, 0), pid);
        put(&p, 3);
        CHECK_EQ(wait_in(k, &p.us, 1, -1, NULL, NULL), 1);
        pair_close(&p);
    }
}

const struct test_case test_cases[] = {
    CASE(test_wait_takes_its_time),
    CASE_ONCE(test_wait_is_ended_by_any_of_many),
    CASE(test_select_writes_what_was_left),
    CASE(test_wait_signal_is_eintr),
    CASE(test_wait_mask_holds_while_it_sleeps),
    CASE_ONCE(test_wait_is_not_ended_by_stop_and_continue),
    CASES_END,
};
