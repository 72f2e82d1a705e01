/*
 * Several processes on one connection at the same time, with bytes that had arrived before the
 * fork: nobody waits for the other, as in fork_held, so what one does falls into the middle of what
 * the other does.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "payload.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

#define HELD 3000
#define LATER 2000
#define READERS 5
#define PEEKS 8
#define CLOSES 200

static uint8_t buf[4096], stream[HELD + LATER];

/* How often each byte value was read, by all together. */
struct tally {
    atomic_uint n, of[256];
    atomic_int ready;
};

static ssize_t receive_somehow(int fd, unsigned how, size_t len)
{
    struct iovec v[2] = {{buf, len / 2}, {buf + len / 2, len - len / 2}};
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    ssize_t r;
    fd_set set;

    switch (how % 6) {
    case 0:
        return recv(fd, buf, 1, 0);
    case 1:
        return readv(fd, v, 2);
    case 2:
        return recv(fd, buf, len, MSG_WAITALL);
    case 3:
        CHECK_EQ(poll(&pfd, 1, -1), 1);
        r = recv(fd, buf, len, MSG_DONTWAIT);
        return r < 0 && errno == EAGAIN ? receive_somehow(fd, how, len) : r;
    case 4:
        FD_ZERO(&set);
        FD_SET(fd, &set);
        CHECK_EQ(select(fd + 1, &set, NULL, NULL, NULL), 1);
        return read(fd, buf, len);
    default:
        return read(fd, buf, len);
    }
}

static void read_to_the_end(struct tally *t, int fd, unsigned seed)
{
    atomic_fetch_add(&t->ready, 1);
    for (;;) {
        ssize_t r = receive_somehow(fd, seed >> 4, 1 + seed % 50);

        MUST(r);
        if (!r)
            return;
        for (ssize_t i = 0; i < r; i++)
            atomic_fetch_add(&t->of[buf[i]], 1);
        atomic_fetch_add(&t->n, (unsigned)r);
        seed = seed * 1103515245U + 12345;
    }
}

static void test_all_read_at_once_each_byte_comes_once(void)
{
    struct pair p = pair_open_held(HELD);
    struct tally *t =
        mmap(NULL, sizeof(*t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned wanted[256] = {0};
    pid_t pids[READERS + 1];

    payload_fill(0, stream, p.got, sizeof(stream));
    for (size_t i = 0; i < sizeof(stream); i++)
        wanted[stream[i]]++;
    for (unsigned i = 0; i <= READERS; i++) {
        pids[i] = MUST(fork());
        if (pids[i])
            continue;
        if (i < READERS) {
            read_to_the_end(t, p.us, i * 7919U);
        } else {
            CHECK_SOON(t->ready == READERS + 1, 5000);
            for (size_t sent = 0; sent < LATER; sent += 100)
                put_now(&p, 100);
            MUST(shutdown(p.peer, SHUT_WR));
        }
        _exit(0);
    }
    read_to_the_end(t, p.us, 1);
    for (unsigned i = 0; i <= READERS; i++)
        check_child(pids[i]);
    CHECK_EQ(t->n, HELD + LATER);
    for (unsigned i = 0; i < 256; i++)
        CHECK_EQ(t->of[i], wanted[i]);
    pair_close(&p);
}

/*
 * What MSG_PEEK shows is a run of the stream. It counted what was left and looked for it in two
 * steps: bytes read by another process in between were missing at the front, and as many of
 * something else were at the end.
 */
static void test_peek_while_another_process_reads_shows_what_is_unread(void)
{
    for (int round = 0; round < PEEKS; round++) {
        struct pair p = pair_open_held(HELD), behind = pair_open_held(HELD);
        pid_t pid;
        ssize_t r;

        payload_fill(0, stream, p.got, HELD);
        pid = MUST(fork());
        if (pid == 0) {
            for (int i = 0; i < HELD; i++)
                MUST(recv(p.us, buf, 1, 0));
            _exit(0);
        }
        while ((r = recv(p.us, buf, sizeof(buf), MSG_PEEK | MSG_DONTWAIT)) >= 0) {
            CHECK(r > 0 && r <= HELD);
            if (memcmp(buf, stream + HELD - r, (size_t)r) != 0)
                FAIL("%zd bytes, and not the last of the stream", r);
        }
        CHECK_EQ(errno, EAGAIN);
        check_child(pid);
        pair_close(&p);
        pair_close(&behind);
    }
}

/*
 * Each saw that the other still had it, and so nobody told the kernel that bytes were unread: the
 * peer saw a clean end.
 */
static void test_closed_by_both_at_once_with_bytes_unread_is_a_reset(void)
{
    for (int round = 0; round < CLOSES; round++) {
        struct shared *s = pair_share(pair_open_held(100));
        pid_t pid = MUST(fork());

        atomic_fetch_add(&s->flag, 1);
        while (atomic_load(&s->flag) < 2)
            continue;
        if (pid == 0 && round % 2)
            _exit(0);
        MUST(close(s->p.us));
        if (pid == 0)
            _exit(0);
        check_child(pid);
        CHECK_PEER_SEES(s->p.peer, SEEN_RESET);
        s->p.us = -1;
        shared_close(s);
    }
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_all_read_at_once_each_byte_comes_once),
    CASE_ONCE(test_peek_while_another_process_reads_shows_what_is_unread),
    CASE_ONCE(test_closed_by_both_at_once_with_bytes_unread_is_a_reset),
    CASES_END,
};
