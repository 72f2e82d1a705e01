#include "sig.h"

#include <errno.h>
#include <string.h>
#include <ucontext.h>

#include "enter_call.h"
#include "real.h"
#include "ring.h"

typedef void handler_fn(int sig, siginfo_t *info, void *context);

/* The program's side of what the kernel was given. Written by pbs_sig_action, read by trampolines:
 * one that runs in between sees the new handler a moment early, as if it had come first. */
static struct {
    _Atomic(handler_fn *) handler;
    atomic_int flags;
    sigset_t mask; /* read when a one-shot action is put back */
} action_of[65];

static struct pbs_lock lock;       /* of sigaction as a whole: old and new belong together */
static atomic_bool interrupts[65]; /* siginterrupt(sig, 1) */
static bool (*interrupt_fn)(struct pbs_thread *self);

static void trampoline(int sig, siginfo_t *info, void *context);

void pbs_sig_init(bool (*interrupt)(struct pbs_thread *self))
{
    interrupt_fn = interrupt;
}

static bool is_fault(int sig, const siginfo_t *info)
{
    return info->si_code > 0 && (sig == SIGSEGV || sig == SIGBUS || sig == SIGFPE ||
                                 sig == SIGILL || sig == SIGTRAP || sig == SIGSYS);
}

/* Masks everything in the interrupted context and remembers what to do on leaving. */
static void put_off(struct pbs_thread *self, int sig, const siginfo_t *info, ucontext_t *uc)
{
    uint64_t mask;

    /* The last one's counts: signals that were delivered together run last to first, and all but the
     * last to run have interrupted a trampoline, in whose context the others' masks are in force. */
    memcpy(&mask, &uc->uc_sigmask, sizeof(mask));
    self->deferred_mask = mask;
    self->deferred_info[sig - 1] = *info;
    self->deferred_set |= UINT64_C(1) << (sig - 1);
    self->deferred++;
    mask = ~UINT64_C(0);
    memcpy(&uc->uc_sigmask, &mask, sizeof(mask));
    if (action_of[sig].flags & SA_RESETHAND) {
        /* The kernel has put SIG_DFL in its place; the signal is still to be delivered. */
        struct sigaction sa = {.sa_sigaction = trampoline,
                               .sa_flags = action_of[sig].flags,
                               .sa_mask = action_of[sig].mask};

        sa.sa_flags |= SA_SIGINFO;
        real.sigaction(sig, &sa, NULL);
    }
}

/*
 * The wait of the interrupted call is over, as the kernel's would be. Signals that were delivered
 * together run last to first: one whose interrupted place is the trampoline's first instruction is
 * not the one that decides about SA_RESTART.
 */
static unsigned end_wait(struct pbs_thread *self, int sig, ucontext_t *uc)
{
    greg_t *pc = &uc->uc_mcontext.gregs[REG_RIP];
    struct pbs_sock *s;
    bool quiet;

    *pc = (greg_t)pbs_enter_fix_pc((uintptr_t)*pc);
    quiet = interrupt_fn(self);
    if (self->wait_signal == PBS_SIG_NONE)
        self->wait_quiet = quiet;
    s = atomic_exchange(&self->waiting, NULL);
    if (s && !atomic_exchange(&self->broken, s))
        atomic_fetch_add(&pbs_attention, 1);
    atomic_store(&self->polling, false);
    if (self->wait_signal == PBS_SIG_NONE && (uintptr_t)*pc != (uintptr_t)trampoline)
        self->wait_signal = action_of[sig].flags & SA_RESTART ? PBS_SIG_RESTART : PBS_SIG_INTERRUPT;
    return self->wait_signal;
}

static void trampoline(int sig, siginfo_t *info, void *context)
{
    struct pbs_thread *self = pbs_self;
    handler_fn *handler;
    unsigned mark;
    uint32_t call;
    int saved = errno;
    bool quiet;

    if (self && self->crit && !is_fault(sig, info)) {
        put_off(self, sig, info, context);
        errno = saved;
        return;
    }
    handler = atomic_load(&action_of[sig].handler);
    if (!self) {
        handler(sig, info, context);
        return;
    }
    mark = end_wait(self, sig, context);
    quiet = self->wait_quiet;
    /* The kernel has let go of what a real call was about, and takes hold of it again if it begins
     * the call again: a handler that does not return leaves nobody in it. */
    call = self->call++;
    errno = saved;
    handler(sig, info, context);
    if (self->call == call + 1)
        self->call = call;
    if (mark != PBS_SIG_NONE) { /* a receive of the handler's own may have begun a new count */
        self->wait_signal = mark;
        self->wait_quiet = quiet;
    }
}

/* No handler may run on this thread meanwhile: put off, or, where that is not to be had, masked. */
static struct pbs_thread *enter(uint64_t *mask)
{
    struct pbs_thread *self = pbs_thread_get();
    uint64_t all = ~UINT64_C(0);

    if (self)
        pbs_crit_enter(self);
    else
        pbs_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, mask, 8);
    pbs_lock(&lock);
    return self;
}

static void leave(struct pbs_thread *self, const uint64_t *mask)
{
    pbs_unlock(&lock);
    if (self)
        pbs_crit_leave(self);
    else
        pbs_sys4(SYS_rt_sigprocmask, SIG_SETMASK, mask, NULL, 8);
}

/* In a child that runs in our memory: its actions are its own, and no trampoline is told of them here. */
static int guests_action(int sig, const struct sigaction *act, struct sigaction *old)
{
    struct sigaction was;
    int r = real.sigaction(sig, act, &was);

    if (r || !old)
        return r;
    if (was.sa_sigaction == trampoline) {
        was.sa_sigaction = atomic_load(&action_of[sig].handler);
        was.sa_flags = (was.sa_flags & ~SA_SIGINFO) | (action_of[sig].flags & SA_SIGINFO);
    }
    *old = was;
    return 0;
}

int pbs_sig_action(int sig, const struct sigaction *act, struct sigaction *old)
{
    struct sigaction sa, was;
    handler_fn *before;
    int flags_before, r;
    struct pbs_thread *self;
    uint64_t mask;

    if (sig < 1 || sig > 64)
        return real.sigaction(sig, act, old);
    if (pbs_unlikely(pbs_in_vfork_child == PBS_LENT))
        return guests_action(sig, act, old);
    if (act)
        sa = *act; /* a bad pointer faults here, as it does in libc's own copy */
    self = enter(&mask);
    before = atomic_load(&action_of[sig].handler);
    flags_before = action_of[sig].flags;
    if (act)
        action_of[sig].flags = sa.sa_flags;
    if (act && act->sa_handler != SIG_DFL && act->sa_handler != SIG_IGN) {
        atomic_store(&action_of[sig].handler, sa.sa_sigaction);
        action_of[sig].mask = sa.sa_mask;
        sa.sa_sigaction = trampoline;
        sa.sa_flags |= SA_SIGINFO;
    }
    r = real.sigaction(sig, act ? &sa : NULL, &was);
    if (r) {
        atomic_store(&action_of[sig].handler, before);
        action_of[sig].flags = flags_before;
    } else {
        if (was.sa_sigaction == trampoline)
            was.sa_sigaction = before;
        /* Ours stays in the kernel's flags also when a one-shot handler has run. */
        was.sa_flags = (was.sa_flags & ~SA_SIGINFO) | (flags_before & SA_SIGINFO);
    }
    leave(self, &mask);
    if (!r && old)
        *old = was;
    return r;
}

sighandler_t pbs_sig_signal(int sig, sighandler_t handler, bool sysv)
{
    struct sigaction act = {.sa_handler = handler}, old;

    if (handler == SIG_ERR || sig < 1 || sig >= NSIG) {
        errno = EINVAL;
        return SIG_ERR;
    }
    sigemptyset(&act.sa_mask);
    if (sysv) {
        act.sa_flags = SA_RESETHAND | SA_NODEFER;
    } else {
        sigaddset(&act.sa_mask, sig);
        act.sa_flags = interrupts[sig] ? 0 : SA_RESTART;
    }
    return pbs_sig_action(sig, &act, &old) < 0 ? SIG_ERR : old.sa_handler;
}

int pbs_sig_interrupt(int sig, int interrupt)
{
    struct sigaction act;

    if (pbs_sig_action(sig, NULL, &act) < 0)
        return -1;
    interrupts[sig] = interrupt != 0;
    if (interrupt)
        act.sa_flags &= ~SA_RESTART;
    else
        act.sa_flags |= SA_RESTART;
    return pbs_sig_action(sig, &act, NULL);
}

/* As the X/Open call: SIG_HOLD blocks, anything else installs and unblocks; tells what was. */
sighandler_t pbs_sig_set(int sig, sighandler_t disp)
{
    struct sigaction act = {.sa_handler = disp}, old;
    sigset_t set, was;

    if (disp == SIG_ERR || sig < 1 || sig >= NSIG) {
        errno = EINVAL;
        return SIG_ERR;
    }
    sigemptyset(&set);
    sigaddset(&set, sig);
    if (disp == SIG_HOLD) {
        if (sigprocmask(SIG_BLOCK, &set, &was) < 0)
            return SIG_ERR;
        if (sigismember(&was, sig))
            return SIG_HOLD;
        return pbs_sig_action(sig, NULL, &old) < 0 ? SIG_ERR : old.sa_handler;
    }
    if (pbs_sig_action(sig, &act, &old) < 0 || sigprocmask(SIG_UNBLOCK, &set, &was) < 0)
        return SIG_ERR;
    return sigismember(&was, sig) ? SIG_HOLD : old.sa_handler;
}
