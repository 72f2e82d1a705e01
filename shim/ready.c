#include "ready.h"

#include <errno.h>

#include "real.h"
#include "user.h"
#include "visit.h"

int pbs_ready_told(int r)
{
    pbs_count(pbs_self, kernel_entries);
    if (r > 0)
        pbs_self->ready_epoch++;
    return r;
}

int pbs_ready_slept(int r)
{
    struct pbs_thread *self = pbs_self;

    if (!self)
        return r;
    if (self->plain)
        self->plain--;
    self->call++;
    pbs_attend(); /* what another thread closed meanwhile was kept open for us */
    return pbs_ready_told(r);
}

bool pbs_ready_time_ok(const struct timespec *t)
{
    struct pbs_thread *self = pbs_thread_get();

    return !t || (self && pbs_user_readable(self, t, sizeof(*t)) && t->tv_sec >= 0 &&
                  (unsigned long)t->tv_nsec < 1000000000);
}

bool pbs_ready_mask_ok(const sigset_t *mask)
{
    struct pbs_thread *self = pbs_thread_get();

    return !mask || (self && pbs_user_readable(self, mask, 8));
}

short pbs_ready_bits(struct pbs_file *f, short events)
{
    struct pbs_sock *s = (struct pbs_sock *)f;
    short bits = 0;

    if (f->kind == PBS_FILE_EPOLL) {
        if (pbs_epoll_holds((struct pbs_epoll *)f))
            bits = POLLIN | POLLRDNORM;
        return bits & events;
    }
    if (pbs_sock_holds(s))
        bits = POLLIN | POLLRDNORM;
    bits &= events;
    if (pbs_sock_error(s))
        bits |= POLLERR;
    return bits;
}

void pbs_ready_name(struct pbs_thread *self, int fd)
{
    struct pbs_sock *s = (struct pbs_sock *)pbs_fdtab_find(fd);

    if (s && s->file.kind == PBS_FILE_SOCK)
        pbs_visit(self, s);
}

void pbs_ready_look_at(struct pbs_thread *self, int fd, struct pbs_file *f, bool urgent)
{
    if (f->kind == PBS_FILE_EPOLL) {
        pbs_epoll_refuse(self, (struct pbs_epoll *)f);
    } else if (f->kind == PBS_FILE_SOCK) {
        pbs_touch(self, (struct pbs_sock *)f);
        if (urgent)
            pbs_release_fd(fd, PBS_WHY_oob);
    }
}

/* ---- the wait itself in the ring ---- */

#define INPUT (POLLIN | POLLRDNORM | POLLRDHUP | POLLERR | POLLHUP | POLLNVAL)

bool pbs_ready_seat(struct pbs_thread *self, int fd, short events, struct pbs_seat *seat)
{
    struct pbs_sock *s = (struct pbs_sock *)pbs_fdtab_find(fd);

    if (!s || s->file.kind != PBS_FILE_SOCK || (events & ~INPUT) || self->plain ||
        !pbs_ring_can_sleep(self->ring))
        return false;
    *seat = (struct pbs_seat){.s = s, .life = s->life, .fd = fd, .events = events};
    return s->armed && s->state == PBS_ADOPTED && s->ring == self->ring && s->user == self->id;
}

static bool any_ready(struct pbs_seat *v, unsigned n)
{
    bool any = false;

    for (unsigned i = 0; i < n; i++) {
        v[i].bits = pbs_ready_bits(&v[i].s->file, v[i].events);
        any |= v[i].bits != 0;
    }
    return any;
}

/* What the ring will bring is all that can happen on them. */
static bool all_armed(struct pbs_thread *self, const struct pbs_seat *v, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (!v[i].s->armed || v[i].s->state != PBS_ADOPTED || v[i].s->ring != self->ring)
            return false;
    return true;
}

static bool gone(const struct pbs_seat *seat)
{
    return !pbs_fdtab_is(seat->fd, &seat->s->file);
}

/* A number was closed under us. The kernel looks at the numbers again when it wakes up. */
static bool any_gone(const struct pbs_seat *v, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (gone(&v[i]))
            return true;
    return false;
}

/* There is no end or error behind what is held, of which the kernel has more to say. */
static bool bytes_alone(struct pbs_thread *self, const struct pbs_seat *v, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (v[i].s->unverified)
            return false;
    return all_armed(self, v, n) && !any_gone(v, n);
}

/* The ring might not know of it: an error from before the arming, and, for a caller who does not wait,
 * that it is ready, as this thread was told. */
static bool doubtful(struct pbs_thread *self, const struct pbs_seat *seat, bool now)
{
    return seat->s->unverified || (now && !pbs_sock_dry(seat->s, self->ready_epoch));
}

/* Asks the kernel, once, for those. False: there is something, or it cannot be said. */
static PBS_COLD bool verify_slow(struct pbs_thread *self, const struct pbs_seat *v, unsigned n,
                                 bool now)
{
    struct pollfd p[PBS_SEATS];
    unsigned k = 0;

    for (unsigned i = 0; i < n; i++)
        if (doubtful(self, &v[i], now))
            p[k++] = (struct pollfd){.fd = v[i].fd, .events = POLLIN};
    if (pbs_ready_told((int)pbs_sys3(SYS_poll, p, k, 0)))
        return false;
    for (unsigned i = 0; i < n; i++) {
        if (!v[i].s->unverified && !now)
            continue;
        v[i].s->unverified = false;
        pbs_sock_set_dry(v[i].s, self->ready_epoch);
    }
    return true;
}

static bool verify(struct pbs_thread *self, const struct pbs_seat *v, unsigned n, bool now)
{
    for (unsigned i = 0; i < n; i++)
        if (pbs_unlikely(doubtful(self, &v[i], now)))
            return verify_slow(self, v, n, now);
    return true;
}

/* The kernel's word on all of them, and ours on what the numbers stand for by now. */
static PBS_COLD bool ask(struct pbs_seat *v, unsigned n)
{
    struct pollfd p[PBS_SEATS];
    bool any = false;

    for (unsigned i = 0; i < n; i++)
        p[i] = (struct pollfd){.fd = v[i].fd, .events = v[i].events};
    pbs_ready_told((int)pbs_sys3(SYS_poll, p, n, 0));
    for (unsigned i = 0; i < n; i++) {
        struct pbs_file *f = pbs_fdtab_find(v[i].fd);

        v[i].bits = p[i].revents;
        if (!gone(&v[i]) && !(p[i].revents & (POLLERR | POLLHUP)))
            v[i].s->unverified = false; /* no error was there */
        if (f)
            v[i].bits |= pbs_ready_bits(f, v[i].events);
        any |= v[i].bits != 0;
    }
    return any;
}

static enum pbs_served serve(struct pbs_thread *self, struct pbs_seat *v, unsigned n,
                             int64_t deadline, bool now, const sigset_t *mask)
{
    struct pbs_ring *ring = self->ring;
    unsigned passes;
    bool handled;
    int r;

    for (;;) {
        for (passes = ring->armed / 20 + 2; pbs_ring_pending(ring) && passes; passes--)
            pbs_ring_drain(ring);
        if (any_ready(v, n))
            return (passes && bytes_alone(self, v, n)) || ask(v, n) ? PBS_SERVED_READY
                                                                    : PBS_SERVED_NOT;
        if (!all_armed(self, v, n))
            return any_gone(v, n) && ask(v, n) ? PBS_SERVED_READY : PBS_SERVED_NOT;
        if (!verify(self, v, n, now))
            return PBS_SERVED_NOT;
        if (now) /* a signal that the mask lets in ends it, if nothing is ready */
            return mask ? PBS_SERVED_NOT : PBS_SERVED_NONE;
        r = pbs_ring_wait(ring, deadline, false, mask);
        if (self->ring != ring) /* a handler forked, here is its child, and it knows no number */
            return PBS_SERVED_EINTR;
        handled = atomic_load_explicit(&self->wait_signal, memory_order_relaxed) != PBS_SIG_NONE;
        if (handled && self->wait_quiet && r != -ETIME)
            return PBS_SERVED_EINTR;
        if (any_ready(v, n) || (r != -ETIME && !handled))
            continue; /* as in the kernel readiness wins over a signal */
        /* So do an end, of which the kernel says more, and a number that stands for something else. */
        if ((!all_armed(self, v, n) || any_gone(v, n)) && ask(v, n))
            return PBS_SERVED_READY;
        /* And so does the time, if the signal was masked while it ran. */
        return r == -ETIME ? PBS_SERVED_NONE : PBS_SERVED_EINTR;
    }
}

/* Its last number was closed meanwhile, and its request has ended. */
static void let_go(struct pbs_thread *self, const struct pbs_seat *seat)
{
    struct pbs_sock *s = seat->s;

    if (pbs_likely(s->file.nfds))
        return;
    pbs_crit_enter(self);
    pbs_lock(&s->file.lock);
    if (s->life == seat->life && !s->file.nfds && !s->armed)
        pbs_ring_dispose(s);
    else
        pbs_unlock(&s->file.lock);
    pbs_crit_leave(self);
}

enum pbs_served pbs_ready_serve(struct pbs_thread *self, struct pbs_seat *v, unsigned n,
                                struct pbs_span *span, const sigset_t *mask)
{
    int64_t begin = span->ns > 0 ? pbs_now_ns() : 0;
    enum pbs_served verdict;

    atomic_store_explicit(&self->wait_signal, PBS_SIG_NONE, memory_order_relaxed);
    self->call++;
    for (unsigned i = 0; i < n; i++)
        v[i].s->call = self->call;
    atomic_store(&self->polling, true);
    /* From here on a close leaves the requests; one that came before has taken a number away. */
    for (unsigned i = 0; i < n; i++)
        if (!pbs_fdtab_is(v[i].fd, &v[i].s->file))
            n = 0;
    verdict = n ? serve(self, v, n, begin ? begin + span->ns : 0, !span->ns, mask) : PBS_SERVED_NOT;
    if (begin) {
        span->ns -= pbs_now_ns() - begin;
        span->ns = span->ns < 0 ? 0 : span->ns;
        span->used = true;
    }
    if (atomic_exchange(&self->polling,
                        false)) /* else a handler has ended it: pbs_attend sees to it */
        for (unsigned i = 0; i < n; i++)
            let_go(self, &v[i]);
    self->call++;
    pbs_attend();
    if (verdict != PBS_SERVED_NOT)
        pbs_count(self, served_waits);
    return verdict;
}
