/*
 * Calls asked for by number, and the two that install a filter of system calls. libuv, and so Node,
 * closes every socket by syscall(): what is not seen here would stay open in the ring.
 */
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/prctl.h>

#include "hook.h"
#include "life.h"
#include "probe.h"
#include "proc.h"
#include "real.h"
#include "rx.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes"

/*
 * Everything is released, for good: a filter installed from now on may kill for io_uring; and what the
 * program does by a ring of its own (receive, change epoll instances) goes past us.
 */
static void give_up(enum pbs_reason why)
{
    if (!pbs_fdtab_size || pbs_guest())
        return;
    if (why == PBS_WHY_seccomp)
        pbs_seccomp_forbid();
    pbs_gate_forbid();
    pbs_freeze(why);
    pbs_thaw();
}

/* Before and after a filter is installed: other threads may be under it before the call returns, and who
 * asked for the counters gets them now, since it may kill for the file they go to. */
static bool confine(void)
{
    give_up(PBS_WHY_seccomp);
    pbs_proc_tell();
    return atomic_exchange(&pbs_user_confined, true);
}

static long confined(bool before, long r)
{
    if (r < 0)
        atomic_store(&pbs_user_confined, before);
    return r;
}

/* Reads all the arguments that there can be, passed or not, as libc's own does. */
#define PBS_READS_ALL __attribute__((no_sanitize_address))

PBS_EXPORT PBS_READS_ALL int prctl(int op, ...)
{
    unsigned long a, b, c, d;
    bool before;
    va_list ap;

    va_start(ap, op);
    a = va_arg(ap, unsigned long);
    b = va_arg(ap, unsigned long);
    c = va_arg(ap, unsigned long);
    d = va_arg(ap, unsigned long);
    va_end(ap);
    if (op != PR_SET_SECCOMP)
        return real.prctl(op, a, b, c, d);
    before = confine();
    return (int)confined(before, real.prctl(op, a, b, c, d));
}

/* Who takes a number over; all others cost one look. */
static pbs_by_number *const takes[] = {
    [SYS_read] = pbs_recv_by_number,         [SYS_readv] = pbs_recv_by_number,
    [SYS_preadv2] = pbs_recv_by_number,      [SYS_recvfrom] = pbs_recv_by_number,
    [SYS_recvmsg] = pbs_recv_by_number,      [SYS_recvmmsg] = pbs_mmsg_by_number,
    [SYS_write] = pbs_send_by_number,        [SYS_writev] = pbs_send_by_number,
    [SYS_pwritev2] = pbs_send_by_number,     [SYS_sendto] = pbs_send_by_number,
    [SYS_sendmsg] = pbs_send_by_number,      [SYS_sendmmsg] = pbs_send_by_number,
    [SYS_sendfile] = pbs_send_by_number,     [SYS_splice] = pbs_send_by_number,
    [SYS_socket] = pbs_life_by_number,       [SYS_socketpair] = pbs_life_by_number,
    [SYS_accept] = pbs_life_by_number,       [SYS_accept4] = pbs_life_by_number,
    [SYS_connect] = pbs_life_by_number,      [SYS_listen] = pbs_life_by_number,
    [SYS_close] = pbs_life_by_number,        [SYS_close_range] = pbs_life_by_number,
    [SYS_dup] = pbs_life_by_number,          [SYS_dup2] = pbs_life_by_number,
    [SYS_dup3] = pbs_life_by_number,         [SYS_setsockopt] = pbs_opt_by_number,
    [SYS_getsockopt] = pbs_opt_by_number,    [SYS_shutdown] = pbs_opt_by_number,
    [SYS_ioctl] = pbs_opt_by_number,         [SYS_fcntl] = pbs_opt_by_number,
    [SYS_poll] = pbs_poll_by_number,         [SYS_ppoll] = pbs_poll_by_number,
    [SYS_select] = pbs_poll_by_number,       [SYS_pselect6] = pbs_poll_by_number,
    [SYS_epoll_create] = pbs_poll_by_number, [SYS_epoll_create1] = pbs_poll_by_number,
    [SYS_epoll_ctl] = pbs_poll_by_number,    [SYS_epoll_wait] = pbs_poll_by_number,
    [SYS_epoll_pwait] = pbs_poll_by_number,  [SYS_epoll_pwait2] = pbs_poll_by_number,
    [SYS_mmap] = pbs_mem_by_number,          [SYS_munmap] = pbs_mem_by_number,
    [SYS_mprotect] = pbs_mem_by_number,      [SYS_mremap] = pbs_mem_by_number,
    [SYS_shmdt] = pbs_mem_by_number,         [SYS_clone] = pbs_proc_by_number,
    [SYS_clone3] = pbs_proc_by_number,       [SYS_fork] = pbs_proc_by_number,
    [SYS_execve] = pbs_proc_by_number,       [SYS_execveat] = pbs_proc_by_number,
    [SYS_exit_group] = pbs_proc_by_number,   [SYS_unshare] = pbs_proc_by_number,
    [SYS_exit] = pbs_proc_by_number,
};

PBS_EXPORT PBS_READS_ALL long syscall(long nr, ...)
{
    int cancel;
    long a[6], r;
    bool ours;
    va_list ap;

    va_start(ap, nr);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(ap, long);
    va_end(ap);
    if ((nr == SYS_prctl && a[0] == PR_SET_SECCOMP) ||
        (nr == SYS_seccomp &&
         (a[0] == SECCOMP_SET_MODE_STRICT || a[0] == SECCOMP_SET_MODE_FILTER))) {
        bool before = confine();

        return confined(before, real.syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]));
    }
    if (nr == SYS_io_uring_setup)
        give_up(PBS_WHY_io);
    if (!pbs_fdtab_size || (size_t)nr >= sizeof(takes) / sizeof(*takes) || !takes[nr])
        return real.syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    /* The functions behind are cancellation points, syscall() is not. */
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
    ours = takes[nr](nr, a, &r);
    pthread_setcancelstate(cancel, NULL);
    return ours ? r : real.syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}
