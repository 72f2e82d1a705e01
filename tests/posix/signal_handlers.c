/*
 * Handlers that jump out of a receive, and that receive or close on the very socket that their
 * thread is inside of; also under a storm of timer signals.
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
#include <sys/select.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

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

/* A signal ends no wait for what is readable: it is told of that first, and the handler runs as well. */
static void test_timer_storm_what_is_readable_is_told_not_eintr(void)
{
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
    struct itimerspec every = {{0, 20000}, {0, 20000}};
    struct pair p = pair_open_held(10);
    int64_t until = now_ms() + 2000;
    timer_t timer;

    catch_signal(SIGUSR1, 0);
    ev._sigev_un._tid = my_tid();
    MUST(timer_create(CLOCK_MONOTONIC, &ev, &timer));
    MUST(timer_settime(timer, 0, &every, NULL));
    for (int i = 0; i < 50000 && now_ms() < until; i++) {
        /* The other end is nobody's to read from: the kernel has to be asked as well. */
        struct pollfd both[2] = {{.fd = p.us, .events = POLLIN}, {.fd = p.peer, .events = POLLIN}};
        struct timeval minute = {60, 0};
        fd_set set;

        CHECK_EQ(poll(both, 2, i % 2 ? -1 : 0), 1);
        CHECK_EQ(both[0].revents, POLLIN);
        CHECK_EQ(both[1].revents, 0);
        FD_ZERO(&set);
        FD_SET(p.us, &set);
        FD_SET(p.peer, &set);
        CHECK_EQ(select((p.us > p.peer ? p.us : p.peer) + 1, &set, NULL, NULL, &minute), 1);
        CHECK(FD_ISSET(p.us, &set) && !FD_ISSET(p.peer, &set));
    }
    MUST(timer_delete(timer));
    CHECK(caught > 10);
    take(&p, 10);
    pair_close(&p);
}

const struct test_case test_cases[] = {
    CASE(test_siglongjmp_out_of_a_blocked_receive_then_use_and_close),
    CASE(test_siglongjmp_out_then_another_thread_receives),
    CASE(test_handler_receives_on_the_blocked_socket),
    CASE(test_handler_closes_the_blocked_socket),
    CASE(test_timer_storm_with_a_receiving_handler_bytes_are_exact),
    CASE(test_timer_storm_during_bytewise_reads_none_lost_none_twice),
    CASE(test_timer_storm_what_is_readable_is_told_not_eintr),
    CASES_END,
};
