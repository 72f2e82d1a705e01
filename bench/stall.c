/*
 * Peers of a loop that does not receive from them any more: each exchanges some messages with
 * bench/waitserver, tells it that there is no more to receive, and sends until it is blocked.
 *
 *   stall [-n CONNECTIONS] [-l LENGTH] PORT
 *
 * When all are blocked, prints "unread N", the bytes they have sent by then, and goes on to send
 * whenever it can, until it is killed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS_MAX 100
#define LENGTH_MAX 4096
#define EXCHANGES 20
#define BLOCKED_MS 200
#define SEND_BUFFER (128 * 1024)
#define UNREAD_MAX (32UL << 20) /* of each: who takes so much reads it */

static struct pollfd set[CONNECTIONS_MAX];
static unsigned n_conns = 1;
static size_t length = 64;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int connect_to(unsigned short port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct timeval limit = {.tv_sec = 10};
    int one = 1, size = SEND_BUFFER, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    return fd;
}

static void exchange(int fd, char first)
{
    char message[LENGTH_MAX], answer[LENGTH_MAX];

    memset(message, 'm', length);
    message[0] = first;
    if (send(fd, message, length, MSG_NOSIGNAL) != (ssize_t)length)
        die("send");
    if (recv(fd, answer, length, MSG_WAITALL) != (ssize_t)length ||
        memcmp(message, answer, length) != 0) {
        fprintf(stderr, "stall: no answer, or a wrong one\n");
        exit(1);
    }
}

/* Sends what each can take now; returns the bytes. */
static unsigned long send_more(void)
{
    static const char bytes[16384];
    unsigned long sent = 0;

    for (unsigned i = 0; i < n_conns; i++) {
        ssize_t n;

        if (!set[i].revents)
            continue;
        n = send(set[i].fd, bytes, sizeof(bytes), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN)
            die("send");
        if (n > 0)
            sent += (unsigned long)n;
    }
    return sent;
}

static __attribute__((noreturn)) void send_for_ever(void)
{
    unsigned long sent = 0;
    bool blocked = false;

    for (;;) {
        int n = poll(set, n_conns, blocked ? -1 : BLOCKED_MS);

        if (n < 0)
            die("poll");
        if (n == 0) {
            printf("unread %lu\n", sent);
            fflush(stdout);
            blocked = true;
        }
        sent += send_more();
        if (sent > UNREAD_MAX * n_conns) {
            fprintf(stderr, "stall: not blocked after %lu bytes\n", sent);
            exit(1);
        }
    }
}

int main(int argc, char **argv)
{
    bool bad = false;
    int opt;

    while ((opt = getopt(argc, argv, "n:l:")) != -1) {
        if (opt == 'n')
            n_conns = (unsigned)atoi(optarg);
        else if (opt == 'l')
            length = (size_t)atol(optarg);
        else
            bad = true;
    }
    if (bad || optind + 1 != argc || n_conns < 1 || n_conns > CONNECTIONS_MAX || length < 1 ||
        length > LENGTH_MAX) {
        fprintf(stderr, "usage: stall [-n CONNECTIONS] [-l LENGTH] PORT\n");
        return 2;
    }
    for (unsigned i = 0; i < n_conns; i++) {
        set[i] = (struct pollfd){.fd = connect_to((unsigned short)atoi(argv[optind])),
                                 .events = POLLOUT};
        for (unsigned k = 0; k < EXCHANGES; k++)
            exchange(set[i].fd, '0');
        exchange(set[i].fd, '!');
    }
    send_for_ever();
}
