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
#include "loop.h"
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

static void test_signal_with_restart_the_receive_goes_on(void)
{
    if (TEST_TSAN)
        test_skip("ThreadSanitizer puts handlers off until a call that it knows has ended");
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

/* A loop that sleeps: over sockets alone, over one with bytes that it does not ask for, over a pipe,
 * too; and with a limit. The kernel ends all epoll_waits that a stop has interrupted. */
static void test_stop_and_continue_event_loop_is_eintr_and_goes_on(void)
{
    for (int i = 0; i < 12; i++) {
        struct stopper s = stopper_start();
        int ep = MUST(epoll_create1(0)), ends[2];
        uint32_t trigger = i & 1 ? EPOLLET : 0;
        struct pair p = ep_pair(ep, EPOLLIN | trigger, 1), q = ep_pair(ep, EPOLLIN | trigger, 2);
        struct stop_then_bytes sb = {.s = &s, .p = &p};
        struct epoll_event ev[4];

        MUST(pipe(ends));
        if (i / 4 == 1)
            ep_ctl(ep, EPOLL_CTL_ADD, ends[0], EPOLLIN, 3);
        if (i / 4 == 2) {
            put(&q, 20);
            check_event(ep, 2, EPOLLIN);
            take(&q, 5);
            ep_ctl(ep, EPOLL_CTL_MOD, q.us, 0, 2);
        }
        for (int k = 0; k < 3; k++) {
            put(&p, 10);
            check_event(ep, 1, EPOLLIN);
            CHECK_EQ(read_all(&p, 3), 10);
            check_quiet(ep, i & 1);
            later(&sb.l, act_stop, &sb);
            CHECK_ERR(epoll_wait(ep, ev, 4, i & 2 ? 60000 : -1), EINTR);
            later_join(&sb.l);
        }
        if (i / 4 == 2) {
            ep_ctl(ep, EPOLL_CTL_MOD, q.us, EPOLLIN | trigger, 2);
            check_event(ep, 2, EPOLLIN);
            take(&q, 15);
        }
        stopper_end(&s);
        close(ep);
        close(ends[0]);
        close(ends[1]);
        pair_close(&p);
        pair_close(&q);
    }
}

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = stopper_main;
}

/*
 * Bytes, and then a signal, at every distance: the call tells of the bytes, which were there when the signal
 * came. A handler that ran when they had been taken in already, or when the sleep was about to begin, once
 * made EINTR of it.
 */
struct chase {
    struct pair *p;
    pthread_t target;
    _Atomic int round;
    atomic_bool over;
    struct worker w;
};

static void *chase_main(void *arg)
{
    struct chase *c = arg;
    unsigned tries = 0;

    for (int i = 1; !c->over; i++) {
        while (c->round < i && !c->over)
            spin(&tries);
        if (c->over)
            break;
        put(c->p, 1);
        for (volatile int d = 0; d < (3 + i % 97) * 200; d++) {
        }
        MUST0(pthread_kill(c->target, SIGUSR1));
    }
    return NULL;
}

/*
 * The kernel queues what has come, which is all that the sender can see, and then wakes who waits for it: on a
 * busy machine a signal may come in between, once in some 100,000.
 */
#define OVERTAKES 3

static int wait_twice(int (*wait)(int fd, int ep), int fd, int ep, int *overtaken)
{
    int r = wait(fd, ep);

    return r < 0 && errno == EINTR && ++*overtaken <= OVERTAKES ? wait(fd, ep) : r;
}

static void bytes_win(int (*wait)(int fd, int ep))
{
    struct pair p = pair_open_warm();
    struct chase c = {.p = &p, .target = pthread_self()};
    int64_t until = now_ms() + 1000;
    int ep = MUST(epoll_create1(0)), before, overtaken = 0;

    ep_ctl(ep, EPOLL_CTL_ADD, p.us, EPOLLIN, 1);
    catch_signal(SIGUSR1, 0);
    before = caught;
    worker_start(&c.w, chase_main, &c);
    for (int i = 1; i <= 10000 && now_ms() < until; i++) {
        unsigned tries = 0;

        c.round = i;
        CHECK_EQ(wait_twice(wait, p.us, ep, &overtaken), 1);
        while (caught < before + i)
            spin(&tries);
        take(&p, 1);
    }
    c.over = true;
    worker_join(&c.w);
    close(ep);
    pair_close(&p);
}

static int wait_epoll(int fd, int ep)
{
    struct epoll_event ev;

    (void)fd;
    return epoll_wait(ep, &ev, 1, -1);
}

static int wait_poll(int fd, int ep)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};

    (void)ep;
    return poll(&one, 1, -1);
}

static int wait_peek(int fd, int ep)
{
    (void)ep;
    return (int)recv(fd, buf, 1, MSG_PEEK);
}

static void test_signal_behind_bytes_ends_no_wait(void)
{
    if (TEST_TSAN) /* ThreadSanitizer puts handlers off until the next call */
        test_skip("handlers do not run when the signal comes");
    bytes_win(wait_epoll);
    bytes_win(wait_poll);
    bytes_win(wait_peek);
}

/* The same for the end of the stream. */
struct end_then_signal {
    struct later l;
    struct pair *p;
    pthread_t target;
    int distance;
};

static void act_end_then_signal(void *arg)
{
    struct end_then_signal *e = arg;

    peer_fin(e->p);
    for (volatile int d = 0; d < e->distance * 200; d++) {
    }
    MUST0(pthread_kill(e->target, SIGUSR1));
}

static int wait_end(int fd, int ep)
{
    (void)ep;
    return (int)recv(fd, buf, 10, 0);
}

static void test_signal_behind_the_end_ends_no_wait(void)
{
    int overtaken = 0;

    catch_signal(SIGUSR1, 0);
    for (int i = 0; i < 300; i++) {
        struct pair p = pair_open_warm();
        struct end_then_signal e = {.p = &p, .target = pthread_self(), .distance = 3 + i % 50};
        int before = caught;
        unsigned tries = 0;

        later(&e.l, act_end_then_signal, &e);
        CHECK_EQ(wait_twice(i % 2 ? wait_poll : wait_end, p.us, -1, &overtaken), i % 2);
        later_join(&e.l);
        while (caught == before)
            spin(&tries);
        pair_close(&p);
    }
}

const struct test_case test_cases[] = {
    CASE(test_signal_ends_a_blocked_receive_with_eintr),
    CASE(test_signal_with_restart_the_receive_goes_on),
    CASE(test_signal_timed_receive_is_eintr_also_with_restart),
    CASE(test_signal_ignored_or_blocked_wakes_nobody),
    CASE(test_signal_default_child_end_wakes_nobody),
    CASE(test_stop_and_continue_untimed_calls_go_on),
    CASE(test_stop_and_continue_timed_receive_and_epoll_are_eintr),
    CASE(test_stop_and_continue_event_loop_is_eintr_and_goes_on),
    CASE(test_signal_behind_bytes_ends_no_wait),
    CASE(test_signal_behind_the_end_ends_no_wait),
    CASES_END,
};
