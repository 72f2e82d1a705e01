/* Calls that observe readiness. Sets without a record of ours are the plain call. */
#include <errno.h>

#include "hook.h"
#include "life.h"
#include "ready.h"
#include "real.h"
#include "user.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes"

/* merged: answers with r, or false: make the plain call. span is the caller's. */
#define WAIT(concerns, merged, plain) WAIT_SLEPT(concerns, merged, plain, pbs_ready_slept(plain))

#define WAIT_SLEPT(concerns, merged, plain, slept)                                                 \
    do {                                                                                           \
        int r = 0;                                                                                 \
                                                                                                   \
        pbs_attend();                                                                              \
        if (pbs_likely(!(concerns)))                                                               \
            return plain;                                                                          \
        return merged ? r : slept;                                                                 \
    } while (0)

PBS_EXPORT int poll(struct pollfd *fds, nfds_t n, int timeout)
{
    struct pbs_span span = pbs_span_of_ms(timeout);

    WAIT(pbs_ready_poll_concerns(fds, n), pbs_ready_poll(fds, n, &span, NULL, &r),
         real.poll(fds, n, pbs_span_ms(&span, timeout)));
}

PBS_EXPORT int __poll(struct pollfd *fds, nfds_t n, int timeout)
{
    return poll(fds, n, timeout);
}

PBS_EXPORT int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t room)
{
    if (room / sizeof(*fds) < n)
        return real.__poll_chk(fds, n, timeout, room);
    return poll(fds, n, timeout);
}

/* The time as the real call is given it: the program's own, or what is left of it. */
static const struct timespec *rest(const struct pbs_span *span, const struct timespec *timeout,
                                   struct timespec *left)
{
    *left = pbs_span_left(span);
    return span->used ? left : timeout;
}

PBS_EXPORT int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout,
                     const sigset_t *mask)
{
    struct pbs_span span = {.ns = -1};
    struct timespec left;

    WAIT(pbs_ready_poll_concerns(fds, n) && pbs_ready_time_ok(timeout) && pbs_ready_mask_ok(mask),
         (span = pbs_span_of(timeout), pbs_ready_poll(fds, n, &span, mask, &r)),
         real.ppoll(fds, n, rest(&span, timeout, &left), mask));
}

PBS_EXPORT int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout,
                           const sigset_t *mask, size_t room)
{
    if (room / sizeof(*fds) < n)
        return real.__ppoll_chk(fds, n, timeout, mask, room);
    return ppoll(fds, n, timeout, mask);
}

/* select() takes microseconds past a second. */
static bool timeval_ok(const struct timeval *t)
{
    return !t || (pbs_user_readable(pbs_self, t, sizeof(*t)) && t->tv_sec >= 0 && t->tv_usec >= 0);
}

/* Linux writes the time that was left, and libc what Linux wrote. */
static int select_at_most(int n, fd_set *rd, fd_set *wr, fd_set *ex, struct timeval *timeout)
{
    struct timespec ts = {timeout->tv_sec + timeout->tv_usec / 1000000,
                          timeout->tv_usec % 1000000 * 1000};
    struct pbs_span span = pbs_span_of(&ts);
    int64_t begin = span.ns > 0 ? pbs_now_ns() : 0;
    struct timeval left = *timeout;
    int r = 0;

    if (!pbs_ready_select(n, rd, wr, ex, &span, NULL, &r)) {
        if (span.used) {
            ts = pbs_span_left(&span);
            *timeout = (struct timeval){ts.tv_sec, ts.tv_nsec / 1000};
        }
        return pbs_ready_slept(real.select(n, rd, wr, ex, timeout));
    }
    if (begin) {
        if (!span.used)
            span.ns -= pbs_now_ns() - begin;
        span.ns = span.ns < 0 ? 0 : span.ns;
        ts = pbs_span_left(&span);
        left = (struct timeval){ts.tv_sec, ts.tv_nsec / 1000};
    }
    *timeout = left;
    return r;
}

PBS_EXPORT int select(int n, fd_set *rd, fd_set *wr, fd_set *ex, struct timeval *timeout)
{
    struct pbs_span span = {.ns = -1};
    bool concerned;

    pbs_attend();
    concerned = pbs_ready_select_concerns(n, rd, wr, ex) && timeval_ok(timeout);
    if (concerned && timeout)
        return select_at_most(n, rd, wr, ex, timeout);
    WAIT(concerned, pbs_ready_select(n, rd, wr, ex, &span, NULL, &r),
         real.select(n, rd, wr, ex, timeout));
}

PBS_EXPORT int __select(int n, fd_set *rd, fd_set *wr, fd_set *ex, struct timeval *timeout)
{
    return select(n, rd, wr, ex, timeout);
}

PBS_EXPORT int pselect(int n, fd_set *rd, fd_set *wr, fd_set *ex, const struct timespec *timeout,
                       const sigset_t *mask)
{
    struct pbs_span span = {.ns = -1};
    struct timespec left;

    WAIT(pbs_ready_select_concerns(n, rd, wr, ex) && pbs_ready_time_ok(timeout) &&
             pbs_ready_mask_ok(mask),
         (span = pbs_span_of(timeout), pbs_ready_select(n, rd, wr, ex, &span, mask, &r)),
         real.pselect(n, rd, wr, ex, rest(&span, timeout, &left), mask));
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

    return f && f->kind == PBS_FILE_EPOLL && !pbs_guest() ? (struct pbs_epoll *)f : NULL;
}

#define EPOLL_WAIT(concerns, mask, plain)                                                          \
    WAIT_SLEPT(concerns, pbs_ready_epoll(set, epfd, ev, max, &span, mask, &r), plain,              \
               pbs_ready_epoll_slept(set, epfd, ev, plain))

PBS_EXPORT int epoll_wait(int epfd, struct epoll_event *ev, int max, int timeout)
{
    struct pbs_span span = pbs_span_of_ms(timeout);
    struct pbs_epoll *set = set_of(epfd);

    EPOLL_WAIT(set, NULL, real.epoll_wait(epfd, ev, max, pbs_span_ms(&span, timeout)));
}

PBS_EXPORT int epoll_pwait(int epfd, struct epoll_event *ev, int max, int timeout,
                           const sigset_t *mask)
{
    struct pbs_span span = pbs_span_of_ms(timeout);
    struct pbs_epoll *set = set_of(epfd);

    EPOLL_WAIT(set && pbs_ready_mask_ok(mask), mask,
               real.epoll_pwait(epfd, ev, max, pbs_span_ms(&span, timeout), mask));
}

PBS_EXPORT int epoll_pwait2(int epfd, struct epoll_event *ev, int max,
                            const struct timespec *timeout, const sigset_t *mask)
{
    struct pbs_epoll *set = set_of(epfd);
    struct pbs_span span = {.ns = -1};
    struct timespec left;

    if (set && pbs_ready_time_ok(timeout))
        span = pbs_span_of(timeout);
    else
        set = NULL;
    EPOLL_WAIT(set && pbs_ready_mask_ok(mask), mask,
               real.epoll_pwait2(epfd, ev, max, rest(&span, timeout, &left), mask));
}

/* ---- by number: these two write the time that was left ---- */

/* What a served wait has left of it; untouched if it was not waited at all. */
static void write_left(struct timespec *timeout, const struct pbs_span *span)
{
    if (timeout && span->used && pbs_user_rewritable(pbs_self, timeout, sizeof(*timeout)))
        *timeout = pbs_span_left(span);
}

static int ppoll_by_number(const long *a)
{
    struct pollfd *fds = (void *)a[0];
    nfds_t n = (unsigned)a[1];
    struct timespec *timeout = (void *)a[2];
    struct pbs_span span;
    int r = 0;

    if ((a[3] && a[4] != 8) || !pbs_ready_poll_concerns(fds, n) || !pbs_ready_time_ok(timeout) ||
        !pbs_ready_mask_ok((void *)a[3]))
        return (int)real.syscall(SYS_ppoll, a[0], a[1], a[2], a[3], a[4], 0);
    span = pbs_span_of(timeout);
    if (pbs_ready_poll(fds, n, &span, (void *)a[3], &r)) {
        write_left(timeout, &span);
        return r;
    }
    write_left(timeout, &span);
    return pbs_ready_slept((int)real.syscall(SYS_ppoll, a[0], a[1], a[2], a[3], a[4], 0));
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
    struct timespec *timeout = (void *)a[4];
    const long *masks = (void *)a[5];
    struct pbs_span span;
    int n = (int)a[0], r = 0;

    if (!pbs_ready_select_concerns(n, rd, wr, ex) || !pbs_ready_time_ok(timeout) ||
        !masks_ok(masks))
        return (int)real.syscall(SYS_pselect6, a[0], a[1], a[2], a[3], a[4], a[5]);
    span = pbs_span_of(timeout);
    if (pbs_ready_select(n, rd, wr, ex, &span, masks ? (void *)masks[0] : NULL, &r)) {
        write_left(timeout, &span);
        return r;
    }
    write_left(timeout, &span);
    return pbs_ready_slept((int)real.syscall(SYS_pselect6, a[0], a[1], a[2], a[3], a[4], a[5]));
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
