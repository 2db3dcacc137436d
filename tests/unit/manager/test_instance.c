/* Instances' documents: what is checked, how profiles are folded in, what files keep; schedules. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "manager/instance/instance.h"
#include "manager/instance/keys.h"
#include "manager/instance/schedule.h"
#include "system/layers/layers.h"

static json_t *parse(const char *text)
{
    json_error_t bad;
    json_t *value = json_loads(text, JSON_REJECT_DUPLICATES, &bad);
    if (value == NULL) {
        fail_msg("%s: %s", text, bad.text);
    }
    return value;
}

/* -EINVAL with that word in its text. */
static void assert_refused(const char *text, const char *word)
{
    struct error err = {0};
    json_t *document = parse(text), *expanded = NULL, *profiles = json_object();
    int rc = instance_check(document, &err);
    rc = rc < 0 ? rc : instance_expand(document, profiles, &expanded, &err);
    if (rc != -EINVAL || strstr(err.text, word) == NULL) {
        fail_msg("%s: %d, '%s' is not in '%s'", text, rc, word, err.text);
    }
    json_decref(profiles);
    json_decref(document);
}

#define CT(rest) "{\"name\":\"a\",\"kind\":\"container\"," rest "}"
#define VM(rest) "{\"name\":\"a\",\"kind\":\"vm\"," rest "}"

static void test_check(void **state)
{
    assert_refused("{\"kind\":\"vm\"}", "name");
    assert_refused("{\"name\":\"a\"}", "kind");
    assert_refused("{\"name\":\"a\",\"kind\":\"pod\"}", "container or vm");
    assert_refused("{\"name\":\"../a\",\"kind\":\"vm\"}", "letters");
    assert_refused("[]", "object");
    assert_refused(CT("\"colour\":\"red\""), "colour");
    assert_refused(CT("\"profiles\":[1]"), "profiles");
    assert_refused(CT("\"config\":{\"memroy\":\"1G\"}"), "did you mean 'memory'");
    assert_refused(CT("\"config\":{\"memory\":12}"), "a text");
    assert_refused(CT("\"config\":{\"memory\":\"1K\"}"), "memory");
    assert_refused(CT("\"config\":{\"memory\":\"99999999999999999999\"}"), "memory");
    assert_refused(CT("\"config\":{\"cpus\":\"0\"}"), "cpus");
    assert_refused(CT("\"config\":{\"engine\":\"kvm\"}"), "only for VMs");
    assert_refused(CT("\"config\":{\"environment\":[\"x\"]}"), "environment");
    assert_refused(CT("\"config\":{\"snapshots_schedule\":\"often\"}"), "minute");
    assert_refused(CT("\"config\":{\"cpu_set\":\"0\",\"cpu_pool\":\"p\"}"), "exclude");
    assert_refused(VM("\"config\":{\"cpus\":\"0.5\"}"), "cpus");
    assert_refused(VM("\"config\":{\"nesting\":\"true\"}"), "only for containers");
    assert_refused(CT("\"devices\":{\"d\":{\"type\":\"serial\"}}"), "VMs");
    assert_refused(CT("\"devices\":{\"d\":{\"type\":\"is\"}}"), "one of");
    assert_refused(CT("\"devices\":{\"d\":{\"type\":\"disk|nic\"}}"), "one of");
    assert_refused(CT("\"devices\":{\"d\":{}}"), "type");
    assert_refused(CT("\"devices\":{\"../d\":{\"type\":\"nic\"}}"), "device");
    assert_refused(CT("\"devices\":{\"d\":{\"type\":\"nic\",\"mac\":\"01:00:00:00:00:01\"}}"),
                   "mac");
    assert_refused(CT("\"devices\":{\"d\":{\"type\":\"nic\",\"mac\":\"00:00:00:00:00:00\"}}"),
                   "mac");
    assert_refused(CT("\"devices\":{\"d\":{\"type\":\"nic\",\"ipv4\":\"10.0.0.1/8\"}}"), "ipv4");
    assert_refused(CT("\"devices\":{\"d\":{\"type\":\"share\",\"source\":\"/a\"}}"), "path");
    assert_refused(
        CT("\"devices\":{\"d\":{\"type\":\"share\",\"source\":\"/a:b\",\"path\":\"/\"}}"),
        "source");
    assert_refused(CT("\"devices\":{\"d\":{\"type\":\"forward\",\"listen\":\"tcp:80\"}}"),
                   "connect");
    assert_refused(CT("\"devices\":{\"d\":{\"type\":\"none\",\"size\":\"1G\"}}"), "none");
    assert_refused(CT("\"snapshots\":[{\"name\":\"../x\"}]"), "snapshot");
}

static void test_endpoints(void **state)
{
    static const struct {
        const char *text;
        bool is_good;
    } cases[] = {
        {"tcp:80", true},
        {"udp:127.0.0.1:53", true},
        {"tcp:0.0.0.0:8080", true},
        {"tcp:[::1]:80", true},
        {"tcp:", false},
        {"80", false},
        {"tcp:0", false},
        {"tcp:65536", false},
        {"tcp:::1:80", false},
        {"tcp:[10.0.0.1]:80", false},
        {"tcp:10.0.0.0/8:80", false},
        {"sctp:80", false},
        {"tcp:[]:80", false},
        {"tcp::80", false},
    };
    const struct instance_key *key = instance_find_key("forward", "listen", NULL);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        if ((key->check(cases[i].text, NULL) == 0) != cases[i].is_good) {
            fail_msg("%s", cases[i].text);
        }
    }
}

static void test_expand(void **state)
{
    struct error err = {0};
    json_t *profiles = parse(
        "{\"one\":{\"name\":\"one\",\"config\":{\"memory\":\"1G\",\"cpus\":\"2\"},\"devices\":"
        "{\"root\":{\"type\":\"disk\",\"pool\":\"p\"},\"eth0\":{\"type\":\"nic\",\"network\":\"n\"},"
        "\"d\":{\"type\":\"nic\"}}},"
        "\"two\":{\"name\":\"two\",\"config\":{\"cpus\":\"3\"},\"devices\":{\"d\":"
        "{\"type\":\"disk\",\"source\":\"/s\",\"path\":\"/p\"}}}}");
    json_t *document = parse(
        CT("\"profiles\":[\"one\",\"two\"],\"config\":{\"memory\":\"2G\"},\"devices\":{\"root\":"
           "{\"size\":\"4G\"},\"eth0\":{\"mac\":\"52:54:00:00:00:01\"},"
           "\"eth7\":{\"mac\":\"52:54:00:00:00:02\"}}"));
    json_t *wanted =
        parse("{\"config\":{\"memory\":\"2G\",\"cpus\":\"3\"},\"devices\":{"
              "\"root\":{\"type\":\"disk\",\"pool\":\"p\",\"size\":\"4G\"},"
              "\"eth0\":{\"type\":\"nic\",\"network\":\"n\",\"mac\":\"52:54:00:00:00:01\"},"
              "\"d\":{\"type\":\"disk\",\"source\":\"/s\",\"path\":\"/p\"}}}");
    json_t *before = json_deep_copy(document), *expanded = NULL;
    assert_int_equal(instance_expand(document, profiles, &expanded, &err), 0);
    assert_true(json_equal(json_object_get(expanded, "config"), json_object_get(wanted, "config")));
    assert_true(
        json_equal(json_object_get(expanded, "devices"), json_object_get(wanted, "devices")));
    assert_true(json_equal(document, before));
    json_decref(expanded);

    (void)json_object_set_new(document, "devices", parse("{\"eth0\":{\"type\":\"none\"}}"));
    assert_int_equal(instance_expand(document, profiles, &expanded, &err), 0);
    assert_null(json_object_get(json_object_get(expanded, "devices"), "eth0"));
    json_decref(expanded);

    (void)json_object_set_new(document, "profiles", parse("[\"three\"]"));
    assert_int_equal(instance_expand(document, profiles, &expanded, &err), -ENOENT);
    assert_non_null(strstr(err.text, "three"));
    json_decref(before);
    json_decref(wanted);
    json_decref(document);
    json_decref(profiles);
}

static void test_changes(void **state)
{
    json_t *document = parse(CT("\"uuid\":\"u\",\"config\":{\"memory\":\"1G\",\"cpus\":\"2\"}"));
    json_t *patch =
        parse("{\"uuid\":\"v\",\"config\":{\"memory\":null,\"processes\":5,\"nesting\":true},"
              "\"devices\":{\"e\":{\"type\":\"nic\"}}}");
    instance_change(document, NULL, patch);
    json_t *wanted = parse(
        CT("\"uuid\":\"u\",\"config\":{\"cpus\":\"2\",\"processes\":\"5\",\"nesting\":\"true\"},"
           "\"devices\":{\"e\":{\"type\":\"nic\"}}"));
    assert_true(json_equal(document, wanted));
    json_t *replacement = parse("{\"uuid\":\"w\",\"config\":{\"memory\":\"2G\"}}");
    instance_change(document, replacement, NULL);
    json_decref(wanted);
    wanted = parse(CT("\"uuid\":\"u\",\"config\":{\"memory\":\"2G\"}"));
    assert_true(json_equal(document, wanted));
    json_decref(wanted);
    json_decref(replacement);
    json_decref(patch);
    json_decref(document);
}

static void test_files(void **state)
{
    struct error err = {0};
    struct place place = {0};
    char path[PATH_MAX];
    (void)snprintf(place.state, sizeof(place.state), "/tmp/hull-test-instance-XXXXXX");
    assert_non_null(mkdtemp(place.state));
    json_t *document = parse(CT(
        "\"description\":\"a: b\\n- c\",\"incomplete\":true,\"profiles\":[],\"config\":"
        "{\"user_data\":\"#cloud-config\\nx: 'y'\\n\",\"nesting\":\"true\",\"ssh_keys\":[\"a b\"]},"
        "\"snapshots\":[{\"name\":\"s\",\"created_at\":\"t\",\"memory\":false},"
        "{\"name\":\"z\",\"created_at\":\"t\",\"memory\":true,\"parent\":\"s\"}],\"snapshot\":\"z\""));
    json_t *loaded = NULL;
    assert_int_equal(instance_save(&place, document, &err), 0);
    assert_int_equal(instance_load(&place, "a", &loaded, &err), 0);
    assert_true(json_equal(document, loaded));
    json_decref(loaded);
    assert_int_equal(instance_load(&place, "b", &loaded, &err), -ENOENT);
    assert_int_equal(instance_load(&place, "../a", &loaded, &err), -EINVAL);

    /* Somebody else's document, and no YAML. */
    static const char *const damaged[] = {"name: b\nkind: vm\n",
                                          "name: a\nkind: vm\nx: &y z\n",
                                          "",
                                          "name: a\nkind: [vm]\n",
                                          "\xff\xfe",
                                          "- a\n"};
    for (size_t i = 0; i < ARRAY_COUNT(damaged); i++) {
        place_state_path(&place, "instances", "a", "instance.yaml", path);
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        assert_true(fputs(damaged[i], file) >= 0);
        assert_int_equal(fclose(file), 0);
        assert_int_equal(instance_load(&place, "a", &loaded, &err), -EINVAL);
    }
    json_decref(document);
    assert_int_equal(layers_remove(place.state, &err), 0);
}

static void test_values(void **state)
{
    struct error err = {0};
    json_t *document =
        parse(CT("\"config\":{\"memory\":\"64\",\"environment\":\"A=1\\nB=2\\n\"},"
                 "\"devices\":{\"eth1\":{\"type\":\"nic\"},\"eth0\":{\"type\":\"nic\"},"
                 "\"f\":{\"type\":\"forward\",\"listen\":\"tcp:1\",\"connect\":\"tcp:2\"}}"));
    assert_int_equal(instance_bytes(document, "memory", 1 << 20), 64 << 20);
    assert_string_equal(instance_value(document, "restart"), "no");
    assert_null(instance_value(document, "processes"));
    json_t *values = instance_values(document, "environment");
    assert_int_equal(json_array_size(values), 2);
    json_decref(values);
    const json_t *nic = json_object_get(json_object_get(document, "devices"), "eth0");
    assert_string_equal(instance_property(nic, "network"), "default");
    json_t *forwards = instance_forwards(document, "eth0");
    assert_int_equal(json_array_size(forwards), 1);
    json_decref(forwards);
    forwards = instance_forwards(document, "eth1");
    assert_int_equal(json_array_size(forwards), 0);
    json_decref(forwards);
    json_t *expanded = json_deep_copy(document);
    assert_int_equal(instance_add_macs(document, expanded, &err), 0);
    const char *mac = json_string_value(json_object_get(nic, "mac"));
    assert_int_equal(instance_find_key("nic", "mac", NULL)->check(mac, &err), 0);
    json_decref(expanded);
    json_decref(document);
}

static bool matches(const char *text, const char *when)
{
    struct schedule schedule;
    struct tm parts = {0};
    assert_int_equal(schedule_parse(text, &schedule, NULL), 0);
    assert_non_null(strptime(when, "%Y-%m-%d %H:%M", &parts));
    return schedule_matches(&schedule, &parts);
}

static void test_schedules(void **state)
{
    assert_true(matches("@hourly", "2026-01-01 05:00"));
    assert_false(matches("@hourly", "2026-01-01 05:01"));
    assert_true(matches("@weekly", "2026-01-04 00:00")); /* a Sunday */
    assert_false(matches("@weekly", "2026-01-05 00:00"));
    assert_true(matches("*/15 9-17 * * 1-5", "2026-01-05 17:45"));
    assert_false(matches("*/15 9-17 * * 1-5", "2026-01-04 17:45"));
    assert_true(matches("0 0 * * 7", "2026-01-04 00:00"));
    /* Day and weekday: either. */
    assert_true(matches("0 0 13 * 5", "2026-01-13 00:00"));
    assert_true(matches("0 0 13 * 5", "2026-01-16 00:00"));
    assert_false(matches("0 0 13 * 5", "2026-01-14 00:00"));
    static const char *const bad[] = {"",          "* * * *",     "60 * * * *",  "* * 0 * *",
                                      "* * * * 8", "*/0 * * * *", "5-1 * * * *", "1, * * * *",
                                      "a * * * *", "* * * * * *", "@often",      "1-2-3 * * * *"};
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct schedule ignored;
        if (schedule_parse(bad[i], &ignored, NULL) != -EINVAL) {
            fail_msg("%s", bad[i]);
        }
    }
}

/* Each row can be found, and the schema has it. */
static void test_keys(void **state)
{
    json_t *schema = instance_schema();
    json_t *config = json_object_get(
        json_object_get(json_object_get(json_object_get(schema, "properties"), "config"),
                        "properties"),
        "memory");
    assert_non_null(config);
    char *text = NULL;
    size_t size;
    FILE *to = open_memstream(&text, &size);
    assert_non_null(to);
    instance_reference(to);
    assert_int_equal(fclose(to), 0);
    for (const struct instance_key *key = instance_keys; key->name != NULL; key++) {
        char row[80];
        assert_ptr_equal(instance_find_key(key->device, key->name, NULL), key);
        assert_non_null(key->check);
        if (key->fallback != NULL) {
            assert_int_equal(key->check(key->fallback, NULL), 0);
        }
        (void)snprintf(row, sizeof(row), "| `%s` |", key->name);
        assert_non_null(strstr(text, row));
    }
    free(text);
    json_decref(schema);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_check),     cmocka_unit_test(test_endpoints),
        cmocka_unit_test(test_expand),    cmocka_unit_test(test_changes),
        cmocka_unit_test(test_files),     cmocka_unit_test(test_values),
        cmocka_unit_test(test_schedules), cmocka_unit_test(test_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
