/*
 * Making, replacing and ending processes, the safe minimum: before a fork or a spawn every request
 * is cancelled, and sockets that live at it are never adopted again; held bytes stay with the
 * parent. A child has no ring and no record.
 *
 * Any thread, no lock held.
 */
#ifndef PBS_PROC_H
#define PBS_PROC_H

#include <stdbool.h>

void pbs_proc_init(void);

/* Around a call that makes a process by copying this one. */
void pbs_proc_before_fork(void);
void pbs_proc_after_fork_parent(void);
void pbs_proc_after_fork_child(void);

/* Around an exec, which returns only when it failed. */
void pbs_proc_before_exec(void);
void pbs_proc_after_exec(void);

/* The process ends. */
void pbs_proc_end(void);

#endif
