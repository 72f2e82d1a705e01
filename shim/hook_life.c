/* Calls by which an fd number begins or ceases to stand for something. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>

#include "conf.h"
#include "hook.h"
#include "life.h"
#include "mem.h"
#include "proc.h"
#include "real.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes"

PBS_EXPORT int socket(int domain, int type, int proto)
{
    uint64_t gen = pbs_gate_generation();
    bool tcp = (domain == AF_INET || domain == AF_INET6) && (type & 0xf) == SOCK_STREAM &&
               (proto == 0 || proto == IPPROTO_TCP);

    return pbs_born_sock(real.socket(domain, type, proto), tcp, gen);
}

PBS_EXPORT int __socket(int domain, int type, int proto)
{
    return socket(domain, type, proto);
}

PBS_EXPORT int socketpair(int domain, int type, int proto, int sv[2])
{
    int r = real.socketpair(domain, type, proto, sv);

    if (!r) {
        pbs_born_other(sv[0]);
        pbs_born_other(sv[1]);
    }
    return r;
}

static struct pbs_sock *sock_of(int fd)
{
    struct pbs_file *f = pbs_fdtab_find(fd);

    return f && f->kind == PBS_FILE_SOCK && !pbs_guest() ? (struct pbs_sock *)f : NULL;
}

/* What accept() made of fd's next connection. */
static int accepted(int fd, int r, uint64_t gen)
{
    struct pbs_sock *listener, *s;
    int saved = errno;

    if (r < 0)
        return r;
    pbs_born_sock(r, pbs_listener_tcp(fd), gen);
    listener = sock_of(fd);
    s = sock_of(r);
    if (listener && s)
        s->impatient = listener->impatient;
    errno = saved;
    return r;
}

PBS_EXPORT int accept(int fd, struct sockaddr *addr, socklen_t *len)
{
    uint64_t gen = pbs_gate_generation();
    int r;

    pbs_attend();
    r = real.accept(fd, addr, len);
    return accepted(fd, r, gen);
}

PBS_EXPORT int accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
    uint64_t gen = pbs_gate_generation();
    int r;

    pbs_attend();
    r = real.accept4(fd, addr, len, flags);
    return accepted(fd, r, gen);
}

/* Disconnected or connected again: the kernel has thrown away what was unread, and with a new
 * connection also an error that nobody has been given. */
static void forget_stream(struct pbs_sock *s, bool connected)
{
    struct pbs_thread *self = pbs_thread_get();

    pbs_crit_enter(self);
    pbs_lock(&s->file.lock);
    if (connected)
        pbs_sock_take_error(s);
    pbs_sock_drop(s, s->held, pbs_ring_home, s);
    while (s->spill && pbs_spill_left(s->spill) && pbs_rx_pull(s, SIZE_MAX))
        pbs_sock_drop(s, s->held, pbs_ring_home, s);
    pbs_rx_settle(s);
    pbs_ring_forget(s);
    pbs_unlock(&s->file.lock);
    pbs_crit_leave(self);
}

PBS_EXPORT int connect(int fd, const struct sockaddr *addr, socklen_t len)
{
    struct pbs_sock *s = sock_of(fd);
    int r;

    pbs_attend();
    if (s && s->state == PBS_ADOPTED)
        pbs_release_fd(fd, PBS_WHY_connect);
    r = real.connect(fd, addr, len);
    if (s && (!r || errno == EINPROGRESS) && pbs_sock_holds(s))
        forget_stream(s, addr->sa_family != AF_UNSPEC);
    return r;
}

PBS_EXPORT int __connect(int fd, const struct sockaddr *addr, socklen_t len)
{
    return connect(fd, addr, len);
}

PBS_EXPORT int listen(int fd, int backlog)
{
    struct pbs_sock *s = sock_of(fd);

    if (s) {
        s->listening = true;
        if (s->state == PBS_ADOPTED)
            pbs_release_fd(fd, PBS_WHY_kind);
    }
    return real.listen(fd, backlog);
}

PBS_EXPORT int close(int fd)
{
    struct pbs_closing call = {.nr = SYS_close, .args = {fd}};

    if (pbs_unlikely(pbs_spill_owns(fd))) {
        errno = EBADF;
        return -1;
    }
    if (!pbs_fdtab_miss(fd) && !__libc_single_threaded)
        pthread_testcancel(); /* libc's own would act after the record is gone */
    pbs_close_fd(fd, &call);
    return call.made ? (int)pbs_ret(call.result) : real.close(fd);
}

PBS_EXPORT int __close(int fd)
{
    return close(fd);
}

/* The spill's numbers stay open. */
static int close_all_but_ours(unsigned lo, unsigned hi, int flags)
{
    int ours;

    while ((ours = pbs_spill_next(lo)) >= 0 && (unsigned)ours <= hi) {
        if ((unsigned)ours > lo && real.close_range(lo, (unsigned)ours - 1, flags))
            return -1;
        lo = (unsigned)ours + 1;
        if (lo > hi)
            return 0;
    }
    return real.close_range(lo, hi, flags);
}

/* What only this thread closes stays open for the others, of whom alone we know then. */
static int close_range_apart(unsigned lo, unsigned hi, int flags)
{
    if (real.unshare(CLONE_FILES))
        return -1;
    pbs_proc_after_parting();
    return close_all_but_ours(lo, hi, flags & ~CLOSE_RANGE_UNSHARE);
}

PBS_EXPORT int close_range(unsigned lo, unsigned hi, int flags)
{
    const int known = CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC;

    if (flags & CLOSE_RANGE_UNSHARE && !(flags & ~known) && lo <= hi && pbs_proc_before_parting())
        return close_range_apart(lo, hi, flags);
    if (!(flags & ~CLOSE_RANGE_UNSHARE) && lo <= hi)
        pbs_close_range(lo, hi);
    return close_all_but_ours(lo, hi, flags);
}

PBS_EXPORT void closefrom(int lo)
{
    pbs_close_range(lo < 0 ? 0 : (unsigned)lo, ~0U);
    if (pbs_spill_next(0) < 0 || close_range(lo < 0 ? 0 : (unsigned)lo, ~0U, 0))
        real.closefrom(lo);
}

PBS_EXPORT int dup(int fd)
{
    int r = real.dup(fd);

    return r < 0 ? r : pbs_born_dup(fd, r);
}

/* The number that is about to be replaced is closed, if the call can succeed. */
static struct pbs_closing replace(int fd, int to, int flags)
{
    struct pbs_closing call = {.nr = SYS_dup3, .args = {fd, to, flags}};
    struct rlimit64 lim = {.rlim_cur = RLIM64_INFINITY};

    pbs_spill_yield(to);
    if (fd == to || !pbs_fdtab_find(to) || pbs_sys2(SYS_fcntl, fd, F_GETFD) < 0)
        return call;
    pbs_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &lim);
    if ((unsigned)to < lim.rlim_cur) /* lowered since `to` was made: the kernel refuses */
        pbs_close_fd(to, &call);
    return call;
}

PBS_EXPORT int dup2(int fd, int to)
{
    struct pbs_closing call = replace(fd, to, 0);
    int r = call.made ? (int)pbs_ret(call.result) : real.dup2(fd, to);

    return r < 0 || fd == to ? r : pbs_born_dup(fd, r);
}

PBS_EXPORT int __dup2(int fd, int to)
{
    return dup2(fd, to);
}

PBS_EXPORT int dup3(int fd, int to, int flags)
{
    struct pbs_closing call = {.made = false};
    int r;

    if (!(flags & ~O_CLOEXEC))
        call = replace(fd, to, flags);
    r = call.made ? (int)pbs_ret(call.result) : real.dup3(fd, to, flags);
    return r < 0 ? r : pbs_born_dup(fd, r);
}

/* ---- streams ---- */

/* What is held the stream is given when it is first read from (hook_stdio.c). */
PBS_EXPORT FILE *fdopen(int fd, const char *mode)
{
    if (sock_of(fd))
        pbs_release_fd(fd, PBS_WHY_stdio);
    return real.fdopen(fd, mode);
}

static void close_stream(FILE *f)
{
    int saved = errno;

    if (f && pbs_fdtab_size)
        pbs_close_fd(fileno(f), NULL);
    errno = saved;
}

PBS_EXPORT int fclose(FILE *f)
{
    close_stream(f);
    return real.fclose(f);
}

PBS_EXPORT __typeof__(fdopen) _IO_fdopen __attribute__((alias("fdopen"), copy(fdopen)));
PBS_EXPORT __typeof__(fclose) _IO_fclose __attribute__((alias("fclose"), copy(fclose)));

PBS_EXPORT FILE *freopen(const char *path, const char *mode, FILE *f)
{
    close_stream(f);
    return real.freopen(path, mode, f);
}

PBS_EXPORT FILE *freopen64(const char *path, const char *mode, FILE *f)
{
    close_stream(f);
    return real.freopen64(path, mode, f);
}

PBS_EXPORT int login_tty(int fd)
{
    pbs_close_range(0, 2);
    return real.login_tty(fd);
}

/* ---- by number ---- */

bool pbs_life_by_number(long nr, const long *a, long *r)
{
    int fd = (int)a[0];

    switch (nr) {
    case SYS_socket:
        *r = socket(fd, (int)a[1], (int)a[2]);
        return true;
    case SYS_socketpair:
        *r = socketpair(fd, (int)a[1], (int)a[2], (int *)a[3]);
        return true;
    case SYS_accept:
        *r = accept(fd, (void *)a[1], (void *)a[2]);
        return true;
    case SYS_accept4:
        *r = accept4(fd, (void *)a[1], (void *)a[2], (int)a[3]);
        return true;
    case SYS_connect:
        *r = connect(fd, (void *)a[1], (socklen_t)a[2]);
        return true;
    case SYS_listen:
        *r = listen(fd, (int)a[1]);
        return true;
    case SYS_close: /* libuv's way */
        *r = close(fd);
        return true;
    case SYS_close_range:
        *r = close_range((unsigned)a[0], (unsigned)a[1], (int)a[2]);
        return true;
    case SYS_dup:
        *r = dup(fd);
        return true;
    case SYS_dup2:
        *r = dup2(fd, (int)a[1]);
        return true;
    case SYS_dup3:
        *r = dup3(fd, (int)a[1], (int)a[2]);
        return true;
    }
    return false;
}
