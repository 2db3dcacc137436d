/* Where guest programs start (PVH: 32-bit protected mode without paging), where further processors start, and where traps
 * of 64-bit mode arrive. */
#include "layout.h"

#define MSR_EFER 0xc0000080

    .section .note.pvh, "a", @note
    .align 4
    .long 4, 4, 18 /* sizes of name and value; XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long start32

    .section .text.start, "ax"
    .code32
    .globl start32
start32:
    cli
    cld
    movl $boot_stack_top, %esp
    /* The first 4 GiB in pages of 2 MiB; upper levels leave the user bit to the lower ones. */
    movl $boot_pdpt + 7, boot_pml4
    movl $boot_pd + 7, %eax
    movl $boot_pdpt, %edi
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $8, %edi
    loop 1b
    movl $0x83, %eax
    movl $boot_pd, %edi
    movl $2048, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 1b
    orl $4, boot_pd + (USER_BASE >> 21) * 8
    lgdt gdt_pointer
    call enter_long_mode
    .code64
    xorl %edi, %edi
    call runtime_main
1:  hlt
    jmp 1b

    .code32
/* Goes on behind the call in 64-bit mode with the boot page tables; needs the GDT loaded and paging off. */
    .globl enter_long_mode
enter_long_mode:
    popl %ebp
    movl $0x20, %eax /* PAE */
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $MSR_EFER, %ecx
    rdmsr
    andl $~0x500, %eax
    orl $0x901, %eax /* NXE, LME, SCE */
    wrmsr
    movl $0x80010033, %eax /* PG, WP, NE, ET, MP, PE */
    movl %eax, %cr0
    ljmpl $KERNEL_CS, $1f
    .code64
1:  movl $KERNEL_DS, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl %ebp, %ebp
    jmp *%rbp

/* Copied to TRAMPOLINE_GPA: real mode of a processor that a start-up IPI woke. */
    .code16
    .globl ap_trampoline, ap_trampoline_end
ap_trampoline:
    cli
    movw %cs, %ax
    movw %ax, %ds
    lgdtl 1f - ap_trampoline
    movl %cr0, %eax
    andl $0x9fffffff, %eax /* caches on: CD and NW are set after INIT */
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $KERNEL_CS32, $ap_start32
1:  .word GDT_SIZE - 1
    .long gdt
ap_trampoline_end:

    .code32
ap_start32:
    movl $KERNEL_DS, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl ap_stack, %esp
    call enter_long_mode
    .code64
    movl ap_stack, %esp
    lidt idt_pointer
    movl ap_index, %edi
    call ap_main
1:  hlt
    jmp 1b

/* One stub for each vector: completes the frame to a struct trap_frame. */
    .altmacro
    .macro STUB vector
    .align 16
    .if (\vector == 8) || (\vector >= 10 && \vector <= 14) || (\vector == 17) || (\vector == 21)
    .else
    pushq $0
    .endif
    pushq $\vector
    jmp trap_common
    .endm

    .text
    .align 16
    .globl trap_stubs
trap_stubs:
    .set i, 0
    .rept 256
    STUB %i
    .set i, i + 1
    .endr

trap_common:
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi
    call trap_dispatch
load_frame:
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rbp
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
    addq $16, %rsp
    .globl trap_iretq
trap_iretq:
    iretq

/* void trap_run(const struct trap_frame *start): returns at the next trap. */
    .globl trap_run
trap_run:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq $1f, trap_resume
    movq %rsp, trap_resume_rsp
    movq %rdi, %rsp
    jmp load_frame
1:  popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    movq $0, trap_resume
    ret

    .data
    .align 16
    .globl gdt, gdt_pointer
gdt:
    .quad 0
    .quad 0x00af9b000000ffff /* KERNEL_CS */
    .quad 0x00cf93000000ffff /* KERNEL_DS */
    .quad 0x00cf9b000000ffff /* KERNEL_CS32 */
    .quad 0x00cffb000000ffff /* USER_CS32 */
    .quad 0x00cff3000000ffff /* USER_DS */
    .quad 0x00affb000000ffff /* USER_CS */
    .quad 0x00009b000000ffff /* KERNEL_CS16 */
    .quad 0x000093000000ffff /* KERNEL_DS16 */
    .quad 0x00cf93000000ffff /* KERNEL_DS32 */
    .fill GDT_SIZE / 8 - 10, 8, 0
gdt_pointer:
    .word GDT_SIZE - 1
    .quad gdt

    .bss
    .align 4096
    .globl boot_pml4
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4 * 4096
boot_stack: .skip 32768
boot_stack_top:

    .section .note.GNU-stack, "", @progbits
