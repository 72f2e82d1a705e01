/*
 * What every module may use: words for the compiler, a lock, a wait on a word.
 * Any thread; nothing here allocates or touches errno.
 */
#ifndef PBS_BASE_H
#define PBS_BASE_H

#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/single_threaded.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PBS_EXPORT __attribute__((visibility("default")))
#define PBS_COLD __attribute__((cold, noinline))
#define pbs_likely(x) __builtin_expect(!!(x), 1)
#define pbs_unlikely(x) __builtin_expect(!!(x), 0)

#ifdef PBS_DEBUG
#define PBS_ASSERT(x)                                                                              \
    do {                                                                                           \
        if (!(x))                                                                                  \
            __builtin_trap();                                                                      \
    } while (0)
#else
#define PBS_ASSERT(x) ((void)sizeof(x))
#endif

/* Raw system calls: -errno on failure, errno untouched (glibc's syscall() would write it). */
static inline long pbs_sys6(long nr, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long ret;

    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
#else
#error "libpbufshim knows x86-64 only: ring_enter.c and hook_vfork.c are written for it"
#endif
}

#define PBS_ARG(x) ((long)(x))
#define pbs_sys0(nr) pbs_sys6(nr, 0, 0, 0, 0, 0, 0)
#define pbs_sys1(nr, a) pbs_sys6(nr, PBS_ARG(a), 0, 0, 0, 0, 0)
#define pbs_sys2(nr, a, b) pbs_sys6(nr, PBS_ARG(a), PBS_ARG(b), 0, 0, 0, 0)
#define pbs_sys3(nr, a, b, c) pbs_sys6(nr, PBS_ARG(a), PBS_ARG(b), PBS_ARG(c), 0, 0, 0)
#define pbs_sys4(nr, a, b, c, d) pbs_sys6(nr, PBS_ARG(a), PBS_ARG(b), PBS_ARG(c), PBS_ARG(d), 0, 0)
#define pbs_sys5(nr, a, b, c, d, e)                                                                \
    pbs_sys6(nr, PBS_ARG(a), PBS_ARG(b), PBS_ARG(c), PBS_ARG(d), PBS_ARG(e), 0)

/*
 * A lock for sections of a few instructions that never sleep. Unlocking is a plain release store,
 * which keeps it off the hit path. A waiter backs off to real sleep, so that a holder of lower
 * priority gets the processor.
 */
struct pbs_lock {
    atomic_uint held;
};

PBS_COLD __attribute__((unused)) static void pbs_lock_wait(struct pbs_lock *l)
{
    for (unsigned tries = 1; atomic_load_explicit(&l->held, memory_order_relaxed); tries++) {
        struct timespec nap = {0, 50000};

        if (tries % 64)
            __builtin_ia32_pause();
        else if (tries < 64 * 32)
            pbs_sys0(SYS_sched_yield);
        else
            pbs_sys2(SYS_nanosleep, &nap, NULL);
    }
}

/* A process of one thread needs no atomic exchange: sections neither sleep nor make threads. */
static inline __attribute__((always_inline)) void pbs_lock(struct pbs_lock *l)
{
    if (__libc_single_threaded) {
        PBS_ASSERT(!l->held);
        atomic_store_explicit(&l->held, 1, memory_order_relaxed);
        atomic_signal_fence(memory_order_seq_cst);
        return;
    }
    while (pbs_unlikely(atomic_exchange_explicit(&l->held, 1, memory_order_acquire)))
        pbs_lock_wait(l);
}

/* False: somebody has it. */
static inline bool pbs_lock_try(struct pbs_lock *l)
{
    return !atomic_exchange_explicit(&l->held, 1, memory_order_acquire);
}

static inline void pbs_unlock(struct pbs_lock *l)
{
    atomic_store_explicit(&l->held, 0, memory_order_release);
}

/* Sleeps while *word is val; returns early at any wake-up or signal. */
static inline void pbs_futex_wait(atomic_uint *word, unsigned val)
{
    pbs_sys4(SYS_futex, word, FUTEX_WAIT_PRIVATE, val, NULL);
}

/* Wakes a FUTEX_WAIT of a ring, which is not a private one (ring_enter.c). */
static inline void pbs_futex_wake_shared(atomic_uint *word)
{
    pbs_sys3(SYS_futex, word, FUTEX_WAKE, 0x7fffffff);
}

static inline void pbs_futex_wake(atomic_uint *word)
{
    pbs_sys3(SYS_futex, word, FUTEX_WAKE_PRIVATE, 0x7fffffff);
}

static inline int64_t pbs_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

#endif
