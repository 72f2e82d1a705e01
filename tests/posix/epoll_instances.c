/*
 * Which instance and which open socket an epoll item belongs to: instances in instances, a socket
 * in two, numbers that are closed, reused and duplicated, and very many members.
 */
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "loop.h"
#include "tcp.h"
#include "test.h"

static void test_nested_instance_is_readable_as_its_items_are(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);
        int inner = MUST(epoll_create1(0)), outer = MUST(epoll_create1(0));
        struct epoll_event ev;

        ep_ctl(inner, EPOLL_CTL_ADD, p.us, EPOLLIN, 1);
        ep_ctl(outer, EPOLL_CTL_ADD, inner, EPOLLIN, 2);
        for (int i = 0; i < 3; i++) {
            CHECK_EQ(epoll_wait(outer, &ev, 1, 5000), 1);
            CHECK_EQ(ev.data.u64, 2);
            CHECK_EQ(epoll_wait(inner, &ev, 1, 0), 1);
            CHECK_EQ(ev.data.u64, 1);
            CHECK_EQ(poll_now(inner, POLLIN), POLLIN);
            CHECK_EQ(poll_now(outer, POLLIN), POLLIN);
            take(&p, 5);
        }
        take(&p, 5);
        CHECK_EQ(epoll_wait(inner, &ev, 1, 0), 0);
        CHECK_EQ(epoll_wait(outer, &ev, 1, 0), 0);
        CHECK_EQ(poll_now(inner, POLLIN), 0);
        put(&p, 5);
        CHECK_EQ(epoll_wait(outer, &ev, 1, 5000), 1);
        close(inner);
        close(outer);
        pair_close(&p);
    }
}

static void test_two_instances_both_report(void)
{
    struct pair p = pair_open_held(20);
    int a = MUST(epoll_create1(0)), b = MUST(epoll_create1(0));
    struct epoll_event ev;

    ep_ctl(a, EPOLL_CTL_ADD, p.us, EPOLLIN, 1);
    ep_ctl(b, EPOLL_CTL_ADD, p.us, EPOLLIN | EPOLLET, 2);
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(epoll_wait(a, &ev, 1, 5000), 1);
        CHECK_EQ(epoll_wait(b, &ev, 1, 5000), 1);
        take(&p, 20);
        CHECK_EQ(epoll_wait(a, &ev, 1, 0), 0);
        put(&p, 20);
    }
    close(a);
    close(b);
    pair_close(&p);
}

static void test_closed_socket_is_never_reported_again(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);
        int ep = MUST(epoll_create1(0));
        struct epoll_event ev;

        ep_ctl(ep, EPOLL_CTL_ADD, p.us, EPOLLIN, 1);
        CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
        MUST(close(p.us));
        CHECK_EQ(epoll_wait(ep, &ev, 1, 5), 0);
        close(p.peer);
        close(ep);
    }
}

static void test_closed_number_reused_reports_the_new_one_only(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20), q = pair_open_with(where, 20);
        int ep = MUST(epoll_create1(0));
        int number = p.us;
        struct epoll_event ev[4];

        ep_ctl(ep, EPOLL_CTL_ADD, number, EPOLLIN, 1);
        MUST(close(number));
        CHECK_EQ(fcntl(q.us, F_DUPFD, number), number);
        MUST(close(q.us));
        q.us = number;
        CHECK_EQ(epoll_wait(ep, ev, 4, 0), 0);
        ep_ctl(ep, EPOLL_CTL_ADD, number, EPOLLIN, 2);
        CHECK_EQ(epoll_wait(ep, ev, 4, -1), 1);
        CHECK_EQ(ev[0].data.u64, 2);
        take(&q, 20);
        CHECK_EQ(epoll_wait(ep, ev, 4, 0), 0);
        close(p.peer);
        pair_close(&q);
        close(ep);
    }
}

static void test_dup_keeps_the_item_alive(void)
{
    struct pair p = pair_open_held(20);
    int ep = MUST(epoll_create1(0));
    int number = p.us;
    struct epoll_event ev;

    /* The item lives as long as the open socket does, not as its number. */
    ep_ctl(ep, EPOLL_CTL_ADD, number, EPOLLIN, 1);
    p.us = MUST(dup(number));
    MUST(close(number));
    CHECK_EQ(epoll_wait(ep, &ev, 1, 5000), 1);
    CHECK_EQ(ev.data.u64, 1);
    take(&p, 20);
    CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 0);
    put(&p, 5);
    CHECK_EQ(epoll_wait(ep, &ev, 1, 5000), 1);
    pair_close(&p);
    CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 0);
    close(ep);
}

static void test_closed_instance_leaves_the_sockets_alone(void)
{
    struct pair p = pair_open_held(20);
    int ep = MUST(epoll_create1(0));
    struct epoll_event ev;

    ep_ctl(ep, EPOLL_CTL_ADD, p.us, EPOLLIN, 1);
    CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
    close(ep);
    CHECK_ERR(epoll_wait(ep, &ev, 1, 0), EBADF);
    take(&p, 20);
    check_empty(p.us);
    put(&p, 10);
    take(&p, 10);
    ep = MUST(epoll_create1(0));
    CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 0);
    close(ep);
    pair_close(&p);
}

/* Members that have their data in common stay apart when the one that had it first is gone. */
static void test_members_with_the_same_data_are_reported_each(void)
{
    for (int edge = 0; edge < 2; edge++) {
        uint32_t events = EPOLLIN | (edge ? EPOLLET : 0);
        int ep = MUST(epoll_create1(0));
        struct pair first = ep_pair(ep, events, 7), second = ep_pair(ep, events, 7), third;
        struct epoll_event ev[4];

        pair_close(&first);
        third = ep_pair(ep, events, 7);
        for (int i = 0; i < 5; i++) {
            put(&second, 10);
            put(&third, 10);
            CHECK_EQ(epoll_wait(ep, ev, 4, -1), 2);
            CHECK_EQ(ev[0].data.u64, 7);
            CHECK_EQ(ev[1].data.u64, 7);
            CHECK_EQ(read_all(&second, 4), 10);
            CHECK_EQ(read_all(&third, 4), 10);
            check_quiet(ep, edge);
        }
        pair_close(&second);
        pair_close(&third);
        close(ep);
    }
}

/*
 * A server of ten thousand connections: the tables of its members outgrew the largest piece of
 * memory that there was a size class for, and others' memory was written over.
 */
static void test_thousands_of_members_are_told_apart(void)
{
    struct pair p = pair_open_held(20);
    int ep = MUST(epoll_create1(0)), quiet = MUST(eventfd(0, 0)), n = 15000;
    struct rlimit files;
    struct epoll_event ev[4];

    MUST(getrlimit(RLIMIT_NOFILE, &files));
    if (files.rlim_max < (rlim_t)n + 100)
        test_skip("fewer than %d descriptors", n);
    files.rlim_cur = files.rlim_max;
    MUST(setrlimit(RLIMIT_NOFILE, &files));
    for (int i = 0; i < n; i++) {
        int fd = MUST(dup(quiet));

        ep_ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, (uint64_t)fd);
        if (i == n / 2)
            ep_ctl(ep, EPOLL_CTL_ADD, p.us, EPOLLIN, (uint64_t)p.us);
    }
    CHECK_EQ(epoll_wait(ep, ev, 4, 5000), 1);
    CHECK_EQ(ev[0].data.u64, p.us);
    take(&p, 20);
    CHECK_EQ(epoll_wait(ep, ev, 4, 0), 0);
    put(&p, 10);
    CHECK_EQ(epoll_wait(ep, ev, 4, 5000), 1);
    CHECK_EQ(ev[0].data.u64, p.us);
    take(&p, 10);
    close(ep);
    pair_close(&p);
}

const struct test_case test_cases[] = {
    CASE(test_nested_instance_is_readable_as_its_items_are),
    CASE(test_two_instances_both_report),
    CASE(test_closed_socket_is_never_reported_again),
    CASE(test_closed_number_reused_reports_the_new_one_only),
    CASE(test_dup_keeps_the_item_alive),
    CASE(test_closed_instance_leaves_the_sockets_alone),
    CASE(test_members_with_the_same_data_are_reported_each),
    CASE_ONCE(test_thousands_of_members_are_told_apart),
    CASES_END,
};
