/*
 * Connections that are idle: each has received some messages, and whoever serves it waits for the next
 * one. Prints the memory that the process then has, and after that sends each a last message, which
 * must arrive. Knows nothing of the library.
 *
 *   idle [-m MESSAGES] [-i SECONDS] threads | loop CONNECTIONS
 *
 *   threads  a thread for each connection, blocked in read()
 *   loop     one thread, in epoll_wait(), for all
 *
 * -m: so many messages of 64 bytes each (1), sent in rounds without waiting for anybody. -i: so long
 * (0) nothing happens before the second look. Prints `name value` lines: first_kib, as soon as all wait;
 * rss_kib, after that time; answered.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MESSAGE 64
#define CONNECTIONS_MAX 1000
#define EVENTS_MAX 64

struct connection {
    int fd;
    unsigned rounds; /* messages that have come */
    size_t have;     /* of the next */
    char message[MESSAGE];
};

static struct connection conns[CONNECTIONS_MAX];
static atomic_uint received, ended;
static atomic_int tid[CONNECTIONS_MAX];
static pthread_t thread[CONNECTIONS_MAX];
static unsigned n_conns, n_threads;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 5 * 1000 * 1000}, NULL);
}

static void make_message(char *m, unsigned number, unsigned round)
{
    memset(m, 0, MESSAGE);
    snprintf(m, MESSAGE, "message %u to %u", round, number);
}

/* One read(); a message that it completes must be the one that is due. False: the connection is over. */
static bool take(unsigned number)
{
    struct connection *c = &conns[number];
    ssize_t n = read(c->fd, c->message + c->have, MESSAGE - c->have);
    char want[MESSAGE];

    if (n == 0 && c->have == 0) {
        atomic_fetch_add(&ended, 1);
        return false;
    }
    if (n <= 0)
        die("read");
    c->have += (size_t)n;
    if (c->have < MESSAGE)
        return true;
    make_message(want, number, c->rounds);
    if (memcmp(c->message, want, MESSAGE) != 0) {
        fprintf(stderr, "idle: connection %u got the wrong message: %.*s\n", number, MESSAGE,
                c->message);
        exit(1);
    }
    c->have = 0;
    c->rounds++;
    atomic_fetch_add(&received, 1);
    return true;
}

static void *serve_one(void *arg)
{
    unsigned number = (unsigned)(intptr_t)arg;

    atomic_store(&tid[number], (int)syscall(SYS_gettid));
    while (take(number))
        ;
    return NULL;
}

static void *serve_all(void *unused)
{
    struct epoll_event got[EVENTS_MAX];
    int epoll = epoll_create1(EPOLL_CLOEXEC);

    (void)unused;
    atomic_store(&tid[0], (int)syscall(SYS_gettid));
    for (unsigned i = 0; i < n_conns; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};

        if (epoll_ctl(epoll, EPOLL_CTL_ADD, conns[i].fd, &event) < 0)
            die("epoll_ctl");
    }
    while (atomic_load(&ended) < n_conns) {
        int n = epoll_wait(epoll, got, EVENTS_MAX, -1);

        if (n < 1)
            die("epoll_wait");
        for (int i = 0; i < n; i++)
            if (!take(got[i].data.u32))
                close(conns[got[i].data.u32].fd);
    }
    return NULL;
}

static bool asleep(unsigned number)
{
    char path[64], line[512], *state;
    FILE *f;
    bool yes;

    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", atomic_load(&tid[number]));
    f = fopen(path, "r");
    if (!f || !fgets(line, sizeof(line), f))
        die(path);
    fclose(f);
    state = strrchr(line, ')');
    yes = state && state[2] == 'S';
    return yes;
}

static void all_asleep(void)
{
    for (unsigned i = 0; i < n_threads; i++)
        for (int tries = 0; !asleep(i); tries++) {
            if (tries == 2000) {
                fprintf(stderr, "idle: thread %u does not wait\n", i);
                exit(1);
            }
            nap();
        }
}

static void until(const atomic_uint *counter, unsigned value)
{
    for (int tries = 0; atomic_load(counter) != value; tries++) {
        if (tries == 8000) {
            fprintf(stderr, "idle: %u of %u\n", atomic_load(counter), value);
            exit(1);
        }
        nap();
    }
}

/* By the page tables: the counter behind VmRSS may be some hundred KiB off (before Linux 6.17). */
static unsigned long rss_kib(void)
{
    unsigned long kib = 0;
    char line[256];
    FILE *f = fopen("/proc/self/smaps_rollup", "r");

    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "Rss: %lu", &kib) == 1)
            break;
    if (!kib)
        die("Rss");
    fclose(f);
    return kib;
}

static void send_round(unsigned round)
{
    char m[MESSAGE];

    for (unsigned i = 0; i < n_conns; i++) {
        make_message(m, i, round);
        if (send(conns[i].fd, m, MESSAGE, MSG_NOSIGNAL) != MESSAGE)
            die("send");
    }
}

/* The peer, in a process of its own: connects, then does as many rounds as each order says. */
static __attribute__((noreturn)) void send_messages(const struct sockaddr_in *addr, int orders)
{
    unsigned rounds, round = 0;

    for (unsigned i = 0; i < n_conns; i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        /* Who is accepted as number i is the connection that was made as number i. */
        if (fd < 0 || connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
            die("connect");
        conns[i].fd = fd;
    }
    while (read(orders, &rounds, sizeof(rounds)) == sizeof(rounds))
        while (rounds-- > 0)
            send_round(round++);
    _exit(0);
}

static void order(int orders, unsigned rounds)
{
    if (write(orders, &rounds, sizeof(rounds)) != sizeof(rounds))
        die("write");
}

static void accept_all(int listener, bool loop)
{
    n_threads = loop ? 1 : n_conns;
    for (unsigned i = 0; i < n_conns; i++) {
        conns[i].fd = accept(listener, NULL, NULL);
        if (conns[i].fd < 0)
            die("accept");
        if (!loop && pthread_create(&thread[i], NULL, serve_one, (void *)(intptr_t)i) != 0)
            die("pthread_create");
    }
    if (loop && pthread_create(&thread[0], NULL, serve_all, NULL) != 0)
        die("pthread_create");
}

static int listen_at(struct sockaddr_in *addr)
{
    socklen_t len = sizeof(*addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    *addr = (struct sockaddr_in){.sin_family = AF_INET};
    addr->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)addr, len) < 0 || listen(fd, CONNECTIONS_MAX) < 0 ||
        getsockname(fd, (struct sockaddr *)addr, &len) < 0)
        die("listen");
    return fd;
}

static void allow_descriptors(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        die("getrlimit");
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        die("setrlimit");
}

/* Everything after the start; returns when all connections have ended. */
static void measure(int orders, unsigned messages, unsigned seconds)
{
    unsigned long first, rss;

    order(orders, messages);
    until(&received, messages * n_conns);
    all_asleep();
    first = rss_kib();
    sleep(seconds);
    rss = rss_kib();
    order(orders, 1);
    until(&received, (messages + 1) * n_conns);
    close(orders);
    for (unsigned i = 0; i < n_threads; i++)
        pthread_join(thread[i], NULL);
    printf("first_kib %lu\nrss_kib %lu\nanswered %u\n", first, rss, atomic_load(&ended));
}

int main(int argc, char **argv)
{
    unsigned messages = 1, seconds = 0;
    int opt, listener, orders[2], status;
    struct sockaddr_in addr;
    bool loop = false, bad = false;
    pid_t pid;

    while ((opt = getopt(argc, argv, "m:i:")) != -1) {
        if (opt == 'm')
            messages = (unsigned)atoi(optarg);
        else if (opt == 'i')
            seconds = (unsigned)atoi(optarg);
        else
            bad = true;
    }
    if (optind + 2 == argc) {
        loop = !strcmp(argv[optind], "loop");
        bad |= !loop && strcmp(argv[optind], "threads") != 0;
        n_conns = (unsigned)atoi(argv[optind + 1]);
    }
    if (bad || n_conns < 1 || n_conns > CONNECTIONS_MAX || messages < 1 || messages > 100000) {
        fprintf(stderr, "usage: idle [-m MESSAGES] [-i SECONDS] threads | loop CONNECTIONS\n");
        return 2;
    }
    allow_descriptors();
    listener = listen_at(&addr);
    if (pipe(orders) < 0)
        die("pipe");
    pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        close(orders[1]);
        send_messages(&addr, orders[0]);
    }
    close(orders[0]);
    accept_all(listener, loop);
    measure(orders[1], messages, seconds);
    if (waitpid(pid, &status, 0) != pid || status != 0) {
        fprintf(stderr, "idle: the peer failed\n");
        return 1;
    }
    return 0;
}
