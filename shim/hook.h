/*
 * What the hooks share: the way out. Inside, calls answer >= 0 or -errno; errno is written here
 * and nowhere else.
 */
#ifndef PBS_HOOK_H
#define PBS_HOOK_H

#include <errno.h>
#include <sys/types.h>

static inline ssize_t pbs_ret(ssize_t r)
{
    if (r >= 0)
        return r;
    errno = (int)-r;
    return -1;
}

#endif
