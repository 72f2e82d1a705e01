/*
 * What the hooks share: the way out. Inside, calls answer >= 0 or -errno; errno is written here
 * and nowhere else.
 */
#ifndef PBS_HOOK_H
#define PBS_HOOK_H

#include <errno.h>
#include <stdbool.h>
#include <sys/types.h>

static inline ssize_t pbs_ret(ssize_t r)
{
    if (r >= 0)
        return r;
    errno = (int)-r;
    return -1;
}

struct msghdr;
struct pbs_file;

#define PBS_MSG_COMPAT                                                                             \
    ((int)0x80000000) /* MSG_CMSG_COMPAT, the kernel's own: refused from outside */

/* recvmsg() on fd, which is f's: bytes, -errno or a verdict of pbs_rx(). *asked: what there is room for. */
ssize_t pbs_hook_recvmsg(int fd, struct pbs_file *f, struct msghdr *msg, long long flags,
                         size_t *asked);

/*
 * syscall() asks for the call of that number with these six arguments. True: it is one of those
 * that the file takes over, and *r and errno are its answer. Not cancellation points here.
 */
typedef bool pbs_by_number(long nr, const long *a, long *r);

pbs_by_number pbs_recv_by_number, pbs_mmsg_by_number, pbs_send_by_number, pbs_life_by_number,
    pbs_opt_by_number, pbs_poll_by_number, pbs_proc_by_number, pbs_mem_by_number;

#endif
