/*
 * A thread is asleep in a send, since its peer reads nothing, when another one closes the socket or
 * ends the process. The send has its own reference to the socket: nothing wakes it up but the peer,
 * and SIGPIPE is nobody's. (The connection was once ended under it, and the process killed.)
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include "asleep.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

static char block[65536];

struct sender {
    struct pair p;
    int file; /* sent from there, or -1 */
    uint64_t sent;
    struct worker w;
};

static void *send_main(void *arg)
{
    struct sender *s = arg;
    ssize_t n;

    take(&s->p, WARM_READS); /* and so it is this thread's */
    while ((n = send(s->p.us, block, sizeof(block), MSG_DONTWAIT)) > 0)
        s->sent += (uint64_t)n;
    if (s->file >= 0)
        n = sendfile(s->p.us, s->file, NULL, 1);
    else
        n = send(s->p.us, block, 1, 0);
    CHECK_EQ(n, 1);
    s->sent++;
    return NULL;
}

static void start(struct sender *s, int us, int peer, bool from_file)
{
    int small = 4096;

    *s = (struct sender){.p = {.us = us, .peer = peer}, .file = -1};
    if (from_file)
        s->file = MUST(open("/proc/self/exe", O_RDONLY));
    MUST(setsockopt(us, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)));
    settle(us, WARM_READS);
    worker_start(&s->w, send_main, s);
    wait_asleep(s->w.tid);
}

/* All that the peer reads up to the end of the stream. */
static uint64_t read_to_the_end(int peer)
{
    static char buf[sizeof(block)]; /* the sender reads the other one */
    uint64_t got = 0;
    ssize_t n;

    while ((n = recv(peer, buf, sizeof(buf), 0)) > 0)
        got += (uint64_t)n;
    CHECK_EQ(n, 0);
    return got;
}

static void test_close_by_another_thread_leaves_a_blocked_send(void)
{
    for (int from_file = 0; from_file < 2; from_file++) {
        struct pair p = pair_open();
        struct sender s;
        uint64_t got;

        put_now(&p, WARM_READS);
        start(&s, p.us, p.peer, from_file);
        MUST(close(p.us));
        got = read_to_the_end(p.peer);
        worker_join(&s.w);
        CHECK_EQ(got, s.sent);
        close(p.peer);
        if (s.file >= 0)
            close(s.file);
    }
}

/* A stream whose last word cannot be written yet: exit() waits for that at its very end. */
static FILE *full_pipe(int fd)
{
    FILE *f;

    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    while (write(fd, block, 4096) > 0)
        continue;
    MUST(fcntl(fd, F_SETFL, 0));
    f = fdopen(fd, "w");
    CHECK(f != NULL);
    return f;
}

static void exit_slowly(int listener, int fd, bool from_file, int *leaving)
{
    struct sender s;

    start(&s, connect_to(listener), -1, from_file);
    fputs("goodbye", full_pipe(fd));
    __atomic_store_n(leaving, 1, __ATOMIC_RELEASE);
    exit(0);
}

static void test_exit_leaves_a_blocked_send(void)
{
    for (int from_file = 0; from_file < 2; from_file++) {
        int *leaving =
            mmap(NULL, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        int listener = MUST(listener_open(AF_INET)), ends[2];
        struct pair p = {.us = -1};
        char last[7] = {0};
        ssize_t n;
        pid_t pid;

        CHECK(leaving != MAP_FAILED);
        MUST(pipe(ends));
        pid = MUST(fork());
        if (pid == 0) {
            close(ends[0]);
            exit_slowly(listener, ends[1], from_file, leaving);
        }
        close(ends[1]);
        p.peer = MUST(accept(listener, NULL, NULL));
        close(listener);
        put_now(&p, WARM_READS);
        while (!__atomic_load_n(leaving, __ATOMIC_ACQUIRE))
            test_yield();
        wait_asleep(pid);
        CHECK_EQ(peer_sees(p.peer, 20), SEEN_NOTHING);
        while ((n = read(ends[0], block, sizeof(block))) > 0)
            if (n >= 7)
                memcpy(last, block + n - 7, 7);
        check_child(pid);
        CHECK_EQ(memcmp(last, "goodbye", 7), 0);
        read_to_the_end(p.peer);
        close(p.peer);
        close(ends[0]);
        munmap(leaving, sizeof(int));
    }
}

const struct test_case test_cases[] = {
    CASE(test_close_by_another_thread_leaves_a_blocked_send),
    CASE(test_exit_leaves_a_blocked_send),
    CASES_END,
};
