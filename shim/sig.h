/*
 * Signal handlers of the program. The kernel gets our trampoline, the program sees its own handler.
 *
 * The trampoline
 *   - puts the signal off while the thread is inside a critical section: it returns with everything
 *     masked, and the signal is queued again when the section is left. A handler so sees the state
 *     before or after a call, never inside. (Faults are not put off.)
 *   - ends a sleep in the ring: what has come is reaped, nobody is left waiting for this thread,
 *     whatever the handler does (block, siglongjmp).
 *   - notes that a handler ran, and the SA_RESTART of the first one.
 *
 * Any thread. -1 and errno as the calls of the same name.
 */
#ifndef PBS_SIG_H
#define PBS_SIG_H

#include <signal.h>

#include "thread.h"

/* interrupt: what ends a sleep in the ring (the ring's; sig knows no ring). True: nothing had come. */
void pbs_sig_init(bool (*interrupt)(struct pbs_thread *self));

int pbs_sig_action(int sig, const struct sigaction *act, struct sigaction *old);

/* signal() with BSD (SA_RESTART, unless siginterrupt() said otherwise) or System V semantics. */
sighandler_t pbs_sig_signal(int sig, sighandler_t handler, bool sysv);

int pbs_sig_interrupt(int sig, int interrupt);
sighandler_t pbs_sig_set(int sig, sighandler_t disp);

#endif
