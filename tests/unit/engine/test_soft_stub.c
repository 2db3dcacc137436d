/* The cache of stubs: one for each instruction, never writable and executable at once, an end to it, and no system calls
 * when used. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "engine/soft/stub.h"

static bool find(struct soft_stubs *stubs, const uint8_t *bytes, size_t size,
                 enum x86_code_size code_size, struct soft_stub *out_stub)
{
    struct x86_insn insn;
    assert_int_equal(x86_decode(bytes, size, code_size, &insn), X86_DECODE_OK);
    return soft_stub_find(stubs, &insn, out_stub);
}

#define FIND(stubs, mode, out, ...)                                                                \
    find((stubs), (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}),          \
         X86_CODE_##mode, (out))

struct operands {
    uint8_t vector[4][64] __attribute__((aligned(64)));
    uint8_t fx[512] __attribute__((aligned(16)));
    struct soft_stub_env env;
};

static struct operands *operands_new(void)
{
    struct operands *o = aligned_alloc(64, (sizeof(*o) + 63) & ~(size_t)63);
    assert_non_null(o);
    memset(o, 0, sizeof(*o));
    o->env = (struct soft_stub_env){
        .xmm0 = o->vector[3], .x87 = o->fx, .mxcsr = 0x1f80, .host_mxcsr = 0x1f80};
    o->fx[0] = 0x7f;
    o->fx[1] = 0x03;
    o->fx[24] = 0x80;
    o->fx[25] = 0x1f;
    return o;
}

static struct soft_stubs *stubs_new(void)
{
    struct soft_stubs *stubs = NULL;
    struct error err;
    assert_int_equal(soft_stubs_get(&stubs, &err), 0);
    return stubs;
}

static void registers_share_a_stub(void **state)
{
    struct soft_stubs *stubs = stubs_new(), *again = stubs_new();
    struct soft_stub a, b;
    assert_ptr_equal(stubs, again);
    assert_true(FIND(stubs, 64, &a, 0x66, 0x0f, 0xfe, 0xca));       /* paddd xmm1, xmm2 */
    assert_true(FIND(stubs, 64, &b, 0x66, 0x45, 0x0f, 0xfe, 0xff)); /* paddd xmm15, xmm15 */
    assert_true(a.run == b.run);
    assert_true(FIND(stubs, 16, &b, 0x66, 0x0f, 0xfe, 0xca));
    assert_true(a.run == b.run);
    assert_true(FIND(stubs, 64, &b, 0x66, 0x0f, 0xfa, 0xca)); /* psubd */
    assert_true(a.run != b.run);
    assert_true(FIND(stubs, 64, &a, 0x66, 0x0f, 0x70, 0xca, 1)); /* pshufd by immediate */
    assert_true(FIND(stubs, 64, &b, 0x66, 0x0f, 0x70, 0xca, 2));
    assert_true(a.run != b.run);
    assert_false(FIND(stubs, 64, &a, 0x01, 0xc8)); /* add eax, ecx */
    soft_stubs_put(again);
    soft_stubs_put(stubs);
}

static void stubs_compute(void **state)
{
    struct soft_stubs *stubs = stubs_new();
    struct operands *o = operands_new();
    struct soft_stub stub;
    uint32_t one[4] = {1, 2, 3, 4}, two[4] = {10, 20, 30, 0xffffffff}, sum[4];
    memcpy(o->vector[0], one, 16);
    memcpy(o->vector[1], two, 16);
    assert_true(FIND(stubs, 64, &stub, 0x66, 0x0f, 0xfe, 0xca));
    assert_int_equal(stub.run(o->vector[0], o->vector[1], NULL, NULL, &o->env), SOFT_STUB_OK);
    memcpy(sum, o->vector[0], 16);
    assert_int_equal(sum[0], 11);
    assert_int_equal(sum[3], 3);

    double zero = 0, value = 1;
    memcpy(o->vector[0], &value, 8);
    memcpy(o->vector[1], &zero, 8);
    assert_true(FIND(stubs, 64, &stub, 0xf2, 0x0f, 0x5e, 0xca)); /* divsd */
    assert_int_equal(stub.run(o->vector[0], o->vector[1], NULL, NULL, &o->env), SOFT_STUB_OK);
    assert_int_equal(o->env.mxcsr, 0x1f84);
    o->env.mxcsr = 0x1d80; /* division by zero is not masked */
    memcpy(o->vector[0], &value, 8);
    assert_int_equal(stub.run(o->vector[0], o->vector[1], NULL, NULL, &o->env), SOFT_STUB_XM);
    assert_int_equal(o->env.mxcsr, 0x1d84);
    assert_memory_equal(o->vector[0], &value, 8);
    free(o);
    soft_stubs_put(stubs);
}

/* By the kernel's list of mappings. */
static void assert_no_page_is_both(void)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    assert_non_null(maps);
    char line[512];
    unsigned writable = 0, executable = 0;
    while (fgets(line, sizeof(line), maps) != NULL) {
        char rights[5] = "";
        assert_int_equal(sscanf(line, "%*s %4s", rights), 1);
        assert_false(rights[1] == 'w' && rights[2] == 'x');
        if (strstr(line, "hull-stubs") != NULL) {
            writable += rights[1] == 'w';
            executable += rights[2] == 'x';
        }
    }
    fclose(maps);
    assert_int_equal(writable, 1);
    assert_int_equal(executable, 1);
}

static void no_page_is_writable_and_executable(void **state)
{
    struct soft_stubs *stubs = stubs_new();
    struct soft_stub stub;
    assert_no_page_is_both();
    assert_true(FIND(stubs, 64, &stub, 0x66, 0x0f, 0xfe, 0xca));
    assert_no_page_is_both();
    soft_stubs_put(stubs);
}

/* Instruction 'index' of many: four opcodes, each with any immediate. */
static size_t nth_instruction(uint32_t index, uint8_t *out_bytes)
{
    static const uint8_t opcodes[] = {0x0c, 0x0d, 0x0e, 0x0f};
    uint8_t bytes[] = {0x66, 0x0f, 0x3a, opcodes[index >> 8 & 3], 0xca, (uint8_t)index};
    memcpy(out_bytes, bytes, sizeof(bytes));
    return sizeof(bytes);
}

static void the_cache_grows_and_keeps(void **state)
{
    struct soft_stubs *stubs = stubs_new();
    static soft_stub_fn run[1024];
    uint8_t bytes[16];
    struct soft_stub stub;
    for (uint32_t pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < ARRAY_COUNT(run); i++) {
            size_t size = nth_instruction(i, bytes);
            assert_true(find(stubs, bytes, size, X86_CODE_64, &stub));
            assert_true(pass == 0 || run[i] == stub.run);
            assert_true(i == 0 || run[i - 1] != stub.run);
            run[i] = stub.run;
        }
    }
    soft_stubs_put(stubs);
}

static void a_full_cache_refuses(void **state)
{
    struct soft_stubs *stubs = NULL;
    struct error err;
    assert_int_equal(soft_stubs_get(&stubs, &err), 0);
    soft_stubs_limit(stubs, 100);
    struct soft_stub first = {0}, stub;
    unsigned made = 0;
    for (unsigned i = 0; i < 256; i++) {
        if (FIND(stubs, 64, &stub, 0x66, 0x0f, 0x70, 0xca, (uint8_t)i)) {
            first = made++ == 0 ? stub : first;
        }
    }
    assert_int_equal(made, 100);
    assert_true(FIND(stubs, 64, &stub, 0x66, 0x0f, 0x70, 0xca, 0));
    assert_true(stub.run == first.run);
    assert_false(FIND(stubs, 64, &stub, 0x66, 0x0f, 0x70, 0xca, 255));
    soft_stubs_put(stubs);
}

static void allow_few_calls(void)
{
    static struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = ARRAY_COUNT(program), .filter = program};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
        _exit(77);
    }
}

/* What a vCPU does in hull-vmm's jail: makes new stubs, runs them, and gets their signals. */
static int work_in_jail(struct soft_stubs *stubs, struct operands *o)
{
    struct soft_stub stub;
    struct x86_insn insn;
    static const uint8_t divsd[] = {0xf2, 0x0f, 0x5e, 0xca}, fld1[] = {0xd9, 0xe8};
    double one = 1;
    memcpy(o->vector[0], &one, 8);
    o->env.mxcsr = 0x1d80;
    if (x86_decode(divsd, sizeof(divsd), X86_CODE_64, &insn) != X86_DECODE_OK ||
        !soft_stub_find(stubs, &insn, &stub) ||
        stub.run(o->vector[0], o->vector[1], NULL, NULL, &o->env) != SOFT_STUB_XM) {
        return 1;
    }
    if (x86_decode(fld1, sizeof(fld1), X86_CODE_64, &insn) != X86_DECODE_OK ||
        !soft_stub_find(stubs, &insn, &stub) ||
        stub.run(o, o->vector[1], o, o, &o->env) != SOFT_STUB_OK || o->fx[4] == 0) {
        return 2;
    }
    return 0;
}

static void a_jail_does_not_matter(void **state)
{
#ifdef __SANITIZE_ADDRESS__
    skip(); /* the sanitizer has system calls of its own */
#endif
    struct soft_stubs *stubs = stubs_new();
    struct operands *o = operands_new();
    pid_t pid = fork();
    if (pid == 0) {
        allow_few_calls();
        _exit(work_in_jail(stubs, o));
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    free(o);
    soft_stubs_put(stubs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registers_share_a_stub),
        cmocka_unit_test(stubs_compute),
        cmocka_unit_test(no_page_is_writable_and_executable),
        cmocka_unit_test(the_cache_grows_and_keeps),
        cmocka_unit_test(a_full_cache_refuses),
        cmocka_unit_test(a_jail_does_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
