/* Covers src/container/resctrl: what is made, compared, written and removed, on a folder that looks like resctrl's. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "container/resctrl/resctrl.h"

static char folder[64];
static int root;
static struct error err;

static int make_root(void **state)
{
    (void)snprintf(folder, sizeof(folder), "/tmp/hull-resctrl-XXXXXX");
    assert_non_null(mkdtemp(folder));
    root = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(root >= 0);
    return 0;
}

static int remove_root(void **state)
{
    char command[128];
    close(root);
    (void)snprintf(command, sizeof(command), "rm -r %s", folder);
    return system(command);
}

static void write_file(const char *path, const char *text)
{
    int fd = openat(root, path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static const char *read_file(const char *path)
{
    static char text[4096];
    int fd = openat(root, path, O_RDONLY);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    assert_true(n >= 0);
    text[n] = '\0';
    close(fd);
    return text;
}

static void lines_are_compared_by_numbers(void **state)
{
    static const char content[] = "    MB:0= 100;1= 70\n    L3:0=007f0;1=fffff\n";
    assert_true(schemata_have(content, "L3:0=7f0"));
    assert_true(schemata_have(content, "L3:0=7f0;1=fffff"));
    assert_true(schemata_have(content, "MB:1=70"));
    assert_false(schemata_have(content, "L3:0=7f1"));
    assert_false(schemata_have(content, "L3:2=7f0"));
    assert_false(schemata_have(content, "L2:0=7f0"));
    assert_false(schemata_have(content, "L3"));
    assert_false(schemata_have(content, "L3:nonsense"));
    assert_false(schemata_have("", "L3:0=1"));
}

static void a_container_has_a_group_of_its_name(void **state)
{
    const struct spec_intel_rdt rdt = {
        .is_set = true, .l3_cache_schema = "L3:0=f", .memory_bandwidth_schema = "MB:0=20"};
    struct resctrl plan, loaded;
    assert_int_equal(resctrl_plan(root, "box", &rdt, &plan, &err), 0);
    assert_true(plan.is_made && plan.is_removed && !plan.is_monitored);
    assert_int_equal(resctrl_make(root, "box", &rdt, &plan, &err), 0);
    assert_string_equal(read_file("box/schemata"), "L3:0=f\nMB:0=20\n");
    assert_int_equal(resctrl_add(root, "box", &plan, 42, &err), 0);
    assert_string_equal(read_file("box/tasks"), "42\n");
    assert_int_equal(resctrl_plan(root, "box", &rdt, &plan, &err), -EEXIST);
    json_t *saved = resctrl_save(&(struct resctrl){.group = "box", .is_removed = true});
    assert_int_equal(resctrl_load(saved, &loaded), 0);
    json_decref(saved);
    assert_true(loaded.is_removed && strcmp(loaded.group, "box") == 0);
    assert_int_equal(unlinkat(root, "box/schemata", 0) | unlinkat(root, "box/tasks", 0), 0);
    assert_int_equal(resctrl_remove(root, "box", &loaded, &err), 0);
    assert_int_equal(faccessat(root, "box", F_OK, 0), -1);
    assert_int_equal(resctrl_remove(root, "box", &loaded, &err), 0);
}

static void named_groups_stay(void **state)
{
    struct spec_intel_rdt rdt = {.is_set = true, .clos_id = "gold"};
    struct resctrl plan;
    assert_int_equal(resctrl_plan(root, "box", &rdt, &plan, &err), -ENOENT);
    rdt.schemata = (struct spec_strings){.item = (const char *[]){"L3:0=f", NULL}, .count = 1};
    assert_int_equal(resctrl_plan(root, "box", &rdt, &plan, &err), 0);
    assert_true(plan.is_made && !plan.is_removed);
    assert_int_equal(resctrl_make(root, "box", &rdt, &plan, &err), 0);
    assert_int_equal(resctrl_plan(root, "other", &rdt, &plan, &err), 0);
    assert_false(plan.is_made);
    write_file("gold/schemata", "    L3:0=0f0\n");
    assert_int_equal(resctrl_plan(root, "other", &rdt, &plan, &err), -EINVAL);
    assert_non_null(strstr(err.text, "gold"));
    rdt.schemata.count = 0;
    assert_int_equal(resctrl_plan(root, "other", &rdt, &plan, &err), 0);
    assert_int_equal(resctrl_remove(root, "other", &plan, &err), 0);
    assert_int_equal(faccessat(root, "gold", F_OK, 0), 0);
    rdt.clos_id = "info";
    assert_int_equal(resctrl_plan(root, "other", &rdt, &plan, &err), -EINVAL);
}

static void monitoring_has_a_group_below(void **state)
{
    const struct spec_intel_rdt rdt = {.is_set = true, .clos_id = "/", .monitors = true};
    struct resctrl plan;
    assert_int_equal(resctrl_plan(root, "box", &rdt, &plan, &err), 0);
    assert_string_equal(plan.group, "");
    assert_int_equal(resctrl_make(root, "box", &rdt, &plan, &err), -ENOENT);
    assert_int_equal(mkdirat(root, "mon_groups", 0755), 0);
    assert_int_equal(resctrl_make(root, "box", &rdt, &plan, &err), 0);
    assert_int_equal(resctrl_add(root, "box", &plan, 7, &err), 0);
    assert_string_equal(read_file("tasks"), "7\n");
    assert_string_equal(read_file("mon_groups/box/tasks"), "7\n");
    assert_int_equal(unlinkat(root, "mon_groups/box/tasks", 0), 0);
    assert_int_equal(resctrl_remove(root, "box", &plan, &err), 0);
    assert_int_equal(faccessat(root, "mon_groups/box", F_OK, 0), -1);
}

static void damaged_states_are_refused(void **state)
{
    static const char *const bad[] = {"{}", "{\"group\": \"../x\"}", "{\"group\": \"..\"}",
                                      "{\"group\": \"\", \"isRemoved\": true}"};
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct resctrl plan;
        json_t *saved = json_loads(bad[i], 0, NULL);
        assert_int_equal(resctrl_load(saved, &plan), -EINVAL);
        json_decref(saved);
    }
    assert_int_equal(resctrl_open(folder), -ENODEV);
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, make_root, remove_root)
    static const struct CMUnitTest tests[] = {
        CASE(lines_are_compared_by_numbers),
        CASE(a_container_has_a_group_of_its_name),
        CASE(named_groups_stay),
        CASE(monitoring_has_a_group_below),
        CASE(damaged_states_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
