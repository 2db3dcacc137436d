/* Covers container/cgroup/unit and unit_properties: names, limits in systemd's words, annotations. No systemd is needed. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "container/cgroup/unit.h"

static void test_names(void **state)
{
    static const struct {
        const char *path, *name, *slice;
        bool is_users;
    } cases[] = {
        {NULL, "hull-oci-web.scope", "system.slice", false},
        {"", "hull-oci-web.scope", "system.slice", false},
        {NULL, "hull-oci-web.scope", "user.slice", true},
        {"machine.slice:libpod:1234", "libpod-1234.scope", "machine.slice", false},
        {"system.slice:cri-containerd:ab", "cri-containerd-ab.scope", "system.slice", true},
        {":crio:ab", "crio-ab.scope", "system.slice", false},
        {"a-b-c.slice:p:n", "p-n.scope", "a-b-c.slice", false},
        {"-.slice::n", "-n.scope", "-.slice", false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct unit_name name;
        assert_int_equal(unit_name_parse(cases[i].path, "web", cases[i].is_users, &name, NULL), 0);
        assert_string_equal(name.name, cases[i].name);
        assert_string_equal(name.slice, cases[i].slice);
    }
}

static void test_bad_names(void **state)
{
    static const char *const bad[] = {
        "/machine/web",   "machine.slice",  "machine.slice:libpod", "machine.slice:libpod:",
        "a:b:c",          "a--b.slice:p:n", "-a.slice:p:n",         "a-.slice:p:n",
        ".slice:p:n",     "a/b.slice:p:n",  "a.slice:p:n:m",        "a.slice:p:n/m",
        "a.slice:p:../m", "a.slice:p:n\n",  "../a.slice:p:n",       "a.slice:p:n+m",
        "a.slice:.:n",
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct unit_name name;
        struct error err = {0};
        assert_int_equal(unit_name_parse(bad[i], "web", false, &name, &err), -EINVAL);
        assert_true(strstr(err.text, "linux.cgroupsPath: ") == err.text);
    }
    char path[400];
    struct unit_name name;
    (void)snprintf(path, sizeof(path), "a.slice:p:%0300d", 1);
    assert_int_equal(unit_name_parse(path, "web", false, &name, NULL), -EINVAL);
    assert_int_equal(unit_name_parse(NULL, "a+b", false, &name, NULL), -EINVAL);
    assert_true(unit_name_is_valid("a.scope", ".scope"));
    assert_false(unit_name_is_valid(".scope", ".scope"));
    assert_false(unit_name_is_valid("a.service", ".scope"));
}

static void test_whose(void **state)
{
    assert_false(unit_is_users(false, true, "/run/user/0"));
    assert_false(unit_is_users(false, true, NULL));
    assert_true(unit_is_users(true, false, NULL));
    assert_true(unit_is_users(true, true, "/run/user/1000")); /* in a user's own namespace */
    assert_false(unit_is_users(true, true, NULL)); /* of a container with its own systemd */
    assert_false(unit_is_users(true, true, "/run/user/0"));
}

/* As "NAME=VALUE NAME=VALUE". */
static void expect(json_t *list, const char *expected)
{
    char text[1024] = "";
    size_t i;
    json_t *row;
    assert_non_null(list);
    json_array_foreach(list, i, row)
    {
        const char *name, *type;
        json_t *value;
        int version;
        assert_int_equal(json_unpack(row, "[s,s,o,i]", &name, &type, &value, &version), 0);
        char *dump = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
        size_t used = strlen(text);
        (void)snprintf(text + used, sizeof(text) - used, "%s%s=%s:%s", i == 0 ? "" : " ", name,
                       type, dump);
        free(dump);
    }
    assert_string_equal(text, expected);
    json_decref(list);
}

static void test_limits(void **state)
{
    struct spec_resources resources = {0};
    expect(unit_properties(&resources, 0), "");
    resources.cpu.shares = (struct spec_u64){true, 1024};
    resources.cpu.quota_us = (struct spec_i64){true, 50000};
    resources.cpu.period_us = (struct spec_u64){true, 100000};
    resources.cpu.cpus = "0-2,9";
    resources.cpu.mems = "0";
    resources.memory.limit = (struct spec_i64){true, 1 << 20};
    resources.memory.swap = (struct spec_i64){true, 3 << 20};
    resources.memory.reservation = (struct spec_i64){true, 4096};
    resources.pids_limit = (struct spec_i64){true, 7};
    resources.block_io.weight = (struct spec_u64){true, 1000};
    expect(unit_properties(&resources, 0),
           "CPUWeight=t:100 CPUQuotaPeriodUSec=t:100000 CPUQuotaPerSecUSec=t:500000 "
           "AllowedCPUs=ay:[7,2] AllowedMemoryNodes=ay:[1] MemoryMax=t:1048576 MemoryLow=t:4096 "
           "MemorySwapMax=t:2097152 TasksMax=t:7 IOWeight=t:10000");
    expect(unit_properties(&resources, UINT32_MAX),
           "CPUShares=t:1024 CPUQuotaPeriodUSec=t:100000 CPUQuotaPerSecUSec=t:500000 "
           "MemoryLimit=t:1048576 TasksMax=t:7 BlockIOWeight=t:1000");
}

static void test_no_limits(void **state)
{
    struct spec_resources resources = {
        .cpu = {.quota_us = {true, -1}, .shares = {true, 2}, .idle = {true, 1}},
        .memory = {.limit = {true, -1}, .swap = {true, -1}},
        .pids_limit = {true, -1},
    };
    expect(unit_properties(&resources, 0),
           "CPUWeight=t:0 CPUQuotaPerSecUSec=t:-1 MemoryMax=t:-1 MemorySwapMax=t:-1 TasksMax=t:-1");
    /* 0 is for "not given", but for processes, of which systemd has no limit of 0. */
    struct spec_resources zero = {
        .cpu = {.quota_us = {true, 0}, .shares = {true, 0}, .cpus = ""},
        .memory = {.limit = {true, 0}},
        .pids_limit = {true, 0},
    };
    expect(unit_properties(&zero, 0), "");
    /* Rounded up to what systemd keeps; too much is none. */
    struct spec_resources odd = {.cpu = {.quota_us = {true, 33333}}};
    expect(unit_properties(&odd, 0), "CPUQuotaPerSecUSec=t:340000");
    odd.cpu.quota_us.value = INT64_MAX;
    odd.cpu.period_us = (struct spec_u64){true, 1};
    expect(unit_properties(&odd, 0), "CPUQuotaPeriodUSec=t:1 CPUQuotaPerSecUSec=t:-1");
}

static void test_lists_of_cpus(void **state)
{
    static const char *const bad[] = {
        "a", "3-1", "0-", "-1", "0;1", "0-99999", "18446744073709551616"};
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct spec_resources resources = {.cpu = {.cpus = bad[i]}};
        expect(unit_properties(&resources, 0), "");
    }
    struct spec_resources resources = {.cpu = {.cpus = "8191"}};
    json_t *list = unit_properties(&resources, 0);
    json_t *bytes = json_array_get(json_array_get(list, 0), 2);
    assert_int_equal(json_array_size(bytes), 1024);
    assert_int_equal(json_integer_value(json_array_get(bytes, 1023)), 128);
    json_decref(list);
}

static void test_unified(void **state)
{
    static const struct spec_pair files[] = {
        {"memory.max", "4096"},   {"memory.high", "max"}, {"pids.max", "12"},
        {"cpuset.cpus", "1"},     {"cpu.weight", "20"},   {"memory.min", "many"},
        {"io.max", "8:0 rbps=1"},
    };
    struct spec_resources resources = {.unified = {files, ARRAY_COUNT(files)}};
    expect(unit_properties(&resources, 0),
           "MemoryMax=t:4096 MemoryHigh=t:-1 TasksMax=t:12 AllowedCPUs=ay:[2] CPUWeight=t:20");
}

/* Device rules are an allow list for systemd; what it cannot say is left out. */
static void test_devices(void **state)
{
    static const struct spec_device_rule rules[] = {
        {true, 'c', 9, 9, true, true, true}, /* gone by the next one */
        {false, 'a', -1, -1, true, true, true},
        {true, 'c', 10, 229, true, true, false},
        {true, 'b', 8, -1, true, false, false},
        {true, 'b', 7, -1, true, true, true}, /* partly denied below */
        {true, 'c', -1, 3, true, true, true}, /* no words for it */
        {true, 'c', 5, 5, false, false, false},
        {false, 'b', 7, 1, false, true, false},
    };
    struct spec_resources resources = {.devices = rules, .device_count = ARRAY_COUNT(rules)};
    json_t *list = json_array();
    unit_properties_add_devices(list, &resources);
    assert_int_equal(json_array_size(list), 3);
    assert_int_equal(json_array_size(json_array_get(json_array_get(list, 1), 2)), 0);
    char *text = json_dumps(json_array_get(json_array_get(list, 2), 2), JSON_COMPACT);
    assert_true(strstr(text, "[[\"/dev/char/10:229\",\"rw\"],[\"block-8\",\"r\"],") == text);
    assert_non_null(strstr(text, "[\"char-*\",\"m\"]")); /* of the defaults */
    assert_non_null(strstr(text, "[\"/dev/char/1:3\",\"rwm\"]"));
    assert_null(strstr(text, "block-7"));
    free(text);
    json_decref(list);
}

static void test_annotations(void **state)
{
    static const struct spec_pair given[] = {
        {"org.systemd.property.Description", "'a text'"},
        {"org.systemd.property.KillMode", "\"mixed\""},
        {"org.systemd.property.TimeoutStopUSec", "uint64 5000"},
        {"org.systemd.property.TimeoutStopSec", "5"},
        {"org.systemd.property.SendSIGHUP", "true"},
        {"org.systemd.property.After", "['a.service', 'b.service']"},
        {"org.systemd.property.Wants", "[]"},
        {"org.systemd.property.Number", "-3"},
        {"io.other", "x"},
    };
    const struct spec_pairs pairs = {given, ARRAY_COUNT(given)};
    json_t *list = json_array();
    assert_int_equal(unit_properties_annotate(list, &pairs, NULL), 0);
    expect(list, "Description=s:\"a text\" KillMode=s:\"mixed\" TimeoutStopUSec=t:5000 "
                 "TimeoutStopUSec=t:5000000 SendSIGHUP=b:true "
                 "After=as:[\"a.service\",\"b.service\"] Wants=as:[] Number=i:-3");
}

static void test_bad_annotations(void **state)
{
    static const struct spec_pair bad[] = {
        {"org.systemd.property.A", "true"},          {"org.systemd.property.Two Words", "true"},
        {"org.systemd.property.Name", ""},           {"org.systemd.property.Name", "text"},
        {"org.systemd.property.Name", "'text"},      {"org.systemd.property.Name", "'a' 'b'"},
        {"org.systemd.property.Name", "['a'"},       {"org.systemd.property.Name", "['a' 'b']"},
        {"org.systemd.property.Name", "[1]"},        {"org.systemd.property.Name", "byte 256"},
        {"org.systemd.property.Name", "uint64 -1"},  {"org.systemd.property.Name", "uint64"},
        {"org.systemd.property.Name", "5000000000"}, {"org.systemd.property.Name", "'a\\n'"},
        {"org.systemd.property.NameSec", "-5"},      {"org.systemd.property.Name", "[]x"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        const struct spec_pairs pairs = {&bad[i], 1};
        struct error err = {0};
        json_t *list = json_array();
        assert_int_equal(unit_properties_annotate(list, &pairs, &err), -EINVAL);
        assert_non_null(strstr(err.text, "annotations: "));
        assert_int_equal(json_array_size(list), 0);
        json_decref(list);
    }
}

/* A saved scope is found again; one with a name that is no scope's is refused. */
static void test_saved(void **state)
{
    static const char *const units[] = {"\"libpod-a.scope\"", "\"a.service\"", "\"../a.scope\"",
                                        "1"};
    for (size_t i = 0; i < ARRAY_COUNT(units); i++) {
        char text[256];
        (void)snprintf(text, sizeof(text),
                       "{\"manager\":\"systemd\",\"rootless\":true,\"planned\":false,\"groups\":[],"
                       "\"unit\":%s,\"user\":true}",
                       units[i]);
        json_t *saved = json_loads(text, 0, NULL);
        struct cgroup *cgroup = NULL;
        int rc = cgroup_load(saved, &cgroup, NULL);
        assert_int_equal(rc, i == 0 ? 0 : -EINVAL);
        if (rc == 0) {
            json_t *again = cgroup_save(cgroup);
            assert_true(json_equal(again, saved));
            json_decref(again);
        }
        cgroup_free(cgroup);
        json_decref(saved);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),     cmocka_unit_test(test_bad_names),
        cmocka_unit_test(test_whose),     cmocka_unit_test(test_limits),
        cmocka_unit_test(test_no_limits), cmocka_unit_test(test_lists_of_cpus),
        cmocka_unit_test(test_unified),   cmocka_unit_test(test_annotations),
        cmocka_unit_test(test_devices),   cmocka_unit_test(test_bad_annotations),
        cmocka_unit_test(test_saved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
