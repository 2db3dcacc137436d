/* Waiting in little memory. */
#include "container/runtime/shrink.h"

#include <errno.h>
#include <link.h>
#include <malloc.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_RANGES 8

struct ranges {
    struct {
        uintptr_t begin, size;
    } item[MAX_RANGES];
    size_t count;
};

/* Pages that were never written to are the file's: the kernel maps them again at the next access. */
static int add_segments(struct dl_phdr_info *info, size_t size, void *ctx)
{
    struct ranges *ranges = ctx;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < info->dlpi_phnum && ranges->count < MAX_RANGES; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        uintptr_t begin = (info->dlpi_addr + segment->p_vaddr) & ~(page - 1);
        uintptr_t end = (info->dlpi_addr + segment->p_vaddr + segment->p_memsz) & ~(page - 1);
        if (segment->p_type == PT_LOAD && (segment->p_flags & PF_W) == 0 && end > begin) {
            ranges->item[ranges->count].begin = begin;
            ranges->item[ranges->count++].size = end - begin;
        }
    }
    return 0;
}

/* Not the C library's: its code elsewhere would come back into memory, with all that lies around it. */
static inline long system_call(long number, long a, long b, long c, long d)
{
    long result;
    register long fourth __asm__("r10") = d;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
                     : "rcx", "r11", "memory");
    return result;
}

void shrink(void)
{
    struct ranges ranges = {.count = 0};
    (void)malloc_trim(0);
    (void)dl_iterate_phdr(add_segments, &ranges);
    for (size_t i = 0; i < ranges.count; i++) {
        (void)system_call(SYS_madvise, (long)ranges.item[i].begin, (long)ranges.item[i].size,
                          MADV_DONTNEED, 0);
    }
}

int shrink_and_accept(int socket)
{
    shrink();
    long fd;
    do {
        fd = system_call(SYS_accept4, socket, 0, 0, SOCK_CLOEXEC);
    } while (fd == -EINTR || fd == -ECONNABORTED);
    return (int)fd;
}
