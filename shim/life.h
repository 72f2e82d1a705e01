/*
 * When an fd number begins and ceases to stand for something. Any thread, no lock held. None of
 * these disturbs errno.
 */
#ifndef PBS_LIFE_H
#define PBS_LIFE_H

#include "fdtab.h"
#include "item.h"
#include "rx.h"

/*
 * A vfork child runs in its parent's memory: it must change nothing of ours. So must a thread with a table of
 * descriptors of its own. A child that goes on beside its parent has the same thread block: it is told
 * by its process id.
 */
extern atomic_int pbs_host; /* the process whose memory it is; 0: nobody else runs in it */

static inline bool pbs_guest(void)
{
    return pbs_unlikely(pbs_in_vfork_child) ||
           (pbs_unlikely(atomic_load_explicit(&pbs_host, memory_order_relaxed)) &&
            pbs_sys0(SYS_getpid) != pbs_host);
}

/* fd is a new socket; gen was read before the call that made it. Returns fd. */
int pbs_born_sock(int fd, bool tcp, uint64_t gen);

/* fd is a new epoll instance. Returns fd. */
int pbs_born_epoll(int fd, uint64_t gen);

/* fd came out of a call that makes numbers: a record that it still has was closed behind our back. */
void pbs_born_other(int fd);

/* A vfork child sees to it that its next image has fd, too. */
void pbs_born_lent(int fd);

/* to is a duplicate of fd now. Returns to. */
int pbs_born_dup(int fd, int to);

/* The system call that closes a number. */
struct pbs_closing {
    long nr, args[3];
    bool made;   /* already, and must not be made again */
    long result; /* then: what the kernel returned */
};

/* fd is about to be closed, or replaced: to be called before the kernel does it. call: NULL, or what
 * closes it, to be made here if no moment may lie in between. */
void pbs_close_fd(int fd, struct pbs_closing *call);
void pbs_close_range(unsigned lo, unsigned hi);

/* The process ends, and no code of the program's runs any more: all connections end now, those with
 * unread bytes by a reset, as the kernel would. Other threads that come here do not get out again. */
void pbs_close_process(void);

/* The listening socket's kind, asked of the kernel once: does what it accepts speak TCP? */
bool pbs_listener_tcp(int fd);

#endif
