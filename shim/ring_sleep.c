/* The sleep in a ring, and what ends it: news, time, a handler, a cancellation. */
#include "ring.h"

#include <errno.h>
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

    uncancel(self);
    if (!r)
        return true;
    if (!atomic_load(&r->in_enter))
        return !pbs_ring_pending(r) && r->news == r->looked;
    pbs_crit_enter(self);
    pbs_ring_reap_all(r);
    if (pbs_ring_deferred(r)) /* it came before the sleep began, and no enter has run it */
        pbs_ring_enter_now(r);
    pbs_ring_leave(r);
    pbs_crit_leave(self);
    return r->news == r->looked;
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

/* One sleep. *timer: nothing but the ring's timer has ended it. */
static int sleep_once(struct pbs_ring *r, int64_t deadline, bool submit_first, const sigset_t *mask,
                      bool *timer)
{
    struct pbs_thread *self = r->owner;
    struct __kernel_timespec ts;
    struct io_uring_getevents_arg arg = {
        .ts = deadline ? (uintptr_t)&ts : 0, .sigmask = (uintptr_t)mask, .sigmask_sz = _NSIG / 8};
    bool ext = deadline || mask;
    unsigned todo;
    long ret = 0;
    bool nudged;

    *timer = false;
    pbs_crit_enter(self);
    todo = pbs_ring_announce(r, true);
    nudged = atomic_load(&r->nudged) && atomic_exchange(&r->nudged, false);
    if (todo && submit_first) {
        pbs_ring_submit(r);
        todo = 0;
    }
    if (deadline) {
        int64_t left = deadline - pbs_now_ns();

        if (left < 0)
            left = 0; /* what is there is brought all the same */
        ts.tv_sec = left / 1000000000;
        ts.tv_nsec = left % 1000000000;
    }
    if (atomic_load_explicit(&self->wait_signal, memory_order_relaxed))
        ret = -EINTR;
    if (!ret && !nudged) {
        pbs_crit_leave(self);
        ret = pbs_sleep_call(self, SYS_io_uring_enter, r->uring.enter_ring_fd, todo, 1,
                             IORING_ENTER_GETEVENTS | IORING_ENTER_REGISTERED_RING |
                                 (ext ? IORING_ENTER_EXT_ARG : 0) | r->sleep_flags,
                             ext ? (long)&arg : 0, ext ? sizeof(arg) : 0);
        pbs_crit_enter(self);
        pbs_count(self, kernel_entries);
    }
    if (pbs_unlikely(self->ring != r)) { /* a handler forked: here is its child, without a ring */
        pbs_crit_leave(self);
        return -EINTR;
    }
    *timer = !pbs_ring_reap_all(r) && r->ticked && ret >= 0 && !r->cancelling &&
             !atomic_load(&r->revokes);
    pbs_ring_finish_revokes(r);
    pbs_ring_leave(r);
    pbs_crit_leave(self);
    return ret == -EINTR || ret == -ETIME ? (int)ret : 0;
}

int pbs_ring_wait(struct pbs_ring *r, int64_t deadline, bool submit_first, const sigset_t *mask)
{
    bool timer;
    int ret;

    if (pbs_unlikely(r->cq_short)) {
        pbs_ring_make_room(r);
        return 0;
    }
    r->looked = r->news;
    do
        ret = sleep_once(r, deadline, submit_first, mask, &timer);
    while (pbs_unlikely(timer)); /* no word of it to the caller: a handler might run in between */
    return ret;
}
