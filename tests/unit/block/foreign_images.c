#include "foreign_images.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/checked.h"
#include "base/core/crc32c.h"
#include "base/core/endian.h"

#define MIB (1ull << 20)

#define MIXED_WRITES                                                                               \
    "-c 'write -P 17 5000k 3k' -c 'write -z 1M 1M' -c 'write -P 3 3333k 300k' -c 'write -z 64k "   \
    "512'"

const struct image_recipe image_recipes[] = {
    {"vmdk-sparse", "vmdk", "subformat=monolithicSparse", 9 * MIB + 512 * 7, MIXED_WRITES},
    {"vmdk-zeroed", "vmdk", "subformat=monolithicSparse,zeroed_grain=on", 9 * MIB, MIXED_WRITES},
    {"vmdk-compat6", "vmdk", "subformat=monolithicSparse,compat6=on", 6 * MIB, MIXED_WRITES},
    {"vmdk-flat", "vmdk", "subformat=monolithicFlat", 9 * MIB, MIXED_WRITES},
    {"vmdk-split-sparse", "vmdk", "subformat=twoGbMaxExtentSparse", 9 * MIB, MIXED_WRITES},
    {"vmdk-split-flat", "vmdk", "subformat=twoGbMaxExtentFlat", 9 * MIB, MIXED_WRITES},
    {"vmdk-stream", "vmdk", "subformat=streamOptimized", 9 * MIB + 512 * 77, NULL},
    {"vhdx-dynamic", "vhdx", "subformat=dynamic", 9 * MIB, MIXED_WRITES},
    {"vhdx-small-blocks", "vhdx", "subformat=dynamic,block_size=1M,block_state_zero=off", 19 * MIB,
     MIXED_WRITES},
    {"vhdx-fixed", "vhdx", "subformat=fixed", 6 * MIB, MIXED_WRITES},
    /* What its last writes changed is in the log alone. */
    {"vhdx-dirty", "vhdx", "subformat=dynamic,block_size=1M", 9 * MIB, MIXED_WRITES},
    {"vhdx-dirty-ring", "vhdx", "subformat=dynamic,block_size=1M", 9 * MIB, MIXED_WRITES},
    {"vhd-dynamic", "vpc", "subformat=dynamic,force_size=on", 9 * MIB, MIXED_WRITES},
    {"vhd-geometry", "vpc", "subformat=dynamic", 9 * MIB + 512, MIXED_WRITES},
    {"vhd-fixed", "vpc", "subformat=fixed,force_size=on", 6 * MIB, MIXED_WRITES},
    {"vhd-fixed-geometry", "vpc", "subformat=fixed", 6 * MIB, MIXED_WRITES},
    {"vdi-dynamic", "vdi", "static=off", 9 * MIB + 512 * 3, MIXED_WRITES},
    {"vdi-static", "vdi", "static=on", 6 * MIB, MIXED_WRITES},
    {"vmdk-split-large", "vmdk", "subformat=twoGbMaxExtentSparse", 2100 * MIB,
     "-c 'write -P 7 2047M 2M'"},
    {"vmdk-split-flat-large", "vmdk", "subformat=twoGbMaxExtentFlat", 2100 * MIB,
     "-c 'write -P 7 2047M 2M'"},
    {"vhdx-large", "vhdx", "subformat=dynamic", 5000 * MIB, "-c 'write -P 7 4999M 1M'"},
};
const size_t image_recipe_count = ARRAY_COUNT(image_recipes);

static char folder[64];

static int printf_like(1, 2) run(const char *format, ...)
{
    char command[2048];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(command, sizeof(command), format, args);
    va_end(args);
    return system(command);
}

bool images_init(void)
{
    if (run("command -v qemu-img >/dev/null && command -v qemu-io >/dev/null") != 0) {
        return false;
    }
    (void)strcpy(folder, "/tmp/hull-foreign-XXXXXX");
    return mkdtemp(folder) != NULL;
}

void images_fini(void)
{
    if (folder[0] != '\0') {
        (void)run("rm -rf '%s'", folder);
    }
}

/* Runs of data, of zeros that are written, and holes. */
static void make_source(const char *path, uint64_t size)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    uint32_t random = 12345;
    uint8_t data[4096];
    uint64_t end = MIN(size, 12 * MIB);
    for (uint64_t at = 0; at < end; at += sizeof(data)) {
        random = random * 1664525 + 1013904223;
        if ((at >> 16) % 3 == 1 || (random >> 24) % 4 == 0) {
            continue;
        }
        for (size_t i = 0; i < sizeof(data); i++) {
            random = random * 1664525 + 1013904223;
            data[i] = i % 64 < 40 ? (uint8_t)(random >> 24) : (uint8_t)(at >> 12);
        }
        size_t part = (size_t)MIN(sizeof(data), end - at);
        assert_int_equal(pwrite(fd, data, part, (off_t)at), part);
    }
    close(fd);
}

static void add_file(struct image_files *files, const char *path, bool in_memory)
{
    assert_true(files->count < IMAGE_MAX_FILES);
    struct image_file *file = &files->file[files->count++];
    struct stat st;
    const char *slash = strrchr(path, '/');
    (void)snprintf(file->name, sizeof(file->name), "%s", slash + 1);
    file->fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(file->fd >= 0);
    assert_int_equal(fstat(file->fd, &st), 0);
    file->size = (size_t)st.st_size;
    if (in_memory) {
        file->data = malloc(file->size);
        assert_non_null(file->data);
        assert_int_equal(pread(file->fd, file->data, file->size, 0), file->size);
        close(file->fd);
        file->fd = -1;
    }
}

/* One entry of a VHDX log: 'sectors' of the file at the given places, or zeros if that is NULL. */
static void put_log_entry(uint8_t *log, size_t log_size, size_t at, size_t tail, uint64_t sequence,
                          const uint8_t *guid, uint64_t file_size, const uint64_t *places,
                          const uint8_t *const *sectors, uint32_t count)
{
    uint8_t entry[16 * 4096] = "loge";
    size_t used = 4096;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *d = entry + 64 + 32 * (size_t)i;
        memcpy(d, sectors[i] != NULL ? "desc" : "zero", 4);
        le64_put(d + 16, places[i]);
        le64_put(d + 24, sequence);
        if (sectors[i] == NULL) {
            le64_put(d + 8, 4096);
            continue;
        }
        memcpy(d + 8, sectors[i], 8);
        memcpy(d + 4, sectors[i] + 4092, 4);
        memcpy(entry + used, sectors[i], 4096);
        memcpy(entry + used, "data", 4);
        le32_put(entry + used + 4, (uint32_t)(sequence >> 32));
        le32_put(entry + used + 4092, (uint32_t)sequence);
        used += 4096;
    }
    le32_put(entry + 8, (uint32_t)used);
    le32_put(entry + 12, (uint32_t)tail);
    le64_put(entry + 16, sequence);
    le32_put(entry + 24, count);
    memcpy(entry + 32, guid, 16);
    le64_put(entry + 48, file_size);
    le64_put(entry + 56, file_size);
    le32_put(entry + 4, crc32c(0, entry, used));
    for (size_t i = 0; i < used; i++) {
        log[(at + i) % log_size] = entry[i];
    }
}

/* Moves the block table of a VHDX into its log, behind stale entries, and lets the log change a block too. If 'is_ring', it goes
 * around the end of the ring, and there is an entry with a higher number whose tail has been overwritten: neither is for
 * qemu-img, which begins with the entry at the start of the ring, and does not look whether the tail is there. */
static void make_dirty(const char *path, bool is_ring)
{
    struct image_files files;
    memset(&files, 0, sizeof(files));
    add_file(&files, path, true);
    uint8_t *data = files.file[0].data;
    size_t size = files.file[0].size;
    uint8_t *headers[] = {data + (64 << 10), data + (128 << 10)};
    size_t log_size = le32_get(headers[0] + 68);
    size_t log_at = (size_t)le64_get(headers[0] + 72);
    uint8_t guid[16];
    for (size_t i = 0; i < sizeof(guid); i++) {
        guid[i] = (uint8_t)(i * 17 + 1);
    }
    size_t bat = 0;
    for (uint32_t i = 0; i < le32_get(data + (192 << 10) + 8); i++) {
        const uint8_t *region = data + (192 << 10) + 16 + 32 * (size_t)i;
        bat = region[0] == 0x66 ? (size_t)le64_get(region + 16) : bat;
    }
    uint8_t table[4096];
    memcpy(table, data + bat, sizeof(table));
    uint64_t block = 0; /* one that holds data */
    for (size_t i = 0; i < 9 && block == 0; i++) {
        uint64_t entry = le64_get(table + 8 * i);
        block = (entry & 7) == 6 ? entry >> 20 << 20 : 0;
    }
    assert_true(bat != 0 && block != 0);
    static const uint8_t junk[4096] = {1, 2, 3};
    uint8_t pattern[4096];
    memset(pattern, 0x77, sizeof(pattern));
    uint8_t *log = data + log_at;
    memset(data + bat, 0, sizeof(table));
    /* A sequence of old: lower numbers, whole in itself. */
    put_log_entry(log, log_size, 65536, 65536, 3, guid, size, (const uint64_t[]){bat},
                  (const uint8_t *const[]){junk}, 1);
    if (is_ring) {
        put_log_entry(log, log_size, 131072, 200704, 900, guid, size, (const uint64_t[]){bat},
                      (const uint8_t *const[]){junk}, 1);
    }
    /* The one that counts. */
    size_t tail = is_ring ? log_size - 12288 : 524288;
    put_log_entry(log, log_size, tail, tail, 70, guid, size, (const uint64_t[]){bat, block + 8192},
                  (const uint8_t *const[]){junk, junk}, 2);
    put_log_entry(log, log_size, (tail + 12288) % log_size, tail, 71, guid, size,
                  (const uint64_t[]){bat, block + 4096, block + 12288},
                  (const uint8_t *const[]){table, NULL, pattern}, 3);
    for (size_t i = 0; i < ARRAY_COUNT(headers); i++) {
        memcpy(headers[i] + 48, guid, sizeof(guid));
        le32_put(headers[i] + 4, 0);
        le32_put(headers[i] + 4, crc32c(0, headers[i], 4096));
    }
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, data, size, 0), size);
    close(fd);
    image_files_free(&files);
}

void image_make(const struct image_recipe *recipe, char *out_path, char *out_raw, size_t size)
{
    (void)snprintf(out_path, size, "%s/%s.%s", folder, recipe->name, recipe->format);
    (void)snprintf(out_raw, size, "%s/%s.raw", folder, recipe->name);
    make_source(out_raw, recipe->size_bytes);
    assert_int_equal(run("qemu-img convert -f raw -O %s -o %s '%s' '%s'", recipe->format,
                         recipe->options, out_raw, out_path),
                     0);
    if (recipe->writes != NULL) {
        assert_int_equal(
            run("qemu-io -f %s %s '%s' >/dev/null", recipe->format, recipe->writes, out_path), 0);
    }
    const char *oracle = "";
    if (strncmp(recipe->name, "vhdx-dirty", 10) == 0) {
        char copy[300];
        (void)snprintf(copy, sizeof(copy), "%s.copy", out_path);
        assert_int_equal(run("cp '%s' '%s'", out_path, copy), 0);
        make_dirty(out_path, strcmp(recipe->name, "vhdx-dirty-ring") == 0);
        make_dirty(copy, false);
        oracle = ".copy"; /* qemu-img replays a log in the file itself */
        assert_int_equal(run("qemu-img check -q -f vhdx -r all '%s'", copy), 0);
    }
    assert_int_equal(run("rm '%s'; qemu-img convert -f %s -O raw '%s%s' '%s'", out_raw,
                         recipe->format, out_path, oracle, out_raw),
                     0);
}

static int read_file(void *ctx, uint64_t offset, void *out_data, size_t size, struct error *err)
{
    struct image_file *file = ctx;
    assert_true(range_fits(offset, size, file->size));
    file->reads += size;
    if (file->fd < 0) {
        memcpy(out_data, file->data + offset, size);
        return 0;
    }
    assert_int_equal(pread(file->fd, out_data, size, (off_t)offset), size);
    return 0;
}

static int open_name(void *ctx, const char *name, struct foreign_file *out_file, struct error *err)
{
    struct image_files *files = ctx;
    for (unsigned i = 1; i < files->count; i++) {
        if (strcmp(files->file[i].name, name) == 0 && files->opened_count < IMAGE_MAX_FILES) {
            files->opened[files->opened_count++] = i;
            *out_file = files->file[i].file;
            return 0;
        }
    }
    return error_set(err, EPERM, "not allowed");
}

void image_files_reset(struct image_files *files)
{
    files->opened_count = 1;
    files->opened[0] = 0;
    files->names = (struct foreign_names){open_name, files};
    for (unsigned i = 0; i < files->count; i++) {
        struct image_file *file = &files->file[i];
        file->reads = 0;
        file->file = (struct foreign_file){read_file, file, file->size};
    }
}

void image_files_load(struct image_files *files, const char *path, bool in_memory)
{
    memset(files, 0, sizeof(*files));
    add_file(files, path, in_memory);
    size_t length = (size_t)(strrchr(files->file[0].name, '.') - files->file[0].name);
    DIR *dir = opendir(folder);
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        const char *rest = entry->d_name + length;
        if (strncmp(entry->d_name, files->file[0].name, length) == 0 &&
            (strncmp(rest, "-s0", 3) == 0 || strncmp(rest, "-f0", 3) == 0 ||
             strcmp(rest, "-flat.vmdk") == 0)) {
            char other[512];
            (void)snprintf(other, sizeof(other), "%s/%s", folder, entry->d_name);
            add_file(files, other, in_memory);
        }
    }
    closedir(dir);
    image_files_reset(files);
}

void image_files_take(struct image_files *files, uint8_t *data, size_t size)
{
    memset(files, 0, sizeof(*files));
    files->count = 1;
    files->file[0] = (struct image_file){.fd = -1, .data = data, .size = size};
    image_files_reset(files);
}

void image_files_free(struct image_files *files)
{
    for (unsigned i = 0; i < files->count; i++) {
        free(files->file[i].data);
        if (files->file[i].fd >= 0) {
            close(files->file[i].fd);
        }
    }
}

int image_read(struct image_files *files, struct foreign_image *image, uint64_t offset,
               void *out_data, size_t size, struct error *err)
{
    uint8_t *to = out_data;
    while (size != 0) {
        struct foreign_extent extent;
        int rc = foreign_map(image, offset, size, &extent, err);
        if (rc < 0) {
            return rc;
        }
        assert_true(extent.size_bytes != 0 && extent.size_bytes <= size);
        size_t part = (size_t)extent.size_bytes;
        switch (extent.status) {
        case FOREIGN_DATA:
            assert_true(extent.file < files->opened_count);
            rc = read_file(&files->file[files->opened[extent.file]], extent.file_offset, to, part,
                           err);
            break;
        case FOREIGN_ZERO:
        case FOREIGN_HOLE:
            memset(to, 0, part);
            break;
        case FOREIGN_ENCODED:
            rc = foreign_read_encoded(image, &extent, to, err);
            break;
        }
        if (rc < 0) {
            return rc;
        }
        to += part;
        offset += part;
        size -= part;
    }
    return 0;
}
