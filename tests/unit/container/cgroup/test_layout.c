/* Covers container/cgroup/layout.c and the paths of tree.c. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "container/cgroup/layout.h"
#include "container/cgroup/limits.h"
#include "container/cgroup/tree.h"

static void test_hybrid(void **state)
{
    char text[] = "9:name=systemd:/user.slice\n4:memory:/a/b\n1:cpu,cpuacct:/\n0::/c\n";
    struct cgroup_layout layout;
    struct error err = {0};
    assert_int_equal(cgroup_layout_parse(text, &layout, &err), 0);
    assert_int_equal(layout.count, 4);
    assert_string_equal(layout.hierarchy[0].names, "name=systemd");
    assert_int_equal(layout.hierarchy[0].controllers, 0);
    assert_false(layout.hierarchy[0].is_unified);
    assert_string_equal(layout.hierarchy[0].own_path, "user.slice");
    assert_int_equal(layout.hierarchy[1].controllers, 1U << CGROUP_MEMORY);
    assert_string_equal(layout.hierarchy[1].own_path, "a/b");
    assert_int_equal(layout.hierarchy[2].controllers, 1U << CGROUP_CPU | 1U << CGROUP_CPUACCT);
    assert_string_equal(layout.hierarchy[2].own_path, "");
    assert_true(layout.hierarchy[3].is_unified);
    assert_string_equal(layout.hierarchy[3].own_path, "c");
}

static void test_own_group_out_of_sight(void **state)
{
    char text[] = "0::/../../system.slice\n1:cpu:/..\n2:pids:/..a\n";
    struct cgroup_layout layout;
    assert_int_equal(cgroup_layout_parse(text, &layout, NULL), 0);
    assert_string_equal(layout.hierarchy[0].own_path, "");
    assert_string_equal(layout.hierarchy[1].own_path, "");
    assert_string_equal(layout.hierarchy[2].own_path, "..a");
}

static void test_rubbish(void **state)
{
    static const char *const lines[] = {"", "x", "1:cpu", "1:cpu:relative"};
    struct cgroup_layout layout = {.count = 99};
    for (size_t i = 1; i < sizeof(lines) / sizeof(*lines); i++) {
        char text[64];
        struct error err = {0};
        strcpy(text, lines[i]);
        assert_int_equal(cgroup_layout_parse(text, &layout, &err), -EINVAL);
        assert_non_null(strstr(err.text, "/proc/self/cgroup"));
        assert_int_equal(layout.count, 99);
    }
    char many[64 * 16] = "";
    for (int i = 0; i < 64; i++) {
        strcat(many, "1:name=x:/\n");
    }
    assert_int_equal(cgroup_layout_parse(many, &layout, NULL), -E2BIG);
}

static void test_controller_names(void **state)
{
    assert_int_equal(cgroup_controllers_parse("cpu io memory\n"),
                     1U << CGROUP_CPU | 1U << CGROUP_BLOCK_IO | 1U << CGROUP_MEMORY);
    assert_int_equal(cgroup_controllers_parse("blkio,other,cpusetx"), 1U << CGROUP_BLOCK_IO);
    assert_int_equal(cgroup_controllers_parse(""), 0);
    assert_string_equal(cgroup_controller_name(CGROUP_BLOCK_IO, true), "io");
    assert_string_equal(cgroup_controller_name(CGROUP_BLOCK_IO, false), "blkio");
}

static void test_paths(void **state)
{
    static const char *const good[][2] = {
        {"/a//b/", "a/b"}, {"./a/./b", "a/b"}, {"/", ""}, {"", ""}, {"..a/b..", "..a/b.."},
    };
    static const char *const bad[] = {"..", "/a/../b", "a/..", "a\nb"};
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        char *path = NULL;
        assert_int_equal(group_path_parse(good[i][0], &path, NULL), 0);
        assert_string_equal(path, good[i][1]);
        free(path);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        char *path = NULL;
        assert_int_equal(group_path_parse(bad[i], &path, NULL), -EINVAL);
        assert_null(path);
    }
    char *long_path = malloc(5000), *path = NULL;
    memset(long_path, 'a', 4999);
    long_path[4999] = '\0';
    assert_int_equal(group_path_parse(long_path, &path, NULL), -EINVAL);
    free(long_path);
}

static void test_conversions(void **state)
{
    assert_int_equal(limit_cpu_weight(0), 1);
    assert_int_equal(limit_cpu_weight(2), 1);
    assert_int_equal(limit_cpu_weight(1024), 100);
    assert_int_equal(limit_cpu_weight(3333), 256);
    assert_int_equal(limit_cpu_weight(262144), 10000);
    assert_int_equal(limit_cpu_weight(UINT64_MAX), 10000);
    uint64_t before = 0;
    for (uint64_t shares = 2; shares <= 262144; shares += 7) {
        uint64_t weight = limit_cpu_weight(shares);
        assert_true(weight >= before && weight <= 10000);
        before = weight;
    }
    assert_int_equal(limit_io_weight(10), 1);
    assert_int_equal(limit_io_weight(500), 4950);
    assert_int_equal(limit_io_weight(1000), 10000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hybrid),  cmocka_unit_test(test_own_group_out_of_sight),
        cmocka_unit_test(test_rubbish), cmocka_unit_test(test_controller_names),
        cmocka_unit_test(test_paths),   cmocka_unit_test(test_conversions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
