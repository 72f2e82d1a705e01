#include "rx.h"

#include <errno.h>
#include <pthread.h>

#include "conf.h"
#include "user.h"

/* What take() found. Positive: bytes. Small negative: -errno. */
enum { NOTHING = 0, STALE = -200001 };

/* Flags that do not change what a receive on TCP does when bytes are held. */
#define SIMPLE                                                                                     \
    (MSG_DONTWAIT | MSG_NOSIGNAL | MSG_CMSG_CLOEXEC | MSG_WAITFORONE | PBS_RX_READ | PBS_RX_ONCE)

/* Step 1: bytes that we hold, then the error that we hold. pinned: the call has slept for s. */
static inline ssize_t take(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                           long long flags, bool pinned)
{
    size_t n = atomic_load_explicit(&s->held, memory_order_relaxed), left = dst->left;
    ssize_t r = NOTHING;

    if (n > left)
        n = left;
    if (n && !(flags & MSG_TRUNC) && pbs_unlikely(!pbs_rx_prove(self, dst, n)))
        return -EFAULT;
    pbs_crit_enter(self);
    pbs_lock(&s->file.lock);
    if (pbs_unlikely(!pbs_rx_is(self, s, fd, flags) && !(pinned && pbs_rx_pins(self, s)))) {
        r = STALE;
        goto out;
    }
    if (n) {
        if (pbs_unlikely(flags & MSG_TRUNC)) {
            size_t gone = pbs_sock_drop(s, n, pbs_ring_home, s);

            pbs_dst_advance(dst, gone);
            r = (ssize_t)gone;
        } else {
            dst->left = n; /* what is proved, whatever has arrived since */
            r = (ssize_t)pbs_sock_take(s, dst, pbs_ring_home, s);
            dst->left = left - (size_t)r;
        }
        if (!s->pieces && !s->armed)
            pbs_ring_forget(s);
    } else if (!s->pieces && s->error) {
        r = dst->done ? -EIO : -pbs_sock_take_error(s); /* bytes done win, the error stays */
    }
out:
    pbs_unlock(&s->file.lock);
    pbs_crit_leave(self);
    return r;
}

/* Nothing of s can be behind what is held, as far as anybody was ever told. */
static inline bool dry(struct pbs_thread *self, struct pbs_sock *s)
{
    return s->at_end || (s->armed && !s->unverified && pbs_sock_dry(s, self->ready_epoch) &&
                         s->ring == self->ring && !pbs_ring_pending(self->ring));
}

/*
 * Held bytes were fewer than asked for: the kernel would have given those behind them too. True:
 * more came into the held bytes, take again. False: dst has all that there is.
 */
static bool top_up(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                   long long flags)
{
    if (pbs_user_confined || dry(self, s))
        return false;
    if (s->armed && s->ring == self->ring) {
        bool empty = pbs_rx_look(self, s);

        if (pbs_sock_holds(s))
            return s->held > 0;
        if (empty)
            return false;
    }
    return pbs_fdtab_is(fd, &s->file) && pbs_rx_top_up(self, s, fd, dst, (int)flags);
}

static ssize_t count_served(struct pbs_thread *self, struct pbs_sock *s, ssize_t r)
{
    pbs_count(self, served_calls);
    pbs_policy_served(&s->tally);
    if (r > 0)
        pbs_count_n(self, served_bytes, r);
    return r;
}

/* With nothing done, r; else the bytes done, which win over any error. */
static ssize_t done_or(struct pbs_thread *self, struct pbs_sock *s, const struct pbs_dst *dst,
                       ssize_t r)
{
    return count_served(self, s, dst->done ? (ssize_t)dst->done : r);
}

/* Nothing is held: the plain call, unless something came meanwhile (PBS_RX_LOOK: look again). */
static ssize_t plain_now(struct pbs_thread *self, struct pbs_sock *s)
{
    ssize_t r = PBS_RX_LOOK;

    pbs_crit_enter(self);
    if (!pbs_sock_holds(s)) {
        pbs_rx_begin_plain(self, s);
        r = PBS_RX_PLAIN;
    }
    pbs_crit_leave(self);
    return r;
}

/* Steps 2 and 3 for a call that may not sleep, nothing held. PBS_RX_LOOK: something is now. */
static ssize_t empty(struct pbs_thread *self, struct pbs_sock *s, const struct pbs_dst *dst)
{
    bool is_empty = pbs_rx_look(self, s);

    if (pbs_sock_holds(s))
        return PBS_RX_LOOK;
    return dst->done || is_empty ? done_or(self, s, dst, -EAGAIN) : plain_now(self, s);
}

/* Before the first sleep after an arming that brought bytes (s->unverified): is there an error
 * behind them? PBS_RX_LOOK: look again; PBS_RX_SLEEP: nothing is there. */
static ssize_t verify(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                      long long flags, bool look_only)
{
    ssize_t r;

    if (!s->unverified || !pbs_fdtab_is(fd, &s->file))
        return PBS_RX_SLEEP;
    pbs_rx_look(self, s); /* what the ring can bring it brings first */
    if (pbs_sock_holds(s))
        return PBS_RX_LOOK;
    if (!s->armed)
        return PBS_RX_LOOK;
    if (look_only)
        return plain_now(self, s);
    r = pbs_rx_ask(self, s, fd, dst, (int)flags);
    if (r == -EAGAIN)
        return PBS_RX_SLEEP;
    if (r == PBS_RX_PASS || (r > 0 && (flags & MSG_WAITALL) && dst->left))
        return PBS_RX_LOOK;
    if (dst->done && r < 0)
        pbs_rx_keep_error(s, r);
    return done_or(self, s, dst, r);
}

/* A call that consumes nothing, and something is there: its answer. False: nothing is. */
static bool looked(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                   long long flags, ssize_t *r)
{
    if (!pbs_sock_holds(s))
        return false;
    if ((flags & MSG_PEEK) && dst->left) {
        *r = pbs_rx_peek(self, s, fd, dst, (int)flags);
        return *r != PBS_RX_PASS;
    }
    *r = 0;
    if (!pbs_sock_unread(s)) { /* len 0: an error is given all the same */
        pbs_crit_enter(self);
        pbs_lock(&s->file.lock);
        *r = -pbs_sock_take_error(s);
        pbs_unlock(&s->file.lock);
        pbs_crit_leave(self);
    }
    return true;
}

/* Step 1 as the call wants it. True: *r is the answer, or PBS_RX_AGAIN; false: it has to wait for more. */
static bool served(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                   long long flags, bool pinned, ssize_t *r)
{
    bool all = flags & MSG_WAITALL;

    if (pbs_unlikely(pbs_sock_spill(s) != NULL)) {
        *r = pbs_rx_spilled(self, s, fd, dst, flags);
        if (*r < 0 || !dst->left || (dst->done && pbs_sock_error(s))) {
            *r = done_or(self, s, dst, *r);
            return true;
        }
    }
    if (s->held && s->held < dst->left && !dst->done && !(flags & MSG_TRUNC) && !dry(self, s) &&
        pbs_rx_faults(self, s, fd, dst)) {
        *r = -EFAULT;
        return true;
    }
    *r = take(self, s, fd, dst, flags, pinned);
    while (*r >= 0 && dst->left && dst->done && !all && top_up(self, s, fd, dst, flags))
        *r = take(self, s, fd, dst, flags, pinned);
    if (*r == STALE && !dst->done) {
        *r = PBS_RX_AGAIN;
        return true;
    }
    if (*r >= 0 && dst->left && (all || !dst->done))
        return false;
    *r = done_or(self, s, dst, *r);
    return true;
}

/* A number of ours for s, or else another one of the program's; -1: there is none. */
static int another_number(struct pbs_sock *s)
{
    unsigned lo = 0;

    if (s->ghost >= 0 || !s->file.nfds)
        return s->ghost;
    for (int fd; (fd = pbs_fdtab_next(lo, ~0U)) >= 0; lo = (unsigned)fd + 1)
        if (pbs_fdtab_find(fd) == &s->file)
            return fd;
    return -1;
}

/* Its number is gone and its request has ended: on by another one, as by the reference that the kernel's own
 * call would have. */
static ssize_t by_ghost(struct pbs_thread *self, struct pbs_sock *s, struct pbs_dst *dst,
                        long long flags)
{
    int fd = another_number(s);
    ssize_t r;

    if (fd < 0)
        return done_or(self, s, dst, 0);
    pbs_rx_begin_plain(self, s);
    r = pbs_rx_rest(self, s, fd, dst, (int)flags);
    if (r == -EINTR && !(flags & PBS_RX_ONCE) &&
        atomic_load_explicit(&self->wait_signal, memory_order_relaxed) == PBS_SIG_RESTART)
        return PBS_RX_AGAIN;
    return r;
}

/* What is left of the call is the kernel's. */
static ssize_t by_number(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                         long long flags, bool sleeps)
{
    ssize_t r = pbs_rx_rest(self, s, fd, dst, (int)flags | (sleeps ? 0 : MSG_DONTWAIT));

    return r == -ESTALE ? PBS_RX_AGAIN : r;
}

static PBS_COLD ssize_t slow(struct pbs_thread *self, struct pbs_sock *s, int fd,
                             struct pbs_dst *dst, long long flags)
{
    bool wanted = dst->left, look_only = (flags & MSG_PEEK) || !wanted, pinned = false,
         sleeps = true;
    int64_t deadline = 0;
    ssize_t r;

    for (;;) {
        if (look_only ? looked(self, s, fd, dst, flags, &r)
                      : served(self, s, fd, dst, flags, pinned, &r))
            break;
        switch (pbs_rx_prepare(self, s, fd, flags, look_only, pinned, &sleeps)) {
        case PBS_RX_ELSEWHERE:
            r = dst->done ? done_or(self, s, dst, 0) : PBS_RX_AGAIN;
            goto out;
        case PBS_RX_GONE:
            r = by_ghost(self, s, dst, flags);
            goto out;
        case PBS_RX_UNARMED:
            r = PBS_RX_PLAIN;
            if (dst->done || (flags & PBS_RX_ONCE))
                r = by_number(self, s, fd, dst, flags, sleeps);
            goto out;
        case PBS_RX_HELD:
            continue;
        case PBS_RX_ARMED:
            break;
        }
        if (pbs_sock_holds(s))
            continue;
        if (!sleeps)
            r = empty(self, s, dst);
        else if (wanted)
            r = verify(self, s, fd, dst, flags, look_only);
        else
            r = plain_now(self, s); /* len 0: whatever wakes the kernel's wait ends it */
        if (r == PBS_RX_SLEEP) {
            pinned = true;
            if (s->timeout && !deadline)
                deadline = pbs_now_ns() + s->timeout;
            r = pbs_rx_sleep(self, s, deadline, dst->done || (flags & PBS_RX_ONCE));
        } else if (r != PBS_RX_LOOK) {
            if (r == PBS_RX_PLAIN && (flags & PBS_RX_SAME))
                r = by_number(self, s, fd, dst, flags, sleeps);
            break;
        }
        if (r != PBS_RX_LOOK) {
            if (r != PBS_RX_AGAIN)
                r = done_or(self, s, dst, r);
            break;
        }
        if (pbs_policy_wakeup(&s->tally, pbs_conf.policy))
            pbs_rx_step_back(self, s);
    }
out:
    if (pinned || atomic_load_explicit(&self->waiting, memory_order_relaxed) == s)
        pbs_rx_unpin(self, s);
    return r;
}

/* All n bytes that are held, in one piece of an armed socket's ring: it goes home. s locked. */
static inline bool take_only(struct pbs_sock *s, void *buf, size_t n)
{
    struct pbs_piece *piece = s->armed ? pbs_sock_take_only(s, buf, n) : NULL;

    if (pbs_unlikely(!piece))
        return false;
    pbs_ring_home(s, piece);
    return true;
}

/*
 * The way of nearly every call: bytes are held, more than are asked for, or all that there is in one
 * piece. 0: it is not that easy. One buffer, no flag that matters; s is this thread's.
 */
static inline ssize_t hit(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst)
{
    size_t n = dst->left, held = atomic_load_explicit(&s->held, memory_order_relaxed);
    void *buf = dst->iov->iov_base;
    bool all = held <= n, ok = false;

    if (pbs_unlikely(dst->n != 1 || !held || (held < n && !dry(self, s))))
        return 0;
    if (all)
        n = held;
    if (pbs_unlikely(!pbs_user_writable(self, buf, n)))
        return 0;
    pbs_crit_enter(self);
    pbs_lock(&s->file.lock);
    if (pbs_likely(pbs_fdtab_is(fd, &s->file)))
        ok = all ? take_only(s, buf, n) : pbs_sock_take_front(s, buf, n);
    pbs_unlock(&s->file.lock);
    pbs_crit_leave(self);
    if (pbs_unlikely(!ok))
        return 0;
    pbs_count(self, served_calls);
    pbs_count_n(self, served_bytes, n);
    pbs_policy_served(&s->tally);
    return (ssize_t)n;
}

/* Everything but a hit: steps 1 to 5 with all their departures. */
static PBS_COLD ssize_t miss(struct pbs_thread *self, struct pbs_sock *s, int fd,
                             struct pbs_dst *dst, long long flags)
{
    ssize_t r;

    for (;;) {
        if (flags & (MSG_OOB | MSG_ERRQUEUE)) {
            pbs_release(self, s, PBS_WHY_oob);
            return PBS_RX_PASS;
        }
        if (!dst->left && (flags & PBS_RX_READ))
            return PBS_RX_PASS; /* read() of nothing asks for nothing */
        r = slow(self, s, fd, dst, flags);
        if (r != PBS_RX_AGAIN)
            return r;
        if (flags & PBS_RX_SAME)
            return -ESTALE;
        pbs_attend();
        s = (struct pbs_sock *)pbs_fdtab_find(fd);
        if (!s || s->file.kind != PBS_FILE_SOCK)
            return PBS_RX_PASS;
        pbs_touch(self, s);
    }
}

ssize_t pbs_rx(int fd, struct pbs_file *f, struct pbs_dst *dst, long long flags)
{
    struct pbs_thread *self = pbs_thread_get();
    struct pbs_sock *s = (struct pbs_sock *)f;
    ssize_t r;

    if (pbs_unlikely(!self || f->kind != PBS_FILE_SOCK))
        return PBS_RX_PASS;
    pbs_attend();
    if (!__libc_single_threaded)
        pthread_testcancel();
    if (pbs_unlikely(atomic_load_explicit(&s->user, memory_order_relaxed) != self->id))
        pbs_touch(self, s);
    pbs_count(self, receives);
    if (pbs_likely(!(flags & ~SIMPLE) && dst->left)) {
        r = hit(self, s, fd, dst);
        if (pbs_likely(r))
            return r;
        /* Empty, not allowed to sleep, and nothing said otherwise: no kernel entry. What is held is
         * looked at last: a handler may have drained the socket in between. */
        if ((s->nonblock || (flags & MSG_DONTWAIT)) && s->armed && s->state == PBS_ADOPTED &&
            !s->at_end && dry(self, s) && !pbs_sock_holds(s)) {
            pbs_count(self, served_calls);
            return -EAGAIN;
        }
    }
    return miss(self, s, fd, dst, flags);
}
