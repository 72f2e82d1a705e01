#include "thread.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <ucontext.h>

#include "mem.h"

__thread struct pbs_thread *pbs_self __attribute__((tls_model("initial-exec")));
__thread int pbs_in_vfork_child __attribute__((tls_model("initial-exec")));
static __thread bool dying __attribute__((tls_model("initial-exec")));

static struct pbs_lock list_lock;
static struct pbs_thread *live, *spare; /* guarded by list_lock */
static _Atomic(uint64_t) last_id;
static pthread_key_t key;
static bool have_key;
static void (*at_exit_fn)(struct pbs_thread *self);

/*
 * Runs at the thread's end. Other keys' destructors may still receive after ours: the block is kept
 * for further rounds (glibc makes 4), without a ring.
 */
static void thread_end(void *arg)
{
    struct pbs_thread *self = arg;

    if (!dying) {
        dying = true;
        self->dying = true;
        at_exit_fn(self);
        pthread_setspecific(key, self);
        return;
    }
    pbs_stats_merge(&self->stats);
    pbs_self = NULL;
    pbs_lock(&list_lock);
    if (self->prev)
        self->prev->next = self->next;
    else
        live = self->next;
    if (self->next)
        self->next->prev = self->prev;
    self->next = spare;
    spare = self;
    pbs_unlock(&list_lock);
}

void pbs_thread_init(void (*at_exit)(struct pbs_thread *self))
{
    at_exit_fn = at_exit;
    have_key = pthread_key_create(&key, thread_end) == 0;
}

struct pbs_thread *pbs_thread_make(void)
{
    struct pbs_thread *t;
    sigset_t all, old;

    if (!have_key)
        return NULL;
    /* No handler may see a half-made block, and there is no crit yet to put it off. */
    sigfillset(&all);
    pbs_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, 8);
    if (pbs_self)
        goto out;
    pbs_lock(&list_lock);
    t = spare;
    if (t)
        spare = t->next;
    pbs_unlock(&list_lock);
    if (t)
        memset(t, 0, offsetof(struct pbs_thread, deferred_info));
    else
        t = pbs_mem_get(sizeof(*t));
    if (!t)
        goto out;
    t->id = atomic_fetch_add(&last_id, 1) + 1;
    t->ready_epoch = 1;
    t->call = 1; /* a record's 0 is no call */
    t->dying = dying;
    pbs_lock(&list_lock);
    t->next = live;
    t->prev = NULL;
    if (live)
        live->prev = t;
    live = t;
    pbs_unlock(&list_lock);
    pbs_self = t;
    pthread_setspecific(key, t);
out:
    pbs_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &old, NULL, 8);
    return pbs_self;
}

#define BIT(sig) (UINT64_C(1) << ((sig)-1))

/* What rt_sigaction speaks of. */
struct kernel_action {
    void (*handler)(int sig, siginfo_t *info, void *context);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};

/*
 * A real-time signal that was put off is older than those of its number that are queued by now:
 * queued again it would come after them. So its handler is called, as the kernel would call it:
 * the highest number first, with those below it masked. False: it has to be queued after all.
 */
static bool call_handler(struct pbs_thread *self, int sig, uint64_t was, uint64_t mask)
{
    siginfo_t info = self->deferred_info[sig - 1];
    struct kernel_action act;
    ucontext_t uc;

    if (pbs_sys4(SYS_rt_sigaction, sig, NULL, &act, 8) != 0 || (uintptr_t)act.handler <= 1 ||
        (act.flags & (SA_ONSTACK | SA_RESETHAND)) || getcontext(&uc) != 0)
        return false;
    memcpy(&uc.uc_sigmask, &was, sizeof(was));
    mask |= act.mask | (act.flags & SA_NODEFER ? 0 : BIT(sig));
    pbs_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8);
    act.handler(sig, &info, &uc);
    mask = ~UINT64_C(0);
    pbs_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8);
    return true;
}

void pbs_thread_deliver(struct pbs_thread *self)
{
    long pid = pbs_sys0(SYS_getpid), tid = pbs_sys0(SYS_gettid);
    uint64_t set = self->deferred_set, mask = self->deferred_mask;
    int saved = errno;

    /* All of set is masked: nothing is delivered before the mask is put back. */
    self->deferred = 0;
    self->deferred_set = 0;
    for (int sig = 64; sig > 0; sig--) {
        if (!(set & BIT(sig)))
            continue;
        set &= ~BIT(sig);
        if (sig < 32 || !call_handler(self, sig, mask, mask | set))
            pbs_sys4(SYS_rt_tgsigqueueinfo, pid, tid, sig, &self->deferred_info[sig - 1]);
    }
    pbs_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8);
    errno = saved;
}

/* The others go on counting meanwhile, by plain additions: a sum is as of some moment for each. */
__attribute__((no_sanitize_thread)) void pbs_thread_sum(struct pbs_stats *to)
{
    pbs_lock(&list_lock);
    for (struct pbs_thread *t = live; t; t = t->next) {
        const uint64_t *from = (const uint64_t *)&t->stats;
        uint64_t *sum = (uint64_t *)to;

        for (size_t i = 0; i < sizeof(*to) / sizeof(*sum); i++)
            sum[i] += __atomic_load_n(&from[i], __ATOMIC_RELAXED);
    }
    pbs_unlock(&list_lock);
}

struct pbs_thread *pbs_thread_find(uint32_t id)
{
    struct pbs_thread *t;

    pbs_lock(&list_lock);
    for (t = live; t && (uint32_t)t->id != id; t = t->next)
        ;
    pbs_unlock(&list_lock);
    return t;
}

void pbs_thread_reset(void)
{
    pbs_unlock(&list_lock);
    live = pbs_self;
    if (pbs_self) {
        pbs_self->next = pbs_self->prev = NULL;
        memset(&pbs_self->stats, 0, sizeof(pbs_self->stats));
        for (unsigned i = 0; i < PBS_VISITS; i++)
            pbs_self->visits[i] = 0; /* closed with the other ghosts */
    }
}
