/*
 * Load for a line server: connections in a closed loop, each with one line (or DEPTH) on its way.
 *
 *   lineload [-n CONNECTIONS] [-d DEPTH] [-l LINE] [-t SECONDS] [-w SECONDS] [-c CPU] PORT
 *
 * One thread takes the connections in turn: one blocking recv() of the whole answer, one send() of
 * what is next. It needs no readiness calls; `load_cpu` tells how much of its core it took, so that
 * a bottleneck here can be seen. It sleeps rather than polls: a busy neighbour slows the server down
 * where two processors are threads of one core.
 * Lines differ in connection and number, and each answer is compared with what was sent.
 * After -w seconds of warming up, -t seconds are counted. Prints `name value` lines.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS_MAX 1000
#define LINE_MAX_LEN 4096
#define DIGITS 12 /* of the line's number, at its start */

struct connection {
    int fd;
    char lines[LINE_MAX_LEN]; /* those on their way */
};

static struct connection conns[CONNECTIONS_MAX];
static unsigned n_conns = 20, depth = 1;
static size_t line_len = 64, all_len; /* all_len == depth * line_len */

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static double now(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int connect_to(unsigned short port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct timeval limit = {.tv_sec = 10}; /* a server that stops answering is an error */
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    return fd;
}

/* A line: its number, filling that depends on the connection and its place, a newline. */
static void first_lines(struct connection *c, unsigned number)
{
    for (unsigned d = 0; d < depth; d++) {
        char *line = c->lines + d * line_len;

        memset(line, '0', DIGITS);
        for (size_t i = DIGITS; i < line_len - 1; i++)
            line[i] = (char)('a' + (i + number + d) % 26);
        line[line_len - 1] = '\n';
    }
}

static void count_up(char *digits)
{
    for (int i = DIGITS - 1; i >= 0; i--) {
        if (digits[i] != '9') {
            digits[i]++;
            return;
        }
        digits[i] = '0';
    }
}

static void next_lines(struct connection *c)
{
    for (unsigned d = 0; d < depth; d++)
        count_up(c->lines + d * line_len);
}

static void send_lines(const struct connection *c)
{
    if (send(c->fd, c->lines, all_len, MSG_NOSIGNAL) != (ssize_t)all_len)
        die("send");
}

static void take_answers(const struct connection *c)
{
    char answer[LINE_MAX_LEN];
    ssize_t n = recv(c->fd, answer, all_len, MSG_WAITALL);

    if (n < 0)
        die("recv");
    if (n != (ssize_t)all_len || memcmp(answer, c->lines, all_len) != 0) {
        fprintf(stderr, "lineload: wrong answer: %zd of %zu bytes: %.*s\n", n, all_len, (int)n,
                answer);
        exit(1);
    }
}

/* Runs the closed loop for so many seconds; returns the lines answered and what it took. */
static unsigned long run(double seconds, double *took, double *cpu)
{
    double begin = now(CLOCK_MONOTONIC), cpu_begin = now(CLOCK_PROCESS_CPUTIME_ID);
    unsigned long lines = 0;

    do {
        for (unsigned i = 0; i < n_conns; i++) {
            take_answers(&conns[i]);
            next_lines(&conns[i]);
            send_lines(&conns[i]);
        }
        lines += n_conns * depth;
        *took = now(CLOCK_MONOTONIC) - begin;
    } while (*took < seconds);
    *cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu_begin;
    return lines;
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
    double seconds = 2, warm = 0.2, took, cpu;
    unsigned long total, lines;
    unsigned short port;
    bool bad = false;
    int opt;

    while ((opt = getopt(argc, argv, "n:d:l:t:w:c:")) != -1) {
        switch (opt) {
        case 'n':
            n_conns = (unsigned)atoi(optarg);
            break;
        case 'd':
            depth = (unsigned)atoi(optarg);
            break;
        case 'l':
            line_len = (size_t)atol(optarg);
            break;
        case 't':
            seconds = atof(optarg);
            break;
        case 'w':
            warm = atof(optarg);
            break;
        case 'c':
            pin(atoi(optarg));
            break;
        default:
            bad = true;
        }
    }
    if (bad || optind + 1 != argc || n_conns < 1 || n_conns > CONNECTIONS_MAX ||
        line_len < DIGITS + 1 || line_len > LINE_MAX_LEN || depth < 1 ||
        depth > LINE_MAX_LEN / line_len) {
        fprintf(stderr, "usage: lineload [-n CONNECTIONS] [-d DEPTH] [-l LINE] [-t SECONDS] "
                        "[-w SECONDS] [-c CPU] PORT\n");
        return 2;
    }
    all_len = depth * line_len;
    port = (unsigned short)atoi(argv[optind]);
    for (unsigned i = 0; i < n_conns; i++) {
        conns[i].fd = connect_to(port);
        first_lines(&conns[i], i);
    }
    for (unsigned i = 0; i < n_conns; i++)
        send_lines(&conns[i]);
    total = run(warm, &took, &cpu);
    lines = run(seconds, &took, &cpu);
    /* Every answer is taken, so that the server has nothing unread when it ends. */
    for (unsigned i = 0; i < n_conns; i++)
        take_answers(&conns[i]);
    total += lines + n_conns * depth;
    printf("lines_per_s %.0f\nload_cpu %.3f\ntotal_lines %lu\n", (double)lines / took, cpu / took,
           total);
    return 0;
}
