/* Sleeps that end: by a handler, by a cancellation. */
#include "ring.h"

#include <pthread.h>

#include "enter_call.h"

/*
 * Takes the clean-up of a cancelled sleep out of libc's list: the sleep is over. A handler may leave
 * it by siglongjmp, which libc does not notice, and the entry lies on the stack that is left.
 */
static void uncancel(struct pbs_thread *self)
{
    __pthread_unwind_buf_t *cleanup = self->cleanup;

    if (!cleanup)
        return;
    pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, NULL);
    self->cleanup = NULL;
    __pthread_unregister_cancel(cleanup);
}

bool pbs_ring_interrupt(struct pbs_thread *self)
{
    struct pbs_ring *r = self->ring;
    bool quiet;

    uncancel(self);
    if (!r)
        return true;
    quiet = !pbs_ring_pending(r);
    if (!atomic_load(&r->in_enter))
        return quiet;
    pbs_crit_enter(self);
    pbs_ring_reap_all(r);
    pbs_ring_leave(r);
    pbs_crit_leave(self);
    return quiet;
}

/* The thread ends here: nobody waits for it any more. */
static void cancelled(struct pbs_thread *self)
{
    struct pbs_sock *s = atomic_exchange(&self->waiting, NULL);

    self->cleanup = NULL;
    atomic_store(&self->polling, false);
    if (s && !atomic_exchange(&self->broken, s))
        atomic_fetch_add(&pbs_attention, 1);
    pbs_ring_interrupt(self);
}

/*
 * glibc interrupts a thread in cancel type deferred by no signal (2.36), so the type is asynchronous
 * around the call, as in glibc's own cancellation points. What follows is pthread_cleanup_push()
 * written out, so that a handler can take it back.
 */
long pbs_sleep_call(struct pbs_thread *me, long nr, long a, long b, long c, long d, long e, long f)
{
    struct pbs_thread *volatile self = me;
    __pthread_unwind_buf_t cleanup;
    int type;
    long ret;

    if (__sigsetjmp_cancel(cleanup.__cancel_jmp_buf, 0)) {
        cancelled(self);
        __pthread_unwind_next(&cleanup);
    }
    pbs_crit_enter(self);
    __pthread_register_cancel(&cleanup);
    self->cleanup = &cleanup;
    pbs_crit_leave(self);
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
    ret = pbs_enter_call(nr, a, b, c, d, e, f, &self->wait_signal);
    pthread_setcanceltype(type, NULL);
    pbs_crit_enter(self);
    __pthread_unregister_cancel(&cleanup); /* a second time, if a handler has: that is no change */
    self->cleanup = NULL;
    pbs_crit_leave(self);
    return ret;
}
