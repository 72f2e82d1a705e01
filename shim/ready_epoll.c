/* epoll: the kernel's events and ours, merged. */
#include "ready.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>

#include "real.h"
#include "user.h"

static uint32_t item_bits(const struct pbs_item *it)
{
    uint32_t bits = 0;

    if (it->spent)
        return 0;
    if (pbs_item_holds(it))
        bits = EPOLLIN | EPOLLRDNORM;
    bits &= it->events;
    if (it->sock && pbs_sock_error(it->sock))
        bits |= EPOLLERR;
    return bits;
}

uint32_t pbs_ready_due(const struct pbs_item *it)
{
    return (it->events & EPOLLET) && !it->fresh ? 0 : item_bits(it);
}

static void reported(struct pbs_epoll *set, int epfd, struct pbs_item *it, bool by_kernel)
{
    struct epoll_event off = {.events = it->events & (EPOLLONESHOT | EPOLLET),
                              .data.u64 = it->data};

    it->round = set->round;
    it->fresh = false;
    if (it->events & EPOLLONESHOT) {
        it->spent = true;
        if (by_kernel || (it->key.file && !pbs_fdtab_is(it->fd, it->key.file)))
            return; /* it has disabled it, or cannot be told to */
        pbs_sys4(SYS_epoll_ctl, epfd, EPOLL_CTL_MOD, it->fd, &off);
    }
}

/* Drops members that hold nothing any more; counts those that are due. set locked. */
static int count_due(struct pbs_epoll *set)
{
    struct pbs_item *it, *next;
    int n = 0;

    for (it = set->ready; it; it = next) {
        next = it->next;
        pbs_item_unpoke(it, false);
        if (!pbs_item_holds(it))
            pbs_item_unlist(it);
        else if (pbs_ready_due(it))
            n++;
    }
    return n;
}

/* The kernel said `events` of it, and masked input is not among them: the end of the stream is input
 * as well, and what comes before it. */
static uint32_t input_bits(const struct pbs_item *it, uint32_t events)
{
    struct pollfd p = {.fd = it->fd, .events = POLLIN | POLLRDNORM};

    if (!it->masked || !(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) ||
        pbs_sys3(SYS_poll, &p, 1, 0) <= 0)
        return 0;
    return (uint32_t)p.revents & it->events & (EPOLLIN | EPOLLRDNORM);
}

/* Adds our bits to what the kernel reported of the same members. */
static void merge(struct pbs_thread *self, struct pbs_epoll *set, int epfd, struct epoll_event *ev,
                  int n)
{
    for (int i = 0; i < n; i++) {
        uint64_t data = ev[i].data.u64;
        struct pbs_item *it;

        HASH_FIND(hd, set->by_data, &data, sizeof(data), it);
        if (!it || it->twin) {
            self->ready_epoch++;
            continue;
        }
        if (it->poked) {
            pbs_item_unpoke(it, true);
            ev[i].events &= ~(uint32_t)EPOLLOUT;
            if (!ev[i].events) /* at least: and if it was read meanwhile, so it may be plainly */
                ev[i].events = it->events & (EPOLLIN | EPOLLRDNORM);
        }
        ev[i].events |= input_bits(it, ev[i].events);
        if ((ev[i].events & ~(uint32_t)EPOLLOUT) && it->sock && it->sock->armed)
            self->ready_epoch++; /* told that it is ready, before the ring knows */
        if (!pbs_item_holds(it))
            continue;
        ev[i].events |= item_bits(it);
        reported(set, epfd, it, true);
    }
}

/* What the kernel has beside our bits for a member that it did not name this time. */
static uint32_t other_bits(const struct pbs_item *it)
{
    /* The number that it was added by may stand for another file, while a dup keeps its own. */
    int fd = it->fd;
    struct pollfd p = {.events = (short)(it->events & (POLLOUT | POLLWRNORM | POLLRDHUP))};

    if (it->sock && !pbs_fdtab_is(fd, &it->sock->file))
        fd = pbs_fdtab_is(it->sock->fd, &it->sock->file) ? it->sock->fd : -1;
    p.fd = fd;
    return pbs_sys3(SYS_poll, &p, 1, 0) > 0 ? (uint32_t)(unsigned short)p.revents & ~POLLNVAL : 0;
}

#define MOST_FIRST 64

/* A level-triggered member that was in the last report: the kernel keeps it in its list, at that place,
 * until a wait finds that it was read. */
static bool has_stayed(const struct pbs_epoll *set, const struct pbs_item *it)
{
    return set->reported && it->last == set->reported && !(it->events & (EPOLLET | EPOLLONESHOT));
}

/*
 * News have an order, which a program may see. First what has stayed since the last report, then what the
 * ring told before the kernel had something else to say; the rest in the kernel's own order, and ours
 * behind. set locked.
 */
static void put_in_order(struct pbs_epoll *set, struct epoll_event *ev, int n)
{
    struct epoll_event first[MOST_FIRST];
    int64_t turn[MOST_FIRST];
    int k = 0, rest = n;

    for (int i = n - 1; i >= 0; i--) {
        uint64_t data = ev[i].data.u64;
        struct pbs_item *it;
        int64_t mine = -1;
        int at = k;

        HASH_FIND(hd, set->by_data, &data, sizeof(data), it);
        if (it && !it->twin && has_stayed(set, it))
            mine = it->place;
        else if (it && !it->twin && it->early == set->round)
            mine = INT64_C(1) << 32 | it->turn;
        if (mine < 0 || k == MOST_FIRST) {
            ev[--rest] = ev[i];
            continue;
        }
        for (; at > 0 && turn[at - 1] > mine; at--) {
            turn[at] = turn[at - 1];
            first[at] = first[at - 1];
        }
        turn[at] = mine;
        first[at] = ev[i];
        k++;
    }
    if (k)
        memcpy(ev, first, (size_t)k * sizeof(*ev));
}

/* Reported at this place. Our list is in the order of the reports, as the kernel's is. set locked. */
static void keep_place(struct pbs_epoll *set, struct pbs_item *it, int place)
{
    it->last = set->round;
    it->place = place;
    if (it->sock && !(it->events & EPOLLET))
        pbs_item_rotate(it);
}

static void keep_places(struct pbs_epoll *set, const struct epoll_event *ev, int n)
{
    for (int i = 0; i < n; i++) {
        uint64_t data = ev[i].data.u64;
        struct pbs_item *it;

        HASH_FIND(hd, set->by_data, &data, sizeof(data), it);
        if (it && !it->twin)
            keep_place(set, it, i);
    }
}

/*
 * The kernel's events first, if it is to be asked, ours merged into them, then those of ours that it
 * did not name. When it fills the array alone and we have more, up to half of the next array is
 * ours: nobody starves. set locked. Events, or -errno.
 */
static int collect(struct pbs_epoll *set, int epfd, struct epoll_event *ev, int max, int ours,
                   bool ask)
{
    struct pbs_thread *self = pbs_self;
    struct pbs_item *it, *last;
    int share = max, n = 0, kernels;
    bool fits;

    if (set->our_turn)
        share -= ours < (max + 1) / 2 ? ours : (max + 1) / 2;
    set->our_turn = false;
    if (share && ask) {
        /* The poll on the instance fires for a wake-up, not for a level: again, until nothing comes.
         * By no libc call, which is a cancellation point: a lock is held. */
        set->watch.fired = set->watch.told = set->watch.echo = false;
        n = (int)pbs_sys4(SYS_epoll_wait, epfd, ev, share, 0);
        pbs_count(self, kernel_entries);
        if (n)
            set->watch.fired = true;
        if (n < 0)
            return n;
        merge(self, set, epfd, ev, n);
    }
    kernels = n;
    fits = ours <= max - n;
    last = set->ready ? set->ready->prev : NULL;
    for (it = set->ready; it;) {
        struct pbs_item *next = it == last ? NULL : it->next;
        uint32_t bits = it->round == set->round ? 0 : pbs_ready_due(it);

        if (bits) {
            if (n == max) {
                set->our_turn = share != 0;
                break;
            }
            if (!pbs_user_writable(self, &ev[n], sizeof(*ev)))
                return n ? n : -EFAULT;
            ev[n].events = bits;
            if (!it->masked || (ask && n >= share)) /* else it had nothing else to say */
                ev[n].events |= other_bits(it);
            ev[n++].data.u64 = it->data;
            reported(set, epfd, it, false);
            if (!kernels) { /* the list is in this order */
                it->last = set->round;
                it->place = n - 1;
            }
            if (!fits)
                pbs_item_rotate(it); /* to the end: the others first, next time */
        }
        it = next;
    }
    if (kernels) {
        put_in_order(set, ev, n);
        keep_places(set, ev, n);
    }
    set->turns = 0;
    set->reported = n < max ? set->round : 0;
    return n;
}

/* What there is to report now; ask: the kernel has something to say even if we have not. mark: if it
 * is nothing, the real call comes next. Events, or -errno. */
static int gather(struct pbs_thread *self, struct pbs_epoll *set, int epfd, struct epoll_event *ev,
                  int max, bool taken, bool mark)
{
    int ours, n = 0;
    bool ask;

    pbs_crit_enter(self);
    ask = taken && set->watch.fired;
    if (ask || set->inners || atomic_load_explicit(&set->nready, memory_order_relaxed)) {
        pbs_lock(&set->file.lock);
        if (pbs_unlikely(set->inners))
            pbs_epoll_list_inners(set);
        set->round++;
        ours = count_due(set);
        if (ours || ask)
            n = collect(set, epfd, ev, max, ours, ask || !taken);
        pbs_unlock(&set->file.lock);
    }
    if (!n)
        set->reported = 0;
    if (!n && mark)
        self->plain++;
    pbs_crit_leave(self);
    return n;
}

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
        n = gather(self, set, epfd, ev, max, true, false);

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
        n = gather(self, set, epfd, ev, max, true, false);
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

/* What was held of its members has been read since. */
static void forget_read(struct pbs_thread *self, struct pbs_epoll *set)
{
    pbs_crit_enter(self);
    pbs_lock(&set->file.lock);
    count_due(set);
    pbs_unlock(&set->file.lock);
    pbs_crit_leave(self);
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
        forget_read(self, set);
    if (sane && pbs_epoll_taken(self, set))
        n = epoll_taken(self, set, epfd, ev, max, span, mask);
    if (n == NOT_TAKEN) {
        leave(self, set);
        if (set->nmasked)
            pbs_epoll_unmask(self, set);
        n = 0;
        if (sane)
            n = gather(self, set, epfd, ev, max, false, true);
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
    pbs_crit_enter(self);
    pbs_lock(&set->file.lock);
    set->round++;
    merge(self, set, epfd, ev, n);
    if (set->turns)
        put_in_order(set, ev, n);
    set->turns = 0;
    pbs_unlock(&set->file.lock);
    pbs_crit_leave(self);
    return n;
}
