/* Calls that observe readiness. Sets without a record of ours are the plain call. */
#include <errno.h>

#include "hook.h"
#include "life.h"
#include "ready.h"
#include "real.h"

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
