/*
 * pool_soak [SECONDS]: two hundred connections of which a part is left unread, while the others are
 * busy, for a while; who is left unread changes all the time.
 *
 * The clients are one thread of a second process, executed without any preloaded library: it writes
 * to all connections as much as they take, in pieces large and small. The servers are threads of this one,
 * each with fifty connections: two loops of epoll, level- and edge-triggered, one of poll(), and one
 * that blocks in a receive of one connection at a time. Each byte is checked by its offset in its
 * stream; in the end each connection is read to its end and says how many bytes there were.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "payload.h"
#include "stall.h"
#include "stress.h"

/* The frame is used for its checks only: nothing here is a case. */
const struct test_case test_cases[] = {CASES_END};
int soak_main(int argc, char **argv);

#define SERVERS 4
#define EACH 50
#define ALL (SERVERS * EACH)

/* ---- the clients */

struct stream {
    int fd;
    uint64_t sent;
    bool over;
};

/* Nonblocking; returns whether the connection takes more. */
static bool write_some(struct stream *s, uint32_t seed, uint64_t *random)
{
    size_t n = size_of_piece(random);
    uint8_t some[16384];
    ssize_t done;

    payload_fill(seed, some, s->sent, n);
    done = send(s->fd, some, n, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (done < 0 && errno != EAGAIN)
        FAIL("stream %u, %llu bytes: send: errno %d", seed, (unsigned long long)s->sent, errno);
    s->sent += done > 0 ? (uint64_t)done : 0;
    return done == (ssize_t)n;
}

/* The servers' word for it. */
static void hear(struct stream *s, uint32_t seed)
{
    uint64_t got = 0;

    if (recv(s->fd, &got, sizeof(got), MSG_WAITALL) != sizeof(got) || got != s->sent)
        FAIL("stream %u: %llu bytes sent, %llu read (errno %d)", seed, (unsigned long long)s->sent,
             (unsigned long long)got, errno);
    close(s->fd);
}

static int clients(int argc, char **argv)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct stream *all = calloc(ALL, sizeof(*all));
    struct pollfd *set = calloc(ALL, sizeof(*set));
    uint64_t random = 0x9e3779b97f4a7c15ULL;
    int size = 128 << 10;
    int64_t until;

    if (argc < 3 || !all || !set)
        return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    addr.sin_port = htons((uint16_t)atoi(argv[1]));
    for (uint32_t i = 0; i < ALL; i++) {
        all[i].fd = MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        MUST(setsockopt(all[i].fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)));
        MUST(connect(all[i].fd, (struct sockaddr *)&addr, sizeof(addr)));
        MUST(send(all[i].fd, &i, sizeof(i), MSG_NOSIGNAL));
        set[i] = (struct pollfd){.fd = all[i].fd, .events = POLLOUT};
    }
    until = now_ms() + atoll(argv[2]);
    while (now_ms() < until) {
        MUST(poll(set, ALL, 100));
        for (uint32_t i = 0; i < ALL; i++)
            for (int k = 0; set[i].revents && k < 4 && write_some(&all[i], i, &random); k++)
                ;
    }
    for (int i = 0; i < ALL; i++)
        MUST(shutdown(all[i].fd, SHUT_WR));
    for (uint32_t i = 0; i < ALL; i++)
        hear(&all[i], i);
    free(all);
    free(set);
    return 0;
}

/* ---- the servers */

struct conn {
    int fd;
    uint32_t seed;
    uint64_t got;
    int64_t unread_until; /* in ms; 0: it is read */
    bool asked, over;     /* asked: its epoll instance is to tell of it */
};

enum way { BY_LEVEL, BY_EDGE, BY_POLL, BY_BLOCKING };

struct server {
    pthread_t thread;
    enum way way;
    int listener, ep, left;
    uint64_t random;
    struct conn c[EACH];
    uint8_t buf[65536];
};

static atomic_ullong bytes, stalls;
static int64_t over_at; /* from then on all are read to their ends */

static void finish(struct server *s, struct conn *c)
{
    if (send(c->fd, &c->got, sizeof(c->got), MSG_NOSIGNAL) != sizeof(c->got))
        FAIL("stream %u: no word back: errno %d", c->seed, errno);
    close(c->fd);
    c->over = true;
    s->left--;
}

/* One receive of some length; false: there is no more for now. */
static bool receive(struct server *s, struct conn *c, int flags)
{
    size_t want = upto(&s->random, 4) ? size_of_piece(&s->random) : sizeof(s->buf);
    char why[200];
    ssize_t n;

    if (upto(&s->random, 16) == 0) {
        n = recv(c->fd, s->buf, want, MSG_PEEK | MSG_DONTWAIT);
        if (n > 0 && payload_compare(c->seed, s->buf, c->got, (size_t)n, why, sizeof(why)))
            FAIL("stream %u, shown: %s", c->seed, why);
    }
    n = recv(c->fd, s->buf, want, flags);
    if (n < 0 && errno == EAGAIN)
        return false;
    if (n < 0)
        FAIL("stream %u: recv at %llu: errno %d", c->seed, (unsigned long long)c->got, errno);
    if (n == 0) {
        finish(s, c);
        return false;
    }
    if (payload_compare(c->seed, s->buf, c->got, (size_t)n, why, sizeof(why)))
        FAIL("stream %u: %s", c->seed, why);
    c->got += (uint64_t)n;
    atomic_fetch_add_explicit(&bytes, (uint64_t)n, memory_order_relaxed);
    return true;
}

static bool is_stalled(struct conn *c)
{
    if (c->unread_until && c->unread_until <= now_ms())
        c->unread_until = 0;
    return c->unread_until != 0;
}

/* Now and then one is left alone, for as long as it takes to fill or much longer. */
static void maybe_stall(struct server *s, struct conn *c)
{
    if (upto(&s->random, 30) || now_ms() > over_at)
        return;
    c->unread_until = now_ms() + (int64_t)(upto(&s->random, 3) ? upto(&s->random, 300) : 2500);
    atomic_fetch_add(&stalls, 1);
}

static void ask(struct server *s, struct conn *c, bool in)
{
    struct epoll_event ev = {.events = in ? EPOLLIN : 0U, .data.ptr = c};

    if (c->asked != in)
        MUST(epoll_ctl(s->ep, EPOLL_CTL_MOD, c->fd, &ev));
    c->asked = in;
}

/* Paused ones are members that nothing is asked of. */
static void by_level(struct server *s)
{
    struct epoll_event ev[16];
    int n;

    for (int i = 0; i < EACH; i++)
        if (!s->c[i].over && !s->c[i].asked && !is_stalled(&s->c[i]))
            ask(s, &s->c[i], true);
    n = MUST(epoll_wait(s->ep, ev, 16, 50));
    for (int i = 0; i < n; i++) {
        struct conn *c = ev[i].data.ptr;

        for (int k = 0; k < 8 && receive(s, c, 0); k++)
            ;
        maybe_stall(s, c);
        if (!c->over && c->unread_until)
            ask(s, c, false);
    }
}

/* Edges of the paused ones are seen and kept in mind: c->asked is "has to be read". */
static void by_edge(struct server *s)
{
    struct epoll_event ev[16];
    bool waiting = false;
    int n;

    for (int i = 0; i < EACH; i++)
        waiting |= !s->c[i].over && s->c[i].asked && !is_stalled(&s->c[i]);
    n = MUST(epoll_wait(s->ep, ev, 16, waiting ? 0 : 50));
    for (int i = 0; i < n; i++)
        ((struct conn *)ev[i].data.ptr)->asked = true;
    for (int i = 0; i < EACH; i++) {
        struct conn *c = &s->c[i];

        if (c->over || !c->asked || is_stalled(c))
            continue;
        for (int k = 0; k < 8 && c->asked; k++)
            c->asked = receive(s, c, 0);
        maybe_stall(s, c);
    }
}

static void by_poll(struct server *s, bool blocking)
{
    struct pollfd set[EACH];

    for (int i = 0; i < EACH; i++)
        set[i] = (struct pollfd){.fd = s->c[i].over || is_stalled(&s->c[i]) ? -1 : s->c[i].fd,
                                 .events = POLLIN};
    MUST(poll(set, EACH, 50));
    for (int i = 0; i < EACH; i++) {
        if (!set[i].revents)
            continue;
        for (int k = 0; k < 8 && receive(s, &s->c[i], blocking ? 0 : MSG_DONTWAIT); k++)
            if (blocking && upto(&s->random, 4))
                break; /* its writer goes on unless it has ended: it may be waited for */
        maybe_stall(s, &s->c[i]);
    }
}

/* Accepted by the thread that will serve it: a connection is its own from the first byte on. */
static void *serve(void *arg)
{
    struct server *s = arg;

    s->ep = MUST(epoll_create1(EPOLL_CLOEXEC));
    for (int i = 0; i < EACH; i++) {
        struct conn *c = &s->c[i];
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};

        c->fd = MUST(accept4(s->listener, NULL, NULL, SOCK_CLOEXEC));
        CHECK_EQ(recv(c->fd, &c->seed, sizeof(c->seed), MSG_WAITALL), sizeof(c->seed));
        if (s->way > BY_EDGE)
            continue;
        MUST(fcntl(c->fd, F_SETFL, O_RDWR | O_NONBLOCK));
        ev.events |= s->way == BY_EDGE ? EPOLLET : 0U;
        MUST(epoll_ctl(s->ep, EPOLL_CTL_ADD, c->fd, &ev));
        c->asked = true;
    }
    s->left = EACH;
    while (s->left) {
        if (s->way == BY_LEVEL)
            by_level(s);
        else if (s->way == BY_EDGE)
            by_edge(s);
        else
            by_poll(s, s->way == BY_BLOCKING);
    }
    close(s->ep);
    return NULL;
}

static pid_t start_clients(int listener, int seconds)
{
    struct sockaddr_in addr;
    socklen_t len = sizeof(addr);
    char port[16], ms[32];
    pid_t pid;

    MUST(getsockname(listener, (struct sockaddr *)&addr, &len));
    snprintf(port, sizeof(port), "%d", ntohs(addr.sin_port));
    snprintf(ms, sizeof(ms), "%d000", seconds);
    pid = MUST(fork());
    if (pid == 0) {
        unsetenv("LD_PRELOAD");
        execl(test_self, test_self, "--helper", "clients", port, ms, (char *)NULL);
        _exit(9);
    }
    return pid;
}

int soak_main(int argc, char **argv)
{
    int seconds = argc > 1 ? atoi(argv[1]) : 5, listener = MUST(listener_open(AF_INET)), status;
    struct server *all = calloc(SERVERS, sizeof(*all));
    long before = resident_kib();
    pid_t pid;

    if (seconds < 1 || !all) {
        fprintf(stderr, "usage: pool_soak [SECONDS]\n");
        return 2;
    }
    pid = start_clients(listener, seconds);
    over_at = now_ms() + seconds * 1000;
    for (int i = 0; i < SERVERS; i++) {
        all[i].way = (enum way)i;
        all[i].listener = listener;
        all[i].random = 0xd1342543de82ef95ULL * ((uint64_t)i + 1);
        MUST0(pthread_create(&all[i].thread, NULL, serve, &all[i]));
    }
    for (int i = 0; i < SERVERS; i++)
        MUST0(pthread_join(all[i].thread, NULL));
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    if (status)
        FAIL("the clients failed: status %x", (unsigned)status);
    printf("%llu bytes on %d connections, %llu times one was left unread, %ld KiB more than at "
           "first: 0 lost, repeated or reordered\n",
           bytes, ALL, stalls, resident_kib() - before);
    CHECK(bytes > 0 && stalls > ALL / 4);
    if (!TEST_ASAN && !TEST_TSAN)
        CHECK(resident_kib() - before < 32 << 10);
    return 0;
}

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = clients;
    test_program = soak_main;
}
