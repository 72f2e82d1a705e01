/*
 * A program with an io_uring of its own, made and entered by syscall(): its receives on a
 * connection give what arrived first first, and mix with recv() in one stream.
 */
/* ring: none: the library leaves a program alone that has a ring of its own */
#include <linux/io_uring.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "asleep.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

struct own_ring {
    int fd;
    unsigned *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
};

static void own_ring_open(struct own_ring *r)
{
    struct io_uring_params p;
    size_t len;
    char *m;

    memset(&p, 0, sizeof(p));
    r->fd = (int)syscall(SYS_io_uring_setup, 4, &p);
    if (r->fd < 0)
        test_skip("io_uring_setup: errno %d", errno);
    CHECK(p.features & IORING_FEAT_SINGLE_MMAP);
    len = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
    if (len < p.sq_off.array + p.sq_entries * sizeof(unsigned))
        len = p.sq_off.array + p.sq_entries * sizeof(unsigned);
    m = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQ_RING);
    CHECK(m != MAP_FAILED);
    r->sqes = mmap(NULL, p.sq_entries * sizeof(*r->sqes), PROT_READ | PROT_WRITE, MAP_SHARED, r->fd,
                   IORING_OFF_SQES);
    CHECK(r->sqes != MAP_FAILED);
    r->sq_tail = (unsigned *)(m + p.sq_off.tail);
    r->sq_mask = (unsigned *)(m + p.sq_off.ring_mask);
    r->sq_array = (unsigned *)(m + p.sq_off.array);
    r->cq_head = (unsigned *)(m + p.cq_off.head);
    r->cq_tail = (unsigned *)(m + p.cq_off.tail);
    r->cq_mask = (unsigned *)(m + p.cq_off.ring_mask);
    r->cqes = (struct io_uring_cqe *)(m + p.cq_off.cqes);
}

/* One request, and its result. */
static int own_ring_do(struct own_ring *r, int op, int fd, void *to, unsigned len)
{
    unsigned tail = *r->sq_tail, at = tail & *r->sq_mask, head;
    struct io_uring_sqe *sqe = &r->sqes[at];
    int res;

    memset(sqe, 0, sizeof(*sqe));
    sqe->opcode = (uint8_t)op;
    sqe->fd = fd;
    sqe->addr = (uint64_t)(uintptr_t)to;
    sqe->len = len;
    if (op == IORING_OP_READ)
        sqe->off = (uint64_t)-1;
    r->sq_array[at] = at;
    __atomic_store_n(r->sq_tail, tail + 1, __ATOMIC_RELEASE);
    CHECK_EQ(syscall(SYS_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0), 1);
    head = *r->cq_head;
    CHECK(__atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE) != head);
    res = r->cqes[head & *r->cq_mask].res;
    __atomic_store_n(r->cq_head, head + 1, __ATOMIC_RELEASE);
    return res;
}

static void own_ring_take(struct own_ring *r, struct pair *p, int op, unsigned n)
{
    while (n) {
        int got = own_ring_do(r, op, p->us, buf, n);

        CHECK(got > 0 && (unsigned)got <= n);
        check_next(p, buf, (size_t)got);
        n -= (unsigned)got;
    }
}

static void test_own_ring_receives_what_came_first_first(void)
{
    static const int ops[] = {IORING_OP_RECV, IORING_OP_READ};
    struct own_ring r;

    own_ring_open(&r);
    for (size_t op = 0; op < COUNT_OF(ops); op++) {
        for (int where = 0; where < WHERES; where++) {
            struct pair p = pair_open_with((enum where)where, 100);

            own_ring_take(&r, &p, ops[op], 40);
            take(&p, 20);
            put(&p, 20);
            own_ring_take(&r, &p, ops[op], 50);
            take(&p, 10);
            check_empty(p.us);
            own_ring_take(&r, (put(&p, 10), &p), ops[op], 10);
            MUST(close(p.us));
            CHECK_PEER_SEES(p.peer, SEEN_FIN);
            close(p.peer);
        }
    }
    close(r.fd);
}

static void test_own_ring_closes_the_connection(void)
{
    struct own_ring r;

    own_ring_open(&r);
    for (int unread = 0; unread < 2; unread++) {
        struct pair p = unread ? pair_open_held(50) : pair_open_warm();

        CHECK_EQ(own_ring_do(&r, IORING_OP_CLOSE, p.us, NULL, 0), 0);
        CHECK_PEER_SEES(p.peer, unread ? SEEN_RESET : SEEN_FIN);
        CHECK_ERR(recv(p.us, buf, 1, MSG_DONTWAIT), EBADF);
        close(p.peer);
    }
    close(r.fd);
}

const struct test_case test_cases[] = {
    CASE(test_own_ring_receives_what_came_first_first),
    CASE(test_own_ring_closes_the_connection),
    CASES_END,
};
