/* Covers share/state.c: a session goes on in another process, with what is still there; a state is not believed. */
#include "bed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOT FUSE_ROOT_ID

static struct bed bed;

static int set_up(void **state)
{
    bed_create(&bed, false);
    return 0;
}

static int tear_down(void **state)
{
    bed_destroy(&bed);
    return 0;
}

static void sessions_go_on(void **state)
{
    char path[160], other[160], text[65];
    (void)snprintf(path, sizeof(path), "%s/folder", bed.folder);
    assert_int_equal(mkdir(path, 0755), 0);
    bed_host_file(&bed, "folder/kept", "kept");
    bed_host_file(&bed, "folder/lost", "lost");
    bed_host_file(&bed, "replaced", "old");
    uint64_t folder = bed_look_up(&bed, ROOT, "folder");
    uint64_t kept = bed_look_up(&bed, folder, "kept"), lost = bed_look_up(&bed, folder, "lost");
    uint64_t replaced = bed_look_up(&bed, ROOT, "replaced");
    int64_t kept_fh = bed_open(&bed, kept, O_RDWR), lost_fh = bed_open(&bed, lost, O_RDONLY);
    bed_forget(&bed, ROOT, 0);
    (void)bed_look_up(&bed, folder, "kept"); /* known twice */

    size_t size;
    uint8_t *saved = share_save(&bed.share, &size);
    assert_non_null(saved);
    bed_host_file(&bed, "new", "new");
    (void)snprintf(other, sizeof(other), "%s/new", bed.folder);
    (void)snprintf(path, sizeof(path), "%s/replaced", bed.folder);
    assert_int_equal(rename(other, path), 0);
    (void)snprintf(path, sizeof(path), "%s/folder/lost", bed.folder);
    assert_int_equal(unlink(path), 0);
    bed_restart(&bed);
    assert_int_equal(share_restore(&bed.share, saved, size), 0);
    free(saved);

    assert_int_equal(bed_read(&bed, kept, kept_fh, text), 4);
    assert_string_equal(text, "kept");
    assert_int_equal(bed_read(&bed, lost, lost_fh, text), -ESTALE);
    assert_int_equal(bed_call(&bed, FUSE_GETATTR, lost, NULL), -ESTALE);
    assert_int_equal(bed_call(&bed, FUSE_GETATTR, replaced, NULL), -ESTALE);
    assert_int_equal(bed_look_up(&bed, folder, "kept"), kept);
    bed_forget(&bed, kept, 3);
    assert_int_equal(bed_call(&bed, FUSE_GETATTR, kept, NULL), -ESTALE);
}

static uint8_t *made_state(const char *path, uint64_t ino, uint32_t type, size_t *out_size)
{
    uint8_t *data = calloc(1, 4096), *at = data;
    const uint64_t generation = 1, id = 2, lookups = 1, none = 0;
    const uint32_t version = 1, length = (uint32_t)strlen(path), handles = 0;
#define PUT(value) (memcpy(at, &(value), sizeof(value)), at += sizeof(value))
    PUT(version);
    at++; /* no long attributes */
    PUT(generation);
    PUT(id);
    PUT(generation);
    PUT(lookups);
    PUT(ino);
    PUT(type);
    PUT(length);
    memcpy(at, path, length);
    at += length;
    PUT(none);
    PUT(handles);
#undef PUT
    *out_size = (size_t)(at - data);
    return data;
}

static void states_lead_nowhere_else(void **state)
{
    static const char *const paths[] = {"/etc/passwd", "../../etc/passwd", "link/passwd", "link"};
    char path[160];
    struct stat passwd, own;
    assert_int_equal(stat("/etc/passwd", &passwd), 0);
    (void)snprintf(path, sizeof(path), "%s/link", bed.folder);
    assert_int_equal(symlink("/etc", path), 0);
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        size_t size;
        uint8_t *data = made_state(paths[i], passwd.st_ino, S_IFREG, &size);
        assert_int_equal(share_restore(&bed.share, data, size), 0);
        assert_int_equal(bed_open(&bed, 2, O_RDONLY), -ESTALE);
        free(data);
    }
    /* The maker of states is right. */
    bed_host_file(&bed, "own", "own");
    (void)snprintf(path, sizeof(path), "%s/own", bed.folder);
    assert_int_equal(stat(path, &own), 0);
    size_t size;
    uint8_t *data = made_state("own", own.st_ino, S_IFREG, &size);
    assert_int_equal(share_restore(&bed.share, data, size), 0);
    assert_true(bed_open(&bed, 2, O_RDONLY) >= 0);
    free(data);
}

static void rubbish_is_refused(void **state)
{
    bed_host_file(&bed, "a", "a");
    uint64_t node = bed_look_up(&bed, ROOT, "a");
    assert_true(bed_open(&bed, node, O_RDONLY) >= 0);
    size_t size;
    uint8_t *saved = share_save(&bed.share, &size);
    assert_non_null(saved);
    for (size_t shorter = 0; shorter < size; shorter++) {
        uint8_t *copy = malloc(shorter + 1);
        memcpy(copy, saved, shorter);
        assert_true(share_restore(&bed.share, copy, shorter) < 0);
        free(copy);
    }
    uint8_t *copy = malloc(size);
    for (size_t i = 0; i < size * 8; i++) {
        memcpy(copy, saved, size);
        copy[i / 8] ^= (uint8_t)(1u << i % 8);
        int rc = share_restore(&bed.share, copy, size);
        assert_true(rc <= 0);
        assert_int_equal(bed_call(&bed, FUSE_GETATTR, ROOT, NULL), 0);
    }
    free(copy);
    assert_int_equal(share_restore(&bed.share, saved, size), 0);
    free(saved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sessions_go_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(states_lead_nowhere_else, set_up, tear_down),
        cmocka_unit_test_setup_teardown(rubbish_is_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
