/*
 * Forks, and what may be armed: nothing while one is under way, and no file that another process may
 * hold. Any thread.
 */
#ifndef PBS_GATE_H
#define PBS_GATE_H

#include "sock.h"

/* While closed nothing is armed. */
void pbs_gate_close(void);
void pbs_gate_open(void);

/* Nothing is armed any more, for good, in this process and in all that it forks. */
void pbs_gate_forbid(void);

/* No other process holds f. */
bool pbs_gate_alone(struct pbs_file *f);

/* It may be armed, or be a member of a set that is served from the ring. */
bool pbs_gate_admits(struct pbs_file *f);

/*
 * A call that makes a file makes it in a child, too, if one is made meanwhile, and nobody has counted
 * that. The generation is read before the call; f is known to the table.
 */
uint64_t pbs_gate_generation(void);
void pbs_gate_born(struct pbs_file *f, uint64_t gen);

/* Others may hold f from now on, and nobody counts them: for good, in every process that has it. f locked. */
void pbs_gate_share(struct pbs_file *f);

/* This process is done with f: its last number is gone, or it ends. f locked. True: and no other holds
 * it. Of two that leave at once one is told so. */
bool pbs_gate_leave(struct pbs_file *f);

/* In a forked child: nobody forks. */
void pbs_gate_reset(void);

#endif
