#include "item.h"

#include <string.h>
#include <utlist.h>

#include "fdtab.h"
#include "ring.h"

static struct pbs_lock free_lock;
static struct pbs_epoll *free_list; /* guarded by free_lock */

struct pbs_epoll *pbs_epoll_get(void)
{
    struct pbs_epoll *e;

    pbs_lock(&free_lock);
    e = free_list;
    if (e)
        free_list = e->next_free;
    pbs_unlock(&free_lock);
    if (!e)
        e = pbs_mem_get(sizeof(*e));
    if (!e)
        return NULL;
    pbs_lock(&e->file.lock);
    pbs_file_init(&e->file, PBS_FILE_EPOLL);
    e->waiter = 0;
    e->refused = false;
    e->nready = 0;
    memset(&e->by_key, 0, sizeof(*e) - offsetof(struct pbs_epoll, by_key));
    pbs_unlock(&e->file.lock);
    return e;
}

struct pbs_item *pbs_item_find(struct pbs_epoll *set, struct pbs_file *f, int fd)
{
    struct pbs_item_key key = {f, (uintptr_t)fd};
    struct pbs_item *it;

    HASH_FIND(hh, set->by_key, &key, sizeof(key), it);
    return it;
}

void pbs_item_unlist(struct pbs_item *it)
{
    if (!it->listed)
        return;
    DL_DELETE(it->set->ready, it);
    it->listed = false;
    atomic_fetch_sub_explicit(&it->set->nready, 1, memory_order_relaxed);
}

void pbs_item_rotate(struct pbs_item *it)
{
    if (it->listed)
        DL_DELETE(it->set->ready, it);
    else
        atomic_fetch_add_explicit(&it->set->nready, 1, memory_order_relaxed);
    DL_APPEND(it->set->ready, it);
    it->listed = true;
}

void pbs_item_set_masked(struct pbs_item *it, bool masked)
{
    if (it->masked == masked)
        return;
    it->masked = masked;
    if (masked)
        it->set->nmasked++;
    else
        it->set->nmasked--;
}

static void list(struct pbs_item *it)
{
    it->fresh = true;
    if (it->listed)
        return;
    DL_APPEND(it->set->ready, it);
    it->listed = true;
    atomic_fetch_add_explicit(&it->set->nready, 1, memory_order_relaxed);
}

/* Names the item by its data, or finds that the name is taken. set locked. */
static void name(struct pbs_item *it)
{
    struct pbs_item *other;

    HASH_FIND(hd, it->set->by_data, &it->data, sizeof(it->data), other);
    it->twin = other != NULL;
    it->by_data = false;
    if (other) {
        other->twin = true;
        return;
    }
    HASH_ADD(hd, it->set->by_data, data, sizeof(it->data), it);
    it->by_data = it->hd.tbl != NULL;
    if (!it->by_data)
        it->twin = true;
}

/* The name of twins goes on to another one of them: who comes later has to find it. set locked. */
static void unname(struct pbs_item *it)
{
    struct pbs_item *other, *tmp;

    if (!it->by_data)
        return;
    HASH_DELETE(hd, it->set->by_data, it);
    it->by_data = false;
    if (!it->twin)
        return;
    HASH_ITER(hh, it->set->by_key, other, tmp) {
        if (other != it && other->data == it->data) {
            HASH_ADD(hd, it->set->by_data, data, sizeof(other->data), other);
            other->by_data = other->hd.tbl != NULL;
            return;
        }
    }
}

/* set locked, and the socket's lock held if there is one. */
static void item_free(struct pbs_item *it)
{
    pbs_item_unlist(it);
    pbs_item_set_masked(it, false);
    if (it->events & EPOLLEXCLUSIVE)
        it->set->exclusive--;
    if (it->inner)
        it->set->inners--;
    unname(it);
    HASH_DEL(it->set->by_key, it);
    if (it->sock)
        LL_DELETE2(it->sock->items, it, sock_next);
    pbs_mem_put(it, sizeof(*it));
}

/* Removes the item of f's number fd. f is not looked into. No lock held. */
static void forget(struct pbs_thread *self, struct pbs_epoll *set, struct pbs_file *f, int fd)
{
    for (;;) {
        struct pbs_item *it;
        struct pbs_sock *s;

        pbs_crit_enter(self);
        pbs_lock(&set->file.lock);
        it = pbs_item_find(set, f, fd);
        s = it ? it->sock : NULL;
        if (it && !s)
            item_free(it);
        pbs_unlock(&set->file.lock);
        if (s) {
            pbs_lock(&s->file.lock);
            pbs_lock(&set->file.lock);
            it = pbs_item_find(set, f, fd);
            if (it && it->sock == s)
                item_free(it);
            pbs_unlock(&set->file.lock);
            pbs_unlock(&s->file.lock);
        }
        pbs_crit_leave(self);
        if (!s)
            return;
    }
}

bool pbs_item_inner_holds(const struct pbs_item *it)
{
    return it->inner && it->inner->life == it->inner_life && pbs_epoll_holds(it->inner);
}

bool pbs_epoll_holds(struct pbs_epoll *set)
{
    struct pbs_item *it;
    bool any = false;

    if (!set->nready)
        return false;
    pbs_lock(&set->file.lock);
    if (set->file.kind == PBS_FILE_EPOLL)
        DL_FOREACH(set->ready, it) {
            any |= pbs_item_holds(it) && (it->events & (EPOLLIN | EPOLLRDNORM)) && !it->spent &&
                   (it->fresh || !(it->events & EPOLLET));
        }
    pbs_unlock(&set->file.lock);
    return any;
}

void pbs_epoll_list_inners(struct pbs_epoll *set)
{
    struct pbs_item *it, *tmp;

    HASH_ITER(hh, set->by_key, it, tmp) {
        if (it->inner && !it->listed && pbs_item_holds(it))
            list(it);
    }
}

bool pbs_item_add(struct pbs_thread *self, struct pbs_epoll *set, struct pbs_file *f, int epfd,
                  int fd, const struct epoll_event *ev)
{
    struct pbs_sock *s = f && f->kind == PBS_FILE_SOCK ? (struct pbs_sock *)f : NULL;
    struct pbs_item *it = NULL;

    /* Older ones: this file's own is gone from the kernel, or it had refused; one of which we know
     * no file is taken for closed. */
    forget(self, set, f, fd);
    if (f)
        forget(self, set, NULL, fd);
    pbs_crit_enter(self);
    if (s)
        pbs_lock(&s->file.lock);
    pbs_lock(&set->file.lock);
    if (!s || (s->file.kind == PBS_FILE_SOCK && s->file.nfds))
        it = pbs_mem_get(sizeof(*it));
    if (it) {
        *it = (struct pbs_item){.set = set,
                                .sock = s,
                                .epfd = epfd,
                                .fd = fd,
                                .key = {f, (uintptr_t)fd},
                                .events = ev->events,
                                .data = ev->data.u64};
        HASH_ADD(hh, set->by_key, key, sizeof(it->key), it);
        if (!it->hh.tbl) {
            pbs_mem_put(it, sizeof(*it));
            it = NULL;
        }
    }
    if (it) {
        name(it);
        if (it->events & EPOLLEXCLUSIVE)
            set->exclusive++;
        if (s)
            LL_PREPEND2(s->items, it, sock_next);
        if (f && f->kind == PBS_FILE_EPOLL) {
            it->inner = (struct pbs_epoll *)f;
            it->inner_life = it->inner->life;
            set->inners++;
        }
        if (pbs_item_holds(it))
            list(it);
    }
    pbs_unlock(&set->file.lock);
    if (s)
        pbs_unlock(&s->file.lock);
    pbs_crit_leave(self);
    return it != NULL;
}

void pbs_item_mod(struct pbs_thread *self, struct pbs_epoll *set, struct pbs_file *f, int fd,
                  const struct epoll_event *ev, bool masked)
{
    struct pbs_item *it;

    pbs_crit_enter(self);
    pbs_lock(&set->file.lock);
    it = pbs_item_find(set, f, fd);
    if (it) {
        pbs_item_set_masked(it, masked);
        it->events = ev->events;
        it->spent = false;
        it->poked = false;
        if (it->data != ev->data.u64) {
            unname(it);
            it->data = ev->data.u64;
            name(it);
        }
        if (pbs_item_holds(it))
            list(it); /* MOD looks again and reports what is there, edge-triggered too */
    }
    pbs_unlock(&set->file.lock);
    pbs_crit_leave(self);
}

void pbs_item_del(struct pbs_thread *self, struct pbs_epoll *set, struct pbs_file *f, int fd)
{
    forget(self, set, f, fd);
}

void pbs_items_drop(struct pbs_sock *s)
{
    struct pbs_item *it;

    while ((it = s->items)) {
        struct pbs_epoll *set = it->set;

        pbs_lock(&set->file.lock);
        item_free(it);
        pbs_unlock(&set->file.lock);
    }
}

void pbs_items_leave_kernel(struct pbs_sock *s)
{
    struct epoll_event none = {0};
    struct pbs_item *it;

    LL_FOREACH2(s->items, it, sock_next)
    {
        if (pbs_fdtab_find(it->epfd) == &it->set->file && pbs_fdtab_find(it->fd) == &s->file)
            pbs_sys4(SYS_epoll_ctl, it->epfd, EPOLL_CTL_DEL, it->fd, &none);
    }
}

void pbs_items_arrived(struct pbs_sock *s)
{
    struct pbs_item *it;

    LL_FOREACH2(s->items, it, sock_next)
    {
        pbs_lock(&it->set->file.lock);
        /* As in the kernel: one that was reported has left the list if it is edge-triggered; else it
         * keeps its place until the next wait finds that it was read. */
        if (it->listed && (it->events & EPOLLET) && !it->fresh)
            pbs_item_rotate(it);
        list(it);
        pbs_item_told(it);
        pbs_unlock(&it->set->file.lock);
    }
}

bool pbs_items_allow(struct pbs_sock *s, uint64_t id)
{
    struct pbs_item *it = s->items;
    uint64_t nobody = 0;

    if (!it)
        return true;
    return !it->sock_next && !it->twin && !(it->events & (EPOLLONESHOT | EPOLLEXCLUSIVE)) &&
           !it->set->refused && pbs_gate_admits(&it->set->file) &&
           (atomic_compare_exchange_strong(&it->set->waiter, &nobody, id) || nobody == id);
}

unsigned pbs_epoll_new_round(struct pbs_epoll *set)
{
    unsigned round;

    pbs_lock(&set->file.lock);
    round = ++set->round;
    pbs_unlock(&set->file.lock);
    return round;
}

struct pbs_sock *pbs_epoll_next_sock(struct pbs_epoll *set, unsigned round)
{
    struct pbs_item *it, *tmp;
    struct pbs_sock *s = NULL;

    pbs_lock(&set->file.lock);
    HASH_ITER(hh, set->by_key, it, tmp) {
        if (it->sock && it->round != round) {
            it->round = round;
            s = it->sock;
            break;
        }
    }
    pbs_unlock(&set->file.lock);
    return s;
}

/* Nobody waits on it any more, and the kernel's side of that is over. */
static void put(struct pbs_watch *w)
{
    struct pbs_epoll *set = (struct pbs_epoll *)((char *)w - offsetof(struct pbs_epoll, watch));

    pbs_crit_enter(pbs_self);
    pbs_lock(&set->file.lock);
    set->file.kind = PBS_FILE_FREE;
    set->life++;
    pbs_unlock(&set->file.lock);
    pbs_lock(&free_lock);
    set->next_free = free_list;
    free_list = set;
    pbs_unlock(&free_lock);
    pbs_crit_leave(pbs_self);
}

void pbs_epoll_drop(struct pbs_thread *self, struct pbs_epoll *set)
{
    for (;;) {
        struct pbs_item_key key = {0};
        struct pbs_item *it;

        pbs_crit_enter(self);
        pbs_lock(&set->file.lock);
        it = set->by_key;
        if (it)
            key = it->key;
        pbs_unlock(&set->file.lock);
        pbs_crit_leave(self);
        if (!it)
            break;
        forget(self, set, key.file, (int)key.fd);
    }
    pbs_ring_watch_over(&set->watch, put);
}

void pbs_item_reset(void)
{
    pbs_unlock(&free_lock);
    free_list = NULL;
}
