/* Rubbish as the file of an exported instance: plain or compressed, read in pieces of all sizes. The first byte says whether
 * checksums of headers are put right before, so that what stands behind them is reached, too. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/compiler.h"
#include "base/core/invariant.h"
#include "manager/transfer/bundle.h"
#include "manager/transfer/tar_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_READ (1u << 22)

struct source {
    const uint8_t *data;
    size_t size, at, piece;
};

static int read_source(void *ctx, void *data, size_t size, size_t *out_size, struct error *err)
{
    struct source *source = ctx;
    size_t part = MIN(MIN(size, source->piece), source->size - source->at);
    memcpy(data, source->data + source->at, part);
    source->at += part;
    *out_size = part;
    return 0;
}

static void check_member(const struct bundle_member *member)
{
    uint64_t end = 0;
    size_t length = strlen(member->name);
    invariant(length > 0 && length < BUNDLE_NAME_SIZE && member->name[0] != '/');
    invariant(strstr(member->name, "..") == NULL || strstr(member->name, "/..") == NULL);
    invariant(strncmp(member->name, "..", 2) != 0);
    for (size_t i = 0; i < member->map.count; i++) {
        const struct bundle_extent *extent = &member->map.extents[i];
        invariant(extent->size > 0 && extent->offset >= end);
        end = extent->offset + extent->size;
        invariant(end >= extent->offset && end <= member->map.real_size);
    }
    invariant(!member->is_sparse || bundle_map_data(&member->map) == member->size);
}

static void read_all(struct source *source)
{
    struct bundle_reader *reader;
    const struct bundle_member *member;
    json_t *header = NULL;
    uint64_t total = 0;
    if (bundle_reader_create(read_source, source, &reader, NULL) < 0) {
        return;
    }
    if (bundle_read_header(reader, &header, NULL) == 0) {
        invariant(json_is_object(json_object_get(header, "document")));
        json_decref(header);
        while (bundle_next(reader, &member, NULL) > 0 && total < MAX_READ) {
            uint8_t part[1000];
            size_t got = 1;
            uint64_t left = member->size;
            check_member(member);
            while (total < MAX_READ && got > 0 &&
                   bundle_read(reader, part, sizeof(part), &got, NULL) == 0) {
                invariant(got <= left);
                left -= got;
                total += got;
            }
        }
    }
    bundle_reader_destroy(reader);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    uint8_t *copy = malloc(size);
    invariant(copy != NULL);
    memcpy(copy, data, size);
    for (size_t at = 2; (data[0] & 1) != 0 && at + TAR_BLOCK <= size; at += TAR_BLOCK) {
        struct tar_header header;
        memcpy(&header, copy + at, sizeof(header));
        if (memcmp(header.magic, "ustar", 5) == 0) {
            char text[16];
            (void)snprintf(text, sizeof(text), "%06o", tar_checksum(&header) & 0777777);
            memcpy(copy + at + offsetof(struct tar_header, checksum), text, 7);
        }
    }
    struct source source = {.data = copy + 2, .size = size - 2, .piece = data[1] + 1u};
    read_all(&source);
    free(copy);
    return 0;
}
