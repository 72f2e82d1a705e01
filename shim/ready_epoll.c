/* epoll: the kernel's events and ours, merged. */
#include "ready.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>

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
    if (it->sock && it->sock->error)
        bits |= EPOLLERR;
    return bits;
}

/* Has to be reported now, were the kernel to say nothing of it. */
static uint32_t due(const struct pbs_item *it)
{
    return (it->events & EPOLLET) && !it->fresh ? 0 : item_bits(it);
}

static void reported(struct pbs_epoll *set, int epfd, struct pbs_item *it)
{
    struct epoll_event off = {.events = it->events & (EPOLLONESHOT | EPOLLET),
                              .data.u64 = it->data};

    it->round = set->round;
    it->fresh = false;
    if (it->events & EPOLLONESHOT) {
        it->spent = true;
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
        if (!pbs_item_holds(it))
            pbs_item_unlist(it);
        else if (due(it))
            n++;
    }
    return n;
}

/* Adds our bits to what the kernel reported of the same members. */
static void merge(struct pbs_epoll *set, int epfd, struct epoll_event *ev, int n)
{
    for (int i = 0; i < n; i++) {
        uint64_t data = ev[i].data.u64;
        struct pbs_item *it;

        HASH_FIND(hd, set->by_data, &data, sizeof(data), it);
        if (!it || it->twin || !pbs_item_holds(it))
            continue;
        ev[i].events |= item_bits(it);
        reported(set, epfd, it);
    }
}

/* What the kernel has beside our bits for a member that it did not name this time. */
static uint32_t other_bits(const struct pbs_item *it)
{
    struct pollfd p = {.fd = it->fd,
                       .events = (short)(it->events & (POLLOUT | POLLWRNORM | POLLRDHUP))};

    return pbs_sys3(SYS_poll, &p, 1, 0) > 0 ? (uint32_t)(unsigned short)p.revents & ~POLLNVAL : 0;
}

/*
 * The kernel's events first, ours merged into them, then those of ours that it did not name. When
 * it fills the array alone and we have more, up to half of the next array is ours: nobody starves.
 * set locked. Events, or -errno.
 */
static int collect(struct pbs_epoll *set, int epfd, struct epoll_event *ev, int max, int ours)
{
    struct pbs_thread *self = pbs_self;
    struct pbs_item *it, *last;
    int share = max, n = 0;

    if (set->our_turn)
        share -= ours < (max + 1) / 2 ? ours : (max + 1) / 2;
    set->our_turn = false;
    if (share) {
        /* Not libc's, which is a cancellation point: a lock is held. */
        n = pbs_ready_told((int)pbs_sys4(SYS_epoll_wait, epfd, ev, share, 0));
        if (n < 0)
            return n;
        merge(set, epfd, ev, n);
    }
    last = set->ready ? set->ready->prev : NULL;
    for (it = set->ready; it;) {
        struct pbs_item *next = it == last ? NULL : it->next;

        if (it->round != set->round && due(it)) {
            if (n == max) {
                set->our_turn = share == max;
                break;
            }
            if (!pbs_user_writable(self, &ev[n], sizeof(*ev)))
                return n ? n : -EFAULT;
            ev[n].events = item_bits(it) | other_bits(it);
            ev[n++].data.u64 = it->data;
            reported(set, epfd, it);
            pbs_item_rotate(it); /* to the end: the others first, next time */
        }
        it = next;
    }
    return n;
}

bool pbs_ready_epoll(struct pbs_epoll *set, int epfd, struct epoll_event *ev, int max,
                     struct pbs_span *span, const sigset_t *mask, int *r)
{
    (void)span;
    (void)mask;
    struct pbs_thread *self = pbs_thread_get();
    uint64_t nobody = 0;
    int ours, saved = errno;

    if (!self)
        return false;
    if (!atomic_compare_exchange_strong(&set->waiter, &nobody, self->id) && nobody != self->id)
        pbs_ready_refuse(self, set); /* a second thread waits on it */
    if (!__libc_single_threaded)
        pthread_testcancel();
    *r = 0;
    pbs_crit_enter(self);
    if (atomic_load_explicit(&set->nready, memory_order_relaxed) && max > 0 &&
        (size_t)max <= INT_MAX / sizeof(*ev) && !pbs_user_absurd(ev, (size_t)max * sizeof(*ev))) {
        pbs_lock(&set->file.lock);
        set->round++;
        ours = count_due(set);
        if (ours)
            *r = collect(set, epfd, ev, max, ours);
        pbs_unlock(&set->file.lock);
    }
    if (!*r)
        self->plain++;
    pbs_crit_leave(self);
    if (*r < 0) {
        errno = -*r;
        *r = -1;
    } else {
        errno = saved;
    }
    return *r != 0;
}

/* Before the kernel changes a membership of s. */
static void before_ctl(struct pbs_thread *self, struct pbs_epoll *set, struct pbs_sock *s,
                       uint32_t events)
{
    uint64_t waiter = set ? atomic_load(&set->waiter) : 0;

    if (s->state == PBS_ADOPTED && s->user != self->id)
        pbs_touch(self, s);
    if (!set || (events & (EPOLLONESHOT | EPOLLEXCLUSIVE)) ||
        (waiter && waiter != s->user && s->state == PBS_ADOPTED))
        pbs_release(self, s, PBS_WHY_epoll);
    else if (events & EPOLLPRI)
        pbs_release(self, s, PBS_WHY_oob);
}

/* After a membership changed: members that can no longer be told apart are given up. */
static void recheck(struct pbs_thread *self, struct pbs_epoll *set, uint64_t data,
                    struct pbs_sock *s)
{
    struct pbs_sock *twin = NULL;
    struct pbs_item *it;
    bool ok = true;

    pbs_crit_enter(self);
    pbs_lock(&set->file.lock);
    HASH_FIND(hd, set->by_data, &data, sizeof(data), it);
    if (it && it->twin)
        twin = it->sock;
    pbs_unlock(&set->file.lock);
    if (s) {
        pbs_lock(&s->file.lock);
        ok = s->state != PBS_ADOPTED || pbs_items_allow(s, self->id);
        pbs_unlock(&s->file.lock);
    }
    pbs_crit_leave(self);
    if (twin && twin->state == PBS_ADOPTED)
        pbs_release(self, twin, PBS_WHY_epoll);
    if (!ok)
        pbs_release(self, s, PBS_WHY_epoll);
}

int pbs_ready_ctl(int epfd, int op, int fd, struct epoll_event *ev)
{
    struct pbs_file *e = pbs_fdtab_find(epfd), *f = pbs_fdtab_find(fd);
    struct pbs_epoll *set = e && e->kind == PBS_FILE_EPOLL ? (struct pbs_epoll *)e : NULL;
    struct pbs_sock *s = f && f->kind == PBS_FILE_SOCK ? (struct pbs_sock *)f : NULL;
    struct pbs_thread *self = set || f ? pbs_thread_get() : NULL;
    struct epoll_event copy = {0};
    bool known = op == EPOLL_CTL_DEL;
    int r;

    if (!self)
        return real.epoll_ctl(epfd, op, fd, ev);
    if (!known && pbs_user_readable(self, ev, sizeof(*ev))) {
        copy = *ev;
        known = true;
    }
    if (known && s && op != EPOLL_CTL_DEL)
        before_ctl(self, set, s, copy.events);
    if (known && f && f->kind == PBS_FILE_EPOLL && op == EPOLL_CTL_ADD)
        pbs_ready_refuse(self, (struct pbs_epoll *)f);
    r = real.epoll_ctl(epfd, op, fd, ev);
    if (r || !known || !set)
        return r;
    if (op == EPOLL_CTL_ADD && !pbs_item_add(self, set, f, epfd, fd, &copy))
        pbs_ready_refuse(self, set);
    else if (op == EPOLL_CTL_MOD)
        pbs_item_mod(self, set, f, fd, &copy);
    else if (op == EPOLL_CTL_DEL)
        pbs_item_del(self, set, f, fd);
    if (op != EPOLL_CTL_DEL)
        recheck(self, set, copy.data.u64, s);
    return r;
}
