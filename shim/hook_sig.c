/* Calls that install signal handlers. */
#include <errno.h>
#include <signal.h>

#include "fdtab.h"
#include "hook.h"
#include "real.h"
#include "sig.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes" /* names that no header declares */

PBS_EXPORT int sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
    return pbs_sig_action(sig, act, old);
}

PBS_EXPORT int __sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
    return pbs_sig_action(sig, act, old);
}

PBS_EXPORT sighandler_t signal(int sig, sighandler_t handler)
{
    return pbs_sig_signal(sig, handler, false);
}

PBS_EXPORT sighandler_t bsd_signal(int sig, sighandler_t handler)
{
    return pbs_sig_signal(sig, handler, false);
}

PBS_EXPORT sighandler_t ssignal(int sig, sighandler_t handler)
{
    return pbs_sig_signal(sig, handler, false);
}

PBS_EXPORT sighandler_t sysv_signal(int sig, sighandler_t handler)
{
    return pbs_sig_signal(sig, handler, true);
}

PBS_EXPORT sighandler_t __sysv_signal(int sig, sighandler_t handler)
{
    return pbs_sig_signal(sig, handler, true);
}

PBS_EXPORT sighandler_t sigset(int sig, sighandler_t disp)
{
    return pbs_sig_set(sig, disp);
}

PBS_EXPORT int siginterrupt(int sig, int interrupt)
{
    return pbs_sig_interrupt(sig, interrupt);
}

PBS_EXPORT int sigignore(int sig)
{
    struct sigaction act = {.sa_handler = SIG_IGN};

    sigemptyset(&act.sa_mask);
    return pbs_sig_action(sig, &act, NULL);
}
