/* A ring's life: created at the first adoption, its requests, its end. */
#include "ring.h"

#include <errno.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <utlist.h>

#include "conf.h"
#include "ghost.h"
#include "mem.h"

static struct pbs_lock list_lock;
static struct pbs_ring *_Atomic live; /* changed under list_lock */
static struct pbs_ring *spare;        /* guarded by it */
static size_t charged;                /* bytes of all live rings, guarded by it */

struct pbs_lock *pbs_ring_list_lock(void)
{
    return &list_lock;
}

struct pbs_ring *pbs_ring_list(void)
{
    return live;
}

/* Locked memory is charged per user since Linux 6.14, unless the process has CAP_IPC_LOCK. */
static bool memlock_exempt(void)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0}};

    return pbs_sys2(SYS_capget, &head, data) == 0 &&
           (data[CAP_IPC_LOCK / 32].effective & 1U << CAP_IPC_LOCK % 32);
}

/* A quarter of the limit for all rings of the process: the rest is the program's. */
bool pbs_ring_charge(size_t size)
{
    struct rlimit64 lim;
    bool ok;

    if (memlock_exempt() || pbs_sys4(SYS_prlimit64, 0, RLIMIT_MEMLOCK, NULL, &lim) ||
        lim.rlim_cur == (rlim64_t)-1)
        lim.rlim_cur = SIZE_MAX;
    pbs_lock(&list_lock);
    ok = charged + size <= lim.rlim_cur / 4;
    if (ok)
        charged += size;
    pbs_unlock(&list_lock);
    return ok;
}

void pbs_ring_uncharge(size_t size)
{
    pbs_lock(&list_lock);
    charged -= size;
    pbs_unlock(&list_lock);
}

static struct pbs_ring *block_get(void)
{
    struct pbs_ring *r;

    pbs_lock(&list_lock);
    r = spare;
    if (r)
        spare = r->next;
    pbs_unlock(&list_lock);
    if (!r)
        r = pbs_mem_get(sizeof(*r));
    return r;
}

static void block_put(struct pbs_ring *r)
{
    pbs_lock(&list_lock);
    r->next = spare;
    spare = r;
    pbs_unlock(&list_lock);
}

/* Since Linux 6.15; liburing 2.9 does not know them. A thread that sleeps for a request would be counted
 * as one that waits for a disk, and the processor that it sleeps on as not idle (iowait). */
#define FEAT_NO_IOWAIT (1U << 17)
#define ENTER_NO_IOWAIT (1U << 7)

/* The one ring configuration (docs/design.md, "The ring"). 0 or -errno. */
static int setup(struct pbs_ring *r)
{
    struct io_uring_params p = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                 IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_NO_MMAP |
                 IORING_SETUP_REGISTERED_FD_ONLY | IORING_SETUP_NO_SQARRAY | IORING_SETUP_CQSIZE,
        .cq_entries = PBS_RING_CQ,
    };
    int err = io_uring_queue_init_mem(PBS_RING_SQ, &r->uring, &p, r->mem, r->mem_size);

    if (err < 0)
        return err;
    r->cq = PBS_RING_CQ;
    r->sleep_flags = r->uring.features & FEAT_NO_IOWAIT ? ENTER_NO_IOWAIT : 0;
    /* From here on the kernel's side stays until the thread ends, whatever fails. */
    return pbs_ring_pool_init(r);
}

static int create(struct pbs_thread *self)
{
    struct pbs_ring *r = block_get();
    size_t size = pbs_ring_queue_size(PBS_RING_CQ);
    int err = -ENOMEM;

    if (!r)
        return err;
    pbs_lock(&r->lock); /* a revoker with a stale pointer may look in for a moment */
    memset(&r->uring, 0, offsetof(struct pbs_ring, lock));
    r->socks = r->revoked = NULL;
    r->groups = NULL;
    memset(r->near, 0, sizeof(r->near));
    atomic_store(&r->revokes, 0);
    atomic_store(&r->orphans, false);
    r->takes_overs = true;
    PBS_ASSERT(!r->in_enter);
    /* waiters stays: a revoker of the block's last owner may be about to wait for an answer, and is
     * given this one's. */
    pbs_unlock(&r->lock);
    if (!pbs_ring_charge(size)) {
        err = -EDQUOT;
        goto out_block;
    }
    r->mem_size = size;
    r->mem = pbs_mem_map(size);
    if (!r->mem)
        goto out_charge;
    pbs_mem_small(r->mem, size);
    r->owner = self;
    err = setup(r);
    if (err)
        goto out_mem;
    r->last_rid = PBS_UD_FIRST;
    pbs_ring_probe_kick(r);
    pbs_lock(&list_lock);
    r->prev = NULL;
    r->next = live;
    if (live)
        live->prev = r;
    live = r;
    pbs_unlock(&list_lock);
    self->ring = r;
    pbs_count(self, rings);
    return 0;
out_mem:
    pbs_mem_unmap(r->mem, size); /* the kernel keeps its pins on the pages */
out_charge:
    pbs_ring_uncharge(size);
out_block:
    block_put(r);
    return err;
}

struct pbs_ring *pbs_ring_get(struct pbs_thread *self)
{
    int err;

    if (self->ring || self->ring_error || self->dying)
        return self->ring;
    pbs_crit_enter(self);
    err = create(self);
    pbs_crit_leave(self);
    if (err) {
        self->ring_error = -err;
        pbs_stats_ring_error(-err);
    }
    return self->ring;
}

/* r->lock held. */
static void table_remove(struct pbs_ring *r, struct pbs_sock *s)
{
    struct pbs_sock **near = &r->near[s->rid % PBS_RING_NEAR];

    if (*near == s)
        *near = NULL;
    HASH_DEL(r->socks, s);
}

int pbs_ring_arm(struct pbs_ring *r, struct pbs_sock *s)
{
    struct io_uring_sqe *sqe;
    struct pbs_pbuf *group;
    bool in_table = s->ring == r;

    PBS_ASSERT(!s->armed && !s->pieces && (!s->ring || in_table));
    group = pbs_ring_group(r, s);
    if (!group)
        return -ENOBUFS;
    sqe = pbs_ring_sqe(r);
    if (!sqe)
        return -ENOMEM;
    s->sqe_at = r->uring.sq.sqe_tail;
    pbs_lock(&r->lock);
    if (!pbs_gate_admits(
            &s->file)) { /* under the lock: a fork looks at it after it shut the gate */
        pbs_unlock(&r->lock);
        io_uring_prep_nop(sqe);
        sqe->user_data = PBS_UD_NONE;
        return -EAGAIN;
    }
    if (in_table)
        table_remove(r, s);
    s->rid = ++r->last_rid;
    s->ring = NULL;
    HASH_ADD(hh, r->socks, rid, sizeof(s->rid), s);
    if (s->hh.tbl) {
        s->ring = r;
        s->armed = true;
        s->fresh_arm = true;
        s->unverified = false;
        r->armed++;
    } else {
        pbs_ring_unlist(r, s); /* it may be asked back; nobody would find it there */
    }
    pbs_unlock(&r->lock);
    if (!s->ring) {
        io_uring_prep_nop(sqe);
        sqe->user_data = PBS_UD_NONE;
        return -ENOMEM;
    }
    /* POLL_FIRST: without it submitting takes queued bytes at once, outside of GETEVENTS. len 0:
     * needed before Linux 6.17. */
    io_uring_prep_recv_multishot(sqe, s->fd, NULL, 0, 0);
    sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = (uint16_t)group->bgid;
    sqe->user_data = s->rid;
    s->tally.burst = 0;
    pbs_count(r->owner, arms);
    return 0;
}

bool pbs_ring_submitted(struct pbs_sock *s)
{
    struct pbs_ring *r = s->ring;
    unsigned head;

    pbs_lock(&r->lock); /* the owner may be about to put the queues elsewhere (ring_size.c) */
    head = io_uring_smp_load_acquire(r->uring.sq.khead);
    pbs_unlock(&r->lock);
    return (int)(head - s->sqe_at) >= 0;
}

void pbs_ring_forget(struct pbs_sock *s)
{
    struct pbs_ring *r = s->ring;

    if (!r || s->armed || s->pieces)
        return;
    pbs_lock(&r->lock);
    table_remove(r, s);
    pbs_ring_unlist(r, s);
    pbs_unlock(&r->lock);
    s->ring = NULL;
}

void pbs_ring_dispose(struct pbs_sock *s)
{
    pbs_ghost_close(s->ghost, pbs_sock_unread(s) && pbs_gate_alone(&s->file));
    s->ghost = -1;
    if (s->spill)
        pbs_spill_leave(s->spill_file);
    s->spill = NULL;
    pbs_gate_leave(&s->file);
    pbs_sock_drop(s, s->held, pbs_ring_home, s);
    pbs_ring_forget(s);
    pbs_sock_put(s);
}

/* Any record of the table that is armed, or, with held set, any at all. */
static struct pbs_sock *pick(struct pbs_ring *r, bool held)
{
    struct pbs_sock *s, *tmp, *found = NULL;

    pbs_lock(&r->lock);
    HASH_ITER(hh, r->socks, s, tmp) {
        if (s->armed || held) {
            found = s;
            break;
        }
    }
    pbs_unlock(&r->lock);
    return found;
}

void pbs_ring_cancel_all(struct pbs_ring *r, enum pbs_reason why)
{
    struct pbs_sock *s;

    while ((s = pick(r, false)))
        pbs_ring_cancel(r, s, why);
}

bool pbs_ring_move_out(struct pbs_ring *r, struct pbs_sock *s)
{
    struct pbs_piece *own = pbs_piece_own(s->held), *piece;
    uint8_t *data;

    if (!own)
        return false;
    data = (uint8_t *)(own + 1);
    DL_FOREACH(s->pieces, piece) {
        memcpy(data, piece->data, piece->len);
        data += piece->len;
    }
    /* In this order: whoever looks at what is held, without the lock, never sees nothing. */
    pbs_sock_hold(s, own);
    pbs_sock_drop(s, own->len, pbs_ring_home, s);
    if (s->armed)
        return true;
    pbs_lock(&r->lock);
    table_remove(r, s);
    pbs_ring_unlist(r, s);
    pbs_unlock(&r->lock);
    s->ring = NULL;
    return true;
}

void pbs_ring_end(struct pbs_thread *self)
{
    struct pbs_ring *r = self->ring;
    struct pbs_sock *s;
    bool stuck = false;

    self->call++; /* one that was cancelled */
    pbs_attend(); /* a wait that was broken off, and nobody has looked since */
    if (!r)
        return;
    pbs_ring_cancel_all(r, PBS_WHY_exit);
    while (r->watches)
        pbs_ring_unwatch(r, r->watches);
    pbs_crit_enter(self);
    pbs_lock(&r->lock);
    r->takes_overs = false;
    pbs_unlock(&r->lock);
    pbs_ring_tidy(r);
    while (!stuck && (s = pick(r, true))) {
        pbs_lock(&s->file.lock);
        if (s->ring == r && s->pieces) {
            stuck = !pbs_ring_move_out(r, s);
        } else if (s->ring == r) {
            pbs_ring_forget(s);
        }
        pbs_unlock(&s->file.lock);
    }
    self->ring = NULL;
    r->owner = NULL;
    pbs_lock(&list_lock);
    if (r->prev)
        r->prev->next = r->next;
    else
        live = r->next;
    if (r->next)
        r->next->prev = r->prev;
    pbs_unlock(&list_lock);
    if (!stuck) { /* out of memory with bytes held: leak the pool rather than lose them */
        pbs_ring_pool_end(r);
        pbs_mem_unmap(r->mem, r->mem_size);
        pbs_ring_uncharge(r->mem_size);
        block_put(r);
    }
    pbs_crit_leave(self);
}

void pbs_ring_reset(void)
{
    pbs_unlock(&list_lock);
    for (struct pbs_ring *r = live; r; r = r->next) {
        pbs_ring_pool_drop(r);
        if (!r->lock.held) /* else another thread of the parent may have been between the two */
            pbs_mem_unmap(r->mem, r->mem_size);
    }
    live = spare = NULL;
    charged = 0;
    pbs_gate_reset();
    pbs_ring_end_none();
    atomic_store(&pbs_attention, 0);
}
