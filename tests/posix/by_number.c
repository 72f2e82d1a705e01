/*
 * Calls made by syscall(), whose numbers name what libc's own functions do: they see the same
 * stream, the same readiness and the same ends. libuv closes every socket this way.
 */
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

static ssize_t by_read(int fd, void *p, size_t n)
{
    return syscall(SYS_read, fd, p, n);
}

static ssize_t by_readv(int fd, void *p, size_t n)
{
    struct iovec v = {p, n};

    return syscall(SYS_readv, fd, &v, 1);
}

static ssize_t by_preadv2(int fd, void *p, size_t n)
{
    struct iovec v = {p, n};

    return syscall(SYS_preadv2, fd, &v, 1, -1L, -1L, 0);
}

static ssize_t by_recvfrom(int fd, void *p, size_t n)
{
    return syscall(SYS_recvfrom, fd, p, n, 0, NULL, NULL);
}

static ssize_t by_recvmsg(int fd, void *p, size_t n)
{
    struct iovec v = {p, n};
    struct msghdr msg = {.msg_iov = &v, .msg_iovlen = 1};

    return syscall(SYS_recvmsg, fd, &msg, 0);
}

static ssize_t by_recvmmsg(int fd, void *p, size_t n)
{
    struct iovec v = {p, n};
    struct mmsghdr mm = {.msg_hdr = {.msg_iov = &v, .msg_iovlen = 1}};
    long got = syscall(SYS_recvmmsg, fd, &mm, 1, 0, NULL);

    return got == 1 ? mm.msg_len : got;
}

static ssize_t by_splice(int fd, void *p, size_t n)
{
    int pipes[2];
    ssize_t got;

    MUST(pipe(pipes));
    got = syscall(SYS_splice, fd, NULL, pipes[1], NULL, n, 0);
    if (got > 0)
        CHECK_EQ(read(pipes[0], p, n), got);
    close(pipes[0]);
    close(pipes[1]);
    return got;
}

static ssize_t (*const calls[])(int fd, void *p, size_t n) = {
    by_read, by_readv, by_preadv2, by_recvfrom, by_recvmsg, by_recvmmsg,
};

static void expect(struct pair *p, ssize_t (*call)(int, void *, size_t), size_t n)
{
    while (n) {
        ssize_t got = call(p->us, buf, n);

        CHECK(got > 0);
        check_next(p, buf, (size_t)got);
        n -= (size_t)got;
    }
}

static void test_receives_by_number_give_one_stream(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 30);

        for (size_t i = 0; i < COUNT_OF(calls); i++) {
            expect(&p, calls[i], 7);
            take(&p, 6);
            put(&p, 13);
        }
        expect(&p, by_splice, 30);
        check_empty(p.us);
        pair_close(&p);
    }
}

static void test_receives_by_number_wait(void)
{
    struct pair p = pair_open_warm();

    for (size_t i = 0; i < COUNT_OF(calls); i++) {
        struct later_put lp;

        later_put(&lp, &p, 10);
        expect(&p, calls[i], 10);
        later_join(&lp.l);
    }
    pair_close(&p);
}

static void test_close_by_number_is_seen_by_the_peer(void)
{
    for (int unread = 0; unread < 2; unread++) {
        struct pair p = unread ? pair_open_held(20) : pair_open_warm();

        MUST(syscall(SYS_close, p.us));
        CHECK_PEER_SEES(p.peer, unread ? SEEN_RESET : SEEN_FIN);
        close(p.peer);
        CHECK_ERR(syscall(SYS_close, p.us), EBADF);
    }
}

static void test_close_range_by_number_is_seen_by_the_peer(void)
{
    struct pair p = pair_open_warm();

    MUST(syscall(SYS_close_range, p.us, p.us, 0));
    CHECK_PEER_SEES(p.peer, SEEN_FIN);
    close(p.peer);
}

static void test_dup_by_number_shares_the_stream(void)
{
    struct pair p = pair_open_held(20), q = pair_open_warm();
    int us = p.us;

    p.us = MUST(syscall(SYS_dup, us));
    take(&p, 5);
    MUST(syscall(SYS_dup2, p.us, q.us));
    CHECK_PEER_SEES(q.peer, SEEN_FIN);
    MUST(syscall(SYS_close, p.us));
    p.us = q.us;
    take(&p, 5);
    MUST(close(us));
    take(&p, 10);
    put(&p, 10);
    take(&p, 10);
    MUST(syscall(SYS_close, p.us));
    CHECK_PEER_SEES(p.peer, SEEN_FIN);
    close(p.peer);
    close(q.peer);
}

static void test_accept_by_number_makes_a_socket(void)
{
    int listener = listener_open(AF_INET), fd = connect_to(listener);
    struct pair p = {.us = MUST(syscall(SYS_accept4, listener, NULL, NULL, SOCK_CLOEXEC)),
                     .peer = fd};

    warm_up(&p);
    put(&p, 20);
    take(&p, 20);
    close(listener);
    pair_close(&p);
}

static int by_poll(int fd, bool *in)
{
    struct pollfd f = {.fd = fd, .events = POLLIN};
    long r = syscall(SYS_poll, &f, 1, 0);

    *in = f.revents & POLLIN;
    return (int)r;
}

static int by_ppoll(int fd, bool *in)
{
    struct pollfd f = {.fd = fd, .events = POLLIN};
    struct timespec zero = {0, 0};
    uint64_t mask = 0;
    long r = syscall(SYS_ppoll, &f, 1, &zero, &mask, sizeof(mask));

    *in = f.revents & POLLIN;
    return (int)r;
}

static int by_select(int fd, bool *in)
{
    struct timeval zero = {0, 0};
    fd_set set;
    long r;

    FD_ZERO(&set);
    FD_SET(fd, &set);
    r = syscall(SYS_select, fd + 1, &set, NULL, NULL, &zero);
    *in = FD_ISSET(fd, &set);
    return (int)r;
}

static int by_pselect(int fd, bool *in)
{
    struct timespec zero = {0, 0};
    uint64_t mask = 0;
    const struct {
        const void *mask;
        size_t size;
    } arg = {&mask, sizeof(mask)};
    fd_set set;
    long r;

    FD_ZERO(&set);
    FD_SET(fd, &set);
    r = syscall(SYS_pselect6, fd + 1, &set, NULL, NULL, &zero, &arg);
    *in = FD_ISSET(fd, &set);
    return (int)r;
}

static int by_fionread(int fd, bool *in)
{
    int n = 0;

    MUST(syscall(SYS_ioctl, fd, FIONREAD, &n));
    *in = n > 0;
    return n > 0;
}

static void test_readiness_by_number_is_that_of_the_stream(void)
{
    int (*const looks[])(int, bool *) = {by_poll, by_ppoll, by_select, by_pselect, by_fionread};

    for (size_t i = 0; i < COUNT_OF(looks); i++) {
        for (int where = 0; where < WHERES; where++) {
            struct pair p = pair_open_with(where, 20);
            bool in = false;

            CHECK_EQ(looks[i](p.us, &in), 1);
            CHECK(in);
            take(&p, 20);
            CHECK_EQ(looks[i](p.us, &in), 0);
            CHECK(!in);
            pair_close(&p);
        }
    }
}

static void test_refused_sizes_of_masks_are_einval(void)
{
    struct pair p = pair_open_held(20);
    struct pollfd f = {.fd = p.us, .events = POLLIN};
    struct epoll_event ev = {.events = EPOLLIN};
    uint64_t mask = 0;
    int ep = MUST(syscall(SYS_epoll_create1, 0));

    MUST(syscall(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, p.us, &ev));
    CHECK_ERR(syscall(SYS_ppoll, &f, 1, NULL, &mask, 4), EINVAL);
    CHECK_ERR(syscall(SYS_epoll_pwait, ep, &ev, 1, 0, &mask, 4), EINVAL);
    CHECK_EQ(syscall(SYS_epoll_pwait, ep, &ev, 1, 0, &mask, 8), 1);
    close(ep);
    pair_close(&p);
}

static void test_epoll_by_number_sees_the_stream(void)
{
    struct pair p = pair_open_held(20);
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 42};
    struct timespec zero = {0, 0};
    int ep = MUST(syscall(SYS_epoll_create1, EPOLL_CLOEXEC));

    MUST(syscall(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, p.us, &ev));
    for (int i = 0; i < 3; i++) {
        memset(&ev, 0, sizeof(ev));
        if (i == 0)
            CHECK_EQ(syscall(SYS_epoll_wait, ep, &ev, 1, 0), 1);
        else if (i == 1)
            CHECK_EQ(syscall(SYS_epoll_pwait, ep, &ev, 1, 0, NULL, 0), 1);
        else
            CHECK_EQ(syscall(SYS_epoll_pwait2, ep, &ev, 1, &zero, NULL, 0), 1);
        CHECK_EQ(ev.events, EPOLLIN);
        CHECK_EQ(ev.data.u64, 42);
    }
    take(&p, 20);
    CHECK_EQ(syscall(SYS_epoll_wait, ep, &ev, 1, 0), 0);
    MUST(syscall(SYS_close, ep));
    pair_close(&p);
}

static void check_child(pid_t pid)
{
    int status;

    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
}

static void test_fork_by_number_child_reads_the_rest(void)
{
    for (int how = 0; how < 2; how++) {
        struct pair p = pair_open_warm();
        pid_t pid;

        put(&p, 100);
        pid = MUST(how ? syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL) : syscall(SYS_fork));
        if (pid == 0) {
            take(&p, 40);
            syscall(SYS_exit_group, 0);
        }
        check_child(pid);
        p.got += 40;
        take(&p, 60);
        check_empty(p.us);
        MUST(syscall(SYS_close, p.us));
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        close(p.peer);
    }
}

static void test_exit_group_by_number_ends_the_connection(void)
{
    struct pair p = {.us = -1, .peer = -1};
    int listener = listener_open(AF_INET), done[2];
    pid_t pid;

    MUST(pipe(done));
    pid = MUST(fork());
    if (pid == 0) {
        p.us = connect_to(listener);
        CHECK_EQ(read(done[0], buf, 1), 1);
        CHECK_EQ(read(p.us, buf, 5), 5);
        syscall(SYS_exit_group, 0);
    }
    p.peer = MUST(accept(listener, NULL, NULL));
    CHECK_EQ(send(p.peer, "0123456789", 10, 0), 10);
    CHECK_EQ(write(done[1], "g", 1), 1);
    check_child(pid);
    CHECK_PEER_SEES(p.peer, SEEN_RESET); /* five bytes were not read */
    close(p.peer);
    close(listener);
}

static void *cancelled(void *arg)
{
    struct pair *p = arg;

    MUST0(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL));
    MUST0(pthread_cancel(pthread_self()));
    MUST0(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL));
    expect(p, by_read, 10);
    MUST(syscall(SYS_close, p->us));
    p->us = -1;
    pthread_testcancel();
    return NULL;
}

static void test_calls_by_number_are_no_cancellation_points(void)
{
    struct pair p = pair_open_warm();
    pthread_t t;
    void *end;

    put(&p, 10);
    MUST0(pthread_create(&t, NULL, cancelled, &p));
    MUST0(pthread_join(t, &end));
    CHECK(end == PTHREAD_CANCELED);
    CHECK_EQ(p.us, -1);
    CHECK_PEER_SEES(p.peer, SEEN_FIN);
    close(p.peer);
}

const struct test_case test_cases[] = {
    CASE(test_receives_by_number_give_one_stream),
    CASE(test_receives_by_number_wait),
    CASE(test_close_by_number_is_seen_by_the_peer),
    CASE(test_close_range_by_number_is_seen_by_the_peer),
    CASE(test_dup_by_number_shares_the_stream),
    CASE_ONCE(test_accept_by_number_makes_a_socket),
    CASE(test_readiness_by_number_is_that_of_the_stream),
    CASE(test_refused_sizes_of_masks_are_einval),
    CASE(test_epoll_by_number_sees_the_stream),
    CASE(test_fork_by_number_child_reads_the_rest),
    CASE_ONCE(test_exit_group_by_number_ends_the_connection),
    CASE(test_calls_by_number_are_no_cancellation_points),
    CASES_END,
};
