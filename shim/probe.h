/*
 * A seccomp filter may kill for io_uring instead of refusing it. A process that was born under one
 * finds out through a throw-away child; one that installs a filter later goes without from then on.
 */
#ifndef PBS_PROBE_H
#define PBS_PROBE_H

#include <stdbool.h>

/* io_uring may be called. Asks at the first call; any thread, no lock of the ring's held. */
bool pbs_seccomp_allows(void);

/* A filter is about to be installed: never again. */
void pbs_seccomp_forbid(void);

/*
 * Runs run(arg) in a throw-away child that has our memory, and a table of descriptors of its own. False: it
 * was killed, or could not be made. No exit signal: the program sees no SIGCHLD, and its own wait() does
 * not find it. Signals are masked meanwhile.
 */
bool pbs_probe_child(void (*run)(void *arg), void *arg);

#endif
