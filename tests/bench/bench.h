/* The cases of hull-bench: small programs named for what they do, each with a checksum that is the same wherever it runs. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bench_case {
    const char *name;
    const char *unit; /* what one of 'count' is */
    /* Does 'count' units of work. The checksum depends on count and on nothing else: not on the
     * machine, the time or the addresses. */
    uint64_t (*run)(uint64_t count);
    /* Allocates and fills what run needs; not timed. May be NULL. */
    void (*prepare)(void);
    /* NULL, or what the processor lacks for this case (NULL if it lacks nothing). */
    const char *(*lacks)(void);
    uint64_t check_count; /* count for checks without timing; small */
    unsigned threads;     /* that compute at the same time; 0 means 1 */
    bool is_smp;          /* worth measuring with two CPUs, too */
};

/* Tables that end with a case without a name. */
extern const struct bench_case bench_compute_cases[];
extern const struct bench_case bench_control_cases[];
extern const struct bench_case bench_memory_cases[];
extern const struct bench_case bench_vector_cases[];
extern const struct bench_case bench_system_cases[];
extern const struct bench_case bench_process_cases[];
extern const struct bench_case bench_thread_cases[];

uint64_t bench_now_ns(void);

/* What happens between the two does not count: a case calls them around work of its own that is
 * not its subject. */
void bench_timer_stop(void);
void bench_timer_start(void);

/* Ends the process with a message: a case cannot go on. */
_Noreturn void bench_fail(const char *what);

/* 'size' bytes of zeros, page-aligned; never freed. */
void *bench_allocate(size_t size);

/* The same pseudo-random numbers everywhere (xorshift64*); *state must not be 0. */
static inline uint64_t bench_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dull;
}

/* Mixes a value into a checksum. */
static inline uint64_t bench_mix(uint64_t checksum, uint64_t value)
{
    checksum ^= value + 0x9e3779b97f4a7c15ull + (checksum << 6) + (checksum >> 2);
    return checksum * 0xff51afd7ed558ccdull;
}

/* One block of SHA-256, scalar code; 'state' as FIPS 180-4 has it. */
void bench_sha256_block(uint32_t state[8], const uint8_t block[64]);
/* 'count' blocks, each the digest of the one before; the end state. */
uint64_t bench_sha256_chain(uint64_t count, uint8_t seed);

/* bigcode.c, generated: many functions in the section "bigcode" of their own, which works at any
 * address. */
uint64_t bigcode_run(uint64_t value, uint64_t *data);
