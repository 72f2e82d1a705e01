/*
 * The system call io_uring_enter as sleeping receives make it (ring_enter.c), and what a signal
 * trampoline needs to know of it.
 */
#ifndef PBS_ENTER_CALL_H
#define PBS_ENTER_CALL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* -EINTR without a system call when *signal is not 0, else what the kernel returns. */
long pbs_enter_call(int fd, unsigned submit, unsigned min_complete, unsigned flags, void *arg,
                    size_t argsz, atomic_uint *signal);

extern const char pbs_enter_begin[], pbs_enter_end[], pbs_enter_abort[];

/* Where a thread that was interrupted at pc has to go on: the call has not happened yet, and must
 * not happen after a handler ran. */
static inline uintptr_t pbs_enter_fix_pc(uintptr_t pc)
{
    if (pc >= (uintptr_t)pbs_enter_begin && pc < (uintptr_t)pbs_enter_end)
        return (uintptr_t)pbs_enter_abort;
    return pc;
}

#endif
