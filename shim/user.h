/*
 * Is this memory of the program's what the kernel could write to, or read? A receive from held
 * bytes has to answer EFAULT where the kernel would, and lose no byte by it.
 *
 * A page is proved once a thread by the kernel itself and then trusted; unmapping a proved page and
 * receiving into it is a listed limit. Calling thread only, no lock held, async-signal-safe.
 */
#ifndef PBS_USER_H
#define PBS_USER_H

#include "thread.h"

/* Slow halves: ask the kernel. The bytes of a writable range may be overwritten with junk. */
PBS_COLD bool pbs_user_prove_write(struct pbs_thread *self, void *p, size_t n);
PBS_COLD bool pbs_user_prove_read(struct pbs_thread *self, const void *p, size_t n);

static inline bool pbs_user_proved(const uintptr_t *cache, const void *p, size_t n)
{
    uintptr_t first = (uintptr_t)p >> 12, last = ((uintptr_t)p + n - 1) >> 12;

    for (; first <= last; first++)
        if (cache[first % PBS_PROVED] != first + 1)
            return false;
    return true;
}

/* True: the n > 0 bytes at p, all about to be overwritten, can be written. */
static inline bool pbs_user_writable(struct pbs_thread *self, void *p, size_t n)
{
    return pbs_likely(pbs_user_proved(self->proved_write, p, n)) ||
           pbs_user_prove_write(self, p, n);
}

/* The same for memory that holds something: not a byte is changed in the asking. */
PBS_COLD bool pbs_user_prove_rewrite(struct pbs_thread *self, void *p, size_t n);

static inline bool pbs_user_rewritable(struct pbs_thread *self, void *p, size_t n)
{
    return pbs_likely(pbs_user_proved(self->proved_write, p, n)) ||
           pbs_user_prove_rewrite(self, p, n);
}

static inline bool pbs_user_readable(struct pbs_thread *self, const void *p, size_t n)
{
    return pbs_likely(pbs_user_proved(self->proved_read, p, n)) || pbs_user_prove_read(self, p, n);
}

#endif
