/*
 * Buffers that the kernel fills bit by bit (IOU_PBUF_RING_INC, Linux 6.12): whether this kernel does so in
 * the way that pbuf.h counts on is tried out, once in a process, and not concluded from its version.
 */
#ifndef PBS_INC_H
#define PBS_INC_H

#include <stdbool.h>

/* New groups are to be of that kind, as PBUFSHIM_INC says. Some 100 us at the first call of a
 * process and its descendants (Linux 6.18). Any thread. */
bool pbs_inc_wanted(void);

#endif
