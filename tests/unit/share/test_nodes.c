/* Covers share/nodes.c: files that lose their descriptors, and get them back if they are still the same. */
#include "bed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOT  FUSE_ROOT_ID
#define FILES 20u

static struct bed bed;
static uint64_t node[FILES];

static void name_of(unsigned i, char *out_name)
{
    (void)snprintf(out_name, 16, "file%u", i);
}

/* More files than there may be descriptors, all of them known. */
static int set_up(void **state)
{
    bed_create(&bed, false);
    bed.share.nodes.open_max = 5;
    for (unsigned i = 0; i < FILES; i++) {
        char name[16];
        name_of(i, name);
        bed_host_file(&bed, name, name);
        node[i] = bed_look_up(&bed, ROOT, name);
        assert_int_not_equal(node[i], 0);
        assert_true(bed.share.nodes.open_count <= 5);
    }
    assert_true(bed.share.nodes.evicted > 10);
    return 0;
}

static int tear_down(void **state)
{
    bed_destroy(&bed);
    return 0;
}

static int content(uint64_t id, char *out_text)
{
    int64_t fh = bed_open(&bed, id, O_RDONLY);
    if (fh < 0) {
        return (int)fh;
    }
    int rc = bed_read(&bed, id, fh, out_text);
    const struct fuse_release_in release = {.fh = (uint64_t)fh};
    assert_int_equal(bed_call(&bed, FUSE_RELEASE, id, &release, sizeof(release), NULL), 0);
    return rc;
}

static void all_are_still_themselves(void **state)
{
    for (unsigned i = 0; i < 3 * FILES; i++) {
        char name[16], text[65];
        name_of(i * 7 % FILES, name);
        assert_int_equal(content(node[i * 7 % FILES], text), strlen(name));
        assert_string_equal(text, name);
        assert_true(bed.share.nodes.open_count <= 5);
        assert_int_equal(bed_look_up(&bed, ROOT, name), node[i * 7 % FILES]);
    }
}

static void what_the_host_replaces_is_stale(void **state)
{
    char path[160], other[160], text[65];
    (void)snprintf(path, sizeof(path), "%s/file0", bed.folder);
    (void)snprintf(other, sizeof(other), "%s/file1", bed.folder);
    assert_int_equal(rename(other, path), 0);
    assert_int_equal(content(node[0], text), -ESTALE);
    assert_int_equal(content(node[1], text), -ESTALE); /* by its old name it is not there */
    assert_int_equal(bed_look_up(&bed, ROOT, "file0"), node[1]);
    assert_int_equal(content(node[1], text), 5);
}

static void what_the_guest_moves_or_removes_is_found(void **state)
{
    char text[65];
    const struct fuse_mkdir_in folder = {.mode = 0755};
    assert_int_equal(
        bed_call(&bed, FUSE_MKDIR, ROOT, &folder, sizeof(folder), "d", (size_t)2, NULL), 0);
    uint64_t inside = bed_look_up(&bed, ROOT, "d");
    const struct fuse_rename_in rename = {.newdir = inside};
    assert_int_equal(bed_call(&bed, FUSE_RENAME, ROOT, &rename, sizeof(rename), "file2", (size_t)6,
                              "moved", (size_t)6, NULL),
                     0);
    assert_int_equal(bed_call(&bed, FUSE_UNLINK, ROOT, "file3", (size_t)6, NULL), 0);
    /* Others need descriptors; these two cannot be had by name again, so they keep theirs. */
    for (unsigned i = 4; i < FILES; i++) {
        assert_true(content(node[i], text) > 0);
    }
    assert_int_equal(content(node[2], text), 5);
    assert_string_equal(text, "file2");
    assert_int_equal(content(node[3], text), 5);
    assert_string_equal(text, "file3");
    assert_int_equal(bed_look_up(&bed, inside, "moved"), node[2]);
}

static void forgotten_numbers_are_used_again_with_another_generation(void **state)
{
    struct fuse_entry_out first, second;
    assert_int_equal(bed_call(&bed, FUSE_LOOKUP, ROOT, "file5", (size_t)6, NULL), 0);
    memcpy(&first, bed_reply(&bed), sizeof(first));
    bed_forget(&bed, first.nodeid, 1);
    assert_int_equal(bed_call(&bed, FUSE_GETATTR, first.nodeid, NULL), 0);
    bed_forget(&bed, first.nodeid, 1);
    assert_int_equal(bed_call(&bed, FUSE_GETATTR, first.nodeid, NULL), -ESTALE);
    bed_host_file(&bed, "new", "n");
    assert_int_equal(bed_call(&bed, FUSE_LOOKUP, ROOT, "new", (size_t)4, NULL), 0);
    memcpy(&second, bed_reply(&bed), sizeof(second));
    assert_int_equal(second.nodeid, first.nodeid);
    assert_int_not_equal(second.generation, first.generation);
}

/* A folder whose files are known is held by them. */
static void folders_outlive_their_lookups(void **state)
{
    char text[65];
    const struct fuse_mkdir_in mode = {.mode = 0755};
    assert_int_equal(bed_call(&bed, FUSE_MKDIR, ROOT, &mode, sizeof(mode), "d", (size_t)2, NULL),
                     0);
    const struct fuse_entry_out *entry = bed_reply(&bed);
    uint64_t folder = entry->nodeid;
    bed_host_file(&bed, "d/inner", "inner");
    uint64_t inner = bed_look_up(&bed, folder, "inner");
    bed_forget(&bed, folder, 1);
    for (unsigned i = 0; i < FILES; i++) {
        assert_true(content(node[i], text) > 0);
    }
    assert_int_equal(content(inner, text), 5);
    bed_forget(&bed, inner, 1);
    assert_int_equal(bed_call(&bed, FUSE_GETATTR, folder, NULL), -ESTALE);
    share_forget_all(&bed.share);
    assert_int_equal(bed.share.nodes.open_count, 1);
    assert_int_equal(bed.share.nodes.evicted, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(all_are_still_themselves, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_the_host_replaces_is_stale, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_the_guest_moves_or_removes_is_found, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(forgotten_numbers_are_used_again_with_another_generation,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(folders_outlive_their_lookups, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
