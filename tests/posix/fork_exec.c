/*
 * Processes: bytes still in the kernel may be read by parent or child, an executed program gets its
 * socket with all that waits in it, and making processes does not disturb what the parent reads.
 *
 * Where a case lets bytes wait across a fork or an exec, no receive has come after their arrival.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "payload.h"
#include "tcp.h"
#include "test.h"

extern char **environ;

static uint8_t buf[4096];

/* Ends well if standard input gives the payload from offset argv[1], argv[2] bytes, then the end. */
static int reader_main(int argc, char **argv)
{
    uint64_t from = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    size_t n = argc > 2 ? strtoul(argv[2], NULL, 10) : 0, got = 0;
    char why[200];
    ssize_t r;

    while ((r = read(0, buf + got, sizeof(buf) - got)) > 0)
        got += (size_t)r;
    if (r < 0 || got != n) {
        fprintf(stderr, "reader: %zu bytes, wanted %zu (errno %d)\n", got, n, errno);
        return 1;
    }
    if (payload_compare(0, buf, from, n, why, sizeof(why))) {
        fprintf(stderr, "reader: %s\n", why);
        return 1;
    }
    return 0;
}

static void check_child(pid_t pid)
{
    int status;

    CHECK_EQ(waitpid(pid, &status, 0), pid);
    if (status)
        FAIL("the child's status is %x", (unsigned)status);
}

static void test_fork_bytes_in_kernel_child_reads_first_parent_the_rest(void)
{
    for (int warm = 0; warm < 2; warm++) {
        struct pair p = warm ? pair_open_warm() : pair_open();
        pid_t pid;

        put(&p, 100);
        pid = MUST(fork());
        if (pid == 0) {
            take(&p, 40);
            _exit(0);
        }
        check_child(pid);
        p.got += 40;
        take(&p, 60);
        check_empty(p.us);
        put(&p, 10);
        take(&p, 10);
        MUST(close(p.us));
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        close(p.peer);
    }
}

static void test_fork_bytes_in_kernel_parent_reads_first(void)
{
    struct pair p = pair_open_warm();
    int go[2];
    pid_t pid;
    char c;

    MUST(pipe(go));
    put(&p, 100);
    pid = MUST(fork());
    if (pid == 0) {
        close(go[1]);
        CHECK_EQ(read(go[0], &c, 1), 1);
        p.got += 40;
        take(&p, 60);
        check_empty(p.us);
        _exit(0);
    }
    take(&p, 40);
    CHECK_EQ(write(go[1], "g", 1), 1);
    check_child(pid);
    check_empty(p.us);
    pair_close(&p);
}

static void test_fork_parent_with_bytes_held_reads_on(void)
{
    struct pair p = pair_open_held(50);
    pid_t pid = MUST(fork());

    if (pid == 0)
        _exit(0);
    take(&p, 20);
    check_child(pid);
    take(&p, 30);
    put(&p, 20);
    take(&p, 20);
    check_empty(p.us);
    MUST(close(p.us));
    CHECK_PEER_SEES(p.peer, SEEN_FIN);
    close(p.peer);
}

static void test_fork_child_opens_connections_of_its_own(void)
{
    struct pair p = pair_open_warm();
    pid_t pid = MUST(fork());

    if (pid == 0) {
        struct pair q = pair_open_held(50);

        take(&q, 50);
        MUST(close(q.us));
        CHECK_PEER_SEES(q.peer, SEEN_FIN);
        _exit(0);
    }
    check_child(pid);
    put(&p, 10);
    take(&p, 10);
    pair_close(&p);
}

static void test_fork_close_in_parent_child_goes_on(void)
{
    struct pair p = pair_open_warm();
    int go[2];
    pid_t pid;
    char c;

    MUST(pipe(go));
    pid = MUST(fork());
    if (pid == 0) {
        close(go[1]);
        close(p.peer);
        CHECK_EQ(read(go[0], &c, 1), 1);
        take(&p, 20);
        _exit(0);
    }
    MUST(close(p.us));
    CHECK_EQ(peer_sees(p.peer, 20), SEEN_NOTHING);
    put_now(&p, 20);
    CHECK_EQ(write(go[1], "g", 1), 1);
    check_child(pid);
    CHECK_PEER_SEES(p.peer, SEEN_FIN);
    close(p.peer);
}

static void act_fork_then_put(void *arg)
{
    pid_t pid = MUST(fork());

    if (pid == 0)
        _exit(0);
    check_child(pid);
    put_now(arg, 10);
}

static void test_fork_while_another_thread_is_blocked_it_goes_on(void)
{
    for (int i = 0; i < 20; i++) {
        struct pair p = pair_open_warm();
        struct later l;

        later(&l, act_fork_then_put, &p);
        CHECK_EQ(recv(p.us, buf, 100, 0), 10);
        check_next(&p, buf, 10);
        later_join(&l);
        pair_close(&p);
    }
}

/* fork without libc's fork: the child reads what is still in the kernel. */
static void test_raw_clone_child_reads_bytes_in_kernel(void)
{
    struct pair p = pair_open_warm();
    pid_t pid;

    put(&p, 50);
    pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    CHECK(pid >= 0);
    if (pid == 0) {
        take(&p, 50);
        _exit(0);
    }
    check_child(pid);
    p.got += 50;
    check_empty(p.us);
    put(&p, 10);
    take(&p, 10);
    pair_close(&p);
}

static char from[16], count[16];

static char **reader_args(const struct pair *p)
{
    static char helper[] = "--helper", word[] = "reader";
    static char *args[6];

    snprintf(from, sizeof(from), "%llu", (unsigned long long)p->got);
    snprintf(count, sizeof(count), "%llu", (unsigned long long)(p->sent - p->got));
    args[0] = (char *)test_self;
    args[1] = helper;
    args[2] = word;
    args[3] = from;
    args[4] = count;
    return args;
}

static void test_exec_in_child_reads_bytes_in_kernel(void)
{
    for (int warm = 0; warm < 2; warm++) {
        struct pair p = warm ? pair_open_warm() : pair_open();
        pid_t pid;

        put(&p, 100);
        MUST(shutdown(p.peer, SHUT_WR));
        pid = MUST(fork());
        if (pid == 0) {
            dup2(p.us, 0);
            execv(test_self, reader_args(&p));
            _exit(9);
        }
        check_child(pid);
        pair_close(&p);
    }
}

static void test_exec_without_fork_reads_bytes_in_kernel(void)
{
    struct pair p = pair_open_warm();

    put(&p, 100);
    MUST(shutdown(p.peer, SHUT_WR));
    dup2(p.us, 0);
    execv(test_self, reader_args(&p));
    FAIL("execv: errno %d", errno);
}

static void test_exec_that_fails_changes_nothing(void)
{
    struct pair p = pair_open_held(40);
    char *args[] = {NULL};

    CHECK_ERR(execv("/no/such/file", args), ENOENT);
    CHECK_ERR(execl("/dev/null", "null", (char *)NULL), EACCES);
    take(&p, 40);
    put(&p, 10);
    take(&p, 10);
    MUST(close(p.us));
    CHECK_PEER_SEES(p.peer, SEEN_FIN);
    close(p.peer);
}

static void test_posix_spawn_reads_bytes_in_kernel(void)
{
    struct pair p = pair_open_warm();
    posix_spawn_file_actions_t actions;
    pid_t pid;

    put(&p, 100);
    MUST(shutdown(p.peer, SHUT_WR));
    MUST0(posix_spawn_file_actions_init(&actions));
    MUST0(posix_spawn_file_actions_adddup2(&actions, p.us, 0));
    MUST0(posix_spawn(&pid, test_self, &actions, NULL, reader_args(&p), environ));
    check_child(pid);
    posix_spawn_file_actions_destroy(&actions);
    pair_close(&p);
}

static void test_vfork_exec_reads_bytes_in_kernel(void)
{
    struct pair p = pair_open_warm();
    char **args;
    pid_t pid;

    put(&p, 100);
    MUST(shutdown(p.peer, SHUT_WR));
    args = reader_args(&p);
    pid = vfork();
    if (pid == 0) {
        dup2(p.us, 0);
        execv(test_self, args);
        _exit(9);
    }
    check_child(MUST(pid));
    pair_close(&p);
}

static void by_system(void)
{
    CHECK_EQ(system("exit 0"), 0);
}

static void by_popen(void)
{
    FILE *f = popen("echo out", "r");
    char line[16];

    CHECK(f && fgets(line, sizeof(line), f));
    CHECK_EQ(strcmp(line, "out\n"), 0);
    CHECK_EQ(pclose(f), 0);
}

static void by_spawn(void)
{
    char word[] = "true";
    char *args[] = {word, NULL};
    pid_t pid;

    MUST0(posix_spawnp(&pid, "true", NULL, NULL, args, environ));
    check_child(pid);
}

static void by_vfork(void)
{
    pid_t pid = vfork();

    if (pid == 0)
        _exit(0);
    check_child(MUST(pid));
}

static void by_fork(void)
{
    pid_t pid = MUST(fork());

    if (pid == 0)
        _exit(0);
    check_child(pid);
}

static void test_making_processes_leaves_the_parents_streams_alone(void)
{
    static void (*const ways[])(void) = {by_system, by_popen, by_spawn, by_vfork, by_fork};

    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        for (int where = 0; where < WHERES; where++) {
            struct pair p = pair_open_with(where, 60);

            ways[i]();
            take(&p, 30);
            ways[i]();
            CHECK_EQ(poll_now(p.us, POLLIN), POLLIN);
            take(&p, 30);
            ways[i]();
            check_empty(p.us);
            put(&p, 10);
            take(&p, 10);
            MUST(close(p.us));
            CHECK_PEER_SEES(p.peer, SEEN_FIN);
            close(p.peer);
        }
    }
}

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = reader_main;
}

const struct test_case test_cases[] = {
    CASE(test_fork_bytes_in_kernel_child_reads_first_parent_the_rest),
    CASE(test_fork_bytes_in_kernel_parent_reads_first),
    CASE(test_fork_parent_with_bytes_held_reads_on),
    CASE(test_fork_child_opens_connections_of_its_own),
    CASE(test_fork_close_in_parent_child_goes_on),
    CASE(test_fork_while_another_thread_is_blocked_it_goes_on),
    CASE(test_raw_clone_child_reads_bytes_in_kernel),
    CASE(test_exec_in_child_reads_bytes_in_kernel),
    CASE(test_exec_without_fork_reads_bytes_in_kernel),
    CASE(test_exec_that_fails_changes_nothing),
    CASE(test_posix_spawn_reads_bytes_in_kernel),
    CASE(test_vfork_exec_reads_bytes_in_kernel),
    CASE(test_making_processes_leaves_the_parents_streams_alone),
    CASES_END,
};
