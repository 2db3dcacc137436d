/* In hulld: networks in the API. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "manager/api/api.h"
#include "manager/network/state.h"
#include "manager/text.h"
#include "manager/users.h"
#include "system/store.h"

static struct users_query query_of(const char *network)
{
    return (struct users_query){.type = "nic", .key = "network", .value = network};
}

/* What is not in the document. */
static int complete(struct api_call *call, json_t *network, struct error *err)
{
    char ipv4[NETWORK_TEXT_SIZE];
    json_t *users;
    const char *name = text_or_empty(network, "name");
    const struct users_query query = query_of(name);
    int rc = users_find(call->manager->documents, &query, &users, err);
    if (rc < 0) {
        return rc;
    }
    json_object_set_new(network, "used_by", users);
    json_t *config = json_object_get(network, "config");
    if (strcmp(text_or_empty(network, "type"), "nat") == 0 && config != NULL) {
        net_state_chosen(&call->manager->place, name, ipv4);
        if (ipv4[0] != '\0' && json_object_get(config, "ipv4") == NULL) {
            json_object_set_new(config, "ipv4", json_string(ipv4));
        }
        if (json_object_get(config, "bridge") == NULL) {
            char bridge[IFNAMSIZ];
            plan_default_bridge(name, bridge);
            json_object_set_new(config, "bridge", json_string(bridge));
        }
    }
    return 0;
}

static int list_networks(struct api_call *call, struct error *err)
{
    json_auto_t *list = NULL;
    size_t i;
    json_t *network;
    int rc = documents_list(call->manager->documents, "network", &list, err);
    json_array_foreach(list, i, network)
    {
        rc = rc < 0 ? rc : complete(call, network, err);
    }
    if (rc == 0) {
        call->answer = json_incref(list);
    }
    return rc;
}

static int find(const struct api_call *call, json_t **out_network, struct error *err)
{
    return documents_get(call->manager->documents, "network", call->words[0], out_network, err);
}

/* Those of dnsmasq; of a switch its ports, whose addresses are theirs for good. */
static int network_leases(const struct place *place, const char *name, json_t **out_leases,
                          struct error *err)
{
    char path[PATH_MAX];
    json_error_t fault;
    const char *id;
    json_t *port;
    int rc = net_dns_list_leases(place, name, out_leases, err);
    if (rc < 0 || json_array_size(*out_leases) != 0) {
        return rc;
    }
    place_run_path(place, "networks", name, "ports.json", path);
    json_auto_t *ports = json_load_file(path, 0, &fault);
    json_object_foreach(ports, id, port)
    {
        const char *mac = text_of(port, "mac"), *ipv4 = text_of(port, "ipv4");
        if (mac != NULL && ipv4 != NULL) {
            json_array_append_new(*out_leases,
                                  json_pack("{s:s,s:s,s:o,s:i}", "mac", mac, "ipv4", ipv4, "name",
                                            json_stringn(id, strcspn(id, "/")), "ends_at", 0));
        }
    }
    return 0;
}

static int get_network(struct api_call *call, struct error *err)
{
    json_auto_t *network = NULL;
    json_auto_t *leases = NULL, *ports = NULL;
    int rc = find(call, &network, err);
    if (rc == 0) {
        rc = complete(call, network, err);
    }
    if (rc == 0) {
        rc = network_leases(&call->manager->place, call->words[0], &leases, err);
    }
    if (rc == 0) {
        rc = net_count_ports(&call->manager->place, call->words[0],
                             strcmp(text_or_empty(network, "type"), "user") == 0, &ports, err);
    }
    if (rc == 0) {
        json_object_set(network, "leases", leases);
        json_object_set(network, "ports", ports);
        call->answer = json_incref(network);
    }
    return rc;
}

static int list_leases(struct api_call *call, struct error *err)
{
    json_auto_t *network = NULL;
    int rc = find(call, &network, err);
    return rc < 0 ? rc : network_leases(&call->manager->place, call->words[0], &call->answer, err);
}

/* 'request' is taken over. */
static int begin(struct api_call *call, const char *kind, const char *verb, const char *name,
                 json_t *request, struct error *err)
{
    char description[128], resource[96];
    snprintf(description, sizeof(description), "%s the network %.64s", verb, name);
    snprintf(resource, sizeof(resource), "network/%.64s", name);
    const char *const resources[] = {resource, NULL};
    int rc = request == NULL ? error_set_errno(err, ENOMEM, "%s", description)
                             : api_begin(call, kind, description, resources, request, err);
    json_decref(request);
    return rc;
}

/* The bridge is one network's alone. */
static int check_bridge(struct api_call *call, const struct plan *plan, struct error *err)
{
    json_auto_t *list = NULL;
    size_t i;
    json_t *other;
    int rc = documents_list(call->manager->documents, "network", &list, err);
    json_array_foreach(list, i, other)
    {
        struct plan theirs;
        if (rc == 0 && plan->bridge[0] != '\0' && plan_read(other, &theirs, NULL) == 0 &&
            strcmp(theirs.name, plan->name) != 0 && strcmp(theirs.bridge, plan->bridge) == 0) {
            rc = error_set(err, EEXIST,
                           "network %s: the network %s has the bridge %s: config.bridge",
                           plan->name, theirs.name, plan->bridge);
        }
    }
    return rc;
}

static int check_document(struct api_call *call, const json_t *document, struct error *err)
{
    struct plan plan;
    json_auto_t *copy = json_deep_copy(document);
    json_t *config = json_object_get(copy, "config");
    if (strcmp(text_or_empty(config, "ipv6"), "auto") == 0) {
        json_object_del(config, "ipv6"); /* the worker chooses it */
    }
    int rc = plan_read(copy, &plan, err);
    if (rc == 0 && plan.type != PLAN_USER && !call->manager->place.is_root) {
        rc = error_set(err, EPERM, "network %s: type %s needs root: user does not", plan.name,
                       plan_type_name(plan.type));
    }
    return rc < 0 ? rc : check_bridge(call, &plan, err);
}

static int create_network(struct api_call *call, struct error *err)
{
    char now[32];
    const char *name = text_or_empty(call->body, "name");
    json_auto_t *document = json_deep_copy(call->body);
    int rc = store_check_name("network", name, err);
    if (rc < 0) {
        return rc;
    }
    if (documents_has(call->manager->documents, "network", name)) {
        return error_set(err, EEXIST, "network %s: there is one of that name", name);
    }
    manager_time(now);
    if (json_object_get(document, "type") == NULL) {
        json_object_set_new(document, "type",
                            json_string(call->manager->place.is_root ? "nat" : "user"));
    }
    if (json_object_get(document, "description") == NULL) {
        json_object_set_new(document, "description", json_string(""));
    }
    if (json_object_get(document, "config") == NULL) {
        json_object_set_new(document, "config", json_object());
    }
    json_object_set_new(document, "created_at", json_string(now));
    rc = check_document(call, document, err);
    return rc < 0 ? rc
                  : begin(call, "network-create", "making", name,
                          json_pack("{s:O}", "document", document), err);
}

/* RFC 7396, of one level: null takes a key away. */
static void merge(json_t *config, const json_t *patch)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)patch, key, value)
    {
        if (json_is_null(value)) {
            json_object_del(config, key);
        } else {
            json_object_set(config, key, value);
        }
    }
}

static int change_network(struct api_call *call, struct error *err)
{
    json_auto_t *old = NULL;
    const char *name = call->words[0];
    int rc = find(call, &old, err);
    if (rc < 0) {
        return rc;
    }
    json_auto_t *document = json_deep_copy(old);
    if (json_object_get(document, "config") == NULL) {
        json_object_set_new(document, "config", json_object());
    }
    json_t *description = json_object_get(call->body, "description");
    if (description != NULL) {
        json_object_set(document, "description", description);
    }
    merge(json_object_get(document, "config"), json_object_get(call->body, "config"));
    rc = check_document(call, document, err);
    if (rc == 0 &&
        !json_equal(json_object_get(document, "config"), json_object_get(old, "config"))) {
        const struct users_query query = query_of(name);
        rc = users_refuse(call->manager->documents, &query, "network", name, err);
    }
    return rc < 0 ? rc
                  : begin(call, "network-change", "changing", name,
                          json_pack("{s:O, s:O}", "document", document, "old", old), err);
}

static int delete_network(struct api_call *call, struct error *err)
{
    json_auto_t *network = NULL;
    const char *name = call->words[0];
    const struct users_query query = query_of(name);
    int rc = find(call, &network, err);
    if (rc == 0) {
        rc = users_refuse(call->manager->documents, &query, "network", name, err);
    }
    return rc < 0 ? rc
                  : begin(call, "network-delete", "deleting", name,
                          json_pack("{s:O}", "document", network), err);
}

static int up_network(struct api_call *call, struct error *err)
{
    json_auto_t *network = NULL;
    int rc = find(call, &network, err);
    return rc < 0 ? rc
                  : begin(call, "network-up", "bringing up", call->words[0],
                          json_pack("{s:O}", "document", network), err);
}

const struct api_route network_routes[] = {
    {"GET", "/v1/networks", "listNetworks", "All networks.", API_PLAIN, NULL, "[Network]", NULL,
     list_networks},
    {"POST", "/v1/networks", "createNetwork", "Makes a network.", API_OPERATION, "NetworkRequest",
     "Operation", NULL, create_network},
    {"GET", "/v1/networks/{name}", "getNetwork", "A network with its leases and ports.", API_PLAIN,
     NULL, "Network", NULL, get_network},
    {"PATCH", "/v1/networks/{name}", "changeNetwork",
     "Changes the description, or the keys of a network that nobody uses.", API_OPERATION,
     "NetworkChange", "Operation", NULL, change_network},
    {"DELETE", "/v1/networks/{name}", "deleteNetwork", "Deletes a network that nobody uses.",
     API_OPERATION, NULL, "Operation", NULL, delete_network},
    {"GET", "/v1/networks/{name}/leases", "listLeases",
     "Addresses that instances have of the network.", API_PLAIN, NULL, "[Lease]", NULL,
     list_leases},
    {"POST", "/v1/networks/{name}/up", "upNetwork",
     "Makes what is missing of a network on the host.", API_OPERATION, NULL, "Operation", NULL,
     up_network},
    {0},
};

#define COUNT "{\"type\":\"integer\",\"minimum\":0}"
#define TEXT  "{\"type\":\"string\"}"
#define CONFIG                                                                                     \
    "\"config\":{\"type\":\"object\",\"description\":\"nat: ipv4 (10.20.30.1/24), ipv6 "           \
    "(fd00::1/64, auto or none), bridge; bridge: bridge; macvlan: parent; user: ipv4\"}"

const struct api_schema network_schemas[] = {
    {"Network",
     "{\"type\":\"object\",\"required\":[\"name\",\"type\"],\"properties\":{\"name\":" TEXT
     ",\"type\":{\"type\":\"string\",\"enum\":[\"nat\",\"bridge\",\"macvlan\",\"user\"]},"
     "\"description\":" TEXT "," CONFIG ",\"created_at\":{\"type\":\"string\",\"format\":"
     "\"date-time\"},\"used_by\":{\"type\":\"array\",\"items\":" TEXT "},"
     "\"leases\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/Lease\"}},"
     "\"ports\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/Port\"}}}}"},
    {"NetworkRequest",
     "{\"type\":\"object\",\"required\":[\"name\"],\"additionalProperties\":false,\"properties\":{"
     "\"name\":{\"type\":\"string\",\"maxLength\":64},"
     "\"type\":{\"type\":\"string\",\"enum\":[\"nat\",\"bridge\",\"macvlan\",\"user\"]},"
     "\"description\":{\"type\":\"string\",\"maxLength\":1000}," CONFIG "}}"},
    {"NetworkChange", "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{"
                      "\"description\":{\"type\":\"string\",\"maxLength\":1000}," CONFIG "}}"},
    {"Port",
     "{\"type\":\"object\",\"description\":\"of an instance that runs; received and sent by it\","
     "\"required\":[\"instance\",\"device\"],\"properties\":{\"instance\":" TEXT ",\"device\":" TEXT
     ",\"mac\":" TEXT ",\"ipv4\":" TEXT ",\"interface\":" TEXT ",\"received_bytes\":" COUNT
     ",\"received_packets\":" COUNT ",\"sent_bytes\":" COUNT ",\"sent_packets\":" COUNT
     ",\"dropped_packets\":" COUNT "}}"},
    {"Lease",
     "{\"type\":\"object\",\"properties\":{\"mac\":" TEXT ",\"ipv4\":" TEXT ",\"name\":" TEXT
     ",\"ends_at\":{\"type\":\"integer\",\"description\":\"seconds since 1970\"}}}"},
    {0},
};
