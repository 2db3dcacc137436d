#include "manager/instance/requests.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "manager/instance/container/container.h"
#include "manager/instance/keys.h"
#include "manager/instance/vm/watch.h"
#include "manager/network/network.h"
#include "manager/text.h"

#define MAX_RESOURCES 64
#define RESOURCE_SIZE 160

int request_related(struct documents *documents, const char *kind, json_t **out_all,
                    struct error *err)
{
    json_t *list, *document;
    size_t i;
    int rc = documents_list(documents, kind, &list, err);
    if (rc < 0) {
        return rc;
    }
    json_t *all = json_object();
    json_array_foreach(list, i, document)
    {
        (void)json_object_set(all, text_of(document, "name"), document);
    }
    json_decref(list);
    *out_all = all;
    return 0;
}

static const char *node_name(void)
{
    static char name[256];
    return name[0] != '\0' || gethostname(name, sizeof(name) - 1) == 0 ? name : "localhost";
}

/* As the driver sees it, but for what somebody is about to change. */
static void add_status(struct manager *manager, const json_t *document, json_t *answer)
{
    char why[ERROR_TEXT_SIZE] = "", resource[RESOURCE_SIZE];
    const char *name = text_of(document, "name");
    const struct instance_driver *driver = instance_driver(document);
    (void)snprintf(resource, sizeof(resource), "instance/%.64s", name);
    const char *kind = operations_on(manager->operations, resource);
    bool is_made = json_is_true(json_object_get(document, "incomplete"));
    enum instance_status status;
    if (is_made) {
        status = kind != NULL ? INSTANCE_STARTING : INSTANCE_ERROR;
        (void)snprintf(why, sizeof(why), "%s",
                       kind != NULL ? "" : "its making was not completed: delete it");
    } else if (driver != &vm_driver ||
               !vm_watch_state(manager->vms, name, &status, why, sizeof(why))) {
        status = driver == &container_driver
                     ? container_status_again(&manager->place, name, why, sizeof(why))
                     : driver->status(&manager->place, name, why, sizeof(why));
    }
    (void)json_object_set_new(answer, "status", json_string(instance_status_name(status)));
    if (why[0] != '\0') {
        (void)json_object_set_new(answer, "status_why", json_string(why));
    }
    if (kind != NULL) {
        (void)json_object_set_new(answer, "operation", json_string(kind));
    }
}

static void add_addresses(struct manager *manager, const json_t *expanded, json_t *answer)
{
    json_t *ipv4 = json_array(), *ipv6 = json_array(), *device, *address;
    const char *name;
    json_object_foreach(json_object_get(expanded, "devices"), name, device)
    {
        json_t *addresses;
        struct error ignored;
        size_t i;
        const char *mac = text_of(device, "mac");
        if (!instance_is_device(device, "nic") || mac == NULL ||
            network_addresses(&manager->place, instance_property(device, "network"), mac,
                              &addresses, &ignored) < 0) {
            continue;
        }
        json_array_foreach(addresses, i, address)
        {
            bool is_v6 = strchr(json_string_value(address), ':') != NULL;
            (void)json_array_append(is_v6 ? ipv6 : ipv4, address);
        }
        json_decref(addresses);
    }
    (void)json_object_set_new(answer, "ipv4", ipv4);
    (void)json_object_set_new(answer, "ipv6", ipv6);
}

json_t *request_summary(struct manager *manager, const json_t *document, const json_t *profiles)
{
    static const char *const copied[] = {"name", "kind", "image", "created_at"};
    json_t *expanded, *answer = json_object();
    struct error ignored;
    if (instance_expand(document, profiles, &expanded, &ignored) < 0) {
        expanded = json_incref((json_t *)document);
    }
    for (size_t i = 0; i < ARRAY_COUNT(copied); i++) {
        json_t *value = json_object_get(document, copied[i]);
        (void)json_object_set_new(answer, copied[i],
                                  value != NULL ? json_incref(value) : json_null());
    }
    add_status(manager, document, answer);
    add_addresses(manager, expanded, answer);
    bool is_vm = instance_driver(document) == &vm_driver;
    const char *cpus = instance_value(expanded, "cpus");
    uint64_t memory = instance_bytes(expanded, "memory", 1 << 20);
    memory = memory == 0 && is_vm ? (uint64_t)512 << 20 : memory;
    (void)json_object_set_new(answer, "cpus",
                              cpus != NULL ? json_real(strtod(cpus, NULL))
                              : is_vm      ? json_real(1)
                                           : json_null());
    (void)json_object_set_new(answer, "memory_bytes",
                              memory != 0 ? json_integer((json_int_t)memory) : json_null());
    (void)json_object_set_new(answer, "node", json_string(node_name()));
    json_decref(expanded);
    return answer;
}

json_t *request_full(struct manager *manager, const json_t *document, const json_t *profiles)
{
    json_t *expanded, *info, *answer = json_copy((json_t *)document);
    struct error err;
    const struct instance_driver *driver = instance_driver(document);
    add_status(manager, document, answer);
    (void)json_object_set_new(answer, "node", json_string(node_name()));
    if (instance_expand(document, profiles, &expanded, &err) < 0) {
        (void)json_object_set_new(answer, "status_why", json_string(err.text));
        return answer;
    }
    (void)json_object_set_new(answer, "expanded",
                              json_pack("{s:O, s:O}", "config", json_object_get(expanded, "config"),
                                        "devices", json_object_get(expanded, "devices")));
    if (!json_is_true(json_object_get(document, "incomplete")) &&
        driver->info(&manager->place, expanded, &info, &err) == 0) {
        (void)json_object_set_new(answer, "info", info);
    }
    json_decref(expanded);
    return answer;
}

struct resources {
    char text[MAX_RESOURCES][RESOURCE_SIZE];
    const char *list[MAX_RESOURCES + 1];
    size_t count;
};

/* Not twice, and never more than there is room for: what an instance uses is checked before. */
static void add_resource(struct resources *resources, const char *kind, const char *name)
{
    char text[RESOURCE_SIZE];
    (void)snprintf(text, sizeof(text), "%s/%.100s", kind, name);
    for (size_t i = 0; i < resources->count; i++) {
        if (strcmp(resources->list[i], text) == 0) {
            return;
        }
    }
    if (resources->count < MAX_RESOURCES) {
        memcpy(resources->text[resources->count], text, sizeof(text));
        resources->list[resources->count] = resources->text[resources->count];
        resources->count++;
    }
}

static void find_resources(const json_t *document, struct resources *resources)
{
    const char *name, *digest = text_of(document, "image_digest");
    json_t *device;
    if (digest != NULL) {
        add_resource(resources, "~image", digest);
    }
    json_object_foreach(json_object_get(document, "devices"), name, device)
    {
        if (instance_is_device(device, "nic")) {
            add_resource(resources, "~network", instance_property(device, "network"));
        } else if (instance_is_device(device, "disk") || instance_is_volume_share(device)) {
            add_resource(resources, "~pool", instance_property(device, "pool"));
        }
    }
}

int request_start(struct manager *manager, const char *kind, const char *verb, const char *name,
                  const char *other, const json_t *document, json_t *request,
                  char out_id[OPERATION_ID_SIZE], struct error *err)
{
    static const char *const related[][2] = {
        {"profile", "profiles"}, {"network", "networks"}, {"pool", "pools"}};
    struct resources resources = {0};
    char description[160];
    int rc = request == NULL ? error_set(err, ENOMEM, "no memory for a request") : 0;
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(related); i++) {
        json_t *all;
        rc = request_related(manager->documents, related[i][0], &all, err);
        if (rc == 0) {
            (void)json_object_set_new(request, related[i][1], all);
        }
    }
    add_resource(&resources, "instance", name);
    if (other != NULL) {
        add_resource(&resources, "instance", other);
    }
    json_t *expanded;
    struct error ignored;
    if (rc == 0 &&
        instance_expand(document, json_object_get(request, "profiles"), &expanded, &ignored) == 0) {
        find_resources(expanded, &resources);
        json_decref(expanded);
    }
    (void)snprintf(description, sizeof(description), "%s %.64s", verb, name);
    const struct operation_spec spec = {
        .kind = kind, .description = description, .resources = resources.list, .request = request};
    rc = rc < 0 ? rc : operations_begin(manager->operations, &spec, out_id, err);
    json_decref(request);
    return rc;
}

int request_begin(struct api_call *call, const char *kind, const char *verb, const char *name,
                  const char *other, const json_t *document, json_t *request, struct error *err)
{
    return request_start(call->manager, kind, verb, name, other, document, request, call->operation,
                         err);
}
