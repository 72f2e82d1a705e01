/*
 * Servers that fork: a child that is the only holder of its connection is served as fast as if it
 * had accepted it itself, and a parent whose child has gone as fast as before. Bytes are right in
 * every leg; that a ring brought them is asked where a ring has to be used.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "leg.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

#define ROUNDS 100
#define LINE 20
/* A half of it at least: what a socket does before it is served again may be plain. */
#define BY_RING (ROUNDS * LINE / 2)

/* Reads lines byte by byte and answers each with a byte, until the end. */
static void serve(struct pair *p)
{
    for (int i = 0; i < ROUNDS; i++) {
        for (int k = 0; k < LINE; k++)
            take(p, 1);
        CHECK_EQ(send(p->us, "a", 1, MSG_NOSIGNAL), 1);
    }
}

/* The client's side of it. */
static void ask(struct pair *p)
{
    char answer;

    for (int i = 0; i < ROUNDS; i++) {
        put_now(p, LINE);
        CHECK_EQ(recv(p->peer, &answer, 1, 0), 1);
    }
}

static void test_child_of_a_forking_server_is_served(void)
{
    for (int warm = 0; warm < 2; warm++) {
        int listener = MUST(listener_open(AF_INET));

        for (int i = 0; i < 5; i++) {
            struct pair p = {.peer = connect_to(listener)};
            pid_t pid;

            p.us = MUST(accept(listener, NULL, NULL));
            if (warm) { /* the parent looks at the request first, as some do */
                put(&p, 64);
                take(&p, 10);
            }
            pid = MUST(fork());
            if (pid == 0) {
                close(listener);
                close(p.peer);
                if (warm)
                    take(&p, 54);
                serve(&p);
                MUST(close(p.us));
                _exit(0);
            }
            MUST(close(p.us));
            ask(&p);
            check_child(pid);
            CHECK_PEER_SEES(p.peer, SEEN_FIN);
            close(p.peer);
            check_ring_used(pid, BY_RING);
        }
        close(listener);
    }
}

/* Each in a process of its own: what is counted for it began with the fork. */
static void in_child(void (*run)(struct pair *p, struct pair *q), long by_ring)
{
    struct shared *s = pair_share((struct pair){.us = -1, .peer = -1});
    int listener = MUST(listener_open(AF_INET));
    pid_t pid = MUST(fork());

    if (pid == 0) {
        struct pair p = {.us = connect_to(listener), .peer = -1};
        struct pair q = {.us = connect_to(listener), .peer = -1};

        close(listener);
        run(&p, &q);
        MUST(close(p.us));
        exit(0);
    }
    s->p.peer = MUST(accept(listener, NULL, NULL));
    MUST(accept(listener, NULL, NULL));
    close(listener);
    ask(&s->p);
    check_child(pid);
    check_ring_used(pid, by_ring);
    shared_close(s);
}

static pid_t fork_a_child_that(void (*act)(int), int fd)
{
    pid_t pid = MUST(fork());

    if (pid == 0) {
        act(fd);
        _exit(0);
    }
    return pid;
}

static void does_nothing(int fd)
{
    (void)fd;
}

static void closes_it(int fd)
{
    MUST(close(fd));
    for (;;)
        pause();
}

/* The parent never read before: all that a ring brings, it brings after the child's end. */
static void served_after_child(struct pair *p, struct pair *q)
{
    (void)q;
    check_child(fork_a_child_that(does_nothing, p->us));
    serve(p);
}

static void test_parent_is_served_again_when_the_child_has_gone(void)
{
    in_child(served_after_child, BY_RING);
}

static void served_beside_child(struct pair *p, struct pair *q)
{
    pid_t pid = fork_a_child_that(closes_it, p->us);

    (void)q;
    wait_asleep(pid);
    serve(p);
    kill(pid, SIGKILL);
    check_child_status(pid, SIGKILL);
}

static void test_parent_is_served_again_when_the_child_has_closed(void)
{
    in_child(served_beside_child, BY_RING);
}

static void served_before_and_after(struct pair *p, struct pair *q)
{
    (void)q;
    for (int i = 0; i < ROUNDS; i++) {
        for (int k = 0; k < LINE; k++)
            take(p, 1);
        if (i % 10 == 5)
            check_child(fork_a_child_that(does_nothing, p->us));
        CHECK_EQ(send(p->us, "a", 1, MSG_NOSIGNAL), 1);
    }
}

static void test_parent_that_forks_now_and_then_is_served_between(void)
{
    in_child(served_before_and_after, BY_RING);
}

/* An event loop that forks, as one does that saves its state. */
static void loop_that_forks(struct pair *p, struct pair *q)
{
    struct epoll_event ev = {.events = EPOLLIN};
    int ep = MUST(epoll_create1(0)), line = 0;
    uint8_t buf[64];

    (void)q;
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, p->us, &ev));
    for (int lines = 0; lines < ROUNDS;) {
        ssize_t got;

        CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
        got = recv(p->us, buf, sizeof(buf), MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN)
            continue;
        CHECK(got > 0);
        check_next(p, buf, (size_t)got);
        line += (int)got;
        if (line < LINE)
            continue;
        line -= LINE;
        if (++lines % 20 == 5)
            check_child(fork_a_child_that(does_nothing, p->us));
        CHECK_EQ(send(p->us, "a", 1, MSG_NOSIGNAL), 1);
    }
    close(ep);
}

static void test_event_loop_that_forks_is_served_between(void)
{
    in_child(loop_that_forks, BY_RING);
}

/* The other connection is the one that a child lives on. */
static void served_while_a_child_has_another(struct pair *p, struct pair *q)
{
    pid_t pid = fork_a_child_that(closes_it, p->us);

    wait_asleep(pid);
    MUST(close(q->us));
    serve(p);
    kill(pid, SIGKILL);
    check_child_status(pid, SIGKILL);
}

static void test_each_connection_is_counted_for_itself(void)
{
    in_child(served_while_a_child_has_another, BY_RING);
}

static void test_prefork_children_accept_and_are_served(void)
{
    int listener = MUST(listener_open(AF_INET));
    pid_t pid[3];

    for (size_t i = 0; i < COUNT_OF(pid); i++) {
        pid[i] = MUST(fork());
        if (pid[i] == 0) {
            struct pair p = {.us = MUST(accept(listener, NULL, NULL)), .peer = -1};

            serve(&p);
            MUST(close(p.us));
            _exit(0);
        }
    }
    for (size_t i = 0; i < COUNT_OF(pid); i++) {
        struct pair p = {.us = -1, .peer = connect_to(listener)};

        ask(&p);
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        close(p.peer);
    }
    for (size_t i = 0; i < COUNT_OF(pid); i++) {
        check_child(pid[i]);
        check_ring_used(pid[i], BY_RING);
    }
    close(listener);
}

/* A child that dies without a word: nobody may be wrong because of it, only slower. */
static void served_after_murder(struct pair *p, struct pair *q)
{
    pid_t pid = fork_a_child_that(closes_it, q->us);

    kill(pid, SIGKILL);
    check_child_status(pid, SIGKILL);
    serve(p);
}

static void test_child_killed_the_parent_reads_on(void)
{
    in_child(served_after_murder, 0);
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_child_of_a_forking_server_is_served),
    CASE_ONCE(test_parent_is_served_again_when_the_child_has_gone),
    CASE_ONCE(test_parent_is_served_again_when_the_child_has_closed),
    CASE_ONCE(test_parent_that_forks_now_and_then_is_served_between),
    CASE_ONCE(test_event_loop_that_forks_is_served_between),
    CASE_ONCE(test_each_connection_is_counted_for_itself),
    CASE_ONCE(test_prefork_children_accept_and_are_served),
    CASE_ONCE(test_child_killed_the_parent_reads_on),
    CASES_END,
};
