/* What a socket holds in shared memory: moved there before a fork or an exec, and taken from there. */
#include <errno.h>
#include <string.h>

#include "mem.h"
#include "rx.h"

/* Held here, or where a new image cannot be given it. */
static bool is_due(struct pbs_sock *s, bool image)
{
    return s->held || s->error || (image && s->spill && !pbs_spill_lasts(s->spill_file));
}

size_t pbs_rx_spill_size(struct pbs_sock *s, bool image)
{
    return is_due(s, image) ? pbs_sock_unread(s) + 1 : 0;
}

bool pbs_rx_spill(struct pbs_sock *s, int fd, struct pbs_spill_pen *pen, bool image)
{
    size_t old = pbs_spill_left(s->spill), len = s->held + old;
    const uint8_t *front;
    struct pbs_spill *e;
    struct iovec iov;
    uint8_t *data;

    if (!is_due(s, image))
        return true;
    e = pbs_spill_add(pen, pbs_ask_cookie(fd), len, pbs_sock_error(s), &data);
    if (!e)
        return false;
    /* Bytes that a call of ours has taken out and not given yet are in front of an older spill's. */
    iov = (struct iovec){data, s->held};
    pbs_sock_peek(s, &(struct pbs_dst){.iov = &iov, .n = 1, .left = s->held}, 0);
    if (old) {
        old = pbs_spill_claim(s->spill, old, &front);
        memcpy(data + s->held, front, old);
        e->len = s->held + old;
    }
    pbs_rx_unspill(s);
    s->spill_file = (uint8_t)pen->file;
    pbs_spill_join(pen->file);
    atomic_store(&s->spill,
                 e); /* in this order: whoever looks without the lock never sees nothing */
    s->error = 0;
    pbs_sock_drop(s, s->held, pbs_ring_home, s);
    if (!s->armed)
        pbs_ring_forget(s);
    return true;
}

void pbs_rx_unspill(struct pbs_sock *s)
{
    if (!s->spill)
        return;
    s->spill = NULL;
    if (!pbs_user_confined) /* it costs system calls */
        pbs_spill_leave(s->spill_file);
}

/* All of it has been read, by whomever. */
static void settle(struct pbs_sock *s)
{
    if (!pbs_spill_left(s->spill) && !s->spill->error)
        pbs_rx_unspill(s);
}

/* Up to n bytes to dst, which is proved for them. s locked. */
static void take(struct pbs_sock *s, struct pbs_dst *dst, size_t n, bool discard)
{
    size_t front = s->held < n ? s->held : n, left = dst->left;
    const uint8_t *data;

    /* Bytes that a call of ours has taken out and not given yet are in front. */
    if (discard) {
        pbs_dst_advance(dst, pbs_sock_drop(s, front, pbs_ring_home, s));
    } else if (front) {
        dst->left = front;
        pbs_sock_take(s, dst, pbs_ring_home, s);
        dst->left = left - front;
    }
    n = pbs_spill_claim(s->spill, n - front, &data);
    if (discard) {
        pbs_dst_advance(dst, n);
        return;
    }
    pbs_dst_fill(dst, data, n);
}

ssize_t pbs_rx_spilled(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                       long long flags)
{
    size_t n = pbs_sock_unread(s);
    ssize_t r = 0;

    if (n > dst->left)
        n = dst->left;
    if (n && !(flags & MSG_TRUNC) &&
        (pbs_rx_faults(self, s, fd, dst) || !pbs_rx_prove(self, dst, n)))
        return -EFAULT;
    pbs_crit_enter(self);
    pbs_lock(&s->file.lock);
    if (!s->spill)
        goto out;
    if (!pbs_fdtab_is(fd, &s->file) && !pbs_rx_pins(self, s))
        goto out;
    take(s, dst, n, flags & MSG_TRUNC);
    if (!dst->done && !pbs_spill_left(s->spill))
        r = -atomic_exchange(&s->spill->error, 0);
    settle(s);
out:
    pbs_unlock(&s->file.lock);
    pbs_crit_leave(self);
    return r ?: (ssize_t)dst->done;
}

void pbs_rx_peek_held(struct pbs_sock *s, struct pbs_dst *dst, size_t skip)
{
    const uint8_t *data = NULL;
    size_t n = s->spill ? pbs_spill_look(s->spill, &data) : 0, front = s->held;

    pbs_sock_peek(s, dst, skip);
    skip -= skip < front ? skip : front;
    if (n > skip)
        pbs_dst_fill(dst, data + skip, n - skip);
}

void pbs_rx_settle(struct pbs_sock *s)
{
    if (s->spill)
        settle(s);
}

bool pbs_rx_pull(struct pbs_sock *s, size_t n)
{
    size_t left = pbs_spill_left(s->spill);
    struct pbs_piece *own;
    const uint8_t *data;

    if (n > left)
        n = left;
    if (!n || s->pieces)
        return !left;
    own = pbs_piece_own(n);
    if (!own)
        return false;
    own->len = pbs_spill_claim(s->spill, n, &data);
    memcpy(own + 1, data, own->len);
    if (own->len)
        pbs_sock_hold(s, own);
    else
        pbs_piece_free(own);
    settle(s);
    return true;
}
