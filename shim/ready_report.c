/* epoll: what there is to report, the kernel's events and ours merged. */
#include "ready.h"

#include <errno.h>
#include <string.h>

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
    it->round = set->round;
    it->fresh = false;
    if (it->events & EPOLLONESHOT) {
        it->spent = true;
        if (by_kernel || (it->key.file && !pbs_fdtab_is(it->fd, it->key.file)))
            return; /* it has disabled it, or cannot be told to */
        /* No change disables errors and hang-ups: it is not there until the next one (ready_ctl.c). */
        pbs_sys4(SYS_epoll_ctl, epfd, EPOLL_CTL_DEL, it->fd, NULL);
        it->poked = false;
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

int pbs_report(struct pbs_thread *self, struct pbs_epoll *set, int epfd, struct epoll_event *ev,
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

void pbs_report_add(struct pbs_thread *self, struct pbs_epoll *set, int epfd,
                    struct epoll_event *ev, int n)
{
    pbs_crit_enter(self);
    pbs_lock(&set->file.lock);
    set->round++;
    merge(self, set, epfd, ev, n);
    if (set->turns)
        put_in_order(set, ev, n);
    set->turns = 0;
    pbs_unlock(&set->file.lock);
    pbs_crit_leave(self);
}

void pbs_report_forget(struct pbs_thread *self, struct pbs_epoll *set)
{
    pbs_crit_enter(self);
    pbs_lock(&set->file.lock);
    count_due(set);
    pbs_unlock(&set->file.lock);
    pbs_crit_leave(self);
}
