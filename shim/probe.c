#include "probe.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base.h"
#include "mem.h"

enum { UNKNOWN, ALLOWED, FORBIDDEN };

#define STACK 16384

static atomic_int verdict;

/* In the child. */
static void try_calls(void *none)
{
    (void)none;
    pbs_sys2(SYS_io_uring_setup, 0, NULL);
    pbs_sys6(SYS_io_uring_enter, -1, 0, 0, 0, 0, 0);
    pbs_sys4(SYS_io_uring_register, -1, 0, NULL, 0);
}

/* What the child is to do. It shares our memory, so it makes system calls and little else. */
struct task {
    void (*run)(void *arg);
    void *arg;
};

static void child(struct task *task)
{
    struct rlimit64 none = {0, 0};

    pbs_sys4(SYS_prlimit64, 0, RLIMIT_CORE, &none, NULL);
    task->run(task->arg);
}

/*
 * Runs child() in a child on that stack; the caller sleeps until it has ended. Raw, since
 * ThreadSanitizer takes every clone() for a fork and has the child, here in our own memory, prepare
 * for a life without its checks: our thread would have none from then on, and false reports.
 */
static int start_child(char *stack, struct task *task)
{
    register long parent_tid __asm__("rdx") = 0;
    register long child_tid __asm__("r10") = 0;
    register long tls __asm__("r8") = 0;
    register struct task *arg __asm__("r12") = task;
    long pid;

    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t" /* the end of its call chain */
                     "mov %[task], %%rdi\n\t"
                     "call *%[run]\n\t"
                     "mov %[exit], %%eax\n\t"
                     "xor %%edi, %%edi\n\t"
                     "syscall\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(pid)
                     : "a"(SYS_clone), "D"(CLONE_VM | CLONE_VFORK), "S"(stack), "r"(parent_tid),
                       "r"(child_tid),
                       "r"(tls), [run] "b"(child), [task] "r"(arg), [exit] "i"(SYS_exit)
                     : "rcx", "r11", "memory");
    return (int)pid;
}

bool pbs_probe_child(void (*run)(void *arg), void *arg)
{
    struct task task = {run, arg};
    char *stack = pbs_mem_map(STACK);
    int status = -1, pid;
    uint64_t all = ~UINT64_C(0), old;
    long r = -1;

    if (!stack)
        return false;
    pbs_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, 8);
    pid = start_child(stack + STACK, &task);
    if (pid > 0)
        do
            r = pbs_sys4(SYS_wait4, pid, &status, __WCLONE, NULL);
        while (r == -EINTR);
    pbs_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &old, NULL, 8);
    pbs_mem_unmap(stack, STACK);
    return r == pid && WIFEXITED(status);
}

bool pbs_seccomp_allows(void)
{
    int v = atomic_load(&verdict), unknown = UNKNOWN;

    if (v != UNKNOWN)
        return v == ALLOWED;
    v = pbs_sys1(SYS_prctl, PR_GET_SECCOMP) == 0 || pbs_probe_child(try_calls, NULL) ? ALLOWED
                                                                                     : FORBIDDEN;
    atomic_compare_exchange_strong(&verdict, &unknown, v);
    return atomic_load(&verdict) == ALLOWED;
}

void pbs_seccomp_forbid(void)
{
    atomic_store(&verdict, FORBIDDEN);
}
