/*
 * A program that executes another one hands its connections over with all that has arrived on
 * them: what it has not read the next image reads, by whatever call of the exec family it came.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

extern char **environ;

static uint8_t buf[4096];

static void by_execv(char **a)
{
    execv(test_self, a);
}

static void by_execve(char **a)
{
    execve(test_self, a, environ);
}

static void by_execvp(char **a)
{
    execvp(test_self, a);
}

static void by_execvpe(char **a)
{
    execvpe(test_self, a, environ);
}

static void by_execl(char **a)
{
    execl(test_self, a[0], a[1], a[2], a[3], a[4], a[5], (char *)NULL);
}

static void by_execlp(char **a)
{
    execlp(test_self, a[0], a[1], a[2], a[3], a[4], a[5], (char *)NULL);
}

static void by_execle(char **a)
{
    execle(test_self, a[0], a[1], a[2], a[3], a[4], a[5], (char *)NULL, environ);
}

static void by_fexecve(char **a)
{
    fexecve(MUST(open(test_self, O_RDONLY | O_CLOEXEC)), a, environ);
}

static void by_execveat(char **a)
{
    execveat(AT_FDCWD, test_self, a, environ, 0);
}

static void by_execveat_of_fd(char **a)
{
    execveat(MUST(open(test_self, O_PATH | O_CLOEXEC)), "", a, environ, AT_EMPTY_PATH);
}

static void (*const ways[])(char **a) = {
    by_execv,  by_execve, by_execvp,  by_execvpe,  by_execl,
    by_execlp, by_execle, by_fexecve, by_execveat, by_execveat_of_fd,
};

static void test_exec_of_any_kind_in_a_child_reads_the_rest(void)
{
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        for (int where = 0; where < WHERES; where++) {
            struct pair p = pair_open_with((enum where)where, 100);
            pid_t pid;

            peer_fin(&p);
            pid = MUST(fork());
            if (pid == 0) {
                take(&p, 25);
                ways[i](reader_args("end", p.us, &p, 75));
                FAIL("way %zu of exec: errno %d", i, errno);
            }
            check_child(pid);
            CHECK_EQ(recv(p.us, buf, 1, 0), 0);
            pair_close(&p);
        }
    }
}

/* The process under test itself becomes another program: nobody forked since the bytes came. */
static void exec_self(const char *word, enum where where, void (*way)(char **a))
{
    struct pair p = pair_open_with(where, 100);

    take(&p, 25);
    way(reader_args(word, p.us, &p, 75));
    FAIL("exec: errno %d", errno);
}

/* One process for each way, since none comes back. Forked before there is any connection. */
static void each_way(const char *word)
{
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        for (int where = 0; where < WHERES; where++) {
            pid_t pid = MUST(fork());

            if (pid == 0)
                exec_self(word, (enum where)where, ways[i]);
            check_child(pid);
        }
    }
}

static void test_exec_of_any_kind_reads_the_rest(void)
{
    each_way("exact");
}

static void test_exec_of_any_kind_sees_the_rest_ready(void)
{
    each_way("looks");
}

static void test_exec_of_any_kind_reads_the_rest_bytewise(void)
{
    each_way("bytes");
}

/* The parent has the other end: later bytes follow in order, and then the end. */
static void test_exec_with_bytes_unread_later_bytes_follow(void)
{
    int pipes[2], listener = MUST(listener_open(AF_INET));
    struct pair p = {.us = -1};
    pid_t pid;
    char c;

    MUST(pipe2(pipes, O_CLOEXEC));
    pid = MUST(fork());
    if (pid == 0) {
        p.us = MUST(accept(listener, NULL, NULL));
        p.peer = -1;
        for (int i = 0; i < WARM_READS; i++)
            take(&p, 1);
        settle(p.us, WARM_READS + 101);
        take(&p, 1);
        close(listener);
        CHECK_EQ(write(pipes[1], "r", 1), 1);
        execv(test_self, reader_args("end", p.us, &p, 300));
        FAIL("execv: errno %d", errno);
    }
    p.peer = connect_to(listener);
    close(listener);
    put_now(&p, WARM_READS + 101);
    CHECK_EQ(read(pipes[0], &c, 1), 1);
    put_now(&p, 100);
    wait_child_asleep(pid);
    put_now(&p, 100);
    MUST(shutdown(p.peer, SHUT_WR));
    check_child(pid);
    CHECK_PEER_SEES(p.peer, SEEN_FIN);
    close(p.peer);
}

static void test_exec_chain_each_image_reads_a_part(void)
{
    struct pair p = pair_open_held(120);
    pid_t pid = MUST(fork());

    if (pid == 0) {
        take(&p, 20);
        execv(test_self, reader_args("chain", p.us, &p, 30));
        _exit(9);
    }
    check_child(pid);
    p.got += 20 + 3 * 30;
    take(&p, 10);
    check_empty(p.us);
    pair_close(&p);
}

static void test_exec_chain_from_the_reader_itself(void)
{
    pid_t pid = MUST(fork());

    if (pid == 0) {
        struct pair p = pair_open_held(120);

        take(&p, 30);
        execv(test_self, reader_args("chain", p.us, &p, 30));
        _exit(9);
    }
    check_child(pid);
}

static void test_exec_hands_over_several_connections(void)
{
    pid_t pid = MUST(fork());

    if (pid == 0) {
        struct pair p = pair_open_held(60), q = pair_open_held(80);
        int copy = MUST(dup(p.us));
        pid_t reader;

        take(&p, 10);
        take(&q, 10);
        reader = MUST(fork());
        if (reader == 0) {
            execv(test_self, reader_args("exact", q.us, &q, 70));
            _exit(9);
        }
        check_child(reader);
        check_empty(q.us);
        MUST(close(p.us));
        execv(test_self, reader_args("exact", copy, &p, 50));
        _exit(9);
    }
    check_child(pid);
}

static void test_exec_onto_standard_input(void)
{
    pid_t pid = MUST(fork());

    if (pid == 0) {
        struct pair p = pair_open_held(100);

        take(&p, 25);
        MUST(dup2(p.us, 0));
        MUST(close(p.us));
        execv(test_self, reader_args("exact", 0, &p, 75));
        _exit(9);
    }
    check_child(pid);
}

/* Not handed over: the last number is closed by the exec, with bytes unread. */
static void test_exec_closes_what_is_close_on_exec_with_a_reset(void)
{
    for (int unread = 0; unread < 2; unread++) {
        int listener = MUST(listener_open(AF_INET));
        struct pair p = {.us = -1};
        pid_t pid = MUST(fork());
        int how = unread;

        if (pid == 0) {
            p.us = MUST(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
            p.peer = -1;
            settle(p.us, WARM_READS + 50);
            take(&p, WARM_READS + 50 - (how ? 20 : 0));
            execl("/bin/sh", "sh", "-c", "kill -STOP $$", (char *)NULL);
            _exit(9);
        }
        p.peer = connect_to(listener);
        close(listener);
        put_now(&p, WARM_READS + 50);
        CHECK_EQ(waitpid(pid, NULL, WUNTRACED), pid);
        CHECK_PEER_SEES(p.peer, unread ? SEEN_RESET : SEEN_FIN);
        close(p.peer);
        kill(pid, SIGCONT);
        check_child(pid);
    }
}

static void check_failed_exec(struct pair *p, int (*fails)(void), int wanted)
{
    CHECK_ERR(fails(), wanted);
    take(p, 10);
    CHECK_ERR(fails(), wanted);
    CHECK_EQ(poll_now(p->us, 1), 1);
    take(p, 10);
    put(p, 20);
}

static char *no_args[] = {(char *)"none", NULL};

static int fail_enoent(void)
{
    return execv("/no/such/file", no_args);
}

static int fail_eacces(void)
{
    return execve("/dev/null", no_args, environ);
}

static int fail_path(void)
{
    return execvp("no-such-program-anywhere", no_args);
}

static int fail_fd(void)
{
    return fexecve(-1, no_args, environ);
}

static int fail_at(void)
{
    return execveat(-1, "", no_args, environ, AT_EMPTY_PATH);
}

static int fail_pointer(void)
{
    const char *volatile nowhere = (const char *)8;

    return execve(nowhere, no_args, environ);
}

static void test_exec_that_fails_leaves_all_as_it_was(void)
{
    static int (*const fails[])(void) = {fail_enoent, fail_eacces, fail_path,
                                         fail_fd,     fail_at,     fail_pointer};
    static const int wanted[] = {ENOENT, EACCES, ENOENT, EINVAL, EBADF, EFAULT};
    char **before = environ;

    for (size_t i = 0; i < COUNT_OF(fails); i++) {
        struct pair p = pair_open_held(40);
        struct shared *s;
        pid_t pid;

        check_failed_exec(&p, fails[i], wanted[i]);
        CHECK(environ == before);
        s = pair_share(p);
        pid = MUST(fork());
        if (pid == 0) {
            check_failed_exec(&s->p, fails[i], wanted[i]);
            _exit(0);
        }
        check_child(pid);
        take(&s->p, 40);
        check_empty(s->p.us);
        shared_close(s);
    }
}

const struct test_case test_cases[] = {
    CASE(test_exec_of_any_kind_in_a_child_reads_the_rest),
    CASE(test_exec_of_any_kind_reads_the_rest),
    CASE(test_exec_of_any_kind_sees_the_rest_ready),
    CASE(test_exec_of_any_kind_reads_the_rest_bytewise),
    CASE_ONCE(test_exec_with_bytes_unread_later_bytes_follow),
    CASE(test_exec_chain_each_image_reads_a_part),
    CASE(test_exec_chain_from_the_reader_itself),
    CASE(test_exec_hands_over_several_connections),
    CASE(test_exec_onto_standard_input),
    CASE_ONCE(test_exec_closes_what_is_close_on_exec_with_a_reset),
    CASE(test_exec_that_fails_leaves_all_as_it_was),
    CASES_END,
};

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = reader_main;
}
