/*
 * Readiness of what we hold, merged with the kernel's; and waits that happen in the ring. The kernel
 * is right about everything but the bytes and errors that we hold, as long as the thread that looks
 * is the socket's user thread; looking makes it so (pbs_touch), or ends the adoption.
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

/* How long a call may wait. */
struct pbs_span {
    int64_t ns; /* 0: not at all, < 0: for ever */
    bool used;  /* a part of it has been waited: the real call is given the rest */
};

#define PBS_SPAN_MOST (INT64_C(1) << 60) /* ns: 36 years are for ever */

static inline struct pbs_span pbs_span_of(const struct timespec *t)
{
    if (!t || t->tv_sec > PBS_SPAN_MOST / 1000000000)
        return (struct pbs_span){.ns = -1};
    return (struct pbs_span){.ns = t->tv_sec * INT64_C(1000000000) + t->tv_nsec};
}

static inline struct pbs_span pbs_span_of_ms(int ms)
{
    return (struct pbs_span){.ns = ms < 0 ? -1 : ms * INT64_C(1000000)};
}

/* What is left of it, for the real call. */
static inline int pbs_span_ms(const struct pbs_span *span, int ms)
{
    return span->used ? (int)((span->ns + 999999) / 1000000) : ms;
}

static inline struct timespec pbs_span_left(const struct pbs_span *span)
{
    return (struct timespec){span->ns / 1000000000, span->ns % 1000000000};
}

/* Is any of these a record? False: the call is plain. */
bool pbs_ready_poll_concerns(const struct pollfd *fds, nfds_t n);

/*
 * Looks at every record in the set. True: *r is the answer: something is held that the caller asks
 * for, merged with the kernel's present answer; or all are armed here, and the wait has happened in
 * the ring. False: make the real call, for what is left of span, and tell pbs_ready_slept(). mask:
 * the signals masked while it waits, or NULL.
 */
bool pbs_ready_poll(struct pollfd *fds, nfds_t n, struct pbs_span *span, const sigset_t *mask,
                    int *r);

bool pbs_ready_select_concerns(int n, const fd_set *r, const fd_set *w, const fd_set *e);
bool pbs_ready_select(int n, fd_set *r, fd_set *w, fd_set *e, struct pbs_span *span,
                      const sigset_t *mask, int *answer);

/* The same for an epoll instance. set is borrowed from the fd table. */
bool pbs_ready_epoll(struct pbs_epoll *set, int epfd, struct epoll_event *ev, int max,
                     struct pbs_span *span, const sigset_t *mask, int *r);

/* pbs_ready_slept() for epoll: n events came, and what we hold of the same members is added. */
int pbs_ready_epoll_slept(struct pbs_epoll *set, int epfd, struct epoll_event *ev, int n);

/* Whether the kernel would take these: if not, it is asked, and refuses. */
bool pbs_ready_time_ok(const struct timespec *t);
bool pbs_ready_mask_ok(const sigset_t *mask);

/* The real wait that was announced (a false answer above) returned r. Returns r; errno is kept. */
int pbs_ready_slept(int r);

/* epoll_ctl as a whole. */
int pbs_ready_ctl(int epfd, int op, int fd, struct epoll_event *ev);

/* ---- between the files of ready ---- */

/* A look at the kernel's readiness gave r: more than 0 tells this thread that something is ready. */
int pbs_ready_told(int r);

/* The events of a member that have to be reported now, were the kernel to say nothing of it. set
 * locked. */
uint32_t pbs_ready_due(const struct pbs_item *it);

/*
 * What there is to report of an instance now. taken: its members' input is waited for in the ring, and the
 * kernel is asked only if it has something to say; else it is asked if we have something. mark: if it is
 * nothing, the real call comes next. Events, or -errno.
 */
int pbs_report(struct pbs_thread *self, struct pbs_epoll *set, int epfd, struct epoll_event *ev,
               int max, bool taken, bool mark);

/* Adds what we hold to the n events of a real wait, which has been made. */
void pbs_report_add(struct pbs_thread *self, struct pbs_epoll *set, int epfd,
                    struct epoll_event *ev, int n);

/* What was held of its members has been read since: they are off the list. */
void pbs_report_forget(struct pbs_thread *self, struct pbs_epoll *set);

/* What we add to the kernel's bits for a caller that asks for events. */
short pbs_ready_bits(struct pbs_file *f, short events);

/* fd, a record's, is looked at by this thread; urgent: for urgent data, too. */
void pbs_ready_look_at(struct pbs_thread *self, int fd, struct pbs_file *f, bool urgent);

/* The real call that this thread is about to make names fd's socket (pbs_sock.call). */
void pbs_ready_name(struct pbs_thread *self, int fd);

#define PBS_SEATS 64 /* a larger set is the kernel's to wait for */

/* A socket that a wait in the ring is about. */
struct pbs_seat {
    struct pbs_sock *s;
    uint64_t life; /* of s, when it was seated */
    int fd;
    unsigned at;        /* its place in the caller's array (poll) */
    short events, bits; /* asked for, and the answer */
};

/* fd with these events can be waited for in this thread's ring: all that can happen ends its
 * request or is brought by it. */
bool pbs_ready_seat(struct pbs_thread *self, int fd, short events, struct pbs_seat *seat);

/* NOT: ask the kernel, for what is left of span. NONE: the time is over. */
enum pbs_served { PBS_SERVED_NOT, PBS_SERVED_READY, PBS_SERVED_NONE, PBS_SERVED_EINTR };

/* Waits in the ring until one of them is ready. n > 0. */
enum pbs_served pbs_ready_serve(struct pbs_thread *self, struct pbs_seat *v, unsigned n,
                                struct pbs_span *span, const sigset_t *mask);

#endif
