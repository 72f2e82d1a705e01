/*
 * Counters. Each thread counts in its own block (thread.h), without atomics on the hit path; a
 * block's numbers are added up when the process ends.
 */
#ifndef PBS_STATS_H
#define PBS_STATS_H

#include <stdint.h>

#define PBS_COUNTER_LIST(X)                                                                        \
    X(receives)          /* calls that asked a socket of ours for bytes */                         \
    X(served_calls)      /* of these, answered without a plain call */                             \
    X(served_bytes)      /* bytes that the program got from held bytes */                          \
    X(ring_bytes)        /* bytes that came by the ring */                                         \
    X(kernel_entries)    /* spent in receives and waits on sockets of ours */                      \
    X(arms)              /* multishot requests armed */                                            \
    X(cancels)           /* and cancelled before their end */                                      \
    X(pool_acquisitions) /* buffers lent to the kernel */                                          \
    X(enobufs)           /* requests that ended because no buffer was lent */                      \
    X(completions)       /* that brought bytes */                                                  \
    X(recycled)          /* buffers that came home */                                              \
    X(moved_out)  /* times that a socket's bytes were copied out of buffers that others want */    \
    X(trims)      /* times that an idle pool was made small again */                               \
    X(own_groups) /* groups of buffers made for one socket */                                      \
    X(group_refusals) /* and those that could not be made */                                       \
    X(resizes)        /* of a ring's queue of completions */                                       \
    X(passes)         /* sockets given up for good */                                              \
    X(revokes)        /* adoptions ended by another thread */                                      \
    X(kicks)          /* owners woken for it */                                                    \
    X(rings)          /* rings created */                                                          \
    X(served_waits)   /* poll, select and epoll waits answered without the real call */            \
    X(spills)    /* times that held bytes were moved to where a child or an image can read them */ \
    X(handovers) /* execs and spawns that were given some */                                       \
    X(lost_handovers) /* and those that were not: the new image is without the library */          \
    X(would_save)     /* under policy never: entries that adoption would have saved */

/* Why a socket is not, or no longer, served from the ring. */
#define PBS_REASON_LIST(X)                                                                         \
    X(policy)   /* the policy gave it up */                                                        \
    X(kind)     /* not a connected TCP socket of this process */                                   \
    X(option)   /* a socket option that only the kernel gets right */                              \
    X(oob)      /* urgent data or the error queue is used */                                       \
    X(thread)   /* a second user thread */                                                         \
    X(epoll)    /* an epoll set that cannot be merged exactly */                                   \
    X(fork)     /* open at a fork or spawn */                                                      \
    X(exec)     /* cancelled before an exec */                                                     \
    X(exit)     /* the thread or the process ends */                                               \
    X(close)    /* closed */                                                                       \
    X(scm)      /* sent to another process */                                                      \
    X(stdio)    /* given to a FILE */                                                              \
    X(connect)  /* connected again, or disconnected */                                             \
    X(eof)      /* the kernel said end of file: it repeats that itself */                          \
    X(error)    /* the kernel said an error: held, given once */                                   \
    X(ring)     /* no ring: refused, or the process is about to lose it */                         \
    X(memlock)  /* a quarter of RLIMIT_MEMLOCK is used up */                                       \
    X(kick)     /* the kernel lacks FUTEX_WAIT in a ring and there are threads */                  \
    X(excluded) /* PBUFSHIM_ONLY or PBUFSHIM_EXCLUDE */                                            \
    X(seccomp)  /* a filter is being installed */                                                  \
    X(bound)    /* a library is loaded whose calls go past us */                                   \
    X(memory)   /* out of memory */                                                                \
    X(pool)     /* no buffer free: this receive alone was plain */                                 \
    X(held)     /* it holds as much as one socket may; armed again when that is read */            \
    X(idle)     /* its own group of buffers is given back */                                       \
    X(io)       /* bytes moved inside the kernel: spliced, or by a ring of the program */

#define PBS_COUNTER_ENUM(name) PBS_STAT_##name,
enum pbs_counter { PBS_COUNTER_LIST(PBS_COUNTER_ENUM) PBS_COUNTERS };

#define PBS_REASON_ENUM(name) PBS_WHY_##name,
enum pbs_reason { PBS_REASON_LIST(PBS_REASON_ENUM) PBS_REASONS };

struct pbs_stats {
    uint64_t n[PBS_COUNTERS];
    uint64_t pass[PBS_REASONS];
    uint64_t cancel[PBS_REASONS];
};

/* The pools of all rings, as they are now. */
struct pbs_pool_stats {
    uint64_t total, available, held; /* buffers */
    unsigned buf_size;               /* bytes of each */
};

/* Adds a block to the process's sum. Any thread. */
void pbs_stats_merge(const struct pbs_stats *s);

/* Counts a failure to get a ring, by errno. Any thread. */
void pbs_stats_ring_error(int err);

/* Writes the sum of what was merged and live where PBUFSHIM_STATS says; once a process. */
void pbs_stats_write(const struct pbs_stats *live, const struct pbs_pool_stats *pool);

/* In a forked child: begins at zero. */
void pbs_stats_reset(void);

#endif
