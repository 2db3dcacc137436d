/* Memory in pages of 2 MiB where the host has them, as its CPU then looks addresses up more seldom and faster. */
#ifndef BASE_HOST_HUGE_H
#define BASE_HOST_HUGE_H

#include <stddef.h>

#define HUGE_PAGE_SIZE (2u << 20)

/* A file in memory, without a name and of size 0, that can have huge pages. For those of memfd_create the host's setting
 * for all decides (shmem_enabled, as a rule "never"); a file system in memory of one's own has them where who maps its
 * files asks for them. That takes rights in the mount namespace, which a process that prepares a jail for itself has.
 * -1: none is to be had. */
int huge_create_file(const char *name);

/* Maps 'size' bytes from the file's start, or zeroed memory if 'fd' is -1, at a multiple of a huge page's size. NULL: failed,
 * errno says why. For munmap. */
void *huge_map(size_t size, int prot, int fd);
/* Asks for huge pages: what is touched from now on takes one at a time, and the first 'touched' bytes, which have been for the most part,
 * are moved to such at once. A wish: the kernel may have none. */
void huge_begin(void *map, size_t size, size_t touched);

#endif
