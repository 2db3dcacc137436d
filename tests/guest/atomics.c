/* Atomicity between processors: locked instructions of all kinds and places; what must not be torn; a lock of plain stores; page
 * table entries that the page walk changes too. */
#include "threads.h"

#define ATOMIC_OPS 3000u

/* --- locked instructions: nothing is lost --- */

/* Where: aligned, in a line, across lines, across pages. */
static uint8_t places[3 * PAGE] __attribute__((aligned(4096)));
static const struct {
    const char *name;
    uint32_t offset;
} place_names[] = {
    {"aligned", 64},
    {"misaligned", 64 + 3},
    {"across cache lines", 128 - 1},
    {"across pages", PAGE - 1},
};
static volatile uint8_t *place;
static volatile uint64_t done_ops[CPU_MAX];

/* Each adds 1 a round, by all the ways there are. 'old' serves CMPXCHG and XCHG. */
#define ADDING(name, type, suffix, reg)                                                            \
    static void name(void *arg)                                                                    \
    {                                                                                              \
        volatile type *at = (volatile type *)place;                                                \
        unsigned turn = 0, own = (unsigned)(uintptr_t)arg, i;                                      \
        meet(cpu_count, &turn);                                                                    \
        for (i = 0; i < ATOMIC_OPS && !is_out_of_time(); i++) {                                    \
            type one = 1, old = *at;                                                               \
            bool is_done;                                                                          \
            asm volatile("lock inc" suffix " %0" : "+m"(*at)::"memory", "cc");                     \
            asm volatile("lock add" suffix " $3, %0" : "+m"(*at)::"memory", "cc");                 \
            asm volatile("lock sub" suffix " $1, %0" : "+m"(*at)::"memory", "cc");                 \
            asm volatile("lock dec" suffix " %0" : "+m"(*at)::"memory", "cc");                     \
            asm volatile("lock xadd" suffix " %" reg "0, %1"                                       \
                         : "+q"(one), "+m"(*at)::"memory", "cc");                                  \
            asm volatile("stc; lock adc" suffix " $0, %0" : "+m"(*at)::"memory", "cc");            \
            asm volatile("stc; lock sbb" suffix " $1, %0" : "+m"(*at)::"memory", "cc");            \
            do {                                                                                   \
                asm volatile("lock cmpxchg" suffix " %" reg "3, %1; setz %2"                       \
                             : "+a"(old), "+m"(*at), "=&q"(is_done)                                \
                             : "q"((type)(old - 1))                                                \
                             : "memory", "cc");                                                    \
            } while (!is_done);                                                                    \
        }                                                                                          \
        done_ops[own] = i;                                                                         \
    }
ADDING(add_bytes, uint8_t, "b", "b")
ADDING(add_words, uint16_t, "w", "w")
ADDING(add_longs, uint32_t, "l", "k")
ADDING(add_quads, uint64_t, "q", "q")

/* Each processor turns its own bit over, with all that do it; others' bits must stay. A round leaves the bit as it was. */
static void turn_bits(void *arg)
{
    volatile uint64_t *at = (volatile uint64_t *)place;
    unsigned turn = 0;
    uint64_t own = (uintptr_t)arg, mask = BIT(own), rest = ~mask, bad = 0;
    meet(cpu_count, &turn);
    for (unsigned i = 0; i < ATOMIC_OPS && !is_out_of_time(); i++) {
        bool was;
        asm volatile("lock orq %1, %0" : "+m"(*at) : "r"(mask) : "memory", "cc");
        bad += !(*at & mask);
        asm volatile("lock btrq %2, %0; setc %1"
                     : "+m"(*at), "=&q"(was)
                     : "r"(own)
                     : "memory", "cc");
        bad += !was;
        asm volatile("lock btsq %2, %0; setc %1"
                     : "+m"(*at), "=&q"(was)
                     : "r"(own)
                     : "memory", "cc");
        bad += was;
        asm volatile("lock andq %1, %0" : "+m"(*at) : "r"(rest) : "memory", "cc");
        bad += (*at & mask) != 0;
        asm volatile("lock xorq %1, %0" : "+m"(*at) : "r"(mask) : "memory", "cc");
        bad += !(*at & mask);
        asm volatile("lock btcq %2, %0; setc %1"
                     : "+m"(*at), "=&q"(was)
                     : "r"(own)
                     : "memory", "cc");
        bad += !was;
        /* An even number of times over all processors together. */
        asm volatile("lock negq %0" : "+m"(*(volatile uint64_t *)(place + 16))::"memory", "cc");
        asm volatile("lock negq %0" : "+m"(*(volatile uint64_t *)(place + 16))::"memory", "cc");
    }
    done_ops[own] = bad;
}

static void turn_all_bits(void *arg)
{
    volatile uint64_t *at = (volatile uint64_t *)place;
    unsigned turn = 0;
    uint64_t own = (uintptr_t)arg;
    meet(cpu_count, &turn);
    unsigned i;
    for (i = 0; i < ATOMIC_OPS && !is_out_of_time(); i++) {
        asm volatile("lock notq %0" : "+m"(*at)::"memory", "cc");
    }
    done_ops[own] = i;
}

static volatile uint64_t taken __attribute__((aligned(64)));

/* A number goes from hand to hand by XCHG: none is lost, none doubled. */
static void pass_tokens(void *arg)
{
    volatile uint64_t *at = (volatile uint64_t *)place;
    unsigned turn = 0;
    uint64_t own = (uintptr_t)arg, token = own + 1;
    meet(cpu_count, &turn);
    for (unsigned i = 0; i < ATOMIC_OPS && !is_out_of_time(); i++) {
        asm volatile("xchgq %0, %1" : "+r"(token), "+m"(*at)::"memory");
    }
    __atomic_fetch_add(&taken, BIT(8 * token), __ATOMIC_SEQ_CST);
}

static uint64_t sum_of_ops(void)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < cpu_count; i++) {
        sum += done_ops[i];
    }
    return sum;
}

static void test_locked(const char *where, uint32_t offset)
{
    static const struct {
        const char *name;
        void (*fn)(void *arg);
        unsigned bytes;
    } widths[] = {{"LOCK, 8 bits", add_bytes, 1},
                  {"LOCK, 16 bits", add_words, 2},
                  {"LOCK, 32 bits", add_longs, 4},
                  {"LOCK, 64 bits", add_quads, 8}};
    print_text(where);
    print_text("\n");
    place = places + offset;
    for (size_t i = 0; i < ARRAY_COUNT(widths); i++) {
        memset(places, 0, sizeof(places));
        begin_part(TEST_MS);
        on_threads(cpu_count, widths[i].fn);
        /* 1 + 3 - 1 - 1 + 1 + 1 - 2 - 1 a round */
        uint64_t expected = sum_of_ops(), got = 0;
        expected &= widths[i].bytes == 8 ? UINT64_MAX : BIT(8 * widths[i].bytes) - 1;
        memcpy(&got, (const void *)place, widths[i].bytes);
        check_equal(widths[i].name, expected, got);
        check_equal("and nothing beside it", 0, place[-1] | place[widths[i].bytes]);
    }
    memset(places, 0, sizeof(places));
    *(volatile uint64_t *)(place + 16) = 5;
    begin_part(TEST_MS);
    on_threads(cpu_count, turn_bits);
    check_equal("LOCK OR, AND, XOR, BTS, BTR, BTC: each its own bit", 0, sum_of_ops());
    check_equal("and no other one", 0, read64((uintptr_t)place));
    check_equal("LOCK NEG", 5, read64((uintptr_t)place + 16));
    begin_part(TEST_MS);
    on_threads(cpu_count, turn_all_bits);
    check_equal("LOCK NOT", sum_of_ops() & 1 ? UINT64_MAX : 0, read64((uintptr_t)place));
    taken = 0;
    *(volatile uint64_t *)place = 0;
    begin_part(TEST_MS);
    on_threads(cpu_count, pass_tokens);
    taken += BIT(8 * *(volatile uint64_t *)place);
    uint64_t each_once = 0;
    for (unsigned i = 0; i <= cpu_count; i++) {
        each_once |= BIT(8 * i);
    }
    check_equal("XCHG: each value once", each_once, taken);
}

/* --- wide values, and what one instruction writes, are never half there --- */

static volatile __uint128_t wide __attribute__((aligned(64)));
static volatile bool stop;
static volatile uint64_t torn, writes;

static void compare_wide(uint64_t *low, uint64_t *high, uint64_t new_low, uint64_t new_high,
                         bool *out_done)
{
    asm volatile("lock cmpxchg16b %2; setz %3"
                 : "+a"(*low), "+d"(*high), "+m"(wide), "=q"(*out_done)
                 : "b"(new_low), "c"(new_high)
                 : "memory", "cc");
}

/* The first processor writes n, ~n; the others must never see another pair, whether they compare or load with SSE. */
static void pair_thread(void *arg)
{
    uint64_t low = 0, high = UINT64_MAX;
    bool is_done;
    if (arg == NULL) {
        while (!is_out_of_time()) {
            do {
                compare_wide(&low, &high, low + 1, ~(low + 1), &is_done);
            } while (!is_done);
            low++;
            high = ~low;
            writes++;
        }
        stop = true;
        return;
    }
    while (!stop) {
        low = high = 1; /* what is never there: a load */
        compare_wide(&low, &high, 1, 1, &is_done);
        torn += is_done || high != ~low;
    }
}

static void sse_pair_thread(void *arg)
{
    WRITE_CR(4, READ_CR(4) | BIT(9) | BIT(10)); /* OSFXSR, OSXMMEXCPT */
    uint64_t low = 0, high = UINT64_MAX;
    if (arg == NULL) {
        while (!is_out_of_time()) {
            low++;
            high = ~low;
            asm volatile(
                "movq %1, %%xmm0; movq %2, %%xmm1; punpcklqdq %%xmm1, %%xmm0; movdqa %%xmm0, %0"
                : "=m"(wide)
                : "r"(low), "r"(high)
                : "memory");
            writes++;
        }
        stop = true;
        return;
    }
    while (!stop) {
        asm volatile("movdqa %2, %%xmm0; movq %%xmm0, %0; psrldq $8, %%xmm0; movq %%xmm0, %1"
                     : "=r"(low), "=r"(high)
                     : "m"(wide)
                     : "memory");
        torn += high != ~low;
    }
}

/* Plain accesses of up to 8 bytes within a cache line (SDM 3A 8.1.1). */
#define TEARING(name, type, value)                                                                 \
    static void name(void *arg)                                                                    \
    {                                                                                              \
        volatile type *at = (volatile type *)place;                                                \
        if (arg == NULL) {                                                                         \
            for (uint64_t i = 0; !is_out_of_time(); i++) {                                         \
                *at = i & 1 ? (type)(value) : 0;                                                   \
                writes++;                                                                          \
            }                                                                                      \
            stop = true;                                                                           \
            return;                                                                                \
        }                                                                                          \
        while (!stop) {                                                                            \
            type seen = *at;                                                                       \
            torn += seen != 0 && seen != (type)(value);                                            \
        }                                                                                          \
    }
TEARING(tear_words, uint16_t, UINT16_MAX)
TEARING(tear_longs, uint32_t, UINT32_MAX)
TEARING(tear_quads, uint64_t, UINT64_MAX)

static void check_whole(const char *name, void (*fn)(void *arg))
{
    torn = writes = 0;
    stop = false;
    begin_part(TEST_MS);
    on_threads(cpu_count, fn);
    check_equal(name, 0, torn);
}

static void test_whole(bool has_wide)
{
    ((volatile uint64_t *)&wide)[0] = 0;
    ((volatile uint64_t *)&wide)[1] = UINT64_MAX;
    if (has_wide) {
        check_whole("CMPXCHG16B: never half", pair_thread);
    } else {
        check_skipped("CMPXCHG16B", "the processor has none");
    }
    /* Promised where there is AVX. */
    if (cpuid(1, 0).ecx & BIT(28)) {
        ((volatile uint64_t *)&wide)[0] = 0;
        ((volatile uint64_t *)&wide)[1] = UINT64_MAX;
        check_whole("MOVDQA: never half", sse_pair_thread);
    } else {
        check_skipped("MOVDQA: never half", "promised with AVX only");
    }
    static const uint32_t offsets[] = {64, 64 + 1, 128 - 8};
    for (size_t i = 0; i < ARRAY_COUNT(offsets); i++) {
        place = places + offsets[i];
        memset(places, 0, sizeof(places));
        check_whole("16 bits: never half", tear_words);
        memset(places, 0, sizeof(places));
        check_whole("32 bits: never half", tear_longs);
        memset(places, 0, sizeof(places));
        check_whole("64 bits: never half", tear_quads);
    }
}

/* --- a lock made of plain stores and fences --- */

static struct {
    volatile uint64_t wants[2] __attribute__((aligned(64)));
    volatile uint64_t turn __attribute__((aligned(64)));
    volatile uint64_t count __attribute__((aligned(64)));
} peterson;

static void peterson_thread(void *arg)
{
    unsigned own = arg != NULL, turn = 0;
    uint64_t i;
    meet(2, &turn);
    for (i = 0; i < 20 * ATOMIC_OPS && !is_out_of_time(); i++) {
        peterson.wants[own] = 1;
        peterson.turn = 1 - own;
        asm volatile("mfence" ::: "memory");
        while (peterson.wants[1 - own] && peterson.turn == 1 - own) {
            pause();
        }
        peterson.count = peterson.count + 1; /* not atomic */
        peterson.wants[own] = 0;
    }
    done_ops[own] = i;
}

/* --- page table entries: what the walk sets, and what others write beside it --- */

#define COUNT_BIT 52 /* bits 52 to 58 are software's */
static uint64_t *entry;
static uint64_t entry_gva = TEST_GVA;

static void entry_thread(void *arg)
{
    unsigned turn = 0, own = (unsigned)(uintptr_t)arg;
    uint64_t bad = 0, i;
    meet(2, &turn);
    for (i = 0; i < ATOMIC_OPS && !is_out_of_time(); i++) {
        if (own != 0) {
            asm volatile("lock addq %1, %0" : "+m"(*entry) : "r"(BIT(COUNT_BIT)) : "memory", "cc");
            asm volatile("lock subq %1, %0" : "+m"(*entry) : "r"(BIT(COUNT_BIT)) : "memory", "cc");
            asm volatile("lock xorq %1, %0" : "+m"(*entry) : "r"(BIT(9)) : "memory", "cc");
            continue;
        }
        asm volatile("lock andq %1, %0" : "+m"(*entry) : "r"(~(PTE_A | PTE_D)) : "memory", "cc");
        invlpg(entry_gva);
        (void)read32(entry_gva);
        bad += !(*(volatile uint64_t *)entry & PTE_A);
        write32(entry_gva, (uint32_t)i);
        bad += (*(volatile uint64_t *)entry & (PTE_A | PTE_D)) != (PTE_A | PTE_D);
    }
    done_ops[own] = own != 0 ? i : bad;
}

static void test_entries(void)
{
    uint64_t frame = page_alloc();
    page_map(entry_gva, frame | PTE_P | PTE_W, 1);
    entry = page_entry(entry_gva, 1);
    begin_part(2 * TEST_MS);
    on_threads(2, entry_thread);
    check_equal("A and D are set", 0, done_ops[0]);
    uint64_t expected = frame | PTE_P | PTE_W | PTE_A | PTE_D | (done_ops[1] & 1 ? BIT(9) : 0);
    check_equal("page table entry: no change is lost", expected, *entry);
}

void guest_main(void)
{
    if (!has_several_processors()) {
        return;
    }
    for (size_t i = 0; i < ARRAY_COUNT(place_names); i++) {
        test_locked(place_names[i].name, place_names[i].offset);
    }
    test_whole(cpuid(1, 0).ecx & BIT(13));
    memset(&peterson, 0, sizeof(peterson));
    begin_part(TEST_MS);
    on_threads(2, peterson_thread);
    check_equal("Peterson's lock with MFENCE", done_ops[0] + done_ops[1], peterson.count);
    test_entries();
}
