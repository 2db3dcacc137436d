/* Code that threads make for each other, as virtual machines of languages do: fresh code in memory that is used again, through a
 * second mapping, through rights that change, patched in place, copied by fork. What is called must be what was published.
 * Run with two processors or more: jit SECONDS THREADS. Status 0 and a line of counters if all was right. */
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE        4096
#define THREADS_MAX 8
#define SLOTS       64 /* functions of 64 bytes each in a page */
#define SLOT_SIZE   64

typedef uint32_t (*function_fn)(uint32_t value);

static unsigned thread_count;
static atomic_bool is_over;
static _Atomic unsigned long made, called, patched, remapped, forked;
static int memory;

static void fail(const char *what, uint64_t expected, uint64_t got)
{
    printf("jit: FAIL: %s: %#lx, got %#lx\n", what, (unsigned long)expected, (unsigned long)got);
    fflush(stdout);
    _exit(1);
}

/* Code that returns 'result' plus its argument, over more or fewer instructions, some of them a loop. Returns its size. */
static unsigned write_function(uint8_t *to, uint32_t result)
{
    uint8_t code[SLOT_SIZE];
    unsigned n = 0;
    if (result % 3 == 1) { /* mov ecx, 5; 1: dec ecx; jnz 1b */
        memcpy(code + n, (const uint8_t[]){0xb9, 5, 0, 0, 0, 0xff, 0xc9, 0x75, 0xfc}, 9);
        n += 9;
    }
    for (unsigned i = 0; i < result % 5; i++) {
        code[n++] = 0x90;
    }
    code[n++] = 0xb8; /* mov eax, result */
    memcpy(code + n, &result, 4);
    n += 4;
    memcpy(code + n, (const uint8_t[]){0x01, 0xf8, 0xc3}, 3); /* add eax, edi; ret */
    n += 3;
    memcpy(to, code, n);
    return n;
}

static void *map(int rights, int flags, int fd, void *at)
{
    void *page = mmap(at, PAGE, rights, flags | (at != NULL ? MAP_FIXED : 0), fd, 0);
    if (page == MAP_FAILED) {
        fail("mmap", 0, (uint64_t)rights);
    }
    return page;
}

static void barrier_for_code(void)
{
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0) != 0) {
        fail("membarrier", 0, 0);
    }
}

/* --- one makes functions, the others call the newest; a slot is used again when nobody can be in it --- */

static struct {
    uint8_t *writable, *executable; /* the same page */
    _Atomic uint64_t newest; /* number of the newest function: slot number % SLOTS, result number */
    _Atomic uint64_t seen[THREADS_MAX]
        __attribute__((aligned(64))); /* what each caller is behind */
} shared;

static void *maker(void *arg)
{
    (void)arg;
    for (uint64_t number = 1; !atomic_load(&is_over); number++) {
        for (unsigned i = 0; i < thread_count; i++) {
            while (atomic_load(&shared.seen[i]) + SLOTS / 2 < number && !atomic_load(&is_over)) {
                sched_yield();
            }
        }
        (void)write_function(shared.writable + number % SLOTS * SLOT_SIZE, (uint32_t)number);
        if (number % 8 == 0) {
            barrier_for_code(); /* whoever has run the slot's old code serializes; once for several */
            atomic_store(&shared.newest, number);
        }
        atomic_fetch_add(&made, 1);
    }
    return NULL;
}

static void *caller(void *arg)
{
    unsigned own = (unsigned)(uintptr_t)arg;
    unsigned long calls = 0;
    while (!atomic_load(&is_over)) {
        uint64_t newest = atomic_load(&shared.newest);
        for (uint64_t number = newest > 8 ? newest - 7 : newest + 1; number <= newest; number++) {
            function_fn function =
                (function_fn)(uintptr_t)(shared.executable + number % SLOTS * SLOT_SIZE);
            uint32_t got = function(own);
            if (got != (uint32_t)number + own) {
                fail("a function of a slot that is used again", number + own, got);
            }
            calls++;
        }
        atomic_store(&shared.seen[own], newest);
    }
    atomic_store(&shared.seen[own], UINT64_MAX / 2);
    atomic_fetch_add(&called, calls);
    return NULL;
}

/* --- an instruction that is patched in place while others run it: all of it or nothing, and the new one after a barrier --- */

static struct {
    uint8_t *code;
    /* What was there at the last barrier, and above it the number of the patch, as instructions come again; 0: something else. */
    _Atomic uint64_t least;
} patch;

static void *patcher(void *arg)
{
    (void)arg;
    for (uint64_t count = 1; !atomic_load(&is_over); count++) {
        uint64_t i = count % 250 + 1;
        /* Bytes that are all alike, so that a mixture shows; within eight aligned bytes, so that it is one store. */
        uint64_t eight = 0x90c3000000000000u | i * 0x01010101u << 16 | 0xb890;
        atomic_store(&patch.least, 0);
        __atomic_store_n((uint64_t *)(uintptr_t)patch.code, eight, __ATOMIC_SEQ_CST);
        if (i % 2 == 0) {
            barrier_for_code();
            atomic_store(&patch.least, count << 32 | i * 0x01010101u);
            (void)nanosleep(&(struct timespec){.tv_nsec = 1000}, NULL);
        }
        atomic_fetch_add(&patched, 1);
    }
    return NULL;
}

static void *patch_runner(void *arg)
{
    (void)arg;
    function_fn function = (function_fn)(uintptr_t)patch.code;
    while (!atomic_load(&is_over)) {
        for (unsigned i = 0; i < 1000; i++) {
            uint64_t least = atomic_load(&patch.least);
            uint32_t got = function(0);
            if (got != (got & 0xff) * 0x01010101u) {
                fail("a mixture of two instructions", (got & 0xff) * 0x01010101u, got);
            }
            if (least != 0 && atomic_load(&patch.least) == least && got != (uint32_t)least) {
                fail("an old instruction behind a barrier", (uint32_t)least, got);
            }
        }
    }
    return NULL;
}

/* --- each for itself, side by side in one page: its own stores are seen at once; then pages that come and go --- */

static uint8_t *side_by_side;

static void *self_modifier(void *arg)
{
    unsigned own = (unsigned)(uintptr_t)arg;
    uint8_t *code = side_by_side + own * 256;
    uint8_t *page = map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, NULL);
    for (uint32_t i = 1; !atomic_load(&is_over); i++) {
        function_fn function = (function_fn)(uintptr_t)code;
        (void)write_function(code, i);
        uint32_t got = function(own);
        if (got != i + own) {
            fail("code of one's own beside that of others", i + own, got);
        }
        if (i % 64 != 0) {
            continue;
        }
        /* Never writable and executable at once; and at an address that had another page before. */
        function = (function_fn)(uintptr_t)page;
        if (mprotect(page, PAGE, PROT_READ | PROT_WRITE) != 0) {
            fail("mprotect", 0, i);
        }
        (void)write_function(page, i * 3);
        if (mprotect(page, PAGE, PROT_READ | PROT_EXEC) != 0) {
            fail("mprotect", 0, i);
        }
        got = function(1);
        if (got != i * 3 + 1) {
            fail("code behind a change of rights", i * 3 + 1, got);
        }
        if (i % 256 == 0) {
            (void)map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, page);
            atomic_fetch_add(&remapped, 1);
        }
    }
    return NULL;
}

/* --- a child changes its copy of code that the parent goes on to run --- */

static void *forker(void *arg)
{
    (void)arg;
    uint8_t *page = map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, NULL);
    function_fn function = (function_fn)(uintptr_t)page;
    for (uint32_t i = 1; !atomic_load(&is_over); i++) {
        (void)write_function(page, i);
        uint32_t got = function(0);
        if (got != i) {
            fail("the parent's code", i, got);
        }
        pid_t pid = fork();
        if (pid == 0) {
            bool is_right = function(2) == i + 2;
            (void)write_function(page, i + 1000);
            _exit(is_right && function(0) == i + 1000 ? 0 : 1);
        }
        (void)write_function(page, i + 5000);
        got = function(0);
        int status = 1;
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
            fail("the child's code", 0, (uint64_t)status);
        }
        if (got != i + 5000 || function(0) != i + 5000) {
            fail("the parent's code beside its child's", i + 5000, got);
        }
        atomic_fetch_add(&forked, 1);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    unsigned seconds = argc > 1 ? (unsigned)atoi(argv[1]) : 10;
    const int all = PROT_READ | PROT_WRITE | PROT_EXEC;
    pthread_t threads[3 * THREADS_MAX + 3];
    unsigned count = 0;
    thread_count = argc > 2 ? (unsigned)atoi(argv[2]) : 2;
    if (thread_count < 1 || thread_count > THREADS_MAX) {
        fail("threads: 1 to 8", 1, thread_count);
    }
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0) != 0) {
        fail("the kernel has no membarrier for code", 0, 0);
    }
    memory = memfd_create("jit", 0);
    if (memory < 0 || ftruncate(memory, PAGE) != 0) {
        fail("memfd", 0, 0);
    }
    shared.writable = map(PROT_READ | PROT_WRITE, MAP_SHARED, memory, NULL);
    shared.executable = map(PROT_READ | PROT_EXEC, MAP_SHARED, memory, NULL);
    patch.code = map(all, MAP_PRIVATE | MAP_ANONYMOUS, -1, NULL);
    side_by_side = map(all, MAP_PRIVATE | MAP_ANONYMOUS, -1, NULL);
    memcpy(patch.code, (const uint8_t[]){0x90, 0xb8, 1, 1, 1, 1, 0xc3, 0x90},
           8); /* nop; mov eax, ..; ret */
    (void)pthread_create(&threads[count++], NULL, maker, NULL);
    (void)pthread_create(&threads[count++], NULL, patcher, NULL);
    (void)pthread_create(&threads[count++], NULL, forker, NULL);
    for (uintptr_t i = 0; i < thread_count; i++) {
        (void)pthread_create(&threads[count++], NULL, caller, (void *)i);
        (void)pthread_create(&threads[count++], NULL, patch_runner, NULL);
        (void)pthread_create(&threads[count++], NULL, self_modifier, (void *)i);
    }
    (void)sleep(seconds);
    atomic_store(&is_over, true);
    for (unsigned i = 0; i < count; i++) {
        (void)pthread_join(threads[i], NULL);
    }
    printf("jit: right, made %lu called %lu patched %lu remapped %lu forks %lu\n", made, called,
           patched, remapped, forked);
    return 0;
}
