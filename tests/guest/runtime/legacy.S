/* Protected mode without long mode, for tests of 32-bit paging, tasks, virtual-8086 and real mode: from 64-bit mode there,
 * and back with the first trap. See legacy_run in guest.h. */
#include "layout.h"

#define MSR_EFER 0xc0000080

/* void legacy_enter(void): takes what legacy_* variables say. */
    .text
    .code64
    .globl legacy_enter
legacy_enter:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, legacy_saved_rsp
    pushq $KERNEL_CS32
    pushq $1f
    lretq
    .code32
1:  movl $KERNEL_DS, %eax
    movl %eax, %ss
    movl %eax, %ds /* null after a return to user mode */
    movl %eax, %es
    movl $legacy_stack_top, %esp
    movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0
    movl $MSR_EFER, %ecx
    rdmsr
    andl $~0x900, %eax
    orl legacy_efer, %eax
    wrmsr
    movl legacy_cr4, %eax
    movl %eax, %cr4
    movl legacy_cr3, %eax
    movl %eax, %cr3
    lidt legacy_idt_pointer
    movl legacy_cr0, %eax
    movl %eax, %cr0
    jmp 1f
1:  movl $TSS32_SELECTOR, %eax
    ltr %ax
    movl %ss, %eax
    movl %eax, %ds
    movl %eax, %es
    /* The start frame: 8 registers as of PUSHA, then what IRET takes. */
    movl legacy_start, %esp
    popal
    .globl legacy_iret
legacy_iret:
    iretl

/* Traps: the frame stays on the stack of whoever was interrupted, 'legacy_frame' tells C where. */
    .altmacro
    .macro STUB32 vector
    .align 16
    .if (\vector == 8) || (\vector >= 10 && \vector <= 14) || (\vector == 17)
    .else
    pushl $0
    .endif
    pushl $\vector
    jmp legacy_trap
    .endm
    .align 16
    .globl legacy_stubs
legacy_stubs:
    .set i, 0
    .rept 256
    STUB32 %i
    .set i, i + 1
    .endr

    .globl legacy_trap
legacy_trap:
    pushal
    pushl %ds
    pushl %es
    movl $KERNEL_DS, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %esp, legacy_frame
    movl %cr2, %eax
    movl %eax, legacy_cr2
    movl %cr0, %eax
    movl %eax, legacy_last_cr0
    str %ax
    movw %ax, legacy_last_tr
    cld
    movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0
    movl $KERNEL_DS, %eax
    movl %eax, %ss
    movl $legacy_stack_top, %esp
    call enter_long_mode
    .code64
    movq legacy_saved_rsp, %rsp
    lidt idt_pointer
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

    .bss
    .align 4096
legacy_stack: .skip 4096
    .globl legacy_stack_top
legacy_stack_top:
legacy_saved_rsp: .quad 0

    .section .note.GNU-stack, "", @progbits
