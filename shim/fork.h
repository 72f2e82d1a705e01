/*
 * What a fork hands down: which numbers stand for which sockets and epoll instances, and what is in
 * the instances. Taken before the fork, record by record under its lock, so that the child, where
 * any lock may be held by a thread that does not exist there, makes its records anew.
 *
 * Any thread, no lock held, no request in the kernel (pbs_freeze).
 */
#ifndef PBS_FORK_H
#define PBS_FORK_H

#include "thread.h"

struct pbs_legacy;

/* Counts the child as a holder of everything that lives, and moves what is held to shared memory. NULL:
 * nothing lives, or out of memory, and then nothing of it is ever adopted again. */
struct pbs_legacy *pbs_legacy_make(struct pbs_thread *self);

/* There is no child. */
void pbs_legacy_revoke(struct pbs_legacy *l);

/* In the child, whose records have been forgotten: enters upon it. */
void pbs_legacy_enter(struct pbs_thread *self, struct pbs_legacy *l);

/* The parent has ended with the fork (daemon): the child alone holds it all. */
void pbs_legacy_bury(struct pbs_legacy *l);

void pbs_legacy_free(struct pbs_thread *self, struct pbs_legacy *l);

/*
 * Another image is about to be: what is held moves to shared memory, where that can be given it. share:
 * in a child of its own, and what that is not known to lose may be held by two from then on.
 */
void pbs_legacy_lend(struct pbs_thread *self, bool share);

/* In a forked child: the lock that another thread of the parent may have held is free again. */
void pbs_legacy_reset(void);

#endif
