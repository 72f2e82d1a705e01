/* Calls that change or tell how a socket behaves. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include "hook.h"
#include "life.h"
#include "real.h"
#include "user.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes"

#ifndef TCP_ULP
#define TCP_ULP 31
#endif
#ifndef TCP_INQ
#define TCP_INQ 36
#endif

static struct pbs_sock *sock_of(int fd)
{
    struct pbs_file *f = pbs_fdtab_find(fd);

    return f && f->kind == PBS_FILE_SOCK && !pbs_guest() ? (struct pbs_sock *)f : NULL;
}

/* This thread looks at s: a second one that does so ends the adoption. */
static struct pbs_thread *observe(struct pbs_sock *s)
{
    struct pbs_thread *self = pbs_thread_get();

    if (self)
        pbs_touch(self, s);
    return self;
}

/* Options with which only the kernel knows what a receive has to give. */
static bool ends_adoption(int level, int name)
{
    if (level == SOL_SOCKET)
        switch (name) {
        case SO_RCVLOWAT:
        case SO_OOBINLINE:
        case SO_TIMESTAMP:
        case SO_TIMESTAMPNS:
        case SO_TIMESTAMPING:
        case 63: /* SO_TIMESTAMP_NEW */
        case 64: /* SO_TIMESTAMPNS_NEW */
        case 65: /* SO_TIMESTAMPING_NEW */
        case SO_PEEK_OFF:
            return true;
        }
    return level == IPPROTO_TCP && (name == TCP_INQ || name == TCP_REPAIR || name == TCP_ULP);
}

PBS_EXPORT int setsockopt(int fd, int level, int name, const void *val, socklen_t len)
{
    struct pbs_sock *s = sock_of(fd);
    int64_t sec;
    int r;

    pbs_attend();
    if (pbs_likely(!s))
        return real.setsockopt(fd, level, name, val, len);
    if (ends_adoption(level, name)) {
        pbs_release_fd(fd, PBS_WHY_option);
        if (level == IPPROTO_TCP && name == TCP_ULP && pbs_sock_unread(s)) {
            errno = ENOTCONN; /* the kernel's TLS cannot have the bytes: stay in user space */
            return -1;
        }
    }
    r = real.setsockopt(fd, level, name, val, len);
    if (!r && level == SOL_SOCKET && (name == SO_RCVTIMEO_OLD || name == SO_RCVTIMEO_NEW)) {
        memcpy(&sec, val, sizeof(sec));
        s->impatient = sec < 0; /* no wait at all, and getsockopt() says 0 */
        s->timeout = pbs_ask_timeout(fd);
        if (s->impatient)
            pbs_release_fd(fd, PBS_WHY_option);
    }
    return r;
}

/* struct tcp_zerocopy_receive, of which libc's header knows the beginning. */
struct zerocopy {
    uint64_t address;
    uint32_t length, to_receive, queued;
    int32_t err;
    uint64_t copy_to;
    int32_t copied;
    uint32_t flags;
    uint64_t control, controllen;
    uint32_t msg_flags, reserved;
};

/*
 * TCP_ZEROCOPY_RECEIVE maps or copies what the kernel has, and what is held comes before that: of such bytes
 * the kernel would say that they cannot be mapped and have to be received. Asked for nothing, it says the
 * rest. False: nothing is held, or the call is not one that gives anything.
 */
static bool zerocopy_held(struct pbs_sock *s, int fd, void *val, socklen_t *len, int *r)
{
    struct pbs_thread *self = pbs_thread_get();
    size_t held = pbs_sock_unread(s);
    struct zerocopy z = {0};
    int saved = errno;
    socklen_t n;

    if (!self || !held || !pbs_user_rewritable(self, len, sizeof(*len)))
        return false;
    n = *len < sizeof(z) ? *len : (socklen_t)sizeof(z);
    if ((int)*len < (int)offsetof(struct zerocopy, queued) || !pbs_user_rewritable(self, val, n))
        return false;
    memcpy(&z, val, n);
    z.length = z.queued = 0;
    z.copied = z.err = 0;
    *r = real.getsockopt(fd, IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE, &z, &n);
    if (*r && errno != EIO) /* it has met the end */
        return true;
    errno = saved;
    *r = 0;
    z.to_receive = held < INT_MAX ? (uint32_t)held : INT_MAX;
    z.queued += z.to_receive;
    memcpy(val, &z, n);
    *len = n;
    return true;
}

PBS_EXPORT int getsockopt(int fd, int level, int name, void *val, socklen_t *len)
{
    struct pbs_sock *s = sock_of(fd);
    int r, err;

    pbs_attend();
    if (s && level == IPPROTO_TCP && name == TCP_ZEROCOPY_RECEIVE) {
        pbs_release_fd(fd, PBS_WHY_io);
        if (zerocopy_held(s, fd, val, len, &r))
            return r;
    }
    if (s && level == SOL_SOCKET && name == SO_ERROR)
        observe(s);
    r = real.getsockopt(fd, level, name, val, len);
    if (!r && s && level == SOL_SOCKET && name == SO_ERROR && pbs_sock_error(s) &&
        *len >= sizeof(err)) {
        memcpy(&err, val, sizeof(err));
        if (!err) {
            err = pbs_sock_take_error(s);
            memcpy(val, &err, sizeof(err));
        }
    }
    return r;
}

PBS_EXPORT int shutdown(int fd, int how)
{
    int r;

    pbs_attend();
    r = real.shutdown(fd, how);
    /* From now on it is readable for good, and a request that brings bytes after it does not say so
     * (Linux 6.18). */
    if (!r && how != SHUT_WR)
        pbs_release_fd(fd, PBS_WHY_eof);
    return r;
}

static int after_fcntl(struct pbs_sock *s, int fd, int cmd, long arg, int r)
{
    if (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC)
        return pbs_born_dup(fd, r);
    if (s && cmd == F_SETFL)
        s->nonblock = arg & O_NONBLOCK;
    return r;
}

static void before_fcntl(struct pbs_sock *s, int fd, int cmd, long arg)
{
    if (pbs_guest() && cmd == F_SETFD && !(arg & FD_CLOEXEC))
        pbs_born_lent(fd);
    if (s && (cmd == F_SETOWN || cmd == F_SETOWN_EX || cmd == F_SETSIG ||
              (cmd == F_SETFL && (arg & O_ASYNC))))
        pbs_release_fd(fd, PBS_WHY_option);
}

#define FCNTL(call)                                                                                \
    do {                                                                                           \
        struct pbs_sock *s = sock_of(fd);                                                          \
        va_list ap;                                                                                \
        long arg;                                                                                  \
        int r;                                                                                     \
                                                                                                   \
        va_start(ap, cmd);                                                                         \
        arg = va_arg(ap, long);                                                                    \
        va_end(ap);                                                                                \
        before_fcntl(s, fd, cmd, arg);                                                             \
        r = call(fd, cmd, arg);                                                                    \
        return r < 0 ? r : after_fcntl(s, fd, cmd, arg, r);                                        \
    } while (0)

PBS_EXPORT int fcntl(int fd, int cmd, ...)
{
    FCNTL(real.fcntl);
}

PBS_EXPORT int __fcntl(int fd, int cmd, ...)
{
    FCNTL(real.fcntl);
}

PBS_EXPORT int fcntl64(int fd, int cmd, ...)
{
    FCNTL(real.fcntl64);
}

/* What the kernel has queued, and what we hold of it. */
static int inq(struct pbs_sock *s, int fd, long arg)
{
    struct pbs_thread *self = observe(s);
    int r = real.ioctl(fd, FIONREAD, arg);

    if (r < 0 || !self)
        return r;
    *(int *)arg += (int)pbs_sock_unread(s);
    if (*(int *)arg)
        self->ready_epoch++;
    return r;
}

/* libc's makes the ioctl itself. */
PBS_EXPORT int sockatmark(int fd)
{
    int at;

    return ioctl(fd, SIOCATMARK, &at) < 0 ? -1 : at;
}

PBS_EXPORT int ioctl(int fd, unsigned long req, ...)
{
    struct pbs_sock *s = sock_of(fd);
    va_list ap;
    long arg;
    int r;

    va_start(ap, req);
    arg = va_arg(ap, long);
    va_end(ap);
    if (pbs_likely(!s))
        return real.ioctl(fd, req, arg);
    switch ((unsigned)req) {
    case FIONREAD: /* is SIOCINQ */
        return inq(s, fd, arg);
    case SIOCATMARK:
        pbs_release_fd(fd, PBS_WHY_oob);
        r = real.ioctl(fd, req, arg);
        if (!r && pbs_sock_unread(s))
            *(int *)arg = 0; /* the mark is behind bytes that the program has not read */
        return r;
    case FIOASYNC:
    case FIOSETOWN:
    case SIOCSPGRP:
        pbs_release_fd(fd, PBS_WHY_option);
        break;
    }
    r = real.ioctl(fd, req, arg);
    if (!r && req == FIONBIO)
        s->nonblock = *(int *)arg != 0;
    return r;
}

bool pbs_opt_by_number(long nr, const long *a, long *r)
{
    int fd = (int)a[0];

    switch (nr) {
    case SYS_setsockopt:
        *r = setsockopt(fd, (int)a[1], (int)a[2], (void *)a[3], (socklen_t)a[4]);
        return true;
    case SYS_getsockopt:
        *r = getsockopt(fd, (int)a[1], (int)a[2], (void *)a[3], (void *)a[4]);
        return true;
    case SYS_shutdown:
        *r = shutdown(fd, (int)a[1]);
        return true;
    case SYS_ioctl:
        *r = ioctl(fd, (unsigned long)a[1], a[2]);
        return true;
    case SYS_fcntl:
        switch ((int)a[1]) { /* libc does more for others */
        case F_DUPFD:
        case F_DUPFD_CLOEXEC:
        case F_SETFL:
        case F_SETOWN:
        case F_SETOWN_EX:
        case F_SETSIG:
            *r = fcntl(fd, (int)a[1], a[2]);
            return true;
        }
    }
    return false;
}
