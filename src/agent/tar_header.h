/* A header of POSIX's ustar. */
#ifndef AGENT_TAR_HEADER_H
#define AGENT_TAR_HEADER_H

#include <stdint.h>

#include "agent/tar.h"

union tar_header {
    uint8_t byte[TAR_BLOCK];
    struct {
        char name[100], mode[8], uid[8], gid[8], size[12], time[12], checksum[8], type, target[100];
        char magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155], rest[12];
    } f;
};
_Static_assert(sizeof(union tar_header) == TAR_BLOCK, "fields of ustar");

#endif
