/* The interrupt table of 64-bit mode and what happens to each trap: a hook, the end of tried code, or the end of the program. */
#include "guest.h"

#define STUB_SIZE  16
#define STACK_SIZE 8192
#define IST_TRAP   1 /* exceptions have a stack of their own, so that tests may break RSP */
#define IST_NMI    2
#define IST_DF     3

extern char trap_stubs[];
void trap_init(void);
void trap_dispatch(struct trap_frame *frame);

struct trap_frame trap;
uint64_t trap_cr2, trap_dr6, trap_start, trap_resume, trap_resume_rsp;
trap_hook_fn trap_hook[256];
struct gate idt[256] __attribute__((aligned(16)));
struct table_pointer idt_pointer = {.limit = sizeof(idt) - 1};
struct tss tss;
struct tss32 tss32;
static uint8_t stacks[4][STACK_SIZE] __attribute__((aligned(16)));
static uint8_t stack32[STACK_SIZE] __attribute__((aligned(16)));

struct gate gate_make(uint64_t offset, uint16_t selector, uint8_t ist, uint8_t type)
{
    return (struct gate){
        .low = (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)ist << 32 |
               (uint64_t)type << 40 | ((offset >> 16) & 0xffff) << 48,
        .high = offset >> 32,
    };
}

void trap_init(void)
{
    for (unsigned vector = 0; vector < 256; vector++) {
        unsigned ist = vector >= 32    ? 0
                       : vector == NMI ? IST_NMI
                       : vector == DF  ? IST_DF
                                       : IST_TRAP;
        bool is_open = vector == BP || vector == OF || vector == CALL_VECTOR;
        idt[vector] = gate_make((uintptr_t)trap_stubs + vector * STUB_SIZE, KERNEL_CS, (uint8_t)ist,
                                is_open ? 0xee : 0x8e);
    }
    idt_pointer.base = (uintptr_t)idt;
    asm volatile("lidt %0" ::"m"(idt_pointer));
    tss.rsp[0] = (uintptr_t)(stacks[0] + STACK_SIZE);
    tss.ist[IST_TRAP - 1] = (uintptr_t)(stacks[1] + STACK_SIZE);
    tss.ist[IST_NMI - 1] = (uintptr_t)(stacks[2] + STACK_SIZE);
    tss.ist[IST_DF - 1] = (uintptr_t)(stacks[3] + STACK_SIZE);
    tss.io_map_offset = offsetof(struct tss, io_map);
    memset(tss.io_map, 0xff, sizeof(tss.io_map));
    gdt[TSS_SELECTOR / 8] = DESCRIPTOR((uintptr_t)&tss, sizeof(tss) - 1, 0x89, 0);
    gdt[TSS_SELECTOR / 8 + 1] = (uintptr_t)&tss >> 32;
    tss32.esp0 = (uint32_t)(uintptr_t)(stack32 + STACK_SIZE);
    tss32.ss0 = KERNEL_DS;
    tss32.io_map_offset = sizeof(tss32);
    gdt[TSS32_SELECTOR / 8] = DESCRIPTOR((uintptr_t)&tss32, sizeof(tss32) - 1, 0x89, 0);
    asm volatile("ltr %w0" ::"r"(TSS_SELECTOR));
}

static void report_unexpected(const struct trap_frame *frame)
{
    print_text("FAIL unexpected trap ");
    print_decimal(frame->vector);
    print_text(" error ");
    print_hex(frame->error);
    print_text(" rip ");
    print_hex(frame->rip);
    print_text(" cs ");
    print_hex(frame->cs);
    print_text(" rsp ");
    print_hex(frame->rsp);
    print_text(" cr2 ");
    print_hex(READ_CR(2));
    print_text("\n");
    guest_exit(false);
}

void trap_dispatch(struct trap_frame *frame)
{
    if (trap_hook[frame->vector]) {
        trap_hook[frame->vector](frame);
        return;
    }
    if (trap_resume == 0) {
        report_unexpected(frame);
    }
    trap = *frame;
    trap_cr2 = READ_CR(2);
    trap_dr6 = READ_DR(6);
    frame->rip = trap_resume;
    frame->rsp = trap_resume_rsp;
    frame->cs = KERNEL_CS;
    frame->ss = KERNEL_DS;
    frame->rflags = 2;
    trap_resume = 0;
}

bool check_trap(const char *name, unsigned vector, uint64_t error)
{
    return check_equal(name, (uint64_t)vector << 32 | error, trap.vector << 32 | trap.error);
}

bool check_fault(const char *name, unsigned vector, uint64_t error)
{
    if (!check_trap(name, vector, error)) {
        return false;
    }
    if (trap.rip != trap_start) {
        return check_equal(name, trap_start, trap.rip);
    }
    return true;
}

struct trap_frame frame_kernel(void)
{
    return (struct trap_frame){
        .rip = USER_CODE, .cs = KERNEL_CS, .rflags = 2, .rsp = USER_STACK, .ss = KERNEL_DS};
}

struct trap_frame frame_user(void)
{
    return (struct trap_frame){
        .rip = USER_CODE, .cs = USER_CS, .rflags = 2, .rsp = USER_STACK, .ss = USER_DS};
}

struct trap_frame frame_compat(bool is_user)
{
    struct trap_frame frame = is_user ? frame_user() : frame_kernel();
    frame.cs = is_user ? USER_CS32 : KERNEL_CS32;
    return frame;
}
