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

static uint8_t buf[4096];

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

/* Close while blocked: the receive ends on its own connection, never on the number's next one. */
struct closed {
    int number;
    int other;
};

static void act_close(void *arg)
{
    MUST(close(((struct closed *)arg)->number));
}

static void act_replace(void *arg)
{
    struct closed *c = arg;

    CHECK_EQ(dup2(c->other, c->number), c->number);
}

static void test_close_by_another_thread_leaves_a_blocked_receive(void)
{
    for (int i = 0; i < 10; i++) {
        struct pair p = pair_open_warm();
        struct closed c = {.number = p.us};
        struct later l;

        /* The kernel keeps the connection for the receive, which still gets what comes. */
        later(&l, act_close, &c);
        set_timeout(p.us, 200);
        CHECK_ERR(recv(p.us, buf, 10, 0), EAGAIN);
        later_join(&l);
        CHECK_ERR(recv(p.us, buf, 10, 0), EBADF);
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        close(p.peer);
    }
}

static void act_close_then_put(void *arg)
{
    struct later_put *lp = arg;

    MUST(close(lp->pair->us));
    put_now(lp->pair, lp->n);
}

static void test_close_while_blocked_later_bytes_are_received(void)
{
    for (int i = 0; i < 10; i++) {
        struct pair p = pair_open_warm();
        struct later_put lp = {.pair = &p, .n = 10};

        later(&lp.l, act_close_then_put, &lp);
        CHECK_EQ(recv(p.us, buf, 100, 0), 10);
        check_next(&p, buf, 10);
        later_join(&lp.l);
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        close(p.peer);
    }
}

struct replaced {
    struct closed c;
    struct pair *p;
};

static void act_replace_then_put(void *arg)
{
    struct replaced *r = arg;

    act_replace(&r->c);
    put_now(r->p, 10);
}

static void test_number_reused_while_blocked_is_not_touched(void)
{
    for (int i = 0; i < 20; i++) {
        struct pair p = pair_open_warm(), q = pair_open_held(30);
        struct replaced r = {{p.us, q.us}, &p};
        struct later l;

        later(&l, act_replace_then_put, &r);
        CHECK_EQ(recv(p.us, buf, 100, 0), 10);
        check_next(&p, buf, 10);
        later_join(&l);
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        close(p.peer);
        /* The number is q's now, with all that q has. */
        CHECK_EQ(recv(p.us, buf, 100, MSG_PEEK), 30);
        check_ahead(&q, buf, 0, 30);
        MUST(close(p.us));
        take(&q, 30);
        pair_close(&q);
    }
}

static void *close_it(void *arg)
{
    MUST(close(*(int *)arg));
    return NULL;
}

static void test_close_by_another_thread_is_seen_at_once(void)
{
    for (int where = 0; where < WHERES; where++) {
        for (int unread = 0; unread < 2; unread++) {
            struct pair p = pair_open_with(where, 30);
            struct worker w;

            if (!unread)
                take(&p, 30);
            worker_start(&w, close_it, &p.us);
            worker_join(&w);
            CHECK_PEER_SEES(p.peer, unread ? SEEN_RESET : SEEN_FIN);
            close(p.peer);
        }
    }
}

/* Cancellation. */
static void *blocked_receive(void *arg)
{
    struct pair *p = arg;

    if (!p->got)
        warm_up(p);
    take(p, 1);
    return NULL;
}

static void test_cancel_ends_a_blocked_receive(void)
{
    for (int i = 0; i < 20; i++) {
        struct pair p = pair_open();
        struct worker w;

        worker_start(&w, blocked_receive, &p);
        CHECK_SOON(__atomic_load_n(&p.got, __ATOMIC_RELAXED) == 32 && thread_asleep(w.tid), 5000);
        MUST0(pthread_cancel(w.thread));
        CHECK(worker_join(&w) == PTHREAD_CANCELED);
        /* The connection is whole, and so is the process. */
        put(&p, 20);
        take(&p, 20);
        MUST(close(p.us));
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        close(p.peer);
    }
}

struct cancelled {
    struct pair p;
    int go;
};

static void *receive_when_told(void *arg)
{
    struct cancelled *c = arg;

    warm_up(&c->p);
    put(&c->p, 31);
    take(&c->p, 1);
    __atomic_store_n(&c->go, 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(&c->go, __ATOMIC_ACQUIRE) != 2)
        ;
    recv(c->p.us, buf, 10, 0);
    return NULL;
}

static void test_cancel_pending_acts_in_a_receive_with_bytes_waiting(void)
{
    for (int i = 0; i < 10; i++) {
        struct cancelled c = {.p = pair_open()};
        struct worker w;

        worker_start(&w, receive_when_told, &c);
        while (__atomic_load_n(&c.go, __ATOMIC_ACQUIRE) != 1)
            test_yield();
        MUST0(pthread_cancel(w.thread));
        __atomic_store_n(&c.go, 2, __ATOMIC_RELEASE);
        CHECK(worker_join(&w) == PTHREAD_CANCELED);
        /* The receive was a cancellation point on entry: no byte is gone. */
        take(&c.p, 30);
        check_empty(c.p.us);
        pair_close(&c.p);
    }
}

static void *receive_uncancelled(void *arg)
{
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    blocked_receive(arg);
    return NULL;
}

static void test_cancel_disabled_receive_goes_on(void)
{
    struct pair p = pair_open();
    struct worker w;

    worker_start(&w, receive_uncancelled, &p);
    CHECK_SOON(__atomic_load_n(&p.got, __ATOMIC_RELAXED) == 32 && thread_asleep(w.tid), 5000);
    MUST0(pthread_cancel(w.thread));
    put_now(&p, 1);
    CHECK(worker_join(&w) == NULL);
    pair_close(&p);
}

/* Many threads, one connection each. */
#define MANY 300

static void *echo_once(void *arg)
{
    struct pair *p = arg;

    for (int i = 0; i < 40; i++)
        take(p, 1);
    return NULL;
}

static void test_300_threads_blocked_each_gets_its_bytes(void)
{
    static struct pair all[MANY];
    static struct worker w[MANY];
    struct rlimit files = {4096, 4096};

    setrlimit(RLIMIT_NOFILE, &files);
    for (int i = 0; i < MANY; i++) {
        all[i] = pair_open();
        worker_start(&w[i], echo_once, &all[i]);
    }
    for (int n = 0; n < 40; n += 10)
        for (int i = 0; i < MANY; i++)
            put_now(&all[i], 10);
    for (int i = 0; i < MANY; i++) {
        worker_join(&w[i]);
        pair_close(&all[i]);
    }
}

const struct test_case test_cases[] = {
    CASE(test_threads_take_turns_bytes_stay_in_order),
    CASE(test_handover_with_bytes_unread_the_next_thread_gets_them),
    CASE(test_thread_exit_with_bytes_unread_they_are_there),
    CASE(test_pthread_exit_with_bytes_unread_close_resets),
    CASE(test_two_blocked_readers_share_all_bytes),
    CASE_ONCE(test_watcher_of_a_socket_another_thread_has_read_is_woken),
    CASE(test_close_by_another_thread_leaves_a_blocked_receive),
    CASE(test_close_while_blocked_later_bytes_are_received),
    CASE(test_number_reused_while_blocked_is_not_touched),
    CASE(test_close_by_another_thread_is_seen_at_once),
    CASE(test_cancel_ends_a_blocked_receive),
    CASE(test_cancel_pending_acts_in_a_receive_with_bytes_waiting),
    CASE(test_cancel_disabled_receive_goes_on),
    CASE_ONCE(test_300_threads_blocked_each_gets_its_bytes),
    CASES_END,
};
