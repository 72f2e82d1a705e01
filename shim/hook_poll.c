/* Calls that observe readiness. Sets without a record of ours are the plain call. */
#include <errno.h>

#include "hook.h"
#include "life.h"
#include "ready.h"
#include "real.h"
#include "user.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes"

/* merged: answers with *r, or false: make the plain call. */
#define WAIT(concerns, merged, plain)                                                              \
    do {                                                                                           \
        int r = 0;                                                                                 \
                                                                                                   \
        pbs_attend();                                                                              \
        if (pbs_likely(!(concerns)))                                                               \
            return plain;                                                                          \
        return merged ? r : pbs_ready_slept(plain);                                                \
    } while (0)

PBS_EXPORT int poll(struct pollfd *fds, nfds_t n, int timeout)
{
    WAIT(pbs_ready_poll_concerns(fds, n), pbs_ready_poll(fds, n, &r), real.poll(fds, n, timeout));
}

PBS_EXPORT int __poll(struct pollfd *fds, nfds_t n, int timeout)
{
    return poll(fds, n, timeout);
}

PBS_EXPORT int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t room)
{
    WAIT(room / sizeof(*fds) >= n && pbs_ready_poll_concerns(fds, n), pbs_ready_poll(fds, n, &r),
         real.__poll_chk(fds, n, timeout, room));
}

PBS_EXPORT int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout,
                     const sigset_t *mask)
{
    WAIT(pbs_ready_poll_concerns(fds, n) && pbs_ready_time_ok(timeout) && pbs_ready_mask_ok(mask),
         pbs_ready_poll(fds, n, &r), real.ppoll(fds, n, timeout, mask));
}

PBS_EXPORT int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout,
                           const sigset_t *mask, size_t room)
{
    WAIT(room / sizeof(*fds) >= n && pbs_ready_poll_concerns(fds, n) &&
             pbs_ready_time_ok(timeout) && pbs_ready_mask_ok(mask),
         pbs_ready_poll(fds, n, &r), real.__ppoll_chk(fds, n, timeout, mask, room));
}

/* select() takes microseconds past a second. */
static bool timeval_ok(const struct timeval *t)
{
    return !t || (pbs_user_readable(pbs_self, t, sizeof(*t)) && t->tv_sec >= 0 && t->tv_usec >= 0);
}

PBS_EXPORT int select(int n, fd_set *rd, fd_set *wr, fd_set *ex, struct timeval *timeout)
{
    WAIT(pbs_ready_select_concerns(n, rd, wr, ex) && timeval_ok(timeout),
         pbs_ready_select(n, rd, wr, ex, &r), real.select(n, rd, wr, ex, timeout));
}

PBS_EXPORT int __select(int n, fd_set *rd, fd_set *wr, fd_set *ex, struct timeval *timeout)
{
    return select(n, rd, wr, ex, timeout);
}

PBS_EXPORT int pselect(int n, fd_set *rd, fd_set *wr, fd_set *ex, const struct timespec *timeout,
                       const sigset_t *mask)
{
    WAIT(pbs_ready_select_concerns(n, rd, wr, ex) && pbs_ready_time_ok(timeout) &&
             pbs_ready_mask_ok(mask),
         pbs_ready_select(n, rd, wr, ex, &r), real.pselect(n, rd, wr, ex, timeout, mask));
}

PBS_EXPORT int epoll_create(int size)
{
    uint64_t gen = pbs_gate_generation();

    return pbs_born_epoll(real.epoll_create(size), gen);
}

PBS_EXPORT int epoll_create1(int flags)
{
    uint64_t gen = pbs_gate_generation();

    return pbs_born_epoll(real.epoll_create1(flags), gen);
}

PBS_EXPORT int epoll_ctl(int epfd, int op, int fd, struct epoll_event *ev)
{
    pbs_attend();
    return pbs_ready_ctl(epfd, op, fd, ev);
}

static struct pbs_epoll *set_of(int epfd)
{
    struct pbs_file *f = pbs_fdtab_find(epfd);

    return f && f->kind == PBS_FILE_EPOLL && !pbs_in_vfork_child ? (struct pbs_epoll *)f : NULL;
}

PBS_EXPORT int epoll_wait(int epfd, struct epoll_event *ev, int max, int timeout)
{
    struct pbs_epoll *set = set_of(epfd);

    WAIT(set, pbs_ready_epoll(set, epfd, ev, max, &r), real.epoll_wait(epfd, ev, max, timeout));
}

PBS_EXPORT int epoll_pwait(int epfd, struct epoll_event *ev, int max, int timeout,
                           const sigset_t *mask)
{
    struct pbs_epoll *set = set_of(epfd);

    WAIT(set && pbs_ready_mask_ok(mask), pbs_ready_epoll(set, epfd, ev, max, &r),
         real.epoll_pwait(epfd, ev, max, timeout, mask));
}

PBS_EXPORT int epoll_pwait2(int epfd, struct epoll_event *ev, int max,
                            const struct timespec *timeout, const sigset_t *mask)
{
    struct pbs_epoll *set = set_of(epfd);

    WAIT(set && pbs_ready_time_ok(timeout) && pbs_ready_mask_ok(mask),
         pbs_ready_epoll(set, epfd, ev, max, &r), real.epoll_pwait2(epfd, ev, max, timeout, mask));
}

/* ---- by number: these two write the time that was left ---- */

static int ppoll_by_number(const long *a)
{
    struct pollfd *fds = (void *)a[0];
    nfds_t n = (unsigned)a[1];

    WAIT((!a[3] || a[4] == 8) && pbs_ready_poll_concerns(fds, n) &&
             pbs_ready_time_ok((void *)a[2]) && pbs_ready_mask_ok((void *)a[3]),
         pbs_ready_poll(fds, n, &r), (int)real.syscall(SYS_ppoll, a[0], a[1], a[2], a[3], a[4], 0));
}

/* The sixth argument: a mask and its size. */
static bool masks_ok(const long *m)
{
    return !m || (pbs_user_readable(pbs_self, m, 2 * sizeof(*m)) && (!m[0] || m[1] == 8) &&
                  pbs_ready_mask_ok((void *)m[0]));
}

static int pselect_by_number(const long *a)
{
    fd_set *rd = (void *)a[1], *wr = (void *)a[2], *ex = (void *)a[3];
    int n = (int)a[0];

    WAIT(pbs_ready_select_concerns(n, rd, wr, ex) && pbs_ready_time_ok((void *)a[4]) &&
             masks_ok((void *)a[5]),
         pbs_ready_select(n, rd, wr, ex, &r),
         (int)real.syscall(SYS_pselect6, a[0], a[1], a[2], a[3], a[4], a[5]));
}

bool pbs_poll_by_number(long nr, const long *a, long *r)
{
    int fd = (int)a[0];

    switch (nr) {
    case SYS_poll:
        *r = poll((void *)a[0], (unsigned)a[1], (int)a[2]);
        return true;
    case SYS_ppoll:
        *r = ppoll_by_number(a);
        return true;
    case SYS_select:
        *r = select(fd, (void *)a[1], (void *)a[2], (void *)a[3], (void *)a[4]);
        return true;
    case SYS_pselect6:
        *r = pselect_by_number(a);
        return true;
    case SYS_epoll_create:
        *r = epoll_create(fd);
        return true;
    case SYS_epoll_create1:
        *r = epoll_create1(fd);
        return true;
    case SYS_epoll_ctl:
        *r = epoll_ctl(fd, (int)a[1], (int)a[2], (void *)a[3]);
        return true;
    case SYS_epoll_wait:
        *r = epoll_wait(fd, (void *)a[1], (int)a[2], (int)a[3]);
        return true;
    case SYS_epoll_pwait:
        if (a[4] && a[5] != 8)
            return false; /* refused */
        *r = epoll_pwait(fd, (void *)a[1], (int)a[2], (int)a[3], (void *)a[4]);
        return true;
    case SYS_epoll_pwait2:
        if (a[4] && a[5] != 8)
            return false;
        *r = epoll_pwait2(fd, (void *)a[1], (int)a[2], (void *)a[3], (void *)a[4]);
        return true;
    }
    return false;
}
