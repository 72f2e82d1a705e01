/* recvmmsg(): one message after the other, of one connection. */
#include <errno.h>
#include <limits.h>

#include "hook.h"
#include "real.h"
#include "rx.h"
#include "share.h"
#include "user.h"

#define ERESTARTSYS 512 /* the kernel's own */

/* It stands for the socket that it stood for when the call began. */
static bool same(int fd, struct pbs_sock *s)
{
    return pbs_fdtab_is(fd, &s->file) && s->life == pbs_self->same_life;
}

/* One message of recvmmsg(): bytes or -errno; a verdict for the first alone (no PBS_RX_SAME). *cut: a signal
 * has ended a MSG_WAITALL. */
static ssize_t receive_one(int fd, struct pbs_sock *s, struct mmsghdr *m, long long flags,
                           size_t *asked, bool *cut)
{
    struct pbs_thread *self = pbs_self;
    ssize_t r;

    atomic_store_explicit(&self->wait_signal, PBS_SIG_NONE, memory_order_relaxed);
    r = pbs_hook_recvmsg(fd, &s->file, &m->msg_hdr, flags, asked);
    if (r == PBS_RX_PASS && (flags & PBS_RX_SAME)) /* refused by the kernel, whatever fd is */
        return same(fd, s) && real.recvmsg(fd, &m->msg_hdr, (int)flags) < 0 ? -errno : -ESTALE;
    if (r < 0)
        return r;
    m->msg_len = (unsigned)r;
    *cut = (flags & MSG_WAITALL) && (size_t)r < *asked &&
           atomic_load_explicit(&self->wait_signal, memory_order_relaxed) != PBS_SIG_NONE;
    return r;
}

/* An error after the first message is the next call's, also the one by which the kernel tells itself
 * to begin a system call again. */
static void keep_for_next(int fd, struct pbs_sock *s, int err)
{
    if (err == EINTR && !pbs_ask_timeout(fd))
        err = ERESTARTSYS;
    if (err != EAGAIN && err != ESTALE && same(fd, s))
        atomic_store(&s->error, err);
}

static bool entry_ok(struct mmsghdr *m)
{
    return pbs_user_readable(pbs_self, m, sizeof(*m)) &&
           pbs_user_rewritable(pbs_self, m, sizeof(*m));
}

/*
 * As the kernel's do_recvmmsg() (Linux 6.18): a pending error first; then message by message, the
 * timeout looked at in between alone. A signal ends it after the first message, SA_RESTART or not. If the
 * number is closed meanwhile it ends there: what that stands for now is somebody else's. A verdict: nothing
 * is held, and so all of the call is the kernel's.
 */
static ssize_t receive_many(int fd, struct pbs_sock *s, struct mmsghdr *vec, unsigned n, int flags,
                            struct timespec *timeout, size_t *asked)
{
    int64_t end =
        timeout ? pbs_now_ns() + timeout->tv_sec * INT64_C(1000000000) + timeout->tv_nsec : 0;
    int err = pbs_sock_take_error(s), saved = errno;
    socklen_t len = sizeof(err);
    long long how = (unsigned)(flags & ~MSG_WAITFORONE);
    unsigned got = 0;
    bool cut = false;

    if (!err)
        pbs_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_ERROR, &err, &len);
    if (err)
        return -err;
    while (got < n) {
        ssize_t r = entry_ok(&vec[got]) ? receive_one(fd, s, &vec[got], how, asked, &cut) : -EFAULT;

        if (r < 0) {
            if (!got)
                return r;
            keep_for_next(fd, s, r == -EAGAIN && cut ? EINTR : (int)-r);
            break;
        }
        got++;
        if (cut || (flags & MSG_WAITFORONE))
            how |= MSG_DONTWAIT;
        how |= PBS_RX_ONCE | PBS_RX_SAME;
        if (timeout && pbs_now_ns() >= end)
            break;
    }
    if (timeout) {
        int64_t left = end - pbs_now_ns();

        timeout->tv_sec = left > 0 ? left / 1000000000 : 0;
        timeout->tv_nsec = left > 0 ? left % 1000000000 : 0;
    }
    errno = saved;
    return (ssize_t)got;
}

/* The same in this frame's name: a handler may make such a call in the middle of one. */
static ssize_t receive_same(int fd, struct pbs_sock *s, struct mmsghdr *vec, unsigned n, int flags,
                            struct timespec *timeout)
{
    struct pbs_thread *self = pbs_self;
    uint64_t outer = self->same_life;
    size_t asked = 0;
    ssize_t r;

    self->same_life = s->life;
    r = pbs_fdtab_is(fd, &s->file) ? receive_many(fd, s, vec, n, flags, timeout, &asked)
                                   : PBS_RX_PASS;
    self->same_life = outer;
    if (r == PBS_RX_PLAIN) {
        r = real.recvmmsg(fd, vec, n, flags, timeout);
        pbs_rx_after(&s->file, asked, flags, r > 0 ? (ssize_t)vec[0].msg_len : r);
        return r;
    }
    return r == PBS_RX_PASS ? real.recvmmsg(fd, vec, n, flags, timeout) : pbs_ret(r);
}

PBS_EXPORT int recvmmsg(int fd, struct mmsghdr *vec, unsigned n, int flags,
                        struct timespec *timeout)
{
    struct pbs_file *f = pbs_fdtab_find(fd);
    struct pbs_sock *s = (struct pbs_sock *)f;
    struct pbs_thread *self;
    int r;

    if (!f || f->kind != PBS_FILE_SOCK || (s->state == PBS_PASS && !pbs_sock_holds(s)) ||
        (flags & (MSG_OOB | MSG_ERRQUEUE | PBS_MSG_COMPAT)))
        goto plain;
    self = pbs_thread_get();
    if (n > IOV_MAX)
        n = IOV_MAX;
    if (!self || !n || !entry_ok(vec))
        goto plain;
    if (timeout && (!pbs_user_readable(self, timeout, sizeof(*timeout)) ||
                    !pbs_user_rewritable(self, timeout, sizeof(*timeout)) || timeout->tv_sec < 0 ||
                    (unsigned long)timeout->tv_nsec >= 1000000000))
        goto plain;
    return (int)receive_same(fd, s, vec, n, flags, timeout);
plain:
    if (f)
        pbs_release_fd(fd, flags & MSG_OOB ? PBS_WHY_oob : PBS_WHY_kind);
    pbs_attend();
    r = real.recvmmsg(fd, vec, n, flags, timeout);
    for (int i = 0; !f && pbs_fdtab_size && i < r; i++)
        pbs_share_received(&vec[i].msg_hdr);
    return r;
}

bool pbs_mmsg_by_number(long nr, const long *a, long *r)
{
    if (nr != SYS_recvmmsg)
        return false;
    *r = recvmmsg((int)a[0], (void *)a[1], (unsigned)a[2], (int)a[3], (void *)a[4]);
    return true;
}
