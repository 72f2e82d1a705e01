/*
 * Forks with bytes unread where there is little of what they could be kept in: file sizes, descriptor
 * numbers, and the number of such forks itself.
 */
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "proc.h"
#include "tcp.h"
#include "test.h"

#define MANY 60

static void limit(int what, rlim_t most)
{
    struct rlimit lim;

    MUST(getrlimit(what, &lim));
    lim.rlim_cur = most;
    MUST(setrlimit(what, &lim));
}

static void child_takes(struct shared *s, size_t n)
{
    pid_t pid = MUST(fork());

    if (pid == 0) {
        take(&s->p, n);
        _exit(0);
    }
    check_child(pid);
}

/* The memory file was made as long as the bytes: SIGXFSZ killed the process that forked. */
static void test_no_file_may_grow(void)
{
    struct shared *s = pair_share(pair_open_held(100));

    limit(RLIMIT_FSIZE, 0);
    child_takes(s, 50);
    take(&s->p, 50);
    check_empty(s->p.us);
    limit(RLIMIT_FSIZE, RLIM_INFINITY);
    shared_close(s);
}

/*
 * Without a number to be had the bytes are in memory alone, which a child's child shares like its
 * parents. They were moved once more at the child's own fork, away from the first parent.
 */
static void test_no_descriptor_at_all_three_generations_read(void)
{
    struct shared *s = pair_share(pair_open_held(100));
    pid_t pid;

    limit(RLIMIT_NOFILE, 0);
    pid = MUST(fork());
    if (pid == 0) {
        take(&s->p, 10);
        child_takes(s, 10);
        _exit(0);
    }
    check_child(pid);
    take(&s->p, 80);
    check_empty(s->p.us);
    shared_close(s);
}

/*
 * One fork for each connection, and all stay unread: from the 33rd on the child began with what came
 * later.
 */
static void test_many_forks_with_bytes_left_unread(void)
{
    struct shared *s[MANY];

    for (int i = 0; i < MANY; i++) {
        s[i] = pair_share(pair_open_held(40));
        child_takes(s[i], 7);
        put(&s[i]->p, 5);
    }
    for (int i = 0; i < MANY; i++)
        child_takes(s[i], 7);
    for (int i = 0; i < MANY; i++) {
        take(&s[i]->p, 31);
        check_empty(s[i]->p.us);
        shared_close(s[i]);
    }
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_no_file_may_grow),
    CASE_ONCE(test_no_descriptor_at_all_three_generations_read),
    CASE_ONCE(test_many_forks_with_bytes_left_unread),
    CASES_END,
};
