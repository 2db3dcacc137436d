/* Descriptors of functions that return -errno: what is negative is not closed. */
#ifndef CONTAINER_DESCRIPTOR_H
#define CONTAINER_DESCRIPTOR_H

#include <unistd.h>

static inline void descriptor_cleanup(const int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
}
#define AUTO_HANDLE __attribute__((cleanup(descriptor_cleanup)))

#endif
