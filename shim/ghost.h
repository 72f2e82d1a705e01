/*
 * A number of our own for an open socket: the program closed its last one while a call of another
 * thread sleeps on it in a ring. In the kernel that call's reference keeps the socket, and the last
 * close, at its end, resets the connection if bytes are unread; a request in a ring cannot be told
 * to. As high a number as the limit allows, close-on-exec, and few at a time.
 */
#ifndef PBS_GHOST_H
#define PBS_GHOST_H

#include "base.h"

/* Another number for fd, as high as the limit allows, close-on-exec; -1: none to be had. Any thread. */
int pbs_ghost_number(int fd);

/* The same, one of a few that a forked child closes. */
int pbs_ghost_make(int fd);

/* Closes it. reset: bytes are unread that the kernel does not know of. Any thread; -1: nothing. */
void pbs_ghost_close(int ghost, bool reset);

/* In a forked child, which no sleeping call's reference follows. */
void pbs_ghost_reset(void);

#endif
