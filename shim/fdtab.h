/*
 * fd number -> record. A flat array, reserved for as many numbers as the system allows and
 * committed as it is touched: a miss is one load, without a lock.
 *
 * Entries change under the record's lock (set: before anybody can know it). To use what
 * pbs_fdtab_find() gave: lock it, then ask pbs_fdtab_is() whether it still stands for the number.
 */
#ifndef PBS_FDTAB_H
#define PBS_FDTAB_H

#include "sock.h"

extern _Atomic(struct pbs_file *) *pbs_fdtab;
extern unsigned pbs_fdtab_size; /* 0: nothing is ours */

/* A word that reads 0 where a number may not be what the table says: in a copy of this process that has not
 * come back through its fork, or that nobody announced (a raw clone), and once a thread has a table of its
 * own. What the number stands for there. */
extern atomic_uint *pbs_fdtab_watch;
extern struct pbs_file *(*pbs_fdtab_on_stranger)(int fd, struct pbs_file *f);

/* Reserves the table. False: out of address space. */
bool pbs_fdtab_init(void);

#ifdef PBS_TSAN
/* The hooks are built without ThreadSanitizer, and it has to see this. */
struct pbs_file *pbs_fdtab_load(int fd);
#else
static inline struct pbs_file *pbs_fdtab_load(int fd)
{
    return atomic_load_explicit(&pbs_fdtab[fd], memory_order_acquire);
}
#endif

/* Borrows the record of fd; NULL: none. Any thread. */
static inline struct pbs_file *pbs_fdtab_find(int fd)
{
    struct pbs_file *f;

    if (pbs_unlikely((unsigned)fd >= pbs_fdtab_size))
        return NULL;
    f = pbs_fdtab_load(fd);
    if (f && pbs_unlikely(!atomic_load_explicit(pbs_fdtab_watch, memory_order_relaxed)))
        return pbs_fdtab_on_stranger(fd, f);
    return f;
}

/* fd has no record: the whole price of a call that is not ours. */
static inline bool pbs_fdtab_miss(int fd)
{
    return (unsigned)fd >= pbs_fdtab_size ||
           !atomic_load_explicit(&pbs_fdtab[fd], memory_order_relaxed);
}

/* f stands for fd. f locked. */
static inline bool pbs_fdtab_is(int fd, const struct pbs_file *f)
{
    return atomic_load_explicit(&pbs_fdtab[fd], memory_order_relaxed) == f;
}

/* Makes fd stand for f, counted. f locked, or known to nobody. False: the number is past the table. */
bool pbs_fdtab_set(int fd, struct pbs_file *f);

/* Makes fd stand for nothing. f, its record, locked. */
void pbs_fdtab_clear(int fd, struct pbs_file *f);

/* One past the highest number that ever had a record. */
int pbs_fdtab_end(void);

/* The first number >= from that has a record; -1: none up to `to`. */
int pbs_fdtab_next(unsigned from, unsigned to);

/* In a forked child: every number is nobody's. */
void pbs_fdtab_reset(void);

#endif
