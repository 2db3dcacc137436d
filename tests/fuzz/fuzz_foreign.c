/* Rubbish as an image of another product: the first byte says which format, the rest is the file. A name in it opens the same
 * file once more. Checksums are put right first, so that what lies behind them is reached. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/checked.h"
#include "base/core/crc32c.h"
#include "base/core/endian.h"
#include "block/format/foreign/foreign.h"

#define MAX_STEPS 64
#define LARGE     (64ull << 20)
#define READ_SIZE 4096u
#define SPREAD    (64u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    uint8_t *data;
    size_t size;
};

static int read_input(void *ctx, uint64_t offset, void *out_data, size_t size, struct error *err)
{
    const struct input *input = ctx;
    if (!range_fits(offset, size, input->size)) {
        __builtin_trap();
    }
    memcpy(out_data, input->data + offset, size);
    return 0;
}

static int open_name(void *ctx, const char *name, struct foreign_file *out_file, struct error *err)
{
    struct input *input = ctx;
    *out_file = (struct foreign_file){read_input, input, input->size};
    return 0;
}

static void explore(struct foreign_image *image, size_t size)
{
    uint64_t disk_size = foreign_get_info(image)->size_bytes;
    uint64_t at = 0;
    for (int i = 0; i < MAX_STEPS && at < disk_size; i++) {
        struct foreign_extent extent;
        if (foreign_map(image, at, MIN(disk_size - at, LARGE), &extent, NULL) < 0) {
            at += SPREAD;
            continue;
        }
        if (extent.size_bytes == 0 || extent.size_bytes > disk_size - at ||
            (extent.status == FOREIGN_DATA &&
             !range_fits(extent.file_offset, extent.size_bytes, size))) {
            __builtin_trap();
        }
        at += extent.size_bytes;
        if (extent.status == FOREIGN_ENCODED) {
            uint8_t bytes[READ_SIZE];
            extent.size_bytes = MIN(extent.size_bytes, sizeof(bytes));
            (void)!foreign_read_encoded(image, &extent, bytes, NULL);
        }
    }
}

static void sum_vhd(uint8_t *bytes, size_t size, size_t at)
{
    uint32_t sum = 0;
    be32_put(bytes + at, 0);
    for (size_t i = 0; i < size; i++) {
        sum += bytes[i];
    }
    be32_put(bytes + at, ~sum);
}

static void sum_crc(struct input *input, size_t at, size_t size)
{
    if (range_fits(at, size, input->size)) {
        le32_put(input->data + at + 4, 0);
        le32_put(input->data + at + 4, crc32c(0, input->data + at, size));
    }
}

/* A VHDX is sparse: the input has the first 512 bytes of each 64 KiB. */
static void spread(struct input *input, const uint8_t *data, size_t size)
{
    size_t count = MIN((size + 511) / 512, 80);
    input->size = MAX(count, 1) * SPREAD;
    input->data = calloc(1, input->size);
    for (size_t i = 0; i < count && input->data != NULL; i++) {
        memcpy(input->data + i * SPREAD, data + i * 512, MIN(512, size - i * 512));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"vmdk", "vhdx", "vhd", "vdi"};
    if (size == 0) {
        return 0;
    }
    const char *name = names[data[0] % ARRAY_COUNT(names)];
    struct input input = {.size = size - 1};
    data++;
    if (strcmp(name, "vhdx") == 0) {
        spread(&input, data, input.size);
    } else if ((input.data = malloc(MAX(input.size, 1))) != NULL) {
        memcpy(input.data, data, input.size);
    }
    if (input.data == NULL) {
        return 0;
    }
    if (strcmp(name, "vhd") == 0 && input.size >= 512) {
        sum_vhd(input.data + input.size - 512, 512, 64);
        if (input.size >= 1536) {
            sum_vhd(input.data + 512, 1024, 36);
        }
    }
    if (strcmp(name, "vhdx") == 0) {
        sum_crc(&input, SPREAD, 4096);
        sum_crc(&input, (size_t)2 * SPREAD, 4096);
        sum_crc(&input, (size_t)3 * SPREAD, SPREAD);
        for (size_t at = 1 << 20; at + 4096 <= input.size; at += SPREAD) {
            uint32_t length = le32_get(input.data + at + 8);
            if (memcmp(input.data + at, "loge", 4) == 0 && length >= 4096) {
                sum_crc(&input, at, length);
            }
        }
    }
    struct foreign_file file = {read_input, &input, input.size};
    struct foreign_names open_names = {open_name, &input};
    struct foreign_image *image;
    if (foreign_open(foreign_find(name), &file, &open_names, &image, NULL) == 0) {
        explore(image, input.size);
        foreign_close(image);
    }
    free(input.data);
    return 0;
}
