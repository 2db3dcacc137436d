/* Covers the pure parts of src/system/life: names of devices, and limits as the runtime takes them. */
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
#include "system/life/document.h"

static void host_names(void **state)
{
    struct store one = {.state = "/var/lib/hull"}, other = {.state = "/srv/hull"};
    char names[6][IFNAMSIZ];
    document_host_name(&one, "web", 0, names[0]);
    document_host_name(&one, "web", 1, names[1]);
    document_host_name(&one, "web1", 0, names[2]);
    document_host_name(&other, "web", 0, names[3]);
    document_host_name(&one, "web", 99, names[4]);
    char longest[65];
    memset(longest, 'x', 64);
    longest[64] = '\0';
    document_host_name(&one, longest, CONFIG_MAX_CARDS - 1, names[5]);
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        assert_true(strlen(names[i]) < IFNAMSIZ);
        assert_int_equal(strncmp(names[i], DOCUMENT_DEVICE_PREFIX, strlen(DOCUMENT_DEVICE_PREFIX)),
                         0);
        for (size_t j = 0; j < i; j++) {
            assert_string_not_equal(names[i], names[j]);
        }
    }
    char again[IFNAMSIZ];
    document_host_name(&one, "web", 0, again);
    assert_string_equal(again, names[0]);
}

static void assert_resources(const char *keys, const char *cpu_set, const char *device,
                             bool is_update, const char *expected)
{
    json_t *document = json_loads(keys, 0, NULL);
    struct config *config;
    struct error err = {0};
    (void)json_object_set_new(document, "root", json_string("/"));
    (void)json_object_set_new(document, "ids", json_string("65536:65536"));
    if (config_from_json(document, &config, &err) < 0) {
        fail_msg("%s", err.text);
    }
    json_t *made = document_resources(config, cpu_set, device, is_update);
    (void)json_object_del(made, "devices"); /* the same always */
    (void)json_object_del(made, "unified"); /* as the host is: document_cpu_weight */
    json_t *wanted = json_loads(expected, 0, NULL);
    assert_non_null(wanted);
    if (!json_equal(made, wanted)) {
        char *got = json_dumps(made, JSON_COMPACT);
        fail_msg("%s instead of %s", got, expected);
    }
    json_decref(made);
    json_decref(wanted);
    json_decref(document);
    config_destroy(config);
}

static void weights_are_in_proportion(void **state)
{
    assert_int_equal(document_cpu_weight(1024), 100);
    assert_int_equal(document_cpu_weight(3072), 300);
    assert_int_equal(document_cpu_weight(512), 50);
    assert_int_equal(document_cpu_weight(2), 1);
    assert_int_equal(document_cpu_weight(262144), 10000);
}

static void resources(void **state)
{
    assert_resources("{}", NULL, "8:0", false,
                     "{\"cpu\": {\"shares\": 1024}, \"memory\": {}, \"blockIO\": {}}");
    assert_resources(
        "{\"cpus\": \"0.5\", \"cpu_shares\": \"512\"}", "0-1", "", false,
        "{\"cpu\": {\"shares\": 512, \"period\": 100000, \"quota\": 50000, \"cpus\": \"0-1\"},"
        " \"memory\": {}, \"blockIO\": {}}");
    assert_resources(
        "{\"memory\": \"64M\", \"swap\": \"0\"}", NULL, "", false,
        "{\"cpu\": {\"shares\": 1024}, \"memory\": {\"limit\": 67108864, \"swap\": 67108864}, \"blockIO\": {}}");
    assert_resources(
        "{\"memory\": \"64M\", \"swap\": \"16M\", \"processes\": \"9\"}", NULL, "", false,
        "{\"cpu\": {\"shares\": 1024}, \"memory\": {\"limit\": 67108864, \"swap\": 83886080},"
        " \"blockIO\": {}, \"pids\": {\"limit\": 9}}");
    assert_resources(
        "{\"io_write\": \"1M\", \"io_weight\": \"50\"}", NULL, "8:16", false,
        "{\"cpu\": {\"shares\": 1024}, \"memory\": {}, \"blockIO\": {\"weight\": 50,"
        " \"throttleWriteBpsDevice\": [{\"major\": 8, \"minor\": 16, \"rate\": 1048576}]}}");
    assert_resources("{\"io_write\": \"1M\"}", NULL, "", false, /* no disk of its own */
                     "{\"cpu\": {\"shares\": 1024}, \"memory\": {}, \"blockIO\": {}}");
}

/* What is not limited any more has to be said. */
static void updates(void **state)
{
    assert_resources(
        "{}", "0-3", "8:0", true,
        "{\"cpu\": {\"shares\": 1024, \"period\": 100000, \"quota\": -1, \"cpus\": \"0-3\"},"
        " \"memory\": {\"limit\": -1, \"swap\": -1}, \"pids\": {\"limit\": -1}, \"blockIO\": {"
        "\"throttleReadBpsDevice\": [{\"major\": 8, \"minor\": 0, \"rate\": 0}],"
        "\"throttleWriteBpsDevice\": [{\"major\": 8, \"minor\": 0, \"rate\": 0}],"
        "\"throttleReadIOPSDevice\": [{\"major\": 8, \"minor\": 0, \"rate\": 0}],"
        "\"throttleWriteIOPSDevice\": [{\"major\": 8, \"minor\": 0, \"rate\": 0}]}}");
}

static void disks(void **state)
{
    char device[32];
    document_disk_of("/nowhere/at/all", device);
    assert_string_equal(device, "");
    document_disk_of("/proc", device);
    assert_string_equal(device, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(host_names),
        cmocka_unit_test(resources),
        cmocka_unit_test(updates),
        cmocka_unit_test(disks),
        cmocka_unit_test(weights_are_in_proportion),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
