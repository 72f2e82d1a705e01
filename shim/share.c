#include "share.h"

#include <errno.h>
#include <string.h>

#include "handover.h"
#include "item.h"
#include "life.h"
#include "rx.h"
#include "user.h"

/* What is held moves to where a receiver can find it. In a critical section. */
static void give(struct pbs_sock *s, int fd)
{
    struct pbs_spill_pen pen;
    size_t n = pbs_rx_spill_size(s, false);

    if (!n || !pbs_spill_begin(&pen, 1, n))
        n = 0;
    pbs_lock(&s->file.lock);
    if (pbs_fdtab_is(fd, &s->file)) {
        pbs_gate_share(&s->file);
        if (n)
            pbs_rx_spill(s, fd, &pen, false);
        if (s->spill) {
            s->spill->alone = false;
            pbs_spill_sent(s->spill_file);
        }
    }
    pbs_unlock(&s->file.lock);
    if (n)
        pbs_spill_leave(pen.file);
}

void pbs_share_fd(int fd)
{
    struct pbs_file *f = pbs_fdtab_find(fd);
    struct pbs_thread *self = f ? pbs_thread_get() : NULL;

    if (self && f->kind == PBS_FILE_EPOLL)
        pbs_epoll_refuse(self, (struct pbs_epoll *)f);
    if (!self || f->kind != PBS_FILE_SOCK)
        return;
    pbs_release(self, (struct pbs_sock *)f, PBS_WHY_scm);
    pbs_crit_enter(self);
    give((struct pbs_sock *)f, fd);
    pbs_crit_leave(self);
}

/* A number came in a message: of a socket that we have already, or of which something waits. */
static void receive_fd(int fd)
{
    struct pbs_file *known;
    uint64_t cookie;

    pbs_born_other(fd);
    if (!pbs_spill_any())
        return;
    cookie = pbs_ask_cookie(fd);
    known = cookie ? pbs_handover_known(cookie) : NULL;
    if (!known)
        return;
    pbs_crit_enter(pbs_self);
    pbs_lock(&known->lock);
    if (pbs_sock_spill((struct pbs_sock *)known))
        pbs_fdtab_set(fd, known);
    pbs_unlock(&known->lock);
    pbs_crit_leave(pbs_self);
}

/* Each number that the message carries. */
static void each(const struct msghdr *msg, void (*what)(int fd))
{
    struct pbs_thread *self = pbs_thread_get();
    struct cmsghdr *c;

    if (!self || !pbs_user_readable(self, msg, sizeof(*msg)) || !msg->msg_control ||
        msg->msg_controllen < sizeof(*c) || msg->msg_controllen > 1 << 20 ||
        !pbs_user_readable(self, msg->msg_control, msg->msg_controllen))
        return;
    for (c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR((struct msghdr *)msg, c)) {
        int fd;

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS ||
            c->cmsg_len < CMSG_LEN(0) ||
            c->cmsg_len > (size_t)((char *)msg->msg_control + msg->msg_controllen - (char *)c))
            continue; /* refused, if it is not somebody else's */
        for (size_t at = 0; at + sizeof(fd) <= c->cmsg_len - CMSG_LEN(0); at += sizeof(fd)) {
            memcpy(&fd, CMSG_DATA(c) + at, sizeof(fd));
            what(fd);
        }
    }
}

void pbs_share_sent(const struct msghdr *msg)
{
    int saved = errno;

    if (!pbs_guest())
        each(msg, pbs_share_fd);
    errno = saved;
}

void pbs_share_received(const struct msghdr *msg)
{
    int saved = errno;

    if (!pbs_guest())
        each(msg, receive_fd);
    errno = saved;
}
