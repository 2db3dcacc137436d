/* Counting instructions: the timer comes behind exactly the instruction that it is due at, translated or interpreted. */
#include <errno.h>
#include <string.h>

#include "base/core/bits.h"
#include "soft_guest.h"

/* All ways out of the middle of a block: repeated strings across pages, a port, a division by zero and its handler, misses
 * of the TLB, indirect branches, conditional ones that are taken, instructions without template. Without end. */
GUEST_CODE_BLOCK(busy, ".code64",
                 "1: mov $0x20ff0, %edi\n"
                 "   mov $64, %ecx\n"
                 "   mov %ebx, %eax\n"
                 "   rep stosb\n"
                 "   add %rax, 0x21ffc\n"
                 "   adc $3, %rbx\n"
                 "   out %al, $0x80\n"
                 "   xor %edx, %edx\n"
                 "   test $7, %bl\n"
                 "   setne %cl\n"
                 "   movzbl %cl, %ecx\n"
                 "   div %ecx\n"
                 "2: rdtsc\n"
                 "   add %rax, %r13\n"
                 "   lea 3f(%rip), %rax\n"
                 "   call *%rax\n"
                 "   cpuid\n"
                 "   inc %esi\n"
                 "   jmp 1b\n"
                 "3: cmp %rbx, %r13\n"
                 "   cmovb %rbx, %r14\n"
                 "   mov %r14, 0x30000(,%rsi,8)\n"
                 "   and $0xfff, %esi\n"
                 "   test $5, %bl\n"
                 "   jz 4f\n"
                 "   add $5, %r12\n"
                 "   jnp 4f\n"
                 "   test $2, %bl\n"
                 "   jnz far_exit\n"
                 "   dec %r12\n"
                 "4: ret\n"
                 "divide_error:\n"
                 "   lea 2b(%rip), %rax\n"
                 "   mov %rax, (%rsp)\n"
                 "   iretq\n"
                 ".org busy + 0x1020\n"
                 "far_exit: adc %r12, %r13\n"
                 "   ret");
extern const uint8_t divide_error[];

GUEST_CODE_BLOCK(busy_32, ".code32",
                 "1: mov $0x20ff0, %edi\n"
                 "   mov $64, %ecx\n"
                 "   mov %ebx, %eax\n"
                 "   rep stosb\n"
                 "   add %eax, 0x21ffc\n"
                 "   adc $3, %ebx\n"
                 "   out %al, $0x80\n"
                 "   push %ebx\n"
                 "   push $3\n"
                 "   pop %ecx\n"
                 "   xor %edx, %edx\n"
                 "   div %ecx\n"
                 "   rdtsc\n"
                 "   pop %ecx\n"
                 "   add %eax, %ebp\n"
                 "   call 3f\n"
                 "   pusha\n"
                 "   popa\n"
                 "   inc %esi\n"
                 "   jmp 1b\n"
                 "3: cmp %ebx, %ebp\n"
                 "   cmovb %ebx, %ecx\n"
                 "   mov %ecx, 0x30000(,%esi,8)\n"
                 "   and $0xfff, %esi\n"
                 "   test $5, %bl\n"
                 "   jz 4f\n"
                 "   adc $5, %edx\n"
                 "   jp 4f\n"
                 "   dec %edx\n"
                 "4: ret");

GUEST_CODE_BLOCK(idle, ".code64", "sti\n 1: hlt\n jmp 1b");

#define STOPS 3000

struct stop {
    uint64_t rip, rflags, now_ns;
    uint64_t gpr[X86_GPR_COUNT];
};

static void expired(void *ctx, uint32_t vcpu)
{
    soft_engine_ops.vcpu_kick(((struct soft_guest *)ctx)->vcpu[vcpu]);
}

static void start(struct soft_guest *g, const char *options, const void *code, size_t size,
                  struct x86_state *state)
{
    struct error err = {0};
    guest_start_with(g, 1, options);
    g->vm->config.callbacks.timer_expired = expired;
    assert_true(g->vm->features & VM_HAS_OWN_TIME);
    guest_long_mode(g, 0, code, size, state);
    assert_int_equal(soft_engine_ops.vcpu_set_state(g->vcpu[0], state, &err), 0);
}

/* Protected mode without paging. */
static void start_32(struct soft_guest *g, const char *options, struct x86_state *state)
{
    struct error err = {0};
    start(g, options, busy_32, GUEST_CODE_SIZE(busy_32), state);
    state->cr0 = X86_CR0_PE | X86_CR0_ET;
    state->efer = 0;
    state->segment[X86_CS].attributes = 0xc09b;
    assert_int_equal(soft_engine_ops.vcpu_set_state(g->vcpu[0], state, &err), 0);
}

static void run_busy(const char *options, bool is_32, unsigned shift, struct stop *out_stops)
{
    static struct x86_state state;
    struct soft_guest g;
    if (is_32) {
        start_32(&g, options, &state);
    } else {
        start(&g, options, busy, GUEST_CODE_SIZE(busy), &state);
    }
    guest_gate(&g, X86_DE, GUEST_CODE + (uint64_t)(divide_error - busy), 0, 0);
    uint64_t deadline_ns = 0;
    for (unsigned i = 0; i < STOPS; i++) {
        struct error err = {0};
        deadline_ns += (1 + i * 7 % 203) << shift;
        soft_engine_ops.vcpu_set_timer(g.vcpu[0], deadline_ns);
        if (i % 5 == 0) {
            soft_engine_ops.vcpu_kick(g.vcpu[0]); /* to no effect on what is executed */
            assert_int_equal(soft_engine_ops.vcpu_run(g.vcpu[0]), VCPU_EXIT_KICKED);
        }
        assert_int_equal(soft_engine_ops.vcpu_run(g.vcpu[0]), VCPU_EXIT_KICKED);
        assert_int_equal(soft_engine_ops.vm_now_ns(g.vm), deadline_ns);
        assert_int_equal(soft_engine_ops.vcpu_get_state(g.vcpu[0], &state, &err), 0);
        out_stops[i] = (struct stop){.rip = state.rip, .rflags = state.rflags};
        out_stops[i].now_ns = deadline_ns >> shift;
        memcpy(out_stops[i].gpr, state.gpr, sizeof(state.gpr));
    }
    guest_end(&g);
}

static void compare(const struct stop *a, const struct stop *b)
{
    for (unsigned i = 0; i < STOPS; i++) {
        if (memcmp(&a[i], &b[i], sizeof(*a)) != 0) {
            fail_msg("stop %u at %llu: rip %llx, then %llx", i, (unsigned long long)a[i].now_ns,
                     (unsigned long long)a[i].rip, (unsigned long long)b[i].rip);
        }
    }
}

static void test_exact(void **state)
{
    static struct stop interpreted[STOPS], translated[STOPS];
    run_busy("icount=on,translate=off", false, 0, interpreted);
    /* The first instruction is over after a nanosecond. */
    assert_int_equal(interpreted[0].rip, GUEST_CODE + 5);
    run_busy("icount=on,verify=on", false, 0, translated);
    compare(interpreted, translated);
    run_busy("icount=on,lockstep=on", false, 0, translated);
    compare(interpreted, translated);
}

static void test_exact_32(void **state)
{
    static struct stop interpreted[STOPS], translated[STOPS];
    run_busy("icount=on,translate=off", true, 0, interpreted);
    run_busy("icount=on,verify=on", true, 0, translated);
    compare(interpreted, translated);
}

static void test_shift(void **state)
{
    static struct stop interpreted[STOPS], translated[STOPS];
    run_busy("icount=4,translate=off", false, 4, interpreted);
    run_busy("icount=4", false, 4, translated);
    compare(interpreted, translated);
}

/* An idle guest's time jumps to its timer. */
static void test_idle(void **state)
{
    struct x86_state s;
    struct soft_guest g;
    start(&g, "icount=on", idle, GUEST_CODE_SIZE(idle), &s);
    for (uint64_t deadline_ns = 1000000000; deadline_ns < 5000000000; deadline_ns += 1000000000) {
        soft_engine_ops.vcpu_set_timer(g.vcpu[0], deadline_ns);
        assert_int_equal(soft_engine_ops.vcpu_run(g.vcpu[0]), VCPU_EXIT_KICKED);
        assert_int_equal(soft_engine_ops.vm_now_ns(g.vm), deadline_ns);
        assert_int_equal(soft_engine_ops.vcpu_tsc(g.vcpu[0]), deadline_ns);
    }
    guest_end(&g);
}

static void test_one_vcpu_only(void **state)
{
    struct error err = {0};
    struct guest_memory *memory;
    struct vm *vm = NULL;
    assert_int_equal(guest_memory_create(&memory, &err), 0);
    assert_int_equal(guest_memory_add(memory, 0, GUEST_SIZE, false, false, &err), 0);
    struct vm_config config = {.options = "icount=on", .vcpu_count = 2, .memory = memory};
    assert_int_equal(soft_engine_ops.vm_create(&config, &vm, &err), -EINVAL);
    assert_non_null(strstr(err.text, "icount is for 1"));
    static const char *const bad[] = {"icount", "icount=", "icount=11", "icount=1x", "icount=-1"};
    config.vcpu_count = 1;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        config.options = bad[i];
        assert_int_equal(soft_engine_ops.vm_create(&config, &vm, &err), -EINVAL);
    }
    guest_memory_destroy(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact),         cmocka_unit_test(test_exact_32),
        cmocka_unit_test(test_shift),         cmocka_unit_test(test_idle),
        cmocka_unit_test(test_one_vcpu_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
