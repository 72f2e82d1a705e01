#include "life.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

#include "conf.h"
#include "ghost.h"
#include "visit.h"

atomic_int pbs_host;

/* Puts a record that nobody knows yet into the table. */
static void enter(int fd, struct pbs_file *f, uint64_t gen)
{
    struct pbs_thread *self = pbs_self;

    pbs_crit_enter(self);
    pbs_lock(&f->lock);
    pbs_fdtab_set(fd, f);
    pbs_gate_born(f, gen);
    pbs_unlock(&f->lock);
    pbs_crit_leave(self);
}

static void close_record(int fd, bool missed, struct pbs_closing *call);

static bool ours(int fd)
{
    return fd >= 0 && (unsigned)fd < pbs_fdtab_size && !pbs_guest();
}

int pbs_born_sock(int fd, bool tcp, uint64_t gen)
{
    struct pbs_thread *self;
    struct pbs_sock *s;

    if (!ours(fd))
        return fd;
    pbs_born_other(fd);
    self = tcp ? pbs_thread_get() : NULL;
    if (!self)
        return fd;
    pbs_crit_enter(self);
    s = pbs_sock_get();
    pbs_crit_leave(self);
    if (s) {
        s->tcp = tcp;
        enter(fd, &s->file, gen);
    }
    return fd;
}

int pbs_born_epoll(int fd, uint64_t gen)
{
    struct pbs_thread *self;
    struct pbs_epoll *set;

    if (!ours(fd))
        return fd;
    pbs_born_other(fd);
    self = pbs_thread_get();
    if (!self)
        return fd;
    pbs_crit_enter(self);
    set = pbs_epoll_get();
    pbs_crit_leave(self);
    if (set)
        enter(fd, &set->file, gen);
    return fd;
}

void pbs_born_other(int fd)
{
    if (ours(fd) && pbs_unlikely(pbs_fdtab_find(fd) != NULL))
        close_record(fd, true, NULL);
}

void pbs_born_lent(int fd)
{
    struct pbs_file *f = pbs_fdtab_find(fd);

    if (f)
        pbs_gate_share(f); /* not locked: its parent's threads are suspended, or do the same */
}

int pbs_born_dup(int fd, int to)
{
    struct pbs_thread *self;
    struct pbs_file *f;

    if (pbs_guest())
        pbs_born_lent(fd);
    if (!ours(to))
        return to;
    pbs_born_other(to);
    f = pbs_fdtab_find(fd);
    self = f ? pbs_thread_get() : NULL;
    if (!self)
        return to;
    pbs_crit_enter(self);
    pbs_lock(&f->lock);
    if (pbs_fdtab_is(fd, f))
        pbs_fdtab_set(to, f);
    pbs_unlock(&f->lock);
    pbs_crit_leave(self);
    if (f->kind == PBS_FILE_EPOLL)
        pbs_epoll_refuse(self, (struct pbs_epoll *)f); /* members are changed by one number */
    return to;
}

bool pbs_listener_tcp(int fd)
{
    struct pbs_sock *s = (struct pbs_sock *)pbs_fdtab_find(fd);
    int proto = 0, domain = 0, type = 0;
    socklen_t len = sizeof(int);
    bool tcp;

    if (s && s->file.kind == PBS_FILE_SOCK)
        return s->tcp;
    if (!ours(fd))
        return false;
    pbs_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_DOMAIN, &domain, &len);
    pbs_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, &type, &len);
    pbs_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_PROTOCOL, &proto, &len);
    tcp = (domain == AF_INET || domain == AF_INET6) && type == SOCK_STREAM && proto == IPPROTO_TCP;
    return tcp;
}

/* Unread bytes at the last close: the kernel resets, and what we hold was unread too. */
static void reset_at_close(int fd)
{
    struct linger l = {.l_onoff = 1, .l_linger = 0};

    pbs_sys5(SYS_setsockopt, fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
}

static bool lingers(int fd)
{
    struct linger l = {0};
    socklen_t len = sizeof(l);

    return pbs_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_LINGER, &l, &len) == 0 && l.l_onoff &&
           l.l_linger;
}

/* Until the peer has acknowledged all, as in the kernel's sk_stream_wait_close(), which a handler ends,
 * too. Nobody is woken by that who is not in it. */
static void linger(struct pbs_thread *self, int fd, int seconds)
{
    int64_t end = pbs_now_ns() + seconds * INT64_C(1000000000);
    struct timespec nap = {0, 1000000};
    uint8_t state = 0; /* the first of struct tcp_info */
    socklen_t len = sizeof(state);

    atomic_store_explicit(&self->wait_signal, PBS_SIG_NONE, memory_order_relaxed);
    while (pbs_sys5(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, &state, &len) == 0 &&
           (state == TCP_FIN_WAIT1 || state == TCP_CLOSING || state == TCP_LAST_ACK) &&
           pbs_now_ns() < end &&
           atomic_load_explicit(&self->wait_signal, memory_order_relaxed) == PBS_SIG_NONE)
        pbs_sys2(SYS_nanosleep, &nap, NULL);
}

/*
 * Bytes are held that will be dropped, or may come to a sleeper who takes a part of them, or the connection
 * is to be ended: while the number still stood for it, a receive of another thread would get from the kernel
 * what comes after those, or the end. It waits for the lock. The close does not linger.
 */
static void close_now(struct pbs_closing *call)
{
    if (!call)
        return;
    call->result = pbs_sys3(call->nr, call->args[0], call->args[1], call->args[2]);
    call->made = true;
}

/*
 * The owner, another thread, is away from the shim: its revoked request keeps the file open beyond the
 * close. The peer sees the end now all the same, or when the call of a third thread is over. By a number of
 * ours, if there is one, so that the program's is closed before: a receive of a third thread would be given
 * the end, where the kernel gives it bytes, or no such number. Returns the seconds that this close has to
 * linger for; the owner's must not.
 */
static int end_and_close(struct pbs_sock *s, int fd, struct pbs_closing *call)
{
    int ghost = lingers(fd) ? -1 : pbs_ghost_make(fd), seconds;
    bool unread = pbs_sock_unread(s);

    pbs_items_leave_kernel(s); /* the kernel would take the members out with the file */
    if (ghost >= 0) {
        close_now(call);
        pbs_visit_leave(s, ghost, unread);
        return 0;
    }
    seconds = pbs_visit_end(fd, unread);
    if (!seconds)
        close_now(call);
    return seconds;
}

/* s locked, fd its last number, nothing of it armed in another thread's wait. missed: the number
 * was closed behind our back and is somebody else's now; it must not be spoken to. Returns the
 * seconds to linger for. */
static int last_close(struct pbs_sock *s, int fd, bool missed, struct pbs_closing *call)
{
    struct pbs_thread *owner = s->armed ? s->ring->owner : NULL;
    bool away = owner && s->call != owner->call && !missed && pbs_gate_alone(&s->file);
    int seconds = 0;

    /* A sleeper's reference keeps it open, as in the kernel. */
    if (away) {
        seconds = end_and_close(s, fd, call);
    } else if (pbs_gate_leave(&s->file) && !missed && pbs_sock_unread(s) && !pbs_user_confined) {
        reset_at_close(fd);
        close_now(call);
    }
    pbs_items_drop(s);
    pbs_fdtab_clear(fd, &s->file);
    pbs_sock_drop(s, s->held, pbs_ring_home, s);
    pbs_rx_unspill(s);
    pbs_sock_take_error(s);
    pbs_gate_leave(&s->file);
    pbs_ring_forget(s);
    if (s->ring)
        pbs_unlock(&s->file.lock); /* its owner's: put when the request has ended */
    else
        pbs_sock_put(s);
    return seconds;
}

/* The kernel is about to be given its request, by this number. s locked, armed. */
static bool about_to_go(struct pbs_sock *s, int fd)
{
    return s->fd == fd && !pbs_ring_submitted(s);
}

static void close_sock(struct pbs_thread *self, struct pbs_sock *s, int fd, bool missed,
                       struct pbs_closing *call)
{
    struct timespec nap = {0, 20000};
    struct pbs_thread *owner;
    bool revoked = false;
    int seconds;

    pbs_crit_enter(self);
    for (;;) {
        pbs_lock(&s->file.lock);
        if (!pbs_fdtab_is(fd, &s->file))
            break;
        owner = s->armed ? s->ring->owner : NULL;
        if (owner == self && (s->file.nfds == 1 || about_to_go(s, fd))) {
            pbs_unlock(&s->file.lock);
            pbs_crit_leave(self);
            pbs_ring_cancel(self->ring, s, PBS_WHY_close);
            pbs_crit_enter(self);
            continue;
        }
        if (s->file.nfds > 1 && (!owner || owner == self || revoked || !about_to_go(s, fd))) {
            pbs_items_unmask_fd(s, fd);
            close_now(call);
            pbs_fdtab_clear(fd, &s->file);
            break;
        }
        if (owner && pbs_ring_sleeps_for(owner, s)) {
            if (!pbs_ring_submitted(s)) { /* it is about to: by this number */
                pbs_unlock(&s->file.lock);
                pbs_crit_leave(self);
                pbs_sys2(SYS_nanosleep, &nap, NULL);
                pbs_crit_enter(self);
                continue;
            }
            /* Asleep in a receive on it: its reference outlives the number, as in the kernel. */
            if (!missed) {
                s->ghost = pbs_ghost_make(fd);
                close_now(call);
            }
            pbs_items_drop(s);
            pbs_fdtab_clear(fd, &s->file);
            if (atomic_load(&owner->waiting) != s)
                pbs_ring_orphaned(s->ring);
            break;
        }
        if (owner) {
            pbs_ring_revoke(s,
                            PBS_WHY_close); /* a request that is about to go is cancelled at once */
            revoked = true;
            if (!pbs_fdtab_is(fd, &s->file) || s->file.nfds > 1) {
                pbs_unlock(&s->file.lock);
                continue;
            }
        }
        seconds = last_close(s, fd, missed, call);
        pbs_crit_leave(self);
        if (seconds)
            linger(self, fd, seconds);
        return;
    }
    pbs_unlock(&s->file.lock);
    pbs_crit_leave(self);
}

static void close_epoll(struct pbs_thread *self, struct pbs_epoll *set, int fd)
{
    bool last;

    if (set->file.nfds > 1)
        pbs_epoll_unmask(self, set); /* its members can be changed no more by this number */
    pbs_crit_enter(self);
    pbs_lock(&set->file.lock);
    last = pbs_fdtab_is(fd, &set->file);
    pbs_fdtab_clear(fd, &set->file);
    last = last && !set->file.nfds;
    if (last)
        pbs_gate_leave(&set->file);
    pbs_unlock(&set->file.lock);
    pbs_crit_leave(self);
    if (last)
        pbs_epoll_drop(self, set);
}

static void close_record(int fd, bool missed, struct pbs_closing *call)
{
    struct pbs_file *f = pbs_fdtab_find(fd);
    struct pbs_thread *self;

    pbs_attend();
    if (!f || pbs_guest())
        return;
    self = pbs_thread_get();
    if (!self)
        return;
    if (f->kind == PBS_FILE_SOCK)
        close_sock(self, (struct pbs_sock *)f, fd, missed, call);
    else if (f->kind == PBS_FILE_EPOLL)
        close_epoll(self, (struct pbs_epoll *)f, fd);
}

void pbs_close_fd(int fd, struct pbs_closing *call)
{
    close_record(fd, false, call);
}

void pbs_close_range(unsigned lo, unsigned hi)
{
    for (int fd; (fd = pbs_fdtab_next(lo, hi)) >= 0; lo = (unsigned)fd + 1)
        pbs_close_fd(fd, NULL);
}

/* The owner is in a call of the kernel's on s: it would come back with an end, a send with SIGPIPE. */
static bool in_call(struct pbs_sock *s)
{
    return atomic_load(&s->call) == atomic_load(&s->ring->owner->call);
}

/*
 * The kernel closes fd after this. A request whose owner is away from the shim would keep it open for
 * some ticks more; but a stream may still have bytes to write when all functions at the end have run.
 */
static void part_with(struct pbs_sock *s, int fd)
{
    if (pbs_user_confined)
        return;
    if (s->armed && !in_call(s) && !pbs_ring_revoked_for(s, PBS_WHY_stdio)) {
        pbs_visit_end(fd, pbs_sock_unread(s));
        pbs_items_leave_kernel(s);
    } else if (pbs_sock_unread(s)) {
        reset_at_close(fd);
    }
}

void pbs_close_process(void)
{
    unsigned lo = 0;

    pbs_freeze(PBS_WHY_exit);
    pbs_ring_end_others(pbs_thread_get());
    for (int fd; (fd = pbs_fdtab_next(lo, ~0U)) >= 0; lo = (unsigned)fd + 1) {
        struct pbs_file *f = pbs_fdtab_find(fd);
        struct pbs_thread *self = f ? pbs_thread_get() : NULL;

        if (!self)
            continue;
        pbs_crit_enter(self);
        pbs_lock(&f->lock);
        /* And so its other numbers are nothing to us. */
        if (pbs_fdtab_is(fd, f) && pbs_gate_leave(f) && f->kind == PBS_FILE_SOCK)
            part_with((struct pbs_sock *)f, fd);
        pbs_unlock(&f->lock);
        pbs_crit_leave(self);
    }
}
