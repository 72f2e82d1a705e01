#include "rx.h"

#include <errno.h>

#include "visit.h"

/* The last that knew of s, if nothing is armed and it was not put by somebody else. */
static bool put_orphan(struct pbs_thread *self, struct pbs_sock *s, uint64_t life)
{
    bool armed;

    pbs_crit_enter(self);
    pbs_lock(&s->file.lock);
    armed = s->armed;
    if (s->life == life && !s->file.nfds && !armed) {
        pbs_ring_dispose(s);
    } else {
        armed &= s->life == life && s->ring == self->ring;
        pbs_unlock(&s->file.lock);
    }
    pbs_crit_leave(self);
    return armed;
}

void pbs_rx_unpin(struct pbs_thread *self, struct pbs_sock *s)
{
    uint64_t life = self->waiting_life;

    if (!atomic_exchange(&self->waiting, NULL))
        return; /* a handler broke the wait; its trampoline left the rest to pbs_attend */
    if (pbs_likely(s->file.nfds))
        return;
    if (put_orphan(self, s, life))
        pbs_ring_cancel(self->ring, s, PBS_WHY_close); /* its end disposes of it */
}

bool pbs_rx_look(struct pbs_thread *self, struct pbs_sock *s)
{
    struct pbs_ring *r = self->ring;
    unsigned passes;

    if (pbs_unlikely(!r)) /* a handler forked: here is its child */
        return false;
    passes = r->armed / 20 + 2;
    while (pbs_ring_pending(r) && passes-- && !pbs_sock_holds(s) && s->armed)
        pbs_ring_drain(r);
    /* What was brought may be dropped by a close at any moment: held is looked at first. */
    return !pbs_sock_holds(s) && s->armed && !s->unverified && pbs_sock_dry(s, self->ready_epoch) &&
           !pbs_ring_pending(r);
}

ssize_t pbs_rx_sleep(struct pbs_thread *self, struct pbs_sock *s, int64_t deadline, bool once)
{
    struct pbs_ring *ring = self->ring;
    int r = ring ? pbs_ring_wait(ring, deadline, deadline || once, NULL) : -EINTR;
    unsigned sig = atomic_load_explicit(&self->wait_signal, memory_order_relaxed);

    if ((pbs_sock_holds(s) || s->at_end) && (sig == PBS_SIG_NONE || !self->wait_quiet))
        return PBS_RX_LOOK;
    if (sig != PBS_SIG_NONE || r == -EINTR) {
        if (deadline || sig == PBS_SIG_INTERRUPT || once)
            return -EINTR;
        return PBS_RX_AGAIN;
    }
    return r == -ETIME ? -EAGAIN : PBS_RX_LOOK;
}

void pbs_rx_begin_plain(struct pbs_thread *self, struct pbs_sock *s)
{
    self->plain++;
    self->call++;
    pbs_visit(self, s);
}

enum pbs_armed pbs_rx_prepare(struct pbs_thread *self, struct pbs_sock *s, int fd, long long flags,
                              bool look_only, bool pinned, bool *sleeps)
{
    bool nonblock = flags & MSG_DONTWAIT;
    enum pbs_armed verdict = PBS_RX_UNARMED;

    pbs_crit_enter(self);
    pbs_lock(&s->file.lock);
    *sleeps = !nonblock && !(s->state == PBS_ADOPTED && s->nonblock);
    if (!pbs_rx_is(self, s, fd, flags)) {
        verdict = !pinned || !pbs_rx_pins(self, s) ? PBS_RX_ELSEWHERE
                  : s->armed                       ? PBS_RX_ARMED
                                                   : PBS_RX_GONE;
    } else if (pbs_sock_holds(s)) {
        verdict = PBS_RX_HELD; /* came meanwhile */
    } else if (self->plain) {
        verdict = PBS_RX_UNARMED; /* in a handler that interrupted a plain call */
    } else if (look_only ? s->armed && s->ring == self->ring : pbs_adopt(self, s, fd, *sleeps)) {
        verdict = PBS_RX_ARMED;
        *sleeps = !nonblock && !s->nonblock;
    } else if (!pbs_fdtab_is(fd, &s->file)) {
        verdict = PBS_RX_ELSEWHERE;
    }
    if (verdict == PBS_RX_ARMED && *sleeps && !pinned) {
        atomic_store_explicit(&self->wait_signal, PBS_SIG_NONE, memory_order_relaxed);
        self->waiting_life = s->life;
        atomic_store(&self->waiting, s);
    }
    if (verdict == PBS_RX_UNARMED) {
        pbs_rx_begin_plain(self, s);
    }
    pbs_unlock(&s->file.lock);
    pbs_crit_leave(self);
    return verdict;
}

void pbs_rx_step_back(struct pbs_thread *self, struct pbs_sock *s)
{
    if (pbs_unlikely(!self->ring)) /* a handler forked: here is its child */
        return;
    pbs_ring_cancel(self->ring, s, PBS_WHY_policy);
    pbs_crit_enter(self);
    pbs_lock(&s->file.lock);
    if (s->state == PBS_ADOPTED)
        s->state = PBS_WATCHED;
    pbs_unlock(&s->file.lock);
    pbs_crit_leave(self);
}
