/*
 * Workers that share a listening socket by EPOLLEXCLUSIVE, each with an instance of its own and
 * connections that it reads from, as nginx has them: a connection wakes one of them, not all.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "asleep.h"
#include "loop.h"

#define WORKERS 4
#define CONNECTIONS 60

struct herd {
    struct worker w;
    int listener, stop;
    atomic_int *accepted, *in_vain;
    atomic_bool ready;
};

enum { LISTENER, STOP, MINE, THEIRS };

/* Echoes what comes on its connections; the first one is its own. */
static void *serve(void *arg)
{
    struct herd *h = arg;
    int ep = MUST(epoll_create1(0)), theirs = -1;
    struct pair mine = ep_pair(ep, EPOLLIN, MINE);
    struct epoll_event ev;

    put(&mine, 9);
    check_event(ep, MINE, EPOLLIN);
    CHECK_EQ(read_all(&mine, 4), 9);
    ep_ctl(ep, EPOLL_CTL_ADD, h->listener, EPOLLIN | EPOLLEXCLUSIVE, LISTENER);
    ep_ctl(ep, EPOLL_CTL_ADD, h->stop, EPOLLIN, STOP);
    h->ready = true;
    for (;;) {
        char text[64];
        ssize_t n;

        CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
        if (ev.data.u64 == STOP)
            break;
        if (ev.data.u64 == LISTENER) {
            theirs = accept4(h->listener, NULL, NULL, SOCK_NONBLOCK);
            if (theirs < 0) {
                CHECK_EQ(errno, EAGAIN);
                (*h->in_vain)++;
                continue;
            }
            ep_ctl(ep, EPOLL_CTL_ADD, theirs, EPOLLIN, THEIRS + (uint64_t)theirs);
            (*h->accepted)++;
            continue;
        }
        CHECK(ev.data.u64 >= THEIRS);
        theirs = (int)(ev.data.u64 - THEIRS);
        n = read(theirs, text, sizeof(text));
        if (n > 0)
            CHECK_EQ(write(theirs, text, (size_t)n), n);
        else if (!n)
            MUST(close(theirs));
        else
            CHECK_EQ(errno, EAGAIN);
    }
    pair_close(&mine);
    close(ep);
    return NULL;
}

static void test_exclusive_listener_wakes_one_worker(void)
{
    int listener = listener_open(AF_INET), stop = MUST(eventfd(0, 0));
    atomic_int accepted = 0, in_vain = 0;
    struct herd all[WORKERS];
    uint64_t one = 1;

    set_nonblock(listener, true);
    for (int i = 0; i < WORKERS; i++) {
        all[i] = (struct herd){
            .listener = listener, .stop = stop, .accepted = &accepted, .in_vain = &in_vain};
        worker_start(&all[i].w, serve, &all[i]);
        CHECK_SOON(all[i].ready, 10000);
    }
    for (int i = 0; i < CONNECTIONS; i++) {
        char text[8] = "hello";
        int fd;

        for (int k = 0; k < WORKERS; k++)
            wait_asleep(all[k].w.tid);
        fd = connect_to(listener);
        for (int k = 0; k < 3; k++) {
            CHECK_EQ(write(fd, text, 5), 5);
            CHECK_EQ(recv(fd, text, 5, MSG_WAITALL), 5);
        }
        CHECK(!memcmp(text, "hello", 5));
        MUST(shutdown(fd, SHUT_WR));
        CHECK_EQ(recv(fd, text, 5, 0), 0);
        close(fd);
    }
    CHECK_EQ(accepted, CONNECTIONS);
    /* A herd would be three of them in vain each time. */
    if (in_vain > CONNECTIONS / 2)
        FAIL("%d of %d workers were woken in vain", in_vain, CONNECTIONS * (WORKERS - 1));
    CHECK_EQ(write(stop, &one, 8), 8);
    for (int i = 0; i < WORKERS; i++)
        worker_join(&all[i].w);
    close(stop);
    close(listener);
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_exclusive_listener_wakes_one_worker),
    CASES_END,
};
