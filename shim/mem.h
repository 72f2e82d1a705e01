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

#include <stddef.h>

/* size: 1 byte or more, zeroed. NULL when out of memory. */
void *pbs_mem_get(size_t size);
void pbs_mem_put(void *p, size_t size);

/* Whole pages, zeroed; NULL when out of memory. */
void *pbs_mem_map(size_t size);
void pbs_mem_unmap(void *p, size_t size);

/* In a forked child: locks that another thread of the parent may have held are free again. */
void pbs_mem_reset(void);

#endif
