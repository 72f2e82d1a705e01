/* Receives that are rare: looking without taking, and the rest of a MSG_WAITALL. */
#include <errno.h>
#include <limits.h>
#include <poll.h>

#include "real.h"
#include "rx.h"

/* Asks the kernel for what fits behind dst's position. -errno or bytes. */
static ssize_t plain(int fd, const struct pbs_dst *dst, int flags)
{
    struct iovec iov[IOV_MAX];
    struct msghdr msg = {.msg_iov = iov};
    size_t off = dst->off, left = dst->left;
    int saved = errno;
    ssize_t r;

    for (unsigned i = 0; i < dst->n && i < IOV_MAX && left; i++) {
        iov[i].iov_base = (char *)dst->iov[i].iov_base + off;
        iov[i].iov_len = dst->iov[i].iov_len - off < left ? dst->iov[i].iov_len - off : left;
        left -= iov[i].iov_len;
        off = 0;
        msg.msg_iovlen = i + 1;
    }
    r = real.recvmsg(fd, &msg, flags);
    if (r < 0) {
        r = -errno;
        errno = saved;
    }
    return r;
}

ssize_t pbs_rx_peek(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                    int flags)
{
    size_t n = s->held < dst->left ? s->held : dst->left, left = dst->left;
    int behind = MSG_PEEK | (flags & MSG_TRUNC), err = 0;
    ssize_t r;

    if (!n && !s->error)
        return PBS_RX_PASS;
    if (n && !(flags & MSG_TRUNC) && !pbs_rx_prove(self, dst, n))
        return -EFAULT;
    pbs_crit_enter(self);
    pbs_lock(&s->file.lock);
    dst->left = n;
    if (flags & MSG_TRUNC)
        pbs_dst_advance(dst, n);
    else
        pbs_sock_peek(s, dst);
    dst->left = left - dst->done;
    if (!n)
        err = pbs_sock_take_error(s); /* looking takes it, as in the kernel */
    pbs_unlock(&s->file.lock);
    pbs_crit_leave(self);
    if (err)
        return -err;
    pbs_count(self, served_calls);
    if (dst->left && dst->done) {
        /* Once something is there the kernel goes on to sleep for MSG_WAITALL alone. */
        if (!(flags & MSG_WAITALL) || (flags & MSG_DONTWAIT))
            behind |= MSG_DONTWAIT;
        else
            behind |= MSG_WAITALL;
        self->plain++;
        r = plain(fd, dst, behind);
        self->plain--;
        pbs_count(self, kernel_entries);
        if (r > 0) {
            self->ready_epoch++;
            pbs_dst_advance(dst, (size_t)r);
        }
    }
    return dst->done ? (ssize_t)dst->done : PBS_RX_PASS;
}

/* An error that a call of ours took from the socket belongs to the program's next call. */
void pbs_rx_keep_error(struct pbs_sock *s, ssize_t r)
{
    if (r < 0 && r != -EAGAIN && r != -EFAULT && r != -EBADF && r != -ENOTCONN && r != -EINTR)
        atomic_store(&s->error, (int)-r);
}

/* In a critical section: between the look at what is held and the kernel's answer no handler may
 * drain the socket. Nothing sleeps here. */
ssize_t pbs_rx_ask(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                   int flags)
{
    ssize_t r = PBS_RX_PASS;

    pbs_crit_enter(self);
    if (!pbs_sock_holds(s)) {
        r = plain(fd, dst, MSG_DONTWAIT | (flags & MSG_TRUNC));
        pbs_count(self, kernel_entries);
    }
    if (r > 0)
        pbs_dst_advance(dst, (size_t)r);
    if (r == -EAGAIN || (r > 0 && dst->left)) {
        s->dry_epoch = self->ready_epoch;
        s->unverified = false;
    }
    pbs_crit_leave(self);
    return r;
}

bool pbs_rx_top_up(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                   int flags)
{
    ssize_t r = pbs_rx_ask(self, s, fd, dst, flags);

    if (r == PBS_RX_PASS)
        return s->held > 0;
    pbs_rx_keep_error(s, r);
    return false;
}

ssize_t pbs_rx_rest(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                    int64_t deadline, bool blocking)
{
    int64_t timeout = deadline || !blocking ? 0 : pbs_ask_timeout(fd);

    if (timeout)
        deadline = pbs_now_ns() + timeout;
    self->plain++;
    while (dst->left) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        ssize_t r = plain(fd, dst, MSG_DONTWAIT);
        struct timespec ts, *tsp = NULL;
        int64_t left;

        pbs_count(self, kernel_entries);
        if (r > 0) {
            pbs_dst_advance(dst, (size_t)r);
            continue;
        }
        pbs_rx_keep_error(s, r);
        if (r != -EAGAIN || !blocking)
            break;
        if (deadline) {
            left = deadline - pbs_now_ns();
            if (left <= 0)
                break;
            ts.tv_sec = left / 1000000000;
            ts.tv_nsec = left % 1000000000;
            tsp = &ts;
        }
        pbs_count(self, kernel_entries);
        if (pbs_sys5(SYS_ppoll, &p, 1, tsp, NULL, 8) <= 0)
            break;
    }
    self->plain--;
    pbs_count(self, served_calls);
    return (ssize_t)dst->done;
}
