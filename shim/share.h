/*
 * Descriptors that travel in messages (SCM_RIGHTS). A socket that is sent is given up first, and what
 * is held of it waits in shared memory for whoever receives it: this process, or one that was forked
 * off later. (One that was made before cannot see it, a listed limit.)
 *
 * Any thread, no lock held. errno is kept.
 */
#ifndef PBS_SHARE_H
#define PBS_SHARE_H

#include <sys/socket.h>

/* fd is about to be given to another process, which may hold it from then on. */
void pbs_share_fd(int fd);

/* The same for all that msg carries, before it is sent. */
void pbs_share_sent(const struct msghdr *msg);

/* msg was received, and may have brought numbers. */
void pbs_share_received(const struct msghdr *msg);

#endif
