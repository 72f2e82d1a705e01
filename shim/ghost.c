#include "ghost.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define MOST 16U
#define ROOM 64U /* numbers below the limit: for these and for others of ours */

static atomic_int ghosts[MOST]; /* number + 1; 0: free */

int pbs_ghost_number(int fd)
{
    struct rlimit64 lim = {0};
    long high;

    pbs_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &lim);
    if (lim.rlim_cur <= ROOM || lim.rlim_cur > INT32_MAX)
        return -1;
    high = pbs_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, (int)(lim.rlim_cur - ROOM));
    return high < 0 ? -1 : (int)high;
}

int pbs_ghost_make(int fd)
{
    int free = 0, ghost = pbs_ghost_number(fd);

    if (ghost < 0)
        return -1;
    for (unsigned i = 0; i < MOST; i++, free = 0)
        if (atomic_compare_exchange_strong(&ghosts[i], &free, ghost + 1))
            return ghost;
    pbs_sys1(SYS_close, ghost);
    return -1;
}

void pbs_ghost_close(int ghost, bool reset)
{
    struct linger l = {.l_onoff = 1, .l_linger = 0};
    int mine = ghost + 1;

    if (ghost < 0)
        return;
    if (reset)
        pbs_sys5(SYS_setsockopt, ghost, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
    for (unsigned i = 0; i < MOST; i++, mine = ghost + 1)
        if (atomic_compare_exchange_strong(&ghosts[i], &mine, 0))
            break;
    pbs_sys1(SYS_close, ghost);
}

void pbs_ghost_reset(void)
{
    for (unsigned i = 0; i < MOST; i++) {
        int ghost = atomic_exchange(&ghosts[i], 0) - 1;

        if (ghost >= 0)
            pbs_sys1(SYS_close, ghost);
    }
}
