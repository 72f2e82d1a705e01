/*
 * Threads that wait: each has one connection, has received one message and is blocked in the next
 * read(). Prints the memory that the process then has, and after that sends every thread a second
 * message, which must arrive. Knows nothing of the library.
 *
 *   idle THREADS
 *
 * Prints `name value` lines: rss_kib, answered.
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
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MESSAGE 64
#define THREADS_MAX 1000

static atomic_uint received, ended;
static atomic_int tid[THREADS_MAX];
static int conn[THREADS_MAX];
static pthread_t thread[THREADS_MAX];
static unsigned n_threads;

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

/* Reads messages until the end of the connection; each must be the one that is due. */
static void *wait_for_messages(void *arg)
{
    unsigned number = (unsigned)(intptr_t)arg;
    char m[MESSAGE], want[MESSAGE];

    atomic_store(&tid[number], (int)syscall(SYS_gettid));
    for (unsigned round = 0;; round++) {
        size_t len = 0;

        while (len < MESSAGE) {
            ssize_t n = read(conn[number], m + len, MESSAGE - len);

            if (n == 0 && len == 0) {
                atomic_fetch_add(&ended, 1);
                return NULL;
            }
            if (n <= 0)
                die("read");
            len += (size_t)n;
        }
        make_message(want, number, round);
        if (memcmp(m, want, MESSAGE) != 0) {
            fprintf(stderr, "idle: thread %u got the wrong message: %.*s\n", number, MESSAGE, m);
            exit(1);
        }
        atomic_fetch_add(&received, 1);
    }
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
        if (tries == 4000) {
            fprintf(stderr, "idle: %u of %u\n", atomic_load(counter), value);
            exit(1);
        }
        nap();
    }
}

static unsigned long rss_kib(void)
{
    unsigned long kib = 0;
    char line[256];
    FILE *f = fopen("/proc/self/status", "r");

    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "VmRSS: %lu", &kib) == 1)
            break;
    if (!kib)
        die("VmRSS");
    fclose(f);
    return kib;
}

/* The peer, in a process of its own: connects, then for each byte on the pipe a message to each. */
static __attribute__((noreturn)) void send_messages(const struct sockaddr_in *addr, int orders)
{
    char m[MESSAGE], c;

    for (unsigned i = 0; i < n_threads; i++) {
        conn[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (conn[i] < 0 || connect(conn[i], (const struct sockaddr *)addr, sizeof(*addr)) < 0)
            die("connect");
        /* Who is accepted as number i is the connection that was made as number i. */
    }
    for (unsigned round = 0; read(orders, &c, 1) == 1; round++) {
        for (unsigned i = 0; i < n_threads; i++) {
            make_message(m, i, round);
            if (send(conn[i], m, MESSAGE, MSG_NOSIGNAL) != MESSAGE)
                die("send");
        }
    }
    _exit(0);
}

int main(int argc, char **argv)
{
    struct sockaddr_in addr = {.sin_family = AF_INET};
    socklen_t len = sizeof(addr);
    int listener, orders[2], status;
    unsigned long rss;
    pid_t pid;

    n_threads = argc == 2 ? (unsigned)atoi(argv[1]) : 0;
    if (n_threads < 1 || n_threads > THREADS_MAX) {
        fprintf(stderr, "usage: idle THREADS\n");
        return 2;
    }
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&addr, len) < 0 ||
        listen(listener, THREADS_MAX) < 0 ||
        getsockname(listener, (struct sockaddr *)&addr, &len) < 0 || pipe(orders) < 0)
        die("listen");
    pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        close(orders[1]);
        send_messages(&addr, orders[0]);
    }
    close(orders[0]);
    for (unsigned i = 0; i < n_threads; i++) {
        conn[i] = accept(listener, NULL, NULL);
        if (conn[i] < 0)
            die("accept");
        if (pthread_create(&thread[i], NULL, wait_for_messages, (void *)(intptr_t)i) != 0)
            die("pthread_create");
    }
    if (write(orders[1], "", 1) != 1)
        die("write");
    until(&received, n_threads);
    all_asleep();
    rss = rss_kib();

    if (write(orders[1], "", 1) != 1)
        die("write");
    until(&received, 2 * n_threads);
    close(orders[1]);
    for (unsigned i = 0; i < n_threads; i++)
        pthread_join(thread[i], NULL);
    if (waitpid(pid, &status, 0) != pid || status != 0) {
        fprintf(stderr, "idle: the peer failed\n");
        return 1;
    }
    printf("rss_kib %lu\nanswered %u\n", rss, atomic_load(&ended));
    return 0;
}
