#include "ready.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>

#include "mem.h"
#include "real.h"
#include "user.h"

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

/* An instance whose readiness is asked for from outside cannot be merged any more. */
static void nested(struct pbs_thread *self, struct pbs_epoll *set)
{
    struct pbs_sock *s;
    unsigned round;

    if (atomic_exchange(&set->refused, true))
        return;
    pbs_crit_enter(self);
    round = pbs_epoll_new_round(set);
    for (;;) {
        s = pbs_epoll_next_sock(set, round);
        if (!s)
            break;
        pbs_crit_leave(self);
        pbs_release(self, s, PBS_WHY_epoll);
        pbs_crit_enter(self);
    }
    pbs_crit_leave(self);
}

/* What we add to the kernel's bits for a caller that asks for events. */
static short held_bits(struct pbs_file *f, short events)
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
    if (s->error)
        bits |= POLLERR;
    return bits;
}

/* The real call that this thread is about to make names fd's socket (pbs_sock.call). */
static void name_fd(struct pbs_thread *self, int fd)
{
    struct pbs_sock *s = (struct pbs_sock *)pbs_fdtab_find(fd);

    if (s && s->file.kind == PBS_FILE_SOCK && s->user == self->id)
        s->call = self->call;
}

static void look_at(struct pbs_thread *self, int fd, struct pbs_file *f, bool urgent)
{
    if (f->kind == PBS_FILE_EPOLL) {
        nested(self, (struct pbs_epoll *)f);
    } else if (f->kind == PBS_FILE_SOCK) {
        pbs_touch(self, (struct pbs_sock *)f);
        if (urgent)
            pbs_release_fd(fd, PBS_WHY_oob);
    }
}

bool pbs_ready_poll_concerns(const struct pollfd *fds, nfds_t n)
{
    struct pbs_thread *self;

    if (!pbs_fdtab_size || n > pbs_fdtab_size || !n)
        return false;
    /* The array is read before the kernel has seen it: a bad one is the kernel's to refuse. */
    self = pbs_thread_get();
    if (!self || !pbs_user_rewritable(self, (void *)fds, n * sizeof(*fds)))
        return false;
    for (nfds_t i = 0; i < n; i++)
        if (pbs_fdtab_find(fds[i].fd))
            return true;
    return false;
}

/* Nothing is held: the real call comes next. In a critical section. */
static void begin_poll(struct pbs_thread *self, const struct pollfd *fds, nfds_t n)
{
    self->plain++;
    self->call++;
    for (nfds_t i = 0; i < n; i++)
        name_fd(self, fds[i].fd);
}

bool pbs_ready_poll(struct pollfd *fds, nfds_t n, int *r)
{
    struct pbs_thread *self = pbs_thread_get();
    bool any = false;

    if (!self)
        return false;
    for (nfds_t i = 0; i < n; i++) {
        struct pbs_file *f = pbs_fdtab_find(fds[i].fd);

        if (!f)
            continue;
        look_at(self, fds[i].fd, f, fds[i].events & (POLLPRI | POLLRDBAND));
    }
    pbs_crit_enter(self); /* from the look to the mark no handler may drain a socket */
    for (nfds_t i = 0; i < n; i++) {
        struct pbs_file *f = pbs_fdtab_find(fds[i].fd);

        any |= f && held_bits(f, fds[i].events) != 0;
    }
    if (!any)
        begin_poll(self, fds, n);
    pbs_crit_leave(self);
    if (!any)
        return false;
    *r = pbs_ready_told(real.poll(fds, n, 0));
    if (*r < 0)
        return true;
    for (nfds_t i = 0; i < n; i++) {
        struct pbs_file *f = pbs_fdtab_find(fds[i].fd);
        short bits = f ? held_bits(f, fds[i].events) : 0;

        if (bits && !fds[i].revents)
            (*r)++;
        fds[i].revents |= bits;
    }
    if (*r)
        return true;
    begin_poll(self, fds, n); /* a handler has read it all meanwhile */
    return false;
}

static bool in(int fd, const fd_set *set)
{
    return set && FD_ISSET(fd, set);
}

/* The sets as the kernel sees them: bits up to n, in whole longs, wherever the program has them. */
static bool readable_set(const fd_set *set, int n)
{
    struct pbs_thread *self = pbs_thread_get();

    return !set || (self && pbs_user_rewritable(self, (void *)set, ((size_t)n + 63) / 64 * 8));
}

/* The kernel looks at no number that there has never been, and so at no bit of it: sets may end
 * there, whatever n says (getdtablesize() is a favourite). */
static int clip(int n)
{
    int end = pbs_fdtab_end();

    return n < end ? n : end;
}

bool pbs_ready_select_concerns(int n, const fd_set *r, const fd_set *w, const fd_set *e)
{
    n = clip(n);
    if (!pbs_fdtab_size || n <= 0 || !readable_set(r, n) || !readable_set(w, n) ||
        !readable_set(e, n))
        return false;
    for (int fd = 0; fd < n; fd++)
        if (pbs_fdtab_find(fd) && (in(fd, r) || in(fd, w) || in(fd, e)))
            return true;
    return false;
}

/* A held error makes a socket readable and writable for select (POLLIN_SET, POLLOUT_SET). */
static void select_bits(int fd, const fd_set *r, const fd_set *w, bool *rd, bool *wr)
{
    struct pbs_file *f = pbs_fdtab_find(fd);
    short bits = f ? held_bits(f, POLLIN) : 0;

    *rd = in(fd, r) && bits;
    *wr = in(fd, w) && (bits & POLLERR);
}

#define FEW (FD_SETSIZE / 64)

bool pbs_ready_select(int n, fd_set *r, fd_set *w, fd_set *e, int *answer)
{
    struct pbs_thread *self = pbs_thread_get();
    int end = clip(n), words = (end + 63) / 64;
    uint64_t few[2 * FEW] = {0}, *add_r = few, *add_w, *many = NULL;
    struct timeval zero = {0, 0};
    bool any = false;

    if (self && words > FEW)
        add_r = many = pbs_mem_map((size_t)words * 16);
    if (!self || !add_r)
        return false;
    add_w = add_r + words;
    for (int fd = 0; fd < end; fd++) {
        struct pbs_file *f = pbs_fdtab_find(fd);

        if (f && (in(fd, r) || in(fd, w) || in(fd, e)))
            look_at(self, fd, f, in(fd, e));
    }
    pbs_crit_enter(self);
    for (int fd = 0; fd < end; fd++) {
        bool rd, wr;

        select_bits(fd, r, w, &rd, &wr);
        any |= rd || wr;
        add_r[fd / 64] |= (uint64_t)rd << fd % 64;
        add_w[fd / 64] |= (uint64_t)wr << fd % 64;
    }
    if (!any) {
        self->plain++;
        self->call++;
        for (int fd = 0; fd < end; fd++)
            if (in(fd, r) || in(fd, w) || in(fd, e))
                name_fd(self, fd);
    }
    pbs_crit_leave(self);
    if (any)
        *answer = pbs_ready_told(real.select(n, r, w, e, &zero));
    for (int fd = 0; fd < end && any && *answer >= 0; fd++) {
        if ((add_r[fd / 64] >> fd % 64 & 1) && !FD_ISSET(fd, r)) {
            FD_SET(fd, r);
            (*answer)++;
        }
        if ((add_w[fd / 64] >> fd % 64 & 1) && !FD_ISSET(fd, w)) {
            FD_SET(fd, w);
            (*answer)++;
        }
    }
    if (many)
        pbs_mem_unmap(many, (size_t)words * 16);
    return any;
}

/* ---- epoll ---- */

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

bool pbs_ready_epoll(struct pbs_epoll *set, int epfd, struct epoll_event *ev, int max, int *r)
{
    struct pbs_thread *self = pbs_thread_get();
    uint64_t nobody = 0;
    int ours, saved = errno;

    if (!self)
        return false;
    if (!atomic_compare_exchange_strong(&set->waiter, &nobody, self->id) && nobody != self->id)
        nested(self, set); /* a second thread waits on it */
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
        nested(self, (struct pbs_epoll *)f);
    r = real.epoll_ctl(epfd, op, fd, ev);
    if (r || !known || !set)
        return r;
    if (op == EPOLL_CTL_ADD && !pbs_item_add(self, set, f, epfd, fd, &copy))
        nested(self, set);
    else if (op == EPOLL_CTL_MOD)
        pbs_item_mod(self, set, f, fd, &copy);
    else if (op == EPOLL_CTL_DEL)
        pbs_item_del(self, set, f, fd);
    if (op != EPOLL_CTL_DEL)
        recheck(self, set, copy.data.u64, s);
    return r;
}
