/*
 * Signals during receives: EINTR and SA_RESTART as the kernel has them, stops and continues,
 * handlers that jump out, that receive and that close, and handlers seen as they were installed.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

static void test_signal_ends_a_blocked_receive_with_eintr(void)
{
    for (int i = 0; i < 20; i++) {
        struct pair p = i % 2 ? pair_open_warm() : pair_open();
        struct later_kill lk;

        catch_signal(SIGUSR1, 0);
        later_kill(&lk, SIGUSR1);
        CHECK_ERR(recv(p.us, buf, 10, 0), EINTR);
        CHECK_EQ(caught, 1);
        later_join(&lk.l);
        put(&p, 10);
        take(&p, 10);
        check_empty(p.us);
        pair_close(&p);
    }
}

/* First the signal, and when the thread is asleep again, bytes. */
struct signal_then_bytes {
    struct later_kill lk;
    struct pair *p;
    int signals;
};

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

static void signal_then_bytes(struct signal_then_bytes *s, struct pair *p, int sig, int signals)
{
    s->p = p;
    s->signals = signals;
    s->lk.thread = pthread_self();
    s->lk.sig = sig;
    later(&s->lk.l, act_signal_then_bytes, s);
}

static void test_signal_with_restart_the_receive_goes_on(void)
{
    for (int warm = 0; warm < 2; warm++) {
        struct pair p = warm ? pair_open_warm() : pair_open();
        struct signal_then_bytes s;

        catch_signal(SIGUSR1, SA_RESTART);
        signal_then_bytes(&s, &p, SIGUSR1, 3);
        CHECK_EQ(recv(p.us, buf, 100, 0), 10);
        CHECK_EQ(caught, 3);
        check_next(&p, buf, 10);
        later_join(&s.lk.l);
        pair_close(&p);
    }
}

static void test_signal_timed_receive_is_eintr_also_with_restart(void)
{
    for (int restart = 0; restart < 2; restart++) {
        struct pair p = pair_open_warm();
        struct later_kill lk;

        set_timeout(p.us, 5000);
        catch_signal(SIGUSR1, restart ? SA_RESTART : 0);
        later_kill(&lk, SIGUSR1);
        CHECK_ERR(recv(p.us, buf, 10, 0), EINTR);
        CHECK_EQ(caught, 1);
        later_join(&lk.l);
        put(&p, 10);
        take(&p, 10);
        pair_close(&p);
    }
}

static void test_signal_ignored_or_blocked_wakes_nobody(void)
{
    struct pair p = pair_open_warm();
    struct signal_then_bytes s;
    sigset_t set;

    signal(SIGUSR2, SIG_IGN);
    caught = 100; /* the sender does not wait for a handler */
    signal_then_bytes(&s, &p, SIGUSR2, 2);
    CHECK_EQ(recv(p.us, buf, 100, 0), 10);
    check_next(&p, buf, 10);
    later_join(&s.lk.l);
    catch_signal(SIGUSR1, 0);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    MUST0(pthread_sigmask(SIG_BLOCK, &set, NULL));
    caught = 100;
    signal_then_bytes(&s, &p, SIGUSR1, 2);
    CHECK_EQ(recv(p.us, buf, 100, 0), 10);
    CHECK_EQ(caught, 100);
    check_next(&p, buf, 10);
    later_join(&s.lk.l);
    pair_close(&p);
}

static void test_signal_default_child_end_wakes_nobody(void)
{
    struct pair p = pair_open_warm();
    struct signal_then_bytes s;

    signal(SIGCHLD, SIG_DFL);
    caught = 100;
    signal_then_bytes(&s, &p, SIGCHLD, 2);
    CHECK_EQ(recv(p.us, buf, 100, 0), 10);
    check_next(&p, buf, 10);
    later_join(&s.lk.l);
    pair_close(&p);
}

/*
 * SIGSTOP and SIGCONT come from another process: a helper without sockets, executed before any
 * connection exists. It stops us when we are asleep, continues us when we are stopped, and then
 * tells us by a byte on a pipe, so that a thread of ours sends what ends the wait.
 */
static int stopper_main(int argc, char **argv)
{
    pid_t pid = argc > 1 ? atoi(argv[1]) : 0;
    char path[64], text[512];
    FILE *f;
    char go;

    while (read(0, &go, 1) == 1) {
        wait_asleep(pid);
        kill(pid, SIGSTOP);
        do {
            const char *state;

            snprintf(path, sizeof(path), "/proc/%d/stat", pid);
            f = fopen(path, "r");
            text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
            fclose(f);
            state = strrchr(text, ')');
            if (state && state[2] == 'T')
                break;
        } while (1);
        kill(pid, SIGCONT);
        if (write(1, "c", 1) != 1)
            return 1;
    }
    return 0;
}

struct stopper {
    int tell, told;
    pid_t pid;
};

static struct stopper stopper_start(void)
{
    struct stopper s;
    int down[2], up[2];
    char me[16];

    MUST(pipe2(down, O_CLOEXEC));
    MUST(pipe2(up, O_CLOEXEC));
    snprintf(me, sizeof(me), "%d", getpid());
    s.pid = MUST(fork());
    if (s.pid == 0) {
        dup2(down[0], 0);
        dup2(up[1], 1);
        execl(test_self, test_self, "--helper", "stopper", me, (char *)NULL);
        _exit(9);
    }
    close(down[0]);
    close(up[1]);
    s.tell = down[1];
    s.told = up[0];
    return s;
}

static void stopper_end(struct stopper *s)
{
    close(s->tell);
    close(s->told);
    CHECK_EQ(waitpid(s->pid, NULL, 0), s->pid);
}

struct stop_then_bytes {
    struct later l;
    struct stopper *s;
    struct pair *p;
    size_t n;
};

static void act_stop_then_bytes(void *arg)
{
    struct stop_then_bytes *sb = arg;
    char c;

    CHECK_EQ(write(sb->s->tell, "g", 1), 1);
    CHECK_EQ(read(sb->s->told, &c, 1), 1);
    wait_asleep(sb->l.target);
    if (sb->n)
        put_now(sb->p, sb->n);
}

static void test_stop_and_continue_untimed_calls_go_on(void)
{
    struct stopper s = stopper_start();
    struct pair p = pair_open_warm();
    struct stop_then_bytes sb = {.s = &s, .p = &p, .n = 10};
    struct pollfd pfd = {.fd = p.us, .events = POLLIN};

    for (int i = 0; i < 5; i++) {
        later(&sb.l, act_stop_then_bytes, &sb);
        CHECK_EQ(recv(p.us, buf, 100, 0), 10);
        check_next(&p, buf, 10);
        later_join(&sb.l);
        later(&sb.l, act_stop_then_bytes, &sb);
        CHECK_EQ(poll(&pfd, 1, -1), 1);
        later_join(&sb.l);
        take(&p, 10);
    }
    stopper_end(&s);
    pair_close(&p);
}

static void act_stop(void *arg)
{
    struct stop_then_bytes *sb = arg;
    char c;

    CHECK_EQ(write(sb->s->tell, "g", 1), 1);
    CHECK_EQ(read(sb->s->told, &c, 1), 1);
}

static void test_stop_and_continue_timed_receive_and_epoll_are_eintr(void)
{
    struct stopper s = stopper_start();
    struct pair p = pair_open_warm();
    struct stop_then_bytes sb = {.s = &s, .p = &p};
    struct epoll_event ev = {.events = EPOLLIN};
    int ep = MUST(epoll_create1(0));

    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, p.us, &ev));
    for (int i = 0; i < 3; i++) {
        set_timeout(p.us, 8000);
        later(&sb.l, act_stop, &sb);
        CHECK_ERR(recv(p.us, buf, 100, 0), EINTR);
        later_join(&sb.l);
        later(&sb.l, act_stop, &sb);
        CHECK_ERR(epoll_wait(ep, &ev, 1, -1), EINTR);
        later_join(&sb.l);
    }
    put(&p, 10);
    take(&p, 10);
    stopper_end(&s);
    close(ep);
    pair_close(&p);
}

static sigjmp_buf jump;

static void jump_out(int sig)
{
    siglongjmp(jump, sig);
}

static void test_siglongjmp_out_of_a_blocked_receive_then_use_and_close(void)
{
    struct sigaction sa = {.sa_handler = jump_out};

    MUST(sigaction(SIGUSR1, &sa, NULL));
    for (volatile int i = 0; i < 10; i++) {
        static struct pair p;
        static struct later_kill lk;

        p = pair_open_warm();
        if (sigsetjmp(jump, 1) == 0) {
            later_kill(&lk, SIGUSR1);
            recv(p.us, buf, 10, 0);
            FAIL("the receive returned");
        }
        later_join(&lk.l);
        check_empty(p.us);
        put(&p, 20);
        take(&p, 20);
        MUST(close(p.us));
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        close(p.peer);
    }
}

static void test_siglongjmp_out_then_another_thread_receives(void)
{
    static struct pair p;
    static struct later_kill lk;
    static struct later_put lp;
    struct sigaction sa = {.sa_handler = jump_out};

    MUST(sigaction(SIGUSR1, &sa, NULL));
    p = pair_open_warm();
    if (sigsetjmp(jump, 1) == 0) {
        later_kill(&lk, SIGUSR1);
        recv(p.us, buf, 10, 0);
        FAIL("the receive returned");
    }
    later_join(&lk.l);
    for (int i = 0; i < 5; i++) {
        later_put(&lp, &p, 7);
        take(&p, 7);
        later_join(&lp.l);
    }
    pair_close(&p);
}

/* A handler that uses the very socket that its thread is blocked on. */
static struct pair *in_handler;
static ssize_t handler_got;

static void receive_in_handler(int sig)
{
    (void)sig;
    handler_got = recv(in_handler->us, buf, 4, MSG_DONTWAIT);
    if (handler_got > 0)
        check_next(in_handler, buf, (size_t)handler_got);
    caught++;
}

static void test_handler_receives_on_the_blocked_socket(void)
{
    for (int restart = 0; restart < 2; restart++) {
        struct sigaction sa = {.sa_handler = receive_in_handler,
                               .sa_flags = restart ? SA_RESTART : 0};
        struct pair p = pair_open_warm();
        struct later_kill lk;
        struct signal_then_bytes s;

        in_handler = &p;
        caught = 0;
        MUST(sigaction(SIGUSR1, &sa, NULL));
        if (restart) {
            signal_then_bytes(&s, &p, SIGUSR1, 2);
            CHECK_EQ(recv(p.us, buf + 100, 100, 0), 10);
            check_next(&p, buf + 100, 10);
            later_join(&s.lk.l);
            CHECK_EQ(caught, 2);
        } else {
            later_kill(&lk, SIGUSR1);
            CHECK_ERR(recv(p.us, buf + 100, 100, 0), EINTR);
            later_join(&lk.l);
        }
        CHECK_EQ(handler_got, -1);
        pair_close(&p);
    }
}

static int closed_in_handler;

static void close_in_handler(int sig)
{
    (void)sig;
    closed_in_handler = close(in_handler->us);
}

static void test_handler_closes_the_blocked_socket(void)
{
    struct sigaction sa = {.sa_handler = close_in_handler};

    MUST(sigaction(SIGUSR1, &sa, NULL));
    for (int i = 0; i < 10; i++) {
        struct pair p = pair_open_warm();
        struct later_kill lk;

        in_handler = &p;
        closed_in_handler = -1;
        later_kill(&lk, SIGUSR1);
        CHECK_ERR(recv(p.us, buf, 10, 0), EINTR);
        later_join(&lk.l);
        CHECK_EQ(closed_in_handler, 0);
        CHECK_ERR(recv(p.us, buf, 10, 0), EBADF);
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        close(p.peer);
    }
}

static void test_timer_storm_with_a_receiving_handler_bytes_are_exact(void)
{
    struct sigaction sa = {.sa_handler = receive_in_handler, .sa_flags = SA_RESTART};
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
    struct itimerspec every = {{0, 20000}, {0, 20000}};
    struct pair p = pair_open_warm();
    sigset_t usr1, before;
    timer_t timer;

    /* The handler takes bytes between any two instructions; `got` moves only with it shut out. */
    in_handler = &p;
    MUST(sigaction(SIGUSR1, &sa, NULL));
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    ev._sigev_un._tid = my_tid();
    MUST(timer_create(CLOCK_MONOTONIC, &ev, &timer));
    MUST(timer_settime(timer, 0, &every, NULL));
    for (int round = 0; round < 300; round++) {
        put(&p, 100);
        for (;;) {
            static volatile uint8_t mine[4];
            volatile ssize_t n;

            /* What is received must be checked before a handler receives what follows. */
            MUST0(pthread_sigmask(SIG_BLOCK, &usr1, &before));
            n = recv(p.us, (void *)mine, 1, MSG_DONTWAIT);
            if (n > 0)
                check_next(&p, (void *)mine, 1);
            MUST0(pthread_sigmask(SIG_SETMASK, &before, NULL));
            if (n < 0)
                break;
            /* And here without the mask: an interrupted look takes nothing. */
            n = recv(p.us, (void *)mine, 0, MSG_DONTWAIT);
            CHECK(n == 0 || errno == EAGAIN);
        }
    }
    MUST(timer_delete(timer));
    CHECK_EQ(p.got, p.sent);
    CHECK(caught > 10);
    pair_close(&p);
}

/*
 * Without any mask: the handler counts what it takes by value, the main flow too; every value of a
 * known multiset comes exactly once, whoever got it.
 */
static unsigned counted[256];

static void count_in_handler(int sig)
{
    uint8_t some[3];
    ssize_t n = recv(in_handler->us, some, sizeof(some), MSG_DONTWAIT);
    int saved = errno;

    (void)sig;
    for (ssize_t i = 0; i < n; i++)
        __atomic_fetch_add(&counted[some[i]], 1, __ATOMIC_RELAXED);
    caught++;
    errno = saved;
}

static void test_timer_storm_during_bytewise_reads_none_lost_none_twice(void)
{
    struct sigaction sa = {.sa_handler = count_in_handler, .sa_flags = SA_RESTART};
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
    struct itimerspec every = {{0, 20000}, {0, 20000}};
    struct pair p = pair_open_warm();
    uint8_t values[256];
    timer_t timer;

    in_handler = &p;
    for (int i = 0; i < 256; i++)
        values[i] = (uint8_t)i;
    MUST(sigaction(SIGUSR1, &sa, NULL));
    ev._sigev_un._tid = my_tid();
    MUST(timer_create(CLOCK_MONOTONIC, &ev, &timer));
    MUST(timer_settime(timer, 0, &every, NULL));
    for (unsigned round = 1; round <= 300; round++) {
        CHECK_EQ(send(p.peer, values, sizeof(values), 0), sizeof(values));
        settle(p.us, p.sent + 256 * round);
        for (;;) {
            uint8_t byte;
            ssize_t n = recv(p.us, &byte, 1, MSG_DONTWAIT);

            if (n < 0 && errno == EAGAIN)
                break;
            CHECK_EQ(n, 1);
            __atomic_fetch_add(&counted[byte], 1, __ATOMIC_RELAXED);
        }
        for (int i = 0; i < 256; i++)
            if (counted[i] != round)
                FAIL("round %u: value %d came %u times", round, i, counted[i]);
    }
    MUST(timer_delete(timer));
    CHECK(caught > 10);
    pair_close(&p);
}

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = stopper_main;
}

const struct test_case test_cases[] = {
    CASE(test_signal_ends_a_blocked_receive_with_eintr),
    CASE(test_signal_with_restart_the_receive_goes_on),
    CASE(test_signal_timed_receive_is_eintr_also_with_restart),
    CASE(test_signal_ignored_or_blocked_wakes_nobody),
    CASE(test_signal_default_child_end_wakes_nobody),
    CASE(test_stop_and_continue_untimed_calls_go_on),
    CASE(test_stop_and_continue_timed_receive_and_epoll_are_eintr),
    CASE(test_siglongjmp_out_of_a_blocked_receive_then_use_and_close),
    CASE(test_siglongjmp_out_then_another_thread_receives),
    CASE(test_handler_receives_on_the_blocked_socket),
    CASE(test_handler_closes_the_blocked_socket),
    CASE(test_timer_storm_with_a_receiving_handler_bytes_are_exact),
    CASE(test_timer_storm_during_bytewise_reads_none_lost_none_twice),
    CASES_END,
};
