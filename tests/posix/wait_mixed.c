/*
 * poll and select for sockets that are read from, beside all else that can be waited for; what is
 * told of ends and errors; numbers that another thread closes or uses again during the wait.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

static struct pair pair_seen_empty(void)
{
    struct pair p = pair_open_warm();

    check_empty(p.us);
    return p;
}

struct ring_bell {
    struct later l;
    int fd;
};

static void act_bell(void *arg)
{
    uint64_t one = 1;

    CHECK_EQ(write(((struct ring_bell *)arg)->fd, &one, 8), 8);
}

static void test_mixed_either_kind_ends_the_wait(void)
{
    struct pair p = pair_seen_empty(), fresh = pair_open();
    int event = MUST(eventfd(0, 0)), ends[2];
    char text[16];

    MUST(pipe(ends));
    for (int i = 0; i < 40; i++) {
        struct pollfd all[6] = {{.fd = p.us, .events = POLLIN},
                                {.fd = ends[0], .events = POLLIN},
                                {.fd = -1, .events = POLLIN, .revents = POLLIN},
                                {.fd = event, .events = POLLIN},
                                {.fd = fresh.us, .events = POLLIN | POLLRDHUP},
                                {.fd = p.us, .events = POLLRDNORM}};
        struct ring_bell bell = {.fd = i % 4 == 0 ? ends[1] : event};
        struct later_put lp;

        if (i % 4 < 2)
            later(&bell.l, act_bell, &bell);
        else
            later_put(&lp, i % 4 == 2 ? &p : &fresh, 6);
        CHECK_EQ(poll(all, 6, i % 8 < 4 ? -1 : 10000), i % 4 == 2 ? 2 : 1);
        later_join(i % 4 < 2 ? &bell.l : &lp.l);
        CHECK_EQ(all[0].revents, i % 4 == 2 ? POLLIN : 0);
        CHECK_EQ(all[5].revents, i % 4 == 2 ? POLLRDNORM : 0);
        CHECK_EQ(all[1].revents, i % 4 == 0 ? POLLIN : 0);
        CHECK_EQ(all[2].revents, 0);
        CHECK_EQ(all[3].revents, i % 4 == 1 ? POLLIN : 0);
        CHECK_EQ(all[4].revents, i % 4 == 3 ? POLLIN : 0);
        if (i % 4 < 2)
            CHECK_EQ(read(i % 4 ? event : ends[0], text, 8), 8);
        else
            take(i % 4 == 2 ? &p : &fresh, 6);
        CHECK_EQ(poll(all, 6, 0), 0);
    }
    pair_close(&p);
    pair_close(&fresh);
    close(ends[0]);
    close(ends[1]);
    close(event);
}

static void test_mixed_output_and_numbers_that_are_closed(void)
{
    struct pair p = pair_seen_empty(), q = pair_seen_empty();
    int gone = MUST(dup(p.us));
    struct timeval zero = {0, 0};
    fd_set in, out;

    MUST(close(gone));
    for (int i = 0; i < 10; i++) {
        struct pollfd all[3] = {{.fd = p.us, .events = POLLIN},
                                {.fd = q.us, .events = POLLIN | POLLOUT},
                                {.fd = gone, .events = POLLIN}};

        CHECK_EQ(poll(all, 2, -1), 1);
        CHECK_EQ(all[1].revents, POLLOUT);
        all[1].events = POLLIN;
        CHECK_EQ(poll(all, 3, -1), 1);
        CHECK_EQ(all[2].revents, POLLNVAL);
        put(&q, 4);
        all[1].events = POLLIN | POLLOUT;
        CHECK_EQ(poll(all, 3, -1), 2);
        CHECK_EQ(all[0].revents, 0);
        CHECK_EQ(all[1].revents, POLLIN | POLLOUT);
        FD_ZERO(&in);
        FD_ZERO(&out);
        FD_SET(p.us, &in);
        FD_SET(q.us, &in);
        FD_SET(p.us, &out);
        CHECK_EQ(select(FD_SETSIZE, &in, &out, NULL, NULL), 2);
        CHECK(!FD_ISSET(p.us, &in) && FD_ISSET(q.us, &in) && FD_ISSET(p.us, &out));
        FD_SET(gone, &in);
        CHECK_ERR(select(FD_SETSIZE, &in, NULL, NULL, &zero), EBADF);
        take(&q, 4);
    }
    pair_close(&p);
    pair_close(&q);
}

struct end_it {
    struct later l;
    struct pair *p;
    size_t bytes;
    bool reset;
};

static void act_end(void *arg)
{
    struct end_it *e = arg;

    if (e->bytes)
        put_now(e->p, e->bytes);
    if (e->reset) {
        reset_close(e->p->peer);
        e->p->peer = -1;
    } else {
        MUST(shutdown(e->p->peer, SHUT_WR));
    }
}

static void test_wait_end_bits_are_exact(void)
{
    static const short asked[] = {POLLIN, POLLIN | POLLRDHUP, POLLRDHUP, 0, POLLIN | POLLOUT};

    for (int i = 0; i < 40; i++) {
        struct pair p = pair_seen_empty();
        struct end_it e = {.p = &p, .bytes = i & 1 ? 20 : 0, .reset = i & 2};
        struct pollfd pfd = {.fd = p.us, .events = asked[i / 8]};
        short last =
            (pfd.events & (POLLIN | POLLRDHUP | POLLOUT)) | (e.reset ? POLLERR | POLLHUP : 0);
        bool sleeps = (i & 4) && !(pfd.events & POLLOUT) && (pfd.events || e.reset);
        uint8_t byte;

        if (sleeps) {
            later(&e.l, act_end, &e);
            CHECK_EQ(poll(&pfd, 1, -1), 1);
            CHECK(!(pfd.revents & ~last));
            later_join(&e.l);
        } else {
            act_end(&e);
        }
        wait_tcp_state(p.us, e.reset ? TCP_CLOSE : TCP_CLOSE_WAIT);
        CHECK_EQ(poll(&pfd, 1, pfd.events || e.reset ? -1 : 0), last != 0);
        CHECK_EQ(pfd.revents, last);
        take(&p, e.bytes);
        if (e.reset)
            CHECK_ERR(recv(p.us, &byte, 1, 0), ECONNRESET);
        CHECK_EQ(recv(p.us, &byte, 1, 0), 0);
        CHECK_EQ(poll_now(p.us, POLLIN | POLLRDHUP), POLLIN | POLLRDHUP | (e.reset ? POLLHUP : 0));
        if (!e.reset) {
            MUST(shutdown(p.us, SHUT_WR));
            CHECK_EQ(poll_now(p.us, POLLIN), POLLIN | POLLHUP);
        }
        pair_close(&p);
    }
}

struct meddle {
    struct later l;
    struct pair *p, *q;
    int how, spare;
};

/* p's number is closed, or stands for something else, while a wait for p and q is asleep. */
static void act_meddle(void *arg)
{
    struct meddle *m = arg;

    if (m->how == 0)
        MUST(close(m->p->us));
    else
        MUST(dup2(m->spare, m->p->us));
    put_now(m->q, 5);
}

static void test_wait_number_closed_or_used_again_during_it(void)
{
    for (int i = 0; i < 24; i++) {
        struct pair p = pair_seen_empty(), q = pair_seen_empty(), r = pair_open_with(i & 1, 9);
        struct meddle m = {.p = &p, .q = &q, .how = i >> 1 & 1, .spare = r.us};
        struct pollfd all[2] = {{.fd = p.us, .events = POLLIN}, {.fd = q.us, .events = POLLIN}};
        int number = p.us;

        later(&m.l, act_meddle, &m);
        /* Woken for q, the kernel looks at the numbers again. */
        CHECK_EQ(poll(all, 2, i & 4 ? -1 : 10000), 2);
        later_join(&m.l);
        CHECK_EQ(all[0].revents, m.how ? POLLIN : POLLNVAL);
        CHECK_EQ(all[1].revents, POLLIN);
        settle(q.us, q.sent);
        take(&q, 5);
        if (m.how) {
            close(r.us);
            r.us = number;
            take(&r, 9);
        }
        p.us = -1;
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        pair_close(&p);
        pair_close(&q);
        pair_close(&r);
    }
}

const struct test_case test_cases[] = {
    CASE(test_mixed_either_kind_ends_the_wait),
    CASE(test_mixed_output_and_numbers_that_are_closed),
    CASE(test_wait_end_bits_are_exact),
    CASE(test_wait_number_closed_or_used_again_during_it),
    CASES_END,
};
