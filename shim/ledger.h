/*
 * How many processes may hold an open file, counted from the first fork that it lives at, in memory
 * that all descendants share. A fork adds one for the child, the last close in a process and its end
 * take one away. A process that is killed takes nothing away, and one that replaces its image does
 * not either: the count is never too low.
 *
 * Any process that shares the ledger, any thread. Entry 0 is none.
 */
#ifndef PBS_LEDGER_H
#define PBS_LEDGER_H

#include "base.h"

/* A new entry, held by one process. 0: there is no room, or no memory. */
uint32_t pbs_ledger_open(uint64_t cookie);

void pbs_ledger_join(uint32_t entry);

/* One process less holds it. True: it was the last. */
bool pbs_ledger_leave(uint32_t entry);

unsigned pbs_ledger_holders(uint32_t entry);

/* The kernel's name for the socket (SO_COOKIE), as given at the opening. */
uint64_t pbs_ledger_cookie(uint32_t entry);

/* A word for all that share it, 0 at first: what one has found out of the kernel (inc.c). NULL: nothing has
 * been shared yet. */
_Atomic(uint64_t) *pbs_ledger_word(void);

/* In a forked child: the lock that another thread of the parent may have held is free again. */
void pbs_ledger_reset(void);

#endif
