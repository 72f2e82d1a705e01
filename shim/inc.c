#include "inc.h"

#include <liburing.h>
#include <linux/close_range.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "base.h"
#include "conf.h"
#include "ledger.h"
#include "mem.h"
#include "probe.h"

enum { UNKNOWN, WORKS, FAILS };

static atomic_int verdict;

/* What the trial needs, in a mapping of its own: queues, entries, buffer ring, buffers, a page each. */
enum { QUEUES, ENTRIES, BUFFER_RING, BUFFERS, PAGES };

#define PAGE 4096U
#define BUFS 4U
#define SIZE 16U

struct trial {
    char *mem;
    struct io_uring uring;
    int a[2], b[2];
    bool ok;
};

/* A completion that is due. */
struct due {
    uint64_t who;
    int res;
    unsigned bid;
    bool more; /* of the buffer */
};

static char *buffer(const struct trial *t, unsigned bid)
{
    return t->mem + BUFFERS * PAGE + bid * SIZE;
}

static bool ring_up(struct trial *t)
{
    struct io_uring_params p = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_NO_MMAP |
                 IORING_SETUP_REGISTERED_FD_ONLY | IORING_SETUP_NO_SQARRAY,
    };
    struct io_uring_buf_ring *br = (struct io_uring_buf_ring *)(t->mem + BUFFER_RING * PAGE);
    struct io_uring_buf_reg reg = {.ring_entries = BUFS, .ring_addr = (uintptr_t)br};

    if (io_uring_queue_init_mem(8, &t->uring, &p, t->mem, BUFFER_RING * PAGE) < 0 ||
        io_uring_register_buf_ring(&t->uring, &reg, IOU_PBUF_RING_INC) != 0)
        return false;
    io_uring_buf_ring_init(br);
    for (unsigned bid = 0; bid < BUFS; bid++)
        io_uring_buf_ring_add(br, buffer(t, bid), SIZE, (unsigned short)bid,
                              io_uring_buf_ring_mask(BUFS), (int)bid);
    io_uring_buf_ring_advance(br, BUFS);
    return true;
}

static bool arm(struct trial *t, int fd)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&t->uring);

    if (!sqe)
        return false;
    io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
    sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->user_data = (uint64_t)fd;
    return true;
}

/* One enter brings these completions and no other. */
static bool brings(struct trial *t, const struct due *due, unsigned n)
{
    struct io_uring_cq *cq = &t->uring.cq;
    unsigned got;

    if (io_uring_submit_and_get_events(&t->uring) < 0)
        return false;
    for (got = 0; io_uring_cq_ready(&t->uring); got++) {
        struct io_uring_cqe c = cq->cqes[*cq->khead & cq->ring_mask];
        bool has = c.flags & IORING_CQE_F_BUFFER, more = c.flags & IORING_CQE_F_BUF_MORE;

        io_uring_cqe_seen(&t->uring, &cq->cqes[0]);
        if (got == n || c.user_data != due[got].who || c.res != due[got].res ||
            has != (c.res > 0) || (c.res > 0 && more != due[got].more) ||
            (c.res > 0 && c.flags >> IORING_CQE_BUFFER_SHIFT != due[got].bid))
            return false;
    }
    return got == n;
}

static bool send_to(int fd, const char *text)
{
    long n = (long)strlen(text);

    return pbs_sys6(SYS_sendto, fd, (long)text, n, MSG_NOSIGNAL, 0, 0) == n;
}

/* Two sockets share a buffer, which is filled to its last byte; the rest is in the next; an end has none. */
static bool run(struct trial *t)
{
    uint64_t a = (uint64_t)t->a[0], b = (uint64_t)t->b[0];

    return ring_up(t) && arm(t, t->a[0]) && arm(t, t->b[0]) && brings(t, NULL, 0) &&
           send_to(t->a[1], "abc") && brings(t, &(struct due){a, 3, 0, true}, 1) &&
           send_to(t->b[1], "DEFGH") && brings(t, &(struct due){b, 5, 0, true}, 1) &&
           send_to(t->a[1], "ijklmnopqrst") &&
           brings(t, (struct due[]){{a, 8, 0, false}, {a, 4, 1, true}}, 2) &&
           send_to(t->b[1], "UVWXYZUVWXYZ") && brings(t, &(struct due){b, 12, 1, false}, 1) &&
           pbs_sys2(SYS_shutdown, t->a[1], SHUT_WR) == 0 &&
           brings(t, &(struct due){a, 0, 0, false}, 1) && send_to(t->b[1], "_") &&
           brings(t, &(struct due){b, 1, 2, true}, 1) &&
           !memcmp(buffer(t, 0), "abcDEFGHijklmnopqrstUVWXYZUVWXYZ_", 33);
}

/* In the child, which has our memory and its own table of descriptors. */
static void in_child(void *arg)
{
    struct trial *t = arg;

    pbs_sys3(SYS_close_range, 0, ~0U, 0); /* of copies: it ends nothing, and there is room */
    if (pbs_sys4(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, t->a) == 0 &&
        pbs_sys4(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, t->b) == 0)
        t->ok = run(t);
}

static int try_out(void)
{
    struct trial *t = pbs_mem_get(sizeof(*t));
    int v = FAILS;

    if (!t)
        return v;
    t->mem = pbs_mem_map(PAGES * PAGE);
    if (t->mem) {
        pbs_mem_small(t->mem, PAGES * PAGE);
        if (pbs_probe_child(in_child, t) && t->ok)
            v = WORKS;
        pbs_mem_unmap(t->mem, PAGES * PAGE);
    }
    pbs_mem_put(t, sizeof(*t));
    return v;
}

/* What this process or one that it shares the ledger with has found out. */
static int known(void)
{
    _Atomic(uint64_t) *word = pbs_ledger_word();
    int v = atomic_load(&verdict);

    return v != UNKNOWN || !word ? v : (int)atomic_load(word);
}

static int find_out(void)
{
    _Atomic(uint64_t) *word = pbs_ledger_word();
    int v = try_out();

    if (v == FAILS && pbs_conf.inc == PBS_INC_ON && pbs_conf.verbose)
        pbs_log("pbufshim: PBUFSHIM_INC=on: this kernel does not fill buffers bit by bit");
    if (word)
        atomic_store(word, (uint64_t)v);
    return v;
}

bool pbs_inc_wanted(void)
{
    int v = known();

    if (pbs_conf.inc == PBS_INC_OFF)
        return false;
    /* A filter may note what it refuses: nothing is tried there unasked. */
    if (v == UNKNOWN && pbs_conf.inc == PBS_INC_AUTO && pbs_sys1(SYS_prctl, PR_GET_SECCOMP) != 0)
        return false;
    if (v == UNKNOWN)
        v = find_out();
    atomic_store(&verdict, v);
    return v == WORKS;
}
