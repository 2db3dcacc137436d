/* Archives: how a device or a vCPU writes its state for a save, and reads it back.
 *
 * Little-endian values one after the other, no padding; the owner's version number (kept by the section
 * around it, see migrate/) says what follows what. Both ends are sticky: after the first failure the
 * writer ignores what follows and the reader returns zeros, and the status tells at the end. A reader's
 * bytes come from an untrusted file: it never reads past its end, and whoever uses a value checks it. */
#ifndef BASE_CORE_ARCHIVE_H
#define BASE_CORE_ARCHIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"

struct archive_writer {
    /* Takes 'size' bytes or returns -errno. */
    int (*write)(void *ctx, const void *data, size_t size);
    void *ctx;
    int status; /* 0, or the first -errno */
};

struct archive_reader {
    const uint8_t *data; /* borrowed while the reader is used */
    size_t size;
    size_t offset;
    int status; /* 0, or -EBADMSG after a read past the end */
};

void archive_put(struct archive_writer *writer, const void *data, size_t size);
void archive_put_u8(struct archive_writer *writer, uint8_t value);
void archive_put_u16(struct archive_writer *writer, uint16_t value);
void archive_put_u32(struct archive_writer *writer, uint32_t value);
void archive_put_u64(struct archive_writer *writer, uint64_t value);
/* One byte, 0 or 1. */
void archive_put_bool(struct archive_writer *writer, bool value);
/* A 32-bit size and the bytes. */
void archive_put_blob(struct archive_writer *writer, const void *data, uint32_t size);

void archive_reader_init(struct archive_reader *reader, const void *data, size_t size);
void archive_get(struct archive_reader *reader, void *out_data, size_t size);
uint8_t archive_get_u8(struct archive_reader *reader);
uint16_t archive_get_u16(struct archive_reader *reader);
uint32_t archive_get_u32(struct archive_reader *reader);
uint64_t archive_get_u64(struct archive_reader *reader);
/* Any byte but 0 and 1 is a failure. */
bool archive_get_bool(struct archive_reader *reader);
/* The bytes of a blob of at most 'max_size' (else a failure); borrowed from the reader's data. */
const void *archive_get_blob(struct archive_reader *reader, uint32_t max_size, uint32_t *out_size);
/* 0 if all was read without failure and nothing is left over, else -EBADMSG with the reason. */
int archive_finish(const struct archive_reader *reader, struct error *err);

#endif
