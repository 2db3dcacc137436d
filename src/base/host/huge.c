#include "base/host/huge.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/core/bits.h"
#include "base/host/file.h"

#define PAGE_SIZE 4096u
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

int huge_create_file(const char *name)
{
    AUTO_CLOSE int config = fsopen("tmpfs", FSOPEN_CLOEXEC);
    if (config < 0 || fsconfig(config, FSCONFIG_SET_STRING, "huge", "advise", 0) < 0 ||
        fsconfig(config, FSCONFIG_SET_STRING, "size", "0", 0) < 0 || /* no limit */
        fsconfig(config, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0) {
        return -1;
    }
    AUTO_CLOSE int root = fsmount(config, FSMOUNT_CLOEXEC, 0);
    int fd = root < 0 ? -1 : openat(root, name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0) {
        (void)unlinkat(root, name, 0);
    }
    return fd;
}

void *huge_map(size_t size, int prot, int fd)
{
    size = align_up(size, PAGE_SIZE);
    uint8_t *base = mmap(NULL, size + HUGE_PAGE_SIZE, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        return NULL;
    }
    size_t skip = -(uintptr_t)base % HUGE_PAGE_SIZE;
    int flags = MAP_FIXED | MAP_NORESERVE | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
    uint8_t *map = mmap(base + skip, size, prot, flags, fd, 0);
    if (map == MAP_FAILED) {
        int saved = errno;
        (void)munmap(base, size + HUGE_PAGE_SIZE);
        errno = saved;
        return NULL;
    }
    if (skip) {
        (void)munmap(base, skip);
    }
    (void)munmap(map + size, HUGE_PAGE_SIZE - skip);
    return map;
}

void huge_begin(void *map, size_t size, size_t touched)
{
    (void)madvise(map, align_up(size, PAGE_SIZE), MADV_HUGEPAGE);
    touched = MIN(align_up(touched, HUGE_PAGE_SIZE), align_down(size, HUGE_PAGE_SIZE));
    if (touched) {
        (void)madvise(map, touched, MADV_COLLAPSE);
    }
}
