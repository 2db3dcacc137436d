/* Single steps on the software engine (SDM 3A 6.7 to 6.9, 3B 17.3.1.4): which instructions end with #DB, and where. */
#include "soft_guest.h"

#include "base/core/compiler.h"

/* Handlers of #DB, #BP, #OF, INT 40 and #PF keep vector, RIP, DR6 and flags at [0x20000], then go on. Real code stands at
 * 0x100, with LOG_... in the order of struct event. */
#define LOG         0x20008u
#define LOG_POINTER "0x20000"
#define PAGE_FAULT  "0xe"

#define HANDLERS                                                                                   \
    ".org 77b + 0x800\n push $1\n jmp 9f\n"                                                        \
    ".org 77b + 0x810\n push $3\n jmp 9f\n"                                                        \
    ".org 77b + 0x820\n push $0x40\n jmp 9f\n"                                                     \
    ".org 77b + 0x830\n movq $14, (%rsp)\n"                                                        \
    " mov $0x30000, %esi\n jmp 9f\n"                                                               \
    "9: push %rax\n push %rbx\n mov " LOG_POINTER ", %rbx\n"                                       \
    "mov 16(%rsp), %rax\n mov %rax, (%rbx)\n mov 24(%rsp), %rax\n mov %rax, 8(%rbx)\n"             \
    "mov %dr6, %rax\n mov %rax, 16(%rbx)\n mov 40(%rsp), %rax\n mov %rax, 24(%rbx)\n"              \
    "mov $0xffff0ff0, %eax\n mov %rax, %dr6\n add $32, %rbx\n mov %rbx, " LOG_POINTER "\n"         \
    "pop %rbx\n pop %rax\n add $8, %rsp\n iretq\n"

struct event {
    uint64_t vector, rip, dr6, flags;
};

#define MAX_EVENTS 32

struct run {
    struct event event[MAX_EVENTS];
    size_t count;
    struct x86_state after;
};

/* Runs code whose labels are offsets from GUEST_CODE. 'prepare' changes the first state. */
static void run_traced(struct run *run, const uint8_t *code, size_t size,
                       void (*prepare)(struct x86_state *state))
{
    struct soft_guest g;
    struct x86_state s;
    guest_start(&g, 1);
    guest_long_mode(&g, 0, code, size, &s);
    static const struct {
        uint8_t vector;
        uint16_t offset;
    } gates[] = {{X86_DB, 0x800}, {X86_BP, 0x810}, {0x40, 0x820}, {X86_PF, 0x830}};
    for (size_t i = 0; i < ARRAY_COUNT(gates); i++) {
        guest_gate(&g, gates[i].vector, GUEST_CODE + gates[i].offset, 0, 3);
    }
    guest_put64(&g, 0x20000, LOG);
    s.gpr[X86_RSI] = 0x30000;
    s.gpr[X86_RDI] = 0x31000;
    if (prepare != NULL) {
        prepare(&s);
    }
    assert_int_equal(guest_run(&g, 0, &s, &run->after), VCPU_EXIT_KICKED);
    run->count = (guest_get64(&g, 0x20000) - LOG) / sizeof(struct event);
    assert_in_range(run->count, 0, MAX_EVENTS);
    assert_true(guest_memory_read(g.memory, LOG, run->event, run->count * sizeof(struct event)));
    guest_end(&g);
}

static void assert_event(const struct run *run, size_t index, uint64_t vector, uint64_t offset)
{
    assert_in_range(index, 0, run->count - 1);
    const struct event *event = &run->event[index];
    assert_int_equal(event->vector, vector);
    assert_int_equal(event->rip - GUEST_CODE, offset);
    assert_int_equal(event->dr6 & 0xe00f, vector == X86_DB ? 0x4000 : 0);
}

/* Offsets: popf at 0x10, the traced code at 0x11, the end at 0x100. */
#define TRACED(name, text)                                                                         \
    GUEST_CODE_BLOCK(name, ".code64",                                                              \
                     "77:\n"                                                                       \
                     "pushfq\n orq $0x100, (%rsp)\n mov %ss, %eax\n mov $3, %ecx\n"                \
                     ".balign 16, 0x90\n.org 77b + 0x20, 0x90\n popfq\n" text                      \
                     ".org 77b + 0x100, 0x90\n out %al, $0xf4\n hlt\n" HANDLERS)

/* 0x21 nop, 0x22 int3, 0x23 nop, 0x24 int $0x40, 0x26 nop, then TF goes. */
TRACED(software_interrupts, "nop\n int3\n nop\n int $0x40\n nop\n"
                            "pushfq\n andq $~0x100, (%rsp)\n popfq\n nop\n jmp 77b+0x100\n");

static void int3_and_int_n_deliver_themselves(void **state)
{
    struct run run;
    run_traced(&run, software_interrupts, GUEST_CODE_SIZE(software_interrupts), NULL);
    assert_event(&run, 0, X86_DB, 0x22); /* POPF that sets TF: not before the next instruction */
    assert_event(&run, 1, X86_BP, 0x23);
    assert_true(run.event[1].flags & X86_FLAG_TF);
    assert_event(&run, 2, X86_DB, 0x24); /* IRET to TF: likewise */
    assert_event(&run, 3, 0x40, 0x26);
    assert_true(run.event[3].flags & X86_FLAG_TF);
    assert_event(&run, 4, X86_DB, 0x27);
    assert_event(&run, 5, X86_DB, 0x28);
    assert_event(&run, 6, X86_DB, 0x30);
    assert_event(&run, 7, X86_DB, 0x31); /* POPF that clears TF still traps */
    assert_false(run.event[7].flags & X86_FLAG_TF);
    assert_int_equal(run.count, 8);
}

/* 0x21 mov ss, 0x23 nop, 0x24 mov ss, 0x26 int $0x40, 0x28 nop. */
TRACED(mov_ss, "mov %eax, %ss\n nop\n mov %eax, %ss\n int $0x40\n nop\n"
               "pushfq\n andq $~0x100, (%rsp)\n popfq\n jmp 77b+0x100\n");

static void mov_ss_puts_the_step_off(void **state)
{
    struct run run;
    run_traced(&run, mov_ss, GUEST_CODE_SIZE(mov_ss), NULL);
    assert_event(&run, 0, X86_DB, 0x24);
    assert_event(&run, 1, 0x40, 0x28); /* and nothing steps into the handler */
    assert_event(&run, 2, X86_DB, 0x29);
}

/* 0x21 mov ss, 0x23 a fault (the handler repairs RSI), then it goes on. */
TRACED(mov_ss_fault, "mov $0x7f000000, %esi\n mov %eax, %ss\n mov (%rsi), %edx\n nop\n"
                     "pushfq\n andq $~0x100, (%rsp)\n popfq\n jmp 77b+0x100\n");

static void a_fault_behind_mov_ss_is_no_step(void **state)
{
    struct run run;
    run_traced(&run, mov_ss_fault, GUEST_CODE_SIZE(mov_ss_fault), NULL);
    assert_event(&run, 0, X86_DB, 0x26);
    assert_event(&run, 1, X86_PF, 0x28);
    assert_event(&run, 2, X86_DB, 0x2a);
    assert_event(&run, 3, X86_DB, 0x2b);
}

TRACED(repeated, "rep movsb\n nop\n"
                 "pushfq\n andq $~0x100, (%rsp)\n popfq\n jmp 77b+0x100\n");

static void rep_steps_by_element(void **state)
{
    struct run run;
    run_traced(&run, repeated, GUEST_CODE_SIZE(repeated), NULL);
    assert_event(&run, 0, X86_DB, 0x21);
    assert_event(&run, 1, X86_DB, 0x21);
    assert_event(&run, 2, X86_DB, 0x23); /* the third element ends the instruction */
    assert_event(&run, 3, X86_DB, 0x24);
    assert_int_equal(run.after.gpr[X86_RCX], 0);
}

TRACED(icebp, ".byte 0xf1\n nop\n"
              "pushfq\n andq $~0x100, (%rsp)\n popfq\n jmp 77b+0x100\n");

static void int1_is_one_trap(void **state)
{
    struct run run;
    run_traced(&run, icebp, GUEST_CODE_SIZE(icebp), NULL);
    assert_int_equal(run.event[0].vector, X86_DB);
    assert_int_equal(run.event[0].rip - GUEST_CODE, 0x22);
    assert_event(&run, 1, X86_DB, 0x23);
}

/* The program at 0x40 has TF, comes back by SYSRET at 0x60 with TF, and ends by INT 40's handler's end... */
GUEST_CODE_BLOCK(fast_call, ".code64",
                 "77:\n"
                 "jmp 77b+0x60\n"
                 ".org 77b + 0x40, 0x90\n nop\n syscall\n nop\n nop\n syscall\n"
                 /* the kernel: the first time back with the program's flags, then the end */
                 ".org 77b + 0x60, 0x90\n mov $0x10040, %ecx\n mov $0x102, %r11d\n"
                 "sysretq\n"
                 ".org 77b + 0x80, 0x90\n incl 0x21000\n cmpl $2, 0x21000\n je 1f\n"
                 "sysretq\n 1: out %al, $0xf4\n hlt\n" HANDLERS);

static void prepare_fast_call(struct x86_state *state)
{
    state->star = 0x0010000800000000ull;
    state->lstar = GUEST_CODE + 0x80;
    state->sfmask = X86_FLAG_TF;
}

static void syscall_goes_by_the_new_flag(void **state)
{
    struct run run;
    run_traced(&run, fast_call, GUEST_CODE_SIZE(fast_call), prepare_fast_call);
    assert_event(&run, 0, X86_DB, 0x40); /* SYSRET that sets TF traps at once */
    assert_event(&run, 1, X86_DB, 0x41);
    assert_event(&run, 2, X86_DB, 0x43); /* the kernel ran unseen; back behind SYSCALL */
    assert_true(run.event[2].flags & X86_FLAG_TF);
    assert_event(&run, 3, X86_DB, 0x44);
    assert_event(&run, 4, X86_DB, 0x45);
    assert_int_equal(run.count, 5);
}

/* Real mode: INTO with OF set, and one without. The handlers write to the port that ends the run. */
GUEST_CODE_BLOCK(real_into, ".code16",
                 "mov $0x0900, %ax\n push %ax\n popf\n into\n"
                 ".org real_into + 0x80, 0x90\n mov $4, %al\n out %al, $0xf4\n hlt\n"
                 ".org real_into + 0x90, 0x90\n mov $1, %al\n out %al, $0xf4\n hlt\n");

static void run_real(const uint8_t *code, size_t size, uint8_t expected, uint16_t expected_ip,
                     bool has_overflow)
{
    struct soft_guest g;
    struct x86_state s, after;
    struct error err;
    guest_start(&g, 1);
    guest_put(&g, 0x8000, code, size);
    if (!has_overflow) {
        guest_put(&g, 0x8002, "\x01", 1); /* flags 0x0100 */
    }
    guest_put64(&g, 4 * X86_OF, 0x8080);
    guest_put(&g, 4 * X86_DB, "\x90\x80\0\0", 4);
    assert_int_equal(soft_engine_ops.vcpu_get_state(g.vcpu[0], &s, &err), 0);
    s.segment[X86_CS].selector = 0;
    s.segment[X86_CS].base = 0;
    s.rip = 0x8000;
    s.gpr[X86_RSP] = 0x7000;
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
    assert_int_equal(g.exit_value, expected);
    uint16_t ip = 0;
    assert_true(guest_memory_read(g.memory, after.gpr[X86_RSP] & 0xffff, &ip, 2));
    assert_int_equal(ip, expected_ip);
    guest_end(&g);
}

static void into_traps_by_overflow(void **state)
{
    run_real(real_into, GUEST_CODE_SIZE(real_into), 4, 0x8006, true);
    run_real(real_into, GUEST_CODE_SIZE(real_into), 1, 0x8006, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(int3_and_int_n_deliver_themselves),
        cmocka_unit_test(mov_ss_puts_the_step_off),
        cmocka_unit_test(a_fault_behind_mov_ss_is_no_step),
        cmocka_unit_test(rep_steps_by_element),
        cmocka_unit_test(int1_is_one_trap),
        cmocka_unit_test(syscall_goes_by_the_new_flag),
        cmocka_unit_test(into_traps_by_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
