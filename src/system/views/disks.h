/* What a container reads and writes on the host's disks. Pure functions. */
#ifndef SYSTEM_VIEWS_DISKS_H
#define SYSTEM_VIEWS_DISKS_H

#include <stdint.h>

#include "system/views/text.h"

#define DISKS_MAX 128 /* that one container uses; more are left out */

enum disk_direction {
    DISK_READ,
    DISK_WRITE,
    DISK_DISCARD,
    DISK_DIRECTION_COUNT,
};

struct disk {
    unsigned major, minor;
    uint64_t bytes[DISK_DIRECTION_COUNT], requests[DISK_DIRECTION_COUNT];
};

/* All zero: none. */
struct disks {
    unsigned count;
    struct disk disk[DISKS_MAX];
};

/* The texts of v1's blkio.throttle.io_service_bytes_recursive ('is_bytes') and .io_serviced_recursive. */
void disks_parse_v1(struct disks *disks, const char *text, bool is_bytes);
/* The text of v2's io.stat. */
void disks_parse_v2(struct disks *disks, const char *text);

/* The disks that the container has used, with the host's names and in its order. Times are not counted for groups: 0. */
void render_diskstats(struct text *text, const struct disks *disks, const char *host_diskstats);

#endif
