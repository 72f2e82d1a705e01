/*
 * Is this memory of the program's what the kernel could write to, or read? A receive from held
 * bytes has to answer EFAULT where the kernel would, and lose no byte by it.
 *
 * A page is proved once a thread by the kernel itself and then trusted until memory is unmapped or
 * protected (hook_mem.c; what libc or a raw system call unmaps is not seen, a listed limit).
 * Calling thread only, no lock held, async-signal-safe.
 */
#ifndef PBS_USER_H
#define PBS_USER_H

#include "thread.h"

/* Moves whenever memory was taken away: what was proved before no longer is. */
extern atomic_uint pbs_user_epoch;

static inline void pbs_user_changed(void)
{
    atomic_fetch_add_explicit(&pbs_user_epoch, 1, memory_order_release);
}

/* Not even an address of the program's: the kernel refuses it before it looks for bytes. */
static inline bool pbs_user_absurd(const void *p, size_t n)
{
    uintptr_t end;

    return __builtin_add_overflow((uintptr_t)p, n, &end) || end > ((uintptr_t)1 << 47) - 4096;
}

/* Slow halves: ask the kernel. The bytes of a writable range may be overwritten with junk. */
PBS_COLD bool pbs_user_prove_write(struct pbs_thread *self, void *p, size_t n);
PBS_COLD bool pbs_user_prove_read(struct pbs_thread *self, const void *p, size_t n);

static inline bool pbs_user_proved(struct pbs_thread *self, const uintptr_t *cache, const void *p,
                                   size_t n)
{
    uintptr_t first = (uintptr_t)p >> 12, last = ((uintptr_t)p + n - 1) >> 12;

    if (pbs_unlikely(self->proved_epoch !=
                     atomic_load_explicit(&pbs_user_epoch, memory_order_acquire)))
        return false;
    if (pbs_unlikely(first > last)) /* wraps */
        return false;
    for (; first <= last; first++)
        if (cache[first % PBS_PROVED] != first + 1)
            return false;
    return true;
}

/* True: the n > 0 bytes at p, all about to be overwritten, can be written. */
static inline bool pbs_user_writable(struct pbs_thread *self, void *p, size_t n)
{
    return pbs_likely(pbs_user_proved(self, self->proved_write, p, n)) ||
           pbs_user_prove_write(self, p, n);
}

/* The same for memory that holds something: not a byte is changed in the asking. */
PBS_COLD bool pbs_user_prove_rewrite(struct pbs_thread *self, void *p, size_t n);

static inline bool pbs_user_rewritable(struct pbs_thread *self, void *p, size_t n)
{
    return pbs_likely(pbs_user_proved(self, self->proved_write, p, n)) ||
           pbs_user_prove_rewrite(self, p, n);
}

static inline bool pbs_user_readable(struct pbs_thread *self, const void *p, size_t n)
{
    return pbs_likely(pbs_user_proved(self, self->proved_read, p, n)) ||
           pbs_user_prove_read(self, p, n);
}

#endif
