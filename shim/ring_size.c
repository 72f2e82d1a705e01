/* How many completions a ring has room for. */
#include "ring.h"

#include <string.h>

#include "mem.h"

/* Since Linux 6.13, for rings of our kind alone. */
#define REGISTER_RESIZE_RINGS 33

#define MAX_ENTERS 64 /* to see all requests end: each brings a queue full */

static size_t pages(size_t n)
{
    return (n + 4095) & ~(size_t)4095;
}

static size_t entries_size(void)
{
    return pages(PBS_RING_SQ * sizeof(struct io_uring_sqe));
}

/* Of the queues and the entries, each in whole pages. */
size_t pbs_ring_queue_size(unsigned cq)
{
    return pages(cq * sizeof(struct io_uring_cqe) + 1024) + entries_size();
}

/* Where the kernel says that all of it lies now. What is submitted and what is reaped goes on counting. */
static void point(struct io_uring *u, const struct io_uring_params *p, char *rings, char *entries)
{
    struct io_uring_sq *sq = &u->sq;
    struct io_uring_cq *cq = &u->cq;

    sq->khead = (unsigned *)(rings + p->sq_off.head);
    sq->ktail = (unsigned *)(rings + p->sq_off.tail);
    sq->kflags = (unsigned *)(rings + p->sq_off.flags);
    sq->kdropped = (unsigned *)(rings + p->sq_off.dropped);
    sq->sqes = (struct io_uring_sqe *)entries;
    sq->ring_mask = *(unsigned *)(rings + p->sq_off.ring_mask);
    sq->ring_entries = *(unsigned *)(rings + p->sq_off.ring_entries);
    cq->khead = (unsigned *)(rings + p->cq_off.head);
    cq->ktail = (unsigned *)(rings + p->cq_off.tail);
    cq->kflags = (unsigned *)(rings + p->cq_off.flags);
    cq->koverflow = (unsigned *)(rings + p->cq_off.overflow);
    cq->cqes = (struct io_uring_cqe *)(rings + p->cq_off.cqes);
    cq->ring_mask = *(unsigned *)(rings + p->cq_off.ring_mask);
    cq->ring_entries = *(unsigned *)(rings + p->cq_off.ring_entries);
}

static void resize(struct pbs_ring *r, unsigned cq)
{
    size_t size = pbs_ring_queue_size(cq), old_size = r->mem_size;
    void *old = r->mem;
    struct io_uring_params p = {
        .flags = IORING_SETUP_CQSIZE, .sq_entries = PBS_RING_SQ, .cq_entries = cq};
    char *mem;

    if (!pbs_ring_charge(size))
        return;
    mem = pbs_mem_map(size);
    if (!mem)
        goto out_charge;
    pbs_mem_small(mem, size);
    p.cq_off.user_addr = (uintptr_t)mem;
    p.sq_off.user_addr = (uintptr_t)(mem + size - entries_size());
    if (pbs_sys4(SYS_io_uring_register, r->uring.enter_ring_fd,
                 REGISTER_RESIZE_RINGS | IORING_REGISTER_USE_REGISTERED_RING, &p, 1) != 0)
        goto out_map;
    pbs_lock(&r->lock);
    point(&r->uring, &p, mem, mem + size - entries_size());
    r->mem = mem;
    r->mem_size = size;
    pbs_unlock(&r->lock);
    r->cq = cq;
    pbs_mem_unmap(old, old_size); /* a child that is forked from here on does not know it */
    pbs_ring_uncharge(old_size);
    pbs_count(r->owner, resizes);
    return;
out_map:
    pbs_mem_unmap(mem, size);
out_charge:
    pbs_ring_uncharge(size);
}

/* Nothing is in the kernel of which a completion, or a flag that it waits, could come. */
static bool quiet(const struct pbs_ring *r)
{
    return !r->armed && !r->watches && !r->kick_armed && !r->tick_armed && !pbs_ring_pending(r);
}

/*
 * What is under way in the kernel may have a flag to set in queues that are just put elsewhere: so all
 * requests are ended first. Their sockets are armed again as they are read. Tried once: a kernel or a limit
 * that refuses would do so again.
 */
void pbs_ring_make_room(struct pbs_ring *r)
{
    struct io_uring_sqe *sqe;

    pbs_crit_enter(r->owner);
    r->cq_short = false;
    sqe = pbs_ring_sqe(r);
    if (sqe) {
        io_uring_prep_cancel64(sqe, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
        sqe->user_data = PBS_UD_NONE;
    }
    for (unsigned i = 0; i < MAX_ENTERS && !quiet(r); i++)
        pbs_ring_enter_now(r);
    if (quiet(r)) {
        resize(r, PBS_RING_CQ_MOST);
        r->cq_tried = true;
    }
    r->cq_short = false;
    pbs_ring_finish_revokes(r);
    pbs_ring_leave(r);
    pbs_crit_leave(r->owner);
}
