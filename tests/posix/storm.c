/*
 * storm [SECONDS [SEED]]: threads that each read a connection byte-exactly, while one other thread
 * does everything to them that a program may: signals, with and without SA_RESTART, some of which
 * leave by siglongjmp; looks at their sockets; shutdown; close under the receive, by way of dup2;
 * cancellation; and forks.
 *
 * A record that a close had given back while its reader was between two sleeps was once given back
 * a second time by that reader: two later connections shared it, and lost each other's bytes.
 */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "payload.h"
#include "tcp.h"
#include "test.h"

/* The frame is used for its checks only: nothing here is a case. */
const struct test_case test_cases[] = {CASES_END};

#define READERS 6

enum fate { UNHARMED, TIMED, CLOSED, JUMPING, FATES };

struct connection {
    struct pair p;
    enum fate fate;
    unsigned seed;
    pthread_t reader, feeder;
    atomic_int started, ended, starve;
};

static struct connection all[READERS];
static int listener;
static atomic_ullong bytes;
static __thread sigjmp_buf jump;
static __thread volatile sig_atomic_t may_jump;

static void handler(int sig)
{
    if (sig == SIGUSR2 && may_jump) {
        may_jump = 0;
        siglongjmp(jump, 1);
    }
}

static unsigned below(unsigned *seed, unsigned n)
{
    return (unsigned)rand_r(seed) % n;
}

static void *feed(void *arg)
{
    struct connection *c = arg;
    unsigned seed = c->seed + 1;
    uint8_t some[8192];
    uint64_t at = 0;
    sigset_t every;

    sigfillset(&every);
    MUST0(pthread_sigmask(SIG_BLOCK, &every, NULL));
    while (!atomic_load(&c->starve)) {
        size_t n = 1 + below(&seed, below(&seed, 8) ? 64 : sizeof(some));
        ssize_t done;

        payload_fill(0, some, at, n);
        done = send(c->p.peer, some, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (done < 0 && errno != EAGAIN)
            break;
        at += done > 0 ? (uint64_t)done : 0;
        if (done < 0 || !below(&seed, 4))
            usleep(below(&seed, 300));
    }
    shutdown(c->p.peer, SHUT_WR);
    return NULL;
}

static void check(uint64_t at, const void *buf, size_t n)
{
    char why[200];

    if (payload_compare(0, buf, at, n, why, sizeof(why)))
        FAIL("%s", why);
}

/* False: the connection has ended, in a way that its fate allows. */
static bool read_some(struct connection *c, unsigned *seed, uint8_t *buf, uint64_t *at)
{
    size_t n = 1 + below(seed, below(seed, 6) ? 9 : 9000);
    struct pollfd pfd = {.fd = c->p.us, .events = POLLIN};
    int flags = !below(seed, 5) ? MSG_WAITALL : !below(seed, 7) ? MSG_DONTWAIT : 0;
    ssize_t r;

    if (!below(seed, 9))
        poll(&pfd, 1, 5);
    if (!below(seed, 11)) {
        r = recv(c->p.us, buf, n, MSG_PEEK | MSG_DONTWAIT);
        if (r > 0)
            check(*at, buf, (size_t)r);
    }
    may_jump = c->fate == JUMPING;
    r = recv(c->p.us, buf, n, flags);
    may_jump = 0;
    if (r > 0) {
        check(*at, buf, (size_t)r);
        *at += (uint64_t)r;
        atomic_fetch_add(&bytes, (size_t)r);
        return true;
    }
    if (r < 0 && (errno == EINTR || errno == EAGAIN))
        return true;
    if (r < 0 && !(c->fate == CLOSED && (errno == EBADF || errno == ENOTCONN)) &&
        errno != ECONNRESET)
        FAIL("a receive of fate %d fails with errno %d", (int)c->fate, errno);
    return false;
}

static void read_to_the_end(struct connection *c)
{
    static __thread uint8_t buf[16384];
    unsigned seed = c->seed;
    uint64_t at = 0;

    while (read_some(c, &seed, buf, &at))
        ;
}

static void *read_all(void *arg)
{
    struct connection *c = arg;

    if (c->fate == TIMED)
        set_timeout(c->p.us, 3);
    atomic_store(&c->started, 1);
    if (c->fate != JUMPING || sigsetjmp(jump, 1) == 0)
        read_to_the_end(c);
    atomic_store(&c->ended, 1);
    return NULL;
}

static void begin(struct connection *c, unsigned seed)
{
    *c = (struct connection){.fate = (enum fate)(seed % FATES), .seed = seed};
    c->p.peer = connect_to(listener);
    c->p.us = MUST(accept(listener, NULL, NULL));
    MUST0(pthread_create(&c->feeder, NULL, feed, c));
    MUST0(pthread_create(&c->reader, NULL, read_all, c));
    while (!atomic_load(&c->started))
        test_yield();
}

static void end(struct connection *c)
{
    atomic_store(&c->starve, 1);
    MUST0(pthread_join(c->feeder, NULL));
    MUST0(pthread_join(c->reader, NULL));
    pair_close(&c->p);
}

static void close_under(struct connection *c)
{
    CHECK_EQ(dup2(listener, c->p.us), c->p.us);
    MUST(close(c->p.us));
    c->p.us = -1;
}

/* One thing that happens to a reader. True: its connection has to end. */
static bool disturb(struct connection *c, unsigned *seed)
{
    struct pollfd pfd = {.fd = c->p.us, .events = POLLIN};
    unsigned what = below(seed, 100);
    int queued;
    pid_t child;

    if (what < 60) {
        pthread_kill(c->reader, what & 1 ? SIGUSR1 : SIGUSR2);
        if (what & 2)
            usleep(below(seed, 100));
    } else if (what < 66) {
        poll(&pfd, 1, 0);
    } else if (what < 70) {
        MUST(ioctl(c->p.us, FIONREAD, &queued));
    } else if (what < 76 && !TEST_ASAN) {
        pthread_cancel(c->reader);
        for (int i = 0; i < 3; i++)
            pthread_kill(c->reader, SIGUSR1);
        return true;
    } else if (what < 82 && c->fate == CLOSED) {
        close_under(c);
        return true;
    } else if (what < 84) {
        shutdown(c->p.us, SHUT_RD);
        return true;
    } else if (what == 84 && !below(seed, 50)) {
        child = MUST(fork());
        if (!child)
            _exit(0);
        waitpid(child, NULL, 0);
    } else {
        usleep(below(seed, 500));
    }
    return false;
}

static int storm(int argc, char **argv)
{
    int64_t until = now_ms() + 1000 * (argc > 1 ? atoi(argv[1]) : 5);
    unsigned seed = argc > 2 ? (unsigned)atoi(argv[2]) : 1;
    struct sigaction sa = {.sa_handler = handler};

    MUST(sigaction(SIGUSR2, &sa, NULL));
    sa.sa_flags = SA_RESTART;
    MUST(sigaction(SIGUSR1, &sa, NULL));
    listener = MUST(listener_open(AF_INET));
    for (int i = 0; i < READERS; i++)
        begin(&all[i], (unsigned)rand_r(&seed));
    while (now_ms() < until) {
        struct connection *c = &all[below(&seed, READERS)];

        if (atomic_load(&c->ended) || disturb(c, &seed)) {
            end(c);
            begin(c, (unsigned)rand_r(&seed));
        }
    }
    for (int i = 0; i < READERS; i++)
        end(&all[i]);
    printf("%llu bytes\n", (unsigned long long)atomic_load(&bytes));
    return 0;
}

__attribute__((constructor)) static void take_over(void)
{
    test_program = storm;
}
