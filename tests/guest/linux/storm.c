/* Storms of TLB shoot-downs: several threads take pages away from readers and writers that never stop, in every way that Linux has:
 * another page in its place, nothing, no rights, zeroes, a move, copies for children. Once the system call has returned, nobody may
 * read what was there, and no write may be lost. Run with two processors or more: storm SECONDS THREADS. Status 0 and a line of
 * counters if all was right. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE        4096
#define THREADS_MAX 8
#define POISON      UINT64_MAX
#define COUNTED     64 /* pages that are written while children get copies */

/* One for each thread that takes away: its page, as readers see it; the two frames behind it; the least that may be read. */
static struct target {
    volatile uint64_t *page;
    void *
        spare; /* an address: nobody asks for any one, as that might be where a page is missing for a moment */
    volatile uint64_t *frame[2];
    off_t offset;
    _Atomic uint64_t least;
    volatile uint64_t *zeroed;
    _Atomic uint64_t epoch; /* of the page that is zeroed: odd while it is */
} __attribute__((aligned(64))) targets[THREADS_MAX];
static struct counted {
    volatile uint64_t *pages;
    uint64_t count;
} __attribute__((aligned(64))) counted[THREADS_MAX];
static unsigned thread_count;
static int memory;
static atomic_bool is_over;
static _Atomic unsigned long reads, faults, rounds, forks;
static _Thread_local sigjmp_buf again;

static void fail(const char *what, uint64_t expected, uint64_t got)
{
    printf("storm: FAIL: %s: %#lx, got %#lx\n", what, (unsigned long)expected, (unsigned long)got);
    fflush(stdout);
    _exit(1);
}

static void on_fault(int signal)
{
    (void)signal;
    atomic_fetch_add(&faults, 1);
    siglongjmp(again, 1);
}

static void *reader(void *arg)
{
    volatile unsigned which = (unsigned)(uintptr_t)arg;
    volatile uint64_t done = 0;
    (void)sigsetjmp(again, 1);
    while (!atomic_load(&is_over)) {
        which = (which + 1) % thread_count;
        struct target *t = &targets[which];
        for (unsigned i = 0; i < 200; i++) {
            uint64_t least = atomic_load(&t->least);
            uint64_t seen = *t->page;
            if (seen < least || seen == POISON) {
                fail("a page that was taken away is read", least, seen);
            }
            uint64_t epoch = atomic_load(&t->epoch);
            seen = *t->zeroed;
            if ((epoch & 1) && atomic_load(&t->epoch) == epoch && seen != 0) {
                fail("what was dropped is read", 0, seen);
            }
        }
        done += 200;
        if (done % 20000 == 0) {
            (void)nanosleep(&(struct timespec){.tv_nsec = 20000},
                            NULL); /* an idle processor now and then */
        }
    }
    atomic_fetch_add(&reads, done);
    return NULL;
}

static void *map_frame(const struct target *t, unsigned which, int rights, void *at)
{
    void *page = mmap(at, PAGE, rights, MAP_SHARED | (at != NULL ? MAP_FIXED : 0), memory,
                      t->offset + (off_t)which * PAGE);
    if (page == MAP_FAILED) {
        fail("mmap", 0, which);
    }
    return page;
}

/* The value goes to the frame that is not seen, which is then put in place, some way; the old frame is poisoned. */
static void take_away(struct target *t, unsigned way, uint64_t value)
{
    unsigned next = value & 1;
    void *page = (void *)t->page;
    *t->frame[next] = value;
    switch (way) {
    case 0:
        (void)map_frame(t, next, PROT_READ, page);
        break;
    case 1:
        if (munmap(page, PAGE) != 0) {
            fail("munmap", 0, value);
        }
        *t->frame[1 - next] = POISON;
        (void)map_frame(t, next, PROT_READ, page);
        break;
    case 2: { /* moved to where nobody looks, another one moved here */
        void *other = map_frame(t, next, PROT_READ, t->spare);
        if (mremap(other, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, page) == MAP_FAILED) {
            fail("mremap", 0, value);
        }
        break;
    }
    default: /* the same frame, without rights for a while */
        if (mprotect(page, PAGE, PROT_NONE) != 0) {
            fail("mprotect", 0, value);
        }
        *t->frame[1 - next] = POISON;
        *t->frame[1 - next] = value;
        if (mprotect(page, PAGE, PROT_READ) != 0) {
            fail("mprotect", 0, value);
        }
        atomic_store(&t->least, value);
        /* The next round takes the other frame. */
        *t->frame[next] = value;
        (void)map_frame(t, next, PROT_READ, page);
        break;
    }
    atomic_store(&t->least, value);
    *t->frame[1 - next] = POISON;
}

static void drop(struct target *t, uint64_t value)
{
    *t->zeroed = value;
    if (madvise((void *)t->zeroed, PAGE, MADV_DONTNEED) != 0) {
        fail("madvise", 0, value);
    }
    atomic_fetch_add(&t->epoch, 1);
    sched_yield();
    atomic_fetch_add(&t->epoch, 1);
}

static void *taker(void *arg)
{
    struct target *t = arg;
    uint64_t value = 1;
    while (!atomic_load(&is_over)) {
        take_away(t, value % 7 % 4, value + 1);
        value++;
        drop(t, value);
        atomic_fetch_add(&rounds, 1);
    }
    return NULL;
}

/* Counts up in pages of its own, which forks make copies of all the time. */
static void *counter(void *arg)
{
    struct counted *c = arg;
    while (!atomic_load(&is_over)) {
        for (unsigned i = 0; i < COUNTED; i++) {
            c->pages[i * PAGE / 8]++;
        }
        c->count++;
    }
    return NULL;
}

static void child(void)
{
    for (unsigned t = 0; t < thread_count; t++) {
        uint64_t first[COUNTED];
        for (unsigned i = 0; i < COUNTED; i++) {
            first[i] = counted[t].pages[i * PAGE / 8];
        }
        for (unsigned i = 0; i < COUNTED; i++) {
            uint64_t now = counted[t].pages[i * PAGE / 8];
            if (now != first[i]) {
                fail("the parent writes to its child's copy", first[i], now);
            }
            if (first[i] > first[0] || first[i] + 1 < first[0]) {
                fail("pages of a copy are of different times", first[0], first[i]);
            }
            counted[t].pages[i * PAGE / 8] = POISON; /* nor the other way round */
        }
    }
    _exit(0);
}

static void *forker(void *arg)
{
    (void)arg;
    while (!atomic_load(&is_over)) {
        pid_t pid = fork();
        if (pid == 0) {
            child();
        }
        int status = 1;
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
            fail("a child's status", 0, (uint64_t)status);
        }
        atomic_fetch_add(&forks, 1);
        (void)nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    }
    return NULL;
}

static void prepare(unsigned i)
{
    struct target *t = &targets[i];
    t->offset = (off_t)i * 2 * PAGE;
    t->frame[0] = map_frame(t, 0, PROT_READ | PROT_WRITE, NULL);
    t->frame[1] = map_frame(t, 1, PROT_READ | PROT_WRITE, NULL);
    *t->frame[1] = 1;
    t->page = map_frame(t, 1, PROT_READ, NULL);
    t->spare = map_frame(t, 1, PROT_READ, NULL);
    atomic_store(&t->least, 1);
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    t->zeroed = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    counted[i].pages = mmap(NULL, COUNTED * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (t->zeroed == MAP_FAILED || counted[i].pages == MAP_FAILED) {
        fail("mmap", 0, i);
    }
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};
    unsigned seconds = argc > 1 ? (unsigned)atoi(argv[1]) : 10;
    pthread_t threads[3 * THREADS_MAX + 1];
    unsigned count = 0;
    thread_count = argc > 2 ? (unsigned)atoi(argv[2]) : 2;
    if (thread_count < 1 || thread_count > THREADS_MAX) {
        fail("threads: 1 to 8", 1, thread_count);
    }
    memory = memfd_create("storm", 0);
    if (memory < 0 || ftruncate(memory, (off_t)thread_count * 2 * PAGE) != 0) {
        fail("memfd", 0, 0);
    }
    for (unsigned i = 0; i < thread_count; i++) {
        prepare(i);
    }
    (void)sigaction(SIGSEGV, &action, NULL);
    (void)sigaction(SIGBUS, &action, NULL);
    for (unsigned i = 0; i < thread_count; i++) {
        (void)pthread_create(&threads[count++], NULL, reader, (void *)(uintptr_t)i);
        (void)pthread_create(&threads[count++], NULL, taker, &targets[i]);
        (void)pthread_create(&threads[count++], NULL, counter, &counted[i]);
    }
    (void)pthread_create(&threads[count++], NULL, forker, NULL);
    (void)sleep(seconds);
    atomic_store(&is_over, true);
    for (unsigned i = 0; i < count; i++) {
        (void)pthread_join(threads[i], NULL);
    }
    for (unsigned i = 0; i < thread_count; i++) {
        for (unsigned page = 0; page < COUNTED; page++) {
            uint64_t got = counted[i].pages[page * PAGE / 8];
            if (got != counted[i].count) {
                fail("writes while pages are copied", counted[i].count, got);
            }
        }
    }
    printf("storm: right, reads %lu faults %lu rounds %lu forks %lu\n", reads, faults, rounds,
           forks);
    return 0;
}
