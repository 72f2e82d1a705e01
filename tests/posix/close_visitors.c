/*
 * A third thread is asleep in a call on a socket when its number is closed; the one that was served by a
 * ring is away. The call has a reference of its own: it goes on, and the connection ends with it.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

#define SOME 10

static char much[8 << 20]; /* more than the buffers on the way take */

/* The thread that is away, the call of another, and how that went. */
struct visitor {
    struct acting owner;
    struct worker w;
    int fd;
    ssize_t got;
    int error;
    short revents;
    char buf[100];
};

static void *receives(void *arg)
{
    struct visitor *v = arg;

    v->got = recv(v->fd, v->buf, sizeof(v->buf), 0);
    v->error = errno;
    return NULL;
}

static void *polls(void *arg)
{
    struct visitor *v = arg;
    struct pollfd p = {.fd = v->fd, .events = POLLIN};

    v->got = poll(&p, 1, -1);
    v->error = errno;
    v->revents = p.revents;
    return NULL;
}

static void *sends(void *arg)
{
    struct visitor *v = arg;

    v->got = send(v->fd, much, sizeof(much), 0);
    v->error = errno;
    return NULL;
}

/* Closed, while it sleeps. */
static void start(struct visitor *v, void *(*call)(void *arg))
{
    *v = (struct visitor){0};
    acting_start(&v->owner, 0, NULL);
    v->fd = v->owner.p.us;
    worker_start(&v->w, call, v);
    wait_asleep(v->w.tid);
    MUST(close(v->fd));
    CHECK_EQ(peer_sees(v->owner.p.peer, 20), SEEN_NOTHING);
    CHECK(thread_asleep(v->w.tid));
}

static void end(struct visitor *v)
{
    acting_go(&v->owner);
    close(v->owner.p.peer);
}

static void test_receive_goes_on_until_bytes_come(void)
{
    struct visitor v;

    start(&v, receives);
    put_now(&v.owner.p, SOME);
    worker_join(&v.w);
    CHECK_EQ(v.got, SOME);
    check_next(&v.owner.p, v.buf, SOME);
    CHECK_PEER_SEES(v.owner.p.peer, SEEN_FIN);
    end(&v);
}

static void test_receive_goes_on_when_its_owner_comes_back(void)
{
    struct visitor v;

    start(&v, receives);
    acting_go(&v.owner);
    CHECK_EQ(peer_sees(v.owner.p.peer, 20), SEEN_NOTHING);
    put_now(&v.owner.p, SOME);
    worker_join(&v.w);
    CHECK_EQ(v.got, SOME);
    CHECK_PEER_SEES(v.owner.p.peer, SEEN_FIN);
    close(v.owner.p.peer);
}

static void test_receive_that_gets_a_part_resets(void)
{
    struct visitor v;

    start(&v, receives);
    put_now(&v.owner.p, sizeof(v.buf) + SOME);
    worker_join(&v.w);
    CHECK_EQ(v.got, sizeof(v.buf));
    CHECK_PEER_SEES(v.owner.p.peer, SEEN_RESET);
    end(&v);
}

static void test_poll_goes_on_and_leaves_the_bytes_unread(void)
{
    struct visitor v;

    start(&v, polls);
    put_now(&v.owner.p, SOME);
    worker_join(&v.w);
    CHECK_EQ(v.got, 1);
    CHECK_EQ(v.revents, POLLNVAL); /* it looks the number up again */
    CHECK_PEER_SEES(v.owner.p.peer, SEEN_RESET);
    end(&v);
}

static void test_send_goes_on_until_all_is_sent(void)
{
    static char buf[65536];
    struct visitor v;
    uint64_t got = 0;
    ssize_t n;

    start(&v, sends);
    while ((n = recv(v.owner.p.peer, buf, sizeof(buf), 0)) > 0)
        got += (uint64_t)n;
    CHECK_EQ(n, 0);
    worker_join(&v.w);
    CHECK_EQ(v.got, sizeof(much));
    CHECK_EQ(got, sizeof(much));
    end(&v);
}

static void test_signal_ends_the_call_and_the_connection(void)
{
    struct visitor v;

    catch_signal(SIGUSR1, 0);
    start(&v, receives);
    MUST0(pthread_kill(v.w.thread, SIGUSR1));
    worker_join(&v.w);
    CHECK_EQ(v.got, -1);
    CHECK_EQ(v.error, EINTR);
    CHECK_PEER_SEES(v.owner.p.peer, SEEN_FIN);
    end(&v);
}

static void test_restarted_call_finds_no_number(void)
{
    struct visitor v;

    catch_signal(SIGUSR1, SA_RESTART);
    start(&v, receives);
    MUST0(pthread_kill(v.w.thread, SIGUSR1));
    worker_join(&v.w);
    CHECK_EQ(v.got, -1);
    CHECK_EQ(v.error, EBADF);
    CHECK_PEER_SEES(v.owner.p.peer, SEEN_FIN);
    end(&v);
}

static void test_cancelled_call_ends_the_connection(void)
{
    struct visitor v;

    start(&v, receives);
    MUST0(pthread_cancel(v.w.thread));
    CHECK(worker_join(&v.w) == PTHREAD_CANCELED);
    CHECK_PEER_SEES(v.owner.p.peer, SEEN_FIN);
    end(&v);
}

/* One call that names two sockets, both closed; and one connection that two calls name. */
static void *polls_two(void *arg)
{
    struct visitor *v = arg;
    struct pollfd p[] = {{.fd = v[0].fd, .events = POLLIN}, {.fd = v[1].fd, .events = POLLIN}};

    v->got = poll(p, 2, -1);
    v->revents = p[1].revents;
    return NULL;
}

static void test_poll_of_two_goes_on(void)
{
    struct visitor v[2] = {{.fd = -1}};

    for (int i = 0; i < 2; i++) {
        acting_start(&v[i].owner, 0, NULL);
        v[i].fd = v[i].owner.p.us;
    }
    worker_start(&v->w, polls_two, v);
    wait_asleep(v->w.tid);
    for (int i = 0; i < 2; i++)
        MUST(close(v[i].fd));
    for (int i = 0; i < 2; i++)
        CHECK_EQ(peer_sees(v[i].owner.p.peer, 20), SEEN_NOTHING);
    put_now(&v[1].owner.p, SOME);
    worker_join(&v->w);
    CHECK_EQ(v->got, 2);
    CHECK_EQ(v->revents, POLLNVAL);
    CHECK_PEER_SEES(v[0].owner.p.peer, SEEN_FIN);
    CHECK_PEER_SEES(v[1].owner.p.peer, SEEN_RESET);
    for (int i = 0; i < 2; i++)
        end(&v[i]);
}

const struct test_case test_cases[] = {
    CASE(test_receive_goes_on_until_bytes_come),
    CASE(test_receive_goes_on_when_its_owner_comes_back),
    CASE(test_receive_that_gets_a_part_resets),
    CASE(test_poll_goes_on_and_leaves_the_bytes_unread),
    CASE(test_send_goes_on_until_all_is_sent),
    CASE(test_signal_ends_the_call_and_the_connection),
    CASE(test_restarted_call_finds_no_number),
    CASE(test_cancelled_call_ends_the_connection),
    CASE_ONCE(test_poll_of_two_goes_on),
    CASES_END,
};
