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
        limit(RLIMIT_FSIZE, RLIM_INFINITY); /* who watches the test may write at the end */
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

const struct test_case test_cases[] = {
    CASE_ONCE(test_no_file_may_grow),
    CASES_END,
};
