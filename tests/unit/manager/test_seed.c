/* Covers manager/instance/vm/seed.c, beside isoinfo of genisoimage, which did not write the images. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"
#include "manager/instance/vm/seed.h"

static char folder[64];

static int make_folder(void **state)
{
    (void)snprintf(folder, sizeof(folder), "/tmp/hull-seed-XXXXXX");
    return mkdtemp(folder) != NULL ? 0 : -1;
}

static int remove_folder(void **state)
{
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

static void store(const char *path, const uint8_t *image, size_t size)
{
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    assert_int_equal(fwrite(image, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* What a shell command prints. */
static size_t run(const char *command, char *out_text, size_t size)
{
    FILE *pipe = popen(command, "re");
    assert_non_null(pipe);
    size_t count = fread(out_text, 1, size - 1, pipe);
    out_text[count] = '\0';
    assert_int_equal(pclose(pipe), 0);
    return count;
}

static void isoinfo_reads_it(void **state)
{
    static char long_text[5000];
    static char text[8192];
    char command[256];
    char path[128];
    uint8_t *image;
    size_t size;
    memset(long_text, 'x', sizeof(long_text));
    const struct seed_file files[] = {{"empty", "", 0},
                                      {"meta-data", "instance-id: i1\n", 16},
                                      {"user-data", long_text, sizeof(long_text)}};
    assert_int_equal(seed_image_make("cidata", files, 3, &image, &size, NULL), 0);
    assert_int_equal(size % 2048, 0);
    (void)snprintf(path, sizeof(path), "%s/seed.iso", folder);
    store(path, image, size);
    free(image);
    (void)snprintf(command, sizeof(command), "isoinfo -d -i %s", path);
    (void)run(command, text, sizeof(text));
    assert_non_null(strstr(text, "Volume id: cidata\n"));
    assert_non_null(strstr(text, "Joliet with UCS level 3 found"));
    (void)snprintf(command, sizeof(command), "isoinfo -J -f -i %s", path);
    (void)run(command, text, sizeof(text));
    assert_string_equal(text, "/empty\n/meta-data\n/user-data\n");
    (void)snprintf(command, sizeof(command), "isoinfo -J -x /meta-data -i %s", path);
    (void)run(command, text, sizeof(text));
    assert_string_equal(text, "instance-id: i1\n");
    (void)snprintf(command, sizeof(command), "isoinfo -J -x /user-data -i %s", path);
    assert_int_equal(run(command, text, sizeof(text)), sizeof(long_text));
    assert_memory_equal(text, long_text, sizeof(long_text));
    (void)snprintf(command, sizeof(command), "isoinfo -x '/META-DATA;1' -i %s", path);
    (void)run(command, text, sizeof(text));
    assert_string_equal(text, "instance-id: i1\n");
}

static void bad_names_are_refused(void **state)
{
    static const struct seed_file bad[][2] = {
        {{"", "", 0}, {"b", "", 0}},
        {{"a/b", "", 0}, {"b", "", 0}},
        {{"UPPER", "", 0}, {"b", "", 0}},
        {{"b", "", 0}, {"a", "", 0}},
        {{"a", "", 0}, {"a", "", 0}},
        {{"a", "", 0}, {"b-name-of-more-than-thirty-letters", "", 0}},
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        uint8_t *image = NULL;
        size_t size = 0;
        assert_int_equal(seed_image_make("cidata", bad[i], 2, &image, &size, NULL), -EINVAL);
        assert_null(image);
    }
}

static void make_vm(struct vm *vm, struct place *place, json_t *document)
{
    char path[PATH_MAX];
    memset(place, 0, sizeof(*place));
    (void)snprintf(place->state, sizeof(place->state), "%s", folder);
    vm_init(vm, place, NULL, document);
    vm_state_path(vm, NULL, path);
    assert_int_equal(file_make_folders(path, 0700, 0700, NULL), 0);
}

static void a_vm_has_one_if_it_says_so(void **state)
{
    struct place place;
    struct vm vm;
    struct stat info;
    char path[PATH_MAX];
    char command[PATH_MAX + 64];
    char text[2048];
    json_t *document = json_pack("{s:s, s:s, s:{s:[s, s]}}", "name", "web1", "uuid", "some-uuid",
                                 "config", "ssh_keys", "ssh-ed25519 AAAA a\"b", "ssh-rsa BBBB c");
    make_vm(&vm, &place, document);
    vm_state_path(&vm, "seed.iso", path);
    assert_int_equal(vm_seed_write(&vm, false, NULL), 0);
    (void)snprintf(command, sizeof(command), "isoinfo -J -x /meta-data -i %s", path);
    (void)run(command, text, sizeof(text));
    json_t *meta = json_loads(text, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(meta, "instance-id")), "some-uuid");
    assert_string_equal(json_string_value(json_object_get(meta, "local-hostname")), "web1");
    json_t *keys = json_object_get(meta, "public-keys");
    assert_int_equal(json_array_size(keys), 2);
    assert_string_equal(json_string_value(json_array_get(keys, 0)), "ssh-ed25519 AAAA a\"b");
    json_decref(meta);
    json_object_del(json_object_get(document, "config"), "ssh_keys");
    assert_int_equal(vm_seed_write(&vm, false, NULL), 0);
    assert_int_equal(stat(path, &info), -1);
    assert_int_equal(vm_seed_write(&vm, true, NULL), 0);
    assert_int_equal(stat(path, &info), 0);
    json_decref(document);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(isoinfo_reads_it),
        cmocka_unit_test(bad_names_are_refused),
        cmocka_unit_test(a_vm_has_one_if_it_says_so),
    };
    if (system("command -v isoinfo >/dev/null") != 0) {
        (void)fprintf(stderr, "no isoinfo here (package genisoimage)\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
