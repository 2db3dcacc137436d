/* Covers src/system/pool.c: pools are set, found, listed and removed, and a damaged file is an error. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "system/pool.h"

static struct store store;

static int set_up(void **state)
{
    char path[] = "/tmp/hull-pool-XXXXXX";
    assert_non_null(mkdtemp(path));
    (void)snprintf(store.state, sizeof(store.state), "%s", path);
    return 0;
}

static void file_path(char out_path[PATH_MAX])
{
    (void)snprintf(out_path, PATH_MAX, "%s/pools.yaml", store.state);
}

static int tear_down(void **state)
{
    char path[PATH_MAX];
    file_path(path);
    (void)unlink(path);
    return rmdir(store.state); /* nothing else is left */
}

static void life(void **state)
{
    struct error err = {0};
    json_t *pools;
    char *cpus = NULL;
    assert_int_equal(pool_list(&store, &pools, &err), 0);
    assert_int_equal(json_object_size(pools), 0);
    json_decref(pools);
    assert_int_equal(pool_find(&store, "a", &cpus, &err), -ENOENT);
    assert_non_null(strstr(err.text, "there is none"));
    assert_int_equal(pool_set(&store, "a", "0", &err), 0);
    assert_int_equal(pool_set(&store, "b", "0-0,0", &err), 0);
    assert_int_equal(pool_find(&store, "b", &cpus, &err), 0);
    assert_string_equal(cpus, "0-0,0");
    free(cpus);
    cpus = NULL;
    assert_int_equal(pool_find(&store, "c", &cpus, &err), -ENOENT);
    assert_non_null(strstr(err.text, "a, b"));
    assert_int_equal(pool_set(&store, "a", NULL, &err), 0);
    assert_int_equal(pool_set(&store, "a", NULL, &err), -ENOENT);
    assert_int_equal(pool_list(&store, &pools, &err), 0);
    assert_int_equal(json_object_size(pools), 1);
    json_decref(pools);
}

static void bad_sets(void **state)
{
    static const char *const bad[] = {
        "",     "x",   "-1",  "0-",  "-0",     ",0",    "0,",
        "0,,0", "1-0", "0 0", "0;1", "0-9999", "99999", "99999999999999999999"};
    struct error err;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        if (pool_set(&store, "a", bad[i], &err) != -EINVAL) {
            fail_msg("'%s'", bad[i]);
        }
    }
    assert_int_equal(pool_set(&store, "../a", "0", &err), -EINVAL);
    assert_int_equal(pool_set(&store, "", "0", &err), -EINVAL);
    char path[PATH_MAX];
    file_path(path);
    assert_int_equal(access(path, F_OK), -1);
}

static void damaged_files(void **state)
{
    static const char *const damaged[] = {"- a\n", "a: [0]\n", "a: {b: c}\n", "a: [", "a:\n"};
    char path[PATH_MAX];
    file_path(path);
    for (size_t i = 0; i < ARRAY_COUNT(damaged); i++) {
        FILE *file = fopen(path, "we");
        assert_non_null(file);
        (void)fputs(damaged[i], file);
        assert_int_equal(fclose(file), 0);
        struct error err = {0};
        json_t *pools = NULL;
        char *cpus = NULL;
        if (pool_list(&store, &pools, &err) != -EINVAL || strstr(err.text, "pools.yaml") == NULL) {
            fail_msg("'%s': %s", damaged[i], err.text);
        }
        assert_int_equal(pool_find(&store, "a", &cpus, &err), -EINVAL);
        assert_int_equal(pool_set(&store, "b", "0", &err), -EINVAL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(life, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bad_sets, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damaged_files, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
