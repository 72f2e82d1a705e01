#include "fdtab.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>

#define MOST 4194304U /* entries: 32 MiB of addresses */

_Atomic(struct pbs_file *) *pbs_fdtab;
unsigned pbs_fdtab_size;

static atomic_uint always = 1;
atomic_uint *pbs_fdtab_watch = &always;
struct pbs_file *(*pbs_fdtab_on_stranger)(int fd, struct pbs_file *f);

static unsigned reserved;
static atomic_uint high; /* one past the highest number that ever had a record */

static unsigned nr_open(void)
{
    char text[24] = "";
    long fd = pbs_sys4(SYS_openat, AT_FDCWD, "/proc/sys/fs/nr_open", O_RDONLY | O_CLOEXEC, 0), n;
    unsigned long v;

    if (fd < 0)
        return 1048576;
    n = pbs_sys3(SYS_read, fd, text, sizeof(text) - 1);
    pbs_sys1(SYS_close, fd);
    v = n > 0 ? strtoul(text, NULL, 10) : 0;
    return v < 1024 || v > MOST ? MOST : (unsigned)v;
}

bool pbs_fdtab_init(void)
{
    long p;

    reserved = nr_open();
    p = pbs_sys6(SYS_mmap, 0, (long)(reserved * sizeof(*pbs_fdtab)), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p < 0 && p > -4096)
        return false;
    pbs_fdtab = (void *)p;
    pbs_fdtab_size = reserved;
    return true;
}

#ifdef PBS_TSAN
struct pbs_file *pbs_fdtab_load(int fd)
{
    return atomic_load_explicit(&pbs_fdtab[fd], memory_order_acquire);
}
#endif

bool pbs_fdtab_set(int fd, struct pbs_file *f)
{
    unsigned end = (unsigned)fd + 1, seen = atomic_load(&high);

    if ((unsigned)fd >= pbs_fdtab_size)
        return false;
    while (seen < end && !atomic_compare_exchange_weak(&high, &seen, end))
        ;
    f->nfds++;
    atomic_store_explicit(&pbs_fdtab[fd], f, memory_order_release);
    return true;
}

void pbs_fdtab_clear(int fd, struct pbs_file *f)
{
    if (!pbs_fdtab_is(fd, f))
        return;
    atomic_store_explicit(&pbs_fdtab[fd], NULL, memory_order_release);
    f->nfds--;
}

int pbs_fdtab_end(void)
{
    unsigned end = atomic_load(&high);

    return (int)(end < pbs_fdtab_size ? end : pbs_fdtab_size);
}

int pbs_fdtab_next(unsigned from, unsigned to)
{
    unsigned end = (unsigned)pbs_fdtab_end();

    for (; from < end && from <= to; from++)
        if (atomic_load_explicit(&pbs_fdtab[from], memory_order_relaxed))
            return (int)from;
    return -1;
}

void pbs_fdtab_reset(void)
{
    unsigned n = atomic_load(&high);

    /* Private pages: dropped, they read as zeroes. */
    if (n && pbs_fdtab)
        pbs_sys3(SYS_madvise, pbs_fdtab, n * sizeof(*pbs_fdtab), MADV_DONTNEED);
    atomic_store(&high, 0);
}
