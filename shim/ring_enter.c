/* Into the kernel and back: the one place that calls io_uring_enter, and the reaping after it. */
#include "ring.h"

#include <errno.h>
#include <string.h>

#include "enter_call.h"

atomic_uint pbs_attention;
void (*pbs_ring_arrived)(struct pbs_sock *s);
void (*pbs_ring_unarmed)(struct pbs_sock *s);

#define MAX_CANCEL_ENTERS 100000
#define MAX_FETCHES 64 /* enters: each brings a queue full, and 20 items or so that may not fit */

static atomic_uint no_signal; /* for enters that never sleep */

/* Publishes what is prepared. Returns how much the kernel has not taken yet. */
static unsigned flush(struct pbs_ring *r)
{
    struct io_uring_sq *sq = &r->uring.sq;

    sq->sqe_head = sq->sqe_tail;
    io_uring_smp_store_release(sq->ktail, sq->sqe_tail);
    return sq->sqe_tail - io_uring_smp_load_acquire(sq->khead);
}

/* Submits alone: an enter without GETEVENTS runs no deferred work. */
void pbs_ring_submit(struct pbs_ring *r)
{
    pbs_enter_call(SYS_io_uring_enter, r->uring.enter_ring_fd, flush(r), 0,
                   IORING_ENTER_REGISTERED_RING, 0, 0, &no_signal);
    pbs_count(r->owner, kernel_entries);
}

struct io_uring_sqe *pbs_ring_sqe(struct pbs_ring *r)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);

    if (sqe)
        return sqe;
    pbs_ring_submit(r);
    return io_uring_get_sqe(&r->uring);
}

bool pbs_ring_cancel_sqe(struct pbs_ring *r, uint64_t rid)
{
    struct io_uring_sqe *sqe = pbs_ring_sqe(r);

    if (!sqe)
        return false;
    io_uring_prep_cancel64(sqe, rid, 0);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = PBS_UD_NONE;
    return true;
}

/*
 * Errors that come from the ring and not from the connection: the plain call decides then. Any
 * other error was taken from the socket (sk_err) and is held.
 */
static bool ring_error(int err)
{
    switch (err) {
    case ECANCELED:
    case ENOBUFS:
    case EINVAL:
    case ENOMEM:
    case EAGAIN:
    case EBADF:
    case EBADFD: /* what the number stands for by now cannot be polled */
    case EOPNOTSUPP:
    case ENOTCONN:
    case ENOTSOCK:
    case EINTR:
    case EFAULT:
        return true;
    default:
        return false;
    }
}

static void give_up(struct pbs_thread *self, struct pbs_sock *s, enum pbs_reason why)
{
    if (s->state == PBS_PASS)
        return;
    s->state = PBS_PASS;
    pbs_count(self, passes);
    self->stats.pass[why]++;
}

/* The request of s has ended. s locked. */
static void ended(struct pbs_ring *r, struct pbs_sock *s, int res)
{
    struct pbs_thread *self = r->owner;

    s->armed = false;
    r->armed--;
    if (res == 0) {
        /* End of file, or, on some 6.12 kernels, not: the plain call says which. */
        s->at_end = true;
        give_up(self, s, PBS_WHY_eof);
    } else if (res == -ENOBUFS) {
        pbs_ring_ran_out(r, s);
    } else if (res < 0 && !ring_error(-res)) {
        atomic_store_explicit(&s->error, -res, memory_order_relaxed);
        s->at_end = true;
        give_up(self, s, PBS_WHY_error);
    } else if (res < 0 && res != -ECANCELED && res != -EAGAIN && res != -ENOMEM) {
        give_up(self, s, PBS_WHY_kind);
    }
    if (s->items)
        pbs_ring_unarmed(s);
}

static struct pbs_sock *find(struct pbs_ring *r, uint64_t rid)
{
    struct pbs_sock **near = &r->near[rid % PBS_RING_NEAR], *s;

    pbs_lock(&r->lock);
    s = *near;
    if (!s || s->rid != rid) {
        HASH_FIND(hh, r->socks, &rid, sizeof(rid), s);
        if (s)
            *near = s;
    }
    pbs_unlock(&r->lock);
    return s;
}

static void complete(struct pbs_ring *r, uint64_t rid, int res, unsigned flags)
{
    struct pbs_sock *s = find(r, rid);
    struct pbs_thread *self = r->owner;

    PBS_ASSERT(s != NULL);
    if (!s)
        return;
    pbs_lock(&s->file.lock);
    PBS_ASSERT(s->ring == r && s->rid == rid && s->armed);
    if (flags & IORING_CQE_F_BUFFER)
        pbs_ring_filled(r, s, flags >> IORING_CQE_BUFFER_SHIFT, res > 0 ? (size_t)res : 0,
                        flags & IORING_CQE_F_BUF_MORE);
    if (res > 0) {
        pbs_count(self, completions);
        pbs_count_n(self, ring_bytes, res);
        s->tally.bytes += (uint32_t)res;
        s->tally.burst += (uint32_t)res;
        /* The run that posted this found nothing more in the socket: empty since the enter, and
         * so since whatever told this thread that it was ready. */
        pbs_sock_set_dry(s, flags & IORING_CQE_F_SOCK_NONEMPTY ? 0 : self->ready_epoch);
    }
    if (res >= 0 || res == -ENOBUFS || !ring_error(-res))
        r->news++;
    if (s->fresh_arm && res > 0)
        s->unverified = true;
    s->fresh_arm = false;
    if (!(flags & IORING_CQE_F_MORE))
        ended(r, s, res);
    if (s->items && (res > 0 || s->error)) /* a cancellation is no news */
        pbs_ring_arrived(s);
    if (pbs_unlikely(!s->file.nfds && !s->armed && !pbs_ring_sleeps_for(self, s))) {
        pbs_ring_dispose(s);
        return;
    }
    pbs_ring_forget(s);
    pbs_unlock(&s->file.lock);
}

/*
 * The oldest completion, or NULL. Not by io_uring_peek_cqe(): asked for more than is there, it enters
 * the kernel as long as the kernel says that work waits. Whether to do that is for the caller, who
 * refills the pool before, serves revokes, counts, and comes to an end.
 */
static struct io_uring_cqe *oldest(struct pbs_ring *r)
{
    struct io_uring_cq *cq = &r->uring.cq;

    return io_uring_cq_ready(&r->uring) ? &cq->cqes[*cq->khead & cq->ring_mask] : NULL;
}

static bool overflowed(const struct pbs_ring *r)
{
    return io_uring_smp_load_acquire(r->uring.sq.kflags) & IORING_SQ_CQ_OVERFLOW;
}

bool pbs_ring_reap(struct pbs_ring *r)
{
    struct io_uring_cqe *cqe;
    bool any = false;

    while ((cqe = oldest(r))) {
        uint64_t ud = cqe->user_data;
        unsigned flags = cqe->flags;
        int res = cqe->res;

        io_uring_cqe_seen(&r->uring, cqe);
        any |= ud != PBS_UD_TICK;
        if (ud & PBS_UD_WATCH) {
            r->news++;
            pbs_ring_watch_fired(r, ud, flags);
        } else if (ud >= PBS_UD_FIRST) {
            complete(r, ud, res, flags);
        } else if (ud == PBS_UD_KICK) {
            r->kick_armed = false;
            if (res == -EINVAL || res == -EOPNOTSUPP) /* before Linux 6.7 */
                r->kickable = false;
        } else if (ud == PBS_UD_TICK) {
            r->ticked = true;
            r->tick_armed = (flags & IORING_CQE_F_MORE) || res == -EINVAL; /* before 6.4: none */
        }
    }
    if (overflowed(r) && !r->cq_tried)
        r->cq_short = true;
    return any;
}

/* Re-arms the kick with the value that was read before the list was looked at. */
static void arm_kick(struct pbs_ring *r, unsigned seen)
{
    struct io_uring_sqe *sqe;

    if (r->kick_armed || !r->kickable)
        return;
    sqe = pbs_ring_sqe(r);
    if (!sqe)
        return;
    /* Not FUTEX2_PRIVATE: since Linux 6.16 a process gets a futex table of its own with its first
     * thread, and a private wait that was armed before that is in the old one, never to be found. */
    io_uring_prep_futex_wait(sqe, (uint32_t *)&r->kick, seen, FUTEX_BITSET_MATCH_ANY,
                             FUTEX2_SIZE_U32, 0);
    sqe->user_data = PBS_UD_KICK;
    r->kick_armed = true;
}

unsigned pbs_ring_announce(struct pbs_ring *r, bool kickable)
{
    unsigned kick;

    pbs_ring_pool_prepare(r, kickable);
    atomic_store(&r->in_enter, 1); /* seq_cst: partner is pbs_ring_revoke's look */
    kick = atomic_load(&r->kick);
    if (pbs_ring_serve_revokes(r))
        r->cancelling = true;
    if (kickable)
        arm_kick(r, kick);
    return flush(r);
}

void pbs_ring_leave(struct pbs_ring *r)
{
    atomic_store(&r->in_enter, 0); /* seq_cst: partner is the revoker's waiters++ */
    if (pbs_unlikely(atomic_load(&r->waiters))) {
        atomic_fetch_add(&r->answers, 1);
        pbs_futex_wake(&r->answers);
    }
}

/* Enters without sleeping. In a critical section. Completions that found the queue full are fetched, too:
 * their bytes are neither held nor in the socket, and nobody may look at the one and then at the other. */
void pbs_ring_enter_now(struct pbs_ring *r)
{
    unsigned enters = 0;

    do {
        unsigned todo = pbs_ring_announce(r, false);

        pbs_enter_call(SYS_io_uring_enter, r->uring.enter_ring_fd, todo, 0,
                       IORING_ENTER_GETEVENTS | IORING_ENTER_REGISTERED_RING, 0, 0, &no_signal);
        pbs_count(r->owner, kernel_entries);
        pbs_ring_reap(r);
    } while (pbs_unlikely(overflowed(r)) && ++enters < MAX_FETCHES);
}

bool pbs_ring_reap_all(struct pbs_ring *r)
{
    bool any = pbs_ring_reap(r);

    if (pbs_unlikely(overflowed(r)))
        pbs_ring_enter_now(r);
    return any;
}

void pbs_ring_drain(struct pbs_ring *r)
{
    struct pbs_thread *self = r->owner;

    pbs_crit_enter(self);
    pbs_ring_enter_now(r);
    pbs_ring_finish_revokes(r);
    pbs_ring_leave(r);
    pbs_crit_leave(self);
}

void pbs_ring_cancel(struct pbs_ring *r, struct pbs_sock *s, enum pbs_reason why)
{
    struct pbs_thread *self = r->owner;
    unsigned enters = 0;
    uint64_t rid = 0;

    pbs_crit_enter(self);
    pbs_lock(&s->file.lock);
    if (s->ring == r && s->armed) {
        rid = s->rid;
        pbs_ring_cancel_sqe(r, rid);
        pbs_count(self, cancels);
        self->stats.cancel[why]++;
    }
    pbs_unlock(&s->file.lock);
    /* Complete only when the terminal completion has been reaped: with 64 items pending that took
     * 3 enters (Linux 6.18). */
    while (rid && find(r, rid)) {
        bool armed;

        pbs_ring_enter_now(r);
        pbs_lock(&s->file.lock);
        armed = s->ring == r && s->rid == rid && s->armed;
        if (armed && enters && enters % 64 == 0)
            pbs_ring_cancel_sqe(r, rid); /* the first one may have found the queue full */
        pbs_unlock(&s->file.lock);
        if (!armed)
            break;
        enters++;
        PBS_ASSERT(enters < MAX_CANCEL_ENTERS);
    }
    pbs_ring_finish_revokes(r);
    pbs_ring_leave(r);
    pbs_crit_leave(self);
}

/* Does this kernel have FUTEX_WAIT in rings? Armed with a value that the word does not have, it
 * ends at once with -EAGAIN; -EINVAL before Linux 6.7. */
void pbs_ring_probe_kick(struct pbs_ring *r)
{
    r->kickable = true;
    r->kick_armed = false;
    arm_kick(r, atomic_load(&r->kick) + 1);
    pbs_ring_enter_now(r);
    pbs_ring_leave(r);
}
