#include "base/core/archive.h"

#include "base/core/endian.h"

void archive_put(struct archive_writer *writer, const void *data, size_t size)
{
    if (writer->status == 0 && size != 0) {
        writer->status = writer->write(writer->ctx, data, size);
    }
}

void archive_put_u8(struct archive_writer *writer, uint8_t value)
{
    archive_put(writer, &value, sizeof(value));
}

#define ARCHIVE_DEFINE(bits)                                                                       \
    void archive_put_u##bits(struct archive_writer *writer, uint##bits##_t value)                  \
    {                                                                                              \
        uint8_t bytes[sizeof(value)];                                                              \
        le##bits##_put(bytes, value);                                                              \
        archive_put(writer, bytes, sizeof(bytes));                                                 \
    }                                                                                              \
    uint##bits##_t archive_get_u##bits(struct archive_reader *reader)                              \
    {                                                                                              \
        uint8_t bytes[sizeof(uint##bits##_t)];                                                     \
        archive_get(reader, bytes, sizeof(bytes));                                                 \
        return le##bits##_get(bytes);                                                              \
    }
ARCHIVE_DEFINE(16)
ARCHIVE_DEFINE(32)
ARCHIVE_DEFINE(64)

void archive_put_bool(struct archive_writer *writer, bool value)
{
    archive_put_u8(writer, value ? 1 : 0);
}

void archive_put_blob(struct archive_writer *writer, const void *data, uint32_t size)
{
    archive_put_u32(writer, size);
    archive_put(writer, data, size);
}

void archive_reader_init(struct archive_reader *reader, const void *data, size_t size)
{
    *reader = (struct archive_reader){.data = data, .size = size};
}

/* The next 'size' bytes, or NULL and a sticky failure. */
static const uint8_t *take(struct archive_reader *reader, size_t size)
{
    if (reader->status != 0 || size > reader->size - reader->offset) {
        reader->status = -EBADMSG;
        return NULL;
    }
    const uint8_t *bytes = reader->data + reader->offset;
    reader->offset += size;
    return bytes;
}

void archive_get(struct archive_reader *reader, void *out_data, size_t size)
{
    const uint8_t *bytes = take(reader, size);
    if (bytes != NULL) {
        __builtin_memcpy(out_data, bytes, size);
    } else {
        __builtin_memset(out_data, 0, size);
    }
}

uint8_t archive_get_u8(struct archive_reader *reader)
{
    uint8_t value;
    archive_get(reader, &value, sizeof(value));
    return value;
}

bool archive_get_bool(struct archive_reader *reader)
{
    uint8_t value = archive_get_u8(reader);
    if (value > 1) {
        reader->status = -EBADMSG;
        return false;
    }
    return value == 1;
}

const void *archive_get_blob(struct archive_reader *reader, uint32_t max_size, uint32_t *out_size)
{
    uint32_t size = archive_get_u32(reader);
    *out_size = 0;
    if (size > max_size) {
        reader->status = -EBADMSG;
        return NULL;
    }
    const uint8_t *bytes = take(reader, size);
    if (bytes != NULL) {
        *out_size = size;
    }
    return bytes;
}

int archive_finish(const struct archive_reader *reader, struct error *err)
{
    if (reader->status != 0) {
        return error_set(err, EBADMSG, "saved state ends early or holds a value out of range");
    }
    if (reader->offset != reader->size) {
        return error_set(err, EBADMSG, "saved state has %zu bytes too many",
                         reader->size - reader->offset);
    }
    return 0;
}
