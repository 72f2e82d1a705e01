/*
 * Control flow that leaves a receive by another way than its return: siglongjmp and then the end of
 * the thread, a fork inside a handler, switched contexts.
 */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];
static __thread sigjmp_buf jump;

static void jump_out(int sig)
{
    siglongjmp(jump, sig);
}

enum sleeper { IN_RECV, IN_POLL, IN_EPOLL, SLEEPERS };

struct jumper {
    struct pair p;
    enum sleeper how;
    bool cancel;
    int stage;
};

static void sleep_there(struct jumper *j)
{
    struct pollfd pfd = {.fd = j->p.us, .events = POLLIN};
    struct epoll_event ev = {.events = EPOLLIN};
    int ep;

    if (j->how == IN_RECV) {
        recv(j->p.us, buf, 1, 0);
    } else if (j->how == IN_POLL) {
        poll(&pfd, 1, -1);
    } else {
        ep = MUST(epoll_create1(0));
        MUST(epoll_ctl(ep, EPOLL_CTL_ADD, j->p.us, &ev));
        epoll_wait(ep, &ev, 1, -1);
    }
    FAIL("the call returned");
}

static void __attribute__((noinline)) overwrite_the_stack(void)
{
    volatile uint8_t junk[16384];

    for (size_t i = 0; i < sizeof(junk); i++)
        junk[i] = 0x5a;
}

static void *jump_then_end(void *arg)
{
    struct jumper *j = arg;

    warm_up(&j->p);
    if (sigsetjmp(jump, 1) == 0) {
        __atomic_store_n(&j->stage, 1, __ATOMIC_RELEASE);
        sleep_there(j);
    }
    overwrite_the_stack();
    __atomic_store_n(&j->stage, 2, __ATOMIC_RELEASE);
    if (j->cancel)
        for (;;) {
            pthread_testcancel();
            test_yield();
        }
    pthread_exit((void *)42L);
}

static void test_siglongjmp_out_then_the_thread_ends(void)
{
    struct sigaction sa = {.sa_handler = jump_out};

    if (TEST_ASAN)
        test_skip("AddressSanitizer takes a cancelled thread's stack for a damaged one");
    MUST(sigaction(SIGUSR1, &sa, NULL));
    for (int how = 0; how < SLEEPERS; how++) {
        for (int cancel = 0; cancel < 2; cancel++) {
            struct jumper j = {.p = pair_open(), .how = (enum sleeper)how, .cancel = cancel};
            struct worker w;

            worker_start(&w, jump_then_end, &j);
            CHECK_SOON(__atomic_load_n(&j.stage, __ATOMIC_ACQUIRE) == 1 && thread_asleep(w.tid),
                       5000);
            MUST0(pthread_kill(w.thread, SIGUSR1));
            if (cancel) {
                CHECK_SOON(__atomic_load_n(&j.stage, __ATOMIC_ACQUIRE) == 2, 5000);
                MUST0(pthread_cancel(w.thread));
            }
            CHECK(worker_join(&w) == (cancel ? PTHREAD_CANCELED : (void *)42L));
            put(&j.p, 5);
            take(&j.p, 5);
            MUST(close(j.p.us));
            CHECK_PEER_SEES(j.p.peer, SEEN_FIN);
            close(j.p.peer);
        }
    }
}

/* A handler forks; both processes return from it into the receive. */
static pid_t parent, child;

static void fork_in_handler(int sig)
{
    (void)sig;
    child = fork();
}

static void returning_child(enum sleeper how)
{
    struct sigaction sa = {.sa_handler = fork_in_handler};
    struct pair p = pair_open_warm();
    struct pollfd pfd = {.fd = p.us, .events = POLLIN};
    struct later_kill lk;
    int status;
    ssize_t r;

    parent = getpid();
    child = -1;
    MUST(sigaction(SIGUSR1, &sa, NULL));
    later_kill(&lk, SIGUSR1);
    errno = 0;
    r = how == IN_RECV ? recv(p.us, buf, 1, 0) : poll(&pfd, 1, -1);
    if (getpid() != parent)
        _exit(r == -1 && errno == EINTR ? 7 : 8);
    CHECK(child > 0);
    later_join(&lk.l);
    CHECK_EQ(r, -1);
    CHECK_EQ(errno, EINTR);
    CHECK_EQ(waitpid(child, &status, 0), child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 7)
        FAIL("the child ended with status %#x", status);
    put(&p, 20);
    take(&p, 20);
    pair_close(&p);
}

static void test_fork_in_a_handler_the_child_returns_into_the_call(void)
{
    returning_child(IN_RECV);
    returning_child(IN_POLL);
}

struct feeder {
    struct later l;
    pthread_t thread;
    struct pair *p;
};

static void signal_then_feed_both(void *arg)
{
    struct feeder *f = arg;
    pid_t forked;

    MUST0(pthread_kill(f->thread, SIGUSR1));
    while ((forked = __atomic_load_n(&child, __ATOMIC_ACQUIRE)) <= 0)
        test_yield();
    wait_asleep(forked);
    wait_asleep(f->l.target);
    put_now(f->p, 2);
}

/* Restarted in both: each gets one of the two bytes. */
static void test_fork_in_a_handler_with_restart_both_go_on(void)
{
    struct sigaction sa = {.sa_handler = fork_in_handler, .sa_flags = SA_RESTART};
    struct pair p = pair_open_warm();
    struct feeder f = {.thread = pthread_self(), .p = &p};
    int status;
    ssize_t r;

    parent = getpid();
    child = -1;
    MUST(sigaction(SIGUSR1, &sa, NULL));
    later(&f.l, signal_then_feed_both, &f);
    r = recv(p.us, buf, 1, 0);
    if (getpid() != parent)
        _exit(r == 1 ? 7 : 8);
    CHECK_EQ(r, 1);
    later_join(&f.l);
    CHECK_EQ(waitpid(child, &status, 0), child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 7)
        FAIL("the child ended with status %#x", status);
    check_empty(p.us);
    pair_close(&p);
}

/* Coroutines that a timer switches, each inside a receive of its own. */
static ucontext_t main_ctx, co[2];
static volatile int current, done_co[2];
static struct pair co_pair[2];
static volatile long switches;
static volatile int switching;

static void preempt(int sig)
{
    int from = current;

    (void)sig;
    /* swapcontext() puts the other one's mask back before it goes there. */
    if (switching || from < 0 || done_co[!from])
        return;
    switching = 1;
    current = !from;
    switches++;
    swapcontext(&co[from], &co[!from]);
    switching = 0;
}

static void co_main(int me)
{
    switching = 0;
    for (int i = 0; i < 2000; i++)
        take(&co_pair[me], 1);
    switching = 1;
    done_co[me] = 1;
    if (!done_co[!me]) {
        current = !me;
        setcontext(&co[!me]);
    }
    current = -1;
    setcontext(&main_ctx);
}

static void *feed_both(void *arg)
{
    (void)arg;
    for (int i = 0; i < 2000; i++) {
        put_now(&co_pair[i & 1], 1);
        put_now(&co_pair[!(i & 1)], 1);
        if (i % 16 == 0)
            usleep(100);
    }
    return NULL;
}

static void test_coroutines_switched_by_a_timer_each_gets_its_bytes(void)
{
    struct sigaction sa = {.sa_handler = preempt, .sa_flags = SA_RESTART};
    struct itimerspec every = {{0, 200000}, {0, 200000}};
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
    static volatile int started;
    struct worker w;
    timer_t timer;

    for (volatile int i = 0; i < 2; i++) {
        co_pair[i] = pair_open_warm();
        MUST(getcontext(&co[i]));
        co[i].uc_stack.ss_sp = malloc(65536);
        co[i].uc_stack.ss_size = 65536;
        co[i].uc_link = NULL;
        makecontext(&co[i], (void (*)(void))co_main, 1, i);
    }
    MUST(sigaction(SIGUSR1, &sa, NULL));
    ev._sigev_un._tid = my_tid();
    worker_start(&w, feed_both, NULL);
    current = 0;
    switching = 1; /* until co[0] runs: a switch before that would save this context for it */
    MUST(timer_create(CLOCK_MONOTONIC, &ev, &timer));
    MUST(timer_settime(timer, 0, &every, NULL));
    MUST(getcontext(&main_ctx));
    if (!started) {
        started = 1;
        setcontext(&co[0]);
    }
    MUST(timer_delete(timer));
    worker_join(&w);
    CHECK(done_co[0] && done_co[1]);
    CHECK(switches > 5);
    pair_close(&co_pair[0]);
    pair_close(&co_pair[1]);
}

const struct test_case test_cases[] = {
    CASE(test_siglongjmp_out_then_the_thread_ends),
    CASE(test_fork_in_a_handler_the_child_returns_into_the_call),
    CASE(test_fork_in_a_handler_with_restart_both_go_on),
    CASE(test_coroutines_switched_by_a_timer_each_gets_its_bytes),
    CASES_END,
};
