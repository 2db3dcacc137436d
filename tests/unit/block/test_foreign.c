/* Covers block/format/foreign: images of every kind that qemu-img makes read as qemu-img reads them. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "foreign_images.h"

#define CHUNK (1u << 20)

static void compare(const struct image_recipe *recipe)
{
    char path[256];
    char raw[256];
    image_make(recipe, path, raw, sizeof(path));
    struct image_files files;
    image_files_load(&files, path, false);
    const struct foreign_format *format = foreign_find(recipe->format);
    assert_non_null(format);

    uint8_t head[FOREIGN_HEAD_SIZE];
    uint8_t tail[FOREIGN_HEAD_SIZE];
    size_t head_size = MIN(files.file[0].size, sizeof(head));
    assert_int_equal(pread(files.file[0].fd, head, head_size, 0), head_size);
    assert_int_equal(
        pread(files.file[0].fd, tail, head_size, (off_t)(files.file[0].size - head_size)),
        head_size);
    assert_ptr_equal(foreign_probe(head, head_size, tail, head_size), format);

    struct error err = {0};
    struct foreign_image *image = NULL;
    if (foreign_open(format, &files.file[0].file, &files.names, &image, &err) < 0) {
        fail_msg("%s: %s", recipe->name, err.text);
    }
    int fd = open(raw, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    uint64_t size = foreign_get_info(image)->size_bytes;
    assert_int_equal(size, lseek(fd, 0, SEEK_END));
    assert_int_equal(foreign_get_info(image)->is_dirty, strstr(recipe->name, "dirty") != NULL);
    uint8_t *ours = malloc(CHUNK);
    uint8_t *theirs = malloc(CHUNK);
    for (uint64_t at = 0; at < size; at += CHUNK) {
        size_t part = (size_t)MIN(size - at, CHUNK);
        memset(ours, 0xa5, part);
        if (image_read(&files, image, at, ours, part, &err) < 0) {
            fail_msg("%s at %llu: %s", recipe->name, (unsigned long long)at, err.text);
        }
        assert_int_equal(pread(fd, theirs, part, (off_t)at), part);
        if (memcmp(ours, theirs, part) != 0) {
            size_t i = 0;
            while (ours[i] == theirs[i]) {
                i++;
            }
            fail_msg("%s differs at %llu: %02x, not %02x", recipe->name,
                     (unsigned long long)(at + i), ours[i], theirs[i]);
        }
    }
    /* Sector by sector, in another order, where a unit is crossed. */
    uint32_t random = 99;
    for (int i = 0; i < 3000; i++) {
        random = random * 1664525 + 1013904223;
        uint64_t at = (uint64_t)random % (size / 512) * 512;
        assert_int_equal(image_read(&files, image, at, ours, 512, &err), 0);
        assert_int_equal(pread(fd, theirs, 512, (off_t)at), 512);
        assert_memory_equal(ours, theirs, 512);
    }
    free(ours);
    free(theirs);
    close(fd);
    foreign_close(image);
    image_files_free(&files);
}

static void test_all(void **state)
{
    for (size_t i = 0; i < image_recipe_count; i++) {
        compare(&image_recipes[i]);
    }
}

int main(void)
{
    if (!images_init()) {
        (void)puts("qemu-img and qemu-io are not installed");
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_all)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    images_fini();
    return failed;
}
