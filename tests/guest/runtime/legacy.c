/* The C side of legacy.S. */
#include "guest.h"

extern char legacy_stubs[];
extern char legacy_stack_top[];
void legacy_enter(void);

uint32_t legacy_cr0, legacy_cr3, legacy_cr4, legacy_efer, legacy_start, legacy_frame, legacy_cr2;
uint32_t legacy_last_cr0, legacy_es, legacy_ds;
uint16_t legacy_last_tr;
struct gate32 legacy_idt[256] __attribute__((aligned(16)));
struct table_pointer legacy_idt_pointer = {.limit = sizeof(legacy_idt) - 1};

/* What legacy_trap leaves. */
struct legacy_trap_frame {
    uint32_t es, ds;
    uint32_t edi, esi, ebp, reserved, ebx, edx, ecx, eax;
    uint32_t vector, error, eip, cs, eflags, esp, ss;
};

static void fill_idt(void)
{
    for (unsigned vector = 0; vector < 256; vector++) {
        uint32_t offset = (uint32_t)(uintptr_t)legacy_stubs + vector * 16;
        bool is_open = vector == BP || vector == OF || vector == CALL_VECTOR;
        /* A gate that a test has made stays. */
        if (legacy_idt[vector].high == 0) {
            legacy_idt[vector] =
                (struct gate32){.low = (offset & 0xffff) | KERNEL_CS32 << 16,
                                .high = (offset & 0xffff0000) | (is_open ? 0xee00u : 0x8e00u)};
        }
    }
    legacy_idt_pointer.base = (uintptr_t)legacy_idt;
}

void legacy_run(const struct legacy_mode *mode, const struct legacy_start *start)
{
    fill_idt();
    legacy_cr0 = mode->cr0;
    legacy_cr3 = mode->cr3;
    legacy_cr4 = mode->cr4;
    legacy_efer = mode->efer;
    /* IRET to the same level takes no stack: ESP is whatever the frame ends at, so the frame is put where code may push. */
    static uint8_t stack[4096] __attribute__((aligned(16)));
    uint8_t *place = stack + sizeof(stack) - 256;
    memcpy(place, start, sizeof(*start));
    legacy_start = (uint32_t)(uintptr_t)place;
    uint64_t cr4 = READ_CR(4), cr0 = READ_CR(0);
    gdt[TSS32_SELECTOR / 8] &= ~(2ull << 40); /* not busy */
    legacy_enter();
    gdt[TSS_SELECTOR / 8] &= ~(2ull << 40);
    asm volatile("ltr %w0" ::"r"(TSS_SELECTOR));
    WRITE_CR(4, cr4);
    WRITE_CR(0, cr0);
    const struct legacy_trap_frame *frame =
        (const struct legacy_trap_frame *)(uintptr_t)legacy_frame;
    bool has_stack = (frame->cs & 3) != 0 || (frame->eflags & BIT(17));
    trap = (struct trap_frame){
        .rax = frame->eax,
        .rbx = frame->ebx,
        .rcx = frame->ecx,
        .rdx = frame->edx,
        .rsi = frame->esi,
        .rdi = frame->edi,
        .rbp = frame->ebp,
        .vector = frame->vector,
        .error = frame->error,
        .rip = frame->eip,
        .cs = frame->cs & 0xffff,
        .rflags = frame->eflags,
        .rsp = has_stack ? frame->esp : (uint32_t)(uintptr_t)&frame->esp,
        .ss = has_stack ? frame->ss & 0xffff : KERNEL_DS,
    };
    legacy_es = frame->es & 0xffff;
    legacy_ds = frame->ds & 0xffff;
    trap_cr2 = legacy_cr2;
}
