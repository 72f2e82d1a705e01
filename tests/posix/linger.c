/*
 * SO_LINGER with a time: what a close waits for, whether the thread that reads closes or another one
 * does while that is elsewhere.
 */
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[65536];

static void linger_for(int fd, int seconds)
{
    struct linger on = {.l_onoff = 1, .l_linger = seconds};

    MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &on, sizeof(on)));
}

/* Sends to a peer that does not read, as far as it goes. */
static size_t fill(int fd)
{
    size_t sum = 0;
    ssize_t n;

    while ((n = send(fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
        sum += (size_t)n;
    CHECK_EQ(errno, EAGAIN);
    return sum;
}

/* All of it, and the end. */
static void drain(int fd, size_t sent)
{
    uint8_t some[16384];
    ssize_t n;

    while ((n = recv(fd, some, sizeof(some), 0)) > 0)
        sent -= (size_t)n;
    CHECK_EQ(n, 0);
    CHECK_EQ(sent, 0);
    close(fd);
}

static int64_t close_takes(int fd)
{
    int64_t begin = now_ms();

    MUST(close(fd));
    return now_ms() - begin;
}

/* Warm, read by another thread, which is elsewhere, or by this one. */
static struct pair open_for(struct acting *t, bool elsewhere, int seconds)
{
    if (elsewhere)
        acting_start(t, 0, NULL);
    else
        t->p = pair_open_warm();
    linger_for(t->p.us, seconds);
    return t->p;
}

/* It must not be the reader who lingers, at whatever it does next. */
static void reader_goes_on(struct acting *t, bool elsewhere, int64_t ms)
{
    int64_t begin = now_ms();

    if (elsewhere)
        acting_go(t);
    CHECK(now_ms() - begin < ms);
}

static void test_linger_with_nothing_unsent_closes_at_once(void)
{
    for (int elsewhere = 0; elsewhere < 2; elsewhere++) {
        struct acting t;
        struct pair p = open_for(&t, elsewhere, 10);

        CHECK(close_takes(p.us) < 5000);
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        reader_goes_on(&t, elsewhere, 5000);
        close(p.peer);
    }
}

static void test_linger_ends_with_its_time(void)
{
    for (int elsewhere = 0; elsewhere < 2; elsewhere++) {
        struct acting t;
        struct pair p = open_for(&t, elsewhere, 1);
        size_t sent = fill(p.us);

        CHECK(close_takes(p.us) > 900);
        reader_goes_on(&t, elsewhere, 900);
        drain(p.peer, sent);
    }
}

struct late {
    int fd, go;
    size_t sent;
};

static void *drain_when_told(void *arg)
{
    struct late *l = arg;

    while (!__atomic_load_n(&l->go, __ATOMIC_ACQUIRE))
        test_yield();
    drain(l->fd, l->sent);
    return NULL;
}

static void test_linger_ends_when_the_peer_has_it_all(void)
{
    for (int elsewhere = 0; elsewhere < 2; elsewhere++) {
        struct acting t;
        struct pair p = open_for(&t, elsewhere, 15);
        struct late l = {.fd = p.peer, .sent = fill(p.us)};
        struct worker w;

        worker_start(&w, drain_when_told, &l);
        __atomic_store_n(&l.go, 1, __ATOMIC_RELEASE);
        CHECK(close_takes(p.us) < 10000);
        worker_join(&w);
        reader_goes_on(&t, elsewhere, 5000);
    }
}

static void test_linger_ends_at_a_signal(void)
{
    for (int elsewhere = 0; elsewhere < 2; elsewhere++) {
        struct acting t;
        struct pair p = open_for(&t, elsewhere, 15);
        size_t sent = fill(p.us);

        catch_signal(SIGALRM, 0);
        alarm(1);
        CHECK(close_takes(p.us) < 10000);
        CHECK_EQ(caught, 1);
        reader_goes_on(&t, elsewhere, 5000);
        drain(p.peer, sent);
    }
}

const struct test_case test_cases[] = {
    CASE(test_linger_with_nothing_unsent_closes_at_once),
    CASE(test_linger_ends_with_its_time),
    CASE(test_linger_ends_when_the_peer_has_it_all),
    CASE(test_linger_ends_at_a_signal),
    CASES_END,
};
