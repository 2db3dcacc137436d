/* Memory: latency, pages, block copies, string instructions. */
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

/* --- chains of pointers --- */

enum {
    CHASE_LINE = 64,
    CHASE_SMALL = 16 << 10,
    CHASE_LARGE = 64 << 20
};

static void **chase_small, **chase_large;

/* One cycle through all lines in random order (Sattolo's shuffle); each holds the place of the next
 * and its own number. */
static void **make_chain(size_t size)
{
    size_t lines = size / CHASE_LINE;
    uint8_t *memory = bench_allocate(size);
    uint32_t *order = bench_allocate(lines * sizeof(*order));
    for (size_t i = 0; i < lines; i++) {
        order[i] = (uint32_t)i;
    }
    uint64_t random = 5;
    for (size_t i = lines - 1; i > 0; i--) {
        size_t j = bench_random(&random) % i;
        uint32_t kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
    for (size_t i = 0; i < lines; i++) {
        void **line = (void **)(memory + (size_t)order[i] * CHASE_LINE);
        line[0] = memory + (size_t)order[(i + 1) % lines] * CHASE_LINE;
        line[1] = (void *)(uintptr_t)order[i];
    }
    return (void **)memory;
}

static void prepare_chase_small(void)
{
    chase_small = make_chain(CHASE_SMALL);
}

static void prepare_chase_large(void)
{
    chase_large = make_chain(CHASE_LARGE);
}

static uint64_t chase(void **start, uint64_t count)
{
    void **at = start;
    for (uint64_t n = 0; n < count; n++) {
        at = *at;
        /* Each step waits for the one before, and cannot be left out. */
        __asm__ volatile("" : "+r"(at));
    }
    return (uint64_t)(uintptr_t)at[1];
}

static uint64_t run_chase_small(uint64_t count)
{
    return chase(chase_small, count);
}

static uint64_t run_chase_large(uint64_t count)
{
    return chase(chase_large, count);
}

/* --- random pages --- */

enum {
    TOUCH_PAGES = 192 << 8,
    PAGE = 4096
};
static uint8_t *touch_memory;

static void prepare_touch(void)
{
    touch_memory = bench_allocate((size_t)TOUCH_PAGES * PAGE);
    /* Small pages, so that each touch is another translation. */
    (void)madvise(touch_memory, (size_t)TOUCH_PAGES * PAGE, MADV_NOHUGEPAGE);
    for (size_t page = 0; page < TOUCH_PAGES; page++) {
        touch_memory[page * PAGE] = (uint8_t)page;
    }
}

static uint64_t run_touch(uint64_t count)
{
    uint64_t random = 9, sum = 0;
    for (uint64_t n = 0; n < count; n++) {
        sum += touch_memory[(bench_random(&random) >> 32) % TOUCH_PAGES * PAGE];
    }
    return sum;
}

/* --- blocks --- */

enum {
    BLOCK = 65536,
    SMALL_BLOCK = 256
};
static uint8_t *block_from, *block_to;

static void prepare_blocks(void)
{
    block_from = bench_allocate(BLOCK);
    block_to = bench_allocate(BLOCK);
    uint64_t random = 13;
    for (size_t i = 0; i < BLOCK; i++) {
        block_from[i] = (uint8_t)bench_random(&random);
    }
}

static uint64_t block_checksum(const uint8_t *block, size_t size)
{
    uint64_t checksum = 0;
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word;
        memcpy(&word, block + i, sizeof(word));
        checksum = bench_mix(checksum, word);
    }
    return checksum;
}

/* The barriers keep the compiler from seeing that the copies repeat. */
static uint64_t run_memcpy(uint64_t count)
{
    for (uint64_t n = 0; n < count; n++) {
        block_from[n % BLOCK]++;
        memcpy(block_to, block_from, BLOCK);
        __asm__ volatile("" ::: "memory");
    }
    for (uint64_t n = 0; n < count; n++) {
        block_from[n % BLOCK]--;
    }
    return block_checksum(block_to, BLOCK);
}

static uint64_t run_memset(uint64_t count)
{
    for (uint64_t n = 0; n < count; n++) {
        memset(block_to, (int)(n & 0xff), BLOCK);
        __asm__ volatile("" ::: "memory");
    }
    return block_checksum(block_to, BLOCK);
}

static void rep_movsb(uint8_t *to, const uint8_t *from, size_t size)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

static uint64_t run_movsb_small(uint64_t count)
{
    for (uint64_t n = 0; n < count; n++) {
        rep_movsb(block_to + n * 64 % (BLOCK / 2), block_from + n * 192 % (BLOCK / 2), SMALL_BLOCK);
    }
    return block_checksum(block_to + (count - 1) * 64 % (BLOCK / 2), SMALL_BLOCK);
}

static uint64_t run_movsb_large(uint64_t count)
{
    for (uint64_t n = 0; n < count; n++) {
        rep_movsb(block_to, block_from, BLOCK);
    }
    return block_checksum(block_to, BLOCK);
}

static uint64_t run_stosq(uint64_t count)
{
    for (uint64_t n = 0; n < count; n++) {
        void *to = block_to + n * PAGE % BLOCK;
        size_t words = PAGE / 8;
        __asm__ volatile("rep stosq" : "+D"(to), "+c"(words) : "a"(n) : "memory");
    }
    return block_checksum(block_to + (count - 1) * PAGE % BLOCK, PAGE);
}

/* --- strings: as the C library does them, that is with AVX2 or better where there is --- */

enum {
    STRING_SIZE = 800
};
static char string_text[STRING_SIZE + 1];

static void prepare_string(void)
{
    for (size_t i = 0; i < STRING_SIZE; i++) {
        string_text[i] = (char)('a' + i % 23);
    }
    string_text[STRING_SIZE - 5] = 'z';
}

static uint64_t run_string(uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < count; n++) {
        const char *text = string_text + n % 64;
        __asm__ volatile("" : "+r"(text) : : "memory");
        size_t length = strlen(text);
        const char *found = strchr(text, 'z');
        sum += length * 3 + (size_t)(found - text);
    }
    return sum;
}

const struct bench_case bench_memory_cases[] = {
    {"chase_l1", "load", run_chase_small, prepare_chase_small, .check_count = 20000},
    {"chase_64m", "load", run_chase_large, prepare_chase_large, .check_count = 20000},
    {"touch_192m", "page", run_touch, prepare_touch, .check_count = 20000},
    {"memcpy", "64 KiB", run_memcpy, prepare_blocks, .check_count = 3},
    {"memset", "64 KiB", run_memset, prepare_blocks, .check_count = 3},
    {"movsb_256", "256 bytes", run_movsb_small, prepare_blocks, .check_count = 20},
    {"movsb_64k", "64 KiB", run_movsb_large, prepare_blocks, .check_count = 2},
    {"stosq_4k", "4 KiB", run_stosq, prepare_blocks, .check_count = 10},
    {"string", "strlen, strchr of 800", run_string, prepare_string, .check_count = 100},
    {0},
};
