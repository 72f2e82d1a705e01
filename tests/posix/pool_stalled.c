/*
 * A connection that the program leaves unread for long, beside others in the same thread that go
 * on: it disturbs nobody, and all that was sent to it is there when somebody asks.
 */
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "loop.h"
#include "proc.h"
#include "stall.h"

/* How the thread learns of the others. */
enum way {
    WAY_RECV,
    WAY_POLL,
    WAY_LEVEL,
    WAY_EDGE,
    WAYS,
};

#define BUSY 3
#define STALLED 99

struct scene {
    enum way way;
    int ep, rounds;
    struct pair s, b[BUSY];
    uint64_t told; /* of the stalled one's bytes an edge has told of so many */
};

static uint8_t buf[2 * STALL_ROOM];

static struct scene scene_open(enum way way)
{
    struct scene sc = {.way = way, .s = pair_open_roomy(), .ep = -1};
    uint32_t bits = way == WAY_EDGE ? EPOLLIN | EPOLLET : EPOLLIN;

    for (int i = 0; i < BUSY; i++)
        sc.b[i] = pair_open_warm();
    if (way < WAY_LEVEL)
        return sc;
    sc.ep = MUST(epoll_create1(EPOLL_CLOEXEC));
    ep_ctl(sc.ep, EPOLL_CTL_ADD, sc.s.us, bits, STALLED);
    for (int i = 0; i < BUSY; i++) {
        set_nonblock(sc.b[i].us, true);
        ep_ctl(sc.ep, EPOLL_CTL_ADD, sc.b[i].us, bits, (uint64_t)i);
    }
    sc.told = sc.s.sent;
    return sc;
}

static void scene_close(struct scene *sc)
{
    pair_close(&sc->s);
    for (int i = 0; i < BUSY; i++)
        pair_close(&sc->b[i]);
    if (sc->ep >= 0)
        MUST(close(sc->ep));
}

static void wait_poll(struct scene *sc, int who)
{
    struct pollfd set[BUSY + 1] = {{.fd = sc->s.us}};

    for (int i = 0; i < BUSY; i++)
        set[i + 1] = (struct pollfd){.fd = sc->b[i].us, .events = POLLIN};
    CHECK_EQ(poll(set, BUSY + 1, 5000), 1);
    CHECK_EQ(set[who + 1].revents, POLLIN);
}

/* The busy one is told of, the stalled one as its trigger demands, and nobody else. */
static void wait_epoll(struct scene *sc, int who)
{
    bool edge = sc->way == WAY_EDGE, busy = false;
    bool stalled = edge ? sc->s.sent <= sc->told : sc->s.sent <= sc->s.got;
    struct epoll_event ev[8];

    /* An edge too many is no fault, and may be all that a call finds. */
    for (int calls = 0; calls < (edge ? 8 : 1) && !(busy && stalled); calls++) {
        int n = MUST(epoll_wait(sc->ep, ev, 8, 5000));

        for (int i = 0; i < n; i++) {
            CHECK_EQ(ev[i].events, EPOLLIN);
            if (ev[i].data.u64 == STALLED)
                CHECK(edge || sc->s.sent > sc->s.got);
            else if (!edge)
                CHECK_EQ(ev[i].data.u64, who);
            busy |= ev[i].data.u64 == (uint64_t)who;
            stalled |= ev[i].data.u64 == STALLED;
        }
    }
    CHECK(busy);
    CHECK(stalled);
    sc->told = sc->s.sent;
}

/* One round with one of the busy ones; every now and then asleep. */
static void go_on(void *arg)
{
    struct scene *sc = arg;
    int who = sc->rounds++ % BUSY;
    size_t n = 1 + (size_t)(sc->rounds * 37 % 900);
    struct pair *b = &sc->b[who];
    struct later_put lp;
    bool sleep = sc->rounds % 16 == 1;

    if (sleep)
        later_put(&lp, b, n);
    else
        put(b, n);
    if (sc->way == WAY_POLL)
        wait_poll(sc, who);
    else if (sc->way >= WAY_LEVEL && !(sleep && sc->s.sent > sc->s.got))
        wait_epoll(sc, who);
    if (sleep) {
        if (sc->way >= WAY_LEVEL && sc->s.sent > sc->s.got)
            set_nonblock(b->us, false);
        take(b, 1);
        if (sc->way >= WAY_LEVEL)
            set_nonblock(b->us, true);
        later_join(&lp.l);
        settle(b->us, b->sent);
        n--;
    }
    take(b, n);
    check_empty(b->us);
}

static void stall(struct scene *sc, size_t n)
{
    put_in_parts(&sc->s, n, go_on, sc);
    for (int i = 0; i < 5; i++)
        go_on(sc);
}

/* It is an ordinary connection again: bytes that come are told of and read. */
static void check_lives(struct scene *sc)
{
    check_empty(sc->s.us);
    for (int i = 0; i < 5; i++) {
        put(&sc->s, 1000);
        go_on(sc);
        CHECK_EQ(poll_now(sc->s.us, POLLIN), POLLIN);
        take(&sc->s, 999);
        go_on(sc);
        take(&sc->s, 1);
        check_empty(sc->s.us);
        CHECK_EQ(poll_now(sc->s.us, POLLIN), 0);
    }
}

static void others_go_on(enum way way)
{
    struct scene sc = scene_open(way);

    for (int i = 0; i < 2; i++) {
        stall(&sc, STALL_ROOM);
        take_in_parts(&sc.s, STALL_ROOM);
        check_lives(&sc);
    }
    scene_close(&sc);
}

static void test_stalled_others_go_on_by_recv(void)
{
    others_go_on(WAY_RECV);
}

static void test_stalled_others_go_on_by_poll(void)
{
    others_go_on(WAY_POLL);
}

static void test_stalled_others_go_on_by_epoll_level(void)
{
    others_go_on(WAY_LEVEL);
}

static void test_stalled_others_go_on_by_epoll_edge(void)
{
    others_go_on(WAY_EDGE);
}

/* Read a little now and then while as much comes: around whatever limit there may be. */
static void test_stalled_half_read_stays_in_order(void)
{
    for (int way = 0; way < WAYS; way++) {
        for (size_t base = 20000; base <= 140000; base += 30000) {
            struct scene sc = scene_open((enum way)way);

            stall(&sc, base);
            for (int i = 0; i < 60; i++) {
                size_t n = (size_t)(i * 613 % 4000 + 1);

                take_in_parts(&sc.s, n);
                go_on(&sc);
                put(&sc.s, n);
                go_on(&sc);
            }
            take_in_parts(&sc.s, base);
            check_lives(&sc);
            scene_close(&sc);
        }
    }
}

static int fionread(int fd)
{
    int n = -1;

    MUST(ioctl(fd, FIONREAD, &n));
    return n;
}

static void test_stalled_is_counted_and_shown(void)
{
    for (int way = 0; way < WAYS; way++) {
        struct scene sc = scene_open((enum way)way);
        struct timeval now = {0, 0};
        fd_set set;

        stall(&sc, STALL_ROOM);
        for (int i = 0; i < 2; i++) {
            CHECK_EQ(fionread(sc.s.us), sc.s.sent - sc.s.got);
            CHECK_EQ(poll_now(sc.s.us, POLLIN | POLLRDHUP), POLLIN);
            FD_ZERO(&set);
            FD_SET(sc.s.us, &set);
            CHECK_EQ(select(sc.s.us + 1, &set, NULL, NULL, &now), 1);
            CHECK_EQ(recv(sc.s.us, buf, 100, MSG_PEEK), 100);
            check_ahead(&sc.s, buf, 0, 100);
            CHECK_EQ(recv(sc.s.us, buf, sizeof(buf), MSG_PEEK), sc.s.sent - sc.s.got);
            check_ahead(&sc.s, buf, 0, (size_t)(sc.s.sent - sc.s.got));
            take(&sc.s, 70001);
            go_on(&sc);
        }
        take_in_parts(&sc.s, (size_t)(sc.s.sent - sc.s.got));
        check_lives(&sc);
        scene_close(&sc);
    }
}

/* One call gets all of it, wherever it is. */
static ssize_t all_by(int how, int fd)
{
    struct iovec v[3] = {{buf, 1}, {buf + 1, 100000}, {buf + 100001, STALL_ROOM - 100001}};
    struct msghdr msg = {.msg_iov = v, .msg_iovlen = 3};

    switch (how) {
    case 0:
        return recv(fd, buf, STALL_ROOM, MSG_WAITALL);
    case 1:
        return recv(fd, buf, sizeof(buf), 0);
    case 2:
        return readv(fd, v, 3);
    case 3:
        return recvmsg(fd, &msg, MSG_DONTWAIT);
    default:
        return read(fd, buf, STALL_ROOM);
    }
}

static void test_stalled_one_call_takes_all(void)
{
    for (int how = 0; how < 5; how++) {
        for (int way = 0; way < WAYS; way++) {
            struct scene sc = scene_open((enum way)way);

            stall(&sc, STALL_ROOM);
            CHECK_EQ(all_by(how, sc.s.us), STALL_ROOM);
            check_next(&sc.s, buf, STALL_ROOM);
            check_lives(&sc);
            scene_close(&sc);
        }
    }
}

static void act_rest(void *arg)
{
    put_now(arg, 30000);
}

static void test_stalled_waitall_waits_for_the_rest(void)
{
    for (int way = 0; way < WAYS; way++) {
        struct scene sc = scene_open((enum way)way);
        struct later l;

        stall(&sc, STALL_ROOM);
        later(&l, act_rest, &sc.s);
        CHECK_EQ(recv(sc.s.us, buf, STALL_ROOM + 30000, MSG_WAITALL), STALL_ROOM + 30000);
        later_join(&l);
        check_next(&sc.s, buf, STALL_ROOM + 30000);
        check_lives(&sc);
        scene_close(&sc);
    }
}

static void test_stalled_trunc_discards(void)
{
    for (int way = 0; way < WAYS; way++) {
        struct scene sc = scene_open((enum way)way);

        stall(&sc, STALL_ROOM);
        CHECK_EQ(recv(sc.s.us, NULL, 100000, MSG_TRUNC), 100000);
        sc.s.got += 100000;
        take_in_parts(&sc.s, STALL_ROOM - 100000);
        check_lives(&sc);
        scene_close(&sc);
    }
}

static void test_stalled_end_comes_behind(void)
{
    for (int way = 0; way < WAY_LEVEL; way++) { /* in a set it would be told of with its bytes */
        struct scene sc = scene_open((enum way)way);

        stall(&sc, STALL_ROOM);
        peer_fin(&sc.s);
        go_on(&sc);
        CHECK_EQ(poll_now(sc.s.us, POLLIN | POLLRDHUP), POLLIN | POLLRDHUP);
        take_in_parts(&sc.s, STALL_ROOM - 1);
        go_on(&sc);
        CHECK_EQ(recv(sc.s.us, buf, 10, MSG_WAITALL), 1);
        check_next(&sc.s, buf, 1);
        CHECK_EQ(recv(sc.s.us, buf, 10, 0), 0);
        CHECK_EQ(recv(sc.s.us, buf, 10, 0), 0);
        scene_close(&sc);
    }
}

static void test_stalled_reset_comes_behind(void)
{
    for (int way = 0; way < WAYS; way++) {
        struct scene sc = scene_open((enum way)way);

        stall(&sc, STALL_ROOM);
        peer_reset(&sc.s);
        CHECK_EQ(poll_now(sc.s.us, POLLIN), POLLIN | POLLERR | POLLHUP);
        take_in_parts(&sc.s, STALL_ROOM);
        CHECK_ERR(recv(sc.s.us, buf, 10, 0), ECONNRESET);
        CHECK_EQ(recv(sc.s.us, buf, 10, 0), 0);
        scene_close(&sc);
    }
}

static void test_stalled_close_unread_resets(void)
{
    for (int way = 0; way < WAYS; way++) {
        struct scene sc = scene_open((enum way)way);

        stall(&sc, STALL_ROOM);
        MUST(close(sc.s.us));
        CHECK_PEER_SEES(sc.s.peer, SEEN_RESET);
        sc.s.us = -1;
        sc.s.got = sc.told = sc.s.sent;
        for (int i = 0; i < 20; i++)
            go_on(&sc);
        scene_close(&sc);
    }
}

static void test_stalled_shutdown_keeps_what_is_there(void)
{
    static const int how[] = {SHUT_RD, SHUT_WR, SHUT_RDWR};

    for (size_t i = 0; i < COUNT_OF(how); i++) {
        for (int way = 0; way < WAY_LEVEL; way++) {
            struct scene sc = scene_open((enum way)way);

            stall(&sc, STALL_ROOM);
            MUST(shutdown(sc.s.us, how[i]));
            if (how[i] != SHUT_RD)
                CHECK_PEER_SEES(sc.s.peer, SEEN_FIN);
            take_in_parts(&sc.s, STALL_ROOM);
            if (how[i] != SHUT_WR)
                CHECK_EQ(recv(sc.s.us, buf, 10, 0), 0);
            else
                check_lives(&sc);
            scene_close(&sc);
        }
    }
}

static void test_stalled_child_reads_half(void)
{
    for (int way = 0; way < WAY_LEVEL; way++) {
        struct scene sc = scene_open((enum way)way);
        struct shared *s;
        pid_t pid;

        stall(&sc, STALL_ROOM);
        s = pair_share(sc.s);
        pid = MUST(fork());
        if (pid == 0) {
            take_in_parts(&s->p, STALL_ROOM / 2);
            _exit(0);
        }
        check_child(pid);
        CHECK_EQ(fionread(s->p.us), STALL_ROOM / 2);
        take_in_parts(&s->p, STALL_ROOM / 2);
        check_empty(s->p.us);
        sc.s = s->p;
        scene_close(&sc);
    }
}

const struct test_case test_cases[] = {
    CASE(test_stalled_others_go_on_by_recv),
    CASE(test_stalled_others_go_on_by_poll),
    CASE(test_stalled_others_go_on_by_epoll_level),
    CASE(test_stalled_others_go_on_by_epoll_edge),
    CASE_ONCE(test_stalled_half_read_stays_in_order),
    CASE(test_stalled_is_counted_and_shown),
    CASE_ONCE(test_stalled_one_call_takes_all),
    CASE(test_stalled_waitall_waits_for_the_rest),
    CASE(test_stalled_trunc_discards),
    CASE(test_stalled_end_comes_behind),
    CASE(test_stalled_reset_comes_behind),
    CASE(test_stalled_close_unread_resets),
    CASE(test_stalled_shutdown_keeps_what_is_there),
    CASE_ONCE(test_stalled_child_reads_half),
    CASES_END,
};
