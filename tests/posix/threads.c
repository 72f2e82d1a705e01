/*
 * Sockets used by more than one thread: handed over, read by two at once, watched by one while
 * another reads, closed under a blocked reader, left behind by a thread that ends.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <unistd.h>

#include "asleep.h"
#include "payload.h"
#include "tcp.h"
#include "test.h"

/* Two threads take turns on a connection: each reads a piece, the other goes on. */
struct turns {
    struct pair p;
    atomic_int turn;
};

#define TURNS 400

static void take_turns(struct turns *t, int me)
{
    for (int i = me; i < TURNS; i += 2) {
        while (atomic_load(&t->turn) != i)
            test_yield();
        take(&t->p, 1 + (size_t)i % 9);
        atomic_store(&t->turn, i + 1);
    }
}

static void *second_taker(void *arg)
{
    take_turns(arg, 1);
    return NULL;
}

static void test_threads_take_turns_bytes_stay_in_order(void)
{
    struct turns t = {.p = pair_open_warm()};
    struct worker w;
    size_t total = 0;

    for (int i = 0; i < TURNS; i++)
        total += 1 + (size_t)i % 9;
    put(&t.p, total);
    worker_start(&w, second_taker, &t);
    take_turns(&t, 0);
    worker_join(&w);
    check_empty(t.p.us);
    pair_close(&t.p);
}

struct handover {
    struct pair p;
    size_t n;
};

static void *take_and_close(void *arg)
{
    struct handover *h = arg;

    take(&h->p, h->n);
    check_empty(h->p.us);
    MUST(close(h->p.us));
    return NULL;
}

static void test_handover_with_bytes_unread_the_next_thread_gets_them(void)
{
    for (int where = 0; where < WHERES; where++) {
        for (int i = 0; i < 20; i++) {
            struct handover h = {pair_open_with(where, 100), 100};
            struct worker w;

            worker_start(&w, take_and_close, &h);
            worker_join(&w);
            CHECK_PEER_SEES(h.p.peer, SEEN_FIN);
            close(h.p.peer);
        }
    }
}

static void *accept_and_leave_unread(void *arg)
{
    struct pair *p = arg;

    warm_up(p);
    put(p, 101);
    take(p, 1);
    return NULL;
}

static void test_thread_exit_with_bytes_unread_they_are_there(void)
{
    for (int i = 0; i < 20; i++) {
        struct pair p = pair_open();
        struct worker w;

        worker_start(&w, accept_and_leave_unread, &p);
        worker_join(&w);
        CHECK_EQ(poll_now(p.us, POLLIN), POLLIN);
        take(&p, 100);
        check_empty(p.us);
        MUST(close(p.us));
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        close(p.peer);
    }
}

static void *exit_from_deep(void *arg)
{
    accept_and_leave_unread(arg);
    pthread_exit(NULL);
}

static void test_pthread_exit_with_bytes_unread_close_resets(void)
{
    struct pair p = pair_open();
    struct worker w;

    worker_start(&w, exit_from_deep, &p);
    worker_join(&w);
    MUST(close(p.us));
    CHECK_PEER_SEES(p.peer, SEEN_RESET);
    close(p.peer);
}

/* Blocking readers of one socket: between them they get every byte once. */
struct readers {
    struct pair p;
    atomic_size_t got;
    atomic_uint seen[256];
};

static void *read_words(void *arg)
{
    struct readers *r = arg;
    uint8_t word[4];

    for (;;) {
        ssize_t n = recv(r->p.us, word, 4, 0);

        CHECK(n >= 0);
        if (n == 0)
            return NULL;
        for (ssize_t i = 0; i < n; i++)
            atomic_fetch_add(&r->seen[word[i]], 1);
        atomic_fetch_add(&r->got, (size_t)n);
    }
}

static void test_two_blocked_readers_share_all_bytes(void)
{
    static struct readers shared;
    struct readers *r = &shared;
    unsigned wanted[256] = {0};
    uint8_t all[3200];
    struct worker w[2];

    r->p = pair_open_warm();
    payload_fill(0, all, r->p.sent, sizeof(all));
    for (size_t i = 0; i < sizeof(all); i++)
        wanted[all[i]]++;
    for (int i = 0; i < 2; i++)
        worker_start(&w[i], read_words, r);
    wait_asleep(w[0].tid);
    for (int i = 0; i < 800; i++) {
        put_now(&r->p, 4);
        /* None may sit in a buffer of one reader while the other waits. */
        CHECK_SOON(atomic_load(&r->got) >= 4 * ((size_t)i + 1), 5000);
    }
    MUST(shutdown(r->p.peer, SHUT_WR));
    for (int i = 0; i < 2; i++)
        worker_join(&w[i]);
    for (int i = 0; i < 256; i++)
        CHECK_EQ(r->seen[i], wanted[i]);
    pair_close(&r->p);
}

/*
 * The lost wake-up: X sleeps in poll, select or epoll on a socket that T1 has been reading; T1
 * sleeps in a receive on another connection, and takes in what comes for both.
 */
enum watch {
    WATCH_POLL,
    WATCH_SELECT,
    WATCH_EPOLL,
    WATCH_EPOLL_EDGE,
    WATCHES,
};

struct watched {
    enum watch how;
    int fd;
    int ep;
};

static void *watch(void *arg)
{
    struct watched *w = arg;
    struct pollfd pfd = {.fd = w->fd, .events = POLLIN};
    struct timeval tv = {5, 0};
    struct epoll_event ev;
    fd_set set;
    int n = -1;

    FD_ZERO(&set);
    FD_SET(w->fd, &set);
    if (w->how == WATCH_POLL)
        n = poll(&pfd, 1, 5000);
    else if (w->how == WATCH_SELECT)
        n = select(w->fd + 1, &set, NULL, NULL, &tv);
    else
        n = epoll_wait(w->ep, &ev, 1, 5000);
    return (void *)(long)n;
}

struct reader {
    struct pair *a, *b; /* warms both, then sleeps on b */
    int ready;
};

static void *read_other(void *arg)
{
    struct reader *r = arg;

    warm_up(r->a);
    warm_up(r->b);
    __atomic_store_n(&r->ready, 1, __ATOMIC_RELEASE);
    take(r->b, 1);
    take(r->b, 1);
    return NULL;
}

static void lost_wakeup(enum watch how, bool watcher_first)
{
    struct pair a = pair_open(), b = pair_open();
    struct reader r = {&a, &b, 0};
    struct watched w = {how, a.us, MUST(epoll_create1(0))};
    struct epoll_event ev = {.events = EPOLLIN | (how == WATCH_EPOLL_EDGE ? EPOLLET : 0)};
    struct worker t1, x;

    MUST(epoll_ctl(w.ep, EPOLL_CTL_ADD, a.us, &ev));
    worker_start(&t1, read_other, &r);
    while (!__atomic_load_n(&r.ready, __ATOMIC_ACQUIRE))
        test_yield();
    if (how == WATCH_EPOLL_EDGE)
        while (MUST(epoll_wait(w.ep, &ev, 1, 0)))
            ;
    if (!watcher_first)
        wait_asleep(t1.tid);
    worker_start(&x, watch, &w);
    wait_asleep(x.tid);
    wait_asleep(t1.tid);
    /* T1 is woken for b in the same moment in which bytes come for a. */
    put_now(&b, 1);
    put_now(&a, 5);
    if ((long)worker_join(&x) != 1)
        FAIL("watcher %d slept through the bytes (errno %d)", how, errno);
    put_now(&b, 1);
    worker_join(&t1);
    take(&a, 5);
    check_empty(a.us);
    close(w.ep);
    pair_close(&a);
    pair_close(&b);
}

static void test_watcher_of_a_socket_another_thread_has_read_is_woken(void)
{
    for (int round = 0; round < 25; round++)
        for (int how = 0; how < WATCHES; how++)
            for (int first = 0; first < 2; first++)
                lost_wakeup((enum watch)how, first);
}

const struct test_case test_cases[] = {
    CASE(test_threads_take_turns_bytes_stay_in_order),
    CASE(test_handover_with_bytes_unread_the_next_thread_gets_them),
    CASE(test_thread_exit_with_bytes_unread_they_are_there),
    CASE(test_pthread_exit_with_bytes_unread_close_resets),
    CASE(test_two_blocked_readers_share_all_bytes),
    CASE_ONCE(test_watcher_of_a_socket_another_thread_has_read_is_woken),
    CASES_END,
};
