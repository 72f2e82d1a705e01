/* epoll_ctl: what becomes a member, and what the kernel is asked of it. */
#include "ready.h"

#include <errno.h>

#include "real.h"
#include "user.h"

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
        if (ok && !self->plain && s->armed && s->ring == self->ring)
            pbs_items_mask(self, s); /* armed before it became a member */
        pbs_unlock(&s->file.lock);
    }
    pbs_crit_leave(self);
    if (twin && twin->state == PBS_ADOPTED)
        pbs_release(self, twin, PBS_WHY_epoll);
    if (!ok)
        pbs_release(self, s, PBS_WHY_epoll);
}

/* Others may be asleep in a wait on it, in a ring or in the kernel: what we hold of a member wakes
 * nobody. */
static void wake_waiter(struct pbs_thread *self, struct pbs_epoll *set, struct pbs_file *f, int fd)
{
    struct pbs_ring *r = atomic_load(&set->watch.ring);
    uint64_t waiter = atomic_load(&set->waiter);
    struct pbs_item *it;

    if (!atomic_load(&set->nready) || !waiter ||
        (waiter == self->id && !set->refused && !self->plain))
        return;
    pbs_crit_enter(self);
    pbs_lock(&set->file.lock);
    it = pbs_item_find(set, f, fd);
    if (it && pbs_ready_due(it))
        pbs_item_poke(it);
    pbs_unlock(&set->file.lock);
    pbs_crit_leave(self);
    if (r && r != self->ring)
        pbs_ring_nudge(r);
}

/* A member that was reported once, by us, is not the kernel's at the moment (ready_report.c). */
static bool is_spent(struct pbs_thread *self, struct pbs_epoll *set, struct pbs_file *f, int fd)
{
    struct pbs_item *it;
    bool spent;

    pbs_crit_enter(self);
    pbs_lock(&set->file.lock);
    it = pbs_item_find(set, f, fd);
    spent = it && it->sock && it->spent;
    pbs_unlock(&set->file.lock);
    pbs_crit_leave(self);
    return spent;
}

/* The kernel's answer to a change, and what it would be if the member were there. */
static int change(struct pbs_thread *self, struct pbs_epoll *set, struct pbs_file *f, int epfd,
                  int op, int fd, struct epoll_event *ev)
{
    int saved = errno, r;

    if (op == EPOLL_CTL_ADD && set && f && is_spent(self, set, f, fd)) {
        errno = EEXIST;
        return -1;
    }
    r = real.epoll_ctl(epfd, op, fd, ev);
    if (!r || errno != ENOENT || !set || !f || !is_spent(self, set, f, fd))
        return r;
    errno = saved;
    return op == EPOLL_CTL_MOD ? real.epoll_ctl(epfd, EPOLL_CTL_ADD, fd, ev) : 0;
}

int pbs_ready_ctl(int epfd, int op, int fd, struct epoll_event *ev)
{
    struct pbs_file *e = pbs_fdtab_find(epfd), *f = pbs_fdtab_find(fd);
    struct pbs_epoll *set = e && e->kind == PBS_FILE_EPOLL ? (struct pbs_epoll *)e : NULL;
    struct pbs_sock *s = f && f->kind == PBS_FILE_SOCK ? (struct pbs_sock *)f : NULL;
    struct pbs_thread *self = set || f ? pbs_thread_get() : NULL;
    struct epoll_event copy = {0};
    bool known = op == EPOLL_CTL_DEL, masked = false;
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
        pbs_epoll_refuse(self, (struct pbs_epoll *)f);
    if (known && set && op == EPOLL_CTL_ADD && (copy.events & EPOLLEXCLUSIVE))
        pbs_epoll_unmask(self, set);
    if (known && set && op == EPOLL_CTL_MOD) {
        struct epoll_event asked = copy;

        asked.events = pbs_item_asks(self, set, f, fd, copy.events, &masked);
        r = change(self, set, f, epfd, op, fd, &asked);
    } else {
        r = change(self, set, f, epfd, op, fd, ev);
    }
    if (r || !known || !set)
        return r;
    if (op == EPOLL_CTL_ADD && !pbs_item_add(self, set, f, epfd, fd, &copy))
        pbs_epoll_refuse(self, set);
    else if (op == EPOLL_CTL_MOD)
        pbs_item_mod(self, set, f, fd, &copy, masked);
    else if (op == EPOLL_CTL_DEL)
        pbs_item_del(self, set, f, fd);
    if (op != EPOLL_CTL_DEL) {
        recheck(self, set, copy.data.u64, s);
        wake_waiter(self, set, f, fd);
    }
    return r;
}
