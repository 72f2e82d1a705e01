/*
 * All other ways to make a child, with memory copied or shared: it reads a part of what had
 * arrived, the parent the rest, and both go on.
 */
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "proc.h"
#include "raw.h"
#include "tcp.h"
#include "test.h"

#if TEST_ASAN
#include <sanitizer/asan_interface.h>
#endif

static uint8_t buf[4096];

static pid_t by_fork(void)
{
    return fork();
}

static pid_t by_underscore(void)
{
    return _Fork();
}

static pid_t by_forkpty(void)
{
    int master;

    return forkpty(&master, NULL, NULL, NULL);
}

static pid_t by_number(void)
{
    return (pid_t)syscall(SYS_fork);
}

static pid_t by_clone_number(void)
{
    return (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
}

/* vsftpd's way: the parent's session is a child without a new stack and with the old number. */
static pid_t by_clone_settid(void)
{
    static pid_t tid;

    return (pid_t)syscall(SYS_clone, CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD, NULL,
                          NULL, &tid, NULL);
}

static pid_t by_clone3(void)
{
    struct clone_args args = {.exit_signal = SIGCHLD};

    return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

static pid_t (*const forks[])(void) = {
    by_fork, by_underscore, by_forkpty, by_number, by_clone_number, by_clone_settid, by_clone3,
};

static void after_child(struct shared *s, size_t n)
{
    CHECK_EQ(poll_now(s->p.us, POLLIN), n ? POLLIN : 0);
    take(&s->p, n);
    check_empty(s->p.us);
    put(&s->p, 10);
    take(&s->p, 10);
    MUST(close(s->p.us));
    CHECK_PEER_SEES(s->p.peer, SEEN_FIN);
    s->p.us = -1;
    shared_close(s);
}

static void test_child_by_any_fork_reads_a_part(void)
{
    for (size_t i = 0; i < COUNT_OF(forks); i++) {
        for (int where = 0; where < WHERES; where++) {
            struct shared *s = pair_share(pair_open_with((enum where)where, 100));
            pid_t pid = MUST(forks[i]());

            if (pid == 0) {
                take(&s->p, 40);
                CHECK_EQ(poll_now(s->p.us, POLLIN), POLLIN);
                _exit(0);
            }
            check_child(pid);
            after_child(s, 60);
        }
    }
}

static void test_child_by_any_fork_executes_a_reader(void)
{
    for (size_t i = 0; i < COUNT_OF(forks); i++) {
        struct shared *s = pair_share(pair_open_held(100));
        pid_t pid = MUST(forks[i]());

        if (pid == 0) {
            take(&s->p, 10);
            execv(test_self, reader_args("exact", s->p.us, &s->p, 30));
            _exit(9);
        }
        check_child(pid);
        s->p.got += 30;
        after_child(s, 60);
    }
}

/* Children on a stack of their own. */
static char stack[1 << 17] __attribute__((aligned(64)));
static char **args;

static int child_reads(void *arg)
{
    struct shared *s = arg;

    take(&s->p, 40);
    return 0;
}

static int child_executes(void *arg)
{
    struct shared *s = arg;

    dup2(s->p.us, 0);
    execv(test_self, args);
    _exit(9);
}

static int child_closes(void *arg)
{
    struct shared *s = arg;

    return close(s->p.us);
}

static pid_t run_on_stack(int (*fn)(void *), int flags, void *arg)
{
#if TEST_ASAN
    /* A child that shared our memory and executed a program left its frames' marks here. */
    ASAN_UNPOISON_MEMORY_REGION(stack, sizeof(stack));
#endif
    return MUST(clone(fn, stack + sizeof(stack), flags | SIGCHLD, arg));
}

static const int clone_flags[] = {
    0, CLONE_VFORK, CLONE_VM | CLONE_VFORK, CLONE_VM, CLONE_FS,
};

static void test_child_by_clone_reads_a_part(void)
{
    for (size_t i = 0; i < COUNT_OF(clone_flags); i++) {
        for (int where = 0; where < WHERES; where++) {
            struct shared *s = pair_share(pair_open_with((enum where)where, 100));

            check_child(run_on_stack(child_reads, clone_flags[i], s));
            after_child(s, 60);
        }
    }
}

static void test_child_by_clone_executes_a_reader(void)
{
    for (size_t i = 0; i < COUNT_OF(clone_flags); i++) {
        struct shared *s = pair_share(pair_open_held(100));

        args = reader_args("exact", 0, &s->p, 40);
        check_child(run_on_stack(child_executes, clone_flags[i], s));
        s->p.got += 40;
        after_child(s, 60);
    }
}

/* Its table of descriptors is a copy unless CLONE_FILES says otherwise. */
static void test_child_by_clone_closes_its_own_number(void)
{
    for (size_t i = 0; i < COUNT_OF(clone_flags); i++) {
        struct shared *s = pair_share(pair_open_held(100));

        check_child(run_on_stack(child_closes, clone_flags[i], s));
        CHECK_EQ(peer_sees(s->p.peer, 10), SEEN_NOTHING);
        after_child(s, 100);
    }
}

/* One table for both: the number is gone for the parent as well. (With bytes held the library does not
 * know of the other's close: a listed limit.) */
static void test_child_that_shares_the_table_closes_for_both(void)
{
    struct shared *s = pair_share(pair_open_warm());

    check_child(run_on_stack(child_closes, CLONE_FILES, s));
    CHECK_PEER_SEES(s->p.peer, SEEN_FIN);
    CHECK_ERR(recv(s->p.us, buf, 1, MSG_DONTWAIT), EBADF);
    s->p.us = -1;
    shared_close(s);
}

/*
 * Past libc, as a program with its own assembly does it. Only what is unread in the kernel at that
 * moment can be the child's; what it must never do is to harm the parent.
 */
static void test_child_unannounced_reads_later_bytes_parent_its_own(void)
{
    struct shared *s = pair_share(pair_open_warm()), *t = pair_share(pair_open_held(50));
    long pid = RAW5(SYS_clone, SIGCHLD, 0, 0, 0, 0);

    CHECK(pid >= 0);
    if (pid == 0) {
        turn_wait(s, 1);
        take(&s->p, 20);
        close(t->p.us);
        _exit(0);
    }
    put(&s->p, 50);
    turn_to(s, 1);
    check_child((pid_t)pid);
    after_child(s, 30);
    CHECK_EQ(peer_sees(t->p.peer, 10), SEEN_NOTHING);
    after_child(t, 50);
}

static void test_child_unannounced_opens_its_own_and_ends(void)
{
    struct shared *s = pair_share(pair_open_held(50));
    long pid = RAW5(SYS_clone, SIGCHLD, 0, 0, 0, 0);

    CHECK(pid >= 0);
    if (pid == 0) {
        struct pair q = pair_open_held(30);

        take(&q, 30);
        MUST(close(q.us));
        CHECK_PEER_SEES(q.peer, SEEN_FIN);
        exit(0);
    }
    take(&s->p, 25);
    check_child((pid_t)pid);
    after_child(s, 25);
}

/* What returns from daemon() is a grandchild, which has what the caller had not read. */
static void test_daemon_reads_the_rest(void)
{
    struct shared *s = pair_share((struct pair){.us = -1, .peer = -1});
    pid_t pid = MUST(fork());

    if (pid == 0) {
        s->p = pair_open_held(100);
        take(&s->p, 20);
        MUST(daemon(1, 1));
        take(&s->p, 80);
        put(&s->p, 10);
        take(&s->p, 10);
        MUST(close(s->p.us));
        CHECK_PEER_SEES(s->p.peer, SEEN_FIN);
        turn_to(s, 1);
        _exit(0);
    }
    check_child(pid);
    CHECK_SOON(atomic_load(&s->turn) == 1, 5000);
}

/*
 * A thread with a table of descriptors of its own closes, opens and receives by that one; what the
 * others have stays open, connected and unread.
 */
struct apart {
    struct pair *p, *q;
    int (*leave)(unsigned fd);
    struct worker w;
};

static int leave_then_close(unsigned fd)
{
    CHECK_EQ(unshare(CLONE_FILES), 0);
    return close((int)fd);
}

static int leave_by_number_then_close(unsigned fd)
{
    CHECK_EQ(syscall(SYS_unshare, CLONE_FILES), 0);
    return close((int)fd);
}

static int leave_closing(unsigned fd)
{
    return close_range(fd, fd, CLOSE_RANGE_UNSHARE);
}

static void *apart_main(void *arg)
{
    struct apart *a = arg;
    int fd = a->q->us, other;

    CHECK_EQ(a->leave((unsigned)fd), 0);
    CHECK_ERR(recv(fd, buf, 1, 0), EBADF);
    MUST(other = open("/dev/null", O_RDONLY));
    CHECK_EQ(dup2(other, fd), fd);
    CHECK_EQ(read(fd, buf, 1), 0);
    CHECK_EQ(recv(a->p->us, buf, 3, 0), 3);
    check_next(a->p, buf, 3);
    close(fd);
    close(a->p->us);
    return NULL;
}

static void test_thread_with_its_own_table_closes_for_itself(void)
{
    static int (*const ways[])(unsigned) = {leave_then_close, leave_by_number_then_close,
                                            leave_closing};

    for (unsigned i = 0; i < COUNT_OF(ways); i++) {
        struct pair p = pair_open_held(10), q = pair_open_held(10);
        struct apart a = {.p = &p, .q = &q, .leave = ways[i]};

        worker_start(&a.w, apart_main, &a);
        worker_join(&a.w);
        CHECK_EQ(poll_now(p.peer, POLLIN | POLLRDHUP), 0);
        CHECK_EQ(poll_now(q.peer, POLLIN | POLLRDHUP), 0);
        take(&q, 4);
        put(&q, 5);
        take(&q, 11);
        take(&p, 7);
        put(&p, 5);
        take(&p, 5);
        check_empty(p.us);
        close(q.us);
        CHECK_PEER_SEES(q.peer, SEEN_FIN);
        pair_close(&p);
    }
}

/* With no other thread there is nobody to keep the old one: the connection ends. */
static void test_only_thread_closes_for_the_process(void)
{
    struct pair p = pair_open_held(10), q = pair_open_held(10);

    CHECK_EQ(close_range((unsigned)q.us, (unsigned)q.us, CLOSE_RANGE_UNSHARE), 0);
    CHECK_PEER_SEES(q.peer, SEEN_RESET);
    CHECK_EQ(unshare(CLONE_FILES), 0);
    take(&p, 10);
    put(&p, 5);
    take(&p, 5);
    close(q.peer);
    pair_close(&p);
}

const struct test_case test_cases[] = {
    CASE(test_child_by_any_fork_reads_a_part),
    CASE(test_child_by_any_fork_executes_a_reader),
    CASE(test_child_by_clone_reads_a_part),
    CASE(test_child_by_clone_executes_a_reader),
    CASE(test_child_by_clone_closes_its_own_number),
    CASE(test_child_that_shares_the_table_closes_for_both),
    CASE(test_child_unannounced_reads_later_bytes_parent_its_own),
    CASE(test_child_unannounced_opens_its_own_and_ends),
    CASE(test_daemon_reads_the_rest),
    CASE(test_thread_with_its_own_table_closes_for_itself),
    CASE(test_only_thread_closes_for_the_process),
    CASES_END,
};

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = reader_main;
}
