/* How a thread takes sockets back from another thread's ring. The protocol is in ring.h. */
#include "ring.h"

#include <utlist.h>

#include "visit.h"

#define MAX_FINISH 64 /* enters to see cancelled requests end; each runs 20 items or more */

static atomic_uint sweep;                /* one number for each pass over all rings */
static struct pbs_thread *_Atomic ender; /* the thread in which the process ends */

/* Puts s on its ring's list. ring->lock held. */
static void push(struct pbs_ring *r, struct pbs_sock *s, enum pbs_reason why)
{
    if (s->revoked)
        return;
    if (!atomic_fetch_add(&r->revokes, 1))
        atomic_fetch_add(&pbs_attention, 1);
    s->revoked = true;
    s->revoke_reason = (uint8_t)why;
    LL_PREPEND2(r->revoked, s, revoke_next);
}

void pbs_ring_unlist(struct pbs_ring *r, struct pbs_sock *s)
{
    if (!s->revoked)
        return;
    s->revoked = false;
    LL_DELETE2(r->revoked, s, revoke_next);
    if (atomic_fetch_sub(&r->revokes, 1) == 1)
        atomic_fetch_sub(&pbs_attention, 1);
}

/* What is on the list is so before in_enter is looked at. (A read-modify-write, as tsan knows no
 * fences.) */
static void full_barrier(struct pbs_ring *r)
{
    atomic_fetch_add(&r->waiters, 0);
}

/* Wakes the owner if it is in the kernel and waits until it has been out once. No lock held. */
static void kick_and_wait(struct pbs_ring *r)
{
    unsigned before;

    /* seq_cst, as all here: partners are in_enter and waiters in ring_enter.c */
    atomic_fetch_add(&r->waiters, 1);
    before = atomic_load(&r->answers);
    if (atomic_load(&r->in_enter)) {
        pbs_count(pbs_self, kicks);
        atomic_fetch_add(&r->kick, 1);
        pbs_futex_wake_shared(&r->kick);
    }
    while (atomic_load(&r->in_enter) && atomic_load(&r->answers) == before)
        pbs_futex_wait(&r->answers, before);
    atomic_fetch_sub(&r->waiters, 1);
}

void pbs_ring_nudge(struct pbs_ring *r)
{
    atomic_store(&r->nudged,
                 true); /* partner: pbs_ring_wait, which has read `kick` before it looks */
    atomic_fetch_add(&r->kick, 1);
    pbs_futex_wake_shared(&r->kick);
}

void pbs_ring_revoke(struct pbs_sock *s, enum pbs_reason why)
{
    struct pbs_ring *r = s->ring;

    if (s->state != PBS_PASS) {
        s->state = PBS_PASS;
        pbs_count(pbs_self, passes);
        pbs_self->stats.pass[why]++;
    }
    if (!r || !s->armed)
        return;
    PBS_ASSERT(r->owner != pbs_self);
    pbs_lock(&r->lock);
    push(r, s, why);
    pbs_unlock(&r->lock);
    pbs_count(pbs_self, revokes);
    full_barrier(r);
    while (s->ring == r && s->armed && atomic_load(&r->in_enter)) {
        pbs_unlock(&s->file.lock);
        pbs_crit_leave(pbs_self);
        kick_and_wait(r);
        pbs_crit_enter(pbs_self);
        pbs_lock(&s->file.lock);
    }
    if (s->items)
        pbs_ring_unarmed(s);
}

static void revoke_all(struct pbs_ring *r, enum pbs_reason why)
{
    struct pbs_sock *s, *tmp;

    pbs_crit_enter(pbs_self);
    pbs_lock(&r->lock);
    HASH_ITER(hh, r->socks, s, tmp) {
        push(r, s, why);
    }
    pbs_unlock(&r->lock);
    full_barrier(r);
    pbs_crit_leave(pbs_self);
    if (atomic_load(&r->in_enter))
        kick_and_wait(r);
}

void pbs_ring_revoke_others(struct pbs_thread *self, enum pbs_reason why)
{
    unsigned now = atomic_fetch_add(&sweep, 1) + 1;
    struct pbs_ring *r;

    do {
        pbs_crit_enter(self);
        pbs_lock(pbs_ring_list_lock());
        for (r = pbs_ring_list(); r; r = r->next)
            if (r->owner != self && r->swept != now)
                break;
        if (r)
            r->swept = now;
        pbs_unlock(pbs_ring_list_lock());
        pbs_crit_leave(self);
        if (r)
            revoke_all(r, why);
    } while (r);
}

static void seal(struct pbs_ring *r, bool sealed)
{
    pbs_pbuf_seal(&r->pool, sealed);
    pbs_lock(&r->lock);
    for (struct pbs_pbuf *g = r->groups; g; g = g->next)
        pbs_pbuf_seal(g, sealed);
    pbs_unlock(&r->lock);
}

void pbs_ring_seal_others(struct pbs_thread *self, bool sealed)
{
    pbs_crit_enter(self);
    pbs_lock(pbs_ring_list_lock());
    for (struct pbs_ring *r = pbs_ring_list(); r; r = r->next)
        if (r->owner != self)
            seal(r, sealed);
    pbs_unlock(pbs_ring_list_lock());
    pbs_crit_leave(self);
}

bool pbs_ring_revoked_for(struct pbs_sock *s, enum pbs_reason why)
{
    bool yes;

    pbs_lock(&s->ring->lock);
    yes = s->revoked && s->revoke_reason == why;
    pbs_unlock(&s->ring->lock);
    return yes;
}

/* Takes one record from the list, and why it was there. */
static struct pbs_sock *pop(struct pbs_ring *r, enum pbs_reason *why)
{
    struct pbs_sock *s;

    pbs_lock(&r->lock);
    s = r->revoked;
    if (s) {
        *why = (enum pbs_reason)s->revoke_reason;
        pbs_ring_unlist(r, s);
    }
    pbs_unlock(&r->lock);
    return s;
}

bool pbs_ring_serve_revokes(struct pbs_ring *r)
{
    enum pbs_reason why;
    struct pbs_sock *s;
    bool any = false;

    if (!atomic_load(&r->revokes)) /* counted before in_enter is looked at, as the list is */
        return false;
    while ((s = pop(r, &why))) {
        pbs_lock(&s->file.lock);
        if (s->ring == r && s->armed) {
            if (!pbs_ring_cancel_sqe(r, s->rid)) {
                pbs_lock(&r->lock);
                push(r, s, why);
                pbs_unlock(&r->lock);
                pbs_unlock(&s->file.lock);
                break;
            }
            any = true;
            pbs_count(r->owner, cancels);
            r->owner->stats.cancel[why]++;
        }
        pbs_unlock(&s->file.lock);
    }
    return any;
}

void pbs_ring_finish_slow(struct pbs_ring *r)
{
    /* A request that was cancelled holds its file until its end has been reaped. */
    for (unsigned i = 0; i < MAX_FINISH; i++) {
        if (!atomic_load(&r->revokes) && !(r->cancelling && pbs_ring_pending(r)))
            break;
        pbs_ring_enter_now(r);
    }
    r->cancelling = false;
}

void pbs_ring_end_others(struct pbs_thread *self)
{
    struct pbs_thread *none = NULL;

    if (atomic_compare_exchange_strong(&ender, &none, self))
        atomic_fetch_add(&pbs_attention, 1); /* for good */
}

void pbs_ring_end_none(void)
{
    atomic_store(&ender, NULL);
}

void pbs_attend_slow(void)
{
    struct pbs_thread *self = pbs_self;
    struct pbs_sock *s;

    if (!self || self->crit)
        return;
    for (struct pbs_thread *last = atomic_load(&ender); last && last != self;)
        pbs_sys5(SYS_ppoll, NULL, 0, NULL, NULL, 0); /* handlers run on */
    if (self->ring && atomic_load_explicit(&self->ring->revokes, memory_order_relaxed))
        pbs_ring_drain(self->ring);
    if (self->ring)
        pbs_ring_tidy(self->ring);
    pbs_visits_over(self);
    s = atomic_exchange(&self->broken, NULL);
    if (!s)
        return;
    atomic_fetch_sub(&pbs_attention, 1);
    if (self->ring)
        pbs_ring_cancel_orphan(self->ring, s);
}
