/*
 * Calls that send. They meet what a receive has left behind: an error that the ring has consumed
 * and that the program has not been given. A miss costs one load.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

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

/* PIPE_BUF bytes go into the pipe without a wait, in one write. */
static bool has_room(int pipe)
{
    struct pollfd p = {.fd = pipe, .events = POLLOUT};

    return pbs_sys3(SYS_poll, &p, 1, 0) > 0;
}

/* The first n held bytes, PIPE_BUF at most, by one write, which does not wait although another writer may have
 * taken the room meanwhile (RWF_NOWAIT; pipes of pipe() have it since Linux 6.4). */
static ssize_t pour_some(struct pbs_sock *s, int to, size_t n)
{
    struct iovec iov[16];
    struct pbs_piece *piece;
    int cnt = 0;
    ssize_t r;

    if (n > PIPE_BUF)
        n = PIPE_BUF;
    if (s->spill)
        pbs_rx_pull(s, n);
    for (piece = s->pieces; piece && n && cnt < 16; piece = piece->next) {
        iov[cnt] = (struct iovec){(void *)piece->data, piece->len < n ? piece->len : n};
        n -= iov[cnt++].iov_len;
    }
    if (!cnt)
        return 0;
    r = pbs_user_confined ? -EOPNOTSUPP
                          : pbs_sys6(SYS_pwritev2, to, (long)iov, cnt, -1, -1, RWF_NOWAIT);
    return r == -EOPNOTSUPP ? pbs_sys3(SYS_writev, to, iov, cnt) : r;
}

/* Up to n held bytes into the pipe, as far as it has room. The count, or with none -errno. */
static ssize_t pour(struct pbs_sock *s, int to, size_t n)
{
    size_t done = 0;
    ssize_t r = 1;

    while (done < n && r > 0 && has_room(to)) {
        r = pour_some(s, to, n - done);
        if (r > 0)
            done += pbs_sock_drop(s, (size_t)r, pbs_ring_home, s);
    }
    pbs_ring_forget(s);
    return done ? (ssize_t)done : r < 0 ? r : 0;
}

/* Sleeps until the pipe has room, as a splice into it would. 0 or -errno. */
static int wait_for_room(struct pbs_thread *self, int pipe)
{
    struct pollfd p = {.fd = pipe, .events = POLLOUT};
    long r;

    if (pbs_sys2(SYS_fcntl, pipe, F_GETFL) & O_NONBLOCK)
        return -EAGAIN;
    do {
        atomic_store_explicit(&self->wait_signal, PBS_SIG_NONE, memory_order_relaxed);
        r = pbs_sleep_call(self, SYS_poll, (long)&p, 1, -1, 0, 0, 0);
    } while (r == -EINTR &&
             atomic_load_explicit(&self->wait_signal, memory_order_relaxed) == PBS_SIG_RESTART);
    return r < 0 ? (int)r : 0;
}

/* Behind what was held: what the kernel has, if a splice would not sleep for it. */
static ssize_t splice_behind(int from, int to, size_t n, unsigned flags)
{
    int saved = errno, queued = 0;
    ssize_t r = 0;

    if (pbs_sys3(SYS_ioctl, from, FIONREAD, &queued) == 0 && queued > 0)
        r = real.splice(from, NULL, to, NULL, n, flags | SPLICE_F_NONBLOCK);
    errno = saved;
    return r > 0 ? r : 0;
}

/* Held bytes go first, written into the pipe; PBS_RX_PASS: nothing is held. */
static ssize_t splice_held(struct pbs_sock *s, int from, int to, size_t n, unsigned flags)
{
    struct pbs_thread *self = pbs_thread_get();
    ssize_t r = 0;

    while (self && !r && pbs_sock_holds(s)) {
        if (pbs_sock_unread(s) && !has_room(to)) {
            r = flags & SPLICE_F_NONBLOCK ? -EAGAIN : wait_for_room(self, to);
            continue;
        }
        pbs_crit_enter(self);
        pbs_lock(&s->file.lock);
        r = pbs_sock_unread(s) ? pour(s, to, n) : -pbs_sock_take_error(s);
        pbs_unlock(&s->file.lock);
        pbs_crit_leave(self);
    }
    if (r > 0 && (size_t)r < n && !pbs_sock_holds(s))
        r += splice_behind(from, to, n - (size_t)r, flags);
    return r ?: PBS_RX_PASS;
}

/* The kernel would take bytes from a socket to there. */
static bool is_pipe(int fd)
{
    struct stat st;

    return pbs_sys2(SYS_fstat, fd, &st) == 0 && S_ISFIFO(st.st_mode) &&
           (pbs_sys2(SYS_fcntl, fd, F_GETFL) & O_ACCMODE) != O_RDONLY;
}

/* Before bytes of `from` are moved inside the kernel; fit: the call is one that it would not refuse. */
static ssize_t before_take(int from, int to, bool fit, size_t n, unsigned flags)
{
    struct pbs_file *f = pbs_fdtab_find(from);

    if (!f || f->kind != PBS_FILE_SOCK)
        return PBS_RX_PASS;
    pbs_release_fd(from, PBS_WHY_io);
    return fit && n && is_pipe(to) ? splice_held((struct pbs_sock *)f, from, to, n, flags)
                                   : PBS_RX_PASS;
}

static ssize_t splice_to(int from, off64_t *offin, int to, off64_t *offout, size_t n,
                         unsigned flags)
{
    ssize_t r = before_take(from, to, !offin && !offout && !(flags & ~SPLICE_FLAGS), n, flags);

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

    return before_take(from, to, fit, n, flags & O_NONBLOCK ? SPLICE_F_NONBLOCK : 0);
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
