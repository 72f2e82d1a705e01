/*
 * What the unit tests share: cmocka with what it needs before it, numbers that are the same in
 * every run, and a child whose state the test does not keep.
 */
#ifndef TESTS_UNIT_UNIT_H
#define TESTS_UNIT_UNIT_H

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SEEDS 20 /* runs of each test against a model */
#define COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))

/* A number below n > 0. xorshift64*; *state is never 0. */
static inline uint32_t rnd(uint64_t *state, uint32_t n)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (uint32_t)((*state * UINT64_C(2685821657736338717)) >> 32) % n;
}

/* Names the seed of a failure: cmocka's messages cannot. */
static inline uint64_t seeded(unsigned seed)
{
    print_message("seed %u\n", seed);
    return seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
}

/* Counts of lines are written at exit() alone. */
static inline void end_child(void)
{
#ifdef PBS_COVERAGE
    extern void __gcov_dump(void);

    __gcov_dump();
#endif
    fflush(NULL);
    _exit(0);
}

/* Runs fn(arg) in a child; returns its wait status. What fails in the child ends the child: it must
 * not go on with the parent's tests. */
static inline int in_child(void (*fn)(void *arg), void *arg)
{
    int status = -1;
    pid_t pid;

    fflush(NULL);
    pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        for (int sig = 1; sig < 32; sig++)
            signal(sig, SIG_DFL); /* cmocka's own */
        setenv("CMOCKA_TEST_ABORT", "1", 1);
        fn(arg);
        end_child();
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

#endif
