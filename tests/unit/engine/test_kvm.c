/* Covers engine/kvm with toy guests of a few instructions. Exits 77 where KVM is not to be had. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/core/endian.h"
#include "engine/kvm/kvm.h"

#define MEMORY_SIZE 0xa0000ull
#define CODE        0x1000u
#define EXIT_PORT   0xf4
#define LAPIC_SVR   0xf0

static const struct engine_ops *const ops = &kvm_engine_ops;
static struct engine_probe probe;

/* One toy: a VM with a vCPU, and what it did to its board. A write to EXIT_PORT ends its run. */
static struct toy {
    struct guest_memory *memory;
    struct vm *vm;
    struct vcpu *vcpu;
    uint64_t log[64]; /* address << 32 | size << 24 | low bits of the value */
    uint64_t value[64];
    size_t count;
    uint64_t answer; /* what reads give */
} toy;

static void record(uint64_t address, unsigned size, uint64_t value)
{
    assert_true(toy.count < ARRAY_COUNT(toy.log));
    toy.log[toy.count] = address << 8 | size;
    toy.value[toy.count++] = value;
}

static uint64_t toy_pio_read(void *ctx, uint32_t vcpu, uint16_t port, unsigned size)
{
    return toy.answer++;
}

static void toy_pio_write(void *ctx, uint32_t vcpu, uint16_t port, unsigned size, uint32_t value)
{
    if (port == EXIT_PORT) {
        ops->vcpu_kick(toy.vcpu);
    } else {
        record(port, size, value);
    }
}

static uint64_t toy_mmio_read(void *ctx, uint32_t vcpu, uint64_t gpa, unsigned size)
{
    return toy.answer++;
}

static void toy_mmio_write(void *ctx, uint32_t vcpu, uint64_t gpa, unsigned size, uint64_t value)
{
    record(gpa, size, value);
}

static int toy_create(void **state)
{
    memset(&toy, 0, sizeof(toy));
    struct error err = {0};
    assert_int_equal(guest_memory_create(&toy.memory, &err), 0);
    assert_int_equal(guest_memory_add(toy.memory, 0, MEMORY_SIZE, false, false, &err), 0);
    struct vm_config config = {
        .vcpu_count = 1,
        .memory = toy.memory,
        .callbacks = {.pio_read = toy_pio_read,
                      .pio_write = toy_pio_write,
                      .mmio_read = toy_mmio_read,
                      .mmio_write = toy_mmio_write},
    };
    int rc = ops->vm_create(&config, &toy.vm, &err);
    if (rc < 0) {
        print_error("%s\n", err.text);
        return -1;
    }
    struct x86_cpuid supported, hypervisor, cpuid;
    struct x86_cpuid_topology topology = {.vcpu_count = 1};
    assert_int_equal(ops->supported_cpuid(&supported, &err), 0);
    ops->hypervisor_cpuid(&hypervisor);
    assert_int_equal(x86_cpuid_build("host", &supported, &hypervisor, &topology, &cpuid, &err), 0);
    rc = ops->vcpu_create(toy.vm, 0, &cpuid, &toy.vcpu, &err);
    if (rc < 0) {
        print_error("%s\n", err.text);
        return -1;
    }
    return 0;
}

static int toy_destroy(void **state)
{
    ops->vcpu_destroy(toy.vcpu);
    ops->vm_destroy(toy.vm);
    guest_memory_destroy(toy.memory);
    return 0;
}

static struct x86_state state_of_vcpu(void)
{
    struct x86_state state;
    struct error err = {0};
    if (ops->vcpu_get_state(toy.vcpu, &state, &err) < 0) {
        fail_msg("%s", err.text);
    }
    return state;
}

static void put_state(const struct x86_state *state)
{
    struct error err = {0};
    if (ops->vcpu_set_state(toy.vcpu, state, &err) < 0) {
        fail_msg("%s", err.text);
    }
}

/* Puts code at CODE, and the vCPU there in real mode with all segments at 0 and its APIC enabled. */
static void load(const void *code, size_t size)
{
    assert_true(guest_memory_write(toy.memory, CODE, code, size));
    struct x86_state state;
    x86_state_reset(&state, true, false);
    put_state(&state);
    state = state_of_vcpu();
    state.segment[X86_CS].base = 0;
    state.segment[X86_CS].selector = 0;
    state.rip = CODE;
    state.gpr[X86_RSP] = 0x8000;
    le32_put(state.lapic + LAPIC_SVR, 0x1ff);
    put_state(&state);
}

static void run_until_kicked(void)
{
    enum vcpu_exit result = ops->vcpu_run(toy.vcpu);
    if (result != VCPU_EXIT_KICKED) {
        struct error err = {0};
        ops->vcpu_error(toy.vcpu, &err);
        fail_msg("exit %d: %s", (int)result, err.text);
    }
}

#define LOAD(...)                                                                                  \
    do {                                                                                           \
        static const uint8_t code[] = {__VA_ARGS__};                                               \
        load(code, sizeof(code));                                                                  \
    } while (0)
#define EXIT 0xe6, EXIT_PORT /* out 0xf4, al */

static void ports_of_all_sizes(void **state)
{
    LOAD(0xba, 0xf8, 0x03,             /* mov dx, 0x3f8 */
         0x66, 0xb8, 4, 3, 2, 1,       /* mov eax, 0x01020304 */
         0xee, 0xef, 0x66, 0xef,       /* out dx, al; ax; eax */
         0xec, 0xee,                   /* in al, dx; out dx, al */
         0x66, 0xed, 0x66, 0xef, EXIT, /* in eax, dx; out dx, eax */
         0xf4);
    toy.answer = 0x1234567f;
    run_until_kicked();
    assert_int_equal(toy.count, 5);
    assert_int_equal(toy.log[0], 0x3f801);
    assert_int_equal(toy.value[0], 4);
    assert_int_equal(toy.log[1], 0x3f802);
    assert_int_equal(toy.value[1], 0x304);
    assert_int_equal(toy.log[2], 0x3f804);
    assert_int_equal(toy.value[2], 0x1020304);
    assert_int_equal(toy.value[3], 0x7f);
    assert_int_equal(toy.value[4], 0x12345680);
    /* The OUT to the exit port is complete. */
    assert_int_equal(state_of_vcpu().rip, CODE + 21);
}

static void string_io_counts(void **state)
{
    LOAD(0xfc, 0xbe, 0x00, 0x20,       /* cld; mov si, 0x2000 */
         0xbf, 0x00, 0x30,             /* mov di, 0x3000 */
         0xb9, 5, 0, 0xba, 0x34, 0x12, /* mov cx, 5; mov dx, 0x1234 */
         0xf3, 0x6e,                   /* rep outsb */
         0xb9, 3, 0, 0xf3, 0x6d,       /* mov cx, 3; rep insw */
         EXIT);
    assert_true(guest_memory_write(toy.memory, 0x2000, "hello", 5));
    toy.answer = 0x4141;
    run_until_kicked();
    assert_int_equal(toy.count, 5);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(toy.log[i], 0x123401);
        assert_int_equal(toy.value[i], (uint8_t) "hello"[i]);
    }
    uint16_t words[3];
    assert_true(guest_memory_read(toy.memory, 0x3000, words, sizeof(words)));
    assert_int_equal(words[0], 0x4141);
    assert_int_equal(words[2], 0x4143);
}

static void memory_mapped_io(void **state)
{
    LOAD(0xb8, 0x00, 0xd0, 0x8e, 0xc0,             /* mov ax, 0xd000; mov es, ax */
         0x26, 0xc6, 0x06, 1, 0, 0x55,             /* mov byte es:[1], 0x55 */
         0x26, 0xc7, 0x06, 2, 0, 0x34, 0x12,       /* mov word es:[2], 0x1234 */
         0x66, 0x26, 0xc7, 0x06, 4, 0, 8, 7, 6, 5, /* mov dword es:[4], 0x05060708 */
         0x26, 0xa0, 8, 0, 0x26, 0xa2, 9, 0,       /* mov al, es:[8]; mov es:[9], al */
         EXIT);
    toy.answer = 0x77;
    run_until_kicked();
    assert_int_equal(toy.count, 4);
    assert_int_equal(toy.log[0], 0xd000101);
    assert_int_equal(toy.value[0], 0x55);
    assert_int_equal(toy.log[1], 0xd000202);
    assert_int_equal(toy.value[1], 0x1234);
    assert_int_equal(toy.log[2], 0xd000404);
    assert_int_equal(toy.value[2], 0x05060708);
    assert_int_equal(toy.log[3], 0xd000901);
    assert_int_equal(toy.value[3], 0x77);
}

static void doorbells_reach_no_callback(void **state)
{
    LOAD(0xb8, 0x00, 0xd0, 0x8e, 0xc0, /* es = 0xd000 */
         0xba, 0x10, 0x05, 0xee, 0xee, /* out 0x510, al, twice */
         0x26, 0xc7, 0x06, 0, 1, 7, 0, /* mov word es:[0x100], 7 */
         0x26, 0xc7, 0x06, 2, 1, 8, 0, /* and beside it */
         EXIT);
    int port = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    int memory = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    assert_int_equal(ops->vm_ioeventfd(toy.vm, true, 0x510, 1, port, true, NULL), 0);
    assert_int_equal(ops->vm_ioeventfd(toy.vm, false, 0xd0100, 2, memory, true, NULL), 0);
    struct error err;
    assert_true(ops->vm_ioeventfd(toy.vm, false, 0xd0100, 2, memory, true, &err) < 0);
    run_until_kicked();
    uint64_t times = 0;
    assert_int_equal(read(port, &times, 8), 8);
    assert_int_equal(times, 2);
    assert_int_equal(read(memory, &times, 8), 8);
    assert_int_equal(times, 1);
    assert_int_equal(toy.count, 1);
    assert_int_equal(toy.log[0], 0xd010202);
    assert_int_equal(ops->vm_ioeventfd(toy.vm, true, 0x510, 1, port, false, NULL), 0);
    assert_int_equal(ops->vm_ioeventfd(toy.vm, false, 0xd0100, 2, memory, false, NULL), 0);
    close(port);
    close(memory);
}

/* sti; hlt; jmp back. Vectors 0x40 and 0x41 write their number to port 0x40 and end the run. */
static void load_interrupt_toy(void)
{
    static const uint8_t handlers[] = {
        0xb0, 0x40, 0xe6, 0x40, EXIT, 0xcf, 0x90, /* mov al, 0x40; out 0x40, al; ...; iret */
        0xb0, 0x41, 0xe6, 0x40, EXIT, 0xcf,
    };
    assert_true(guest_memory_write(toy.memory, 0x2000, handlers, sizeof(handlers)));
    static const uint16_t vectors[] = {0x2000, 0, 0x2008, 0};
    assert_true(guest_memory_write(toy.memory, 0x40 * 4, vectors, sizeof(vectors)));
    LOAD(0xfb, 0xf4, 0xeb, 0xfd);
}

static void interrupts_come_by_irqfd_and_message(void **state)
{
    load_interrupt_toy();
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    assert_int_equal(ops->vm_irqfd(toy.vm, fd, 0xfee00000, 0x40, true, NULL), 0);
    uint64_t one = 1;
    assert_int_equal(write(fd, &one, 8), 8);
    run_until_kicked();
    assert_int_equal(toy.count, 1);
    assert_int_equal(toy.value[0], 0x40);
    /* No EOI was made: the next one must have a higher priority, of another class of 16. */
    assert_int_equal(ops->vm_irqfd(toy.vm, fd, 0xfee00000, 0x41, true, NULL), 0);
    struct x86_state now = state_of_vcpu();
    memset(now.lapic + 0x100, 0, 0x80); /* ISR */
    put_state(&now);
    assert_int_equal(ops->vm_msi(toy.vm, 0xfee00000, 0x41), 0);
    run_until_kicked();
    assert_int_equal(toy.count, 2);
    assert_int_equal(toy.value[1], 0x41);
    assert_int_equal(ops->vm_irqfd(toy.vm, fd, 0, 0, false, NULL), 0);
    assert_int_equal(ops->vm_irqfd(toy.vm, fd, 0, 0, false, NULL), -ENOENT);
    close(fd);
}

static void interrupts_come_by_line(void **state)
{
    load_interrupt_toy();
    struct x86_ioapic_state ioapic;
    assert_int_equal(ops->vm_get_ioapic(toy.vm, &ioapic, NULL), 0);
    assert_int_equal(ioapic.base_gpa, 0xfec00000);
    assert_true(ioapic.redirection[5] & (1 << 16));
    ioapic.redirection[5] = 0x41; /* edge, physical, APIC 0 */
    assert_int_equal(ops->vm_set_ioapic(toy.vm, &ioapic, NULL), 0);
    assert_int_equal(ops->vm_get_ioapic(toy.vm, &ioapic, NULL), 0);
    assert_int_equal(ioapic.redirection[5] & 0xffff, 0x41);
    assert_true(ops->vm_irq_line(toy.vm, 5, true) >= 0);
    run_until_kicked();
    assert_int_equal(toy.value[0], 0x41);
    assert_int_equal(ops->vm_irq_line(toy.vm, 24, true), -EINVAL);
}

static void guest_writes_are_logged(void **state)
{
    LOAD(0xa2, 0x00, 0x50, EXIT, 0xa2, 0x00, 0x60, EXIT); /* mov [0x5000], al; ...; [0x6000] */
    uint64_t bitmap[3] = {0};
    assert_int_equal(ops->vm_log_start(toy.vm, NULL), 0);
    run_until_kicked();
    assert_int_equal(ops->vm_log_fetch(toy.vm, 0, bitmap, NULL), 0);
    assert_int_equal(bitmap[0] & (3 << 5), 1 << 5);
    memset(bitmap, 0, sizeof(bitmap));
    run_until_kicked();
    assert_int_equal(ops->vm_log_fetch(toy.vm, 0, bitmap, NULL), 0);
    assert_int_equal(bitmap[0] & (3 << 5), 1 << 6);
    ops->vm_log_stop(toy.vm);
    assert_true(ops->vm_log_fetch(toy.vm, 0, bitmap, NULL) < 0);
}

static void *kick_soon(void *unused)
{
    usleep(50000);
    ops->vcpu_kick(toy.vcpu);
    return NULL;
}

static void kicks_end_loops_and_halts(void **state)
{
    pthread_t thread;
    LOAD(0xeb, 0xfe); /* jmp $ */
    assert_int_equal(pthread_create(&thread, NULL, kick_soon, NULL), 0);
    run_until_kicked();
    assert_int_equal(pthread_join(thread, NULL), 0);
    ops->vcpu_kick(toy.vcpu); /* before the run */
    run_until_kicked();
    LOAD(0xfa, 0xf4); /* cli; hlt */
    assert_int_equal(pthread_create(&thread, NULL, kick_soon, NULL), 0);
    run_until_kicked();
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(state_of_vcpu().activity, X86_ACTIVITY_HALTED);
}

static void triple_faults_shut_down(void **state)
{
    LOAD(0x0f, 0x01, 0x1e, 0x00, 0x20, 0xcc); /* lidt [0x2000]; int3 */
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, kick_soon, NULL), 0);
    enum vcpu_exit result = ops->vcpu_run(toy.vcpu);
    assert_int_equal(pthread_join(thread, NULL), 0);
    if (result == VCPU_EXIT_KICKED && probe.quality == ENGINE_TOY) {
        print_message("skipped: this KVM does not notice a triple fault in real mode\n");
        skip();
    }
    assert_int_equal(result, VCPU_EXIT_SHUTDOWN);
    struct error err;
    ops->vcpu_error(toy.vcpu, &err);
    assert_non_null(strstr(err.text, "triple fault"));
    assert_int_equal(state_of_vcpu().activity, X86_ACTIVITY_SHUTDOWN);
    assert_int_equal(ops->vcpu_run(toy.vcpu), VCPU_EXIT_SHUTDOWN);
}

static void state_comes_back(void **unused)
{
    struct x86_state want, got;
    x86_state_reset(&want, true, false);
    put_state(&want);
    want = state_of_vcpu();
    for (int i = 0; i < X86_GPR_COUNT; i++) {
        want.gpr[i] = 0x1111111111111111u * (unsigned)(i + 1);
    }
    want.rip = 0x1234;
    want.rflags = X86_FLAG_ONE | X86_FLAG_CF | X86_FLAG_IF;
    want.segment[X86_FS].base = 0x12340;
    want.segment[X86_FS].selector = 0x1234;
    want.gdtr = (struct x86_table){0x3000, 0x1f};
    want.cr2 = 0xdeadb000;
    want.cr4 |= X86_CR4_OSFXSR;
    want.dr[0] = 0x4000;
    want.lstar = 0xffffffff81000000;
    want.star = 0x23001000000000;
    want.kernel_gs_base = 0xffff888000000000;
    want.sysenter_eip = 0x55;
    want.mtrr_base[2] = 0x80000006;
    want.mtrr_mask[2] = 0xff80000800;
    want.mtrr_fixed[10] = 0x0505050505050505;
    want.activity = X86_ACTIVITY_HALTED;
    want.nmi_masked = true;
    want.interrupt_shadow_sti = true;
    memset(want.xsave + 160, 0xa5, 16);         /* XMM0 */
    le64_put(want.xsave + X86_XSAVE_HEADER, 3); /* x87 and SSE are not in their first state */
    le32_put(want.lapic + LAPIC_SVR, 0x1ff);
    le32_put(want.lapic + 0x80, 0x30); /* TPR */
    want.cr8 = 3;
    put_state(&want);
    got = state_of_vcpu();
    assert_memory_equal(got.gpr, want.gpr, sizeof(want.gpr));
    assert_int_equal(got.rip, want.rip);
    assert_int_equal(got.rflags, want.rflags);
    assert_int_equal(got.segment[X86_FS].base, want.segment[X86_FS].base);
    assert_int_equal(got.segment[X86_FS].selector, want.segment[X86_FS].selector);
    assert_int_equal(got.segment[X86_CS].attributes, want.segment[X86_CS].attributes);
    assert_int_equal(got.gdtr.base, want.gdtr.base);
    assert_int_equal(got.gdtr.limit, want.gdtr.limit);
    assert_int_equal(got.cr0, want.cr0);
    assert_int_equal(got.cr2, want.cr2);
    assert_int_equal(got.cr4, want.cr4);
    assert_int_equal(got.cr8, want.cr8);
    assert_int_equal(got.xcr0, want.xcr0);
    assert_int_equal(got.dr[0], want.dr[0]);
    assert_int_equal(got.dr7, want.dr7);
    assert_int_equal(got.lstar, want.lstar);
    assert_int_equal(got.star, want.star);
    assert_int_equal(got.kernel_gs_base, want.kernel_gs_base);
    assert_int_equal(got.sysenter_eip, want.sysenter_eip);
    assert_int_equal(got.pat, want.pat);
    assert_int_equal(got.apic_base, want.apic_base);
    assert_int_equal(got.mtrr_base[2], want.mtrr_base[2]);
    assert_int_equal(got.mtrr_mask[2], want.mtrr_mask[2]);
    assert_int_equal(got.mtrr_fixed[10], want.mtrr_fixed[10]);
    assert_int_equal(got.activity, want.activity);
    assert_int_equal(got.nmi_masked, want.nmi_masked);
    assert_int_equal(got.interrupt_shadow_sti, want.interrupt_shadow_sti);
    assert_memory_equal(got.xsave + 160, want.xsave + 160, 16);
    assert_int_equal(le32_get(got.lapic + 0x80), 0x30);
    assert_int_equal(le32_get(got.lapic + LAPIC_SVR), 0x1ff);
    assert_true(got.tsc - want.tsc < 60 * ops->vcpu_tsc_hz(toy.vcpu));
    assert_true(ops->vcpu_tsc(toy.vcpu) - got.tsc < 60 * ops->vcpu_tsc_hz(toy.vcpu));
    ops->vm_set_clock(toy.vm, 1000000000000);
    assert_true(ops->vm_get_clock(toy.vm) - 1000000000000 < 60000000000);
}

static void impossible_states_are_refused(void **unused)
{
    struct x86_state good, bad;
    struct error err;
    x86_state_reset(&good, true, false);
    bad = good;
    bad.activity = (enum x86_activity)99;
    assert_int_equal(ops->vcpu_set_state(toy.vcpu, &bad, &err), -EINVAL);
    bad = good;
    bad.efer = X86_EFER_LMA;
    assert_int_equal(ops->vcpu_set_state(toy.vcpu, &bad, &err), -EINVAL);
    assert_non_null(strstr(err.text, "efer is 0x400"));
    bad = good;
    bad.cr4 = 1ull << 40;
    assert_true(ops->vcpu_set_state(toy.vcpu, &bad, &err) < 0);
    assert_non_null(strstr(err.text, "cr4 is 0x10000000000"));
    bad = good;
    bad.xcr0 = 0;
    assert_true(ops->vcpu_set_state(toy.vcpu, &bad, &err) < 0);
    bad = good;
    bad.lstar = 1ull << 60;
    assert_true(ops->vcpu_set_state(toy.vcpu, &bad, &err) < 0);
    assert_int_equal(ops->vcpu_set_state(toy.vcpu, &good, &err), 0);
}

/* 64-bit code behind 4-level paging: what toys of a kernel without a CPU's help cannot do. */
static void long_mode_works(void **unused)
{
    if (probe.quality != ENGINE_USABLE) {
        print_message("skipped: %s\n", probe.reason);
        skip();
    }
    static const uint8_t code[] = {
        0x48, 0xb8, 8,    7,    6,    5,    4,    3, 2, 1, /* mov rax, 0x0102030405060708 */
        0x48, 0xc1, 0xe8, 0x20,                            /* shr rax, 32 */
        0xba, 0xf8, 0x03, 0,    0,    0xef,                /* mov edx, 0x3f8; out dx, eax */
        0x48, 0x89, 0x04, 0x25, 0x00, 0x00, 0x0d, 0,       /* mov [0xd0000], rax */
        EXIT,
    };
    load(code, sizeof(code));
    static const uint64_t entries[][2] = {{0x10000, 0x11003}, {0x11000, 0x12003}, {0x12000, 0x83}};
    for (size_t i = 0; i < ARRAY_COUNT(entries); i++) {
        assert_true(guest_memory_write(toy.memory, entries[i][0], &entries[i][1], 8));
    }
    struct x86_state state = state_of_vcpu();
    state.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_ET | X86_CR0_NE;
    state.cr3 = 0x10000;
    state.cr4 = X86_CR4_PAE;
    state.efer = X86_EFER_LME | X86_EFER_LMA;
    state.segment[X86_CS] = (struct x86_segment){.limit = 0xffffffff,
                                                 .selector = 8,
                                                 .attributes = X86_SEGMENT_P | X86_SEGMENT_S |
                                                               X86_SEGMENT_L | X86_SEGMENT_G | 11};
    put_state(&state);
    run_until_kicked();
    assert_int_equal(toy.count, 2);
    assert_int_equal(toy.value[0], 0x01020304);
    assert_int_equal(toy.log[1], 0xd000008);
    assert_int_equal(toy.value[1], 0x01020304);
    assert_int_equal(state_of_vcpu().efer, X86_EFER_LME | X86_EFER_LMA);
}

static void note_pio_exits(void *ctx, const char *name, uint64_t value)
{
    if (strcmp(name, "exits_pio") == 0) {
        *(uint64_t *)ctx = value;
    }
}

static void counters_count(void **state)
{
    LOAD(0xee, 0xee, EXIT);
    run_until_kicked();
    uint64_t pio_exits = 0;
    ops->vcpu_stats(toy.vcpu, note_pio_exits, &pio_exits);
    assert_int_equal(pio_exits, 3);
    assert_true(ops->vcpu_tsc_hz(toy.vcpu) > 1000000);
}

int main(void)
{
    ops->probe(&probe);
    if (probe.quality == ENGINE_UNUSABLE) {
        (void)printf("skipped: %s (%s)\n", probe.reason, probe.remedy);
        return 77;
    }
    (void)printf("kvm: %s\n", probe.reason);
#define TOY_TEST(name) cmocka_unit_test_setup_teardown(name, toy_create, toy_destroy)
    const struct CMUnitTest tests[] = {
        TOY_TEST(ports_of_all_sizes),
        TOY_TEST(string_io_counts),
        TOY_TEST(memory_mapped_io),
        TOY_TEST(doorbells_reach_no_callback),
        TOY_TEST(interrupts_come_by_irqfd_and_message),
        TOY_TEST(interrupts_come_by_line),
        TOY_TEST(guest_writes_are_logged),
        TOY_TEST(kicks_end_loops_and_halts),
        TOY_TEST(triple_faults_shut_down),
        TOY_TEST(state_comes_back),
        TOY_TEST(impossible_states_are_refused),
        TOY_TEST(long_mode_works),
        TOY_TEST(counters_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
