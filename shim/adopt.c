/* Which sockets are served from the ring, from when on, and until when. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "conf.h"
#include "item.h"
#include "ledger.h"
#include "mem.h"
#include "probe.h"
#include "rx.h"

#ifndef TCP_ULP
#define TCP_ULP 31
#endif
#ifndef TCP_INQ
#define TCP_INQ 36
#endif

/* What the kernel says of a socket that is about to be adopted. */
struct facts {
    bool fit;   /* else why says why not */
    bool later; /* not connected yet: ask again */
    enum pbs_reason why;
    bool nonblock;
    int64_t timeout;
};

static int ask_int(int fd, int level, int name, int dflt)
{
    int v = dflt;
    socklen_t len = sizeof(v);

    return pbs_sys5(SYS_getsockopt, fd, level, name, &v, &len) == 0 && len >= 1 ? v : dflt;
}

int64_t pbs_ask_timeout(int fd)
{
    struct timeval tv = {0, 0};
    socklen_t len = sizeof(tv);

    if (pbs_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_RCVTIMEO, &tv, &len) != 0)
        return 0;
    return tv.tv_sec * INT64_C(1000000000) + tv.tv_usec * INT64_C(1000);
}

static bool has_ulp(int fd)
{
    char name[16] = "";
    socklen_t len = sizeof(name);

    return pbs_sys5(SYS_getsockopt, fd, IPPROTO_TCP, TCP_ULP, name, &len) == 0 && len > 0 &&
           name[0];
}

static bool port_allowed(int fd)
{
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } a;
    socklen_t len = sizeof(a);

    if (pbs_sys3(SYS_getsockname, fd, &a, &len) != 0)
        return false;
    return pbs_conf_allows_port(
        ntohs(a.sa.sa_family == AF_INET6 ? a.in6.sin6_port : a.in.sin_port));
}

/* Accepted sockets inherit most of these silently from the listener, so the kernel is asked. */
static bool odd_option(int fd, long flags)
{
    return (flags & O_ASYNC) || pbs_sys3(SYS_fcntl, fd, F_GETOWN, 0) != 0 ||
           ask_int(fd, SOL_SOCKET, SO_RCVLOWAT, 1) != 1 ||
           ask_int(fd, SOL_SOCKET, SO_OOBINLINE, 0) != 0 ||
           ask_int(fd, SOL_SOCKET, SO_TIMESTAMP, 0) != 0 ||
           ask_int(fd, SOL_SOCKET, SO_TIMESTAMPNS, 0) != 0 ||
           ask_int(fd, SOL_SOCKET, SO_TIMESTAMPING, 0) != 0 ||
           ask_int(fd, SOL_SOCKET, SO_PEEK_OFF, -1) != -1 ||
           ask_int(fd, IPPROTO_TCP, TCP_INQ, 0) != 0 ||
           ask_int(fd, IPPROTO_TCP, TCP_REPAIR, 0) != 0 || has_ulp(fd);
}

uint64_t pbs_ask_cookie(int fd)
{
    uint64_t cookie = 0;
    socklen_t len = sizeof(cookie);

    return pbs_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) == 0 ? cookie : 0;
}

static struct facts inspect(int fd, uint32_t entry)
{
    struct facts f = {.fit = false, .why = PBS_WHY_kind};
    struct sockaddr_storage peer;
    socklen_t len = sizeof(peer);
    long flags = pbs_sys2(SYS_fcntl, fd, F_GETFL);

    /* Another thread of the parent may have closed and used the number again during the fork. */
    if (entry && pbs_ask_cookie(fd) != pbs_ledger_cookie(entry)) {
        f.why = PBS_WHY_fork;
        return f;
    }

    if (flags < 0 || pbs_sys3(SYS_getpeername, fd, &peer, &len) != 0) {
        f.later = true;
        return f;
    }
    f.why = PBS_WHY_option;
    if (odd_option(fd, flags))
        return f;
    f.why = PBS_WHY_excluded;
    if (!port_allowed(fd))
        return f;
    f.nonblock = flags & O_NONBLOCK;
    f.timeout = pbs_ask_timeout(fd);
    f.fit = true;
    return f;
}

void pbs_pass(struct pbs_thread *self, struct pbs_sock *s, enum pbs_reason why)
{
    if (s->state == PBS_PASS)
        return;
    s->state = PBS_PASS;
    pbs_count(self, passes);
    self->stats.pass[why]++;
}

/* WATCHED -> ADOPTED. s locked; unlocks while it asks the kernel. */
static bool enlist(struct pbs_thread *self, struct pbs_sock *s, int fd, bool blocking)
{
    enum pbs_policy_name policy = pbs_conf.policy;
    struct pbs_ring *ring;
    struct facts f;

    if (!pbs_policy_adopt(&s->tally, policy, blocking) ||
        (!self->ring && !pbs_policy_ring(self->saves, policy)))
        return false;
    if (s->impatient) {
        pbs_pass(self, s, PBS_WHY_option);
        return false;
    }
    if (!s->tcp || s->listening) {
        pbs_pass(self, s, PBS_WHY_kind);
        return false;
    }
    if (s->file.shared)
        pbs_pass(self, s, PBS_WHY_fork);
    if (pbs_mem_used_up())
        pbs_pass(self, s, PBS_WHY_memory);
    if (!pbs_gate_admits(&s->file))
        return false;
    if (!pbs_items_allow(s, self->id)) {
        pbs_pass(self, s, PBS_WHY_epoll);
        return false;
    }
    pbs_unlock(&s->file.lock);
    f = inspect(fd, s->file.entry);
    ring = f.fit && pbs_seccomp_allows() ? pbs_ring_get(self) : NULL;
    pbs_lock(&s->file.lock);
    if (!pbs_fdtab_is(fd, &s->file) || s->state != PBS_WATCHED || s->user != self->id || f.later)
        return false;
    if (!f.fit) {
        pbs_pass(self, s, f.why);
        return false;
    }
    if (!pbs_policy_adopt(&s->tally, policy, blocking && !f.nonblock)) {
        s->tally.small_full = 0; /* O_NONBLOCK: not worth asking at every receive */
        return false;
    }
    if (!ring) {
        pbs_pass(self, s,
                 self->ring_error == EDQUOT    ? PBS_WHY_memlock
                 : self->ring_error == ENOTSUP ? PBS_WHY_kick
                 : pbs_seccomp_allows()        ? PBS_WHY_ring
                                               : PBS_WHY_seccomp);
        return false;
    }
    s->stale = false;
    s->nonblock = f.nonblock;
    s->timeout = f.timeout;
    s->state = PBS_ADOPTED;
    return true;
}

bool pbs_adopt(struct pbs_thread *self, struct pbs_sock *s, int fd, bool blocking)
{
    int err;

    if (s->armed && s->state == PBS_ADOPTED)
        return true;
    pbs_rx_settle(s);
    if (s->spill)
        return false;
    if (s->stale && s->state == PBS_ADOPTED)
        s->state = PBS_WATCHED;
    if (s->state == PBS_WATCHED && !enlist(self, s, fd, blocking))
        return false;
    if (s->state != PBS_ADOPTED || s->armed || s->pieces || !self->ring)
        return s->armed && s->state == PBS_ADOPTED;
    if (!pbs_ring_can_sleep(self->ring)) {
        pbs_pass(self, s, PBS_WHY_kick);
        return false;
    }
    s->fd = fd;
    err = pbs_ring_arm(self->ring, s);
    if (err == -EAGAIN || err == -ENOBUFS)
        self->stats
            .pass[err == -EAGAIN ? PBS_WHY_fork : PBS_WHY_pool]++; /* this receive alone is plain */
    if (!err && s->items)
        pbs_items_mask(self, s);
    return !err;
}

void pbs_touch(struct pbs_thread *self, struct pbs_sock *s)
{
    uint64_t nobody = 0;

    if (atomic_compare_exchange_strong(&s->user, &nobody, self->id) || nobody == self->id)
        return;
    pbs_crit_enter(self);
    pbs_lock(&s->file.lock);
    if (s->file.kind == PBS_FILE_SOCK && s->file.nfds) {
        pbs_ring_revoke(s, PBS_WHY_thread);
        if (!s->armed)
            atomic_store(&s->user, self->id); /* PASS for good: whose it is no longer matters */
    }
    pbs_unlock(&s->file.lock);
    pbs_crit_leave(self);
}

void pbs_release(struct pbs_thread *self, struct pbs_sock *s, enum pbs_reason why)
{
    bool mine;

    pbs_crit_enter(self);
    pbs_lock(&s->file.lock);
    mine = s->ring && s->ring == self->ring;
    if (mine)
        pbs_pass(self, s, why);
    else
        pbs_ring_revoke(s, why);
    pbs_unlock(&s->file.lock);
    pbs_crit_leave(self);
    if (mine)
        pbs_ring_cancel(self->ring, s, why);
}

void pbs_release_fd(int fd, enum pbs_reason why)
{
    struct pbs_file *f = pbs_fdtab_find(fd);
    struct pbs_thread *self = f ? pbs_thread_get() : NULL;

    if (self && f->kind == PBS_FILE_SOCK)
        pbs_release(self, (struct pbs_sock *)f, why);
}

void pbs_epoll_refuse(struct pbs_thread *self, struct pbs_epoll *set)
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

void pbs_freeze(enum pbs_reason why)
{
    struct pbs_thread *self = pbs_self;

    pbs_gate_close();
    if (!self)
        self = pbs_ring_list() ? pbs_thread_get() : NULL;
    if (!self)
        return;
    pbs_ring_revoke_others(self, why);
    if (self->ring)
        pbs_ring_cancel_all(self->ring, why);
}

void pbs_thaw(void)
{
    pbs_gate_open();
}
