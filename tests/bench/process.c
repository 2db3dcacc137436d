/* Processes that talk, start and end. */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

static pid_t start_child(void)
{
    pid_t child = fork();
    if (child < 0) {
        bench_fail("fork");
    }
    if (child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    }
    return child;
}

static int end_child(pid_t child)
{
    int status = 0;
    if (waitpid(child, &status, 0) != child) {
        bench_fail("waitpid");
    }
    return status;
}

/* One unit is a byte to the other process and back. */
static uint64_t run_pipe(uint64_t count)
{
    bench_timer_stop();
    int there[2], back[2];
    if (pipe2(there, O_CLOEXEC) < 0 || pipe2(back, O_CLOEXEC) < 0) {
        bench_fail("pipe");
    }
    pid_t child = start_child();
    uint8_t byte = 0;
    if (child == 0) {
        (void)close(there[1]);
        while (read(there[0], &byte, 1) == 1) {
            byte = (uint8_t)(byte + 1);
            if (write(back[1], &byte, 1) != 1) {
                break;
            }
        }
        _exit(0);
    }
    bench_timer_start();
    uint64_t sum = 0;
    for (uint64_t n = 0; n < count; n++) {
        byte = (uint8_t)n;
        if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1) {
            bench_fail("pipe to the other process");
        }
        sum += byte;
    }
    bench_timer_stop();
    (void)close(there[1]);
    (void)end_child(child);
    (void)close(there[0]);
    (void)close(back[0]);
    (void)close(back[1]);
    bench_timer_start();
    return sum;
}

/* Two processes that give the processor away in turn; one unit is one call of this one. */
static uint64_t run_yield(uint64_t count)
{
    bench_timer_stop();
    volatile uint32_t *stop =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (stop == MAP_FAILED) {
        bench_fail("mmap");
    }
    pid_t child = start_child();
    if (child == 0) {
        while (!*stop) {
            (void)sched_yield();
        }
        _exit(0);
    }
    bench_timer_start();
    uint64_t good = 0;
    for (uint64_t n = 0; n < count; n++) {
        good += sched_yield() == 0;
    }
    bench_timer_stop();
    *stop = 1;
    (void)end_child(child);
    (void)munmap((void *)stop, 4096);
    bench_timer_start();
    return good;
}

static uint64_t run_fork(uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < count; n++) {
        pid_t child = start_child();
        if (child == 0) {
            _exit((int)(n & 0x3f));
        }
        int status = end_child(child);
        sum += WIFEXITED(status) ? (uint64_t)WEXITSTATUS(status) + 1 : 1000;
    }
    return sum;
}

/* The new program is this one, which ends at once. */
static __attribute__((noinline)) pid_t start_nothing(void)
{
    pid_t child = vfork(); // NOLINT
    if (child == 0) {
        (void)execl("/proc/self/exe", "hull-bench", "--nothing", (char *)NULL);
        _exit(99);
    }
    return child;
}

static uint64_t run_exec(uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < count; n++) {
        pid_t child = start_nothing();
        if (child < 0) {
            bench_fail("vfork");
        }
        int status = end_child(child);
        sum += WIFEXITED(status) ? (uint64_t)WEXITSTATUS(status) + 1 : 1000;
    }
    return sum;
}

const struct bench_case bench_process_cases[] = {
    {"pipe", "round trip", run_pipe, .check_count = 20, .is_smp = true},
    {"yield", "sched_yield", run_yield, .check_count = 20},
    {"fork", "fork and exit", run_fork, .check_count = 3, .is_smp = true},
    {"exec", "vfork and exec", run_exec, .check_count = 2, .is_smp = true},
    {0},
};
