/*
 * Libraries that are bound ahead of us: what one loaded with RTLD_DEEPBIND calls is libc's own, and so
 * is what another namespace calls. Their polls and receives go past us, so nothing may be held: all is
 * released, for good. PHP loads its extensions so.
 *
 * dlopen() knows its caller by the return address (whose RUNPATH, whose $ORIGIN): the real call is
 * jumped to.
 */
#include "hook.h"
#include "life.h"
#include "proc.h"
#include "real.h"

/* As <dlfcn.h> has them, which is for real.c alone. */
#define DEEPBIND 8 /* RTLD_DEEPBIND */
#define BASE 0     /* LM_ID_BASE */

static void bound_past_us(void)
{
    if (!pbs_fdtab_size || pbs_guest())
        return;
    pbs_gate_forbid();
    pbs_freeze(PBS_WHY_bound);
    pbs_thaw();
}

__attribute__((used)) void *pbs_dlopen_prepare(const char *path, int mode);
void *pbs_dlopen_prepare(const char *path, int mode)
{
    pbs_real_bind();
    if (path && mode & DEEPBIND)
        bound_past_us();
    return (void *)real.dlopen;
}

__attribute__((used)) void *pbs_dlmopen_prepare(long space, const char *path, int mode);
void *pbs_dlmopen_prepare(long space, const char *path, int mode)
{
    pbs_real_bind();
    if (space != BASE || (path && mode & DEEPBIND))
        bound_past_us();
    return (void *)real.dlmopen;
}

__asm__(".text\n"
        ".globl dlopen\n"
        ".type dlopen, @function\n"
        "dlopen:\n"
        "    push %rdi\n"
        "    push %rsi\n"
        "    sub $8, %rsp\n"
        "    call pbs_dlopen_prepare\n"
        "    add $8, %rsp\n"
        "    pop %rsi\n"
        "    pop %rdi\n"
        "    jmp *%rax\n"
        ".size dlopen, .-dlopen\n"
        ".globl dlmopen\n"
        ".type dlmopen, @function\n"
        "dlmopen:\n"
        "    push %rdi\n"
        "    push %rsi\n"
        "    push %rdx\n"
        "    call pbs_dlmopen_prepare\n"
        "    pop %rdx\n"
        "    pop %rsi\n"
        "    pop %rdi\n"
        "    jmp *%rax\n"
        ".size dlmopen, .-dlmopen\n");
