/* TLB shoot-down as a Linux program sees it: while one thread writes through a page without pause, another takes the page away from
 * it: read-only, another page in its place, nothing in its place, a copy for a child. When the system call has returned, not one
 * more write may arrive. Run with two processors or more: shootdown SECONDS. Status 0 and a line of counters if all was right. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define LOOK 2000 /* reads of a page that must not change */

static volatile uint64_t *shot;     /* what the writer writes through */
static volatile uint64_t *frame[2]; /* the same memory, seen from elsewhere */
static int memory;
static _Atomic unsigned long writes, faults;
static atomic_bool is_over;
static _Thread_local sigjmp_buf again;

static void fail(const char *what)
{
    printf("shootdown: FAIL: %s\n", what);
    exit(1);
}

static void on_fault(int signal)
{
    (void)signal;
    atomic_fetch_add(&faults, 1);
    siglongjmp(again, 1);
}

/* Sleeps now and then, so that it is taken by surprise both while it runs and while its processor is idle. */
static void *writer(void *unused)
{
    static volatile uint64_t count;
    (void)unused;
    (void)sigsetjmp(again, 1);
    while (!atomic_load(&is_over)) {
        for (unsigned i = 0; i < 1000; i++) {
            *shot = ++count;
        }
        unsigned long now = atomic_fetch_add(&writes, 1);
        if (now % 64 == 0) {
            (void)nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
        }
    }
    return NULL;
}

static void must_stay(volatile uint64_t *page, const char *what)
{
    uint64_t seen = *page;
    for (unsigned i = 0; i < LOOK; i++) {
        if (*page != seen) {
            fail(what);
        }
    }
}

/* The page again, and a sign of life of the writer: its translation is known then. */
static void give(unsigned which)
{
    if (mmap((void *)shot, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory,
             (off_t)which * PAGE) == MAP_FAILED) {
        fail("mmap");
    }
    unsigned long before = atomic_load(&writes);
    while (atomic_load(&writes) == before) {
        sched_yield();
    }
}

static void take_by_mprotect(void)
{
    give(0);
    if (mprotect((void *)shot, PAGE, PROT_READ) != 0) {
        fail("mprotect");
    }
    must_stay(frame[0], "a write after mprotect");
}

static void take_by_another(void)
{
    give(0);
    if (mmap((void *)shot, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory, PAGE) ==
        MAP_FAILED) {
        fail("mmap");
    }
    must_stay(frame[0], "a write to the page that was replaced");
}

static void take_by_munmap(void)
{
    give(1);
    if (munmap((void *)shot, PAGE) != 0) {
        fail("munmap");
    }
    must_stay(frame[1], "a write after munmap");
}

/* The child's copy is what was there at the fork, however much the parent's thread goes on writing. */
static void take_by_fork(void)
{
    if (mmap((void *)shot, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
             -1, 0) == MAP_FAILED) {
        fail("mmap");
    }
    unsigned long before = atomic_load(&writes);
    while (atomic_load(&writes) == before) {
        sched_yield();
    }
    pid_t child = fork();
    if (child == 0) {
        uint64_t seen = *shot;
        for (unsigned i = 0; i < LOOK; i++) {
            if (*shot != seen) {
                _exit(1);
            }
        }
        _exit(0);
    }
    int status = 1;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
        fail("a write of the parent's in the child's copy");
    }
}

int main(int argc, char **argv)
{
    static void (*const ways[])(void) = {take_by_mprotect, take_by_another, take_by_munmap,
                                         take_by_fork};
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};
    time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 10);
    unsigned long rounds = 0;
    pthread_t thread;

    memory = memfd_create("shootdown", 0);
    if (memory < 0 || ftruncate(memory, 2 * PAGE) != 0) {
        fail("memfd");
    }
    void *all = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    void *place = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (all == MAP_FAILED || place == MAP_FAILED) {
        fail("mmap");
    }
    frame[0] = all;
    frame[1] = (volatile uint64_t *)((char *)all + PAGE);
    shot = place;
    (void)sigaction(SIGSEGV, &action, NULL);
    (void)sigaction(SIGBUS, &action, NULL);
    if (pthread_create(&thread, NULL, writer, NULL) != 0) {
        fail("pthread_create");
    }
    while (time(NULL) < end) {
        ways[rounds++ % (sizeof(ways) / sizeof(ways[0]))]();
    }
    give(0);
    atomic_store(&is_over, true);
    (void)pthread_join(thread, NULL);
    printf("shootdown: right, rounds %lu faults %lu\n", rounds, atomic_load(&faults));
    return 0;
}
