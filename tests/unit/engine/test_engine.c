/* Covers engine/engine.c (the choice) and engine/null: a vCPU that follows a script. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>

#include "engine/choose.h"
#include "engine/null/null.h"

static void probe_unusable(struct engine_probe *out_probe)
{
    *out_probe = (struct engine_probe){
        .quality = ENGINE_UNUSABLE, .reason = "there is no device", .remedy = "load the module"};
}

static void probe_toy(struct engine_probe *out_probe)
{
    *out_probe = (struct engine_probe){.quality = ENGINE_TOY, .reason = "only toys"};
}

static void probe_usable(struct engine_probe *out_probe)
{
    *out_probe = (struct engine_probe){.quality = ENGINE_USABLE, .reason = "runs all"};
}

static const struct engine_ops absent = {.name = "absent", .probe = probe_unusable};
static const struct engine_ops toy = {.name = "toy", .probe = probe_toy};
static const struct engine_ops good = {.name = "good", .probe = probe_usable};
static const struct engine_ops better = {.name = "better", .probe = probe_usable};

static void auto_takes_the_first_usable(void **state)
{
    const struct engine_ops *const list[] = {&absent, &toy, &good, &better, NULL};
    const struct engine_ops *engine = NULL;
    char reason[ERROR_TEXT_SIZE];
    assert_int_equal(engine_choose_among(list, "auto", &engine, reason, NULL), 0);
    assert_ptr_equal(engine, &good);
    assert_string_equal(reason,
                        "good: runs all; not absent: there is no device; not toy: only toys");
}

static void auto_may_find_none(void **state)
{
    const struct engine_ops *const list[] = {&absent, &toy, NULL};
    const struct engine_ops *engine = NULL;
    char reason[ERROR_TEXT_SIZE];
    struct error err;
    assert_int_equal(engine_choose_among(list, "auto", &engine, reason, &err), -ENODEV);
    assert_null(engine);
    assert_non_null(strstr(err.text, "not absent: there is no device"));
    assert_non_null(strstr(err.text, "not toy: only toys"));
}

static void a_name_takes_that_one(void **state)
{
    const struct engine_ops *const list[] = {&absent, &toy, &good, NULL};
    const struct engine_ops *engine = NULL;
    char reason[ERROR_TEXT_SIZE];
    struct error err;
    assert_int_equal(engine_choose_among(list, "toy,option=1", &engine, reason, NULL), 0);
    assert_ptr_equal(engine, &toy);
    assert_string_equal(reason, "toy, as asked for: only toys");
    assert_int_equal(engine_choose_among(list, "absent", &engine, reason, &err), -ENODEV);
    assert_string_equal(err.text,
                        "engine absent is not usable here: there is no device: load the module");
    assert_int_equal(engine_choose_among(list, "goo", &engine, reason, &err), -EINVAL);
    assert_string_equal(err.text, "there is no engine 'goo': use one of auto, absent, toy, good");
    assert_int_equal(engine_choose_among(list, "goodness", &engine, reason, &err), -EINVAL);
    assert_ptr_equal(engine_find("null,irqchip"), &null_engine_ops);
    assert_null(engine_find(""));
}

struct board {
    uint64_t log[8];
    size_t count;
};

static uint64_t board_pio_read(void *ctx, uint32_t vcpu, uint16_t port, unsigned size)
{
    return port + size;
}

static void board_pio_write(void *ctx, uint32_t vcpu, uint16_t port, unsigned size, uint32_t value)
{
    struct board *board = ctx;
    board->log[board->count++] = (uint64_t)port << 32 | value;
}

static uint64_t board_mmio_read(void *ctx, uint32_t vcpu, uint64_t gpa, unsigned size)
{
    return ~gpa;
}

static void board_mmio_write(void *ctx, uint32_t vcpu, uint64_t gpa, unsigned size, uint64_t value)
{
    struct board *board = ctx;
    board->log[board->count++] = gpa ^ value;
}

static void *kick_later(void *vcpu)
{
    null_engine_ops.vcpu_kick(vcpu);
    return NULL;
}

static void null_follows_its_script(void **state)
{
    const struct engine_ops *ops = &null_engine_ops;
    struct guest_memory *memory;
    assert_int_equal(guest_memory_create(&memory, NULL), 0);
    struct board board = {0};
    struct vm_config config = {
        .vcpu_count = 1,
        .memory = memory,
        .callbacks = {.ctx = &board,
                      .pio_read = board_pio_read,
                      .pio_write = board_pio_write,
                      .mmio_read = board_mmio_read,
                      .mmio_write = board_mmio_write},
        .options = "irqchip",
    };
    struct vm *vm;
    struct vcpu *vcpu;
    struct x86_cpuid cpuid = {.count = 0};
    assert_int_equal(ops->vm_create(&config, &vm, NULL), 0);
    assert_true(vm->features & VM_HAS_IRQCHIP);
    assert_int_equal(ops->vcpu_create(vm, 0, &cpuid, &vcpu, NULL), 0);

    struct null_access script[] = {
        {.is_pio = true, .size = 2, .address = 0x60},
        {.is_pio = true, .is_write = true, .size = 1, .address = 0xf4, .value = 3},
        {.size = 8, .address = 0x1000},
        {.is_write = true, .size = 4, .address = 0x2000, .value = 5},
    };
    null_vcpu_script(vcpu, script, 4, VCPU_EXIT_SHUTDOWN);
    assert_int_equal(ops->vcpu_run(vcpu), VCPU_EXIT_SHUTDOWN);
    assert_int_equal(script[0].value, 0x62);
    assert_int_equal(script[2].value, ~0x1000ull);
    assert_int_equal(board.count, 2);
    assert_int_equal(board.log[0], 0xf400000003);
    assert_int_equal(board.log[1], 0x2005);

    null_vcpu_script(vcpu, NULL, 0, VCPU_EXIT_KICKED);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, kick_later, vcpu), 0);
    assert_int_equal(ops->vcpu_run(vcpu), VCPU_EXIT_KICKED);
    assert_int_equal(pthread_join(thread, NULL), 0);

    static struct x86_state kept;
    assert_int_equal(ops->vcpu_get_state(vcpu, &kept, NULL), 0);
    assert_int_equal(kept.rip, 0xfff0);
    kept.gpr[X86_R15] = 77;
    assert_int_equal(ops->vcpu_set_state(vcpu, &kept, NULL), 0);
    kept.gpr[X86_R15] = 0;
    assert_int_equal(ops->vcpu_get_state(vcpu, &kept, NULL), 0);
    assert_int_equal(kept.gpr[X86_R15], 77);

    uint8_t value;
    ops->vcpu_signal(vcpu, VCPU_SIGNAL_SIPI, 9);
    assert_int_equal(null_vcpu_signals(vcpu, VCPU_SIGNAL_SIPI, &value), 1);
    assert_int_equal(value, 9);
    assert_int_equal(ops->vm_irq_line(vm, 5, true), 0);
    assert_true(null_vm_line(vm, 5));
    assert_int_equal(ops->vm_irq_line(vm, 24, true), -EINVAL);
    assert_int_equal(ops->vm_msi(vm, 0xfee00000, 0x31), 0);
    uint64_t address[NULL_MAX_MESSAGES];
    uint32_t data[NULL_MAX_MESSAGES];
    assert_int_equal(null_vm_messages(vm, address, data), 1);
    assert_int_equal(data[0], 0x31);
    ops->vm_set_clock(vm, 1000000000000);
    assert_true(ops->vm_get_clock(vm) - 1000000000000 < 60000000000);

    ops->vcpu_destroy(vcpu);
    ops->vm_destroy(vm);
    guest_memory_destroy(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(auto_takes_the_first_usable),
        cmocka_unit_test(auto_may_find_none),
        cmocka_unit_test(a_name_takes_that_one),
        cmocka_unit_test(null_follows_its_script),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
