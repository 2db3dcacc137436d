/* Covers manager/instance/vm/command.c and disks.c: what a VM's document becomes on the command line of hull boot. Pools and networks are
 * the test's own. */
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

#include "manager/instance/vm/command.h"
#include "manager/network/network.h"

static int find_disk(const json_t *pool, const char *name, struct pool_disk *out_disk,
                     struct error *err)
{
    (void)snprintf(out_disk->path, sizeof(out_disk->path), "/pool/%s.qcow2", name);
    (void)snprintf(out_disk->format, sizeof(out_disk->format), "qcow2");
    return 0;
}

static const char *below = "/images/base.raw";

static int find_layers(const json_t *pool, const char *name, json_t **out_layers, struct error *err)
{
    *out_layers = json_pack("[{s:s, s:s}]", "path", below, "format", "raw");
    return 0;
}

static const struct pool_driver driver = {
    .name = "dir", .disk_find = find_disk, .disk_layers = find_layers};

int pool_driver_find(const json_t *pool, const struct pool_driver **out_driver, struct error *err)
{
    *out_driver = &driver;
    return 0;
}

static size_t attached;

int network_attach_tap(const struct network_port *port, char out_interface[IFNAMSIZ],
                       struct error *err)
{
    attached++;
    assert_string_equal(port->instance, "web1");
    assert_int_equal(json_array_size(port->forwards), strcmp(port->device, "eth0") == 0 ? 1 : 0);
    (void)snprintf(out_interface, IFNAMSIZ, "tap-%.8s", port->device);
    return 0;
}

int network_release(const struct network_port *port, bool is_forgotten, struct error *err)
{
    return 0;
}

int network_attach_switch(const struct network_port *port, json_t **out_card, struct error *err)
{
    const json_t *forward = json_array_get(port->forwards, 0);
    assert_string_equal(port->instance, "web1");
    *out_card = json_pack("{s:s,s:s,s:s,s:s,s:b,s:[O*]}", "switch", "/run/hull/s", "name", "web1",
                          "mac", "52:54:00:00:00:01", "ipv4", "10.0.2.16/24", "spoofing",
                          strcmp(port->device, "eth2") == 0, "forwards", forward);
    return 0;
}

static const char *const networks =
    "{\"networks\": {\"lan\": {\"name\": \"lan\", \"type\": \"nat\"},"
    "                \"mine\": {\"name\": \"mine\", \"type\": \"user\"},"
    "                \"wire\": {\"name\": \"wire\", \"type\": \"macvlan\"},"
    "                \"far\": {\"name\": \"far\", \"type\": \"tube\"}}}";

/* The words with a space between; NULL: refused, see 'err'. */
static char *make(const char *document_text, const char *restore, struct error *err)
{
    static char text[8192];
    struct place place = {.state = "/state", .run = "/run/hull"};
    struct vm vm;
    struct vm_command command;
    struct vm_disks *disks = calloc(1, sizeof(*disks));
    const struct vm_boot boot = {.kernel = "/images/vmlinuz", .append = "root=/dev/vda"};
    json_t *request = json_loads(networks, 0, NULL);
    json_t *document = json_loads(document_text, 0, NULL);
    assert_non_null(document);
    assert_non_null(disks);
    const struct job job = {.request = request};
    vm_init(&vm, &place, &job, document);
    int rc = vm_disks_init(&vm, disks, err);
    rc = rc == 0 ? vm_disks_find(disks, err) : rc;
    struct vm_places places = {0};
    rc = rc == 0 ? vm_places_load(&vm, &places, err) : rc;
    rc = rc == 0 ? vm_command_make(&vm, disks, &places, &boot, restore, false, &command, err) : rc;
    vm_places_fini(&places);
    size_t used = 0;
    for (size_t i = 0; rc == 0 && i < command.count; i++) {
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s ", command.word[i]);
    }
    if (rc == 0) {
        assert_null(command.word[command.count]);
        vm_command_fini(&command);
    }
    vm_disks_fini(disks);
    free(disks);
    json_decref(document);
    json_decref(request);
    return rc == 0 ? text : NULL;
}

static void assert_has(const char *text, const char *words)
{
    assert_non_null(text);
    if (strstr(text, words) == NULL) {
        fail_msg("no '%s' in: %s", words, text);
    }
}

static void a_document_becomes_options(void **state)
{
    attached = 0;
    const char *text = make(
        "{\"name\": \"web1\", \"config\": {\"memory\": \"1G\", \"cpus\": \"2\", "
        "\"cpus_max\": \"3\", \"append\": \"debug\"},"
        " \"devices\": {\"data\": {\"type\": \"disk\", \"size\": \"1G\", \"cache\": \"none\"},"
        "   \"root\": {\"type\": \"disk\"},"
        "   \"shared\": {\"type\": \"disk\", \"source\": \"tools\", \"readonly\": \"true\"},"
        "   \"raw\": {\"type\": \"disk\", \"source\": \"/srv/x.img\"},"
        "   \"eth0\": {\"type\": \"nic\", \"network\": \"lan\", \"mac\": \"52:54:00:01:02:03\"},"
        "   \"eth1\": {\"type\": \"nic\", \"network\": \"mine\"},"
        "   \"eth2\": {\"type\": \"nic\", \"network\": \"mine\"},"
        "   \"eth3\": {\"type\": \"nic\", \"network\": \"wire\"},"
        "   \"web\": {\"type\": \"forward\", \"listen\": \"tcp:127.0.0.1:80\", \"connect\": \"tcp:8080\"},"
        "   \"dns\": {\"type\": \"forward\", \"listen\": \"udp:127.0.0.1:53\", \"connect\": \"udp:53\","
        "             \"nic\": \"eth1\"}}}",
        NULL, NULL);
    assert_has(text, "hull boot --name web1 --engine auto --cpus 2,max=3 "
                     "--memory 1048576K,max=4194304K ");
    assert_has(text, "--append root=/dev/vda hostname=web1 systemd.hostname=web1 "
                     "memhp_default_state=online_movable debug ");
    assert_has(text, "--control /run/hull/instances/web1/control.sock ");
    assert_has(text, "--console-log /state/instances/web1/logs/console.log "
                     "--disk /pool/instances/web1/root.qcow2,format=qcow2,serial=root,"
                     "backing=/images/base.raw,backing-format=raw,id=root,index=0 ");
    assert_has(text, "data.qcow2,format=qcow2,serial=data,cache=none,");
    assert_has(text, "--disk /pool/volumes/tools.qcow2,format=qcow2,serial=shared,readonly,");
    assert_has(text, "--disk /srv/x.img,format=raw,serial=raw,id=raw,index=3 ");
    assert_has(text, "--net tap=tap-eth0,mac=52:54:00:01:02:03,id=eth0,index=0 ");
    assert_has(text, "--net switch=/run/hull/s,name=web1,mac=52:54:00:00:00:01,ipv4=10.0.2.16,"
                     "hostfwd=udp:127.0.0.1:53-:53,id=eth1,index=1 ");
    assert_has(text, "ipv4=10.0.2.16,spoofing=allow,id=eth2,index=2 ");
    assert_has(text, "--net macvtap=tap-eth3,id=eth3,index=3 ");
    assert_int_equal(attached, 2);
    assert_null(strstr(text, "--restore"));
}

static void limits_have_sensible_ends(void **state)
{
#define LIMITS(config) "{\"name\": \"v\", \"config\": {" config "}, \"devices\": {}}"
    assert_has(make(LIMITS("\"cpus_max\": \"1\", \"memory_max\": \"512M\""), NULL, NULL),
               "--cpus 1 --memory 524288K ");
    assert_has(make(LIMITS("\"cpus\": \"4\", \"cpus_max\": \"2\", \"memory\": \"3G\", "
                           "\"memory_max\": \"2G\""),
                    NULL, NULL),
               "--cpus 4,max=4 --memory 3145728K ");
    /* In steps of 2 MiB, and at most 1 TiB. */
    assert_has(make(LIMITS("\"memory\": \"64M\", \"memory_max\": \"67M\""), NULL, NULL),
               "--memory 65536K,max=67584K ");
    assert_has(make(LIMITS("\"memory\": \"512G\""), NULL, NULL),
               "--memory 536870912K,max=1073741824K ");
    assert_has(make(LIMITS("\"huge_pages\": \"true\""), NULL, NULL), "--memory 524288K ");
    struct error err;
    assert_null(make(LIMITS("\"cpus_max\": \"65\""), NULL, &err));
    assert_non_null(strstr(err.text, "cpus_max"));
}

static void a_restore_names_its_state(void **state)
{
    const char *text = make("{\"name\": \"web1\", \"devices\": {}}", "/state/memory", NULL);
    assert_has(text, "--restore /state/memory ");
    assert_null(strstr(text, "--cpus"));
    assert_null(strstr(text, "--memory"));
    assert_has(make("{\"name\": \"web1\", \"devices\": {}}", NULL, NULL), "--net none ");
}

static void what_cannot_be_is_refused(void **state)
{
    static const struct {
        const char *devices, *why;
    } bad[] = {
        {"\"a\": {\"type\": \"nic\", \"network\": \"none\"}", "network none: there is none"},
        {"\"a\": {\"type\": \"nic\", \"network\": \"far\"}", "type tube"},
        {"\"a\": {\"type\": \"disk\", \"source\": \"x/../y\"}", "no name of a disk"},
        {"\"a\": {\"type\": \"disk\", \"source\": \"/srv/a,readonly\"}", "a path with a comma"},
        {"\"a\": {\"type\": \"disk\", \"size\": \"many\"}", "disk a"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        char document[512];
        struct error err = {0};
        (void)snprintf(document, sizeof(document), "{\"name\": \"web1\", \"devices\": {%s}}",
                       bad[i].devices);
        assert_null(make(document, NULL, &err));
        assert_has(err.text, bad[i].why);
    }
}

static void devices_keep_their_places(void **state)
{
    char folder[] = "/tmp/hull-places-XXXXXX";
    assert_non_null(mkdtemp(folder));
    char path[64], name[16];
    (void)snprintf(path, sizeof(path), "%s/instances", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    (void)snprintf(path, sizeof(path), "%s/instances/vm1", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    struct place place = {.run = "/run/hull"};
    (void)snprintf(place.state, sizeof(place.state), "%s", folder);
    json_t *document =
        json_loads("{\"name\": \"vm1\", \"devices\": {\"a\": {\"type\": \"disk\"},"
                   " \"root\": {\"type\": \"disk\"}, \"eth0\": {\"type\": \"nic\"}}}",
                   0, NULL);
    struct vm vm;
    struct vm_places places;
    vm_init(&vm, &place, NULL, document);
    assert_int_equal(vm_places_load(&vm, &places, NULL), 0);
    assert_int_equal(vm_places_index(&places, true, "root"), 0);
    assert_int_equal(vm_places_index(&places, true, "a"), 1);
    assert_int_equal(vm_places_add(&places, true, "b", NULL), 0);
    vm_places_name(&places, true, "b", name);
    assert_string_equal(name, "disk2");
    json_object_set_new(json_object_get(places.disks, "b"), "slot", json_integer(7));
    vm_places_remove(&places, true, "a");
    assert_int_equal(vm_places_save(&vm, &places, NULL), 0);
    vm_places_fini(&places);

    /* What is gone from the document is forgotten, what it has anew takes the lowest free number. */
    json_t *devices = json_object_get(document, "devices");
    json_object_del(devices, "a");
    json_object_set_new(devices, "c", json_pack("{s:s}", "type", "disk"));
    json_object_set_new(devices, "b", json_pack("{s:s}", "type", "disk"));
    assert_int_equal(vm_places_load(&vm, &places, NULL), 0);
    assert_int_equal(vm_places_index(&places, true, "c"), 1);
    char *words = vm_places_words(&places, true, "b");
    assert_string_equal(words, ",id=b,index=2,slot=7");
    free(words);
    assert_null(json_object_get(places.disks, "a"));
    vm_places_fini(&places);
    json_decref(document);
    (void)snprintf(path, sizeof(path), "%s/instances/vm1/places.json", folder);
    assert_int_equal(unlink(path), 0);
    *strrchr(path, '/') = '\0';
    assert_int_equal(rmdir(path), 0);
    *strrchr(path, '/') = '\0';
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(folder), 0);
}

static void more_disks_than_there_is_room_for(void **state)
{
    char document[4096] = "{\"name\": \"web1\", \"devices\": {";
    struct error err = {0};
    for (int i = 0; i <= VM_MAX_DISKS; i++) {
        size_t used = strlen(document);
        (void)snprintf(document + used, sizeof(document) - used, "%s\"d%d\": {\"type\": \"disk\"}",
                       i == 0 ? "" : ", ", i);
    }
    strcat(document, "}}");
    assert_null(make(document, NULL, &err));
    assert_int_equal(err.code, E2BIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_document_becomes_options),
        cmocka_unit_test(limits_have_sensible_ends),
        cmocka_unit_test(a_restore_names_its_state),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(devices_keep_their_places),
        cmocka_unit_test(more_disks_than_there_is_room_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
