/*
 * Very many small arrivals at a time on many connections, more than a queue of completions has room for:
 * whoever looks next, in whatever way, finds the bytes in their order. Also where there is no more room to be
 * had.
 */
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "asleep.h"
#include "leg.h"
#include "proc.h"
#include "stall.h"

#define MEMBERS 20
#define MUCH 3000 /* bytes: some 50 buffers */
#define ROUNDS 5
#define THREADS 4 /* one after the other */

static void crowd_open(struct pair *p)
{
    for (int i = 0; i < MEMBERS; i++)
        p[i] = pair_open_warm();
}

static size_t unread(const struct pair *p)
{
    return (size_t)(p->sent - p->got);
}

/* Something is unread of each, and one look has seen what there is. */
static void fill_all(struct pair *p)
{
    for (int i = 0; i < MEMBERS; i++) {
        put(&p[i], 2);
        take(&p[i], 1);
        take(&p[i], 1); /* from here on served again */
        check_empty(p[i].us);
    }
    for (int i = 0; i < MEMBERS; i++)
        put(&p[i], MUCH);
    take(&p[0], 1);
}

static void *take_all(void *arg)
{
    struct pair *p = arg;

    for (int i = 0; i < MEMBERS; i++)
        take_in_parts(&p[i], unread(&p[i]));
    return NULL;
}

static void peek_all(struct pair *p)
{
    uint8_t buf[MUCH];

    for (int i = 0; i < MEMBERS; i++) {
        CHECK_EQ(recv(p[i].us, buf, unread(&p[i]), MSG_PEEK), unread(&p[i]));
        check_ahead(&p[i], buf, 0, unread(&p[i]));
    }
    take_all(p);
}

static void count_all(struct pair *p)
{
    for (int i = 0; i < MEMBERS; i++) {
        int there = 0;

        MUST(ioctl(p[i].us, FIONREAD, &there));
        CHECK_EQ(there, unread(&p[i]));
    }
    take_all(p);
}

/* To another thread. */
static void hand_over(struct pair *p)
{
    struct worker w;

    worker_start(&w, take_all, p);
    worker_join(&w);
}

/* Asleep in between, which is when there might be made more room. */
static void sleep_first(struct pair *p)
{
    struct pair other = pair_open_warm();

    for (int i = 0; i < 3; i++) {
        sleep_on_other(&other);
        for (int k = 0; k < MEMBERS; k++)
            put(&p[k], MUCH / 4);
    }
    sleep_on_other(&other);
    take_all(p);
    pair_drop(&other);
}

/* In a thread of its own, which has not been here before. */
static void *rounds(void *arg)
{
    void (*look)(struct pair * p) = *(void (**)(struct pair *))arg;

    for (int i = 0; i < ROUNDS; i++) {
        struct pair p[MEMBERS];

        crowd_open(p);
        fill_all(p);
        look(p);
        for (int k = 0; k < MEMBERS; k++)
            pair_drop(&p[k]);
    }
    return NULL;
}

static int crowded(int argc, char **argv)
{
    static void (*ways[])(struct pair * p) = {peek_all, count_all, hand_over, sleep_first};

    (void)argc;
    for (int i = 0; i < THREADS; i++) {
        struct worker w;

        worker_start(&w, rounds, &ways[atoi(argv[1])]);
        worker_join(&w);
    }
    return 0;
}

/* Settings that mean nothing to a program, and to the library many small buffers. before: what the process
 * does to itself first. */
static pid_t run_crowded(const char *way, void (*before)(void))
{
    pid_t pid = MUST(fork());

    if (pid == 0) {
        MUST(setenv("PBUFSHIM_BUFS", "1024", 1));
        MUST(setenv("PBUFSHIM_BUF_SIZE", "64", 1));
        MUST(setenv("PBUFSHIM_GROUPS", "shared", 1));
        if (before)
            before();
        execl(test_self, test_self, "--helper", "crowded", way, (char *)NULL);
        _exit(126);
    }
    check_child(pid);
    return pid;
}

static void test_queue_full_peek_sees_all(void)
{
    check_counted("shim", run_crowded("0", NULL), "resizes", 1);
}

static void test_queue_full_all_is_counted(void)
{
    check_counted("shim", run_crowded("1", NULL), "resizes", 1);
}

static void test_queue_full_another_thread_reads_on(void)
{
    check_counted("shim", run_crowded("2", NULL), "resizes", 1);
}

static void test_queue_full_thread_sleeps_on(void)
{
    check_counted("shim", run_crowded("3", NULL), "resizes", 1);
}

#define RESIZE_RINGS 33U /* of io_uring_register */

/* Rings, but none that could be made larger. */
static void refuse_resizing(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_register, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xffff),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, RESIZE_RINGS, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOMEM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = COUNT_OF(code), .filter = code};

    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
    CHECK_ERR(syscall(SYS_io_uring_register, -1, RESIZE_RINGS, NULL, 1), ENOMEM);
}

/* A ring of these settings is some 24 KiB, and all may have a quarter of what can be locked. */
static void lock_little(void)
{
    struct rlimit lim = {160 << 10, 160 << 10};

    prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0); /* EPERM: has none */
    MUST(setrlimit(RLIMIT_MEMLOCK, &lim));
}

static void all_ways_without_room(void (*before)(void))
{
    static const char *const ways[] = {"0", "1", "2", "3"};

    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        pid_t pid = run_crowded(ways[i], before);

        if (before == refuse_resizing)
            check_counted("shim", pid, "ring_bytes", MUCH);
        check_counted_most("shim", pid, "resizes", 0);
        /* Nobody tries again and again. Without a ring each receive is an entry. */
        check_counted_most("shim", pid, "kernel_entries", 100000);
    }
}

static void test_queue_full_and_the_kernel_refuses_more_room(void)
{
    all_ways_without_room(refuse_resizing);
}

static void test_queue_full_and_no_more_may_be_locked(void)
{
    all_ways_without_room(lock_little);
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_queue_full_peek_sees_all),
    CASE_ONCE(test_queue_full_all_is_counted),
    CASE_ONCE(test_queue_full_another_thread_reads_on),
    CASE_ONCE(test_queue_full_thread_sleeps_on),
    CASE_ONCE(test_queue_full_and_the_kernel_refuses_more_room),
    CASE_ONCE(test_queue_full_and_no_more_may_be_locked),
    CASES_END,
};

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = crowded;
}
