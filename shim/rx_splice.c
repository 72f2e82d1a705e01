/* Bytes that the kernel is to move from a socket into a pipe: what we hold of them comes first. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "real.h"
#include "rx.h"
#include "user.h"

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

/* Up to n held bytes into the pipe, as far as it has room. The count, or with none 0 (another writer has taken
 * the room) or -errno. */
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
    return done ? (ssize_t)done : r < 0 && r != -EAGAIN ? r : 0;
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

ssize_t pbs_rx_splice(int from, int to, bool fit, size_t n, unsigned flags)
{
    struct pbs_file *f = pbs_fdtab_find(from);

    if (!f || f->kind != PBS_FILE_SOCK)
        return PBS_RX_PASS;
    pbs_release_fd(from, PBS_WHY_io);
    return fit && n && is_pipe(to) ? splice_held((struct pbs_sock *)f, from, to, n, flags)
                                   : PBS_RX_PASS;
}
