/*
 * Readiness of what we hold, merged with the kernel's. The kernel is right about everything but
 * the bytes and errors that we hold, as long as the thread that looks is the socket's user thread;
 * looking makes it so (pbs_touch), or ends the adoption.
 *
 * Any thread, no lock held. Answers are those of the calls of the same name: -1 and errno.
 */
#ifndef PBS_READY_H
#define PBS_READY_H

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>

#include "item.h"
#include "rx.h"

/* Is any of these a record? False: the call is plain. */
bool pbs_ready_poll_concerns(const struct pollfd *fds, nfds_t n);

/*
 * Looks at every record in the set. True: something is held that the caller asks for, and *r is the
 * answer, merged with the kernel's present one. False: nothing is held, make the real call and tell
 * pbs_ready_slept().
 */
bool pbs_ready_poll(struct pollfd *fds, nfds_t n, int *r);

bool pbs_ready_select_concerns(int n, const fd_set *r, const fd_set *w, const fd_set *e);
bool pbs_ready_select(int n, fd_set *r, fd_set *w, fd_set *e, int *answer);

/* The same for an epoll instance. set is borrowed from the fd table. */
bool pbs_ready_epoll(struct pbs_epoll *set, int epfd, struct epoll_event *ev, int max, int *r);

/* Whether the kernel would take these: if not, it is asked, and refuses. */
bool pbs_ready_time_ok(const struct timespec *t);
bool pbs_ready_mask_ok(const sigset_t *mask);

/* The real wait that was announced (a false answer above) returned r. Returns r; errno is kept. */
int pbs_ready_slept(int r);

/* A look at the kernel's readiness gave r: more than 0 tells this thread that something is ready. */
int pbs_ready_told(int r);

/* epoll_ctl as a whole. */
int pbs_ready_ctl(int epfd, int op, int fd, struct epoll_event *ev);

#endif
