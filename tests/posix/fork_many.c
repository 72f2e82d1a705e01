/*
 * fork_many [CONNECTIONS]: a process with many connections forks again and again, each of them with
 * a byte that has arrived and was not read when the one before it was. Says what a fork costs; and
 * the child and its parent, who read the bytes of every other connection, find every one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "proc.h"
#include "tcp.h"
#include "test.h"

#define FORKS 9

static struct pair *all;
static int connections = 1000;

static int64_t now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? -1 : x > y;
}

static void open_all(void)
{
    rlim_t wanted = (rlim_t)connections * 2 + 100;
    int listener = MUST(listener_open(AF_INET));
    struct rlimit limit;

    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = limit.rlim_cur > wanted ? limit.rlim_cur : wanted;
    limit.rlim_max = limit.rlim_max > wanted ? limit.rlim_max : wanted;
    if (setrlimit(RLIMIT_NOFILE, &limit))
        test_skip("no room for %d connections (errno %d)", connections, errno);
    all = calloc((size_t)connections, sizeof(*all));
    CHECK(all);
    for (int i = 0; i < connections; i++) {
        all[i].peer = connect_to(listener);
        all[i].us = MUST(accept(listener, NULL, NULL));
    }
    close(listener);
}

/* Two arrive, one is read. */
static void fill_all(void)
{
    for (int i = 0; i < connections; i++)
        put(&all[i], 2);
    for (int i = 0; i < connections; i++)
        take(&all[i], 1);
}

static void read_half(int which, bool read)
{
    for (int i = which; i < connections; i += 2) {
        if (read)
            take(&all[i], 1);
        else
            all[i].got++;
    }
}

/* A child that does nothing. */
static int64_t fork_us(void)
{
    int64_t begin = now_us(), took;
    pid_t pid = MUST(fork());

    if (pid == 0)
        _exit(0);
    took = now_us() - begin;
    check_child(pid);
    return took;
}

static int many_main(int argc, char **argv)
{
    int64_t took[FORKS];
    pid_t pid;

    if (argc > 1)
        connections = atoi(argv[1]);
    open_all();
    for (int i = 0; i < FORKS; i++) {
        fill_all();
        took[i] = fork_us();
        pid = MUST(fork());
        read_half(pid == 0, true);
        if (pid == 0)
            _exit(0);
        check_child(pid);
        read_half(1, false);
        for (int k = 0; k < connections; k += 97)
            check_empty(all[k].us);
    }
    qsort(took, FORKS, sizeof(*took), by_size);
    printf("%d connections: a fork takes %lld us at the median (%lld to %lld)\n", connections,
           (long long)took[FORKS / 2], (long long)took[0], (long long)took[FORKS - 1]);
    return 0;
}

__attribute__((constructor)) static void setup(void)
{
    test_program = many_main;
}

const struct test_case test_cases[] = {CASES_END};
