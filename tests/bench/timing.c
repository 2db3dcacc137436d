#include "timing.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum {
    REPEATS = 3,
    GROWTH = 4,
    WALL_LIMIT = 8
};

static uint64_t excluded_ns, stopped_at_ns;

uint64_t bench_now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void bench_timer_stop(void)
{
    stopped_at_ns = bench_now_ns();
}

void bench_timer_start(void)
{
    excluded_ns += bench_now_ns() - stopped_at_ns;
}

void bench_fail(const char *what)
{
    (void)fflush(stdout);
    perror(what);
    exit(1);
}

void *bench_allocate(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        bench_fail("mmap");
    }
    return memory;
}

static uint64_t timed_run(const struct bench_case *bench, uint64_t count)
{
    excluded_ns = 0;
    uint64_t start = bench_now_ns();
    (void)bench->run(count);
    uint64_t took = bench_now_ns() - start;
    return took > excluded_ns ? took - excluded_ns : 1;
}

/* A count that takes about 'target_ns', and what does not count included, not much longer. */
static uint64_t calibrate(const struct bench_case *bench, uint64_t target_ns)
{
    uint64_t count = 1;
    for (;;) {
        uint64_t start = bench_now_ns();
        uint64_t timed = timed_run(bench, count);
        uint64_t wall = (bench_now_ns() - start) / WALL_LIMIT;
        uint64_t took = timed > wall ? timed : wall;
        if (took * GROWTH >= target_ns) {
            double scaled = (double)count * (double)target_ns / (double)took;
            return scaled < 1 ? 1 : (uint64_t)scaled;
        }
        count *= GROWTH;
    }
}

static int compare(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

void timing_measure(const struct bench_case *bench, unsigned milliseconds, uint64_t count)
{
    uint64_t start = bench_now_ns();
    if (bench->prepare != NULL) {
        bench->prepare();
    }
    uint64_t checksum = bench->run(bench->check_count);
    if (count == 0) {
        count = calibrate(bench, (uint64_t)milliseconds * 1000000u / REPEATS);
    }
    double ns[REPEATS];
    for (unsigned i = 0; i < REPEATS; i++) {
        ns[i] = (double)timed_run(bench, count) / (double)count;
    }
    qsort(ns, REPEATS, sizeof(ns[0]), compare);
    printf("result case=%s ns=%.3f count=%" PRIu64 " checksum=%016" PRIx64 " elapsed_ns=%" PRIu64
           "\n",
           bench->name, ns[REPEATS / 2], count, checksum, bench_now_ns() - start);
    (void)fflush(stdout);
}

void timing_check(const struct bench_case *bench)
{
    if (bench->prepare != NULL) {
        bench->prepare();
    }
    printf("check case=%s checksum=%016" PRIx64 "\n", bench->name, bench->run(bench->check_count));
    (void)fflush(stdout);
}
