/*
 * Memory of our own, straight from mmap: receives are async-signal-safe, malloc is not, and the
 * program may have replaced malloc. Freed pieces go to a list for their size and are never
 * unmapped; those over 32768 bytes, the tables of very many sockets, are. Types that others may
 * hold a stale pointer to (records, threads) keep a free list of their own, so that the memory
 * stays of that type.
 *
 * Any thread, inside a critical section (thread.h).
 */
#ifndef PBS_MEM_H
#define PBS_MEM_H

#include <stdbool.h>
#include <stddef.h>

/* size: 1 byte or more, zeroed. NULL when out of memory. */
void *pbs_mem_get(size_t size);
void pbs_mem_put(void *p, size_t size);

/* Whole pages, zeroed; NULL when out of memory. */
void *pbs_mem_map(size_t size);
void pbs_mem_unmap(void *p, size_t size);

/* The same for what is not counted before it is used: by pbs_mem_charge(), or not at all. */
void *pbs_mem_reserve(size_t size);
void pbs_mem_release(void *p, size_t size);

/* Never in huge pages: pinned, a part of one is charged as all of it, and touched it is all there. */
void pbs_mem_small(void *p, size_t size);

/*
 * The budget of the process, PBUFSHIM_MEMORY: what is mapped, handed out and charged counts. What holds
 * bytes is had in any case; what could be done without is not: more lent, another socket. Any thread.
 */
bool pbs_mem_charge(size_t size); /* false: it is used up, nothing happened */
void pbs_mem_uncharge(size_t size);
bool pbs_mem_used_up(void);

/* In a forked child: locks that another thread of the parent may have held are free again. What was
 * counted is the parent's. */
void pbs_mem_reset(void);

#endif
