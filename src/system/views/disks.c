/* What a container reads and writes on the host's disks. */
#include "system/views/disks.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR_SHIFT 9

/* The disk's place; disks->count: there is none. */
static unsigned find(const struct disks *disks, unsigned major, unsigned minor)
{
    unsigned i = 0;
    while (i < disks->count && (disks->disk[i].major != major || disks->disk[i].minor != minor)) {
        i++;
    }
    return i;
}

/* NULL: there is no room for more. */
static struct disk *find_or_add(struct disks *disks, unsigned major, unsigned minor)
{
    unsigned i = find(disks, major, minor);
    if (i == DISKS_MAX) {
        return NULL;
    }
    if (i == disks->count) {
        disks->disk[disks->count++] = (struct disk){.major = major, .minor = minor};
    }
    return &disks->disk[i];
}

void disks_parse_v1(struct disks *disks, const char *text, bool is_bytes)
{
    static const char *const names[] = {"Read", "Write", "Discard"};
    for (const char *line = text; *line != '\0';) {
        unsigned major, minor;
        char name[16];
        uint64_t value;
        if (sscanf(line, "%u:%u %15s %" SCNu64, &major, &minor, name, &value) == 4) {
            for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
                struct disk *disk =
                    strcmp(name, names[i]) == 0 ? find_or_add(disks, major, minor) : NULL;
                if (disk != NULL) {
                    (is_bytes ? disk->bytes : disk->requests)[i] = value;
                }
            }
        }
        line = strchrnul(line, '\n');
        line += *line == '\n';
    }
}

/* "rbytes=1 wbytes=2 rios=3 ...": the value behind " NAME=". */
static uint64_t value_of(const char *line, const char *name)
{
    size_t length = strlen(name);
    for (const char *word = line; *word != '\0' && *word != '\n';) {
        if (strncmp(word, name, length) == 0 && word[length] == '=') {
            return strtoull(word + length + 1, NULL, 10);
        }
        word += strcspn(word, " \n");
        word += *word == ' ';
    }
    return 0;
}

void disks_parse_v2(struct disks *disks, const char *text)
{
    static const char *const bytes[] = {"rbytes", "wbytes", "dbytes"};
    static const char *const requests[] = {"rios", "wios", "dios"};
    for (const char *line = text; *line != '\0';) {
        unsigned major, minor;
        struct disk *disk =
            sscanf(line, "%u:%u", &major, &minor) == 2 ? find_or_add(disks, major, minor) : NULL;
        for (size_t i = 0; i < DISK_DIRECTION_COUNT && disk != NULL; i++) {
            disk->bytes[i] = value_of(line, bytes[i]);
            disk->requests[i] = value_of(line, requests[i]);
        }
        line = strchrnul(line, '\n');
        line += *line == '\n';
    }
}

void render_diskstats(struct text *text, const struct disks *disks, const char *host_diskstats)
{
    for (const char *line = host_diskstats; *line != '\0';) {
        unsigned major, minor;
        char name[64];
        unsigned place = sscanf(line, "%u %u %63s", &major, &minor, name) == 3
                             ? find(disks, major, minor)
                             : disks->count;
        if (place < disks->count) {
            const struct disk *disk = &disks->disk[place];
            text_printf(text,
                        "%4u %7u %s %" PRIu64 " 0 %" PRIu64 " 0 %" PRIu64 " 0 %" PRIu64
                        " 0 0 0 0 %" PRIu64 " 0 %" PRIu64 " 0 0 0\n",
                        major, minor, name, disk->requests[DISK_READ],
                        disk->bytes[DISK_READ] >> SECTOR_SHIFT, disk->requests[DISK_WRITE],
                        disk->bytes[DISK_WRITE] >> SECTOR_SHIFT, disk->requests[DISK_DISCARD],
                        disk->bytes[DISK_DISCARD] >> SECTOR_SHIFT);
        }
        line = strchrnul(line, '\n');
        line += *line == '\n';
    }
}
