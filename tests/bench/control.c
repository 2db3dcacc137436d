/* Calls, jumps, much code, and code that changes. */
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

/* --- recursion --- */

enum {
    FIB_ARGUMENT = 17
};

static __attribute__((noinline)) uint32_t fib(uint32_t n)
{
    if (n < 2) {
        return n;
    }
    uint32_t first = fib(n - 1);
    /* Keeps the compiler from turning the second call into a loop. */
    __asm__ volatile("" : "+r"(first));
    return first + fib(n - 2);
}

static uint64_t run_fib(uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < count; n++) {
        sum += fib(FIB_ARGUMENT);
    }
    return sum;
}

/* --- calls through pointers to eight functions --- */

#define TARGET(number, expression)                                                                 \
    static __attribute__((noinline)) uint64_t target_##number(uint64_t x)                          \
    {                                                                                              \
        return expression;                                                                         \
    }
TARGET(0, x + 1)
TARGET(1, x ^ 0x1234)
TARGET(2, x * 3)
TARGET(3, x - 77)
TARGET(4, x << 1 | x >> 63)
TARGET(5, ~x)
TARGET(6, x + (x >> 7))
TARGET(7, x ^ x << 5)
#undef TARGET

static uint64_t run_indirect(uint64_t count)
{
    static uint64_t (*const volatile targets[8])(uint64_t) = {
        target_0, target_1, target_2, target_3, target_4, target_5, target_6, target_7};
    uint64_t value = 1;
    for (uint64_t n = 0; n < count; n++) {
        value = targets[n % 8](value);
    }
    return value;
}

/* --- an interpreter of bytecode: one dispatch is one unit --- */

enum bytecode {
    BYTECODE_ADD,
    BYTECODE_SUBTRACT,
    BYTECODE_XOR,
    BYTECODE_LOAD,
    BYTECODE_STORE,
    BYTECODE_SHIFT,
    BYTECODE_SKIP_ODD,
    BYTECODE_CONSTANT,
    BYTECODE_RESTART,
};

static uint64_t run_interpreter(uint64_t count)
{
    static const uint8_t program[] = {
        BYTECODE_CONSTANT, 17, BYTECODE_ADD,   0, BYTECODE_XOR,      1, BYTECODE_STORE, 2,
        BYTECODE_SKIP_ODD, 0,  BYTECODE_SHIFT, 3, BYTECODE_LOAD,     4, BYTECODE_ADD,   2,
        BYTECODE_SUBTRACT, 5,  BYTECODE_STORE, 4, BYTECODE_SKIP_ODD, 0, BYTECODE_XOR,   7,
        BYTECODE_STORE,    1,  BYTECODE_LOAD,  5, BYTECODE_ADD,      6, BYTECODE_STORE, 6,
        BYTECODE_RESTART,  0,
    };
    static void *const labels[] = {&&add,   &&subtract, &&xor,      &&load,   &&store,
                                   &&shift, &&skip_odd, &&constant, &&restart};
    uint64_t slots[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    uint64_t accumulator = 0;
    const uint8_t *at = program;
#define NEXT                                                                                       \
    do {                                                                                           \
        at += 2;                                                                                   \
        if (count-- == 0) {                                                                        \
            goto done;                                                                             \
        }                                                                                          \
        goto *labels[at[0]];                                                                       \
    } while (0)
    at -= 2;
    NEXT;
add:
    accumulator += slots[at[1]];
    NEXT;
subtract:
    accumulator -= slots[at[1]];
    NEXT;
    xor : accumulator ^= slots[at[1]];
    NEXT;
load:
    accumulator = slots[at[1]];
    NEXT;
store:
    slots[at[1]] = accumulator;
    NEXT;
shift:
    accumulator = accumulator << at[1] | accumulator >> (64 - at[1]);
    NEXT;
skip_odd:
    if (accumulator & 1) {
        at += 2;
    }
    NEXT;
constant:
    accumulator += at[1];
    NEXT;
restart:
    at = program - 2;
    NEXT;
#undef NEXT
done:
    return accumulator ^ slots[1] ^ slots[6];
}

/* --- more code than caches hold --- */

static uint64_t bigcode_data[64];

static uint64_t run_bigcode(uint64_t count)
{
    memset(bigcode_data, 0, sizeof(bigcode_data));
    uint64_t value = 1;
    for (uint64_t n = 0; n < count; n++) {
        value = bigcode_run(value, bigcode_data);
    }
    return value;
}

/* The bounds of the section, by the linker. */
extern const uint8_t __start_bigcode[], __stop_bigcode[]; // NOLINT

static uint64_t run_bigcode_cold(uint64_t count)
{
    size_t size = (size_t)(__stop_bigcode - __start_bigcode);
    memset(bigcode_data, 0, sizeof(bigcode_data));
    uint64_t value = 1;
    for (uint64_t n = 0; n < count; n++) {
        bench_timer_stop();
        /* A copy at a new address, in fresh pages: nobody can have seen this code. */
        uint8_t *copy =
            mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (copy == MAP_FAILED) {
            bench_fail("mmap");
        }
        memcpy(copy, __start_bigcode, size);
        if (mprotect(copy, size, PROT_READ | PROT_EXEC) < 0) {
            bench_fail("mprotect");
        }
        uint64_t (*entry)(uint64_t, uint64_t *) = (uint64_t(*)(uint64_t, uint64_t *))(
            copy + ((const uint8_t *)bigcode_run - __start_bigcode));
        bench_timer_start();
        value = entry(value, bigcode_data);
        bench_timer_stop();
        (void)munmap(copy, size);
        bench_timer_start();
    }
    return value;
}

/* --- code that is written while it runs --- */

enum {
    JIT_BYTES = 512,
    JIT_SLOTS = 64,
    JIT_OPERATIONS = 64,
    JIT_CALLS = 50
};
static uint8_t *jit_memory;

static void prepare_jit(void)
{
    jit_memory = mmap(NULL, JIT_BYTES * JIT_SLOTS, PROT_READ | PROT_WRITE | PROT_EXEC,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (jit_memory == MAP_FAILED) {
        bench_fail("mmap of memory to write and execute");
    }
}

static uint32_t call_code(const uint8_t *code, uint32_t argument)
{
    return ((uint32_t(*)(uint32_t))code)(argument);
}

/* One number inside a function changes before each call. */
static uint64_t run_smc(uint64_t count)
{
    /* mov eax, 0; add eax, edi; ret */
    static const uint8_t code[] = {0xb8, 0, 0, 0, 0, 0x01, 0xf8, 0xc3};
    memcpy(jit_memory, code, sizeof(code));
    uint64_t sum = 0;
    for (uint64_t n = 0; n < count; n++) {
        uint32_t number = (uint32_t)n * 7;
        *(volatile uint32_t *)(jit_memory + 1) = number;
        sum += call_code(jit_memory, 5);
    }
    return sum;
}

/* What a JIT compiler does: a new function of 66 instructions, called a few times. */
static uint64_t run_jit(uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < count; n++) {
        uint8_t *start = jit_memory + n % JIT_SLOTS * JIT_BYTES, *at = start;
        *at++ = 0x89; /* mov eax, edi */
        *at++ = 0xf8;
        for (unsigned i = 0; i < JIT_OPERATIONS; i++) {
            static const uint8_t operations[] = {0x05, 0x35, 0x2d}; /* add, xor, sub eax, number */
            *at++ = operations[(i + n) % 3];
            uint32_t number = (uint32_t)(n * 31 + i);
            memcpy(at, &number, sizeof(number));
            at += sizeof(number);
        }
        *at = 0xc3; /* ret */
        __builtin___clear_cache((char *)start, (char *)at + 1);
        for (uint32_t call = 0; call < JIT_CALLS; call++) {
            sum += call_code(start, call);
        }
    }
    return sum;
}

const struct bench_case bench_control_cases[] = {
    {"fib", "fib(17)", run_fib, .check_count = 10},
    {"indirect", "indirect call", run_indirect, .check_count = 20000},
    {"interpreter", "bytecode", run_interpreter, .check_count = 20000},
    {"bigcode", "3000 functions", run_bigcode, .check_count = 3},
    {"bigcode_cold", "3000 fresh functions", run_bigcode_cold, .check_count = 2},
    {"smc", "store and call", run_smc, prepare_jit, .check_count = 200},
    {"jit", "function, 50 calls", run_jit, prepare_jit, .check_count = 100},
    {0},
};
