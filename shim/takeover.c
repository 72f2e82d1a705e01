/*
 * Epoll takeover: the one thread that waits on an instance sleeps in its ring. For members that are
 * armed there EPOLLIN is not asked of the kernel any more: bytes come by the ring, and with them the
 * event. All else stays with the kernel, which wakes the ring by a poll on the instance.
 *
 * masked => armed. Where a request ends, for whatever reason, the kernel is asked again.
 */
#include <errno.h>

#include "fdtab.h"
#include "item.h"

#define INPUT ((uint32_t)EPOLLIN | EPOLLRDNORM)
#define OUTPUT ((uint32_t)EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND)

/*
 * Edge-triggered with output: changing the membership would report the output once more. And while a
 * member is exclusive the kernel has to see its waiter asleep in epoll_wait: it would wake the next
 * one, too.
 */
static bool maskable(const struct pbs_epoll *set, uint32_t events)
{
    return (events & INPUT) && !(events & (EPOLLONESHOT | EPOLLEXCLUSIVE | EPOLLPRI)) &&
           !((events & EPOLLET) && (events & OUTPUT)) && !set->refused && !set->exclusive;
}

/* The numbers that the membership is known by in the kernel still stand for the two. */
static bool changeable(const struct pbs_item *it)
{
    return pbs_fdtab_is(it->epfd, &it->set->file) && pbs_fdtab_is(it->fd, &it->sock->file);
}

static bool change(const struct pbs_item *it, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.u64 = it->data};

    return pbs_sys4(SYS_epoll_ctl, it->epfd, EPOLL_CTL_MOD, it->fd, &ev) == 0;
}

/* set locked. */
static void unmask(struct pbs_item *it)
{
    if (!it->masked)
        return;
    pbs_item_told(it);
    pbs_item_set_masked(it, false);
    if (changeable(it))
        change(it, it->events);
    it->set->watch.fired = true;
}

void pbs_item_told(struct pbs_item *it)
{
    struct pbs_epoll *set = it->set;

    if (!it->masked || !set->watch.armed || set->watch.told)
        return;
    if (it->early == set->round + 1)
        return; /* has its place */
    it->early = set->round + 1;
    it->turn = ++set->turns;
    /* It wakes who waits for any member (Linux 6.18: sock_def_wakeup() has no key). */
    if (it->sock->at_end)
        set->watch.echo = true;
}

void pbs_item_poke(struct pbs_item *it)
{
    if (!(it->events & (OUTPUT | EPOLLEXCLUSIVE)) && !it->masked && changeable(it))
        it->poked = change(it, it->events | EPOLLOUT);
}

void pbs_item_unpoke(struct pbs_item *it, bool told)
{
    if (!it->poked)
        return;
    it->poked = false;
    if (!(told && (it->events & EPOLLONESHOT)) && changeable(it))
        change(it, it->events);
}

void pbs_items_mask(struct pbs_thread *self, struct pbs_sock *s)
{
    struct pbs_item *it = s->items;

    if (!it || it->masked || !maskable(it->set, it->events) || !pbs_items_allow(s, self->id))
        return;
    pbs_lock(&it->set->file.lock);
    if (changeable(it) && change(it, it->events & ~INPUT))
        pbs_item_set_masked(it, true);
    pbs_unlock(&it->set->file.lock);
}

void pbs_items_unmask_fd(struct pbs_sock *s, int fd)
{
    struct pbs_item *it;

    for (it = s->items; it; it = it->sock_next) {
        pbs_lock(&it->set->file.lock);
        if (fd < 0 || it->fd == fd)
            unmask(it);
        pbs_unlock(&it->set->file.lock);
    }
}

void pbs_items_unmask(struct pbs_sock *s)
{
    pbs_items_unmask_fd(s, -1);
}

void pbs_epoll_unmask(struct pbs_thread *self, struct pbs_epoll *set)
{
    struct pbs_item *it, *tmp;

    pbs_crit_enter(self);
    pbs_lock(&set->file.lock);
    HASH_ITER(hh, set->by_key, it, tmp) {
        unmask(it);
    }
    pbs_unlock(&set->file.lock);
    pbs_crit_leave(self);
}

uint32_t pbs_item_asks(struct pbs_thread *self, struct pbs_epoll *set, struct pbs_file *f, int fd,
                       uint32_t events, bool *masked)
{
    struct pbs_item *it;

    pbs_crit_enter(self);
    pbs_lock(&set->file.lock);
    it = pbs_item_find(set, f, fd);
    *masked = it && it->masked && it->sock->armed && maskable(set, events);
    pbs_unlock(&set->file.lock);
    pbs_crit_leave(self);
    return *masked ? events & ~INPUT : events;
}

bool pbs_epoll_taken(struct pbs_thread *self, struct pbs_epoll *set)
{
    /* Also while something is held that is not asked for: it may be, by another thread, and a sleep
     * in the kernel would not end. */
    return self->ring && !self->plain && !set->refused && !set->exclusive &&
           atomic_load(&set->waiter) == self->id && (set->nmasked || set->nready) &&
           pbs_ring_can_sleep(self->ring);
}
