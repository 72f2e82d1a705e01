/*
 * When an fd number begins and ceases to stand for something. Any thread, no lock held. None of
 * these disturbs errno.
 */
#ifndef PBS_LIFE_H
#define PBS_LIFE_H

#include "fdtab.h"
#include "item.h"
#include "rx.h"

/* A vfork child runs in its parent's memory: it must change nothing of ours. Set by the vfork hook. */
extern __thread int pbs_in_vfork_child __attribute__((tls_model("initial-exec")));

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

/* fd is about to be closed, or replaced: to be called before the kernel does it. */
void pbs_close_fd(int fd);
void pbs_close_range(unsigned lo, unsigned hi);

/* The process ends: nothing is armed any more, sockets with unread bytes reset as the kernel would. */
void pbs_close_process(void);

/* The listening socket's kind, asked of the kernel once: does what it accepts speak TCP? */
bool pbs_listener_tcp(int fd);

#endif
