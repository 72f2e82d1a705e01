/*
 * What pthread_atfork()'s handlers do with sockets. They run inside of fork(), before it has returned to
 * whoever called it.
 *
 * A handler that received in the child once made it a process of which nothing is known: it did not see
 * what was unread, which was given up, and the child died when fork() returned and it was looked for.
 */
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "proc.h"
#include "tcp.h"
#include "test.h"

static struct shared *shared;

static void prepare(void)
{
    take(&shared->p, 3);
}

static void in_parent(void)
{
    take(&shared->p, 4);
    turn_to(shared, 1);
}

static void in_child(void)
{
    turn_wait(shared, 1);
    take(&shared->p, 5);
}

static void test_handlers_receive_in_turn(void)
{
    for (enum where where = 0; where < WHERES; where++) {
        pid_t pid;

        shared = pair_share(pair_open_with(where, 40));
        if (where == 0)
            MUST0(pthread_atfork(prepare, in_parent, in_child));
        pid = MUST(fork());
        if (pid == 0) {
            take(&shared->p, 6);
            exit(0);
        }
        check_child(pid);
        take(&shared->p, 22);
        check_empty(shared->p.us);
        shared_close(shared);
    }
}

static int listener;
static struct pair inherited, own;

/* What is in the place of an inherited number by the time fork() returns is this process's own. */
static void replace(void)
{
    int was = inherited.us;

    MUST(close(inherited.us));
    own.peer = connect_to(listener);
    own.us = MUST(accept(listener, NULL, NULL));
    CHECK(own.us == was || own.peer == was);
    put(&own, 30);
    take(&own, 10);
}

static void test_a_handler_uses_a_number_again(void)
{
    pid_t pid;

    listener = MUST(listener_open(AF_INET));
    inherited = pair_open_held(10);
    MUST0(pthread_atfork(NULL, NULL, replace));
    pid = MUST(fork());
    if (pid == 0) {
        take(&own, 20);
        check_empty(own.us);
        put(&own, 5);
        take(&own, 5);
        pair_close(&own);
        exit(0);
    }
    check_child(pid);
    take(&inherited, 10);
    put(&inherited, 10);
    take(&inherited, 10);
    pair_close(&inherited);
}

/* Ends in the handler, with what was unread: the parent reads it. */
static void leave(void)
{
    take(&shared->p, 5);
    _exit(0);
}

static void test_a_handler_ends_the_child(void)
{
    pid_t pid;

    shared = pair_share(pair_open_held(20));
    MUST0(pthread_atfork(NULL, NULL, leave));
    pid = MUST(fork());
    CHECK(pid);
    check_child(pid);
    take(&shared->p, 15);
    MUST(close(shared->p.us));
    CHECK_PEER_SEES(shared->p.peer, SEEN_FIN);
}

const struct test_case test_cases[] = {
    CASE(test_handlers_receive_in_turn),
    CASE(test_a_handler_uses_a_number_again),
    CASE(test_a_handler_ends_the_child),
    CASES_END,
};
