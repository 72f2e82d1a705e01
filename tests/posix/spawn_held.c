/*
 * Children that run another program, by every way that libc has: vfork, posix_spawn, system, popen.
 * The program reads what had arrived for its standard input, and the parent what it leaves.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "payload.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

extern char **environ;

static uint8_t buf[4096];

static pid_t vfork_exec(int fd, char **args)
{
    pid_t pid = vfork();

    if (pid == 0) {
        dup2(fd, 0);
        close(fd);
        execv(test_self, args);
        _exit(9);
    }
    return MUST(pid);
}

static void test_vfork_dup2_exec_reads_the_rest(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with((enum where)where, 100);

        take(&p, 20);
        check_child(vfork_exec(p.us, reader_args("exact", 0, &p, 50)));
        p.got += 50;
        CHECK_EQ(poll_now(p.us, POLLIN), POLLIN);
        take(&p, 30);
        put(&p, 10);
        take(&p, 10);
        check_empty(p.us);
        MUST(close(p.us));
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        close(p.peer);
    }
}

static volatile ssize_t got, looked;

static pid_t vfork_read(int fd)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    pid_t pid = vfork();

    if (pid == 0) {
        looked = poll(&pfd, 1, 0);
        got = recv(fd, buf, 40, 0);
        _exit(0);
    }
    return MUST(pid);
}

/* What few do and all could: the child reads before it executes anything. */
static void test_vfork_child_reads_itself(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with((enum where)where, 100);

        got = looked = -2;
        check_child(vfork_read(p.us));
        CHECK_EQ(looked, 1);
        CHECK_EQ(got, 40);
        check_next(&p, buf, 40);
        take(&p, 60);
        check_empty(p.us);
        pair_close(&p);
    }
}

static void test_vfork_child_that_ends_leaves_all_to_the_parent(void)
{
    struct pair p = pair_open_held(100);

    for (int i = 0; i < 10; i++) {
        pid_t pid = vfork();

        if (pid == 0)
            _exit(0);
        check_child(MUST(pid));
        take(&p, 10);
    }
    check_empty(p.us);
    MUST(close(p.us));
    CHECK_PEER_SEES(p.peer, SEEN_FIN);
    close(p.peer);
}

static void test_vfork_child_closes_its_copy_the_parents_stays(void)
{
    struct pair p = pair_open_held(100);
    pid_t pid = vfork();

    if (pid == 0) {
        close(p.us);
        _exit(0);
    }
    check_child(MUST(pid));
    CHECK_EQ(peer_sees(p.peer, 20), SEEN_NOTHING);
    take(&p, 100);
    put(&p, 10);
    take(&p, 10);
    MUST(close(p.us));
    CHECK_PEER_SEES(p.peer, SEEN_FIN);
    close(p.peer);
}

static void test_vfork_exec_that_fails_in_the_child(void)
{
    struct pair p = pair_open_held(100);
    char *none[] = {(char *)"none", NULL};
    volatile int error = 0;
    pid_t pid = vfork();

    if (pid == 0) {
        execv("/no/such/file", none);
        error = errno;
        _exit(7);
    }
    check_child_status(MUST(pid), 7 << 8);
    CHECK_EQ(error, ENOENT);
    take(&p, 100);
    check_empty(p.us);
    pair_close(&p);
}

static pid_t spawn(const struct pair *p, const char *word, int fd, size_t n,
                   posix_spawn_file_actions_t *actions)
{
    pid_t pid = -1;

    MUST0(posix_spawn(&pid, test_self, actions, NULL, reader_args(word, fd, p, n), environ));
    posix_spawn_file_actions_destroy(actions);
    return pid;
}

static void test_posix_spawn_with_dup2_reads_the_rest(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with((enum where)where, 100);
        posix_spawn_file_actions_t actions;

        take(&p, 20);
        MUST0(posix_spawn_file_actions_init(&actions));
        MUST0(posix_spawn_file_actions_adddup2(&actions, p.us, 0));
        MUST0(posix_spawn_file_actions_addclose(&actions, p.us));
        check_child(spawn(&p, "looks", 0, 80, &actions));
        p.got += 80;
        check_empty(p.us);
        put(&p, 10);
        take(&p, 10);
        pair_close(&p);
    }
}

static void test_posix_spawn_inherits_the_number_itself(void)
{
    struct pair p = pair_open_held(100);
    posix_spawn_file_actions_t actions;

    MUST0(posix_spawn_file_actions_init(&actions));
    check_child(spawn(&p, "bytes", p.us, 60, &actions));
    p.got += 60;
    take(&p, 40);
    check_empty(p.us);
    pair_close(&p);
}

static void test_posix_spawn_that_closes_it_the_parent_reads_all(void)
{
    for (int range = 0; range < 2; range++) {
        struct pair p = pair_open_held(100);
        posix_spawn_file_actions_t actions;

        MUST0(posix_spawn_file_actions_init(&actions));
        if (range)
            MUST0(posix_spawn_file_actions_addclosefrom_np(&actions, 3));
        else
            MUST0(posix_spawn_file_actions_addclose(&actions, p.us));
        check_child(spawn(&p, "hold", 0, 0, &actions));
        CHECK_EQ(peer_sees(p.peer, 20), SEEN_NOTHING);
        take(&p, 100);
        MUST(close(p.us));
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        close(p.peer);
    }
}

static void test_posix_spawn_closefrom_after_dup2_reads_the_rest(void)
{
    struct pair p = pair_open_held(100);
    posix_spawn_file_actions_t actions;

    MUST0(posix_spawn_file_actions_init(&actions));
    MUST0(posix_spawn_file_actions_adddup2(&actions, p.us, 0));
    MUST0(posix_spawn_file_actions_addclosefrom_np(&actions, 3));
    check_child(spawn(&p, "exact", 0, 100, &actions));
    check_empty(p.us);
    pair_close(&p);
}

static void test_posix_spawn_that_fails_leaves_all_as_it_was(void)
{
    struct pair p = pair_open_held(100);
    char *none[] = {(char *)"none", NULL};
    pid_t pid;

    CHECK_EQ(posix_spawn(&pid, "/no/such/file", NULL, NULL, none, environ), ENOENT);
    CHECK_EQ(posix_spawnp(&pid, "no-such-program-anywhere", NULL, NULL, none, environ), ENOENT);
    take(&p, 50);
    put(&p, 10);
    take(&p, 60);
    check_empty(p.us);
    MUST(close(p.us));
    CHECK_PEER_SEES(p.peer, SEEN_FIN);
    close(p.peer);
}

/* Runs something whose standard input is the connection; what it gave out is compared. */
static void on_standard_input(struct pair *p, void (*run)(char *out, size_t size), size_t n)
{
    int saved = MUST(fcntl(0, F_DUPFD_CLOEXEC, 100));
    char out[1024] = "", wanted[1024];

    MUST(dup2(p->us, 0));
    run(out, sizeof(out));
    MUST(dup2(saved, 0));
    MUST(close(saved));
    for (size_t i = 0; i < n; i++) {
        uint8_t byte;

        payload_fill(0, &byte, p->got + i, 1);
        snprintf(wanted + 3 * i, sizeof(wanted) - 3 * i, " %02x", byte);
    }
    if (strcmp(out, wanted) != 0)
        FAIL("read was \"%s\", wanted \"%s\"", out, wanted);
    p->got += n;
}

#define DUMP_40 "od -An -v -tx1 -N40 | tr -d '\\n'"

static void by_popen(char *out, size_t size)
{
    FILE *f = popen(DUMP_40, "r");

    CHECK(f && fgets(out, (int)size, f));
    CHECK_EQ(pclose(f), 0);
}

static void by_system(char *out, size_t size)
{
    char name[] = "/tmp/spawn_held.XXXXXX", command[200];
    int fd = MUST(mkstemp(name));
    ssize_t n;

    snprintf(command, sizeof(command), DUMP_40 " >%s", name);
    CHECK_EQ(system(command), 0);
    n = MUST(pread(fd, out, size - 1, 0));
    out[n] = '\0';
    unlink(name);
    close(fd);
}

static void test_shell_commands_read_the_connection_as_their_input(void)
{
    static void (*const ways[])(char *, size_t) = {by_popen, by_system};

    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        for (int where = 0; where < WHERES; where++) {
            struct pair p = pair_open_with((enum where)where, 120);

            on_standard_input(&p, ways[i], 40);
            take(&p, 10);
            on_standard_input(&p, ways[i], 40);
            CHECK_EQ(poll_now(p.us, POLLIN), POLLIN);
            take(&p, 30);
            check_empty(p.us);
            pair_close(&p);
        }
    }
}

static long pages(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    long n = 0;

    CHECK(f && fscanf(f, "%ld", &n) == 1);
    fclose(f);
    return n;
}

/* A vfork child makes the image's environment in this process's memory: a page of it stayed each time. */
static void test_vfork_exec_many_times_leaves_no_memory_behind(void)
{
    struct pair p = pair_open_held(100);
    long before = 0;

    for (int i = 0; i < 60; i++) {
        if (i == 10)
            before = pages();
        check_child(vfork_exec(p.us, reader_args("hold", 0, &p, 0)));
    }
    if (!TEST_ASAN && !TEST_TSAN)
        CHECK(pages() - before < 20);
    take(&p, 100);
    pair_close(&p);
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_vfork_exec_many_times_leaves_no_memory_behind),
    CASE(test_vfork_dup2_exec_reads_the_rest),
    CASE(test_vfork_child_reads_itself),
    CASE(test_vfork_child_that_ends_leaves_all_to_the_parent),
    CASE(test_vfork_child_closes_its_copy_the_parents_stays),
    CASE(test_vfork_exec_that_fails_in_the_child),
    CASE(test_posix_spawn_with_dup2_reads_the_rest),
    CASE(test_posix_spawn_inherits_the_number_itself),
    CASE(test_posix_spawn_that_closes_it_the_parent_reads_all),
    CASE(test_posix_spawn_closefrom_after_dup2_reads_the_rest),
    CASE(test_posix_spawn_that_fails_leaves_all_as_it_was),
    CASE(test_shell_commands_read_the_connection_as_their_input),
    CASES_END,
};

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = reader_main;
}
