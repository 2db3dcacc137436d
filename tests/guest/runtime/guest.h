/* What guest programs are written with: checks, traps, page tables, ports, APICs, further processors.
 *
 * A program is a file with 'void guest_main(void)'. It begins in 64-bit mode at CPL 0 with interrupts off and 4 GiB identity
 * mapped (supervisor; USER_BASE's 2 MiB also for user mode). When guest_main returns, the VM ends. */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

#define BIT(n)             (1ull << (n))
#define ARRAY_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* --- print.c --- */

void guest_main(void);
void print_text(const char *text);
void print_hex(uint64_t value);
void print_decimal(uint64_t value);
/* "ok NAME", or "FAIL NAME: expected E, got G". Returns whether they were equal. */
bool check_equal(const char *name, uint64_t expected, uint64_t got);
bool check(const char *name, bool is_true);
/* For values of which vendors have two. */
bool check_either(const char *name, uint64_t expected, uint64_t also_right, uint64_t got);
bool check_range(const char *name, uint64_t least, uint64_t most, uint64_t got);
/* What cannot be tested here, and why. Not a failure. */
void check_skipped(const char *name, const char *why);
/* Ends the VM; status 1 for success, 3 otherwise. */
_Noreturn void guest_exit(bool is_success);
_Noreturn void guest_fail(const char *why);
void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);
int memcmp(const void *a, const void *b, size_t size);

/* --- trap.c: exceptions and interrupts --- */

enum vector {
    DE = 0,
    DB = 1,
    NMI = 2,
    BP = 3,
    OF = 4,
    BR = 5,
    UD = 6,
    NM = 7,
    DF = 8,
    TS = 10,
    NP = 11,
    SS = 12,
    GP = 13,
    PF = 14,
    MF = 16,
    AC = 17,
    MC = 18,
    XM = 19,
    CALL_VECTOR = 0x80, /* INT from user mode is allowed: how test code ends on purpose */
    NO_TRAP = 0x100,
};

struct trap_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector, error; /* error 0 where there is none */
    uint64_t rip, cs, rflags, rsp, ss;
};

/* The last trap that ended a TRY, trap_run or legacy_run. */
extern struct trap_frame trap;
extern uint64_t trap_cr2, trap_dr6;
/* Where the tried code began: faults of a single instruction have their RIP there. */
extern uint64_t trap_start;
extern uint64_t trap_resume, trap_resume_rsp;
extern char trap_iretq[];

/* Handlers by vector; the frame may be changed. Called instead of ending a TRY. */
typedef void (*trap_hook_fn)(struct trap_frame *frame);
extern trap_hook_fn trap_hook[256];

/* Runs instructions until their end or the first trap; 'trap.vector' is NO_TRAP if there was none. The operands of an asm
 * statement follow the text. Not for code that changes the privilege level, see trap_run. */
#define TRY(code, ...)                                                                             \
    do {                                                                                           \
        trap.vector = NO_TRAP;                                                                     \
        trap.error = 0;                                                                            \
        asm volatile("movq $771f, trap_resume\n\tmovq %%rsp, trap_resume_rsp\n\t"                  \
                     "movq $770f, trap_start\n770:\t" code "\n771:" __VA_ARGS__);                  \
        asm volatile("cld" ::: "memory");                                                          \
        trap_resume = 0;                                                                           \
    } while (0)

/* Is the last trap this one? Reports vector and error code as one number: vector << 32 | error. */
bool check_trap(const char *name, unsigned vector, uint64_t error);
/* The same, and that RIP is that of the first tried instruction. */
bool check_fault(const char *name, unsigned vector, uint64_t error);

/* Loads all registers and goes there (IRETQ); returns at the next trap without hook, which is in 'trap'. */
void trap_run(const struct trap_frame *start);
/* Start frames. Code begins at USER_CODE, where trap_load puts it; other registers are 0. */
struct trap_frame frame_kernel(void);
struct trap_frame frame_user(void);
struct trap_frame frame_compat(bool is_user);

/* Code for other modes or places, defined at file scope: SNIPPET(name, ".code64", "int $0x80"). */
#define SNIPPET(name, mode, code)                                                                  \
    extern const uint8_t name[], name##_end[];                                                     \
    asm(".pushsection .snippets, \"ax\"\n" mode "\n" #name ":\n" code "\n" #name                   \
        "_end:\n.code64\n.popsection")
#define LOAD_SNIPPET(name, address)                                                                \
    (void)memcpy((void *)(uintptr_t)(address), name, (size_t)(name##_end - name))

/* Descriptors. */
extern uint64_t gdt[GDT_SIZE / 8];
struct table_pointer {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));
extern const struct table_pointer gdt_pointer;
extern struct table_pointer idt_pointer;
struct gate {
    uint64_t low, high;
};
extern struct gate idt[256];
struct tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7];
    uint64_t reserved2;
    uint16_t reserved3, io_map_offset;
    uint8_t io_map[8193];
} __attribute__((packed));
extern struct tss tss;
struct tss32 {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp,
        esi, edi, es, cs, ss, ds, fs, gs, ldt;
    uint16_t trap, io_map_offset;
};
extern struct tss32 tss32;
#define DESCRIPTOR(base, limit, access, flags)                                                     \
    (((uint64_t)(limit)&0xffff) | ((uint64_t)(base)&0xffffff) << 16 | (uint64_t)(access) << 40 |   \
     (((uint64_t)(limit) >> 16) & 0xf) << 48 | (uint64_t)(flags) << 52 |                           \
     (((uint64_t)(base) >> 24) & 0xff) << 56)
/* type: 0x8e interrupt gate, 0x8f trap gate; | dpl << 5. */
struct gate gate_make(uint64_t offset, uint16_t selector, uint8_t ist, uint8_t type);

/* --- legacy.c: protected mode without long mode --- */

struct legacy_start {
    uint32_t edi, esi, ebp, reserved, ebx, edx, ecx, eax;
    uint32_t eip, cs, eflags, esp, ss; /* the last two only for CS of CPL 3 or EFLAGS.VM */
    uint32_t es, ds, fs, gs;           /* for EFLAGS.VM */
};
struct legacy_mode {
    uint32_t cr0, cr3, cr4, efer; /* efer: only NXE */
};
/* Leaves long mode, starts, returns with the first trap in 'trap' (rax.. rsp in their low halves). The tables must map the
 * program identically. */
void legacy_run(const struct legacy_mode *mode, const struct legacy_start *start);
extern uint32_t legacy_last_cr0;
extern uint16_t legacy_last_tr;
extern uint32_t legacy_es, legacy_ds;
extern struct gate32 {
    uint32_t low, high;
} legacy_idt[256];
#define LEGACY_PLAIN                                                                               \
    {                                                                                              \
        .cr0 = 0x31                                                                                \
    }

/* --- paging.c --- */

#define PTE_P    BIT(0)
#define PTE_W    BIT(1)
#define PTE_U    BIT(2)
#define PTE_A    BIT(5)
#define PTE_D    BIT(6)
#define PTE_PS   BIT(7)
#define PTE_G    BIT(8)
#define PTE_NX   BIT(63)
#define PAGE     4096ull
#define TEST_GVA 0x8000000000ull /* nothing is mapped from here on */

/* Error code bits of #PF. */
#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_R 8u
#define PF_I 16u

/* Zeroed page frames; never freed. */
uint64_t page_alloc(void);
/* The entry of level 1 (4 KiB) .. 4 for an address in the tables of CR3; makes those above it. */
uint64_t *page_entry(uint64_t gva, unsigned level);
/* Writes an entry and flushes the address. */
void page_map(uint64_t gva, uint64_t gpa_and_flags, unsigned level);

/* --- platform.c: ACPI, APICs, clocks, processors --- */

extern unsigned cpu_count;
extern uint16_t pm_timer_port; /* 0: none */
extern uint64_t ecam_gpa;      /* 0: none */
extern uint64_t ioapic_gpa;
extern uint32_t cpu_apic_id[CPU_MAX];
void platform_init(void);
/* Of the TSC, measured by the PM timer (or the RTC). */
uint64_t tsc_hz(void);
void wait_ns(uint64_t ns);

/* Registers by their xAPIC offset, in whatever mode the APIC is. ICR: 64 bits with the destination as in x2APIC mode. */
uint32_t apic_read(uint32_t offset);
void apic_write(uint32_t offset, uint32_t value);
void apic_send(uint32_t icr, uint32_t destination);
void apic_enable(void); /* SVR, spurious vector 0xff */
bool apic_is_x2(void);
uint32_t ioapic_read(uint8_t reg);
void ioapic_write(uint8_t reg, uint32_t value);

/* Starts all further processors; false if one did not come within a second. They wait for work. */
bool smp_start(void);
/* Runs fn(arg) on a processor, 1 .. cpu_count-1. */
void smp_run(unsigned cpu, void (*fn)(void *arg), void *arg);
bool smp_is_done(unsigned cpu);
void smp_wait(unsigned cpu);

/* --- instructions --- */

static inline void outb(uint16_t port, uint8_t value)
{
    asm volatile("outb %0, %1" ::"a"(value), "Nd"(port) : "memory");
}
static inline uint8_t inb(uint16_t port)
{
    uint8_t value;
    asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}
static inline void outw(uint16_t port, uint16_t value)
{
    asm volatile("outw %0, %1" ::"a"(value), "Nd"(port) : "memory");
}
static inline uint16_t inw(uint16_t port)
{
    uint16_t value;
    asm volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}
static inline void outl(uint16_t port, uint32_t value)
{
    asm volatile("outl %0, %1" ::"a"(value), "Nd"(port) : "memory");
}
static inline uint32_t inl(uint16_t port)
{
    uint32_t value;
    asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}
static inline uint64_t rdmsr(uint32_t msr)
{
    uint32_t low, high;
    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr) : "memory");
    return low | (uint64_t)high << 32;
}
static inline void wrmsr(uint32_t msr, uint64_t value)
{
    asm volatile("wrmsr" ::"a"((uint32_t)value), "d"((uint32_t)(value >> 32)), "c"(msr) : "memory");
}
static inline uint64_t rdtsc(void)
{
    uint32_t low, high;
    asm volatile("lfence; rdtsc" : "=a"(low), "=d"(high)::"memory");
    return low | (uint64_t)high << 32;
}
struct cpuid {
    uint32_t eax, ebx, ecx, edx;
};
static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid r;
    asm volatile("cpuid"
                 : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
                 : "a"(leaf), "c"(subleaf)
                 : "memory");
    return r;
}
#define READ_CR(n)                                                                                 \
    ({                                                                                             \
        uint64_t value_;                                                                           \
        asm volatile("movq %%cr" #n ", %0" : "=r"(value_)::"memory");                              \
        value_;                                                                                    \
    })
#define WRITE_CR(n, value) asm volatile("movq %0, %%cr" #n ::"r"((uint64_t)(value)) : "memory")
#define READ_DR(n)                                                                                 \
    ({                                                                                             \
        uint64_t value_;                                                                           \
        asm volatile("movq %%dr" #n ", %0" : "=r"(value_)::"memory");                              \
        value_;                                                                                    \
    })
#define WRITE_DR(n, value) asm volatile("movq %0, %%dr" #n ::"r"((uint64_t)(value)) : "memory")
static inline void invlpg(uint64_t gva)
{
    asm volatile("invlpg (%0)" ::"r"(gva) : "memory");
}
static inline void pause(void)
{
    asm volatile("pause" ::: "memory");
}
static inline uint64_t read64(uint64_t gva)
{
    return *(volatile uint64_t *)(uintptr_t)gva;
}
static inline void write64(uint64_t gva, uint64_t value)
{
    *(volatile uint64_t *)(uintptr_t)gva = value;
}
static inline uint32_t read32(uint64_t gva)
{
    return *(volatile uint32_t *)(uintptr_t)gva;
}
static inline void write32(uint64_t gva, uint32_t value)
{
    *(volatile uint32_t *)(uintptr_t)gva = value;
}

#endif
