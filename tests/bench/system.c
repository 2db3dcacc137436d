/* The processor's and the kernel's services within one process. */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

enum {
    PAGE = 4096
};

static uint64_t run_getppid(uint64_t count)
{
    long parent = syscall(SYS_getppid);
    uint64_t same = 0;
    for (uint64_t n = 0; n < count; n++) {
        same += syscall(SYS_getppid) == parent;
    }
    return same;
}

/* Counts the readings that do not go backwards. */
static uint64_t run_clock(uint64_t count)
{
    struct timespec before = {0}, now;
    uint64_t forward = 0;
    for (uint64_t n = 0; n < count; n++) {
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        forward += now.tv_sec > before.tv_sec ||
                   (now.tv_sec == before.tv_sec && now.tv_nsec >= before.tv_nsec);
        before = now;
    }
    return forward;
}

static uint64_t run_rdtsc(uint64_t count)
{
    uint64_t before = 0, forward = 0;
    for (uint64_t n = 0; n < count; n++) {
        uint64_t now = __builtin_ia32_rdtsc();
        forward += now >= before;
        before = now;
    }
    return forward;
}

static uint64_t run_cpuid(uint64_t count)
{
    unsigned vendor[3], a, b, c, d;
    __cpuid(0, a, vendor[0], vendor[1], vendor[2]);
    uint64_t same = 0;
    for (uint64_t n = 0; n < count; n++) {
        __cpuid(0, a, b, c, d);
        same += b == vendor[0] && c == vendor[1] && d == vendor[2];
    }
    return same;
}

/* --- files --- */

static uint8_t *file_page;
static int zero_fd = -1, memory_fd = -1;

static void prepare_files(void)
{
    file_page = bench_allocate(PAGE);
    zero_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    memory_fd = memfd_create("bench", MFD_CLOEXEC);
    if (zero_fd < 0 || memory_fd < 0 || ftruncate(memory_fd, 16 * PAGE) < 0) {
        bench_fail("opening files");
    }
}

static uint64_t run_read_zero(uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < count; n++) {
        file_page[n % PAGE] = 1;
        sum += (uint64_t)read(zero_fd, file_page, PAGE) + file_page[n % PAGE];
    }
    return sum;
}

static uint64_t run_stat(uint64_t count)
{
    uint64_t devices = 0;
    struct stat info;
    for (uint64_t n = 0; n < count; n++) {
        devices += stat("/dev/zero", &info) == 0 && S_ISCHR(info.st_mode);
    }
    return devices;
}

static uint64_t run_open(uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < count; n++) {
        int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
        sum += (uint64_t)read(fd, file_page, 1);
        close(fd);
    }
    return sum;
}

static uint64_t run_memfd(uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < count; n++) {
        off_t at = (off_t)(n % 16) * PAGE;
        file_page[n % PAGE] = (uint8_t)n;
        if (pwrite(memory_fd, file_page, PAGE, at) != PAGE) {
            bench_fail("pwrite");
        }
        file_page[n % PAGE] = 0;
        if (pread(memory_fd, file_page, PAGE, at) != PAGE) {
            bench_fail("pread");
        }
        sum += file_page[n % PAGE];
    }
    return sum;
}

/* --- memory management --- */

enum {
    FAULT_PAGES = 256
};

/* One unit is one page that is touched for the first time. */
static uint64_t run_page_fault(uint64_t count)
{
    uint64_t done = 0;
    while (done < count) {
        uint64_t pages = count - done < FAULT_PAGES ? count - done : FAULT_PAGES;
        bench_timer_stop();
        uint8_t *memory = mmap(NULL, FAULT_PAGES * PAGE, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            bench_fail("mmap");
        }
        (void)madvise(memory, FAULT_PAGES * PAGE, MADV_NOHUGEPAGE);
        bench_timer_start();
        for (uint64_t page = 0; page < pages; page++) {
            memory[page * PAGE]++;
            done += memory[page * PAGE];
        }
        bench_timer_stop();
        (void)munmap(memory, FAULT_PAGES * PAGE);
        bench_timer_start();
    }
    return done;
}

static volatile uint8_t *guarded;

static void prepare_guarded(void)
{
    guarded = bench_allocate(PAGE);
    guarded[0] = 0;
}

static void protect(int rights)
{
    if (mprotect((void *)guarded, PAGE, rights) < 0) {
        bench_fail("mprotect");
    }
}

static uint64_t run_mprotect(uint64_t count)
{
    uint64_t sum = 0;
    guarded[0] = 0;
    for (uint64_t n = 0; n < count; n++) {
        protect(PROT_READ);
        sum += guarded[0];
        protect(PROT_READ | PROT_WRITE);
        guarded[0] = (uint8_t)(n + 1);
    }
    return sum;
}

/* --- signals --- */

static volatile uint64_t signals;

static void count_signal(int number)
{
    (void)number;
    signals = signals + 1;
}

static void open_guarded(int number)
{
    (void)number;
    signals = signals + 1;
    protect(PROT_READ | PROT_WRITE);
}

static void handle(int number, void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler};
    if (sigaction(number, &action, NULL) < 0) {
        bench_fail("sigaction");
    }
}

static uint64_t run_signal(uint64_t count)
{
    handle(SIGUSR1, count_signal);
    signals = 0;
    for (uint64_t n = 0; n < count; n++) {
        (void)raise(SIGUSR1);
    }
    return signals;
}

static uint64_t run_segv(uint64_t count)
{
    handle(SIGSEGV, open_guarded);
    signals = 0;
    for (uint64_t n = 0; n < count; n++) {
        protect(PROT_READ);
        guarded[0] = (uint8_t)n;
    }
    handle(SIGSEGV, SIG_DFL);
    return signals;
}

const struct bench_case bench_system_cases[] = {
    {"getppid", "system call", run_getppid, .check_count = 1000, .is_smp = true},
    {"clock_gettime", "reading", run_clock, .check_count = 1000, .is_smp = true},
    {"rdtsc", "reading", run_rdtsc, .check_count = 1000},
    {"cpuid", "leaf", run_cpuid, .check_count = 100},
    {"read_zero", "4 KiB", run_read_zero, prepare_files, .check_count = 100},
    {"stat", "stat of a device", run_stat, .check_count = 100},
    {"open", "open, read, close", run_open, prepare_files, .check_count = 100},
    {"memfd", "pwrite, pread of 4 KiB", run_memfd, prepare_files, .check_count = 100},
    {"page_fault", "page", run_page_fault, .check_count = 500, .is_smp = true},
    {"mprotect", "pair and touches", run_mprotect, prepare_guarded, NULL, 100, .is_smp = true},
    {"signal", "signal", run_signal, .check_count = 100},
    {"segv", "fault, 2 mprotect", run_segv, prepare_guarded, .check_count = 100},
    {0},
};
