/*
 * Calls that take memory away or write-protect it: what was proved of it (user.h) no longer holds.
 * Memory that libc itself gives back, or a raw system call takes, is not seen: a listed limit.
 */
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/shm.h>

#include "hook.h"
#include "real.h"
#include "rx.h"
#include "user.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes"

static void before_map(int flags, int fd)
{
    if (!(flags & MAP_ANONYMOUS) && !pbs_fdtab_miss(fd))
        pbs_release_fd(fd, PBS_WHY_io); /* TCP_ZEROCOPY_RECEIVE comes next */
}

PBS_EXPORT void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t off)
{
    void *r;

    before_map(flags, fd);
    r = real.mmap(at, n, prot, flags, fd, off);
    if (!(prot & PROT_WRITE) || fd >= 0) /* past a file's end there is nothing to write to */
        pbs_user_changed();
    return r;
}

PBS_EXPORT __typeof__(mmap64) mmap64 __attribute__((alias("mmap"), copy(mmap)));

PBS_EXPORT int munmap(void *at, size_t n)
{
    int r = real.munmap(at, n);

    pbs_user_changed();
    return r;
}

PBS_EXPORT int mprotect(void *at, size_t n, int prot)
{
    int r = real.mprotect(at, n, prot);

    if (!(prot & PROT_WRITE))
        pbs_user_changed();
    return r;
}

PBS_EXPORT int pkey_mprotect(void *at, size_t n, int prot, int key)
{
    int r = real.pkey_mprotect(at, n, prot, key);

    pbs_user_changed();
    return r;
}

PBS_EXPORT void *mremap(void *at, size_t n, size_t want, int flags, ...)
{
    va_list ap;
    void *r;

    va_start(ap, flags);
    r = real.mremap(at, n, want, flags, va_arg(ap, void *));
    va_end(ap);
    pbs_user_changed();
    return r;
}

PBS_EXPORT int shmdt(const void *at)
{
    int r = real.shmdt(at);

    pbs_user_changed();
    return r;
}

/* By its number: libc's own functions look at the arguments first. */
bool pbs_mem_by_number(long nr, const long *a, long *r)
{
    if (nr == SYS_mmap)
        before_map((int)a[3], (int)a[4]);
    *r = real.syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    pbs_user_changed();
    return true;
}
