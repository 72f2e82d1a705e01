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

/*
 * The program has installed a filter of system calls, which may kill for any call that the program does not
 * make itself. Nothing is asked of the kernel from then on: memory is taken to be good, and what is
 * behind held bytes waits for the next receive.
 */
extern atomic_bool pbs_user_confined;

/* Not even an address of the program's: the kernel refuses it before it looks for bytes. */
static inline bool pbs_user_absurd(const void *p, size_t n)
{
    uintptr_t end;

    return __builtin_add_overflow((uintptr_t)p, n, &end) || end > ((uintptr_t)1 << 47) - 4096;
}

/* Slow halves: ask the kernel. The bytes of a writable range may be overwritten with junk. */
PBS_COLD bool pbs_user_prove_write(struct pbs_thread *self, void *p, size_t n);
PBS_COLD bool pbs_user_prove_read(struct pbs_thread *self, const void *p, size_t n);

/*
 * An entry of the cache: (number + 1) << 16 of a run of 16 pages, and a bit for each of its pages that
 * is proved. A server's buffers lie close together, one for each connection: in runs there is room
 * for those of hundreds.
 */
#define PBS_USER_RUN 65536 /* bytes */

/* The pages from first to last, in the run of first. */
static inline uint64_t pbs_user_bits(uintptr_t first, uintptr_t last)
{
    uint64_t from = UINT64_C(0xffff) << first % 16 & 0xffff;

    return last / 16 > first / 16 ? from : from & UINT64_C(0xffff) >> (15 - last % 16);
}

static inline uint64_t pbs_user_run(uintptr_t page)
{
    return (page / 16 + 1) << 16;
}

/* The two entries that a run may be in: two areas that are in use may share their places. */
#define pbs_user_set(cache, page) (&(cache)[(page) / 16 % (PBS_PROVED / 2) * 2])

/* The page, and with it those that bits stand for in its run, is proved. */
static inline bool pbs_user_has(const uint64_t *cache, uintptr_t page, uint64_t bits)
{
    const uint64_t *e = pbs_user_set(cache, page);
    uint64_t key = pbs_user_run(page), mask = ~UINT64_C(0xffff) | bits;

    return ((e[0] ^ key) & mask) == bits || ((e[1] ^ key) & mask) == bits;
}

static inline bool pbs_user_proved(struct pbs_thread *self, const uint64_t *cache, const void *p,
                                   size_t n)
{
    uintptr_t first = (uintptr_t)p >> 12, last = ((uintptr_t)p + n - 1) >> 12;

    if (pbs_unlikely(self->proved_epoch !=
                     atomic_load_explicit(&pbs_user_epoch, memory_order_acquire)))
        return false;
    if (pbs_likely(first == last))
        return pbs_user_has(cache, first, UINT64_C(1) << first % 16);
    if (pbs_unlikely(first > last)) /* wraps */
        return false;
    for (; first <= last; first = (first | 15) + 1)
        if (!pbs_user_has(cache, first, pbs_user_bits(first, last)))
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
