/* A tiny VM for tests of the software engine: memory, a few vCPUs, ports that record; long mode set up on request.
 * A guest ends with OUT to port 0xf4 (its AL is kept) or a triple fault. */
#ifndef TESTS_UNIT_ENGINE_SOFT_GUEST_H
#define TESTS_UNIT_ENGINE_SOFT_GUEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/x86/state.h"
#include "engine/engine.h"
#include "engine/soft/soft.h"

#define GUEST_SIZE    (16u << 20)
#define GUEST_CODE    0x10000u
#define GUEST_STACK   0x80000u
#define GUEST_GDT     0x1000u
#define GUEST_IDT     0x2000u
#define GUEST_TSS     0x3000u
#define GUEST_PML4    0x4000u
#define GUEST_EXIT    0xf4
#define GUEST_CS      0x08
#define GUEST_DS      0x10
#define GUEST_CS_USER 0x23
#define GUEST_DS_USER 0x1b

struct soft_guest {
    struct guest_memory *memory;
    struct vm *vm;
    struct vcpu *vcpu[4];
    uint8_t exit_value;
    uint32_t port_value;
    uint64_t mmio_gpa, mmio_value;
    unsigned mmio_size;
    int interrupt; /* next vector for the APIC to give, -1: none */
};

static uint64_t guest_pio_read(void *ctx, uint32_t vcpu, uint16_t port, unsigned size)
{
    struct soft_guest *g = ctx;
    return g->port_value;
}

static void guest_pio_write(void *ctx, uint32_t vcpu, uint16_t port, unsigned size, uint32_t value)
{
    struct soft_guest *g = ctx;
    if (port == GUEST_EXIT) {
        g->exit_value = (uint8_t)value;
        soft_engine_ops.vcpu_kick(g->vcpu[vcpu]);
    } else {
        g->port_value = value;
    }
}

static uint64_t guest_mmio_read(void *ctx, uint32_t vcpu, uint64_t gpa, unsigned size)
{
    struct soft_guest *g = ctx;
    return gpa == g->mmio_gpa ? g->mmio_value : UINT64_MAX;
}

static void guest_mmio_write(void *ctx, uint32_t vcpu, uint64_t gpa, unsigned size, uint64_t value)
{
    struct soft_guest *g = ctx;
    g->mmio_gpa = gpa;
    g->mmio_size = size;
    g->mmio_value = value;
}

static int guest_acknowledge(void *ctx, uint32_t vcpu)
{
    struct soft_guest *g = ctx;
    int vector = g->interrupt;
    g->interrupt = -1;
    return vector;
}

static bool guest_has_interrupt(void *ctx, uint32_t vcpu)
{
    return ((struct soft_guest *)ctx)->interrupt >= 0;
}

static void guest_start_with(struct soft_guest *g, uint32_t vcpu_count, const char *options)
{
    struct error err = {0};
    struct x86_cpuid cpuid;
    memset(g, 0, sizeof(*g));
    g->interrupt = -1;
    assert_int_equal(guest_memory_create(&g->memory, &err), 0);
    assert_int_equal(guest_memory_add(g->memory, 0, GUEST_SIZE, false, false, &err), 0);
    struct vm_config config = {
        .options = options,
        .vcpu_count = vcpu_count,
        .memory = g->memory,
        .callbacks = {.ctx = g,
                      .pio_read = guest_pio_read,
                      .pio_write = guest_pio_write,
                      .mmio_read = guest_mmio_read,
                      .mmio_write = guest_mmio_write,
                      .apic_acknowledge = guest_acknowledge,
                      .apic_has_interrupt = guest_has_interrupt},
    };
    assert_int_equal(soft_engine_ops.supported_cpuid(&cpuid, &err), 0);
    assert_int_equal(soft_engine_ops.vm_create(&config, &g->vm, &err), 0);
    for (uint32_t i = 0; i < vcpu_count; i++) {
        assert_int_equal(soft_engine_ops.vcpu_create(g->vm, i, &cpuid, &g->vcpu[i], &err), 0);
    }
}

static inline void guest_start(struct soft_guest *g, uint32_t vcpu_count)
{
    guest_start_with(g, vcpu_count, NULL);
}

static void guest_end(struct soft_guest *g)
{
    for (size_t i = 0; i < 4; i++) {
        soft_engine_ops.vcpu_destroy(g->vcpu[i]);
    }
    soft_engine_ops.vm_destroy(g->vm);
    guest_memory_destroy(g->memory);
}

static void guest_put(struct soft_guest *g, uint64_t gpa, const void *data, size_t size)
{
    assert_true(guest_memory_write(g->memory, gpa, data, size));
}

static void guest_put64(struct soft_guest *g, uint64_t gpa, uint64_t value)
{
    guest_put(g, gpa, &value, sizeof(value));
}

static inline uint64_t guest_get64(struct soft_guest *g, uint64_t gpa)
{
    uint64_t value = 0;
    assert_true(guest_memory_read(g->memory, gpa, &value, sizeof(value)));
    return value;
}

static inline void guest_gate(struct soft_guest *g, unsigned vector, uint64_t handler, unsigned ist,
                              unsigned dpl)
{
    uint64_t low = (handler & 0xffff) | (uint64_t)GUEST_CS << 16 | (uint64_t)ist << 32 |
                   (uint64_t)(0x8e | dpl << 5) << 40 | (handler & 0xffff0000) << 32;
    guest_put64(g, GUEST_IDT + vector * 16, low);
    guest_put64(g, GUEST_IDT + vector * 16 + 8, handler >> 32);
}

/* Long mode at GUEST_CODE, CPL 0: all memory mapped 1:1 by 4-KiB pages of user rights from GUEST_PML4 on (tables up to 0xf000). */
static inline void guest_long_mode(struct soft_guest *g, uint32_t index, const void *code,
                                   size_t size, struct x86_state *state)
{
    struct error err = {0};
    guest_put(g, GUEST_CODE, code, size);
    guest_put64(g, GUEST_GDT + 0x08, 0x00af9b000000ffff);
    guest_put64(g, GUEST_GDT + 0x10, 0x00cf93000000ffff);
    guest_put64(g, GUEST_GDT + 0x18, 0x00cff3000000ffff);
    guest_put64(g, GUEST_GDT + 0x20, 0x00affb000000ffff);
    guest_put64(g, GUEST_TSS + 4, GUEST_STACK - 0x8000);
    guest_put64(g, GUEST_TSS + 36, GUEST_STACK - 0x4000);
    guest_put64(g, GUEST_PML4, (GUEST_PML4 + 0x1000) | 7);
    guest_put64(g, GUEST_PML4 + 0x1000, (GUEST_PML4 + 0x2000) | 7);
    for (uint64_t i = 0; i < 8; i++) {
        guest_put64(g, GUEST_PML4 + 0x2000 + i * 8, (GUEST_PML4 + 0x3000 + i * 0x1000) | 7);
        for (uint64_t n = 0; n < 512; n++) {
            guest_put64(g, GUEST_PML4 + 0x3000 + i * 0x1000 + n * 8, (i * 512 + n) << 12 | 7);
        }
    }
    assert_int_equal(soft_engine_ops.vcpu_get_state(g->vcpu[index], state, &err), 0);
    state->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP | X86_CR0_ET | X86_CR0_NE;
    state->cr3 = GUEST_PML4;
    state->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_PGE;
    state->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_SCE;
    state->rflags = X86_FLAG_ONE;
    state->rip = GUEST_CODE;
    state->gpr[X86_RSP] = GUEST_STACK;
    state->segment[X86_CS] =
        (struct x86_segment){.selector = GUEST_CS, .limit = UINT32_MAX, .attributes = 0xa09b};
    for (int i = 0; i < X86_SEGMENT_COUNT; i++) {
        if (i != X86_CS) {
            state->segment[i] = (struct x86_segment){
                .selector = GUEST_DS, .limit = UINT32_MAX, .attributes = 0xc093};
        }
    }
    state->gdtr = (struct x86_table){.base = GUEST_GDT, .limit = 0x2f};
    state->idtr = (struct x86_table){.base = GUEST_IDT, .limit = 0xfff};
    state->tr = (struct x86_segment){
        .selector = 0x28, .base = GUEST_TSS, .limit = 0x67, .attributes = 0x8b};
    state->activity = X86_ACTIVITY_RUNNING;
}

static inline enum vcpu_exit guest_run(struct soft_guest *g, uint32_t index,
                                       const struct x86_state *state, struct x86_state *out_state)
{
    struct error err = {0};
    assert_int_equal(soft_engine_ops.vcpu_set_state(g->vcpu[index], state, &err), 0);
    enum vcpu_exit exit = soft_engine_ops.vcpu_run(g->vcpu[index]);
    assert_int_equal(soft_engine_ops.vcpu_get_state(g->vcpu[index], out_state, &err), 0);
    return exit;
}

/* Assembles 'text' into the program under the name 'name', in the given mode of the assembler (".code64"). */
#define GUEST_CODE_BLOCK(name, mode, text)                                                         \
    extern const uint8_t name[], name##_end[];                                                     \
    __asm__(".pushsection .rodata\n" mode "\n" #name ":\n" text "\n" #name "_end:\n.code64\n"      \
            ".popsection\n")
#define GUEST_CODE_SIZE(name) ((size_t)(name##_end - name))

#endif
