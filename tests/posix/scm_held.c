/*
 * Connections passed on by SCM_RIGHTS with bytes that nobody has read: they are read by whoever
 * has the connection then, in another process or in the same one.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

enum sending { BY_SENDMSG, BY_SENDMMSG, BY_NUMBER, SENDINGS };

static void send_fds(int through, const int *fds, size_t n, enum sending how)
{
    union {
        char space[CMSG_SPACE(4 * sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct iovec v = {(void *)"f", 1};
    struct mmsghdr mm = {.msg_hdr = {.msg_iov = &v,
                                     .msg_iovlen = 1,
                                     .msg_control = control.space,
                                     .msg_controllen = CMSG_SPACE(n * sizeof(int))}};
    struct cmsghdr *c = CMSG_FIRSTHDR(&mm.msg_hdr);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(n * sizeof(int));
    memcpy(CMSG_DATA(c), fds, n * sizeof(int));
    if (how == BY_SENDMSG)
        CHECK_EQ(sendmsg(through, &mm.msg_hdr, 0), 1);
    else if (how == BY_SENDMMSG)
        CHECK_EQ(sendmmsg(through, &mm, 1, 0), 1);
    else
        CHECK_EQ(syscall(SYS_sendmsg, through, &mm.msg_hdr, 0), 1);
}

static void receive_fds_with(int through, int *fds, size_t n, int flags)
{
    union {
        char space[CMSG_SPACE(4 * sizeof(int))];
        struct cmsghdr align;
    } control;
    char byte;
    struct iovec v = {&byte, 1};
    struct msghdr msg = {.msg_iov = &v,
                         .msg_iovlen = 1,
                         .msg_control = control.space,
                         .msg_controllen = sizeof(control.space)};
    struct cmsghdr *c;

    CHECK_EQ(recvmsg(through, &msg, flags), 1);
    c = CMSG_FIRSTHDR(&msg);
    CHECK(c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(n * sizeof(int)));
    memcpy(fds, CMSG_DATA(c), n * sizeof(int));
}

static void receive_fds(int through, int *fds, size_t n)
{
    receive_fds_with(through, fds, n, MSG_CMSG_CLOEXEC);
}

/* Everything that was there, seen and then read, and what comes later. */
static void receiver(int through)
{
    struct pair p = {.peer = -1};
    uint64_t from_and_count[2];
    int n = -1;

    receive_fds(through, &p.us, 1);
    CHECK_EQ(recv(through, from_and_count, sizeof(from_and_count), MSG_WAITALL),
             sizeof(from_and_count));
    p.got = from_and_count[0];
    CHECK_EQ(poll_now(p.us, POLLIN), POLLIN);
    MUST(ioctl(p.us, FIONREAD, &n));
    CHECK_EQ(n, from_and_count[1]);
    take(&p, (size_t)from_and_count[1]);
    check_empty(p.us);
    CHECK_EQ(send(through, "m", 1, 0), 1);
    take(&p, 30);
    _exit(0);
}

static void tell(int through, const struct pair *p)
{
    uint64_t from_and_count[2] = {p->got, p->sent - p->got};

    CHECK_EQ(send(through, from_and_count, sizeof(from_and_count), 0), sizeof(from_and_count));
}

static void pass(enum where where, enum sending how, bool close_first)
{
    int through[2];
    struct pair p;
    pid_t pid;
    char more;

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, through));
    p = pair_open_with(where, 100);
    take(&p, 20);
    send_fds(through[0], &p.us, 1, how);
    pid = MUST(fork()); /* a receiver from before cannot see what is held: a listed limit */
    if (pid == 0) {
        MUST(close(p.us));
        receiver(through[1]);
    }
    if (close_first)
        MUST(close(p.us));
    tell(through[0], &p);
    CHECK_EQ(recv(through[0], &more, 1, 0), 1);
    put_now(&p, 30);
    check_child(pid);
    if (!close_first) {
        p.got = p.sent;
        check_empty(p.us);
        put(&p, 10);
        take(&p, 10);
        MUST(close(p.us));
    }
    CHECK_PEER_SEES(p.peer, SEEN_FIN);
    close(p.peer);
    close(through[0]);
    close(through[1]);
}

static void test_passed_with_bytes_unread_the_receiver_reads_them(void)
{
    for (int where = 0; where < WHERES; where++)
        for (int how = 0; how < SENDINGS; how++)
            for (int close_first = 0; close_first < 2; close_first++)
                pass((enum where)where, (enum sending)how, close_first);
}

/* Parent and child have it already; the child gets it a second time. */
static void test_passed_to_a_child_that_has_it_already(void)
{
    struct shared *s = pair_share(pair_open_held(100));
    int through[2], fd;
    pid_t pid;

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, through));
    pid = MUST(fork());
    if (pid == 0) {
        receive_fds(through[1], &fd, 1);
        MUST(close(s->p.us));
        s->p.us = fd;
        take(&s->p, 40);
        _exit(0);
    }
    fd = s->p.us; /* the child writes its own there, as soon as it has it */
    send_fds(through[0], &fd, 1, BY_SENDMSG);
    check_child(pid);
    s->p.us = fd;
    take(&s->p, 60);
    check_empty(fd);
    shared_close(s);
}

static void test_passed_to_itself_with_bytes_unread(void)
{
    for (int where = 0; where < WHERES; where++) {
        for (int how = 0; how < SENDINGS; how++) {
            struct pair p = pair_open_with((enum where)where, 100);
            int through[2], us = p.us, other;

            MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, through));
            take(&p, 20);
            send_fds(through[0], &us, 1, (enum sending)how);
            take(&p, 20);
            receive_fds(through[1], &other, 1);
            p.us = other;
            CHECK_EQ(poll_now(other, POLLIN), POLLIN);
            take(&p, 20);
            p.us = us;
            take(&p, 20);
            MUST(close(us));
            p.us = other;
            take(&p, 20);
            check_empty(other);
            put(&p, 10);
            take(&p, 10);
            MUST(close(other));
            CHECK_PEER_SEES(p.peer, SEEN_FIN);
            close(p.peer);
            close(through[0]);
            close(through[1]);
        }
    }
}

/* In flight, and no other number: the bytes wait with it. */
static void test_passed_and_closed_the_bytes_are_there_when_it_is_received(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with((enum where)where, 100);
        int through[2];

        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, through));
        take(&p, 20);
        send_fds(through[0], &p.us, 1, BY_SENDMSG);
        MUST(close(p.us));
        CHECK_EQ(peer_sees(p.peer, 10), SEEN_NOTHING);
        put_now(&p, 20);
        receive_fds(through[1], &p.us, 1);
        take(&p, 100);
        check_empty(p.us);
        MUST(close(p.us));
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        close(p.peer);
        close(through[0]);
        close(through[1]);
    }
}

/* Nobody ever receives it: with the way closed, its last holder is gone. */
static void test_passed_and_never_received_is_reset_with_bytes_unread(void)
{
    struct pair p = pair_open_warm();
    int through[2];

    put(&p, 50);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, through));
    send_fds(through[0], &p.us, 1, BY_SENDMSG);
    MUST(close(p.us));
    CHECK_EQ(peer_sees(p.peer, 10), SEEN_NOTHING);
    close(through[0]);
    close(through[1]);
    CHECK_PEER_SEES(p.peer, SEEN_RESET);
    close(p.peer);
}

static void test_several_in_one_message_each_with_its_bytes(void)
{
    struct pair p = pair_open_held(60), q = pair_open_held(70);
    int through[2], fds[3] = {p.us, q.us, p.us}, got[3];

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, through));
    send_fds(through[0], fds, 3, BY_SENDMSG);
    MUST(close(p.us));
    MUST(close(q.us));
    receive_fds(through[1], got, 3);
    p.us = got[0];
    take(&p, 30);
    q.us = got[1];
    take(&q, 70);
    MUST(close(got[0]));
    p.us = got[2];
    take(&p, 30);
    check_empty(p.us);
    check_empty(q.us);
    pair_close(&p);
    pair_close(&q);
    close(through[0]);
    close(through[1]);
}

static void received_then_executed(bool spawned)
{
    struct pair p = pair_open_held(100);
    int through[2];
    char **args;
    pid_t pid;

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, through));
    send_fds(through[0], &p.us, 1, BY_SENDMSG);
    MUST(close(p.us));
    receive_fds_with(through[1], &p.us, 1, 0);
    args = reader_args(spawned ? "exact" : "chain", p.us, &p, spawned ? 60 : 30);
    if (!spawned) {
        execv(test_self, args);
        _exit(9);
    }
    pid = vfork();
    if (pid == 0) {
        execv(test_self, args);
        _exit(9);
    }
    check_child(MUST(pid));
    p.got += 60;
    take(&p, 40);
    check_empty(p.us);
    _exit(0);
}

/* Passed to itself, closed, received; and then another image has it, and another one. */
static void test_received_with_bytes_unread_then_executed(void)
{
    for (int spawned = 0; spawned < 2; spawned++) {
        pid_t pid = MUST(fork());

        if (pid == 0)
            received_then_executed(spawned);
        check_child(pid);
    }
}

/* The child's number is in flight when it has closed it, and ours later: two holders all the time. */
static void test_passed_back_by_a_child_it_is_one_stream(void)
{
    for (int held = 0; held < 2; held++) {
        struct shared *s = pair_share(held ? pair_open_held(30) : pair_open_warm());
        int through[2], other, us = s->p.us;
        pid_t pid;

        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, through));
        pid = MUST(fork());
        if (pid == 0) {
            send_fds(through[1], &us, 1, BY_SENDMSG);
            MUST(close(us));
            _exit(0);
        }
        check_child(pid);
        put(&s->p, 200);
        for (int i = 0; i < 50; i++)
            take(&s->p, 1);
        receive_fds(through[0], &other, 1);
        s->p.us = other;
        CHECK_EQ(poll_now(other, POLLIN), POLLIN);
        take(&s->p, 50);
        s->p.us = us;
        take(&s->p, 50);
        MUST(close(us));
        s->p.us = other;
        take(&s->p, s->p.sent - s->p.got);
        check_empty(other);
        MUST(close(other));
        CHECK_PEER_SEES(s->p.peer, SEEN_FIN);
        s->p.us = -1;
        shared_close(s);
        close(through[0]);
        close(through[1]);
    }
}

static void *sleep_in_recv(void *arg)
{
    take(arg, 10);
    return NULL;
}

/* One thread sleeps in a receive on it while another passes it on. */
static void test_passed_while_a_thread_is_blocked_in_it(void)
{
    struct pair p = pair_open_warm();
    int through[2], other;
    struct worker w;

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, through));
    worker_start(&w, sleep_in_recv, &p);
    wait_asleep(w.tid);
    send_fds(through[0], &p.us, 1, BY_SENDMSG);
    receive_fds(through[1], &other, 1);
    wait_asleep(w.tid);
    put_now(&p, 10);
    worker_join(&w);
    MUST(close(p.us));
    p.us = other;
    put(&p, 10);
    take(&p, 10);
    pair_close(&p);
    close(through[0]);
    close(through[1]);
}

const struct test_case test_cases[] = {
    CASE(test_passed_with_bytes_unread_the_receiver_reads_them),
    CASE(test_passed_to_a_child_that_has_it_already),
    CASE(test_passed_to_itself_with_bytes_unread),
    CASE(test_passed_and_closed_the_bytes_are_there_when_it_is_received),
    CASE(test_passed_and_never_received_is_reset_with_bytes_unread),
    CASE(test_several_in_one_message_each_with_its_bytes),
    CASE(test_passed_back_by_a_child_it_is_one_stream),
    CASE_ONCE(test_received_with_bytes_unread_then_executed),
    CASE(test_passed_while_a_thread_is_blocked_in_it),
    CASES_END,
};

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = reader_main;
}
