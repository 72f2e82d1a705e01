/*
 * A socket closed or a thread ended while it receives: closed under a blocked reader, its number
 * reused, the reader cancelled; and 300 readers at once.
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
        set_timeout(p.us, 200);
        do {
            later(&l, act_close, &c);
            CHECK_ERR(recv(p.us, buf, 10, 0), EAGAIN);
        } while (!later_join(&l));
        CHECK_ERR(recv(p.us, buf, 10, 0), EBADF);
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        close(p.peer);
    }
}

struct closed_one {
    struct pair *p;
    int number;
};

static void act_close_one_then_put(void *arg)
{
    struct closed_one *c = arg;

    MUST(close(c->number));
    put_now(c->p, 3000);
}

/* The other number stands for the connection still. The receive was once told of its end when no buffer was
 * left for the rest. */
static void test_close_of_one_of_two_numbers_leaves_a_blocked_receive(void)
{
    for (int i = 0; i < 10; i++) {
        struct pair p = pair_open_warm();
        struct closed_one c = {.p = &p, .number = MUST(dup(p.us))};
        struct later l;

        later(&l, act_close_one_then_put, &c);
        CHECK_EQ(recv(c.number, buf, 3000, MSG_WAITALL), 3000);
        CHECK(later_join(&l));
        check_next(&p, buf, 3000);
        CHECK_ERR(recv(c.number, buf, 10, 0), EBADF);
        put(&p, 10);
        take(&p, 10);
        pair_close(&p);
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

static void test_close_with_linger_0_resets_while_the_reader_is_elsewhere(void)
{
    struct linger off = {.l_onoff = 1, .l_linger = 0};
    struct acting t;

    acting_start(&t, 0, NULL);
    MUST(setsockopt(t.p.us, SOL_SOCKET, SO_LINGER, &off, sizeof(off)));
    MUST(close(t.p.us));
    CHECK_PEER_SEES(t.p.peer, SEEN_RESET);
    acting_go(&t);
    close(t.p.peer);
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
    if (TEST_ASAN)
        test_skip("AddressSanitizer takes a cancelled thread's stack for a damaged one");
    for (int i = 0; i < 20; i++) {
        struct pair p = pair_open();
        struct worker w;

        worker_start(&w, blocked_receive, &p);
        CHECK_SOON(__atomic_load_n(&p.got, __ATOMIC_ACQUIRE) == WARM_READS && thread_asleep(w.tid),
                   5000);
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

static void receive_ten(struct acting *t)
{
    recv(t->p.us, buf, 10, 0);
}

static void test_cancel_pending_acts_in_a_receive_with_bytes_waiting(void)
{
    if (TEST_ASAN)
        test_skip("AddressSanitizer takes a cancelled thread's stack for a damaged one");
    for (int i = 0; i < 10; i++) {
        struct acting t;

        acting_start(&t, 30, receive_ten);
        MUST0(pthread_cancel(t.w.thread));
        CHECK(acting_go(&t) == PTHREAD_CANCELED);
        /* The receive was a cancellation point on entry: no byte is gone. */
        take(&t.p, 30);
        check_empty(t.p.us);
        pair_close(&t.p);
    }
}

/* The connection is a plain one by now, and some bytes are done already. */
static void *receive_all_of_ten(void *arg)
{
    struct pair *p = arg;

    recv(p->us, buf, 10, MSG_WAITALL);
    return NULL;
}

static void test_cancel_ends_a_waitall_with_some_bytes_done(void)
{
    if (TEST_ASAN)
        test_skip("AddressSanitizer takes a cancelled thread's stack for a damaged one");
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with((enum where)where, 6);
        struct worker w;

        worker_start(&w, receive_all_of_ten, &p);
        CHECK_SOON(thread_asleep(w.tid), 5000);
        MUST0(pthread_cancel(w.thread));
        CHECK(worker_join(&w) == PTHREAD_CANCELED);
        pair_close(&p);
    }
}

static void close_it_there(struct acting *t)
{
    close(t->p.us);
}

static void test_cancel_pending_acts_in_a_close_before_it_closes(void)
{
    struct acting t;

    if (TEST_ASAN)
        test_skip("AddressSanitizer takes a cancelled thread's stack for a damaged one");
    acting_start(&t, 30, close_it_there);
    MUST0(pthread_cancel(t.w.thread));
    CHECK(acting_go(&t) == PTHREAD_CANCELED);
    take(&t.p, 30);
    MUST(close(t.p.us));
    CHECK_PEER_SEES(t.p.peer, SEEN_FIN);
    close(t.p.peer);
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
    CHECK_SOON(__atomic_load_n(&p.got, __ATOMIC_ACQUIRE) == WARM_READS && thread_asleep(w.tid),
               5000);
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
    CASE(test_close_by_another_thread_leaves_a_blocked_receive),
    CASE(test_close_of_one_of_two_numbers_leaves_a_blocked_receive),
    CASE(test_close_while_blocked_later_bytes_are_received),
    CASE(test_number_reused_while_blocked_is_not_touched),
    CASE(test_close_by_another_thread_is_seen_at_once),
    CASE(test_close_with_linger_0_resets_while_the_reader_is_elsewhere),
    CASE(test_cancel_ends_a_blocked_receive),
    CASE(test_cancel_pending_acts_in_a_receive_with_bytes_waiting),
    CASE(test_cancel_ends_a_waitall_with_some_bytes_done),
    CASE(test_cancel_pending_acts_in_a_close_before_it_closes),
    CASE(test_cancel_disabled_receive_goes_on),
    CASE_ONCE(test_300_threads_blocked_each_gets_its_bytes),
    CASES_END,
};
