/*
 * Making, replacing and ending processes. Before any of it every request is cancelled. A forked
 * child has records of its own and no ring; sockets that both hold are served to neither from one,
 * until one of them is known to be alone.
 *
 * Any thread, no lock held.
 */
#ifndef PBS_PROC_H
#define PBS_PROC_H

#include <stdbool.h>

void pbs_proc_init(void);

/* Around a call that makes a process by copying this one. What `before` gives is the other two's;
 * made: there is a child. */
struct pbs_legacy;
struct pbs_legacy *pbs_proc_before_fork(void);
void pbs_proc_after_fork_parent(struct pbs_legacy *legacy, bool made);
void pbs_proc_after_fork_child(struct pbs_legacy *legacy);

/* In a child whose parent ended with the fork, before the above. */
void pbs_proc_bury(struct pbs_legacy *legacy);

/* Around a call that makes a process which shares our memory until it has an image of its own. */
void pbs_proc_before_spawn(void);

/* The same if that process goes on beside us in our memory: nothing is armed any more, for good. */
void pbs_proc_host(void);
void pbs_proc_after_spawn(void);

/* Before this thread takes a table of descriptors of its own. True: there are others, who keep the one that
 * we know. Nothing is armed any more, for good. */
bool pbs_proc_before_parting(void);
/* It has done so, and is a guest from now on. */
void pbs_proc_after_parting(void);

/* Around an exec, which returns only when it failed. */
void pbs_proc_before_exec(void);
void pbs_proc_after_exec(void);

/* Writes the counters where the program's environment wants them, once; under a filter of system calls
 * that the program has installed never: the filter may kill for it. */
void pbs_proc_tell(void);

/* The process ends. */
void pbs_proc_end(void);

#endif
