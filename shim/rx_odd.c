/* What surrounds a receive: buffers that fault, plain calls beside it, looking without taking. */
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>

#include "conf.h"
#include "mem.h"
#include "real.h"
#include "rx.h"

#ifndef TCP_INQ
#define TCP_INQ 36
#endif

bool pbs_rx_prove(struct pbs_thread *self, const struct pbs_dst *dst, size_t n)
{
    size_t off = dst->off;

    for (const struct iovec *iov = dst->iov; n; iov++) {
        size_t k = iov->iov_len - off;

        if (k > n)
            k = n;
        if (k && !pbs_user_writable(self, (char *)iov->iov_base + off, k))
            return false;
        n -= k;
        off = 0;
    }
    return true;
}

/* The same for all of it, without touching a byte: false may only mean that the stack has to grow. */
bool pbs_rx_prove_all(struct pbs_thread *self, const struct pbs_dst *dst)
{
    size_t off = dst->off;

    for (unsigned i = 0; i < dst->n; i++) {
        size_t k = dst->iov[i].iov_len - off;

        if (k && !pbs_user_rewritable(self, (char *)dst->iov[i].iov_base + off, k))
            return false;
        off = 0;
    }
    return true;
}

/*
 * The buffer cannot be written as far as it is said to reach, and what is held is not all that
 * there is: the kernel, which has it in one piece, would refuse the call where its part of it ends.
 */
bool pbs_rx_faults(struct pbs_thread *self, struct pbs_sock *s, int fd, const struct pbs_dst *dst)
{
    size_t there = pbs_sock_unread(s);
    int queued = 0;

    /* More would take room from others in the cache of proved pages, and memory from the machine:
     * what is proved is there. */
    if (pbs_user_confined || (dst->left <= 2 * PBS_USER_RUN && pbs_rx_prove_all(self, dst)))
        return false;
    pbs_sys3(SYS_ioctl, fd, FIONREAD, &queued);
    there += queued > 0 ? (size_t)queued : 0;
    return !pbs_rx_prove(self, dst, there < dst->left ? there : dst->left);
}

/* A message header over what dst has still room for. */
struct rest {
    struct msghdr msg;
    struct iovec few[8]; /* handlers may receive on stacks of a few kilobytes */
    struct iovec *many;  /* IOV_MAX entries; NULL: `few` are enough */
};

#define MANY (IOV_MAX * sizeof(struct iovec))

static void rest_begin(struct rest *rest, const struct pbs_dst *dst)
{
    size_t off = dst->off, left = dst->left;
    unsigned most = sizeof(rest->few) / sizeof(rest->few[0]);
    struct iovec *iov = rest->few;

    rest->many = dst->n > most ? pbs_mem_map(MANY) : NULL;
    if (rest->many) {
        iov = rest->many;
        most = IOV_MAX;
    }
    rest->msg = (struct msghdr){.msg_iov = iov};
    for (unsigned i = 0; i < dst->n && i < most && left; i++) {
        iov[i].iov_base = (char *)dst->iov[i].iov_base + off;
        iov[i].iov_len = dst->iov[i].iov_len - off < left ? dst->iov[i].iov_len - off : left;
        left -= iov[i].iov_len;
        off = 0;
        rest->msg.msg_iovlen = i + 1;
    }
}

static void rest_end(struct rest *rest)
{
    if (rest->many)
        pbs_mem_unmap(rest->many, MANY);
}

/* Asks the kernel for what fits behind dst's position. -errno or bytes. */
static ssize_t plain(int fd, const struct pbs_dst *dst, int flags)
{
    int saved = errno;
    struct rest rest;
    ssize_t r;

    rest_begin(&rest, dst);
    if (flags & MSG_DONTWAIT) {
        /* No cancellation point: it may be in a critical section. */
        r = pbs_sys3(SYS_recvmsg, fd, &rest.msg, flags);
    } else {
        r = real.recvmsg(fd, &rest.msg, flags);
        if (r < 0)
            r = -errno;
        errno = saved;
    }
    rest_end(&rest);
    return r;
}

/* An error that a call of ours took from the socket belongs to the program's next call. */
void pbs_rx_keep_error(struct pbs_sock *s, ssize_t r)
{
    if (r < 0 && r != -EAGAIN && r != -EFAULT && r != -EBADF && r != -ENOTCONN && r != -EINTR)
        atomic_store(&s->error, (int)-r);
}

/* The kernel's word for what it has queued: what a receive of nothing tells (TCP_INQ). A FIN counts. */
static int left_behind(struct pbs_sock *s, int fd)
{
    union {
        char room[CMSG_SPACE(sizeof(int))];
        struct cmsghdr head;
    } control;
    struct msghdr msg = {.msg_control = &control, .msg_controllen = sizeof(control)};
    struct cmsghdr *c;
    int n = 0;
    ssize_t r = pbs_sys3(SYS_recvmsg, fd, &msg, MSG_DONTWAIT | MSG_PEEK);

    pbs_rx_keep_error(s, r);
    c = r < 0 ? NULL : CMSG_FIRSTHDR(&msg);
    if (c && c->cmsg_level == IPPROTO_TCP && c->cmsg_type == TCP_INQ)
        memcpy(&n, CMSG_DATA(c), sizeof(n));
    return n;
}

void pbs_rx_tell_left(struct pbs_thread *self, struct pbs_sock *s, int fd, struct msghdr *msg,
                      size_t room)
{
    struct cmsghdr head = {
        .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = IPPROTO_TCP, .cmsg_type = TCP_INQ};
    char text[CMSG_SPACE(sizeof(int))] = {0};
    int on = 0, left;
    socklen_t len = sizeof(on);

    if (pbs_sys5(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INQ, &on, &len) || !on)
        return;
    left = left_behind(s, fd) + (int)pbs_sock_unread(s);
    if (!msg->msg_control || room < head.cmsg_len)
        msg->msg_flags |= MSG_CTRUNC;
    if (!msg->msg_control || room < sizeof(head))
        return;
    if (room < head.cmsg_len)
        head.cmsg_len = room;
    if (room > sizeof(text))
        room = sizeof(text);
    if (!pbs_user_writable(self, msg->msg_control, room))
        return;
    memcpy(text, &head, sizeof(head));
    memcpy(text + CMSG_LEN(0), &left, sizeof(left));
    memcpy(msg->msg_control, text, head.cmsg_len);
    msg->msg_controllen = room;
}

ssize_t pbs_rx_peek(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                    int flags)
{
    size_t held = pbs_sock_unread(s), left = dst->left, n = held < left ? held : left;
    int behind = MSG_PEEK | (flags & MSG_TRUNC), err = 0;
    const struct pbs_dst whole = *dst;
    ssize_t r;

    if (!n && !pbs_sock_error(s))
        return PBS_RX_PASS;
    if (n && !(flags & MSG_TRUNC) &&
        (!pbs_rx_prove(self, dst, n) || (n < left && pbs_rx_faults(self, s, fd, dst))))
        return -EFAULT;
    pbs_crit_enter(self);
    pbs_lock(&s->file.lock);
    dst->left = n;
    if (flags & MSG_TRUNC)
        pbs_dst_advance(dst, n);
    else
        pbs_rx_peek_held(s, dst, 0);
    dst->left = left - dst->done;
    if (!n)
        err = pbs_sock_take_error(s); /* looking takes it, as in the kernel */
    pbs_unlock(&s->file.lock);
    pbs_crit_leave(self);
    if (err)
        return -err;
    pbs_count(self, served_calls);
    if (dst->left && dst->done && !pbs_user_confined) {
        /* Once something is there the kernel goes on to sleep for MSG_WAITALL alone. */
        if (!(flags & MSG_WAITALL) || (flags & MSG_DONTWAIT))
            behind |= MSG_DONTWAIT;
        else
            behind |= MSG_WAITALL;
        self->plain++;
        r = plain(fd, dst, behind);
        self->plain--;
        pbs_count(self, kernel_entries);
        pbs_rx_keep_error(s, r); /* with bytes in front of it it had stayed */
        if (r > 0) {
            self->ready_epoch++;
            pbs_dst_advance(dst, (size_t)r);
        }
        if (pbs_sock_unread(s) != held) { /* another process has read in between: no one stream */
            *dst = whole;
            return PBS_RX_PASS;
        }
    }
    return dst->done ? (ssize_t)dst->done : PBS_RX_PASS;
}

/* In a critical section: between the look at what is held and the kernel's answer no handler may
 * drain the socket. Nothing sleeps here. */
ssize_t pbs_rx_ask(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                   int flags)
{
    ssize_t r = PBS_RX_PASS;

    pbs_crit_enter(self);
    pbs_lock(&s->file.lock); /* the number may not go, and another connection get it, meanwhile */
    if (!pbs_sock_holds(s) && pbs_fdtab_is(fd, &s->file)) {
        r = plain(fd, dst, MSG_DONTWAIT | (flags & MSG_TRUNC));
        pbs_count(self, kernel_entries);
    }
    pbs_unlock(&s->file.lock);
    if (r > 0)
        pbs_dst_advance(dst, (size_t)r);
    if (r == -EAGAIN || (r > 0 && dst->left)) {
        pbs_sock_set_dry(s, self->ready_epoch);
        s->unverified = false;
    }
    pbs_crit_leave(self);
    return r;
}

bool pbs_rx_top_up(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                   int flags)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    ssize_t r;

    /* An error would be this process's alone, and another one has as good a right to it. */
    if (pbs_unlikely(!pbs_gate_alone(&s->file)) &&
        (pbs_sys3(SYS_poll, &p, 1, 0) <= 0 || (p.revents & POLLERR)))
        return false;
    r = pbs_rx_ask(self, s, fd, dst, flags);
    if (r == PBS_RX_PASS)
        return s->held > 0;
    pbs_rx_keep_error(s, r);
    return false;
}

/* It does not sleep, so that fd can be kept what it is meanwhile. In no critical section. */
static ssize_t rest_now(struct pbs_thread *self, struct pbs_sock *s, int fd, struct msghdr *msg,
                        int flags)
{
    ssize_t r = -ESTALE;

    pbs_crit_enter(self);
    pbs_lock(&s->file.lock);
    if (fd == s->ghost || pbs_fdtab_is(fd, &s->file))
        r = pbs_sys3(SYS_recvmsg, fd, msg, flags);
    pbs_unlock(&s->file.lock);
    pbs_crit_leave(self);
    return r;
}

ssize_t pbs_rx_rest(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                    int flags)
{
    struct rest rest;
    ssize_t r;

    rest_begin(&rest, dst);
    flags &= MSG_DONTWAIT | MSG_TRUNC | MSG_WAITALL | MSG_PEEK;
    /* One call, so that the kernel holds the file even if the number is closed meanwhile; and one
     * that ends when a handler ran, as it would with the bytes that are done already. */
    atomic_store_explicit(&self->wait_signal, PBS_SIG_NONE, memory_order_relaxed);
    if (flags & MSG_DONTWAIT)
        r = rest_now(self, s, fd, &rest.msg, flags);
    else
        r = pbs_sleep_call(self, SYS_recvmsg, fd, (long)&rest.msg, flags, 0, 0, 0);
    rest_end(&rest);
    self->plain--;
    self->call++;
    pbs_attend();
    pbs_count(self, kernel_entries);
    pbs_count(self, served_calls);
    if (r > 0)
        pbs_dst_advance(dst, (size_t)r);
    if (!dst->done)
        return r;
    if (r != -ESTALE)
        pbs_rx_keep_error(s, r);
    return (ssize_t)dst->done;
}

ssize_t pbs_rx_after(struct pbs_file *f, size_t asked, int flags, ssize_t r)
{
    struct pbs_sock *s = (struct pbs_sock *)f;
    struct pbs_thread *self = pbs_self;
    int err = errno;

    if (!self)
        return r;
    if (self->plain)
        self->plain--;
    self->call++;
    pbs_attend(); /* it may have been closed while we slept, and the record be free by now */
    pbs_count(self, kernel_entries);
    if (f->kind != PBS_FILE_SOCK || s->state == PBS_PASS ||
        atomic_load_explicit(&s->user, memory_order_relaxed) != self->id)
        return r;
    if (flags & MSG_PEEK) {
        if (r > 0)
            self->ready_epoch++; /* it was told that there are bytes */
        return r;
    }
    if (r < 0 && err == EAGAIN) {
        pbs_sock_set_dry(s, self->ready_epoch);
        s->unverified = false;
    }
    if (pbs_policy_plain(&s->tally, asked, r < 0 ? -err : r)) {
        self->saves++;
        if (pbs_conf.policy == PBS_POLICY_NEVER)
            pbs_count(self, would_save);
    }
    return r;
}
