/*
 * Calls that consume bytes: a record's bytes come from pbs_rx(); everything else is the plain call.
 */
#include <errno.h>
#include <limits.h>

#include "hook.h"
#include "real.h"
#include "rx.h"
#include "share.h"
#include "user.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes" /* the _chk names: no header declares them */

#define MAX_RW 0x7ffff000UL /* what one call moves at most (MAX_RW_COUNT) */

/* The plain call if fd has no record or pbs_rx() says so; else what it received. */
#define RECEIVE(fd, asked, flags, received, plain)                                                 \
    ({                                                                                             \
        struct pbs_file *f_ = pbs_fdtab_find(fd);                                                  \
        ssize_t r_;                                                                                \
                                                                                                   \
        if (pbs_likely(!f_)) {                                                                     \
            pbs_attend();                                                                          \
            return plain;                                                                          \
        }                                                                                          \
        r_ = received;                                                                             \
        r_ == PBS_RX_PLAIN  ? pbs_rx_after(f_, asked, flags, plain)                                \
        : r_ == PBS_RX_PASS ? plain                                                                \
                            : pbs_ret(r_);                                                         \
    })

static size_t clip(size_t n)
{
    return n > MAX_RW ? MAX_RW : n;
}

/* read() judges the whole length before it cuts it; recv() cuts first. */
static ssize_t receive_read(int fd, struct pbs_file *f, void *buf, size_t n)
{
    return pbs_user_absurd(buf, n) ? PBS_RX_PASS : pbs_rx_buf(fd, f, buf, clip(n), PBS_RX_READ);
}

/* Out of line, so that a call that is not ours needs no stack frame. */
static __attribute__((noinline)) ssize_t read_ours(int fd, void *buf, size_t n)
{
    return RECEIVE(fd, n, 0, receive_read(fd, f_, buf, n), real.read(fd, buf, n));
}

PBS_EXPORT ssize_t read(int fd, void *buf, size_t n)
{
    if (pbs_likely(pbs_fdtab_miss(fd) && !pbs_attention))
        return real.read(fd, buf, n);
    return read_ours(fd, buf, n);
}

PBS_EXPORT ssize_t __read(int fd, void *buf, size_t n)
{
    return read(fd, buf, n);
}

PBS_EXPORT ssize_t __read_chk(int fd, void *buf, size_t n, size_t room)
{
    return RECEIVE(fd, n, 0, n > room ? PBS_RX_PASS : receive_read(fd, f_, buf, n),
                   real.__read_chk(fd, buf, n, room));
}

static __attribute__((noinline)) ssize_t recv_ours(int fd, void *buf, size_t n, int flags)
{
    return RECEIVE(fd, n, flags, pbs_rx_buf(fd, f_, buf, clip(n), (unsigned)flags),
                   real.recv(fd, buf, n, flags));
}

PBS_EXPORT ssize_t recv(int fd, void *buf, size_t n, int flags)
{
    if (pbs_likely(pbs_fdtab_miss(fd) && !pbs_attention))
        return real.recv(fd, buf, n, flags);
    return recv_ours(fd, buf, n, flags);
}

PBS_EXPORT ssize_t __recv(int fd, void *buf, size_t n, int flags)
{
    return recv(fd, buf, n, flags);
}

PBS_EXPORT ssize_t __recv_chk(int fd, void *buf, size_t n, size_t room, int flags)
{
    return RECEIVE(fd, n, flags,
                   n > room ? PBS_RX_PASS : pbs_rx_buf(fd, f_, buf, clip(n), (unsigned)flags),
                   real.__recv_chk(fd, buf, n, room, flags));
}

/* TCP gives no address: its length becomes 0, after the bytes have been taken. */
static ssize_t with_address(ssize_t r, const struct sockaddr *addr, socklen_t *addrlen)
{
    struct pbs_thread *self = pbs_self;

    if (r < 0 || !addr)
        return r;
    if (!addrlen || !pbs_user_readable(self, addrlen, sizeof(*addrlen)))
        return -EFAULT;
    if ((int)*addrlen < 0)
        return -EINVAL;
    if (!pbs_user_rewritable(self, addrlen, sizeof(*addrlen)))
        return -EFAULT;
    *addrlen = 0;
    return r;
}

static ssize_t receive_from(int fd, struct pbs_file *f, void *buf, size_t n, int flags,
                            const struct sockaddr *addr, socklen_t *addrlen)
{
    ssize_t r = pbs_rx_buf(fd, f, buf, clip(n), (unsigned)flags);

    return with_address(r, addr, addrlen); /* verdicts are negative */
}

PBS_EXPORT ssize_t recvfrom(int fd, void *buf, size_t n, int flags, struct sockaddr *addr,
                            socklen_t *addrlen)
{
    return RECEIVE(fd, n, flags, receive_from(fd, f_, buf, n, flags, addr, addrlen),
                   real.recvfrom(fd, buf, n, flags, addr, addrlen));
}

PBS_EXPORT ssize_t __recvfrom_chk(int fd, void *buf, size_t n, size_t room, int flags,
                                  struct sockaddr *addr, socklen_t *addrlen)
{
    return RECEIVE(fd, n, flags,
                   n > room ? PBS_RX_PASS : receive_from(fd, f_, buf, n, flags, addr, addrlen),
                   real.__recvfrom_chk(fd, buf, n, room, flags, addr, addrlen));
}

/*
 * Fills dst from an iovec array of the program's. -errno for what the kernel refuses; total bytes
 * else. The array is checked entry by entry as the kernel does; too long a total is cut.
 */
static ssize_t import(struct pbs_dst *dst, const struct iovec *iov, size_t n)
{
    size_t total = 0;

    if (n > IOV_MAX)
        return -EINVAL;
    if (n && !pbs_user_readable(pbs_thread_get(), iov, n * sizeof(*iov)))
        return -EFAULT;
    for (size_t i = 0; i < n; i++) {
        if ((ssize_t)iov[i].iov_len < 0 || pbs_user_absurd(iov[i].iov_base, iov[i].iov_len))
            return -EINVAL;
        total += iov[i].iov_len < MAX_RW - total ? iov[i].iov_len : MAX_RW - total;
    }
    *dst = (struct pbs_dst){.iov = iov, .n = (unsigned)n, .left = total};
    return (ssize_t)total;
}

static ssize_t receive_iov(int fd, struct pbs_file *f, const struct iovec *iov, int n,
                           long long flags, size_t *asked)
{
    struct pbs_dst dst;
    ssize_t r = pbs_thread_get() ? import(&dst, iov, (size_t)(n < 0 ? IOV_MAX + 1 : n)) : -EFAULT;

    if (r < 0)
        return PBS_RX_PASS; /* the kernel finds the same fault, and takes no byte */
    *asked = (size_t)r;
    return pbs_rx(fd, f, &dst, flags);
}

PBS_EXPORT ssize_t readv(int fd, const struct iovec *iov, int n)
{
    size_t asked = 0;

    return RECEIVE(fd, asked, 0, receive_iov(fd, f_, iov, n, PBS_RX_READ, &asked),
                   real.readv(fd, iov, n));
}

/* Offset -1 is readv; any other offset is refused for sockets, by the kernel. */
static ssize_t receive_at(int fd, struct pbs_file *f, const struct iovec *iov, int n, off_t off,
                          int flags, size_t *asked)
{
    int known = RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND;

    if (off != -1 || (flags & ~known))
        return PBS_RX_PASS;
    return receive_iov(fd, f, iov, n, PBS_RX_READ | (flags & RWF_NOWAIT ? MSG_DONTWAIT : 0), asked);
}

PBS_EXPORT ssize_t preadv2(int fd, const struct iovec *iov, int n, off_t off, int flags)
{
    size_t asked = 0;

    return RECEIVE(fd, asked, 0, receive_at(fd, f_, iov, n, off, flags, &asked),
                   real.preadv2(fd, iov, n, off, flags));
}

PBS_EXPORT ssize_t preadv64v2(int fd, const struct iovec *iov, int n, off64_t off, int flags)
{
    size_t asked = 0;

    return RECEIVE(fd, asked, 0, receive_at(fd, f_, iov, n, off, flags, &asked),
                   real.preadv64v2(fd, iov, n, off, flags));
}

ssize_t pbs_hook_recvmsg(int fd, struct pbs_file *f, struct msghdr *msg, long long flags,
                         size_t *asked)
{
    struct pbs_thread *self = pbs_thread_get();
    struct pbs_dst dst;
    size_t room;
    ssize_t r;

    /* What the kernel would refuse it refuses before it takes a byte: let it. */
    if (!self || ((int)flags & PBS_MSG_COMPAT) || !pbs_user_readable(self, msg, sizeof(*msg)) ||
        (int)msg->msg_namelen < 0 || msg->msg_iovlen > IOV_MAX)
        return PBS_RX_PASS;
    r = import(&dst, msg->msg_iov, msg->msg_iovlen);
    if (r < 0)
        return PBS_RX_PASS;
    *asked = (size_t)r;
    r = pbs_rx(fd, f, &dst, flags);
    if (r < 0)
        return r;
    if (!pbs_user_rewritable(self, msg, sizeof(*msg)))
        return -EFAULT; /* found out afterwards by the kernel too: the bytes are gone */
    if (msg->msg_name)
        msg->msg_namelen = 0;
    room = msg->msg_controllen;
    msg->msg_controllen = 0;
    msg->msg_flags = (int)flags & MSG_CMSG_CLOEXEC;
    if (pbs_unlikely(((struct pbs_sock *)f)->state != PBS_ADOPTED) && pbs_fdtab_is(fd, f))
        pbs_rx_tell_left(self, (struct pbs_sock *)f, fd, msg, room);
    return r;
}

/* On a socket that is not ours: it may bring numbers. */
static ssize_t receive_rights(int fd, struct msghdr *msg, int flags)
{
    ssize_t r = real.recvmsg(fd, msg, flags);

    if (r >= 0 && pbs_fdtab_size)
        pbs_share_received(msg);
    return r;
}

static ssize_t recvmsg_ours(int fd, struct msghdr *msg, long long flags, size_t *asked)
{
    return RECEIVE(fd, *asked, (int)flags, pbs_hook_recvmsg(fd, f_, msg, flags, asked),
                   real.recvmsg(fd, msg, (int)flags));
}

PBS_EXPORT ssize_t recvmsg(int fd, struct msghdr *msg, int flags)
{
    size_t asked = 0;

    if (pbs_fdtab_miss(fd)) {
        pbs_attend();
        return receive_rights(fd, msg, flags);
    }
    return recvmsg_ours(fd, msg, (unsigned)flags, &asked);
}

/* libc reads in threads of its own, behind our back: the socket is released (held bytes are then
 * out of its reach, a listed limit). */
PBS_EXPORT int aio_read(struct aiocb *cb)
{
    if (pbs_fdtab_size && pbs_thread_get() && pbs_user_readable(pbs_self, cb, sizeof(*cb)))
        pbs_release_fd(cb->aio_fildes, PBS_WHY_io);
    return real.aio_read(cb);
}

PBS_EXPORT int aio_read64(struct aiocb64 *cb)
{
    if (pbs_fdtab_size && pbs_thread_get() && pbs_user_readable(pbs_self, cb, sizeof(*cb)))
        pbs_release_fd(cb->aio_fildes, PBS_WHY_io);
    return real.aio_read64(cb);
}

bool pbs_recv_by_number(long nr, const long *a, long *r)
{
    int fd = (int)a[0];

    switch (nr) {
    case SYS_read:
        *r = read(fd, (void *)a[1], (size_t)a[2]);
        return true;
    case SYS_readv:
        *r = readv(fd, (void *)a[1], (int)a[2]);
        return true;
    case SYS_preadv2: /* the offset's upper half is for 32 bits */
        *r = preadv2(fd, (void *)a[1], (int)a[2], a[3], (int)a[5]);
        return true;
    case SYS_recvfrom:
        *r = recvfrom(fd, (void *)a[1], (size_t)a[2], (int)a[3], (void *)a[4], (void *)a[5]);
        return true;
    case SYS_recvmsg:
        *r = recvmsg(fd, (void *)a[1], (int)a[2]);
        return true;
    }
    return false;
}
