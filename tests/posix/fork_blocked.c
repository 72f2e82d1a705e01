/*
 * A fork by one thread while others sleep in a receive or a wait: their sleep goes on and ends with
 * what comes, in the parent; the child has the connections and none of the threads.
 */
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "payload.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

struct sleeper {
    struct pair p, held;
    struct worker w;
    void (*sleep)(struct sleeper *s);
    int ep;
};

static void in_recv(struct sleeper *s)
{
    take(&s->p, 1);
}

static void in_waitall(struct sleeper *s)
{
    uint8_t three[3];

    CHECK_EQ(recv(s->p.us, three, 3, MSG_WAITALL), 3);
    check_next(&s->p, three, 3);
}

static void in_poll(struct sleeper *s)
{
    struct pollfd pfd = {.fd = s->p.us, .events = POLLIN};

    CHECK_EQ(poll(&pfd, 1, -1), 1);
    CHECK_EQ(pfd.revents, POLLIN);
    take(&s->p, 1);
}

static void in_select(struct sleeper *s)
{
    fd_set set;

    FD_ZERO(&set);
    FD_SET(s->p.us, &set);
    CHECK_EQ(select(s->p.us + 1, &set, NULL, NULL, NULL), 1);
    take(&s->p, 1);
}

static void wait_epoll(struct sleeper *s, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.u32 = 5};

    if (s->ep < 0) {
        s->ep = MUST(epoll_create1(0));
        MUST(epoll_ctl(s->ep, EPOLL_CTL_ADD, s->p.us, &ev));
    }
    do {
        CHECK_EQ(epoll_wait(s->ep, &ev, 1, -1), 1);
        CHECK_EQ(ev.data.u32, 5);
        /* An edge more than needed is allowed: then nothing is there. */
    } while (events & EPOLLET && poll_now(s->p.us, POLLIN) == 0);
    CHECK_EQ(ev.events, EPOLLIN);
    take(&s->p, 1);
}

static void in_epoll(struct sleeper *s)
{
    wait_epoll(s, EPOLLIN);
}

static void in_epoll_edge(struct sleeper *s)
{
    wait_epoll(s, EPOLLIN | EPOLLET);
}

static void (*const sleeps[])(struct sleeper *) = {in_recv,   in_waitall, in_poll,
                                                   in_select, in_epoll,   in_epoll_edge};
#define SLEEPS COUNT_OF(sleeps)
#define ROUNDS 12

/* With bytes of another connection unread all the while. */
static void *sleep_often(void *arg)
{
    struct sleeper *s = arg;

    warm_up(&s->p);
    s->held = pair_open_held(30);
    for (int i = 0; i < ROUNDS; i++)
        s->sleep(s);
    take(&s->held, 30);
    check_empty(s->held.us);
    return NULL;
}

static size_t portion(const struct sleeper *s)
{
    return s->sleep == in_waitall ? 3 : 1;
}

/* Each has had its part of so many rounds, and sleeps again. */
static void wait_all_asleep(struct sleeper *s, size_t n, int rounds)
{
    for (size_t i = 0; i < n; i++)
        CHECK_SOON(__atomic_load_n(&s[i].p.got, __ATOMIC_ACQUIRE) ==
                           WARM_READS + (uint64_t)rounds * portion(&s[i]) &&
                       (rounds == ROUNDS || thread_asleep(s[i].w.tid)),
                   15000);
}

static void start(struct sleeper *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        s[i].p = pair_open();
        s[i].sleep = sleeps[i % SLEEPS];
        s[i].ep = -1;
        worker_start(&s[i].w, sleep_often, &s[i]);
    }
    wait_all_asleep(s, n, 0);
}

static void end(struct sleeper *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        worker_join(&s[i].w);
        check_empty(s[i].p.us);
        MUST(close(s[i].p.us));
        if (s[i].ep >= 0)
            close(s[i].ep);
        CHECK_PEER_SEES(s[i].p.peer, SEEN_FIN);
        close(s[i].p.peer);
        pair_close(&s[i].held);
    }
}

static void put_to_all(struct sleeper *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        put_now(&s[i].p, portion(&s[i]));
}

static void test_fork_and_child_ends_before_the_bytes_come(void)
{
    struct sleeper s[SLEEPS];

    memset(s, 0, sizeof(s));
    start(s, SLEEPS);
    for (int i = 0; i < ROUNDS; i++) {
        pid_t pid = MUST(fork());

        if (pid == 0)
            _exit(0);
        check_child(pid);
        for (size_t k = 0; k < SLEEPS; k++)
            wait_asleep(s[k].w.tid); /* still, or again */
        put_to_all(s, SLEEPS);
        wait_all_asleep(s, SLEEPS, i + 1);
    }
    end(s, SLEEPS);
}

static void test_fork_and_child_lives_on_while_the_bytes_come(void)
{
    struct sleeper s[SLEEPS];
    pid_t pid[ROUNDS];

    memset(s, 0, sizeof(s));
    start(s, SLEEPS);
    for (int i = 0; i < ROUNDS; i++) {
        pid[i] = MUST(fork());
        if (pid[i] == 0)
            for (;;)
                pause();
        put_to_all(s, SLEEPS);
        wait_all_asleep(s, SLEEPS, i + 1);
    }
    for (int i = 0; i < ROUNDS; i++) {
        kill(pid[i], SIGKILL);
        check_child_status(pid[i], SIGKILL);
    }
    end(s, SLEEPS);
}

/* The bytes come while the fork is made: no arrival falls between two chairs. */
static void test_fork_while_the_bytes_come(void)
{
    struct sleeper s[SLEEPS];

    memset(s, 0, sizeof(s));
    start(s, SLEEPS);
    for (int i = 0; i < ROUNDS; i++) {
        pid_t pid;

        for (size_t k = 0; k < SLEEPS / 2; k++)
            put_now(&s[k].p, portion(&s[k]));
        pid = MUST(fork());
        if (pid == 0)
            _exit(0);
        for (size_t k = SLEEPS / 2; k < SLEEPS; k++)
            put_now(&s[k].p, portion(&s[k]));
        check_child(pid);
        wait_all_asleep(s, SLEEPS, i + 1);
    }
    end(s, SLEEPS);
}

/* Two processes asleep in a receive on one connection: one byte wakes one of them for good. */
static void receive_one(struct shared *s)
{
    uint8_t two[2], byte;

    payload_fill(0, two, s->p.got, 2);
    CHECK_EQ(recv(s->p.us, &byte, 1, 0), 1);
    CHECK(byte == two[0] || byte == two[1]);
    CHECK_EQ(atomic_fetch_or(&s->flag, byte == two[0] ? 1 : 2) & (byte == two[0] ? 1 : 2), 0);
}

static void *receive_in_parent(void *arg)
{
    receive_one(arg);
    return NULL;
}

static bool different_next(const struct pair *p)
{
    uint8_t two[2];

    payload_fill(0, two, p->got, 2);
    return two[0] != two[1];
}

static void test_two_processes_asleep_in_one_receive_each_gets_a_byte(void)
{
    for (int i = 0; i < ROUNDS; i++) {
        struct shared *s = pair_share(pair_open_warm());
        struct worker w;
        pid_t pid;

        while (!different_next(&s->p)) {
            put(&s->p, 1);
            take(&s->p, 1);
        }
        worker_start(&w, receive_in_parent, s);
        wait_asleep(w.tid);
        pid = MUST(fork());
        if (pid == 0) {
            receive_one(s);
            _exit(0);
        }
        wait_child_asleep(pid);
        put_now(&s->p, 1);
        CHECK_SOON(atomic_load(&s->flag) == 1, 5000);
        put_now(&s->p, 1);
        CHECK_SOON(atomic_load(&s->flag) == 3, 5000);
        check_child(pid);
        worker_join(&w);
        check_empty(s->p.us);
        shared_close(s);
    }
}

const struct test_case test_cases[] = {
    CASE(test_fork_and_child_ends_before_the_bytes_come),
    CASE(test_fork_and_child_lives_on_while_the_bytes_come),
    CASE(test_fork_while_the_bytes_come),
    CASE(test_two_processes_asleep_in_one_receive_each_gets_a_byte),
    CASES_END,
};
