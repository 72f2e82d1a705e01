#include "enter_call.h"

/*
 * The system call, after a last look at *signal. A handler that runs before the syscall instruction
 * has executed makes it not happen: its trampoline moves the program counter from anywhere in
 * [pbs_enter_begin, pbs_enter_end) to pbs_enter_abort (pbs_enter_fix_pc). So no signal is slept
 * over, and in_enter, which the trampoline clears, is never clear inside the kernel.
 */
__asm__(".text\n"
        ".globl pbs_enter_call\n"
        ".hidden pbs_enter_call\n"
        ".type pbs_enter_call, @function\n"
        "pbs_enter_call:\n"
        ".cfi_startproc\n"
        "    mov %rdi, %rax\n"
        "    mov %rsi, %rdi\n"
        "    mov %rdx, %rsi\n"
        "    mov %rcx, %rdx\n"
        "    mov %r8, %r10\n"
        "    mov %r9, %r8\n"
        "    mov 8(%rsp), %r9\n"
        "    mov 16(%rsp), %r11\n"
        ".globl pbs_enter_begin\n"
        ".hidden pbs_enter_begin\n"
        "pbs_enter_begin:\n"
        "    cmpl $0, (%r11)\n"
        "    jne pbs_enter_abort\n"
        "    syscall\n"
        ".globl pbs_enter_end\n"
        ".hidden pbs_enter_end\n"
        "pbs_enter_end:\n"
        "    ret\n"
        ".globl pbs_enter_abort\n"
        ".hidden pbs_enter_abort\n"
        "pbs_enter_abort:\n"
        "    mov $-4, %rax\n" /* -EINTR */
        "    ret\n"
        ".cfi_endproc\n"
        ".size pbs_enter_call, .-pbs_enter_call\n");
