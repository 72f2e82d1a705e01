/*
 * Calls that send. They meet what a receive has left behind: an error that the ring has consumed
 * and that the program has not been given. A miss costs one load.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>

#include "hook.h"
#include "life.h"
#include "real.h"
#include "share.h"
#include "user.h"
#include "visit.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes"

#define SPLICE_FLAGS ((unsigned)(SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT))

enum sender { PLAIN, ERROR, GUARDED };

/*
 * Before a send on fd. ERROR: errno is set, the call is over. GUARDED: another thread's ring may
 * consume the connection's error at this moment; send without SIGPIPE and ask settle().
 */
static PBS_COLD enum sender meet(int fd, struct pbs_file *f, struct pbs_sock **sock)
{
    struct pbs_sock *s = (struct pbs_sock *)f;
    struct pbs_thread *self;
    int err = 0;

    if (f->kind != PBS_FILE_SOCK || pbs_guest())
        return PLAIN;
    if (!pbs_sock_error(s)) {
        self = s->armed ? pbs_thread_get() : NULL;
        if (!self || s->user == self->id)
            return PLAIN;
        pbs_visit(self, s);
        *sock = s;
        return GUARDED;
    }
    self = pbs_thread_get();
    if (!self)
        return PLAIN;
    pbs_crit_enter(self);
    pbs_lock(&s->file.lock);
    if (pbs_fdtab_is(fd, f))
        err = pbs_sock_take_error(s);
    pbs_unlock(&s->file.lock);
    pbs_crit_leave(self);
    if (!err)
        return PLAIN;
    errno = err;
    return ERROR;
}

/* A socket of this thread's, and nothing was left behind. */
static inline bool is_well(struct pbs_file *f)
{
    struct pbs_thread *self = pbs_self;
    struct pbs_sock *s = (struct pbs_sock *)f;

    return f->kind == PBS_FILE_SOCK && self && s->user == self->id && !pbs_sock_error(s);
}

/*
 * With a socket: the call that follows names it to a close by another thread, if PLAIN to the end of the
 * process, too, and after() ends that. Named, then attended, as who ends it asks for attention, then looks
 * for the name: a send is either seen or does not begin.
 */
static inline enum sender before(int fd, struct pbs_sock **sock)
{
    struct pbs_file *f = pbs_fdtab_find(fd);
    struct pbs_sock *s = (struct pbs_sock *)f;

    if (f && is_well(f) && s->armed) {
        atomic_store(&s->call, pbs_self->call);
        *sock = s;
    }
    pbs_attend();
    return pbs_likely(!f || is_well(f)) ? PLAIN : meet(fd, f, sock);
}

/* The plain call gave r. What another thread has closed meanwhile was kept open for us. */
static inline ssize_t after(struct pbs_sock *s, ssize_t r)
{
    if (s) {
        pbs_self->call++;
        pbs_attend();
    }
    return r;
}

/* As the kernel's own: to this thread, SI_USER. */
static void raise_sigpipe(void)
{
    siginfo_t info = {.si_signo = SIGPIPE, .si_code = SI_USER};
    long pid = pbs_sys0(SYS_getpid);

    info.si_pid = (pid_t)pid;
    info.si_uid = (uid_t)pbs_sys0(SYS_getuid);
    pbs_sys4(SYS_rt_tgsigqueueinfo, pid, pbs_sys0(SYS_gettid), SIGPIPE, &info);
}

/*
 * A guarded send gave r. EPIPE may stand for an error that the owner's ring has just consumed: ends
 * the adoption, so that it is known, and gives it. Else the signal that was held back is due.
 */
static ssize_t settle(struct pbs_sock *s, int fd, ssize_t r, bool signal)
{
    struct pbs_thread *self = pbs_self;
    int err = 0;

    if (r >= 0 || errno != EPIPE)
        return r;
    if (pbs_fdtab_is(fd, &s->file))
        pbs_touch(self, s);
    pbs_crit_enter(self);
    pbs_lock(&s->file.lock);
    if (pbs_fdtab_is(fd, &s->file))
        err = pbs_sock_take_error(s);
    pbs_unlock(&s->file.lock);
    pbs_crit_leave(self);
    if (!err && signal)
        raise_sigpipe();
    errno = err ? err : EPIPE;
    return -1;
}

/* plain: the call as it is; guarded: the same with MSG_NOSIGNAL. */
#define SEND(fd, plain, guarded, signal)                                                           \
    ({                                                                                             \
        struct pbs_sock *s_ = NULL;                                                                \
        ssize_t r_ = -1;                                                                           \
                                                                                                   \
        switch (before(fd, &s_)) {                                                                 \
        case PLAIN:                                                                                \
            r_ = after(s_, plain);                                                                 \
            break;                                                                                 \
        case GUARDED:                                                                              \
            r_ = settle(s_, fd, after(s_, guarded), signal);                                       \
            break;                                                                                 \
        case ERROR:                                                                                \
            break;                                                                                 \
        }                                                                                          \
        r_;                                                                                        \
    })

PBS_EXPORT ssize_t write(int fd, const void *buf, size_t n)
{
    return SEND(fd, real.write(fd, buf, n), real.send(fd, buf, n, MSG_NOSIGNAL), true);
}

PBS_EXPORT ssize_t __write(int fd, const void *buf, size_t n)
{
    return write(fd, buf, n);
}

PBS_EXPORT ssize_t send(int fd, const void *buf, size_t n, int flags)
{
    return SEND(fd, real.send(fd, buf, n, flags), real.send(fd, buf, n, flags | MSG_NOSIGNAL),
                !(flags & MSG_NOSIGNAL));
}

PBS_EXPORT ssize_t __send(int fd, const void *buf, size_t n, int flags)
{
    return send(fd, buf, n, flags);
}

PBS_EXPORT ssize_t sendto(int fd, const void *buf, size_t n, int flags, const struct sockaddr *addr,
                          socklen_t len)
{
    return SEND(fd, real.sendto(fd, buf, n, flags, addr, len),
                real.sendto(fd, buf, n, flags | MSG_NOSIGNAL, addr, len), !(flags & MSG_NOSIGNAL));
}

static ssize_t writev_guarded(int fd, const struct iovec *iov, int n)
{
    struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n};

    return n < 0 || n > IOV_MAX ? real.writev(fd, iov, n) : real.sendmsg(fd, &msg, MSG_NOSIGNAL);
}

PBS_EXPORT ssize_t writev(int fd, const struct iovec *iov, int n)
{
    return SEND(fd, real.writev(fd, iov, n), writev_guarded(fd, iov, n), true);
}

PBS_EXPORT ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
    if (pbs_fdtab_size && !pbs_fdtab_find(fd))
        pbs_share_sent(msg); /* descriptors travel on AF_UNIX alone, which has no record */
    return SEND(fd, real.sendmsg(fd, msg, flags), real.sendmsg(fd, msg, flags | MSG_NOSIGNAL),
                !(flags & MSG_NOSIGNAL));
}

PBS_EXPORT int sendmmsg(int fd, struct mmsghdr *vec, unsigned n, int flags)
{
    if (pbs_fdtab_size && !pbs_fdtab_find(fd))
        for (unsigned i = 0; i < n && i < IOV_MAX; i++) {
            if (!pbs_thread_get() || !pbs_user_readable(pbs_self, &vec[i], sizeof(*vec)))
                break;
            pbs_share_sent(&vec[i].msg_hdr);
        }
    return (int)SEND(fd, real.sendmmsg(fd, vec, n, flags),
                     real.sendmmsg(fd, vec, n, flags | MSG_NOSIGNAL), !(flags & MSG_NOSIGNAL));
}

PBS_EXPORT int __sendmmsg(int fd, struct mmsghdr *vec, unsigned n, int flags)
{
    return sendmmsg(fd, vec, n, flags);
}

/* No flag keeps SIGPIPE away here: the adoption by another thread ends first. */
static enum sender before_move(int fd, struct pbs_sock **named)
{
    struct pbs_sock *s = NULL;
    enum sender how = before(fd, &s);

    if (how == GUARDED) {
        pbs_touch(pbs_self, s);
        how = before(fd, &s);
    }
    *named = s;
    return how == ERROR ? ERROR : PLAIN;
}

#define MOVE(fd, plain)                                                                            \
    ({                                                                                             \
        struct pbs_sock *s_;                                                                       \
                                                                                                   \
        before_move(fd, &s_) == ERROR ? -1 : after(s_, plain);                                     \
    })

PBS_EXPORT ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t off, int flags)
{
    return off == -1 ? MOVE(fd, real.pwritev2(fd, iov, n, off, flags))
                     : real.pwritev2(fd, iov, n, off, flags);
}

PBS_EXPORT ssize_t pwritev64v2(int fd, const struct iovec *iov, int n, off64_t off, int flags)
{
    return off == -1 ? MOVE(fd, real.pwritev64v2(fd, iov, n, off, flags))
                     : real.pwritev64v2(fd, iov, n, off, flags);
}

static ssize_t splice_to(int from, off64_t *offin, int to, off64_t *offout, size_t n,
                         unsigned flags)
{
    ssize_t r = pbs_rx_splice(from, to, !offin && !offout && !(flags & ~SPLICE_FLAGS), n, flags);

    return r == PBS_RX_PASS ? real.splice(from, offin, to, offout, n, flags) : pbs_ret(r);
}

PBS_EXPORT ssize_t splice(int from, off64_t *offin, int to, off64_t *offout, size_t n,
                          unsigned flags)
{
    return MOVE(to, splice_to(from, offin, to, offout, n, flags));
}

/* From a socket it is a splice, and takes the way of waiting from its flags. */
static ssize_t before_sendfile(int to, int from, bool fit, size_t n)
{
    long flags = pbs_fdtab_miss(from) ? 0 : pbs_sys2(SYS_fcntl, from, F_GETFL);

    return pbs_rx_splice(from, to, fit, n, flags & O_NONBLOCK ? SPLICE_F_NONBLOCK : 0);
}

static ssize_t sendfile_to(int to, int from, off_t *off, size_t n)
{
    ssize_t r = before_sendfile(to, from, !off, n);

    return r == PBS_RX_PASS ? real.sendfile(to, from, off, n) : pbs_ret(r);
}

PBS_EXPORT ssize_t sendfile(int to, int from, off_t *off, size_t n)
{
    return MOVE(to, sendfile_to(to, from, off, n));
}

PBS_EXPORT ssize_t sendfile64(int to, int from, off64_t *off, size_t n)
{
    return sendfile(to, from, off, n);
}

bool pbs_send_by_number(long nr, const long *a, long *r)
{
    int fd = (int)a[0];

    switch (nr) {
    case SYS_write:
        *r = write(fd, (void *)a[1], (size_t)a[2]);
        return true;
    case SYS_writev:
        *r = writev(fd, (void *)a[1], (int)a[2]);
        return true;
    case SYS_pwritev2:
        *r = pwritev2(fd, (void *)a[1], (int)a[2], a[3], (int)a[5]);
        return true;
    case SYS_sendto:
        *r = sendto(fd, (void *)a[1], (size_t)a[2], (int)a[3], (void *)a[4], (socklen_t)a[5]);
        return true;
    case SYS_sendmsg:
        *r = sendmsg(fd, (void *)a[1], (int)a[2]);
        return true;
    case SYS_sendmmsg:
        *r = sendmmsg(fd, (void *)a[1], (unsigned)a[2], (int)a[3]);
        return true;
    case SYS_sendfile:
        *r = sendfile(fd, (int)a[1], (void *)a[2], (size_t)a[3]);
        return true;
    case SYS_splice:
        *r = splice(fd, (void *)a[1], (int)a[2], (void *)a[3], (size_t)a[4], (unsigned)a[5]);
        return true;
    }
    return false;
}
