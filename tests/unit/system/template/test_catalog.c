/* Covers template/catalog.c, remove.c and template.c: names, who needs a template, what is removed and what is not, changed
 * files. Templates are trees of the test's own, which are built. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "system/template/template.h"

struct place {
    char path[64], tree[80];
    struct store store;
};

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    (void)fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static int set_up(void **state)
{
    struct place *place = calloc(1, sizeof(*place));
    char path[128];
    strcpy(place->path, "/tmp/hull-catalog-XXXXXX");
    assert_non_null(mkdtemp(place->path));
    (void)snprintf(place->tree, sizeof(place->tree), "%s/tree", place->path);
    assert_int_equal(mkdir(place->tree, 0755), 0);
    /* All that a build would add, at the time that it then is. */
    static const char *const folders[] = {"etc", "dev", "proc", "run", "tmp"};
    static const char *const files[] = {"hostname", "hosts", "resolv.conf"};
    for (size_t i = 0; i < ARRAY_COUNT(folders); i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", place->tree, folders[i]);
        assert_int_equal(mkdir(path, 0755), 0);
    }
    for (size_t i = 0; i < ARRAY_COUNT(files); i++) {
        (void)snprintf(path, sizeof(path), "%s/etc/%s", place->tree, files[i]);
        write_text(path, "");
    }
    (void)snprintf(path, sizeof(path), "%s/state", place->path);
    assert_int_equal(store_open(path, NULL, &place->store, NULL), 0);
    *state = place;
    return 0;
}

static int tear_down(void **state)
{
    struct place *place = *state;
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf %s", place->path);
    free(place);
    return system(command);
}

/* A template with one file. */
static void build(struct place *place, const char *name, const char *text, char *out_digest)
{
    struct error err;
    char path[128];
    const struct template_build request = {.name = name, .root_tree = place->tree};
    (void)snprintf(path, sizeof(path), "%s/file", place->tree);
    write_text(path, text);
    if (template_build(&place->store, &request, out_digest, &err) < 0) {
        fail_msg("%s", err.text);
    }
}

static void add_container(struct place *place, const char *name, const char *digest)
{
    char path[PATH_MAX], text[200];
    store_container_path(&place->store, name, NULL, path);
    assert_int_equal(mkdir(path, 0755), 0);
    store_container_path(&place->store, name, "config.yaml", path);
    (void)snprintf(text, sizeof(text), "template:\n  digest: %s\n", digest);
    write_text(path, text);
}

static bool is_there(struct place *place, const char *digest)
{
    char path[PATH_MAX];
    store_template_path(&place->store, digest, "manifest.json", path);
    return access(path, F_OK) == 0;
}

static void test_open(void **state)
{
    struct place *place = *state;
    char digest[TEMPLATE_DIGEST_SIZE], prefix[20];
    struct template_layers layers;
    struct error err;
    assert_int_equal(template_open(&place->store, "one", true, &layers, &err), -ENOENT);
    assert_non_null(strstr(err.text, "there are none yet"));
    build(place, "one", "1", digest);
    (void)snprintf(prefix, sizeof(prefix), "%.8s", digest + strlen("sha256-"));
    const char *const words[] = {"one", digest, prefix};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(template_open(&place->store, words[i], true, &layers, &err), 0);
        assert_string_equal(layers.digest, digest);
        assert_string_equal(layers.name, i == 0 ? "one" : "");
        assert_int_equal(layers.count, 1);
        template_close(&layers);
    }
    assert_int_equal(template_open(&place->store, "two", true, &layers, &err), -ENOENT);
    assert_non_null(strstr(err.text, "there are one"));
    assert_int_equal(template_open(&place->store, "../../etc", true, &layers, &err), -EINVAL);
}

static void test_same_content(void **state)
{
    struct place *place = *state;
    char one[TEMPLATE_DIGEST_SIZE], other[TEMPLATE_DIGEST_SIZE];
    char command[200];
    json_t *list;
    build(place, "one", "1", one);
    const struct template_build request = {.name = "other", .root_tree = place->tree};
    assert_int_equal(template_build(&place->store, &request, other, NULL), 0);
    assert_string_equal(one, other);
    /* By way of an archive, too. */
    (void)snprintf(command, sizeof(command), "tar -C %s -cf %s/tree.tar .", place->tree,
                   place->path);
    assert_int_equal(system(command), 0);
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/tree.tar", place->path);
    const struct template_build archive = {.name = "third", .root_tree = path};
    assert_int_equal(template_build(&place->store, &archive, other, NULL), 0);
    assert_string_equal(one, other);
    assert_int_equal(template_list(&place->store, &list, NULL), 0);
    assert_int_equal(json_array_size(list), 3);
    json_decref(list);
}

static void test_changed_files(void **state)
{
    struct place *place = *state;
    char digest[TEMPLATE_DIGEST_SIZE], path[PATH_MAX], moved[PATH_MAX + 8], command[4 * PATH_MAX];
    struct template_layers layers;
    struct error err;
    build(place, "one", "1", digest);
    assert_int_equal(template_check(&place->store, "one", &err), 0);
    /* A copy of all of it has other inodes: the check finds it the same, and then it is usable again. */
    store_template_path(&place->store, digest, "root", path);
    (void)snprintf(moved, sizeof(moved), "%s.old", path);
    assert_int_equal(rename(path, moved), 0);
    (void)snprintf(command, sizeof(command), "cp -a %s %s && rm -rf %s", moved, path, moved);
    assert_int_equal(system(command), 0);
    assert_int_equal(template_open(&place->store, "one", true, &layers, &err), -EBADMSG);
    assert_int_equal(template_open(&place->store, "one", false, &layers, &err), 0);
    template_close(&layers);
    assert_int_equal(template_check(&place->store, "one", &err), 0);
    assert_int_equal(template_open(&place->store, "one", true, &layers, &err), 0);
    template_close(&layers);
    /* Another content is not. */
    store_template_path(&place->store, digest, "root/file", path);
    write_text(path, "2");
    assert_int_equal(template_open(&place->store, "one", true, &layers, &err), -EBADMSG);
    assert_int_equal(template_check(&place->store, "one", &err), -EBADMSG);
    assert_non_null(strstr(err.text, "/file was changed"));
    /* Building it again puts it right. */
    const struct template_build request = {.name = "one", .root_tree = place->tree};
    assert_int_equal(template_build(&place->store, &request, digest, &err), 0);
    assert_int_equal(template_check(&place->store, "one", &err), 0);
}

static void test_changed_manifest(void **state)
{
    struct place *place = *state;
    char digest[TEMPLATE_DIGEST_SIZE], path[PATH_MAX];
    static const char *const texts[] = {
        "",
        "[]",
        "{",
        "{\"format\": 2}",
        "{\"format\": 1}",
        "{\"format\": 1, \"tree\": \"xyz\", \"quick\": \"xyz\"}",
        "{\"format\": 1, \"tree\": \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\","
        " \"quick\": \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"}",
        "{\"format\": 1, \"tree\": \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\","
        " \"quick\": \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\","
        " \"below\": \"../../etc\"}",
    };
    build(place, "one", "1", digest);
    store_template_path(&place->store, digest, "manifest.json", path);
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct template_layers layers;
        json_t *list;
        write_text(path, texts[i]);
        assert_int_equal(template_open(&place->store, "one", false, &layers, NULL), -EBADMSG);
        /* The list shows it all the same, so that it can be deleted. */
        assert_int_equal(template_list(&place->store, &list, NULL), 0);
        assert_non_null(json_object_get(json_array_get(list, 0), "error"));
        json_decref(list);
    }
    assert_int_equal(template_delete(&place->store, "one", false, NULL), 0);
    assert_false(is_there(place, digest));
}

static void test_delete(void **state)
{
    struct place *place = *state;
    char digest[TEMPLATE_DIGEST_SIZE], path[PATH_MAX];
    struct error err;
    build(place, "one", "1", digest);
    const struct template_build again = {.name = "two", .root_tree = place->tree};
    char other[TEMPLATE_DIGEST_SIZE];
    assert_int_equal(template_build(&place->store, &again, other, NULL), 0);
    add_container(place, "web", digest);
    /* One of two names may go, the last one may not, unless it has to. */
    assert_int_equal(template_delete(&place->store, "one", false, &err), 0);
    assert_int_equal(template_delete(&place->store, "two", false, &err), -EBUSY);
    assert_non_null(strstr(err.text, "container web"));
    assert_int_equal(template_delete(&place->store, "two", true, &err), 0);
    assert_true(is_there(place, digest));
    assert_int_equal(template_delete(&place->store, digest, false, &err), -EBUSY);
    store_container_path(&place->store, "web", "config.yaml", path);
    assert_int_equal(unlink(path), 0);
    unsigned count = 0;
    assert_int_equal(template_sweep(&place->store, &count, &err), 0);
    assert_int_equal(count, 1);
    assert_false(is_there(place, digest));
    assert_int_equal(template_delete(&place->store, "two", false, &err), -ENOENT);
}

static void test_snapshot_holds(void **state)
{
    struct place *place = *state;
    char digest[TEMPLATE_DIGEST_SIZE], path[PATH_MAX];
    build(place, "one", "1", digest);
    add_container(place, "web", "none");
    store_container_path(&place->store, "web", "snapshots", path);
    assert_int_equal(mkdir(path, 0755), 0);
    store_container_path(&place->store, "web", "snapshots/before", path);
    assert_int_equal(mkdir(path, 0755), 0);
    store_container_path(&place->store, "web", "snapshots/before/config.yaml", path);
    write_text(path, digest);
    assert_int_equal(template_delete(&place->store, "one", false, NULL), -EBUSY);
}

/* Between the opening and the writing of the container's configuration. */
static void test_open_holds(void **state)
{
    struct place *place = *state;
    char digest[TEMPLATE_DIGEST_SIZE];
    struct template_layers layers;
    build(place, "one", "1", digest);
    assert_int_equal(template_open(&place->store, "one", true, &layers, NULL), 0);
    assert_int_equal(template_delete(&place->store, "one", false, NULL), 0);
    assert_true(is_there(place, digest));
    template_close(&layers);
    assert_int_equal(template_sweep(&place->store, NULL, NULL), 0);
    assert_false(is_there(place, digest));
}

static void test_name_moves(void **state)
{
    struct place *place = *state;
    char one[TEMPLATE_DIGEST_SIZE], two[TEMPLATE_DIGEST_SIZE], three[TEMPLATE_DIGEST_SIZE];
    build(place, "name", "1", one);
    add_container(place, "web", one);
    build(place, "name", "2", two);
    build(place, "name", "3", three);
    assert_true(is_there(place, one)); /* the container's */
    assert_false(is_there(place, two));
    assert_true(is_there(place, three));
}

/* What a killed build or removal has left goes; what somebody is working on stays. */
static void check_sweep(struct place *place, const char *name)
{
    char path[PATH_MAX];
    unsigned count = 0;
    store_template_path(&place->store, name, NULL, path);
    assert_int_equal(mkdir(path, 0755), 0);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(template_sweep(&place->store, &count, NULL), 0);
    assert_int_equal(count, 0);
    assert_int_equal(access(path, F_OK), 0);
    close(fd);
    assert_int_equal(template_sweep(&place->store, &count, NULL), 0);
    assert_int_equal(count, 1);
    assert_int_equal(access(path, F_OK), -1);
}

static void test_sweep(void **state)
{
    check_sweep(*state, ".build-abcdef");
    check_sweep(*state, ".hull-removed-0123456789abcdef");
}

static int refuse(void *ctx, const char *what, int percent)
{
    return 1;
}

static void test_cancel(void **state)
{
    struct place *place = *state;
    char digest[TEMPLATE_DIGEST_SIZE], path[PATH_MAX];
    const struct template_build request = {
        .name = "one", .root_tree = place->tree, .progress = refuse};
    assert_int_equal(template_build(&place->store, &request, digest, NULL), -ECANCELED);
    store_template_path(&place->store, "names", "one", path);
    assert_int_equal(access(path, F_OK), -1);
    unsigned count = 0;
    assert_int_equal(template_sweep(&place->store, &count, NULL), 0);
    assert_int_equal(count, 0);
}

static void test_requests(void **state)
{
    static const char *const no_files[] = {"relative:path", NULL}, *const option[] = {"-y", NULL};
    static const struct template_build rows[] = {
        {.name = "one"},
        {.name = "../one", .variant = "busybox"},
        {.name = "sha256-1", .variant = "busybox"},
        {.name = "one", .variant = "huge"},
        {.name = "one", .variant = "busybox", .from = "two"},
        {.name = "one", .variant = "busybox", .packages = option},
        {.name = "one", .variant = "minimal", .packages = option},
        {.name = "one", .variant = "minimal", .suite = "-x"},
        {.name = "one", .variant = "busybox", .files = no_files},
    };
    struct place *place = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char digest[TEMPLATE_DIGEST_SIZE];
        assert_int_equal(template_build(&place->store, &rows[i], digest, NULL), -EINVAL);
    }
}

int main(void)
{
    if (geteuid() != 0) {
        (void)fputs("skipped: templates need root\n", stderr);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_open, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_same_content, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_changed_files, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_changed_manifest, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_delete, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_snapshot_holds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_open_holds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_name_moves, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_sweep, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cancel, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_requests, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
