/*
 * vfork: parent and child share memory and stack until the child execs or ends, so the call cannot
 * be wrapped in C: the frame that it would return to is gone when the parent comes back. This is the
 * system call itself, its return address kept in a register; before it the parent cancels its
 * requests, and after it one word says in whose context this thread runs.
 */
#include <errno.h>

#include "life.h"
#include "proc.h"

/* The parent is still whole here: as for fork, but the gate is open again at once. */
__attribute__((used)) void pbs_vfork_prepare(void);
void pbs_vfork_prepare(void)
{
    if (pbs_in_vfork_child)
        return;
    pbs_proc_before_fork();
    pbs_proc_after_fork_parent();
}

__attribute__((used)) void pbs_vfork_failed(int r);
void pbs_vfork_failed(int r)
{
    errno = -r;
}

__asm__(".text\n"
        ".globl vfork\n"
        ".type vfork, @function\n"
        ".globl __vfork\n"
        ".type __vfork, @function\n"
        "vfork:\n"
        "__vfork:\n"
        "    sub $8, %rsp\n"
        "    call pbs_vfork_prepare\n"
        "    add $8, %rsp\n"
        "    pop %rdi\n"
        "    mov pbs_in_vfork_child@gottpoff(%rip), %rdx\n"
        "    mov %fs:(%rdx), %esi\n" /* a child's own vfork: still a child when it comes back */
        "    mov $58, %eax\n"        /* __NR_vfork; keeps rdi, rsi and rdx */
        "    syscall\n"
        "    push %rdi\n"
        "    test %rax, %rax\n"
        "    jnz 1f\n"
        "    movl $1, %fs:(%rdx)\n"
        "    ret\n"
        "1:  mov %esi, %fs:(%rdx)\n"
        "    cmp $-4095, %rax\n"
        "    jae 2f\n"
        "    ret\n"
        "2:  mov %eax, %edi\n"
        "    sub $8, %rsp\n"
        "    call pbs_vfork_failed\n"
        "    add $8, %rsp\n"
        "    or $-1, %rax\n"
        "    ret\n"
        ".size vfork, .-vfork\n"
        ".size __vfork, .-__vfork\n");
