/* Covers vmm/config.c: the document that hull writes, and what is wrong with others. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <unistd.h>

#include "vmm/config.h"

#define BASE "\"version\":1,\"vcpus\":1,\"memory_bytes\":536870912"

static int open_fd = -1;

static int open_some(void **state)
{
    open_fd = dup(1);
    return open_fd < 3;
}

static int close_some(void **state)
{
    return close(open_fd);
}

static void a_whole_document_is_read(void **state)
{
    char text[2048];
    struct config config;
    struct error err;
    (void)snprintf(
        text, sizeof(text),
        "{" BASE ",\"name\":\"web1\",\"engine\":\"soft,x\",\"paused\":true,"
        "\"kernel\":{\"fd\":%d,\"name\":\"vmlinuz\"},\"command_line\":\"quiet\","
        "\"disks\":[{\"fd\":%d,\"name\":\"a\",\"format\":\"raw\",\"readonly\":true,\"serial\":\"S\",\"aio\":\"threads\"}],"
        "\"nets\":[{\"kind\":\"stream\",\"fd\":%d,\"name\":\"user\",\"mac\":\"52:54:00:01:02:ff\"}],"
        "\"vsock\":{\"cid\":3,\"dir_fd\":%d},"
        "\"console\":{\"kind\":\"stream\",\"fd\":%d,\"device\":\"virtio\"}}",
        open_fd, open_fd, open_fd, open_fd, open_fd);
    assert_int_equal(config_parse(text, strlen(text), &config, &err), 0);
    assert_string_equal(config.name, "web1");
    assert_string_equal(config.engine, "soft,x");
    assert_true(config.is_paused);
    assert_int_equal(config.kernel_fd, open_fd);
    assert_string_equal(config.kernel_name, "vmlinuz");
    assert_int_equal(config.initrd_fd, -1);
    assert_int_equal(config.disk_count, 1);
    assert_int_equal(config.disk[0].aio, BLOCK_AIO_THREADS);
    assert_true(config.disk[0].is_readonly);
    assert_int_equal(config.net[0].mac[5], 0xff);
    assert_int_equal(config.vsock_cid, 3);
    assert_int_equal(config.console, CONFIG_CONSOLE_STREAM);
    assert_true(config.is_console_virtio);
    assert_int_equal(config.control_fd, -1);
    config_fini(&config);
}

static void what_is_wrong_is_named(void **state)
{
    static const struct {
        const char *text, *error;
    } cases[] = {
        {"",
         "configuration: line 1: '[' or '{' expected near end of file: a JSON object is needed"},
        {"[]", "configuration: a JSON object is needed"},
        {"{}", "configuration: version: a number from 1 to 1 is needed"},
        {"{\"version\":2}", "configuration: version: a number from 1 to 1 is needed"},
        {"{\"version\":1}", "configuration: vcpus: a number from 1 to 64 is needed"},
        {"{\"version\":1,\"vcpus\":65}", "configuration: vcpus: a number from 1 to 64 is needed"},
        {"{\"version\":1,\"vcpus\":4,\"vcpus_max\":3}",
         "configuration: memory_bytes: a number from 1048576 to 1099511627776 is needed"},
        {"{" BASE ",\"vcpus_max\":65}",
         "configuration: vcpus_max: a number from 1 to 64 is needed"},
        {"{" BASE ",\"memory_max_bytes\":4096}",
         "configuration: memory_max_bytes: a number from 536870912 to 1099511627776 is needed"},
        {"{\"version\":1,\"vcpus\":1,\"memory_bytes\":1048577}",
         "configuration: memory_bytes: a multiple of 4096 is needed"},
        {"{\"version\":1,\"vcpus\":1,\"memory_bytes\":2199023255552}",
         "configuration: memory_bytes: a number from 1048576 to 1099511627776 is needed"},
        {"{" BASE ",\"paused\":1}", "configuration: paused: true or false is needed"},
        {"{" BASE ",\"name\":7}", "configuration: name: a text is needed"},
        {"{" BASE ",\"kernel\":{\"fd\":2}}",
         "configuration: kernel fd: an open descriptor is needed"},
        {"{" BASE ",\"kernel\":{\"fd\":999}}",
         "configuration: kernel fd: an open descriptor is needed"},
        {"{" BASE ",\"disks\":[{}]}", "configuration: disk fd: an open descriptor is needed"},
        {"{" BASE ",\"disks\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}",
         "configuration: disks: a shorter list is needed"},
        {"{" BASE ",\"nets\":[{\"kind\":\"x\"}]}",
         "configuration: net kind: stream, tap or none is needed"},
        {"{" BASE ",\"nets\":[{\"kind\":\"none\",\"mac\":\"zz\"}]}",
         "configuration: net mac: six hexadecimal bytes is needed"},
        {"{" BASE ",\"nets\":[{\"kind\":\"none\",\"mac\":\"52:54:00:01:02:03\",\"slot\":32}]}",
         "configuration: net slot: a number from 0 to 31 is needed"},
        {"{" BASE ",\"nets\":[{\"kind\":\"none\",\"mac\":\"52:54:00:01:02:03\",\"index\":8}]}",
         "configuration: net index: another number is needed"},
        {"{" BASE ",\"nets\":[{\"kind\":\"none\",\"mac\":\"52:54:00:01:02:03\",\"index\":1},"
         "{\"kind\":\"none\",\"mac\":\"52:54:00:01:02:03\",\"index\":1}]}",
         "configuration: net index: another number is needed"},
        {"{" BASE ",\"vsock\":{\"cid\":2}}",
         "configuration: vsock cid: a number from 3 to 4294967294 is needed"},
        {"{" BASE ",\"console\":{\"kind\":\"none\",\"device\":\"x\"}}",
         "configuration: console device: serial or virtio is needed"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct config config;
        struct error err = {0};
        assert_true(config_parse(cases[i].text, strlen(cases[i].text), &config, &err) < 0);
        assert_string_equal(err.text, cases[i].error);
    }
}

#define NET "\"kind\":\"none\",\"mac\":\"52:54:00:01:02:03\""

/* Numbers that are asked for are given first; what comes while the VM runs gets what is free, and leaves nothing behind. */
static void devices_have_numbers(void **state)
{
    static const char text[] = "{" BASE ",\"nets\":[{" NET "},{" NET
                               ",\"index\":0,\"id\":\"lan\",\"slot\":7},{" NET ",\"index\":3}]}";
    struct config config;
    struct error err;
    size_t index;
    assert_int_equal(config_parse(text, strlen(text), &config, &err), 0);
    assert_int_equal(config.net_count, 4);
    assert_string_equal(config.net[0].place.id, "lan");
    assert_int_equal(config.net[0].place.slot, 7);
    assert_true(config.net[1].place.is_there && config.net[3].place.is_there);
    assert_false(config.net[2].place.is_there);

    json_t *taken =
        json_pack("{s:s, s:s, s:i}", "kind", "none", "mac", "52:54:00:01:02:03", "index", 3);
    assert_int_equal(config_add_net(&config, taken, &index, &err), -EBUSY);
    json_object_del(taken, "index");
    assert_int_equal(config_add_net(&config, taken, &index, &err), 0);
    assert_int_equal(index, 2);
    json_decref(taken);
    assert_int_equal(config.net[2].mac[5], 3);
    config_remove_net(&config, 2);
    assert_false(config.net[2].place.is_there);

    /* A disk that cannot be keeps its descriptor the caller's. */
    json_t *disk = json_pack("{s:i, s:s}", "fd", open_fd, "werror", "never");
    assert_int_equal(config_add_disk(&config, disk, &index, &err), -EINVAL);
    assert_false(config.disk[0].place.is_there);
    assert_true(fcntl(open_fd, F_GETFD) >= 0);
    json_object_del(disk, "werror");
    assert_int_equal(config_add_disk(&config, disk, &index, &err), 0);
    assert_int_equal(index, 0);
    config.disk[0].fd = -1; /* as who opens it does */
    config_remove_disk(&config, 0);
    assert_true(fcntl(open_fd, F_GETFD) >= 0);
    json_decref(disk);
    config_fini(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_document_is_read),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(devices_have_numbers),
    };
    return cmocka_run_group_tests(tests, open_some, close_some);
}
