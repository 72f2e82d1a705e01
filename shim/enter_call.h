/*
 * A system call that no handler of the program's is slept over (ring_enter.c), and what a signal
 * trampoline needs to know of it.
 */
#ifndef PBS_ENTER_CALL_H
#define PBS_ENTER_CALL_H

#include <stdatomic.h>
#include <stdint.h>

/*
 * Makes system call nr and returns what the kernel returns; -EINTR without it when *signal is not
 * 0. A call that the kernel would restart after a handler ends with -EINTR, too.
 */
long pbs_enter_call(long nr, long a, long b, long c, long d, long e, long f, atomic_uint *signal);

extern const char pbs_enter_begin[], pbs_enter_end[], pbs_enter_abort[];

/* Where a thread that was interrupted at pc has to go on: the call has not happened yet, or is about
 * to be restarted, and must not happen after a handler ran. */
static inline uintptr_t pbs_enter_fix_pc(uintptr_t pc)
{
    if (pc >= (uintptr_t)pbs_enter_begin && pc < (uintptr_t)pbs_enter_end)
        return (uintptr_t)pbs_enter_abort;
    return pc;
}

#endif
