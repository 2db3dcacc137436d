/* CRC-32C (Castagnoli), as saved states and VHDX images carry it. */
#ifndef BASE_CORE_CRC32C_H
#define BASE_CORE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Goes on from 'crc', which is 0 at the start. */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);

#endif
