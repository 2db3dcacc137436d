/* Covers src/container/seccomp/cache.c: programs are found again, and nothing that is not as it was written counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container/seccomp/program.h"
#include "support.h"

#define REFUSES                                                                                    \
    "\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"mkdir\"], \"action\": "  \
    "\"SCMP_ACT_ERRNO\", \"errnoRet\": 77}]"
#define ALLOWS "\"defaultAction\": \"SCMP_ACT_ALLOW\""

static char folder[64], cache[80];

static int make_folder(void **state)
{
    (void)snprintf(folder, sizeof(folder), "/tmp/hull-test-XXXXXX");
    assert_non_null(mkdtemp(folder));
    (void)snprintf(cache, sizeof(cache), "%s/cache", folder);
    return 0;
}

/* The paths of what is in the cache: of the last one in 'out_path'. */
static unsigned entries(char *out_path, size_t size)
{
    unsigned count = 0;
    DIR *all = opendir(cache);
    for (struct dirent *entry = all != NULL ? readdir(all) : NULL; entry != NULL;
         entry = readdir(all)) {
        if (entry->d_name[0] != '.') {
            (void)snprintf(out_path, size, "%s/%.80s", cache, entry->d_name);
            count++;
        }
    }
    if (all != NULL) {
        (void)closedir(all);
    }
    return count;
}

static int remove_folder(void **state)
{
    char path[256];
    for (unsigned i = 0; i < 256 && entries(path, sizeof(path)) > 0; i++) {
        (void)unlink(path);
    }
    (void)rmdir(cache);
    return rmdir(folder);
}

static int errno_with(const char *members)
{
    struct seccomp_program *program = program_with(members, cache);
    int status = status_of(program, try_mkdir, NULL);
    seccomp_program_free(program);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void is_made_once(void **state)
{
    char path[256];
    struct stat first, second;
    assert_int_equal(errno_with(REFUSES), 77);
    assert_int_equal(entries(path, sizeof(path)), 1);
    assert_int_equal(stat(path, &first), 0);
    assert_int_equal(first.st_mode & 0777, 0600);
    assert_int_equal(errno_with(REFUSES), 77);
    assert_int_equal(stat(path, &second), 0);
    assert_int_equal(first.st_ino, second.st_ino);
}

/* What is kept under a text is what its container gets: so it comes from the file, not from the compiler. */
static void is_taken_from_the_file(void **state)
{
    struct spec *spec = spec_with(ALLOWS);
    struct seccomp_program *refuses = program_with(REFUSES, NULL);
    seccomp_cache_keep(cache, spec->linux_.seccomp.source, refuses);
    assert_int_equal(errno_with(ALLOWS), 77);
    seccomp_program_free(refuses);
    spec_destroy(spec);
}

/* Each byte of header and text, and some of the filter: the entry is made anew, and then right. */
static void damaged_entries_are_replaced(void **state)
{
    char path[256];
    assert_int_equal(errno_with(REFUSES), 77);
    assert_int_equal(entries(path, sizeof(path)), 1);
    struct stat before, after;
    assert_int_equal(stat(path, &before), 0);
    for (off_t at = 0; at < before.st_size; at += 1) {
        int fd = open(path, O_RDWR | O_CLOEXEC);
        unsigned char byte;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 0x40;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        assert_int_equal(fstat(fd, &before), 0);
        struct seccomp_program *program = program_with(REFUSES, cache);
        seccomp_program_free(program);
        assert_int_equal(stat(path, &after), 0);
        assert_int_not_equal(before.st_ino, after.st_ino); /* 'fd' keeps the old number taken */
        assert_int_equal(close(fd), 0);
    }
    assert_int_equal(truncate(path, before.st_size - 1), 0);
    assert_int_equal(errno_with(REFUSES), 77);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(after.st_size, before.st_size);
    assert_int_equal(entries(path, sizeof(path)), 1);
}

static struct seccomp_program *find_refuses(void)
{
    struct spec *spec = spec_with(REFUSES);
    struct seccomp_program *found = seccomp_cache_find(cache, spec->linux_.seccomp.source);
    spec_destroy(spec);
    return found;
}

static void others_files_do_not_count(void **state)
{
    char path[256], elsewhere[128];
    assert_int_equal(errno_with(REFUSES), 77);
    assert_int_equal(entries(path, sizeof(path)), 1);
    struct seccomp_program *found = find_refuses();
    assert_non_null(found);
    seccomp_program_free(found);
    assert_int_equal(chmod(path, 0620), 0);
    assert_null(find_refuses());
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(chmod(cache, 0777), 0);
    assert_null(find_refuses());
    assert_int_equal(chmod(cache, 0700), 0);
    if (geteuid() == 0) {
        assert_int_equal(chown(path, 1, 1), 0);
        assert_null(find_refuses());
        assert_int_equal(chown(path, 0, 0), 0);
    }
    (void)snprintf(elsewhere, sizeof(elsewhere), "%s/elsewhere", folder);
    assert_int_equal(rename(path, elsewhere), 0);
    assert_int_equal(symlink(elsewhere, path), 0);
    assert_null(find_refuses());
    assert_int_equal(unlink(elsewhere), 0);
}

/* No folder, no cache: the filter is there all the same. */
static void works_without_a_folder(void **state)
{
    assert_int_equal(mkdir(cache, 0777), 0);
    assert_int_equal(chmod(cache, 0777), 0);
    char path[256];
    assert_int_equal(errno_with(REFUSES), 77);
    assert_int_equal(entries(path, sizeof(path)), 0);
}

static void does_not_grow_for_ever(void **state)
{
    char path[256];
    for (unsigned i = 0; i < 200; i++) {
        char members[512];
        (void)snprintf(members, sizeof(members), "%s, \"comment\": %u", ALLOWS, i);
        struct seccomp_program *program = program_with(members, cache);
        seccomp_program_free(program);
        assert_true(entries(path, sizeof(path)) <= 64);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(is_made_once, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(is_taken_from_the_file, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(damaged_entries_are_replaced, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(others_files_do_not_count, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(works_without_a_folder, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(does_not_grow_for_ever, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
