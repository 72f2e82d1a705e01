/*
 * vfork: parent and child share memory and stack until the child execs or ends, so the call cannot
 * be wrapped in C: the frame that it would return to is gone when the parent comes back. This is the
 * system call itself, its return address kept in a register; before it the parent cancels its
 * requests and shuts the gate, which it opens when it is back; one word says in whose context this
 * thread runs.
 */
#include <errno.h>

#include "life.h"
#include "proc.h"

__attribute__((used)) void pbs_vfork_prepare(void);
void pbs_vfork_prepare(void)
{
    pbs_proc_before_spawn();
}

/* The child has an image of its own now, or has ended, or was never made. */
__attribute__((used)) long pbs_vfork_parent(long r);
long pbs_vfork_parent(long r)
{
    pbs_proc_after_spawn();
    if (r >= 0)
        return r;
    errno = (int)-r;
    return -1;
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
        "    mov %rax, %rdi\n"
        "    jmp pbs_vfork_parent\n"
        ".size vfork, .-vfork\n"
        ".size __vfork, .-__vfork\n");
