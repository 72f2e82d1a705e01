/*
 * An ordinary line server: a thread per connection, a read() per byte, a write() per line. It is
 * written the plain way on purpose and knows nothing of any library that may be loaded into it.
 *
 *   lineserver [-p PORT] [-c CPU]
 *
 * Listens on 127.0.0.1 (port 0, the default: any free one), prints "port N" and echoes each line.
 * SIGTERM or SIGINT end it by way of exit().
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINE_MAX_LEN 4096

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int write_all(int fd, const char *buf, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, buf, len);

        if (n < 0) {
            if (errno == EINTR)
                continue;
            return -1;
        }
        buf += n;
        len -= (size_t)n;
    }
    return 0;
}

/* Reads a line with its newline; returns its length, 0 at the end, at an error or if too long. */
static size_t read_line(int fd, char *line)
{
    size_t len = 0;
    char c;

    while (len < LINE_MAX_LEN) {
        ssize_t n = read(fd, &c, 1);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return 0;
        line[len++] = c;
        if (c == '\n')
            return len;
    }
    return 0;
}

static void *serve(void *arg)
{
    int fd = (int)(intptr_t)arg;
    char line[LINE_MAX_LEN];
    size_t len;

    while ((len = read_line(fd, line)) > 0)
        if (write_all(fd, line, len) < 0)
            break;
    close(fd);
    return NULL;
}

static void *accept_all(void *arg)
{
    int listener = (int)(intptr_t)arg;
    int one = 1;

    for (;;) {
        int fd = accept(listener, NULL, NULL);
        pthread_t thread;

        if (fd < 0) {
            if (errno == EINTR || errno == ECONNABORTED)
                continue;
            die("accept");
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd) != 0) {
            close(fd);
            continue;
        }
        pthread_detach(thread);
    }
    return NULL;
}

static int listen_on(unsigned short port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port)};
    socklen_t len = sizeof(addr);
    int one = 1, fd;

    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        die("bind");
    if (listen(fd, 1024) < 0)
        die("listen");
    if (getsockname(fd, (struct sockaddr *)&addr, &len) < 0)
        die("getsockname");
    printf("port %u\n", ntohs(addr.sin_port));
    fflush(stdout);
    return fd;
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
    unsigned short port = 0;
    pthread_t thread;
    sigset_t end;
    int opt, sig, listener;

    while ((opt = getopt(argc, argv, "p:c:")) != -1) {
        switch (opt) {
        case 'p':
            port = (unsigned short)atoi(optarg);
            break;
        case 'c':
            pin(atoi(optarg));
            break;
        default:
            fprintf(stderr, "usage: lineserver [-p PORT] [-c CPU]\n");
            return 2;
        }
    }
    signal(SIGPIPE, SIG_IGN);
    /* Blocked in all threads, so that only the sigwait() below sees them. */
    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigaddset(&end, SIGINT);
    pthread_sigmask(SIG_BLOCK, &end, NULL);

    listener = listen_on(port);
    if (pthread_create(&thread, NULL, accept_all, (void *)(intptr_t)listener) != 0)
        die("pthread_create");
    sigwait(&end, &sig);
    return 0;
}
