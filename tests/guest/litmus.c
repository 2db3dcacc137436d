/* Memory order between processors: short programs of two to four threads, run many times, whose outcomes are allowed or forbidden
 * by the architecture (SDM 3A 8.2.2 and 8.2.3, APM 2 7.2; x86-TSO). Threads walk through a batch of slots side by side without
 * waiting for each other, so that they drift. */
#include "threads.h"

#define SLOTS       128u
#define START_TICKS 3000u
#define THREADS     4u
#define MAX_BATCHES 3000u

/* Each in a cache line of its own. */
struct slot {
    volatile uint64_t x __attribute__((aligned(64)));
    volatile uint64_t y __attribute__((aligned(64)));
    volatile uint64_t z __attribute__((aligned(64)));
    volatile uint8_t block[64] __attribute__((aligned(64)));
};
struct result {
    uint64_t first, second;
} __attribute__((aligned(64)));

struct test {
    const char *name;
    unsigned threads;
    void (*body[THREADS])(struct slot *slot, struct result *result);
    bool (*is_forbidden)(const struct slot *slot, const struct result *result);
    bool is_allowed; /* the outcome may be seen; how often is printed */
    bool needs_wide; /* CMPXCHG16B */
};

static struct slot slots[SLOTS];
static struct result results[SLOTS][THREADS];
static const struct test *current;
static volatile bool is_over;
static uint64_t outcomes, rounds;

#define OUT(value) "=&r"(value)
#define BODY(name, ...)                                                                            \
    static void name(struct slot *s, struct result *r)                                             \
    {                                                                                              \
        (void)r;                                                                                   \
        __VA_ARGS__                                                                                \
    }
#define STORE(what, value) asm volatile("movq %1, %0" : "=m"(what) : "i"(value) : "memory")
#define LOAD(what, into)                                                                           \
    do {                                                                                           \
        uint64_t value_;                                                                           \
        asm volatile("movq %1, %0" : "=r"(value_) : "m"(what) : "memory");                         \
        (into) = value_;                                                                           \
    } while (0)
/* Several accesses are one statement, so that nothing of the compiler's stands between them. */
#define STORE_LOAD(to, middle, from)                                                               \
    do {                                                                                           \
        uint64_t value_;                                                                           \
        asm volatile("movq $1, %1\n\t" middle "movq %2, %0"                                        \
                     : OUT(value_), "+m"(to)                                                       \
                     : "m"(from)                                                                   \
                     : "memory", "cc");                                                            \
        r->first = value_;                                                                         \
    } while (0)
#define LOAD_LOAD(one, other)                                                                      \
    do {                                                                                           \
        uint64_t a_, b_;                                                                           \
        asm volatile("movq %2, %0\n\t movq %3, %1"                                                 \
                     : OUT(a_), OUT(b_)                                                            \
                     : "m"(one), "m"(other)                                                        \
                     : "memory");                                                                  \
        r->first = a_;                                                                             \
        r->second = b_;                                                                            \
    } while (0)
#define LOAD_STORE(from, to, value)                                                                \
    do {                                                                                           \
        uint64_t a_;                                                                               \
        asm volatile("movq %2, %0\n\t movq %3, %1"                                                 \
                     : OUT(a_), "+m"(to)                                                           \
                     : "m"(from), "i"(value)                                                       \
                     : "memory");                                                                  \
        r->first = a_;                                                                             \
    } while (0)
#define STORE_STORE(one, value, other, value2)                                                     \
    asm volatile("movq %2, %0\n\t movq %3, %1"                                                     \
                 : "=m"(one), "=m"(other)                                                          \
                 : "i"(value), "i"(value2)                                                         \
                 : "memory")

/* Store buffering: x = 1; read y. And: y = 1; read x. Both may read 0, unless something between waits for the store. */
BODY(sb_0, STORE_LOAD(s->x, "", s->y);)
BODY(sb_1, STORE_LOAD(s->y, "", s->x);)
BODY(sb_mfence_0, STORE_LOAD(s->x, "mfence\n\t", s->y);)
BODY(sb_mfence_1, STORE_LOAD(s->y, "mfence\n\t", s->x);)
BODY(sb_lock_0, STORE_LOAD(s->x, "lock orl $0, (%%rsp)\n\t", s->y);)
BODY(sb_lock_1, STORE_LOAD(s->y, "lock orl $0, (%%rsp)\n\t", s->x);)
/* Its destination is not written: a barrier all the same. */
#define FAILED_COMPARE                                                                             \
    "movq $5, %%rax\n\t movq $0, -256(%%rsp)\n\t lock cmpxchgq %%rax, -256(%%rsp)\n\t"
#define SB_COMPARE(to, from)                                                                       \
    do {                                                                                           \
        uint64_t value_;                                                                           \
        asm volatile("movq $1, %1\n\t" FAILED_COMPARE "movq %2, %0"                                \
                     : OUT(value_), "+m"(to)                                                       \
                     : "m"(from)                                                                   \
                     : "memory", "cc", "rax");                                                     \
        r->first = value_;                                                                         \
    } while (0)
BODY(sb_compare_0, SB_COMPARE(s->x, s->y);)
BODY(sb_compare_1, SB_COMPARE(s->y, s->x);)
#define SB_CPUID(to, from)                                                                         \
    do {                                                                                           \
        uint64_t value_;                                                                           \
        asm volatile("movq $1, %1\n\t xorl %%eax, %%eax\n\t cpuid\n\t movq %2, %0"                 \
                     : OUT(value_), "+m"(to)                                                       \
                     : "m"(from)                                                                   \
                     : "memory", "cc", "rax", "rbx", "rcx", "rdx");                                \
        r->first = value_;                                                                         \
    } while (0)
BODY(sb_cpuid_0, SB_CPUID(s->x, s->y);)
BODY(sb_cpuid_1, SB_CPUID(s->y, s->x);)
/* The store itself is a locked instruction. */
#define SB_LOCKED(instruction, to, from)                                                           \
    do {                                                                                           \
        uint64_t value_, one_ = 1, old_ = 0;                                                       \
        asm volatile(instruction "\n\t movq %4, %0"                                                \
                     : OUT(value_), "+r"(one_), "+a"(old_), "+m"(to)                               \
                     : "m"(from)                                                                   \
                     : "memory", "cc");                                                            \
        r->first = value_;                                                                         \
    } while (0)
BODY(sb_xchg_0, SB_LOCKED("xchgq %1, %3", s->x, s->y);)
BODY(sb_xchg_1, SB_LOCKED("xchgq %1, %3", s->y, s->x);)
BODY(sb_xadd_0, SB_LOCKED("lock xaddq %1, %3", s->x, s->y);)
BODY(sb_xadd_1, SB_LOCKED("lock xaddq %1, %3", s->y, s->x);)
BODY(sb_inc_0, SB_LOCKED("lock incq %3", s->x, s->y);)
BODY(sb_inc_1, SB_LOCKED("lock incq %3", s->y, s->x);)
BODY(sb_bts_0, SB_LOCKED("lock btsq $0, %3", s->x, s->y);)
BODY(sb_bts_1, SB_LOCKED("lock btsq $0, %3", s->y, s->x);)
BODY(sb_cmpxchg_0, SB_LOCKED("lock cmpxchgq %1, %3", s->x, s->y);)
BODY(sb_cmpxchg_1, SB_LOCKED("lock cmpxchgq %1, %3", s->y, s->x);)
#define SB_WIDE(to, from)                                                                          \
    do {                                                                                           \
        uint64_t value_, low_ = 0, high_ = 0;                                                      \
        asm volatile("lock cmpxchg16b %3\n\t movq %4, %0"                                          \
                     : OUT(value_), "+a"(low_), "+d"(high_), "+m"(*(volatile __uint128_t *)&(to))  \
                     : "m"(from), "b"(1ull), "c"(0ull)                                             \
                     : "memory", "cc");                                                            \
        r->first = value_;                                                                         \
    } while (0)
BODY(sb_wide_0, SB_WIDE(s->x, s->y);)
BODY(sb_wide_1, SB_WIDE(s->y, s->x);)

static bool both_zero(const struct slot *s, const struct result *r)
{
    (void)s;
    return r[0].first == 0 && r[1].first == 0;
}

/* A processor reads its own store early (SDM 3A 8.2.3.5): allowed. */
#define FORWARD(to, from)                                                                          \
    do {                                                                                           \
        uint64_t a_, b_;                                                                           \
        asm volatile("movq $1, %2\n\t movq %2, %0\n\t movq %3, %1"                                 \
                     : OUT(a_), OUT(b_), "+m"(to)                                                  \
                     : "m"(from)                                                                   \
                     : "memory");                                                                  \
        r->first = a_;                                                                             \
        r->second = b_;                                                                            \
    } while (0)
BODY(forward_0, FORWARD(s->x, s->y);)
BODY(forward_1, FORWARD(s->y, s->x);)

static bool own_before_others(const struct slot *s, const struct result *r)
{
    (void)s;
    return r[0].first == 1 && r[1].first == 1 && r[0].second == 0 && r[1].second == 0;
}

static bool own_not_seen(const struct slot *s, const struct result *r)
{
    (void)s;
    return r[0].first != 1 || r[1].first != 1;
}

/* Message passing. */
BODY(mp_write, STORE_STORE(s->x, 1, s->y, 1);)
BODY(mp_read, LOAD_LOAD(s->y, s->x);)
BODY(mp_write_bytes,
     asm volatile("movb $1, %0\n\t movw $1, %1"
                  : "=m"(*(volatile uint8_t *)&s->x), "=m"(*(volatile uint16_t *)&s->y)::"memory");)
/* Weakly ordered stores become ordered by SFENCE. */
BODY(mp_write_nti, asm volatile("movntiq %2, %0\n\t sfence\n\t movq $1, %1"
                                : "=m"(s->x), "=m"(s->y)
                                : "r"(1ull)
                                : "memory");)
static bool flag_without_data(const struct slot *s, const struct result *r)
{
    (void)s;
    return r[1].first == 1 && r[1].second == 0;
}

/* Stores after a string instruction come after all of its stores (SDM 3A 8.2.4). */
BODY(mp_write_string, uint64_t to = (uintptr_t)s->block, count = 64;
     asm volatile("cld\n\t rep stosb\n\t movq $1, %2"
                  : "+D"(to), "+c"(count), "=m"(s->y)
                  : "a"(1)
                  : "memory");)
static const uint8_t ones[64] = {[0 ... 63] = 1};
BODY(mp_write_copy, uint64_t to = (uintptr_t)s->block, from = (uintptr_t)ones, count = 8;
     asm volatile("cld\n\t rep movsq\n\t movq $1, %3"
                  : "+D"(to), "+S"(from), "+c"(count), "=m"(s->y)::"memory");)
BODY(mp_read_string, uint64_t flag, first, last;
     asm volatile("movq %3, %0\n\t movzbl %4, %k1\n\t movzbl %5, %k2"
                  : OUT(flag), OUT(first), OUT(last)
                  : "m"(s->y), "m"(s->block[63]), "m"(s->block[0])
                  : "memory");
     r->first = flag; r->second = first & last;)

/* Load buffering. */
BODY(lb_0, LOAD_STORE(s->x, s->y, 1);)
BODY(lb_1, LOAD_STORE(s->y, s->x, 1);)
static bool both_one(const struct slot *s, const struct result *r)
{
    (void)s;
    return r[0].first == 1 && r[1].first == 1;
}

/* Stores in opposite order: somebody's second is last. */
BODY(ww_0, STORE_STORE(s->x, 1, s->y, 2);)
BODY(ww_1, STORE_STORE(s->y, 1, s->x, 2);)
static bool both_first(const struct slot *s, const struct result *r)
{
    (void)r;
    return s->x == 1 && s->y == 1;
}

BODY(s_0, STORE_STORE(s->x, 2, s->y, 1);)
BODY(s_1, LOAD_STORE(s->y, s->x, 1);)
static bool store_before_cause(const struct slot *s, const struct result *r)
{
    return r[1].first == 1 && s->x == 2;
}

BODY(r_0, STORE_STORE(s->x, 1, s->y, 1);)
BODY(r_1, uint64_t a; asm volatile("movq $2, %1\n\t mfence\n\t movq %2, %0"
                                   : OUT(a), "+m"(s->y)
                                   : "m"(s->x)
                                   : "memory");
     r->first = a;)
static bool last_without_first(const struct slot *s, const struct result *r)
{
    return s->y == 2 && r[1].first == 0;
}

/* One place: nobody goes back in time. */
BODY(co_write, STORE_STORE(s->x, 1, s->x, 2);)
BODY(co_read, LOAD_LOAD(s->x, s->x);)
static bool backwards(const struct slot *s, const struct result *r)
{
    (void)s;
    return r[1].first > r[1].second;
}

/* Three and four processors: stores come to all others in one order. */
BODY(write_x, STORE(s->x, 1);)
BODY(write_y, STORE(s->y, 1);)
BODY(read_x_write_y, LOAD_STORE(s->x, s->y, 1);)
BODY(read_y_write_z, LOAD_STORE(s->y, s->z, 1);)
BODY(read_yx, LOAD_LOAD(s->y, s->x);)
BODY(read_xy, LOAD_LOAD(s->x, s->y);)
BODY(read_zx, LOAD_LOAD(s->z, s->x);)
static bool effect_without_cause(const struct slot *s, const struct result *r)
{
    (void)s;
    return r[1].first == 1 && r[2].first == 1 && r[2].second == 0;
}
static bool two_orders(const struct slot *s, const struct result *r)
{
    (void)s;
    return r[2].first == 1 && r[2].second == 0 && r[3].first == 1 && r[3].second == 0;
}
BODY(xchg_x, uint64_t one = 1; asm volatile("xchgq %0, %1" : "+r"(one), "+m"(s->x)::"memory");)
BODY(xchg_y, uint64_t one = 1; asm volatile("xchgq %0, %1" : "+r"(one), "+m"(s->y)::"memory");)

static const struct test tests[] = {
    {"store buffering", 2, {sb_0, sb_1}, both_zero, true, false},
    {"store buffering, reads of one's own",
     2,
     {forward_0, forward_1},
     own_before_others,
     true,
     false},
    {"one's own store is seen", 2, {forward_0, forward_1}, own_not_seen, false, false},
    {"store buffering, MFENCE", 2, {sb_mfence_0, sb_mfence_1}, both_zero, false, false},
    {"store buffering, LOCK OR of something else",
     2,
     {sb_lock_0, sb_lock_1},
     both_zero,
     false,
     false},
    {"store buffering, LOCK CMPXCHG that fails",
     2,
     {sb_compare_0, sb_compare_1},
     both_zero,
     false,
     false},
    {"store buffering, CPUID", 2, {sb_cpuid_0, sb_cpuid_1}, both_zero, false, false},
    {"store buffering by XCHG", 2, {sb_xchg_0, sb_xchg_1}, both_zero, false, false},
    {"store buffering by LOCK XADD", 2, {sb_xadd_0, sb_xadd_1}, both_zero, false, false},
    {"store buffering by LOCK INC", 2, {sb_inc_0, sb_inc_1}, both_zero, false, false},
    {"store buffering by LOCK BTS", 2, {sb_bts_0, sb_bts_1}, both_zero, false, false},
    {"store buffering by LOCK CMPXCHG", 2, {sb_cmpxchg_0, sb_cmpxchg_1}, both_zero, false, false},
    {"store buffering by LOCK CMPXCHG16B", 2, {sb_wide_0, sb_wide_1}, both_zero, false, true},
    {"message passing", 2, {mp_write, mp_read}, flag_without_data, false, false},
    {"message passing by bytes and words",
     2,
     {mp_write_bytes, mp_read},
     flag_without_data,
     false,
     false},
    {"message passing, MOVNTI and SFENCE",
     2,
     {mp_write_nti, mp_read},
     flag_without_data,
     false,
     false},
    {"message passing, REP STOS",
     2,
     {mp_write_string, mp_read_string},
     flag_without_data,
     false,
     false},
    {"message passing, REP MOVS",
     2,
     {mp_write_copy, mp_read_string},
     flag_without_data,
     false,
     false},
    {"load buffering", 2, {lb_0, lb_1}, both_one, false, false},
    {"2+2W", 2, {ww_0, ww_1}, both_first, false, false},
    {"S", 2, {s_0, s_1}, store_before_cause, false, false},
    {"R, MFENCE", 2, {r_0, r_1}, last_without_first, false, false},
    {"coherence", 2, {co_write, co_read}, backwards, false, false},
    {"WRC", 3, {write_x, read_x_write_y, read_yx}, effect_without_cause, false, false},
    {"ISA2", 3, {mp_write, read_y_write_z, read_zx}, effect_without_cause, false, false},
    {"IRIW", 4, {write_x, write_y, read_xy, read_yx}, two_orders, false, false},
    {"IRIW by XCHG", 4, {xchg_x, xchg_y, read_xy, read_yx}, two_orders, false, false},
};

static volatile uint64_t start_tsc;
static volatile uint64_t start_round;

/* All threads go at one moment, or a little apart: who waits for a counter sees it late. */
static void start_together(unsigned own, uint64_t round)
{
    if (own == 0) {
        start_tsc = rdtsc() + START_TICKS;
        start_round = round;
    }
    while (start_round != round && !is_out_of_time()) {
    }
    uint64_t start = start_tsc + (own * 37 + round) % 64 * 4;
    while (rdtsc() < start) {
    }
}

static void run_thread(void *arg)
{
    unsigned own = (unsigned)(uintptr_t)arg, turn = 0, threads = current->threads;
    void (*body)(struct slot *, struct result *) = current->body[own];
    uint64_t round = 0;
    while (!is_over) {
        meet(threads, &turn);
        start_together(own, ++round);
        for (unsigned i = 0; i < SLOTS; i++) {
            body(&slots[i], &results[i][own]);
        }
        meet(threads, &turn);
        if (own == 0) {
            for (unsigned i = 0; i < SLOTS; i++) {
                outcomes += current->is_forbidden(&slots[i], results[i]);
            }
            memset(slots, 0, sizeof(slots));
            rounds++;
            bool is_enough = rounds >= MAX_BATCHES && (outcomes != 0 || !current->is_allowed);
            is_over = is_enough || is_out_of_time();
        }
        meet(threads, &turn);
    }
}

static void test_order(bool has_wide)
{
    for (size_t i = 0; i < ARRAY_COUNT(tests); i++) {
        current = &tests[i];
        if (current->threads > cpu_count || (current->needs_wide && !has_wide)) {
            check_skipped(current->name,
                          current->needs_wide ? "no CMPXCHG16B" : "too few processors");
            continue;
        }
        memset(slots, 0, sizeof(slots));
        outcomes = rounds = start_round = 0;
        is_over = false;
        begin_part(current->is_allowed ? 5 * TEST_MS : TEST_MS);
        on_threads(current->threads, run_thread);
        if (current->is_allowed) {
            print_text("allowed: ");
            print_text(current->name);
            print_text(": seen ");
            print_decimal(outcomes);
            print_text(" times in ");
            print_decimal(rounds * SLOTS);
            print_text("\n");
        } else {
            check_equal(current->name, 0, outcomes);
        }
    }
}

void guest_main(void)
{
    if (has_several_processors()) {
        test_order(cpuid(1, 0).ecx & BIT(13));
    }
}
