/* Several processors: start, atomic instructions, memory order, code changed by another processor, TLB shoot-down. */
#include "guest.h"

#define ROUNDS 4096u /* even for each of flip_bits' 32 bytes */

static struct {
    volatile uint64_t inc, xadd, cmpxchg, xchg_lock, guarded;
    volatile uint64_t split_low;
} shared __attribute__((aligned(64)));
static volatile __uint128_t wide __attribute__((aligned(64)));
static uint8_t split_buffer[128] __attribute__((aligned(64)));
static volatile unsigned arrived;
static uint64_t deadline; /* of a part that may end early: the host may have fewer processors */

static void begin_part(void)
{
    deadline = rdtsc() + 2 * tsc_hz();
}

static bool is_out_of_time(void)
{
    return rdtsc() > deadline;
}
static uint8_t bits[64] __attribute__((aligned(64)));

/* All processors come here before any goes on. */
static void barrier(volatile unsigned *counter, unsigned goal)
{
    __atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(counter, __ATOMIC_ACQUIRE) < goal) {
        pause();
    }
}

static void on_all(void (*fn)(void *arg))
{
    for (unsigned i = 1; i < cpu_count; i++) {
        smp_run(i, fn, (void *)(uintptr_t)i);
    }
    fn(NULL);
    for (unsigned i = 1; i < cpu_count; i++) {
        smp_wait(i);
    }
}

static void count_up(void *arg)
{
    (void)arg;
    barrier(&arrived, cpu_count);
    bool has_wide = cpuid(1, 0).ecx & BIT(13);
    for (unsigned i = 0; i < ROUNDS; i++) {
        asm volatile("lock incq %0" : "+m"(shared.inc)::"memory", "cc");
        uint64_t one = 1;
        asm volatile("lock xaddq %0, %1" : "+r"(one), "+m"(shared.xadd)::"memory", "cc");
        uint64_t old = shared.cmpxchg;
        bool is_done;
        do {
            asm volatile("lock cmpxchgq %3, %1; setz %2"
                         : "+a"(old), "+m"(shared.cmpxchg), "=q"(is_done)
                         : "r"(old + 1)
                         : "memory", "cc");
        } while (!is_done);
        /* XCHG locks by itself. */
        uint32_t taken = 1;
        do {
            taken = 1;
            asm volatile("xchgl %0, %1"
                         : "+r"(taken), "+m"(*(volatile uint32_t *)&shared.xchg_lock)::"memory");
        } while (taken && (pause(), true));
        shared.guarded++;
        asm volatile("movl $0, %0" : "=m"(*(volatile uint32_t *)&shared.xchg_lock)::"memory");
        if (has_wide) {
            uint64_t low = ((volatile uint64_t *)&wide)[0], high = ((volatile uint64_t *)&wide)[1];
            do {
                uint64_t new_low = low + 1, new_high = high + (new_low == 0) + 2;
                asm volatile("lock cmpxchg16b %2; setz %3"
                             : "+a"(low), "+d"(high), "+m"(wide), "=q"(is_done)
                             : "b"(new_low), "c"(new_high)
                             : "memory", "cc");
            } while (!is_done);
        }
        /* Across two cache lines: still one step. */
        asm volatile("lock addq $3, %0"
                     : "+m"(*(volatile uint64_t *)(split_buffer + 60))::"memory", "cc");
    }
}

static void flip_bits(void *arg)
{
    unsigned own = (unsigned)(uintptr_t)arg;
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint32_t bit = own + 8 * (i % 32);
        asm volatile("lock btcl %0, %1" ::"r"(bit), "m"(bits) : "memory", "cc");
    }
}

static void test_atomics(void)
{
    arrived = 0;
    on_all(count_up);
    uint64_t expected = (uint64_t)ROUNDS * cpu_count;
    check_equal("LOCK INC", expected, shared.inc);
    check_equal("LOCK XADD", expected, shared.xadd);
    check_equal("LOCK CMPXCHG", expected, shared.cmpxchg);
    check_equal("XCHG as a lock", expected, shared.guarded);
    if (cpuid(1, 0).ecx & BIT(13)) {
        check_equal("LOCK CMPXCHG16B: low", expected, ((volatile uint64_t *)&wide)[0]);
        check_equal("LOCK CMPXCHG16B: high", 2 * expected, ((volatile uint64_t *)&wide)[1]);
    } else {
        check_skipped("LOCK CMPXCHG16B", "the processor has none");
    }
    check_equal("LOCK ADD across cache lines", 3 * expected, read64((uintptr_t)split_buffer + 60));
    on_all(flip_bits);
    uint64_t left = 0;
    for (unsigned i = 0; i < 32; i++) {
        left += bits[i] != 0;
    }
    check_equal("LOCK BTC", 0, left);
}

/* --- memory order: what the architecture forbids must not be seen (SDM 3A 8.2.3) --- */

#define LITMUS_ROUNDS 20000u

static struct {
    volatile uint32_t x __attribute__((aligned(64)));
    volatile uint32_t y __attribute__((aligned(64)));
    volatile uint32_t seen[2] __attribute__((aligned(64)));
    volatile uint32_t round[2] __attribute__((aligned(64)));
} litmus;

static void meet(unsigned own, uint32_t round)
{
    __atomic_store_n(&litmus.round[own], round, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&litmus.round[1 - own], __ATOMIC_SEQ_CST) < round) {
        pause();
    }
}

typedef void (*litmus_fn)(unsigned own);
static litmus_fn litmus_body;

static void store_buffering(unsigned own)
{
    volatile uint32_t *mine = own ? &litmus.y : &litmus.x, *other = own ? &litmus.x : &litmus.y;
    uint32_t value;
    asm volatile("movl $1, %1; movl %2, %0" : "=&r"(value), "=m"(*mine) : "m"(*other) : "memory");
    litmus.seen[own] = value;
}

static void store_buffering_fenced(unsigned own)
{
    volatile uint32_t *mine = own ? &litmus.y : &litmus.x, *other = own ? &litmus.x : &litmus.y;
    uint32_t value;
    asm volatile("movl $1, %1; mfence; movl %2, %0"
                 : "=&r"(value), "=m"(*mine)
                 : "m"(*other)
                 : "memory");
    litmus.seen[own] = value;
}

static void store_buffering_exchange(unsigned own)
{
    volatile uint32_t *mine = own ? &litmus.y : &litmus.x, *other = own ? &litmus.x : &litmus.y;
    uint32_t value = 1, got;
    asm volatile("xchgl %0, %1; movl %3, %2"
                 : "+r"(value), "+m"(*mine), "=&r"(got)
                 : "m"(*other)
                 : "memory");
    litmus.seen[own] = got;
}

static void message_passing(unsigned own)
{
    if (own == 0) {
        asm volatile("movl $1, %0; movl $1, %1" : "=m"(litmus.x), "=m"(litmus.y)::"memory");
        return;
    }
    uint32_t first, second;
    asm volatile("movl %2, %0; movl %3, %1"
                 : "=&r"(first), "=&r"(second)
                 : "m"(litmus.y), "m"(litmus.x)
                 : "memory");
    litmus.seen[0] = first;
    litmus.seen[1] = second;
}

static volatile bool litmus_stops;
static volatile uint32_t litmus_forbidden;
static bool (*litmus_is_bad)(uint32_t a, uint32_t b);

static bool both_zero(uint32_t a, uint32_t b)
{
    return a == 0 && b == 0;
}

static bool flag_without_data(uint32_t a, uint32_t b)
{
    return a == 1 && b == 0;
}

static void litmus_run(void *arg)
{
    unsigned own = (unsigned)(uintptr_t)arg;
    for (uint32_t i = 0; i < LITMUS_ROUNDS; i++) {
        meet(own, 3 * i + 1);
        litmus_body(own);
        meet(own, 3 * i + 2);
        if (own == 0) {
            litmus_forbidden += litmus_is_bad(litmus.seen[0], litmus.seen[1]);
            litmus.x = litmus.y = 0;
            litmus_stops = is_out_of_time();
        }
        meet(own, 3 * i + 3);
        if (litmus_stops) {
            break;
        }
    }
}

static uint32_t litmus_test(litmus_fn body, bool (*is_bad)(uint32_t, uint32_t))
{
    litmus_body = body;
    litmus_is_bad = is_bad;
    litmus_forbidden = 0;
    litmus_stops = false;
    begin_part();
    memset(&litmus, 0, sizeof(litmus));
    smp_run(1, litmus_run, (void *)1);
    litmus_run(NULL);
    smp_wait(1);
    return litmus_forbidden;
}

static void test_order(void)
{
    uint32_t seen = litmus_test(store_buffering, both_zero);
    print_text("store buffering without a fence, allowed: seen ");
    print_decimal(seen);
    print_text(" times\n");
    check_equal("store buffering with MFENCE", 0, litmus_test(store_buffering_fenced, both_zero));
    check_equal("store buffering with XCHG", 0, litmus_test(store_buffering_exchange, both_zero));
    check_equal("message passing", 0, litmus_test(message_passing, flag_without_data));
}

/* --- code that another processor changes --- */

SNIPPET(return_value, ".code64", "movl $0, %eax; ret");
#define CODE_END UINT32_MAX
static volatile uint32_t code_version, code_seen, code_wrong;

static void run_changed_code(void *arg)
{
    (void)arg;
    uint32_t (*volatile function)(void) = (uint32_t(*)(void))USER_CODE;
    uint32_t version = 0;
    while (version != CODE_END) {
        uint32_t now = __atomic_load_n(&code_version, __ATOMIC_ACQUIRE);
        if (now == version) {
            pause();
            continue;
        }
        version = now;
        if (version == CODE_END) {
            break;
        }
        (void)cpuid(0, 0); /* SDM 3A 8.1.3: the executing processor serializes */
        code_wrong += function() != version;
        __atomic_store_n(&code_seen, version, __ATOMIC_RELEASE);
    }
}

static void test_code(void)
{
    LOAD_SNIPPET(return_value, USER_CODE);
    smp_run(1, run_changed_code, NULL);
    begin_part();
    uint32_t last = 0;
    for (uint32_t i = 1; i <= 500 && !is_out_of_time(); i++) {
        last = i;
        write32(USER_CODE + 1, i);
        __atomic_store_n(&code_version, i, __ATOMIC_RELEASE);
        while (__atomic_load_n(&code_seen, __ATOMIC_ACQUIRE) != i) {
            pause();
        }
    }
    __atomic_store_n(&code_version, CODE_END, __ATOMIC_RELEASE);
    smp_wait(1);
    check_equal("code changed by another processor", 0, code_wrong);
    /* Both run what both change, under a lock. */
    check_equal("and by this one", last, ((uint32_t(*)(void))USER_CODE)());
}

/* --- TLB shoot-down --- */

#define SHOOT_VECTOR 0x60
static uint64_t shoot_gva = TEST_GVA + PAGE;
static volatile uint32_t shoot_acknowledged, shoot_errors, shoot_stop;

static void on_shoot(struct trap_frame *frame)
{
    (void)frame;
    invlpg(shoot_gva);
    __atomic_fetch_add(&shoot_acknowledged, 1, __ATOMIC_SEQ_CST);
    apic_write(0xb0, 0);
}

static void read_shot_page(void *arg)
{
    (void)arg;
    asm volatile("sti" ::: "memory");
    uint32_t last = 0;
    while (!shoot_stop) {
        /* The page only ever moves on: going back means an old translation. */
        uint32_t now = read32(shoot_gva);
        shoot_errors += now < last;
        last = now;
    }
    asm volatile("cli" ::: "memory");
}

static void test_shoot_down(void)
{
    uint64_t frames[8];
    for (unsigned i = 0; i < ARRAY_COUNT(frames); i++) {
        frames[i] = page_alloc();
    }
    trap_hook[SHOOT_VECTOR] = on_shoot;
    page_map(shoot_gva, frames[0] | PTE_P | PTE_W, 1);
    for (unsigned i = 1; i < cpu_count; i++) {
        smp_run(i, read_shot_page, NULL);
    }
    bool is_complete = true;
    begin_part();
    for (uint32_t i = 1; i <= 500 && !is_out_of_time(); i++) {
        write32(frames[i % 8], i);
        page_map(shoot_gva, frames[i % 8] | PTE_P | PTE_W, 1);
        shoot_acknowledged = 0;
        apic_send(0xc0000 | SHOOT_VECTOR, 0);
        uint64_t end = rdtsc() + 20 * tsc_hz();
        while (__atomic_load_n(&shoot_acknowledged, __ATOMIC_SEQ_CST) != cpu_count - 1 &&
               rdtsc() < end) {
            pause();
        }
        is_complete &= shoot_acknowledged == cpu_count - 1;
        /* Now nobody may still see the old frame: poison it. */
        write32(frames[(i - 1) % 8], 0);
        if (!is_complete) {
            break;
        }
    }
    shoot_stop = true;
    for (unsigned i = 1; i < cpu_count; i++) {
        smp_wait(i);
    }
    check("TLB shoot-down: all answered", is_complete);
    check_equal("TLB shoot-down: no old translation used", 0, shoot_errors);
}

/* --- INIT and start-up --- */

static void fill_register(void *arg)
{
    (void)arg;
    asm volatile("movq %0, %%dr0" ::"r"(0x1234ull));
}

static void read_tsc(void *arg)
{
    *(volatile uint64_t *)arg = rdtsc();
}

void guest_main(void)
{
    if (!check("all processors came", smp_start())) {
        return;
    }
    print_text("processors: ");
    print_decimal(cpu_count);
    print_text("\n");
    if (cpu_count == 1) {
        test_atomics();
        check_skipped("what needs two processors", "there is one");
        return;
    }
    static volatile uint64_t there;
    uint64_t before = rdtsc();
    smp_run(1, read_tsc, (void *)(uintptr_t)&there);
    smp_wait(1);
    uint64_t after = rdtsc();
    check("TSCs are synchronous", there >= before && there <= after);
    smp_run(1, fill_register, NULL);
    smp_wait(1);
    check_equal("debug registers are each processor's own", 0, READ_DR(0));
    test_atomics();
    test_order();
    test_code();
    test_shoot_down();
}
