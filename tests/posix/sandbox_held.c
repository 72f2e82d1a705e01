/*
 * A process that loses what it could do before, with bytes unread: a filter of system calls, other
 * user and group, another root, no descriptor left. What had arrived is read all the same, by its
 * children too.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

#define REFUSE(nr, error)                                                                          \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1),                                               \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error))
#define NUMBER BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static struct sock_filter no_ring_eperm[] = {
    NUMBER,
    REFUSE(SYS_io_uring_setup, EPERM),
    REFUSE(SYS_io_uring_enter, EPERM),
    REFUSE(SYS_io_uring_register, EPERM),
    ALLOW,
};
static struct sock_filter no_ring_enosys[] = {
    NUMBER,
    REFUSE(SYS_io_uring_setup, ENOSYS),
    REFUSE(SYS_io_uring_enter, ENOSYS),
    REFUSE(SYS_io_uring_register, ENOSYS),
    ALLOW,
};
/* A way to share memory less, as well. */
static struct sock_filter no_memfd[] = {
    NUMBER,
    REFUSE(SYS_io_uring_setup, EPERM),
    REFUSE(SYS_io_uring_enter, EPERM),
    REFUSE(SYS_io_uring_register, EPERM),
    REFUSE(SYS_memfd_create, EPERM),
    ALLOW,
};

/* Nothing that a program which only receives would miss; sshd's network child lives under such a one. */
#define KILL(nr)                                                                                   \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1),                                               \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)
static struct sock_filter receives_only[] = {
    NUMBER,
    KILL(SYS_io_uring_setup),
    KILL(SYS_io_uring_enter),
    KILL(SYS_io_uring_register),
    KILL(SYS_getsockopt),
    KILL(SYS_setsockopt),
    KILL(SYS_shutdown),
    KILL(SYS_recvmsg),
    KILL(SYS_ioctl),
    KILL(SYS_madvise),
    KILL(SYS_getrandom),
    ALLOW,
};

#define FILTER(name)                                                                               \
    {                                                                                              \
        COUNT_OF(name), name                                                                       \
    }
static struct sock_fprog filters[] = {
    FILTER(no_ring_eperm),
    FILTER(no_ring_enosys),
    FILTER(no_memfd),
};

static void shut_in(struct sock_fprog *filter)
{
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter));
}

/* Reads what was there before and what comes after. */
static void reads_on(struct pair *p, size_t unread)
{
    CHECK_EQ(poll_now(p->us, POLLIN), unread ? POLLIN : 0);
    take(p, unread);
    check_empty(p->us);
    put(p, 30);
    CHECK_EQ(poll_now(p->us, POLLIN), POLLIN);
    take(p, 30);
}

/* And waits for it; not where a process may no longer look at its own threads. */
static void goes_on(struct pair *p, size_t unread)
{
    struct later_put lp;

    reads_on(p, unread);
    later_put(&lp, p, 20);
    take(p, 20);
    later_join(&lp.l);
    reads_on(p, 0);
}

static void close_and_see(struct pair *p)
{
    MUST(close(p->us));
    CHECK_PEER_SEES(p->peer, SEEN_FIN);
    MUST(close(p->peer));
}

/* A filter holds for good: one process for each. */
static void each_filter(void (*run)(struct sock_fprog *))
{
    for (size_t i = 0; i < COUNT_OF(filters); i++) {
        pid_t pid = MUST(fork());

        if (pid == 0) {
            run(&filters[i]);
            exit(0);
        }
        check_child(pid);
    }
}

static void filter_then_read(struct sock_fprog *filter)
{
    struct pair p = pair_open_held(100), q = pair_open_warm(), r;

    shut_in(filter);
    goes_on(&p, 100);
    goes_on(&q, 0);
    r = pair_open_held(50);
    goes_on(&r, 50);
    close_and_see(&p);
    close_and_see(&q);
    close_and_see(&r);
}

static void test_filter_refuses_the_ring_bytes_are_read(void)
{
    each_filter(filter_then_read);
}

static void filter_then_fork(struct sock_fprog *filter)
{
    struct shared *s = pair_share(pair_open_held(100));
    pid_t pid;

    shut_in(filter);
    take(&s->p, 20);
    pid = MUST(fork());
    if (pid == 0) {
        take(&s->p, 40);
        _exit(0);
    }
    check_child(pid);
    goes_on(&s->p, 40);
    shared_close(s);
}

static void test_filter_then_a_fork_the_child_reads_too(void)
{
    each_filter(filter_then_fork);
}

static void fork_then_filter(struct sock_fprog *filter)
{
    struct shared *s = pair_share(pair_open_held(100));
    pid_t pid = MUST(fork());

    if (pid == 0) {
        take(&s->p, 20);
        shut_in(filter);
        take(&s->p, 40);
        _exit(0);
    }
    check_child(pid);
    goes_on(&s->p, 40);
    shared_close(s);
}

static void test_filter_in_the_child_only(void)
{
    each_filter(fork_then_filter);
}

/* Asks for more than is held, looks, and takes the rest; then what comes later; and ends unread. */
static void receive_only(struct shared *s)
{
    struct sock_fprog filter = FILTER(receives_only);

    shut_in(&filter);
    take(&s->p, 10);
    CHECK_EQ(recv(s->p.us, buf, 30, MSG_PEEK), 30);
    check_ahead(&s->p, buf, 0, 30);
    CHECK_EQ(recv(s->p.us, buf, sizeof(buf), 0), 70);
    check_next(&s->p, buf, 70);
    check_empty(s->p.us);
    put_now(&s->p, 30);
    take(&s->p, 10);
    _exit(0);
}

/*
 * sshd reads the client's banner byte by byte, forks with what is behind it unread, and the child
 * installs a filter before it reads on. Of 60 logins a few were killed: the library asked the kernel
 * whose bytes they were, and for what might be behind them.
 */
static void test_filter_kills_for_calls_that_the_program_does_not_make(void)
{
    for (int forked = 0; forked < 2; forked++) {
        struct shared *s = pair_share(pair_open_held(100));
        pid_t pid;

        if (forked)
            take(&s->p, 20);
        pid = MUST(fork());
        if (pid == 0) {
            if (!forked) {
                s = pair_share(pair_open_held(100));
                take(&s->p, 20);
            }
            receive_only(s);
        }
        check_child(pid);
        take(&s->p, forked ? 20 : 100);
        shared_close(s);
    }
}

static void filter_then_exec(struct sock_fprog *filter)
{
    struct pair p = pair_open_held(100);

    if (filter->filter == no_memfd)
        exit(0); /* nothing but a descriptor lives through an exec */
    take(&p, 20);
    shut_in(filter);
    take(&p, 20);
    execv(test_self, reader_args("exact", p.us, &p, 60));
    FAIL("execv: errno %d", errno);
}

static void test_filter_then_an_exec_the_image_reads_on(void)
{
    each_filter(filter_then_exec);
}

static void as_root_only(void)
{
    if (geteuid() != 0)
        test_skip("this takes a superuser");
}

static void become_nobody(void)
{
    MUST(setresgid(65534, 65534, 65534));
    MUST(setresuid(65534, 65534, 65534));
}

static void change_root(void)
{
    char dir[] = "/tmp/sandbox_held.XXXXXX";

    CHECK(mkdtemp(dir));
    MUST(chmod(dir, 0755));
    MUST(chroot(dir));
    MUST(chdir("/"));
}

static void both(void)
{
    change_root();
    become_nobody();
}

static void undumpable(void)
{
    MUST(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
}

static void (*const losses[])(void) = {become_nobody, change_root, both, undumpable};

static void test_privileges_given_up_bytes_are_read(void)
{
    as_root_only();
    for (size_t i = 0; i < COUNT_OF(losses); i++) {
        pid_t pid = MUST(fork());

        if (pid == 0) {
            struct pair p = pair_open_held(100), r;

            losses[i]();
            reads_on(&p, 100);
            r = pair_open_held(50);
            reads_on(&r, 50);
            close_and_see(&p);
            close_and_see(&r);
            _exit(0);
        }
        check_child(pid);
    }
}

static void test_privileges_given_up_then_a_fork(void)
{
    as_root_only();
    for (size_t i = 0; i < COUNT_OF(losses); i++) {
        for (int in_child = 0; in_child < 2; in_child++) {
            pid_t middle = MUST(fork()), pid;
            struct shared *s;

            if (middle) {
                check_child(middle);
                continue;
            }
            s = pair_share(pair_open_held(100));
            if (!in_child)
                losses[i]();
            pid = MUST(fork());
            if (pid == 0) {
                if (in_child)
                    losses[i]();
                take(&s->p, 40);
                _exit(0);
            }
            check_child(pid);
            reads_on(&s->p, 60);
            _exit(0);
        }
    }
}

/* No number is free when the process forks, and none when it receives. */
static void test_no_descriptor_left_a_fork_shares_the_bytes(void)
{
    struct shared *s = pair_share(pair_open_held(100));
    struct rlimit limit = {.rlim_cur = 3, .rlim_max = 3};
    pid_t pid;

    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    CHECK_ERR(dup(s->p.us), EMFILE);
    pid = MUST(fork());
    if (pid == 0) {
        take(&s->p, 40);
        _exit(0);
    }
    check_child(pid);
    CHECK_ERR(dup(s->p.us), EMFILE);
    take(&s->p, 60);
    check_empty(s->p.us);
    put(&s->p, 10);
    take(&s->p, 10);
    CHECK_ERR(recv(s->p.us, buf, 1, MSG_DONTWAIT), EAGAIN);
    shared_close(s);
}

const struct test_case test_cases[] = {
    CASE(test_filter_refuses_the_ring_bytes_are_read),
    CASE(test_filter_then_a_fork_the_child_reads_too),
    CASE(test_filter_in_the_child_only),
    CASE(test_filter_kills_for_calls_that_the_program_does_not_make),
    CASE(test_filter_then_an_exec_the_image_reads_on),
    CASE_ONCE(test_privileges_given_up_bytes_are_read),
    CASE_ONCE(test_privileges_given_up_then_a_fork),
    CASE(test_no_descriptor_left_a_fork_shares_the_bytes),
    CASES_END,
};

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = reader_main;
}
