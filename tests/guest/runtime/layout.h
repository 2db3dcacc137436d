/* Numbers that assembly and C share: selectors and places in guest memory. */
#ifndef GUEST_LAYOUT_H
#define GUEST_LAYOUT_H

/* The global descriptor table. SYSCALL wants KERNEL_DS behind KERNEL_CS; SYSRET wants the three user selectors in this order. */
#define KERNEL_CS       0x08
#define KERNEL_DS       0x10
#define KERNEL_CS32     0x18
#define USER_CS32       0x23
#define USER_DS         0x2b
#define USER_CS         0x33
#define KERNEL_CS16     0x38 /* base 0, limit 64 KiB */
#define KERNEL_DS16     0x40
#define KERNEL_DS32     0x48 /* 32-bit stack and data: KERNEL_DS is the same, kept apart for tests */
#define TEST_SELECTOR   0x50 /* from here to TSS_SELECTOR: for the tests' own descriptors */
#define TSS_SELECTOR    0x100
#define TSS32_SELECTOR  0x110
#define AP_TSS_SELECTOR 0x120 /* 16 bytes for each processor */
#define GDT_SIZE        0x200

#define TRAMPOLINE_GPA 0x10000 /* where started processors begin; also for tests in real mode */
#define LOW_GPA        0x20000 /* to 0x30000: for tests that need memory below 1 MiB */
#define HEAP_GPA       0x1000000
#define HEAP_END_GPA   0x2000000
#define USER_BASE      0x2000000 /* 2 MiB that user mode may access: code, data, stack */
#define USER_CODE      0x2000000
#define USER_DATA      0x2040000
#define USER_STACK     0x2100000 /* its top */
#define SCRATCH_GPA    0x2400000 /* to 64 MiB: nobody's */

#define CPU_MAX 8

#endif
