/*
 * What single calls cost. Run with and without the library, of which it knows nothing.
 *
 *   micro waiting SIZE ROUNDS   read() of SIZE bytes when bytes are waiting
 *   micro eagain CALLS          recv() on an empty, non-blocking socket that has received before
 *   micro read PATH CALLS       read() of one byte of a file
 *   micro pipe CALLS            read() of one byte from a pipe
 *
 * The first two print `name value` lines; the others are for counting instructions.
 *
 * Calls are timed in blocks. Under the library a block may contain an entry of the kernel that
 * fetches bytes; most do not. So the median over the blocks is the price of a call that needs none,
 * and the mean over all calls contains everything. Both are printed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLOCKS_MAX 65536

static double block_ns[BLOCKS_MAX];
static unsigned n_blocks;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static double now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void report(unsigned calls_per_block)
{
    double sum = 0;

    for (unsigned i = 0; i < n_blocks; i++)
        sum += block_ns[i];
    qsort(block_ns, n_blocks, sizeof(block_ns[0]), by_value);
    printf("median_ns %.2f\nmean_ns %.2f\ncalls %u\n", block_ns[n_blocks / 2] / calls_per_block,
           sum / n_blocks / calls_per_block, n_blocks * calls_per_block);
}

static void end_block(double begin)
{
    if (n_blocks == BLOCKS_MAX) {
        fprintf(stderr, "micro: too many blocks\n");
        exit(1);
    }
    block_ns[n_blocks++] = now_ns() - begin;
}

static int listener(struct sockaddr_in *addr)
{
    socklen_t len = sizeof(*addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    *addr = (struct sockaddr_in){.sin_family = AF_INET};
    addr->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)addr, len) < 0 || listen(fd, 1) < 0 ||
        getsockname(fd, (struct sockaddr *)addr, &len) < 0)
        die("listen");
    return fd;
}

/* What the peer does: for each order, sends so many bytes, and says when they are sent. */
static __attribute__((noreturn)) void serve_orders(const struct sockaddr_in *addr, int orders,
                                                   int done)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unsigned size;

    if (fd < 0 || connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
        die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    while (read(orders, &size, sizeof(size)) == sizeof(size)) {
        char *bytes = calloc(1, size);

        for (unsigned at = 0; at < size;) {
            ssize_t n = send(fd, bytes + at, size - at, 0);

            if (n < 0)
                die("send");
            at += (unsigned)n;
        }
        free(bytes);
        if (write(done, &one, 1) != 1)
            die("write");
    }
    _exit(0);
}

struct peer {
    int fd, orders, done;
    pid_t pid;
};

/* The peer is a process of its own, forked before there is a connection. */
static struct peer connect_peer(void)
{
    struct sockaddr_in addr;
    int l = listener(&addr), orders[2], done[2];
    struct peer p;

    if (pipe2(orders, O_CLOEXEC) < 0 || pipe2(done, O_CLOEXEC) < 0)
        die("pipe");
    p.pid = fork();
    if (p.pid < 0)
        die("fork");
    if (p.pid == 0) {
        close(orders[1]);
        close(done[0]);
        serve_orders(&addr, orders[0], done[1]);
    }
    close(orders[0]);
    close(done[1]);
    p.orders = orders[1];
    p.done = done[0];
    p.fd = accept(l, NULL, NULL);
    if (p.fd < 0)
        die("accept");
    close(l);
    return p;
}

/* When this returns, size bytes are in the socket's queue. */
static void order(const struct peer *p, unsigned size)
{
    char c;

    if (write(p->orders, &size, sizeof(size)) != sizeof(size) || read(p->done, &c, 1) != 1)
        die("the peer");
}

static void end_peer(const struct peer *p)
{
    int status;

    close(p->orders);
    if (waitpid(p->pid, &status, 0) != p->pid || status != 0) {
        fprintf(stderr, "micro: the peer failed\n");
        exit(1);
    }
}

static void must_read(int fd, char *buf, size_t size)
{
    ssize_t n = read(fd, buf, size);

    if (n != (ssize_t)size) {
        fprintf(stderr, "micro: read() of %zu bytes gave %zd, errno %d\n", size, n, errno);
        exit(1);
    }
}

static void waiting(unsigned size, unsigned rounds)
{
    unsigned calls = 64, blocks = size == 1 ? 128 : 16;
    struct peer p = connect_peer();
    char buf[4096];

    for (unsigned r = 0; r < rounds; r++) {
        order(&p, size * calls * blocks);
        for (unsigned b = 0; b < blocks; b++) {
            double begin = now_ns();

            for (unsigned i = 0; i < calls; i++)
                must_read(p.fd, buf, size);
            end_block(begin);
        }
    }
    end_peer(&p);
    report(calls);
}

static void eagain(unsigned n)
{
    unsigned calls = 100;
    struct peer p = connect_peer();
    char c;

    order(&p, 1);
    must_read(p.fd, &c, 1);
    if (fcntl(p.fd, F_SETFL, O_NONBLOCK) < 0)
        die("fcntl");
    for (unsigned b = 0; b < n / calls; b++) {
        double begin = now_ns();

        for (unsigned i = 0; i < calls; i++) {
            if (recv(p.fd, &c, 1, 0) != -1 || errno != EAGAIN) {
                fprintf(stderr, "micro: an empty socket did not answer EAGAIN\n");
                exit(1);
            }
        }
        end_block(begin);
    }
    /* Still right afterwards: a byte that comes is seen. */
    order(&p, 1);
    must_read(p.fd, &c, 1);
    end_peer(&p);
    report(calls);
}

static void read_file(const char *path, unsigned n)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char c;

    if (fd < 0)
        die(path);
    while (n-- > 0)
        must_read(fd, &c, 1);
}

static void read_pipe(unsigned n)
{
    char bytes[4096] = {0}, c;
    int fd[2];

    if (pipe2(fd, O_CLOEXEC) < 0)
        die("pipe");
    while (n > 0) {
        unsigned part = n < sizeof(bytes) ? n : (unsigned)sizeof(bytes);

        if (write(fd[1], bytes, part) != (ssize_t)part)
            die("write");
        for (unsigned i = 0; i < part; i++)
            must_read(fd[0], &c, 1);
        n -= part;
    }
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";

    if (!strcmp(what, "waiting") && argc == 4) {
        unsigned size = (unsigned)atoi(argv[2]);

        if (size >= 1 && size <= 4096) {
            waiting(size, (unsigned)atoi(argv[3]));
            return 0;
        }
    } else if (!strcmp(what, "eagain") && argc == 3) {
        eagain((unsigned)atoi(argv[2]));
        return 0;
    } else if (!strcmp(what, "read") && argc == 4) {
        read_file(argv[2], (unsigned)atoi(argv[3]));
        return 0;
    } else if (!strcmp(what, "pipe") && argc == 3) {
        read_pipe((unsigned)atoi(argv[2]));
        return 0;
    }
    fprintf(stderr, "usage: micro waiting SIZE ROUNDS | eagain CALLS | read PATH CALLS | "
                    "pipe CALLS\n");
    return 2;
}
