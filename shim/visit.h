/*
 * Real calls of one thread on a socket that is armed in another's ring. In the kernel such a call has a
 * reference of its own: the number may be closed, and the connection ends when the call does. But the
 * request in the ring keeps the file, too, for as long as its owner is away. So who closes the last number
 * leaves one of ours to the visitor, which ends the connection after its call.
 */
#ifndef PBS_VISIT_H
#define PBS_VISIT_H

#include "sock.h"
#include "thread.h"

/* A thread, and which of its calls. */
static inline uint64_t pbs_visit_of(struct pbs_thread *t)
{
    return t->id << 32 | t->call;
}

/* The real call that self is about to make names s. Of several visitors the last is known. Any thread; no
 * lock needed. */
static inline void pbs_visit(struct pbs_thread *self, struct pbs_sock *s)
{
    if (pbs_likely(s->user ==
                   self->id)) { /* the owner's count alone can be compared with the owner's */
        s->call = self->call;
    } else if (s->armed) {
        s->visit = pbs_visit_of(self);
    }
}

/* The last number of s, whose owner is away, is closed; ghost (ghost.h) stands for it. The connection ends:
 * with the call of a visitor, who is left the ghost, or, if there is none, now. s locked, any thread. */
void pbs_visit_leave(struct pbs_sock *s, int ghost, bool unread);

/*
 * Ends a connection to which references are left: a reset if bytes are unread or SO_LINGER asks for one,
 * else FIN. Returns the seconds that a close would have to linger for; that of the last reference will
 * not.
 */
int pbs_visit_end(int fd, bool unread);

/* What was left to this thread: its calls have ended. */
void pbs_visits_over(struct pbs_thread *self);

#endif
