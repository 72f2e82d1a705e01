/*
 * A program that shuts itself in after bytes have flowed, or is born shut in: a filter that kills
 * whoever calls io_uring must find nobody who does.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

static struct sock_filter killing[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, SYS_io_uring_setup, 0, 2),
    BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, SYS_io_uring_register, 1, 0),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
};

static struct sock_fprog program = {.len = COUNT_OF(killing), .filter = killing};

static void by_prctl(void)
{
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

static void by_syscall(void)
{
    MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}

static void by_syscall_prctl(void)
{
    MUST(syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0));
}

static void by_tsync(void)
{
    MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program));
}

static void shut_in(void (*install)(void))
{
    struct pair held = pair_open_held(50), warm = pair_open_warm();
    struct pair fresh;
    struct later_put lp;

    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    install();
    take(&held, 50);
    check_empty(held.us);
    later_put(&lp, &warm, 20);
    take(&warm, 20);
    later_join(&lp.l);
    CHECK_EQ(poll_now(warm.us, POLLIN), 0);
    fresh = pair_open_held(30);
    take(&fresh, 30);
    MUST(close(fresh.us));
    CHECK_PEER_SEES(fresh.peer, SEEN_FIN);
    close(fresh.peer);
    peer_fin(&warm);
    CHECK_EQ(recv(warm.us, buf, 1, 0), 0);
    pair_close(&warm);
    pair_close(&held);
}

static void test_filter_by_prctl_the_stream_goes_on(void)
{
    shut_in(by_prctl);
}

static void test_filter_by_syscall_the_stream_goes_on(void)
{
    shut_in(by_syscall);
}

static void test_filter_by_syscall_prctl_the_stream_goes_on(void)
{
    shut_in(by_syscall_prctl);
}

static void test_filter_for_all_threads_the_stream_goes_on(void)
{
    shut_in(by_tsync);
}

static void *receive_ten(void *arg)
{
    struct pair *p = arg;

    warm_up(p);
    take(p, 10);
    take(p, 10);
    return NULL;
}

static void test_filter_for_all_threads_while_one_is_blocked(void)
{
    struct pair p = pair_open();
    struct worker w;

    worker_start(&w, receive_ten, &p);
    CHECK_SOON(__atomic_load_n(&p.got, __ATOMIC_ACQUIRE) == WARM_READS && thread_asleep(w.tid),
               5000);
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    by_tsync();
    put_now(&p, 10);
    wait_asleep(w.tid);
    put_now(&p, 10);
    worker_join(&w);
    check_empty(p.us);
    MUST(close(p.us));
    CHECK_PEER_SEES(p.peer, SEEN_FIN);
    close(p.peer);
}

static void test_bad_filter_changes_nothing(void)
{
    struct pair p = pair_open_held(20);
    struct sock_fprog none = {.len = 0, .filter = killing};

    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    CHECK_ERR(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &none), EINVAL);
    take(&p, 20);
    put(&p, 10);
    take(&p, 10);
    pair_close(&p);
}

/* A filter that knows the few calls that a program makes from here on. */
static struct sock_filter strict[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 2, 0),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpid, 1, 0),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
};

static void end_by_syscall(int status)
{
    syscall(SYS_exit_group, status);
}

/*
 * The end of a process is part of what the filter allows: counters that were to be written then needed a
 * file, and the process was killed. A child of it ends under the same filter.
 */
static void test_ends_under_a_filter_without_asking_for_more(void)
{
    static void (*const ends[])(int) = {exit, _exit, quick_exit, end_by_syscall};
    struct sock_fprog few = {.len = COUNT_OF(strict), .filter = strict};
    struct pair p = pair_open_held(20);

    take(&p, 20);
    for (size_t i = 0; i < COUNT_OF(ends); i++) {
        pid_t pid = MUST(fork());

        if (pid == 0) {
            MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
            MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &few));
            pid = MUST(fork());
            if (pid)
                check_child(pid);
            ends[i](0);
        }
        check_child(pid);
    }
    pair_close(&p);
}

/* A call by its number is the filter's to judge, with the arguments that it has: libc's own mmap() refuses
 * an offset that is no multiple of a page, and the kernel did not hear of the call. */
static void test_a_call_by_number_reaches_the_filter_as_it_is(void)
{
    struct sock_filter odd[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 4097, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | E2BIG),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog refusing = {.len = COUNT_OF(odd), .filter = odd};
    struct pair p = pair_open_held(20);

    take(&p, 20);
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &refusing));
    CHECK_ERR(syscall(SYS_mmap, NULL, 4096, PROT_READ, MAP_PRIVATE, p.us, 4097), E2BIG);
    CHECK_ERR(syscall(SYS_mmap, NULL, 4096, PROT_READ, MAP_PRIVATE, -1, 0), EBADF);
    pair_close(&p);
}

/* Whether it would be killed has to be found out without the program's noticing: by no child that it
 * is told of. */
static int born_shut_in(int argc, char **argv)
{
    struct pair p;

    test_side = argc > 1 && strcmp(argv[1], "connected") == 0 ? SIDE_CONNECTED : SIDE_ACCEPTED;
    catch_signal(SIGCHLD, 0);
    for (int i = 0; i < 3; i++) {
        p = pair_open_held(30);
        take(&p, 30);
        CHECK_ERR(waitpid(-1, NULL, WNOHANG), ECHILD);
        CHECK_ERR(waitpid(-1, NULL, WNOHANG | __WALL), ECHILD);
        pair_close(&p);
    }
    CHECK_EQ(caught, 0);
    return 0;
}

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = born_shut_in;
}

static void test_born_under_a_killing_filter(void)
{
    const char *side = test_side == SIDE_CONNECTED ? "connected" : "accepted";

    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
    execl(test_self, test_self, "--helper", "born", side, (char *)NULL);
    FAIL("the program cannot be executed again");
}

const struct test_case test_cases[] = {
    CASE(test_filter_by_prctl_the_stream_goes_on),
    CASE(test_filter_by_syscall_the_stream_goes_on),
    CASE(test_filter_by_syscall_prctl_the_stream_goes_on),
    CASE(test_filter_for_all_threads_the_stream_goes_on),
    CASE(test_filter_for_all_threads_while_one_is_blocked),
    CASE(test_bad_filter_changes_nothing),
    CASE(test_ends_under_a_filter_without_asking_for_more),
    CASE(test_a_call_by_number_reaches_the_filter_as_it_is),
    CASE(test_born_under_a_killing_filter),
    CASES_END,
};
