/*
 * Forks and what may be armed. A socket that lives at a fork may be held by two processes from then
 * on: it is served no more. Any thread.
 */
#ifndef PBS_GATE_H
#define PBS_GATE_H

#include "sock.h"

/* While closed, and in records born before the last fork, nothing is armed. */
void pbs_gate_close(void);
void pbs_gate_open(void);
bool pbs_gate_admits(const struct pbs_sock *s);

/* To be read before a call that makes a socket: the record's `born`. */
uint64_t pbs_gate_generation(void);

/* In a forked child: nobody forks. */
void pbs_gate_reset(void);

#endif
