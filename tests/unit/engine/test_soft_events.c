/* What the software engine's vCPUs do to each other: INIT and SIPI in every order, locked accesses across pages. */
#include "soft_guest.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#define COUNTER     0x20000u
#define SIPI_VECTOR (GUEST_CODE >> 12)
#define ROUNDS      8000

/* Where SIPI starts: counts, then halts for good. */
GUEST_CODE_BLOCK(startup, ".code16",
                 "mov $0x2000, %ax\n mov %ax, %ds\n lock incl 0\n cli\n 1: hlt\n jmp 1b\n");

struct processor {
    struct soft_guest *guest;
    atomic_bool is_over;
};

static void *run_processor(void *arg)
{
    struct processor *p = arg;
    while (!atomic_load(&p->is_over)) {
        (void)soft_engine_ops.vcpu_run(p->guest->vcpu[1]);
    }
    return NULL;
}

/* Until the counter is 'value', or for ten seconds. */
static bool wait_for_count(struct soft_guest *g, uint64_t value)
{
    const time_t end = time(NULL) + 10;
    while (guest_get64(g, COUNTER) != value) {
        if (time(NULL) > end) {
            return false;
        }
        sched_yield();
    }
    return true;
}

static void signal_processor(struct soft_guest *g, enum vcpu_signal signal, uint8_t value)
{
    soft_engine_ops.vcpu_signal(g->vcpu[1], signal, value);
}

static void test_init_sipi(void **state)
{
    struct soft_guest g;
    pthread_t thread;
    guest_start(&g, 2);
    struct processor p = {.guest = &g};
    guest_put(&g, GUEST_CODE, startup, GUEST_CODE_SIZE(startup));
    assert_int_equal(pthread_create(&thread, NULL, run_processor, &p), 0);
    uint64_t count = 0;
    bool has_started = true;
    for (unsigned i = 0; i < ROUNDS && has_started; i++) {
        /* Out of place: the first while it halts, or waits for INIT, the other one is void by the INIT behind it. */
        signal_processor(&g, VCPU_SIGNAL_SIPI, SIPI_VECTOR);
        signal_processor(&g, VCPU_SIGNAL_INIT, 0);
        signal_processor(&g, VCPU_SIGNAL_INIT, 0);
        /* Every other time at once: while the run loop looks at the first. */
        for (unsigned n = 0; n < (i % 64) * 10 && i % 2; n++) {
            __asm__ volatile("pause");
        }
        signal_processor(&g, VCPU_SIGNAL_SIPI, SIPI_VECTOR);
        has_started = wait_for_count(&g, ++count);
    }
    atomic_store(&p.is_over, true);
    soft_engine_ops.vcpu_kick(g.vcpu[1]);
    pthread_join(thread, NULL);
    assert_true(has_started);
    assert_int_equal(guest_get64(&g, COUNTER), ROUNDS);
    guest_end(&g);
}

/* One adds 1 to the upper half of what lies across two pages, the other counts that half up by itself until the first one is
 * done. */
GUEST_CODE_BLOCK(crossing_locks, ".code64",
                 "mov $1000, %ecx\n mov $1, %eax\n shl $32, %rax\n"
                 "1: lock add %rax, 0x20ffc\n dec %ecx\n jnz 1b\n"
                 "movl $1, 0x22000\n out %al, $0xf4\n hlt\n"
                 ".org crossing_locks + 0x100\n xor %ebx, %ebx\n"
                 "2: lock incl 0x21000\n inc %rbx\n cmpl $0, 0x22000\n je 2b\n"
                 "out %al, $0xf4\n hlt\n");

struct runner {
    struct soft_guest *guest;
    uint32_t index;
};

static void *run_to_exit(void *arg)
{
    struct runner *r = arg;
    (void)soft_engine_ops.vcpu_run(r->guest->vcpu[r->index]);
    return NULL;
}

static void test_crossing_locks(void **state)
{
    struct soft_guest g;
    struct x86_state s;
    struct error err = {0};
    pthread_t thread[2];
    guest_start(&g, 2);
    struct runner runner[2] = {{&g, 0}, {&g, 1}};
    for (uint32_t i = 0; i < 2; i++) {
        guest_long_mode(&g, i, crossing_locks, GUEST_CODE_SIZE(crossing_locks), &s);
        s.rip += i * 0x100;
        assert_int_equal(soft_engine_ops.vcpu_set_state(g.vcpu[i], &s, &err), 0);
    }
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&thread[i], NULL, run_to_exit, &runner[i]), 0);
    }
    for (uint32_t i = 0; i < 2; i++) {
        pthread_join(thread[i], NULL);
    }
    assert_int_equal(soft_engine_ops.vcpu_get_state(g.vcpu[1], &s, &err), 0);
    assert_int_equal(guest_get64(&g, 0x21000), 1000 + s.gpr[X86_RBX]);
    assert_int_equal(guest_get64(&g, 0x20ff8), 0);
    guest_end(&g);
}

/* A fault of the second page leaves the others free. */
GUEST_CODE_BLOCK(crossing_fault, ".code64",
                 "lock incq 0x30fffc\n hlt\n"
                 ".org crossing_fault + 0x100\n lock incq 0x20ffc\n mov %cr2, %rcx\n"
                 "out %al, $0xf4\n hlt\n");

static void test_crossing_fault(void **state)
{
    struct soft_guest g;
    struct x86_state s, after;
    guest_start(&g, 2);
    guest_long_mode(&g, 0, crossing_fault, GUEST_CODE_SIZE(crossing_fault), &s);
    guest_put64(&g, GUEST_PML4 + 0x4000 + 0x110 * 8, 0);
    guest_gate(&g, X86_PF, GUEST_CODE + 0x100, 0, 0);
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
    assert_int_equal(after.gpr[X86_RCX], 0x310000);
    assert_int_equal(guest_get64(&g, 0x20ffc), 1);
    guest_end(&g);
}

/* One calls a function over and over and tells what it returns; the other writes around in the function's page, then the value to
 * return, and waits to be told it. Ends after that many values, or never if a writer goes unnoticed. */
GUEST_CODE_BLOCK(patched_code, ".code64",
                 "mov $1, %ecx\n"
                 "1: mov %ecx, 0x30800\n mov %ecx, 0x30804\n mov %ecx, 0x30808\n"
                 "mov %ecx, 0x30001\n"
                 "2: pause\n cmp %ecx, 0x22000\n jne 2b\n"
                 "inc %ecx\n cmp $4000, %ecx\n jne 1b\n"
                 "movl $1, 0x22004\n out %al, $0xf4\n hlt\n"
                 ".org patched_code + 0x100\n mov $0x30000, %ebx\n"
                 "3: call *%rbx\n mov %eax, 0x22000\n cmpl $0, 0x22004\n je 3b\n"
                 "out %al, $0xf4\n hlt\n");

static void test_patched_code(void **state)
{
    static const uint8_t function[] = {0xb8, 0, 0, 0, 0, 0xc3}; /* mov $0, %eax; ret */
    struct soft_guest g;
    struct x86_state s;
    struct error err = {0};
    pthread_t thread[2];
    guest_start(&g, 2);
    struct runner runner[2] = {{&g, 0}, {&g, 1}};
    guest_put(&g, 0x30000, function, sizeof(function));
    for (uint32_t i = 0; i < 2; i++) {
        guest_long_mode(&g, i, patched_code, GUEST_CODE_SIZE(patched_code), &s);
        s.rip += i * 0x100;
        s.gpr[X86_RSP] -= i * 0x1000;
        assert_int_equal(soft_engine_ops.vcpu_set_state(g.vcpu[i], &s, &err), 0);
    }
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&thread[i], NULL, run_to_exit, &runner[i]), 0);
    }
    const time_t end = time(NULL) + 60;
    while (!guest_get64(&g, 0x22004) && time(NULL) < end) {
        usleep(1000);
    }
    bool is_done = guest_get64(&g, 0x22004);
    for (uint32_t i = 0; i < 2; i++) {
        if (!is_done) {
            soft_engine_ops.vcpu_kick(g.vcpu[i]);
        }
        pthread_join(thread[i], NULL);
    }
    assert_true(is_done);
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_init_sipi),
        cmocka_unit_test(test_crossing_locks),
        cmocka_unit_test(test_crossing_fault),
        cmocka_unit_test(test_patched_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
