/*
 * What signals leave behind in a thread that receives: its mask, the order of queued signals, the
 * stack that its handlers run on, the actions as they are read back.
 */
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "asleep.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

/*
 * Two signals that arrive at the same instant: the kernel makes the second one's frame on top of
 * the first one's, whose mask is not the thread's.
 */
static volatile sig_atomic_t first_ran, second_ran;

static void count_first(int sig)
{
    (void)sig;
    first_ran++;
}

static void count_second(int sig)
{
    (void)sig;
    second_ran++;
}

static timer_t timer_to(pid_t tid, int sig)
{
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = sig};
    timer_t t;

    ev._sigev_un._tid = tid;
    MUST(timer_create(CLOCK_MONOTONIC, &ev, &t));
    return t;
}

static void test_two_signals_at_once_leave_the_mask_as_it_was(void)
{
    struct sigaction first = {.sa_handler = count_first, .sa_flags = SA_RESTART};
    struct sigaction second = {.sa_handler = count_second, .sa_flags = SA_RESTART};
    struct pair p = pair_open_warm();
    timer_t a, b;
    int64_t until = now_ms() + 1500;

    sigemptyset(&first.sa_mask);
    sigaddset(&first.sa_mask, SIGWINCH);
    sigemptyset(&second.sa_mask);
    sigaddset(&second.sa_mask, SIGURG);
    MUST(sigaction(SIGUSR1, &first, NULL));
    MUST(sigaction(SIGUSR2, &second, NULL));
    a = timer_to(my_tid(), SIGUSR1);
    b = timer_to(my_tid(), SIGUSR2);
    while (now_ms() < until) {
        struct itimerspec at = {{0, 0}, {0, 0}};
        sigset_t mask;

        MUST(clock_gettime(CLOCK_MONOTONIC, &at.it_value));
        at.it_value.tv_nsec += 30000 + (long)(rand() % 20000);
        if (at.it_value.tv_nsec >= 1000000000) {
            at.it_value.tv_nsec -= 1000000000;
            at.it_value.tv_sec++;
        }
        MUST(timer_settime(a, TIMER_ABSTIME, &at, NULL));
        MUST(timer_settime(b, TIMER_ABSTIME, &at, NULL));
        for (int i = 0; i < 10; i++) {
            put_now(&p, 5);
            for (int k = 0; k < 5; k++)
                take(&p, 1);
            recv(p.us, buf, 1, MSG_DONTWAIT | MSG_PEEK);
        }
        MUST0(pthread_sigmask(SIG_SETMASK, NULL, &mask));
        for (int sig = 1; sig < 65; sig++)
            if (sigismember(&mask, sig) == 1)
                FAIL("signal %d is blocked after %d and %d handlers", sig, (int)first_ran,
                     (int)second_ran);
    }
    CHECK(first_ran > 10 && second_ran > 10);
    MUST(timer_delete(a));
    MUST(timer_delete(b));
    pair_close(&p);
}

/* Queued signals of one number come in the order in which they were sent. */
static volatile int last_value, disorder;

static void in_order(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)context;
    if (info->si_value.sival_int != last_value + 1 && !disorder)
        disorder = info->si_value.sival_int;
    last_value = info->si_value.sival_int;
}

struct queuer {
    pthread_t to;
    int stop;
    int sent;
};

static void *queue_signals(void *arg)
{
    struct queuer *q = arg;

    while (!__atomic_load_n(&q->stop, __ATOMIC_ACQUIRE)) {
        for (int i = 0; i < 5; i++) {
            union sigval v = {.sival_int = q->sent + 1};

            if (pthread_sigqueue(q->to, SIGRTMIN + 1, v) == 0)
                q->sent++;
        }
        while (last_value != q->sent)
            test_yield();
    }
    return NULL;
}

static void test_queued_signals_keep_their_order(void)
{
    struct sigaction sa = {.sa_sigaction = in_order, .sa_flags = SA_RESTART | SA_SIGINFO};
    struct pair p = pair_open_warm();
    struct queuer q = {.to = pthread_self()};
    struct worker w;
    int64_t until = now_ms() + 1500;

    MUST(sigaction(SIGRTMIN + 1, &sa, NULL));
    worker_start(&w, queue_signals, &q);
    while (now_ms() < until) {
        put_now(&p, 5);
        for (int k = 0; k < 5; k++)
            take(&p, 1);
        recv(p.us, buf, 1, MSG_DONTWAIT | MSG_PEEK);
    }
    __atomic_store_n(&q.stop, 1, __ATOMIC_RELEASE);
    worker_join(&w);
    if (disorder)
        FAIL("value %d came out of order", disorder);
    CHECK_EQ(last_value, q.sent);
    pair_close(&p);
}

/* A handler on a small stack of its own receives there. */
static struct pair *in_handler;
static volatile ssize_t handler_got;
static volatile int handler_how;

static void receive_on_small_stack(int sig)
{
    static uint8_t mine[64];
    struct iovec iov[3] = {{mine, 3}, {mine + 3, 0}, {mine + 3, 57}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 3};

    (void)sig;
    switch (handler_how) {
    case 0:
        handler_got = recv(in_handler->us, mine, 60, MSG_DONTWAIT);
        break;
    case 1:
        handler_got = recvmsg(in_handler->us, &msg, MSG_DONTWAIT);
        break;
    case 2:
        handler_got = recv(in_handler->us, mine, 60, MSG_PEEK);
        break;
    case 3: {
        fd_set set;
        struct timeval tv = {0, 0};

        FD_ZERO(&set);
        FD_SET(in_handler->us, &set);
        handler_got = select(in_handler->us + 1, &set, NULL, NULL, &tv);
        break;
    }
    case 4:
        handler_got = recv(in_handler->us, mine, 60, MSG_WAITALL);
        break;
    }
}

static void test_handler_on_a_small_stack_stays_within_it(void)
{
    /* As much as SIGSTKSZ was for decades. Below it, a page that nobody may touch. */
    size_t page = 4096, size = 8192;
    uint8_t *mem =
        mmap(NULL, page + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct sigaction sa = {.sa_handler = receive_on_small_stack, .sa_flags = SA_ONSTACK};
    stack_t ss = {.ss_sp = mem + page, .ss_size = size};

    if (TEST_ASAN)
        test_skip("AddressSanitizer's own frames are larger than the stack");
    CHECK(mem != MAP_FAILED);
    MUST(mprotect(mem, page, PROT_NONE));
    MUST(sigaltstack(&ss, NULL));
    MUST(sigaction(SIGUSR1, &sa, NULL));
    for (int how = 0; how < 5; how++) {
        struct pair p = pair_open_held(30);

        put(&p, 30);
        in_handler = &p;
        handler_how = how;
        MUST(raise(SIGUSR1));
        CHECK_EQ(handler_got, how == 3 ? 1 : 60);
        reset_close(p.us);
        close(p.peer);
    }
}

/* Actions as they are read back, before and after they ran. */
#define SHOWN (SA_RESETHAND | (unsigned)SA_SIGINFO)

static void test_one_shot_action_reads_back_as_the_kernel_has_it(void)
{
    struct sigaction sa = {.sa_handler = count_first, .sa_flags = (int)SA_RESETHAND}, got;

    if (TEST_ASAN)
        test_skip("AddressSanitizer installs handlers of its own way");
    MUST(sigaction(SIGUSR1, &sa, NULL));
    MUST(sigaction(SIGUSR1, NULL, &got));
    CHECK(got.sa_handler == count_first);
    CHECK_EQ((unsigned)got.sa_flags & SHOWN, SA_RESETHAND);
    MUST(raise(SIGUSR1));
    MUST(sigaction(SIGUSR1, NULL, &got));
    CHECK(got.sa_handler == SIG_DFL);
    CHECK_EQ((unsigned)got.sa_flags & SHOWN, SA_RESETHAND);
    sa.sa_flags |= SA_SIGINFO;
    MUST(sigaction(SIGUSR1, &sa, NULL));
    MUST(raise(SIGUSR1));
    MUST(sigaction(SIGUSR1, NULL, &got));
    CHECK_EQ((unsigned)got.sa_flags & SHOWN, SHOWN);
    sa.sa_handler = SIG_DFL;
    MUST(sigaction(SIGUSR1, &sa, NULL));
    sa.sa_flags = 0;
    MUST(sigaction(SIGUSR1, &sa, &got));
    CHECK_EQ((unsigned)got.sa_flags & SHOWN, SHOWN);
}

/*
 * A vfork child sets its own actions before it execs, in its parent's memory: the parent's stay, as does what
 * they say about SA_RESTART.
 */
static pid_t reset_by_vfork(void)
{
    struct sigaction old;
    pid_t pid = vfork();

    if (!pid) {
        if (sigaction(SIGUSR1, NULL, &old) || old.sa_handler != count_first ||
            old.sa_flags & SA_RESTART)
            _exit(1);
        if (signal(SIGUSR1, count_second) != count_first ||
            signal(SIGUSR1, SIG_DFL) != count_second)
            _exit(2);
        signal(SIGUSR2, count_second);
        _exit(0);
    }
    return pid;
}

static int reset_in_clone(void *arg)
{
    (void)arg;
    signal(SIGUSR1, count_second);
    signal(SIGUSR2, SIG_DFL);
    _exit(0);
}

static pid_t reset_by_clone(void)
{
    static _Alignas(16) char stack[65536];

    return clone(reset_in_clone, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, NULL,
                 NULL, NULL, NULL);
}

static void test_vfork_child_sets_actions_of_its_own(void)
{
    static pid_t (*const ways[])(void) = {reset_by_vfork, reset_by_clone};
    struct sigaction sa = {.sa_handler = count_first}, now;
    struct pair p = pair_open_warm();

    MUST(sigaction(SIGUSR1, &sa, NULL));
    sa.sa_flags = SA_RESTART;
    MUST(sigaction(SIGUSR2, &sa, NULL));
    for (unsigned i = 0; i < COUNT_OF(ways); i++) {
        struct later_kill lk;

        check_child(MUST(ways[i]()));
        MUST(sigaction(SIGUSR1, NULL, &now));
        CHECK(now.sa_handler == count_first);
        CHECK_EQ(now.sa_flags & SA_RESTART, 0);
        MUST(sigaction(SIGUSR2, NULL, &now));
        CHECK(now.sa_handler == count_first);
        first_ran = 0;
        MUST0(raise(SIGUSR2));
        CHECK_EQ(first_ran, 1);
        later_kill(&lk, SIGUSR1);
        CHECK_ERR(recv(p.us, buf, 10, 0), EINTR);
        later_join(&lk.l);
        CHECK_EQ(first_ran, 2);
        CHECK_EQ(second_ran, 0);
    }
    pair_close(&p);
}

/* One that shares the actions sets them for both. */
static int set_shared(void *arg)
{
    (void)arg;
    signal(SIGUSR1, count_second);
    _exit(0);
}

static void test_child_that_shares_actions_sets_them_for_both(void)
{
    static _Alignas(16) char stack[65536];
    struct sigaction sa = {.sa_handler = count_first};
    struct pair p = pair_open_warm();

    MUST(sigaction(SIGUSR1, &sa, NULL));
    check_child(
        MUST(clone(set_shared, stack + sizeof(stack),
                   CLONE_VM | CLONE_VFORK | CLONE_SIGHAND | SIGCHLD, NULL, NULL, NULL, NULL)));
    MUST0(raise(SIGUSR1));
    CHECK_EQ(first_ran, 0);
    CHECK_EQ(second_ran, 1);
    put(&p, 5);
    take(&p, 5);
    pair_close(&p);
}

const struct test_case test_cases[] = {
    CASE(test_two_signals_at_once_leave_the_mask_as_it_was),
    CASE(test_queued_signals_keep_their_order),
    CASE(test_handler_on_a_small_stack_stays_within_it),
    CASE_ONCE(test_one_shot_action_reads_back_as_the_kernel_has_it),
    CASE(test_vfork_child_sets_actions_of_its_own),
    CASE(test_child_that_shares_actions_sets_them_for_both),
    CASES_END,
};
