/* epoll: the wait, in the ring or the kernel's. What it reports is in ready_report.c. */
#include "ready.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>

#include "user.h"

/*
 * For a caller that does not wait: no member is readable of which this thread was told so, by other
 * means, before the ring knows.
 */
static bool all_dry(struct pbs_thread *self, struct pbs_epoll *set)
{
    struct pbs_item *it, *tmp;
    bool dry = true;

    if (set->dry_epoch == self->ready_epoch)
        return true;
    pbs_crit_enter(self);
    pbs_lock(&set->file.lock);
    HASH_ITER(hh, set->by_key, it, tmp) {
        struct pollfd p = {.fd = it->fd, .events = POLLIN};

        if (!it->masked || pbs_sock_dry(it->sock, self->ready_epoch))
            continue;
        pbs_count(self, kernel_entries);
        if (pbs_sys3(SYS_poll, &p, 1, 0) == 0)
            pbs_sock_set_dry(it->sock, self->ready_epoch);
        else
            dry = false;
    }
    pbs_unlock(&set->file.lock);
    pbs_crit_leave(self);
    if (dry)
        set->dry_epoch = self->ready_epoch;
    return dry;
}

/* The kernel's side of the instance wakes this thread's ring, too. */
static bool watched(struct pbs_thread *self, struct pbs_epoll *set, int epfd)
{
    bool ok = set->watch.armed;

    if (pbs_likely(ok))
        return true;
    pbs_crit_enter(self);
    ok = pbs_ring_watch(self->ring, &set->watch, epfd);
    pbs_crit_leave(self);
    return ok;
}

/* A handler has run, or one might have. As in the kernel an event wins; and so does the time, if it
 * was over when a signal that was masked meanwhile came through. */
static int interrupted(struct pbs_thread *self, struct pbs_epoll *set, int epfd,
                       struct epoll_event *ev, int max, int r)
{
    bool quiet = self->wait_quiet && r != -ETIME && self->wait_signal != PBS_SIG_NONE;
    int n = 0;

    if (!quiet && pbs_fdtab_is(epfd, &set->file))
        n = pbs_report(self, set, epfd, ev, max, true, false);

    return n || r == -ETIME ? n : -EINTR;
}

#define NOT_TAKEN (-200000)

/* The wait in the ring. Events, 0 when the time is over, -errno; NOT_TAKEN: it is the kernel's to wait
 * again, for what is left. */
static int wait_taken(struct pbs_thread *self, struct pbs_epoll *set, int epfd,
                      struct epoll_event *ev, int max, int64_t ns, int64_t deadline,
                      const sigset_t *mask)
{
    struct pbs_ring *ring = self->ring;
    bool over = !ns;

    for (unsigned passes = 0;; passes++) {
        bool handled;
        int n, r;

        if (!watched(self, set, epfd))
            return NOT_TAKEN;
        if (pbs_ring_pending(ring))
            pbs_ring_drain(ring);
        n = pbs_report(self, set, epfd, ev, max, true, false);
        if (n)
            return n;
        if (!pbs_epoll_taken(self, set))
            return NOT_TAKEN;
        if (set->watch.fired || (pbs_ring_pending(ring) && passes <= ring->armed / 20 + 1))
            continue;
        if (over && (all_dry(self, set) || passes > ring->armed / 20 + 1))
            return 0;
        if (over)
            continue;
        r = pbs_ring_wait(ring, deadline, true, mask);
        handled = atomic_load_explicit(&self->wait_signal, memory_order_relaxed) != PBS_SIG_NONE;
        if (self->ring != ring)
            return handled ? -EINTR : NOT_TAKEN;
        if (handled || r == -EINTR)
            return interrupted(self, set, epfd, ev, max, r);
        over = r == -ETIME;
        passes = 0;
    }
}

/* No longer in the ring: what the poll on the instance would wake is nobody's business. */
static void leave(struct pbs_thread *self, struct pbs_epoll *set)
{
    if (self->ring && set->watch.ring == self->ring && set->watch.armed)
        pbs_ring_unwatch(self->ring, &set->watch);
    set->reported = 0;
}

static int epoll_taken(struct pbs_thread *self, struct pbs_epoll *set, int epfd,
                       struct epoll_event *ev, int max, struct pbs_span *span, const sigset_t *mask)
{
    int64_t begin = span->ns > 0 ? pbs_now_ns() : 0;
    int r;

    atomic_store_explicit(&self->wait_signal, PBS_SIG_NONE, memory_order_relaxed);
    r = wait_taken(self, set, epfd, ev, max, span->ns, begin ? begin + span->ns : 0, mask);
    if (r != NOT_TAKEN) {
        pbs_count(self, served_waits);
        pbs_attend();
        return r;
    }
    leave(self, set);
    if (begin) {
        span->ns -= pbs_now_ns() - begin;
        span->ns = span->ns < 0 ? 0 : span->ns;
        span->used = true;
    }
    return r;
}

bool pbs_ready_epoll(struct pbs_epoll *set, int epfd, struct epoll_event *ev, int max,
                     struct pbs_span *span, const sigset_t *mask, int *r)
{
    struct pbs_thread *self = pbs_thread_get();
    uint64_t nobody = 0;
    int n = NOT_TAKEN, saved = errno;
    bool sane = max > 0 && (size_t)max <= INT_MAX / sizeof(*ev) &&
                !pbs_user_absurd(ev, (size_t)max * sizeof(*ev));

    if (!self)
        return false;
    if (!atomic_compare_exchange_strong(&set->waiter, &nobody, self->id) && nobody != self->id)
        pbs_epoll_refuse(self, set); /* a second thread waits on it */
    if (!__libc_single_threaded)
        pthread_testcancel();
    if (!set->nmasked && set->nready)
        pbs_report_forget(self, set);
    if (sane && pbs_epoll_taken(self, set))
        n = epoll_taken(self, set, epfd, ev, max, span, mask);
    if (n == NOT_TAKEN) {
        leave(self, set);
        if (set->nmasked)
            pbs_epoll_unmask(self, set);
        n = 0;
        if (sane)
            n = pbs_report(self, set, epfd, ev, max, false, true);
        else
            self->plain++;
        if (!n)
            return false;
    }
    errno = n < 0 ? -n : saved;
    *r = n < 0 ? -1 : n;
    return true;
}

int pbs_ready_epoll_slept(struct pbs_epoll *set, int epfd, struct epoll_event *ev, int n)
{
    struct pbs_thread *self = pbs_self;

    n = pbs_ready_slept(n);
    if (!self ||
        pbs_likely(n <= 0 || (!atomic_load_explicit(&set->nready, memory_order_relaxed) &&
                              !atomic_load_explicit(&set->turns, memory_order_relaxed))) ||
        !pbs_fdtab_is(epfd, &set->file))
        return n;
    pbs_report_add(self, set, epfd, ev, n);
    return n;
}
