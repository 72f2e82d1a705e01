/* poll and select. */
#include "ready.h"

#include <errno.h>
#include <string.h>

#include "mem.h"
#include "real.h"
#include "user.h"

bool pbs_ready_poll_concerns(const struct pollfd *fds, nfds_t n)
{
    struct pbs_thread *self;

    if (!pbs_fdtab_size || n > pbs_fdtab_size || !n)
        return false;
    /* The array is read before the kernel has seen it: a bad one is the kernel's to refuse. */
    self = pbs_thread_get();
    if (!self || !pbs_user_rewritable(self, (void *)fds, n * sizeof(*fds)))
        return false;
    for (nfds_t i = 0; i < n; i++)
        if (pbs_fdtab_find(fds[i].fd))
            return true;
    return false;
}

/* Nothing is held: the real call comes next. In a critical section. */
static void begin_poll(struct pbs_thread *self, const struct pollfd *fds, nfds_t n)
{
    self->plain++;
    self->call++;
    for (nfds_t i = 0; i < n; i++)
        pbs_ready_name(self, fds[i].fd);
}

/*
 * A signal that comes while the kernel is asked without a wait makes EINTR of its "nothing". Where
 * something is ready it looks at no signal, and what we hold is: its part of the answer is "nothing".
 */
static bool interrupted(int *r, int errno_before)
{
    if (*r >= 0 || errno != EINTR)
        return false;
    *r = 0;
    errno = errno_before;
    return true;
}

/* All that is waited for, if it can be waited for in this thread's ring. 0: no. */
static unsigned seats_of_poll(struct pbs_thread *self, const struct pollfd *fds, nfds_t n,
                              struct pbs_seat *v)
{
    unsigned k = 0;

    if (!self->ring || n > PBS_SEATS)
        return 0;
    for (nfds_t i = 0; i < n; i++) {
        if (fds[i].fd < 0)
            continue;
        if (!pbs_ready_seat(self, fds[i].fd, fds[i].events, &v[k]))
            return 0;
        v[k++].at = (unsigned)i;
    }
    return k;
}

/* The array is the caller's, and may have been changed while we slept. */
static int answer_poll(struct pollfd *fds, nfds_t n, const struct pbs_seat *v, unsigned k)
{
    int r = 0;

    for (nfds_t i = 0; i < n; i++)
        fds[i].revents = 0;
    for (unsigned i = 0; i < k; i++) {
        fds[v[i].at].revents = v[i].bits;
        r += v[i].bits != 0;
    }
    return r;
}

static bool serve_poll(struct pbs_thread *self, struct pollfd *fds, nfds_t n, struct pbs_span *span,
                       const sigset_t *mask, int *r)
{
    struct pbs_seat v[PBS_SEATS];
    unsigned k = seats_of_poll(self, fds, n, v);
    enum pbs_served verdict = k ? pbs_ready_serve(self, v, k, span, mask) : PBS_SERVED_NOT;

    if (verdict == PBS_SERVED_NOT)
        return false;
    if (verdict != PBS_SERVED_READY)
        for (unsigned i = 0; i < k; i++)
            v[i].bits = 0;
    *r = answer_poll(fds, n, v, k);
    if (verdict == PBS_SERVED_EINTR) {
        errno = EINTR;
        *r = -1;
    }
    return true;
}

bool pbs_ready_poll(struct pollfd *fds, nfds_t n, struct pbs_span *span, const sigset_t *mask,
                    int *r)
{
    struct pbs_thread *self = pbs_thread_get();
    bool any = false, signalled;
    int saved = errno;

    if (!self)
        return false;
    /* What has a seat is this thread's: to be looked at changes nothing for it. */
    if (serve_poll(self, fds, n, span, mask, r))
        return true;
    for (nfds_t i = 0; i < n; i++) {
        struct pbs_file *f = pbs_fdtab_find(fds[i].fd);

        if (!f)
            continue;
        pbs_ready_look_at(self, fds[i].fd, f, fds[i].events & (POLLPRI | POLLRDBAND));
    }
    pbs_crit_enter(self); /* from the look to the mark no handler may drain a socket */
    for (nfds_t i = 0; i < n; i++) {
        struct pbs_file *f = pbs_fdtab_find(fds[i].fd);

        any |= f && pbs_ready_bits(f, fds[i].events) != 0;
    }
    if (!any)
        begin_poll(self, fds, n);
    pbs_crit_leave(self);
    if (!any)
        return false;
    *r = real.poll(fds, n, 0);
    signalled = interrupted(r, saved); /* revents are 0 then */
    if (pbs_ready_told(*r) < 0)
        return true;
    for (nfds_t i = 0; i < n; i++) {
        struct pbs_file *f = pbs_fdtab_find(fds[i].fd);
        short bits = f ? pbs_ready_bits(f, fds[i].events) : 0;

        if (bits && !fds[i].revents)
            (*r)++;
        fds[i].revents |= bits;
    }
    if (*r)
        return true;
    if (signalled) {
        errno = EINTR;
        *r = -1;
        return true;
    }
    begin_poll(self, fds, n); /* a handler has read it all meanwhile */
    return false;
}

static bool in(int fd, const fd_set *set)
{
    return set && FD_ISSET(fd, set);
}

/* The sets as the kernel sees them: bits up to n, in whole longs, wherever the program has them. */
static bool readable_set(const fd_set *set, int n)
{
    struct pbs_thread *self = pbs_thread_get();

    return !set || (self && pbs_user_rewritable(self, (void *)set, ((size_t)n + 63) / 64 * 8));
}

/* The kernel looks at no number that there has never been, and so at no bit of it: sets may end
 * there, whatever n says (getdtablesize() is a favourite). */
static int clip(int n)
{
    int end = pbs_fdtab_end();

    return n < end ? n : end;
}

bool pbs_ready_select_concerns(int n, const fd_set *r, const fd_set *w, const fd_set *e)
{
    n = clip(n);
    if (!pbs_fdtab_size || n <= 0 || !readable_set(r, n) || !readable_set(w, n) ||
        !readable_set(e, n))
        return false;
    for (int fd = 0; fd < n; fd++)
        if (pbs_fdtab_find(fd) && (in(fd, r) || in(fd, w) || in(fd, e)))
            return true;
    return false;
}

/* A held error makes a socket readable and writable for select (POLLIN_SET, POLLOUT_SET). */
static void select_bits(int fd, const fd_set *r, const fd_set *w, bool *rd, bool *wr)
{
    struct pbs_file *f = pbs_fdtab_find(fd);
    short bits = f ? pbs_ready_bits(f, POLLIN) : 0;

    *rd = in(fd, r) && bits;
    *wr = in(fd, w) && (bits & POLLERR);
}

#define FEW (FD_SETSIZE / 64)

/*
 * No member from one number up to another, all without a record. The set may end in between: then what
 * lies behind it may be taken for members, which is safe, and is only read.
 */
static bool none_from(int from, int to, const fd_set *set)
{
    const fd_mask *words = (const fd_mask *)set;

    if (!set || from >= to)
        return true;
    if (!pbs_user_readable(pbs_self, set, ((size_t)to + 63) / 64 * 8))
        return false;
    for (; from < to && from % NFDBITS; from++)
        if (in(from, set))
            return false;
    for (; from < to; from += NFDBITS)
        if (words[from / NFDBITS])
            return false;
    return true;
}

/* The same for select: members of rd alone, and none of the others'. */
static unsigned seats_of_select(struct pbs_thread *self, int n, const fd_set *rd, const fd_set *wr,
                                const fd_set *ex, struct pbs_seat *v)
{
    int end = clip(n);
    unsigned k = 0;

    if (!self->ring || !none_from(end, n, rd) || !none_from(end, n, wr) || !none_from(end, n, ex))
        return 0;
    for (int fd = 0; fd < end; fd++) {
        if (in(fd, wr) || in(fd, ex))
            return 0;
        if (!in(fd, rd))
            continue;
        if (k == PBS_SEATS || !pbs_ready_seat(self, fd, POLLIN, &v[k++]))
            return 0;
    }
    return k;
}

static void clear_sets(fd_set *rd, fd_set *wr, fd_set *ex, size_t size)
{
    fd_set *const sets[] = {rd, wr, ex};

    for (int i = 0; i < 3; i++)
        if (sets[i])
            memset(sets[i], 0, size);
}

static bool serve_select(struct pbs_thread *self, int n, fd_set *rd, fd_set *wr, fd_set *ex,
                         struct pbs_span *span, const sigset_t *mask, int *r)
{
    struct pbs_seat v[PBS_SEATS];
    size_t size = ((size_t)clip(n) + 63) / 64 * 8;
    unsigned k = seats_of_select(self, n, rd, wr, ex, v);
    enum pbs_served verdict = k ? pbs_ready_serve(self, v, k, span, mask) : PBS_SERVED_NOT;

    if (verdict == PBS_SERVED_NOT)
        return false;
    *r = 0;
    if (verdict == PBS_SERVED_EINTR) { /* the sets stay as they are */
        errno = EINTR;
        *r = -1;
        return true;
    }
    clear_sets(rd, wr, ex, size); /* whatever was put there while we slept */
    for (unsigned i = 0; i < k; i++) {
        /* Any bit makes it readable, POLLNVAL of a number that was closed meanwhile too. */
        if (verdict == PBS_SERVED_READY && v[i].bits) {
            FD_SET(v[i].fd, rd);
            (*r)++;
        }
    }
    return true;
}

/* The kernel's part of an answer, without a wait. */
static int ask_select(int n, fd_set *rd, fd_set *wr, fd_set *ex)
{
    size_t size = ((size_t)clip(n) + 63) / 64 * 8;
    struct timeval zero = {0, 0};
    int saved = errno, r = real.select(n, rd, wr, ex, &zero);

    if (interrupted(&r, saved)) /* the sets are as they were */
        clear_sets(rd, wr, ex, size);
    return pbs_ready_told(r);
}

bool pbs_ready_select(int n, fd_set *r, fd_set *w, fd_set *e, struct pbs_span *span,
                      const sigset_t *mask, int *answer)
{
    struct pbs_thread *self = pbs_thread_get();
    int end = clip(n), words = (end + 63) / 64;
    uint64_t few[2 * FEW] = {0}, *add_r = few, *add_w, *many = NULL;
    bool any = false;

    if (self && words > FEW)
        add_r = many = pbs_mem_map((size_t)words * 16);
    if (!self || !add_r)
        return false;
    add_w = add_r + words;
    for (int fd = 0; fd < end; fd++) {
        struct pbs_file *f = pbs_fdtab_find(fd);

        if (f && (in(fd, r) || in(fd, w) || in(fd, e)))
            pbs_ready_look_at(self, fd, f, in(fd, e));
    }
    if (serve_select(self, n, r, w, e, span, mask, answer)) {
        if (many)
            pbs_mem_unmap(many, (size_t)words * 16);
        return true;
    }
    pbs_crit_enter(self);
    for (int fd = 0; fd < end; fd++) {
        bool rd, wr;

        select_bits(fd, r, w, &rd, &wr);
        any |= rd || wr;
        add_r[fd / 64] |= (uint64_t)rd << fd % 64;
        add_w[fd / 64] |= (uint64_t)wr << fd % 64;
    }
    if (!any) {
        self->plain++;
        self->call++;
        for (int fd = 0; fd < end; fd++)
            if (in(fd, r) || in(fd, w) || in(fd, e))
                pbs_ready_name(self, fd);
    }
    pbs_crit_leave(self);
    if (any)
        *answer = ask_select(n, r, w, e);
    for (int fd = 0; fd < end && any && *answer >= 0; fd++) {
        if ((add_r[fd / 64] >> fd % 64 & 1) && !FD_ISSET(fd, r)) {
            FD_SET(fd, r);
            (*answer)++;
        }
        if ((add_w[fd / 64] >> fd % 64 & 1) && !FD_ISSET(fd, w)) {
            FD_SET(fd, w);
            (*answer)++;
        }
    }
    if (many)
        pbs_mem_unmap(many, (size_t)words * 16);
    return any;
}
