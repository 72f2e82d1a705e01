/*
 * A server that waits before it receives, in the ways that real ones do. It echoes messages of one
 * length, sends each answer with one call, and knows nothing of any library that may be loaded.
 *
 *   waitserver [-p PORT] [-c CPU] [-l LENGTH] poll | packet | loop | epoll | edge
 *
 *   poll     a thread per connection: poll(), then recv() of what is there
 *   packet   a thread per connection: recv() of a header of 4 bytes that may not wait and finds
 *            nothing, poll(), recv() of the header, recv() of the body (MariaDB)
 *   loop     one thread: poll() on all connections, recv() from each that is ready
 *   epoll    the same with epoll, level-triggered
 *   edge     the same with epoll, edge-triggered: recv() until there is nothing more
 *
 * A connection whose message begins with an exclamation mark is not received from again by the last
 * three, as if what it leads to were blocked: they ask for no input of it any more, but for edge, whose
 * interest costs nothing and stays.
 *
 * Listens on 127.0.0.1 (port 0, the default: any free one) and prints "port N". SIGTERM or SIGINT
 * end it by way of exit().
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define LENGTH_MAX 4096
#define HEADER 4
#define CONNECTIONS_MAX 1000
#define EVENTS_MAX 64
#define LAST '!'

struct connection {
    bool stopped; /* nothing more is received */
    size_t have;  /* of the message that comes in */
    char message[LENGTH_MAX];
};

static size_t length = 64;
static int listener;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int accept_one(void)
{
    int one = 1, fd = accept(listener, NULL, NULL);

    if (fd < 0)
        die("accept");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

/* False: the connection is over. */
static bool answer(int fd, const struct connection *c)
{
    return send(fd, c->message, length, MSG_NOSIGNAL) == (ssize_t)length;
}

/* Waits until fd can be read. */
static bool readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, -1) == 1;
}

/* What is there, and the answer if that completes a message. False: the connection is over. */
static bool receive(int fd, struct connection *c)
{
    ssize_t n = recv(fd, c->message + c->have, length - c->have, 0);

    if (n <= 0)
        return false;
    c->have += (size_t)n;
    if (c->have < length)
        return true;
    c->have = 0;
    c->stopped = c->message[0] == LAST;
    return answer(fd, c);
}

static void serve_poll(int fd, struct connection *c)
{
    while (readable(fd) && receive(fd, c))
        ;
}

/* Exactly len bytes: what is there already, or a wait and then what has come. */
static bool read_exactly(int fd, char *to, size_t len)
{
    while (len > 0) {
        ssize_t n = recv(fd, to, len, MSG_DONTWAIT);

        if (n == 0 || (n < 0 && (errno != EAGAIN || !readable(fd))))
            return false;
        if (n > 0) {
            to += n;
            len -= (size_t)n;
        }
    }
    return true;
}

static void serve_packets(int fd, struct connection *c)
{
    while (read_exactly(fd, c->message, HEADER) &&
           read_exactly(fd, c->message + HEADER, length - HEADER) && answer(fd, c))
        ;
}

static void (*serve_one)(int fd, struct connection *c);

static void *serve_thread(void *arg)
{
    int fd = (int)(intptr_t)arg;
    struct connection c = {0};

    serve_one(fd, &c);
    close(fd);
    return NULL;
}

static void *accept_all(void *unused)
{
    (void)unused;
    for (;;) {
        pthread_t thread;

        if (pthread_create(&thread, NULL, serve_thread, (void *)(intptr_t)accept_one()) != 0)
            die("pthread_create");
        pthread_detach(thread);
    }
    return NULL;
}

/* The loop's connections, by descriptor. */
static struct connection conns[CONNECTIONS_MAX];

static int accept_into_loop(void)
{
    int fd = accept_one();

    if (fd >= CONNECTIONS_MAX) {
        fprintf(stderr, "waitserver: too many connections\n");
        exit(1);
    }
    conns[fd].stopped = false;
    conns[fd].have = 0;
    return fd;
}

/* The listening socket is in the set, as in most such servers. */
static void *loop(void *unused)
{
    static struct pollfd set[CONNECTIONS_MAX];
    nfds_t n = 1;

    (void)unused;
    set[0] = (struct pollfd){.fd = listener, .events = POLLIN};
    while (poll(set, n, -1) > 0) {
        for (nfds_t i = 1; i < n; i++) {
            if (!set[i].revents)
                continue;
            if (!receive(set[i].fd, &conns[set[i].fd])) {
                close(set[i].fd);
                set[i--] = set[--n];
            } else if (conns[set[i].fd].stopped) {
                set[i].events = 0;
            }
        }
        if (set[0].revents)
            set[n++] = (struct pollfd){.fd = accept_into_loop(), .events = POLLIN};
    }
    die("poll");
    return NULL;
}

/* All that is there. */
static bool receive_all(int fd, struct connection *c)
{
    do {
        errno = 0;
    } while (!c->stopped && receive(fd, c));
    return c->stopped || errno == EAGAIN;
}

static void watch(int epoll, int op, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};

    if (epoll_ctl(epoll, op, fd, &event) < 0)
        die("epoll_ctl");
}

static void accept_watched(int epoll, bool edge)
{
    int fd = accept_into_loop();

    if (edge && fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        die("fcntl");
    watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN | (edge ? EPOLLET : 0));
}

static void *epoll_loop(void *mode)
{
    bool edge = mode != NULL;
    struct epoll_event got[EVENTS_MAX];
    int n, epoll = epoll_create1(EPOLL_CLOEXEC);

    if (epoll < 0)
        die("epoll_create1");
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN);
    while ((n = epoll_wait(epoll, got, EVENTS_MAX, -1)) > 0) {
        for (int i = 0; i < n; i++) {
            int fd = got[i].data.fd;

            if (fd == listener)
                accept_watched(epoll, edge);
            else if (!(edge ? receive_all : receive)(fd, &conns[fd]))
                close(fd);
            else if (conns[fd].stopped && !edge)
                watch(epoll, EPOLL_CTL_MOD, fd, 0);
        }
    }
    die("epoll_wait");
    return NULL;
}

static void listen_on(unsigned short port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port)};
    socklen_t len = sizeof(addr);
    int one = 1;

    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0)
        die("socket");
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(listener, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(listener, 1024) < 0 ||
        getsockname(listener, (struct sockaddr *)&addr, &len) < 0)
        die("listen");
    printf("port %u\n", ntohs(addr.sin_port));
    fflush(stdout);
}

static void pin(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set) < 0)
        die("sched_setaffinity");
}

int main(int argc, char **argv)
{
    void *(*serve)(void *) = accept_all, *mode = NULL;
    unsigned short port = 0;
    const char *how = "";
    pthread_t thread;
    sigset_t end;
    int opt, sig;

    while ((opt = getopt(argc, argv, "p:c:l:")) != -1) {
        if (opt == 'p')
            port = (unsigned short)atoi(optarg);
        else if (opt == 'c')
            pin(atoi(optarg));
        else if (opt == 'l')
            length = (size_t)atol(optarg);
    }
    if (optind + 1 == argc)
        how = argv[optind];
    if (!strcmp(how, "poll"))
        serve_one = serve_poll;
    else if (!strcmp(how, "packet"))
        serve_one = serve_packets;
    else if (!strcmp(how, "loop"))
        serve = loop;
    else if (!strcmp(how, "epoll"))
        serve = epoll_loop;
    else if (!strcmp(how, "edge"))
        serve = epoll_loop, mode = conns;
    if ((!serve_one && serve == accept_all) || length <= HEADER || length > LENGTH_MAX) {
        fprintf(stderr, "usage: waitserver [-p PORT] [-c CPU] [-l LENGTH] poll | packet | loop | "
                        "epoll | edge\n");
        return 2;
    }
    /* Blocked in all threads, so that only the sigwait() below sees them. */
    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigaddset(&end, SIGINT);
    pthread_sigmask(SIG_BLOCK, &end, NULL);
    listen_on(port);
    if (pthread_create(&thread, NULL, serve, mode) != 0)
        die("pthread_create");
    sigwait(&end, &sig);
    return 0;
}
