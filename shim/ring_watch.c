/* A poll on another descriptor that sleeps with the sockets; and what is left behind by sleepers. */
#include "ring.h"

#include <poll.h>
#include <utlist.h>

bool pbs_ring_watch(struct pbs_ring *r, struct pbs_watch *w, int fd)
{
    struct io_uring_sqe *sqe = pbs_ring_sqe(r);

    if (!sqe)
        return false;
    io_uring_prep_poll_multishot(sqe, fd, POLLIN);
    w->ud = PBS_UD_WATCH | ++r->last_rid;
    w->ring = r;
    w->armed = true;
    w->fired = true; /* what was there before is for the first look to find */
    w->told = false;
    sqe->user_data = w->ud;
    LL_PREPEND(r->watches, w);
    return true;
}

void pbs_ring_watch_fired(struct pbs_ring *r, uint64_t ud, unsigned flags)
{
    struct pbs_watch *w;

    LL_SEARCH_SCALAR(r->watches, w, ud, ud);
    PBS_ASSERT(w != NULL);
    if (!w)
        return;
    w->fired = true;
    w->told = !w->echo;
    w->echo = false;
    if (flags & IORING_CQE_F_MORE)
        return;
    LL_DELETE(r->watches, w);
    w->armed = false;
}

void pbs_ring_unwatch(struct pbs_ring *r, struct pbs_watch *w)
{
    pbs_crit_enter(r->owner);
    if (w->ring == r && w->armed) {
        pbs_ring_cancel_sqe(r, w->ud);
        while (w->armed)
            pbs_ring_enter_now(r);
        pbs_ring_finish_revokes(r);
        pbs_ring_leave(r);
    }
    pbs_crit_leave(r->owner);
}

void pbs_ring_watch_over(struct pbs_watch *w, void (*over)(struct pbs_watch *w))
{
    struct pbs_ring *r = w->ring;
    struct pbs_thread *self = pbs_self;
    bool later = false;

    if (r && r != self->ring) {
        pbs_crit_enter(self);
        pbs_lock(&r->lock);
        later = r->takes_overs;
        if (later) {
            w->over = over;
            LL_PREPEND2(r->overs, w, over_next);
            atomic_fetch_add(&pbs_attention, 1);
        }
        pbs_unlock(&r->lock);
        pbs_crit_leave(self);
    } else if (r) {
        pbs_ring_unwatch(r, w);
    }
    if (!later)
        over(w);
}

static struct pbs_watch *pop_over(struct pbs_ring *r)
{
    struct pbs_watch *w;

    pbs_crit_enter(r->owner);
    pbs_lock(&r->lock);
    w = r->overs;
    if (w) {
        LL_DELETE2(r->overs, w, over_next);
        atomic_fetch_sub(&pbs_attention, 1);
    }
    pbs_unlock(&r->lock);
    pbs_crit_leave(r->owner);
    return w;
}

void pbs_ring_orphaned(struct pbs_ring *r)
{
    if (!atomic_exchange(&r->orphans, true))
        atomic_fetch_add(&pbs_attention, 1);
}

void pbs_ring_cancel_orphan(struct pbs_ring *r, struct pbs_sock *s)
{
    bool orphan, armed;

    pbs_crit_enter(r->owner);
    pbs_lock(&s->file.lock);
    orphan = s->ring == r && !s->file.nfds && !pbs_ring_sleeps_for(r->owner, s);
    armed = s->armed;
    if (orphan && !armed)
        pbs_ring_dispose(s);
    else
        pbs_unlock(&s->file.lock);
    pbs_crit_leave(r->owner);
    if (orphan && armed)
        pbs_ring_cancel(r, s, PBS_WHY_close); /* its end disposes of it */
}

/* A record without a number that nobody sleeps for. */
static struct pbs_sock *orphan(struct pbs_ring *r)
{
    struct pbs_sock *s, *tmp, *found = NULL;

    pbs_crit_enter(r->owner);
    pbs_lock(&r->lock);
    HASH_ITER(hh, r->socks, s, tmp) {
        if (!s->file.nfds && !pbs_ring_sleeps_for(r->owner, s)) {
            found = s;
            break;
        }
    }
    pbs_unlock(&r->lock);
    pbs_crit_leave(r->owner);
    return found;
}

void pbs_ring_tidy(struct pbs_ring *r)
{
    struct pbs_watch *w;
    struct pbs_sock *s;

    while ((w = pop_over(r))) {
        pbs_ring_unwatch(r, w);
        w->over(w);
    }
    if (atomic_load(&r->owner->polling) || !atomic_exchange(&r->orphans, false))
        return;
    atomic_fetch_sub(&pbs_attention, 1);
    while ((s = orphan(r)))
        pbs_ring_cancel_orphan(r, s);
}
