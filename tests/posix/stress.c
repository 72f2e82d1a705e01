/*
 * stress [SECONDS [THREADS]]: byte-exact traffic on connections that open, end, break and move
 * between threads, for a while.
 *
 * The clients are threads of a second process, executed without any preloaded library; the servers
 * are threads of this one. A client opens a connection, says its seed and how many bytes will come
 * (four words), and sends that many bytes of that stream in random pieces; then it ends the stream,
 * resets, or waits for a word back. A server thread reads through random calls of random lengths,
 * blocking and not, waiting by poll, select or epoll, and every so often gives the connection away,
 * in the middle, to another server thread. Each byte is checked by its offset in its stream.
 *
 * After a reset the bytes may be cut off anywhere; what did arrive must still be the stream's start.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "payload.h"
#include "stress.h"
#include "test.h"

/* The frame is used for its checks only: nothing here is a case. */
const struct test_case test_cases[] = {CASES_END};
int stress_main(int argc, char **argv);

#define PARKED 256

static atomic_ullong bytes, connections, resets, handed;

/* One connection, wherever it is: a thread has it, or it is parked between two. */
struct conn {
    int fd;
    bool nonblock;
    struct head head;
    uint64_t got; /* of the payload */
};

static pthread_mutex_t park_lock = PTHREAD_MUTEX_INITIALIZER;
static struct conn *parked[PARKED];
static int parked_count;

static bool park(struct conn *c)
{
    bool done = false;

    pthread_mutex_lock(&park_lock);
    if (parked_count < PARKED) {
        parked[parked_count++] = c;
        done = true;
    }
    pthread_mutex_unlock(&park_lock);
    return done;
}

static struct conn *unpark(void)
{
    struct conn *c = NULL;

    pthread_mutex_lock(&park_lock);
    if (parked_count) {
        c = parked[0];
        memmove(parked, parked + 1, (size_t)--parked_count * sizeof(*parked));
    }
    pthread_mutex_unlock(&park_lock);
    return c;
}

struct server {
    pthread_t thread;
    int listener;
    int ep;
    uint64_t random;
    uint8_t buf[65536];
};

/* Waits until fd may be read, in one of four ways. */
static void wait_readable(struct server *s, int fd)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    struct epoll_event ev = {.events = EPOLLIN};
    size_t way = upto(&s->random, fd < FD_SETSIZE ? 4 : 3);
    fd_set set;
    int n;

    if (way == 0) {
        n = poll(&pfd, 1, 20000);
    } else if (way < 3) {
        ev.events |= way == 2 ? EPOLLET : 0U;
        MUST(epoll_ctl(s->ep, EPOLL_CTL_ADD, fd, &ev));
        n = epoll_wait(s->ep, &ev, 1, 20000);
        MUST(epoll_ctl(s->ep, EPOLL_CTL_DEL, fd, NULL));
    } else {
        struct timeval tv = {20, 0};

        FD_ZERO(&set);
        FD_SET(fd, &set);
        n = select(fd + 1, &set, NULL, NULL, &tv);
    }
    if (n != 1)
        FAIL("way %zu of waiting saw nothing for 20 s (%d, errno %d)", way, n, errno);
}

/* One receive call of some kind, of at most n bytes. */
static ssize_t receive(struct server *s, struct conn *c, uint8_t *p, size_t n)
{
    struct iovec v[2] = {{p, n / 2}, {p + n / 2, n - n / 2}};
    struct msghdr msg = {.msg_iov = v, .msg_iovlen = 2};
    ssize_t seen;

    switch (upto(&s->random, 8)) {
    case 0:
        return recv(c->fd, p, n, 0);
    case 1:
        return readv(c->fd, v, 2);
    case 2:
        return recvmsg(c->fd, &msg, 0);
    case 3:
        return recv(c->fd, p, n, MSG_DONTWAIT);
    case 4:
        return recvfrom(c->fd, p, n, MSG_WAITALL, NULL, NULL);
    case 5:
        /* What is shown must be what is then given. */
        seen = recv(c->fd, p, n, MSG_PEEK | MSG_DONTWAIT);
        return seen <= 0 ? seen : recv(c->fd, p, (size_t)seen, MSG_WAITALL);
    default:
        return read(c->fd, p, n);
    }
}

static void fail_conn(const struct conn *c, const char *what)
{
    FAIL("stream %08x, %llu of %u bytes, ending %u: %s (errno %d)", c->head.seed,
         (unsigned long long)c->got, c->head.len, c->head.ending, what, errno);
}

static void set_flags(struct conn *c, bool nonblock)
{
    if (c->nonblock == nonblock)
        return;
    MUST(fcntl(c->fd, F_SETFL, nonblock ? O_RDWR | O_NONBLOCK : O_RDWR));
    c->nonblock = nonblock;
}

static void end_conn(struct server *s, struct conn *c)
{
    char byte;
    ssize_t n;

    if (c->got != c->head.len)
        fail_conn(c, "ended early");
    if (c->head.ending != END_RESET) {
        if (send(c->fd, "k", 1, MSG_NOSIGNAL) != 1)
            fail_conn(c, "no word back");
        set_flags(c, false);
        if (upto(&s->random, 2)) {
            n = recv(c->fd, &byte, 1, 0);
            if (n != 0)
                fail_conn(c, "no end after the last byte");
        }
    }
    close(c->fd);
    free(c);
    atomic_fetch_add(&connections, 1);
}

/* Returns whether the connection is still this thread's. */
static bool read_some(struct server *s, struct conn *c)
{
    size_t left = c->head.len - c->got;
    size_t want = size_of_piece(&s->random);
    char why[200];
    ssize_t n;

    if (left == 0) {
        end_conn(s, c);
        return false;
    }
    /* Past its last byte nothing comes without our word, so a receive asks for no more. */
    n = receive(s, c, s->buf, want < left ? want : left);
    if (n < 0 && errno == EAGAIN) {
        wait_readable(s, c->fd);
        return true;
    }
    if (n <= 0) {
        if (n < 0 && errno == ECONNRESET && c->head.ending == END_RESET) {
            atomic_fetch_add(&resets, 1);
            close(c->fd);
            free(c);
            return false;
        }
        fail_conn(c, n ? "a receive fails" : "ends early");
    }
    if (payload_compare(c->head.seed, s->buf, c->got, (size_t)n, why, sizeof(why)))
        fail_conn(c, why);
    c->got += (uint64_t)n;
    atomic_fetch_add_explicit(&bytes, (uint64_t)n, memory_order_relaxed);
    return true;
}

static struct conn *accept_one(struct server *s)
{
    struct conn *c = calloc(1, sizeof(*c));
    int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
    size_t got = 0;

    if (fd < 0 || !c) {
        int why = errno;

        free(c);
        errno = why;
        return NULL;
    }
    c->fd = fd;
    /* The head a few bytes at a time: byte-wise readers are what the library is for. */
    while (got < HEAD) {
        ssize_t n = recv(fd, (uint8_t *)&c->head + got, 1 + upto(&s->random, HEAD - got), 0);

        if (n < 0 && errno == ECONNRESET) {
            close(fd);
            free(c);
            errno = EAGAIN;
            return NULL;
        }
        if (n <= 0)
            fail_conn(c, "no head");
        got += (size_t)n;
    }
    if (c->head.magic != MAGIC || c->head.len >= LARGEST || c->head.ending >= ENDINGS)
        fail_conn(c, "a wrong head");
    return c;
}

static void *server_main(void *arg)
{
    struct server *s = arg;

    s->ep = MUST(epoll_create1(EPOLL_CLOEXEC));
    for (;;) {
        struct pollfd more = {.fd = s->listener, .events = POLLIN};
        struct conn *c = upto(&s->random, 2) ? unpark() : NULL;
        bool over = false;

        if (!c) {
            c = accept_one(s);
            over = !c && errno == EINVAL; /* the listener was shut down */
        }
        if (!c)
            c = unpark();
        if (!c && over)
            break;
        if (!c) {
            poll(&more, 1, 10);
            continue;
        }
        set_flags(c, upto(&s->random, 2));
        for (;;) {
            if (upto(&s->random, 40) == 0 && park(c)) {
                atomic_fetch_add(&handed, 1);
                break;
            }
            if (!read_some(s, c))
                break;
            if (upto(&s->random, 16) == 0)
                set_flags(c, !c->nonblock);
        }
    }
    close(s->ep);
    return NULL;
}

static pid_t start_clients(const char *port, const char *threads, const char *ms)
{
    pid_t pid = MUST(fork());

    if (pid == 0) {
        unsetenv("LD_PRELOAD");
        execl(test_self, test_self, "--helper", "clients", port, threads, ms, (char *)NULL);
        _exit(9);
    }
    return pid;
}

int stress_main(int argc, char **argv)
{
    int seconds = argc > 1 ? atoi(argv[1]) : 5;
    int threads = argc > 2 ? atoi(argv[2]) : 16;
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    char port[16], count[16], ms[32];
    struct server *all;
    int listener, status;
    pid_t pid;

    if (seconds < 1 || threads < 2 || threads > 200) {
        fprintf(stderr, "usage: stress [SECONDS [THREADS (2 to 200)]]\n");
        return 2;
    }
    all = calloc((size_t)threads, sizeof(*all));
    listener = MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    MUST(bind(listener, (struct sockaddr *)&addr, sizeof(addr)));
    MUST(listen(listener, 512));
    MUST(getsockname(listener, (struct sockaddr *)&addr, &len));
    snprintf(port, sizeof(port), "%d", ntohs(addr.sin_port));
    /* More clients than servers, so that there is always a connection to go on with. */
    snprintf(count, sizeof(count), "%d", threads + threads / 2);
    snprintf(ms, sizeof(ms), "%d000", seconds);
    pid = start_clients(port, count, ms);
    for (int i = 0; all && i < threads; i++) {
        all[i].listener = listener;
        all[i].random = 0xd1342543de82ef95ULL * ((uint64_t)i + 1) ^ (uint64_t)getpid();
        MUST0(pthread_create(&all[i].thread, NULL, server_main, &all[i]));
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    if (status)
        FAIL("the clients failed: status %x", (unsigned)status);
    /* Nobody connects any more; what is on its way is finished first. */
    MUST(shutdown(listener, SHUT_RDWR));
    for (int i = 0; i < threads; i++)
        MUST0(pthread_join(all[i].thread, NULL));
    free(all);
    close(listener);
    CHECK(bytes > 0 && connections > 0);
    printf("%llu bytes, %llu connections, %llu cut by a reset, %llu handed over: "
           "0 lost, repeated or reordered\n",
           bytes, connections, resets, handed);
    return 0;
}

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = stress_clients;
    test_program = stress_main;
}
