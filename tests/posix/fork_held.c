/*
 * A fork while bytes have arrived that nobody has read: they belong to the connection, not to a
 * process. Parent and child read one stream, each byte once, whoever asks first.
 */
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[65536];

static int fionread(int fd)
{
    int n = -1;

    MUST(ioctl(fd, FIONREAD, &n));
    return n;
}

static void test_child_reads_all_parent_gets_what_comes_later(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct shared *s = pair_share(pair_open_with((enum where)where, 100));
        pid_t pid = MUST(fork());

        if (pid == 0) {
            take(&s->p, 100);
            check_empty(s->p.us);
            _exit(0);
        }
        check_child(pid);
        CHECK_EQ(poll_now(s->p.us, POLLIN), 0);
        CHECK_EQ(fionread(s->p.us), 0);
        check_empty(s->p.us);
        put(&s->p, 20);
        take(&s->p, 20);
        MUST(close(s->p.us));
        CHECK_PEER_SEES(s->p.peer, SEEN_FIN);
        s->p.us = -1;
        shared_close(s);
    }
}

static void test_child_reads_to_the_end_parent_sees_the_end(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct shared *s = pair_share(pair_open_with((enum where)where, 100));
        pid_t pid;

        peer_fin(&s->p);
        pid = MUST(fork());
        if (pid == 0) {
            take(&s->p, 100);
            CHECK_EQ(recv(s->p.us, buf, 1, 0), 0);
            _exit(0);
        }
        check_child(pid);
        CHECK_EQ(poll_now(s->p.us, POLLIN), POLLIN);
        CHECK_EQ(recv(s->p.us, buf, 1, 0), 0);
        CHECK_EQ(recv(s->p.us, buf, 1, 0), 0);
        shared_close(s);
    }
}

static void test_turns_of_one_byte_each_gets_the_next(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct shared *s = pair_share(pair_open_with((enum where)where, 120));
        pid_t pid = MUST(fork());

        for (int turn = pid == 0; turn < 120; turn += 2) {
            turn_wait(s, turn);
            take(&s->p, 1);
            turn_to(s, turn + 1);
        }
        if (pid == 0)
            _exit(0);
        check_child(pid);
        check_empty(s->p.us);
        shared_close(s);
    }
}

/* One receive in the way that n chooses; how many bytes came. */
static size_t receive_somehow(int fd, unsigned n, size_t len)
{
    struct iovec v[2] = {{buf, len / 2}, {buf + len / 2, len - len / 2}};
    struct msghdr msg = {.msg_iov = v, .msg_iovlen = 2};

    switch (n % 5) {
    case 0:
        return (size_t)MUST(read(fd, buf, len));
    case 1:
        return (size_t)MUST(readv(fd, v, 2));
    case 2:
        return (size_t)MUST(recvmsg(fd, &msg, 0));
    case 3:
        return (size_t)MUST(recv(fd, buf, len, MSG_DONTWAIT));
    default:
        return (size_t)MUST(recvfrom(fd, buf, len, MSG_WAITALL, NULL, NULL));
    }
}

/* Pieces of changing sizes while more arrives: nothing comes twice, nothing too early. */
static void test_turns_of_any_size_while_more_arrives(void)
{
    struct shared *s = pair_share(pair_open_held(300));
    uint64_t first = s->p.got;
    pid_t pid = MUST(fork());

    for (int turn = pid == 0; turn < 200; turn += 2) {
        unsigned n = (unsigned)turn * 2654435761U >> 8;
        size_t there, len = 1 + n % 97;

        turn_wait(s, turn);
        if (n % 3 == 0)
            put(&s->p, 1 + n % 150);
        there = (size_t)(s->p.sent - s->p.got);
        CHECK_EQ(fionread(s->p.us), there);
        if (there >= len) {
            CHECK_EQ(receive_somehow(s->p.us, n, len), len);
            check_next(&s->p, buf, len);
        }
        turn_to(s, turn + 1);
    }
    if (pid == 0)
        _exit(0);
    check_child(pid);
    CHECK(s->p.got > first + 1000);
    take(&s->p, s->p.sent - s->p.got);
    check_empty(s->p.us);
    shared_close(s);
}

static void see_by_poll(int fd)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN | POLLRDNORM};

    CHECK_EQ(poll(&pfd, 1, -1), 1);
    CHECK_EQ(pfd.revents, POLLIN | POLLRDNORM);
}

static void see_by_select(int fd)
{
    fd_set set;

    FD_ZERO(&set);
    FD_SET(fd, &set);
    CHECK_EQ(select(fd + 1, &set, NULL, NULL, NULL), 1);
    CHECK(FD_ISSET(fd, &set));
}

static void see_by_epoll(int fd)
{
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET};
    int ep = MUST(epoll_create1(0));

    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
    CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
    CHECK_EQ(ev.events, EPOLLIN);
    close(ep);
}

static void see_by_peek(int fd)
{
    CHECK_EQ(recv(fd, buf, 200, MSG_PEEK), 100);
}

static void see_by_fionread(int fd)
{
    CHECK_EQ(fionread(fd), 100);
}

static void test_readiness_is_seen_in_both_before_anybody_reads(void)
{
    static void (*const ways[])(int) = {see_by_poll, see_by_select, see_by_epoll, see_by_peek,
                                        see_by_fionread};

    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        struct shared *s = pair_share(pair_open_held(100));
        pid_t pid = MUST(fork());

        if (pid == 0) {
            ways[i](s->p.us);
            turn_to(s, 1);
            turn_wait(s, 2);
            ways[i](s->p.us);
            take(&s->p, 40);
            _exit(0);
        }
        turn_wait(s, 1);
        ways[i](s->p.us);
        turn_to(s, 2);
        check_child(pid);
        CHECK_EQ(fionread(s->p.us), 60);
        CHECK_EQ(recv(s->p.us, buf, 200, MSG_PEEK), 60);
        check_ahead(&s->p, buf, 0, 60);
        take(&s->p, 60);
        shared_close(s);
    }
}

static void test_inherited_epoll_instance_shows_it_in_both(void)
{
    struct shared *s = pair_share(pair_open_warm());
    struct epoll_event ev = {.events = EPOLLIN, .data.u32 = 7};
    int ep = MUST(epoll_create1(0));
    pid_t pid;

    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, s->p.us, &ev));
    put(&s->p, 50);
    CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
    take(&s->p, 10);
    pid = MUST(fork());
    if (pid == 0) {
        CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
        CHECK_EQ(ev.data.u32, 7);
        take(&s->p, 10);
        _exit(0);
    }
    check_child(pid);
    CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
    take(&s->p, 30);
    CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 0);
    put(&s->p, 10);
    CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
    CHECK_EQ(ev.events, EPOLLIN);
    take(&s->p, 10);
    close(ep);
    shared_close(s);
}

static void test_waitall_in_the_child_takes_these_and_waits_for_more(void)
{
    struct shared *s = pair_share(pair_open_held(100));
    pid_t pid = MUST(fork());

    if (pid == 0) {
        CHECK_EQ(recv(s->p.us, buf, 150, MSG_WAITALL), 150);
        check_next(&s->p, buf, 150);
        _exit(0);
    }
    wait_child_asleep(pid);
    put_now(&s->p, 60);
    check_child(pid);
    CHECK_EQ(fionread(s->p.us), 10);
    take(&s->p, 10);
    check_empty(s->p.us);
    shared_close(s);
}

/* Ways for a child to end that has read a part. */
static void end_by_exit(void)
{
    exit(0);
}

static void end_by_underscore(void)
{
    _exit(0);
}

static void end_by_kill(void)
{
    kill(getpid(), SIGKILL);
}

static void test_child_ends_with_bytes_unread_parent_reads_on(void)
{
    static void (*const ends[])(void) = {end_by_exit, end_by_underscore, end_by_kill};

    for (size_t i = 0; i < COUNT_OF(ends); i++) {
        struct shared *s = pair_share(pair_open_held(100));
        pid_t pid = MUST(fork());

        if (pid == 0) {
            take(&s->p, 30);
            ends[i]();
        }
        check_child_status(pid, ends[i] == end_by_kill ? SIGKILL : 0);
        CHECK_EQ(peer_sees(s->p.peer, 20), SEEN_NOTHING);
        take(&s->p, 70);
        put(&s->p, 30);
        take(&s->p, 30);
        MUST(close(s->p.us));
        CHECK_PEER_SEES(s->p.peer, SEEN_FIN);
        s->p.us = -1;
        shared_close(s);
    }
}

static void test_parent_ends_with_bytes_unread_child_reads_on(void)
{
    struct shared *s = pair_share((struct pair){.us = -1, .peer = -1});
    pid_t middle = MUST(fork()), pid;

    if (middle == 0) {
        s->p = pair_open_held(100);
        pid = MUST(fork());
        if (pid == 0) {
            turn_wait(s, 1);
            take(&s->p, 70);
            put(&s->p, 30);
            take(&s->p, 30);
            MUST(close(s->p.us));
            CHECK_PEER_SEES(s->p.peer, SEEN_FIN);
            turn_to(s, 2);
            _exit(0);
        }
        take(&s->p, 30);
        _exit(0);
    }
    check_child(middle);
    turn_to(s, 1);
    CHECK_SOON(atomic_load(&s->turn) == 2, 5000);
}

static void test_generations_each_read_their_part(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct shared *s = pair_share(pair_open_with((enum where)where, 80));
        int depth = 0;
        pid_t pid;

        do {
            take(&s->p, 20);
            pid = MUST(fork());
            if (pid == 0)
                depth++;
        } while (pid == 0 && depth < 3);
        if (depth == 3)
            take(&s->p, 10);
        else
            check_child(pid);
        if (depth)
            _exit(0);
        take(&s->p, 10);
        check_empty(s->p.us);
        shared_close(s);
    }
}

static void test_two_children_take_turns_with_the_parent(void)
{
    struct shared *s = pair_share(pair_open_held(120));
    pid_t pid[2];
    int me = 0;

    for (int i = 0; i < 2 && !me; i++) {
        pid[i] = MUST(fork());
        if (pid[i] == 0)
            me = i + 1;
    }
    for (int turn = me; turn < 60; turn += 3) {
        turn_wait(s, turn);
        take(&s->p, 2);
        turn_to(s, turn + 1);
    }
    if (me)
        _exit(0);
    check_child(pid[0]);
    check_child(pid[1]);
    check_empty(s->p.us);
    shared_close(s);
}

static void test_much_unread_is_shared_to_the_last_byte(void)
{
    struct shared *s = pair_share(pair_open_held(40000));
    pid_t pid = MUST(fork());

    for (int turn = pid == 0; turn < 16; turn += 2) {
        turn_wait(s, turn);
        take(&s->p, 2500);
        turn_to(s, turn + 1);
    }
    if (pid == 0)
        _exit(0);
    check_child(pid);
    check_empty(s->p.us);
    shared_close(s);
}

static void test_many_connections_odd_to_the_child_even_to_the_parent(void)
{
    enum { MANY = 64 };
    struct shared *s[MANY];
    pid_t pid;

    for (int i = 0; i < MANY; i++)
        s[i] = pair_share(i % 8 ? pair_open() : pair_open_warm());
    for (int i = 0; i < MANY; i++) {
        put(&s[i]->p, 40);
        take(&s[i]->p, 1);
    }
    pid = MUST(fork());
    for (int i = pid == 0; i < MANY; i += 2)
        take(&s[i]->p, 20);
    if (pid == 0)
        _exit(0);
    check_child(pid);
    for (int i = 0; i < MANY; i++) {
        take(&s[i]->p, 19);
        check_empty(s[i]->p.us);
        shared_close(s[i]);
    }
}

const struct test_case test_cases[] = {
    CASE(test_child_reads_all_parent_gets_what_comes_later),
    CASE(test_child_reads_to_the_end_parent_sees_the_end),
    CASE(test_turns_of_one_byte_each_gets_the_next),
    CASE(test_turns_of_any_size_while_more_arrives),
    CASE(test_readiness_is_seen_in_both_before_anybody_reads),
    CASE(test_inherited_epoll_instance_shows_it_in_both),
    CASE(test_waitall_in_the_child_takes_these_and_waits_for_more),
    CASE(test_child_ends_with_bytes_unread_parent_reads_on),
    CASE(test_parent_ends_with_bytes_unread_child_reads_on),
    CASE(test_generations_each_read_their_part),
    CASE(test_two_children_take_turns_with_the_parent),
    CASE(test_much_unread_is_shared_to_the_last_byte),
    CASE_ONCE(test_many_connections_odd_to_the_child_even_to_the_parent),
    CASES_END,
};
