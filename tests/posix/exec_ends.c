/*
 * Connections with bytes unread that outlive an exec, or do not: whoever was the last to have them
 * ends them, as a reset; an error is for all who share them; and the bytes that come for a thread
 * are the next image's when the thread has gone.
 */
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

/* A process with a connection to us, of which it has read some and left so many bytes. */
static pid_t begin(struct shared *s, size_t unread, int flags, void (*act)(struct shared *s))
{
    int listener = MUST(listener_open(AF_INET));
    pid_t pid = MUST(fork());

    if (pid == 0) {
        s->p.us = MUST(accept4(listener, NULL, NULL, flags));
        close(listener);
        settle(s->p.us, WARM_READS + unread);
        for (int i = 0; i < WARM_READS; i++)
            take(&s->p, 1);
        act(s);
        _exit(0);
    }
    s->p.peer = connect_to(listener);
    close(listener);
    put_now(&s->p, WARM_READS + unread);
    return pid;
}

static void check_end(int flags, void (*act)(struct shared *s), enum seen wanted)
{
    struct shared *s = pair_share((struct pair){.us = -1, .peer = -1});
    pid_t pid = begin(s, 50, flags, act);

    check_child(pid);
    CHECK_SOON(atomic_load(&s->flag) == 0, 5000);
    if (peer_sees(s->p.peer, slack(100)) != wanted)
        FAIL("wanted %s", seen_name(wanted));
    s->p.us = -1;
    shared_close(s);
}

static void become(struct shared *s, const char *word, size_t n)
{
    execv(test_self, reader_args(word, s->p.us, &s->p, n));
    FAIL("execv: errno %d", errno);
}

static void image_reads_nothing(struct shared *s)
{
    become(s, "hold", 0);
}

static void image_reads_a_part(struct shared *s)
{
    become(s, "exact", 30);
}

static void image_reads_all(struct shared *s)
{
    become(s, "exact", 50);
}

/* (Where another process has been given an image of its own meanwhile, nobody knows that it has gone: a
 * listed limit, the end is FIN.) */
static void test_image_that_leaves_bytes_unread_ends_with_a_reset(void)
{
    check_end(0, image_reads_nothing, SEEN_RESET);
    check_end(0, image_reads_a_part, SEEN_RESET);
    check_end(0, image_reads_all, SEEN_FIN);
}

/* Asking for more than there is takes no error on behalf of the others. */
static void test_error_behind_the_bytes_is_there_for_both(void)
{
    static const size_t lens[] = {20, 21, 4000};

    for (size_t i = 0; i < COUNT_OF(lens); i++) {
        struct shared *s = pair_share(pair_open_held(20));
        pid_t pid;

        peer_reset(&s->p);
        pid = MUST(fork());
        if (pid == 0) {
            turn_wait(s, 1);
            CHECK_EQ(poll_now(s->p.us, POLLIN), POLLIN | POLLERR | POLLHUP);
            CHECK_ERR(recv(s->p.us, buf, 10, 0), ECONNRESET);
            _exit(0);
        }
        CHECK_EQ(recv(s->p.us, buf, lens[i], 0), 20);
        check_next(&s->p, buf, 20);
        turn_to(s, 1);
        check_child(pid);
        CHECK_EQ(recv(s->p.us, buf, 10, 0), 0);
        shared_close(s);
    }
}

struct reader {
    struct pair p;
    atomic_int stage;
};

/* Served in this thread; then it is away from any call on sockets. */
static void *read_then_pause(void *arg)
{
    struct reader *r = arg;

    warm_up(&r->p);
    put(&r->p, 10);
    take(&r->p, 5);
    r->stage = 1;
    for (;;)
        pause();
    return NULL;
}

static void exec_beside_idle_threads(void)
{
    struct reader *r = calloc(1, sizeof(*r));
    struct worker w;

    CHECK(r);
    r->p = pair_open();
    worker_start(&w, read_then_pause, r);
    while (!r->stage)
        test_yield();
    put(&r->p, 70);
    execv(test_self, reader_args("looks", r->p.us, &r->p, 75));
    FAIL("execv: errno %d", errno);
}

static void test_exec_while_the_reading_thread_is_elsewhere(void)
{
    for (int i = 0; i < 20; i++) {
        pid_t pid = MUST(fork());

        if (pid == 0)
            exec_beside_idle_threads();
        check_child(pid);
    }
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_image_that_leaves_bytes_unread_ends_with_a_reset),
    CASE(test_error_behind_the_bytes_is_there_for_both),
    CASE(test_exec_while_the_reading_thread_is_elsewhere),
    CASES_END,
};

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = reader_main;
}
