/* /v1/instances. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/core/size.h"
#include "base/host/file.h"
#include "manager/api/api.h"
#include "manager/image/image.h"
#include "manager/instance/instance.h"
#include "manager/instance/keys.h"
#include "manager/instance/requests.h"
#include "manager/operation/session.h"
#include "manager/text.h"
#include "manager/transfer/templates.h"
#include "system/network/network.h"
#include "system/store.h"

#define MAX_COUNT     1000
#define MAX_LOG       (256u << 10)
#define DEFAULT_LINES 1000

static bool is_asked(const struct api_call *call, const char *name)
{
    const char *value = text_of(call->query, name);
    return value != NULL && strcmp(value, "0") != 0 && strcmp(value, "false") != 0;
}

/* The document that the path names. */
static int get(const struct api_call *call, json_t **out_document, struct error *err)
{
    return documents_get(call->manager->documents, "instance", call->words[0], out_document, err);
}

static int list_instances(struct api_call *call, struct error *err)
{
    json_t *documents, *profiles, *document;
    size_t i;
    struct manager *manager = call->manager;
    int rc = documents_list(manager->documents, "instance", &documents, err);
    if (rc < 0) {
        return rc;
    }
    rc = request_related(manager->documents, "profile", &profiles, err);
    if (rc < 0) {
        json_decref(documents);
        return rc;
    }
    bool is_full = is_asked(call, "full");
    call->answer = json_array();
    json_array_foreach(documents, i, document)
    {
        (void)json_array_append_new(call->answer,
                                    is_full ? request_full(manager, document, profiles)
                                            : request_summary(manager, document, profiles));
    }
    json_decref(profiles);
    json_decref(documents);
    return 0;
}

static int get_instance(struct api_call *call, struct error *err)
{
    json_t *document, *profiles;
    int rc = get(call, &document, err);
    if (rc < 0) {
        return rc;
    }
    rc = request_related(call->manager->documents, "profile", &profiles, err);
    if (rc == 0) {
        call->answer = request_full(call->manager, document, profiles);
        json_decref(profiles);
    }
    json_decref(document);
    return rc;
}

/* "debian/12" and "web" have names of their own; "debian-12-3" comes of the lowest number that is free. */
static int make_name(struct manager *manager, const char *image, char out_name[64],
                     struct error *err)
{
    char base[48];
    size_t length = 0;
    for (const char *c = image; *c != '\0' && length < sizeof(base) - 1; c++) {
        bool is_good =
            (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9');
        if (is_good || (length != 0 && base[length - 1] != '-')) {
            base[length++] = is_good ? *c : '-';
        }
    }
    while (length != 0 && base[length - 1] == '-') {
        length--;
    }
    base[length] = '\0';
    for (unsigned i = 1; i <= 100000; i++) {
        (void)snprintf(out_name, 64, "%s-%u", length != 0 ? base : "instance", i);
        if (!documents_has(manager->documents, "instance", out_name)) {
            return 0;
        }
    }
    return error_set(err, EEXIST, "no name is free for an instance of %s: give one", image);
}

static bool has_form(const json_t *image, const char *form)
{
    const json_t *forms = json_object_get(image, "forms"), *name;
    size_t i;
    json_array_foreach(forms, i, name)
    {
        if (strcmp(json_string_value(name), form) == 0) {
            return true;
        }
    }
    return false;
}

/* The document of a new instance as a request describes it. An ordinary user may have images that are disks alone. */
static int make_document(struct api_call *call, const char *name, const json_t *image,
                         json_t **out_document, struct error *err)
{
    static const char *const taken[] = {"description", "profiles", "config", "devices"};
    json_auto_t *body = NULL;
    char uuid[INSTANCE_UUID_SIZE], now[32];
    int rc = template_apply(call->manager->documents, text_of(call->body, "image"), call->body,
                            &body, err);
    rc = rc < 0 ? rc : instance_make_uuid(uuid, err);
    if (rc < 0) {
        return rc;
    }
    const char *kind = text_of(body, "kind");
    instance_format_time(now);
    if (kind == NULL) {
        kind = call->manager->place.is_root || has_form(image, "container") ? "container" : "vm";
    }
    json_t *document = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "name", name, "kind", kind,
                                 "uuid", uuid, "image", text_of(body, "image"), "image_digest",
                                 text_of(image, "name"), "created_at", now);
    for (size_t i = 0; i < ARRAY_COUNT(taken); i++) {
        const json_t *value = json_object_get(body, taken[i]);
        if (value != NULL) {
            (void)json_object_set_new(document, taken[i], json_deep_copy(value));
        }
    }
    if (json_object_get(document, "profiles") == NULL) {
        bool has_default = documents_has(call->manager->documents, "profile", "default");
        (void)json_object_set_new(document, "profiles",
                                  has_default ? json_pack("[s]", "default") : json_array());
    }
    instance_normalize(document);
    *out_document = document;
    return 0;
}

/* The first card gets an address, that of --ip-start and so many more. */
static int set_address(json_t *document, const json_t *expanded, const char *start, uint32_t number,
                       struct error *err)
{
    struct network_address address;
    char text[NETWORK_TEXT_SIZE];
    const char *name, *first = NULL;
    json_t *device;
    int rc = network_parse(start, 0, true, &address, err);
    if (rc == 0 && strchr(start, '/') == NULL) {
        address.prefix = 0; /* which network it is in is the network's matter */
    }
    rc = rc < 0 ? rc : network_advance(&address, number, &address, err);
    if (rc < 0) {
        return error_prefix(err, rc, "ip_start");
    }
    json_object_foreach(json_object_get(expanded, "devices"), name, device)
    {
        if (instance_is_device(device, "nic") && (first == NULL || strcmp(name, first) < 0)) {
            first = name;
        }
    }
    if (first == NULL) {
        return error_set(err, EINVAL, "ip_start: the instance has no card");
    }
    network_format(&address, false, text);
    json_t *devices = json_object_get(document, "devices");
    if (devices == NULL) {
        devices = json_object();
        (void)json_object_set_new(document, "devices", devices);
    }
    json_t *own = json_object_get(devices, first);
    if (own == NULL) {
        own = json_object();
        (void)json_object_set_new(devices, first, own);
    }
    return json_object_set_new(own, address.family == AF_INET6 ? "ipv6" : "ipv4",
                               json_string(text));
}

static int check_new(struct manager *manager, const json_t *document, const json_t *profiles,
                     json_t **out_expanded, struct error *err)
{
    const char *name = text_of(document, "name");
    int rc = instance_check(document, err);
    rc = rc < 0 ? rc : instance_expand(document, profiles, out_expanded, err);
    if (rc < 0) {
        return rc;
    }
    if (documents_has(manager->documents, "instance", name)) {
        rc = error_set(err, EEXIST, "instance %s exists already", name);
    }
    if (rc < 0) {
        json_decref(TAKE_PTR(*out_expanded));
    }
    return rc;
}

/* One of 'count'. */
static int create_one(struct api_call *call, const char *name, const json_t *image,
                      const json_t *profiles, uint32_t number, struct error *err)
{
    json_t *document, *expanded;
    const char *ip_start = text_of(call->body, "ip_start");
    int rc = make_document(call, name, image, &document, err);
    if (rc < 0) {
        return rc;
    }
    rc = check_new(call->manager, document, profiles, &expanded, err);
    if (rc == 0 && ip_start != NULL) {
        rc = set_address(document, expanded, ip_start, number, err);
        json_decref(expanded);
        rc = rc < 0 ? rc : instance_expand(document, profiles, &expanded, err);
    }
    if (rc == 0) {
        json_t *request = json_pack("{s:O, s:O, s:b}", "document", document, "image", image,
                                    "start", json_is_true(json_object_get(call->body, "start")));
        rc = request_begin(call, "instance-create", "creating", name, NULL, expanded, request, err);
        json_decref(expanded);
    }
    json_decref(document);
    return rc;
}

static int create_many(struct api_call *call, const char *name, const json_t *image,
                       const json_t *profiles, uint32_t count, struct error *err)
{
    json_t *list = json_array();
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < count; i++) {
        char numbered[80];
        (void)snprintf(numbered, sizeof(numbered), "%s-%u", name, i + 1);
        rc = create_one(call, numbered, image, profiles, i, err);
        if (rc == 0) {
            (void)json_array_append_new(list, json_string(call->operation));
        }
    }
    call->operation[0] = '\0';
    if (rc < 0 && json_array_size(list) == 0) {
        json_decref(list);
        return rc;
    }
    /* Those that were begun go on, and the answer says which they are. */
    call->status = 202;
    call->answer = json_pack("{s:o}", "operations", list);
    if (rc < 0) {
        (void)json_object_set_new(call->answer, "error", json_pack("{s:s}", "message", err->text));
    }
    return 0;
}

static int create_instance(struct api_call *call, struct error *err)
{
    char made[64];
    json_t *image, *profiles;
    const char *name = text_of(call->body, "name"), *image_name = text_of(call->body, "image");
    const json_t *count = json_object_get(call->body, "count");
    json_int_t number = count != NULL ? json_integer_value(count) : 0;
    if (image_name == NULL) {
        return error_set(err, EINVAL, "image: missing");
    }
    if (count != NULL && (number < 1 || number > MAX_COUNT)) {
        return error_set(err, EINVAL, "count: from 1 to %d", MAX_COUNT);
    }
    int rc = image_find(call->manager->documents, image_name, &image, err);
    if (rc < 0) {
        return rc;
    }
    rc = request_related(call->manager->documents, "profile", &profiles, err);
    if (rc == 0) {
        if (name == NULL && count == NULL) {
            rc = make_name(call->manager, image_name, made, err);
            name = made;
        } else if (name == NULL) {
            rc = error_set(err, EINVAL, "name: missing: of many, what all of them begin with");
        }
        rc = rc < 0          ? rc
             : count != NULL ? create_many(call, name, image, profiles, (uint32_t)number, err)
                             : create_one(call, name, image, profiles, 0, err);
        json_decref(profiles);
    }
    json_decref(image);
    return rc;
}

/* Tells right away what cannot be; the change itself is made by a job, on what the instance is by then. */
static int change_instance(struct api_call *call, const char *how, struct error *err)
{
    json_t *document, *profiles, *old = NULL, *new = NULL;
    int rc = get(call, &document, err);
    if (rc < 0) {
        return rc;
    }
    rc = request_related(call->manager->documents, "profile", &profiles, err);
    if (rc < 0) {
        json_decref(document);
        return rc;
    }
    json_t *changed = json_deep_copy(document);
    bool is_patch = strcmp(how, "patch") == 0;
    instance_change(changed, is_patch ? NULL : call->body, is_patch ? call->body : NULL);
    rc = instance_check(changed, err);
    rc = rc < 0 ? rc : instance_expand(changed, profiles, &new, err);
    struct error ignored;
    if (rc == 0 && instance_expand(document, profiles, &old, &ignored) == 0) {
        rc = instance_check_change(old, new, err);
    }
    if (rc == 0) {
        json_t *request = json_pack("{s:s, s:O, s:O}", "name", call->words[0], "document", document,
                                    how, call->body);
        rc = request_begin(call, "instance-change", "changing", call->words[0], NULL, new, request,
                           err);
    }
    json_decref(old);
    json_decref(new);
    json_decref(changed);
    json_decref(profiles);
    json_decref(document);
    return rc;
}

static int patch_instance(struct api_call *call, struct error *err)
{
    return change_instance(call, "patch", err);
}

static int put_instance(struct api_call *call, struct error *err)
{
    return change_instance(call, "replacement", err);
}

/* A job on the instance of the path: 'request' is consumed. */
static int begin(struct api_call *call, const char *kind, const char *verb, const char *other,
                 json_t *request, struct error *err)
{
    json_t *document;
    int rc = get(call, &document, err);
    if (rc < 0) {
        json_decref(request);
        return rc;
    }
    (void)json_object_set_new(request, "name", json_string(call->words[0]));
    (void)json_object_set(request, "document", document);
    rc = request_begin(call, kind, verb, call->words[0], other, document, request, err);
    json_decref(document);
    return rc;
}

static int delete_instance(struct api_call *call, struct error *err)
{
    return begin(call, "instance-delete", "deleting", NULL,
                 json_pack("{s:b}", "force", is_asked(call, "force")), err);
}

static int act(struct api_call *call, struct error *err)
{
    static const char *const actions[][2] = {{"start", "starting"},
                                             {"stop", "stopping"},
                                             {"restart", "restarting"},
                                             {"pause", "pausing"},
                                             {"resume", "resuming"}};
    const char *action = text_of(call->body, "action");
    const json_t *timeout = json_object_get(call->body, "timeout_s");
    for (size_t i = 0; i < ARRAY_COUNT(actions); i++) {
        if (action == NULL || strcmp(action, actions[i][0]) != 0) {
            continue;
        }
        json_t *request = json_pack("{s:s, s:b}", "action", action, "force",
                                    json_is_true(json_object_get(call->body, "force")));
        if (timeout != NULL) {
            (void)json_object_set(request, "timeout_s", (json_t *)timeout);
        }
        return begin(call, "instance-action", actions[i][1], NULL, request, err);
    }
    return error_set(err, EINVAL, "action '%.40s': start, stop, restart, pause or resume",
                     action != NULL ? action : "");
}

static int list_snapshots(struct api_call *call, struct error *err)
{
    json_t *document, *item;
    size_t i;
    int rc = get(call, &document, err);
    if (rc < 0) {
        return rc;
    }
    const char *current = text_of(document, "snapshot");
    call->answer = json_array();
    json_array_foreach(json_object_get(document, "snapshots"), i, item)
    {
        json_t *row = json_copy(item);
        bool is_current = current != NULL && strcmp(current, text_of(item, "name")) == 0;
        (void)json_object_set_new(row, "current", json_boolean(is_current));
        (void)json_array_append_new(call->answer, row);
    }
    json_decref(document);
    return 0;
}

static int create_snapshot(struct api_call *call, struct error *err)
{
    char made[32];
    const char *name = text_of(call->body, "name");
    if (name == NULL) {
        struct tm parts;
        time_t now = time(NULL);
        (void)gmtime_r(&now, &parts);
        (void)strftime(made, sizeof(made), "snap-%Y%m%d-%H%M%S", &parts);
        name = made;
    }
    int rc = store_check_name("snapshot", name, err);
    return rc < 0 ? rc
                  : begin(call, "instance-snapshot", "making a snapshot of", NULL,
                          json_pack("{s:s, s:s, s:b}", "snapshot", name, "do", "create", "memory",
                                    json_is_true(json_object_get(call->body, "memory"))),
                          err);
}

static int restore_snapshot(struct api_call *call, struct error *err)
{
    return begin(call, "instance-snapshot", "restoring", NULL,
                 json_pack("{s:s, s:s}", "snapshot", call->words[1], "do", "restore"), err);
}

static int delete_snapshot(struct api_call *call, struct error *err)
{
    return begin(call, "instance-snapshot", "deleting a snapshot of", NULL,
                 json_pack("{s:s, s:s}", "snapshot", call->words[1], "do", "delete"), err);
}

static int clone_instance(struct api_call *call, struct error *err)
{
    const char *name = text_of(call->body, "name");
    const char *snapshot = text_of(call->body, "snapshot");
    int rc = name == NULL ? error_set(err, EINVAL, "name: missing")
                          : place_check_instance_name(name, err);
    if (rc == 0 && documents_has(call->manager->documents, "instance", name)) {
        rc = error_set(err, EEXIST, "instance %s exists already", name);
    }
    return rc < 0 ? rc
                  : begin(call, "instance-clone", "cloning", name,
                          json_pack("{s:s, s:s*, s:b}", "new_name", name, "snapshot", snapshot,
                                    "live", json_is_true(json_object_get(call->body, "live"))),
                          err);
}

/* The last lines of a text; returns where they begin. */
static const char *last_lines(const char *text, size_t size, uint64_t lines)
{
    const char *at = text + size;
    uint64_t found = 0;
    while (at > text && (found < lines || at[-1] != '\n')) {
        at--;
        found += at > text && at[-1] == '\n';
    }
    return at;
}

static int get_logs(struct api_call *call, struct error *err)
{
    json_t *document;
    char path[PATH_MAX];
    uint64_t lines = DEFAULT_LINES;
    const char *asked = text_of(call->query, "lines");
    int rc = asked != NULL ? number_parse(asked, 1, 1000000, &lines, err) : 0;
    rc = rc < 0 ? error_prefix(err, rc, "lines") : get(call, &document, err);
    if (rc < 0) {
        return rc;
    }
    bool is_container = instance_driver(document) == &container_driver;
    json_decref(document);
    place_state_path(&call->manager->place, is_container ? "containers" : "instances",
                     call->words[0], is_container ? "console.log" : "logs/console.log", path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat st;
    AUTO_FREE char *text = malloc(MAX_LOG + 1);
    if (text == NULL) {
        return error_set(err, ENOMEM, "no memory for a log");
    }
    off_t from = fd >= 0 && fstat(fd, &st) == 0 && st.st_size > MAX_LOG ? st.st_size - MAX_LOG : 0;
    ssize_t size = fd >= 0 ? pread(fd, text, MAX_LOG, from) : 0;
    text[size > 0 ? size : 0] = '\0';
    call->text = strdup(last_lines(text, strlen(text), lines));
    return call->text != NULL ? 0 : error_set(err, ENOMEM, "no memory for a log");
}

/* 'what' is what the path says; the rest comes as JSON in the query. */
static int open_session(struct api_call *call, const char *what, struct error *err)
{
    json_t *document, *profiles, *expanded = NULL;
    const char *text = text_of(call->query, "request");
    json_t *request = text != NULL ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : json_object();
    if (!json_is_object(request)) {
        json_decref(request);
        return error_set(err, EINVAL, "request: an object of JSON, percent-encoded");
    }
    (void)json_object_set_new(request, "do", json_string(what));
    int rc = get(call, &document, err);
    if (rc < 0) {
        json_decref(request);
        return rc;
    }
    rc = request_related(call->manager->documents, "profile", &profiles, err);
    if (rc == 0) {
        rc = instance_expand(document, profiles, &expanded, err);
        json_decref(profiles);
    }
    const char *device = text_of(request, "device");
    if (rc == 0 && device != NULL &&
        !instance_is_device(json_object_get(json_object_get(expanded, "devices"), device),
                            "serial")) {
        rc = error_set(err, ENOENT, "instance %.64s: has no serial port %.60s", call->words[0],
                       device);
    }
    rc = rc < 0 ? rc
                : operation_session(call->manager->operations, expanded, request, &call->session_fd,
                                    err);
    json_decref(expanded);
    json_decref(document);
    json_decref(request);
    return rc;
}

static int open_exec(struct api_call *call, struct error *err)
{
    return open_session(call, "exec", err);
}

static int open_console(struct api_call *call, struct error *err)
{
    return open_session(call, "console", err);
}

static int open_push(struct api_call *call, struct error *err)
{
    return open_session(call, "push", err);
}

static int open_pull(struct api_call *call, struct error *err)
{
    return open_session(call, "pull", err);
}

static int open_logs(struct api_call *call, struct error *err)
{
    return open_session(call, "logs", err);
}

static int get_schema(struct api_call *call, struct error *err)
{
    call->answer = instance_schema();
    return 0;
}

static const struct api_query list_query[] = {
    {"full", "1: with documents and usage, as getInstance has them"}, {0}};
static const struct api_query delete_query[] = {{"force", "1: also one that runs"}, {0}};
static const struct api_query logs_query[] = {{"lines", "how many at most (default: 1000)"}, {0}};
static const struct api_query session_query[] = {
    {"request",
     "an object of JSON: of exec command, environment, cwd, user, terminal, columns and "
     "rows; of console device (a serial port; else the console); of push and pull path; of logs "
     "follow"},
    {0}};

const struct api_route instance_routes[] = {
    {"GET", "/v1/instances", "listInstances", "All instances", API_PLAIN, NULL, "[InstanceListed]",
     list_query, list_instances},
    {"POST", "/v1/instances", "createInstance", "Makes an instance, or many", API_OPERATION,
     "InstanceCreate", NULL, NULL, create_instance},
    {"GET", "/v1/instances/{name}", "getInstance", "An instance, and what it is now", API_PLAIN,
     NULL, "Instance", NULL, get_instance},
    {"PATCH", "/v1/instances/{name}", "patchInstance",
     "Changes some of an instance's configuration (RFC 7396: null takes away)", API_OPERATION,
     "InstancePatch", NULL, NULL, patch_instance},
    {"PUT", "/v1/instances/{name}", "putInstance", "Replaces an instance's configuration",
     API_OPERATION, "InstancePut", NULL, NULL, put_instance},
    {"DELETE", "/v1/instances/{name}", "deleteInstance", "Deletes an instance and its snapshots",
     API_OPERATION, NULL, NULL, delete_query, delete_instance},
    {"POST", "/v1/instances/{name}/actions", "actOnInstance",
     "Starts, stops, restarts, pauses or resumes an instance", API_OPERATION, "InstanceAction",
     NULL, NULL, act},
    {"GET", "/v1/instances/{name}/snapshots", "listSnapshots", "An instance's snapshots", API_PLAIN,
     NULL, "[Snapshot]", NULL, list_snapshots},
    {"POST", "/v1/instances/{name}/snapshots", "createSnapshot", "Makes a snapshot", API_OPERATION,
     "SnapshotCreate", NULL, NULL, create_snapshot},
    {"DELETE", "/v1/instances/{name}/snapshots/{snapshot}", "deleteSnapshot", "Deletes a snapshot",
     API_OPERATION, NULL, NULL, NULL, delete_snapshot},
    {"POST", "/v1/instances/{name}/snapshots/{snapshot}/restore", "restoreSnapshot",
     "Goes back to a snapshot", API_OPERATION, NULL, NULL, NULL, restore_snapshot},
    {"POST", "/v1/instances/{name}/clone", "cloneInstance",
     "Makes another instance of this one, or of a snapshot", API_OPERATION, "InstanceClone", NULL,
     NULL, clone_instance},
    {"GET", "/v1/instances/{name}/logs", "getInstanceLogs", "What its console has shown", API_TEXT,
     NULL, NULL, logs_query, get_logs},
    {"GET", "/v1/instances/{name}/logs/follow", "followInstanceLogs",
     "What its console has shown, and what it shows", API_SESSION, NULL, NULL, session_query,
     open_logs},
    {"GET", "/v1/instances/{name}/exec", "execInInstance", "Runs a program in it", API_SESSION,
     NULL, NULL, session_query, open_exec},
    {"GET", "/v1/instances/{name}/console", "openConsole", "Its console", API_SESSION, NULL, NULL,
     session_query, open_console},
    {"GET", "/v1/instances/{name}/push", "pushFiles", "Unpacks a tar stream in it", API_SESSION,
     NULL, NULL, session_query, open_push},
    {"GET", "/v1/instances/{name}/pull", "pullFiles", "Packs a file or folder of it as tar",
     API_SESSION, NULL, NULL, session_query, open_pull},
    {"GET", "/v1/schemas/instance", "getInstanceSchema",
     "The JSON Schema of an instance's document, with all keys", API_PLAIN, NULL, NULL, NULL,
     get_schema},
    {0},
};

#define CONFIGURATION                                                                              \
    "\"description\":{\"type\":\"string\"},"                                                       \
    "\"profiles\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}},"                           \
    "\"config\":{\"type\":\"object\",\"description\":\"see /v1/schemas/instance\"},"               \
    "\"devices\":{\"type\":\"object\",\"additionalProperties\":{\"type\":\"object\"}}"

const struct api_schema instance_schemas[] = {
    {"InstanceSummary",
     "{\"type\":\"object\",\"properties\":{"
     "\"name\":{\"type\":\"string\"},\"kind\":{\"enum\":[\"container\",\"vm\"]},"
     "\"status\":{\"enum\":[\"stopped\",\"starting\",\"running\",\"paused\",\"error\"]},"
     "\"status_why\":{\"type\":\"string\"},\"operation\":{\"type\":\"string\"},"
     "\"image\":{\"type\":[\"string\",\"null\"]},"
     "\"ipv4\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}},"
     "\"ipv6\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}},"
     "\"cpus\":{\"type\":[\"number\",\"null\"]},\"memory_bytes\":{\"type\":[\"integer\",\"null\"]},"
     "\"node\":{\"type\":\"string\"},\"created_at\":{\"type\":\"string\"}}}"},
    {"InstanceListed", "{\"anyOf\":[{\"$ref\":\"#/components/schemas/InstanceSummary\"},"
                       "{\"$ref\":\"#/components/schemas/Instance\"}]}"},
    {"Instance",
     "{\"type\":\"object\",\"description\":\"its document (see /v1/schemas/instance), with what it "
     "is now\",\"properties\":{\"name\":{\"type\":\"string\"},"
     "\"kind\":{\"enum\":[\"container\",\"vm\"]},"
     "\"uuid\":{\"type\":\"string\"},\"image\":{\"type\":\"string\"},"
     "\"image_digest\":{\"type\":\"string\"}," CONFIGURATION ","
     "\"snapshots\":{\"type\":\"array\",\"items\":{\"type\":\"object\"}},"
     "\"snapshot\":{\"type\":\"string\",\"description\":\"the last one that it was made or restored "
     "from\"},"
     "\"created_at\":{\"type\":\"string\"},"
     "\"incomplete\":{\"type\":\"boolean\",\"description\":\"it is being made, or its making "
     "failed\"},\"node\":{\"type\":\"string\"},"
     "\"expanded\":{\"type\":\"object\",\"description\":\"config and devices with the profiles "
     "folded in\"},\"status\":{\"type\":\"string\"},\"status_why\":{\"type\":\"string\"},"
     "\"operation\":{\"type\":\"string\"},\"info\":{\"type\":\"object\"}}}"},
    {"InstanceCreate",
     "{\"type\":\"object\",\"required\":[\"image\"],\"additionalProperties\":false,"
     "\"properties\":{\"name\":{\"type\":\"string\"},\"kind\":{\"enum\":[\"container\",\"vm\"]},"
     "\"image\":{\"type\":\"string\"}," CONFIGURATION ","
     "\"start\":{\"type\":\"boolean\"},\"count\":{\"type\":\"integer\",\"minimum\":1},"
     "\"ip_start\":{\"type\":\"string\"}}}"},
    {"InstancePatch",
     "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{"
     "\"description\":{\"type\":[\"string\",\"null\"]},"
     "\"profiles\":{\"type\":[\"array\",\"null\"],\"items\":{\"type\":\"string\"}},"
     "\"config\":{\"type\":[\"object\",\"null\"]},"
     "\"devices\":{\"type\":[\"object\",\"null\"]}}}"},
    {"InstancePut",
     "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{" CONFIGURATION "}}"},
    {"InstanceAction",
     "{\"type\":\"object\",\"required\":[\"action\"],\"additionalProperties\":false,"
     "\"properties\":{\"action\":{\"enum\":[\"start\",\"stop\",\"restart\",\"pause\",\"resume\"]},"
     "\"force\":{\"type\":\"boolean\"},\"timeout_s\":{\"type\":\"integer\",\"minimum\":0,"
     "\"maximum\":86400}}}"},
    {"Snapshot", "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},"
                 "\"created_at\":{\"type\":\"string\"},\"memory\":{\"type\":\"boolean\"},"
                 "\"parent\":{\"type\":\"string\"},\"automatic\":{\"type\":\"boolean\"},"
                 "\"current\":{\"type\":\"boolean\"}}}"},
    {"SnapshotCreate", "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{"
                       "\"name\":{\"type\":\"string\"},\"memory\":{\"type\":\"boolean\"}}}"},
    {"InstanceClone",
     "{\"type\":\"object\",\"required\":[\"name\"],\"additionalProperties\":false,"
     "\"properties\":{\"name\":{\"type\":\"string\"},\"snapshot\":{\"type\":\"string\"},"
     "\"live\":{\"type\":\"boolean\"}}}"},
    {0},
};
