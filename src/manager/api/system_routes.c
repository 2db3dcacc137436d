/* What is no room's: the host, operations, events, figures, profiles, and the description of it all. */
#include <string.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/host/file.h"
#include "manager/api/api.h"
#include "manager/api/metrics.h"
#include "manager/api/profiles.h"

static json_t *host_facts(const struct manager *manager)
{
    struct utsname names = {0};
    struct sysinfo memory = {0};
    struct statvfs disk = {0};
    (void)uname(&names); /* cannot fail */
    (void)sysinfo(&memory);
    (void)statvfs(manager->place.state, &disk); /* zeros where it fails */
    json_int_t unit = memory.mem_unit;
    return json_pack("{s:s, s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:b}", "hostname",
                     names.nodename, "kernel", names.release, "architecture", names.machine, "cpus",
                     (int)sysconf(_SC_NPROCESSORS_ONLN), "memory_bytes",
                     (json_int_t)memory.totalram * unit, "free_memory_bytes",
                     (json_int_t)memory.freeram * unit, "uptime_s", (json_int_t)memory.uptime,
                     "disk_bytes", (json_int_t)disk.f_blocks * (json_int_t)disk.f_frsize,
                     "free_disk_bytes", (json_int_t)disk.f_bavail * (json_int_t)disk.f_frsize,
                     "has_kvm", access("/dev/kvm", R_OK | W_OK) == 0);
}

static int get_system(struct api_call *call, struct error *err)
{
    static const struct {
        const char *kind, *member;
    } rows[] = {{"instance", "instances"}, {"image", "images"},     {"network", "networks"},
                {"pool", "pools"},         {"profile", "profiles"}, {"volume", "volumes"}};
    const struct manager *manager = call->manager;
    json_t *counts = json_object();
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        json_t *list = NULL;
        int rc = documents_list(manager->documents, rows[i].kind, &list, err);
        if (rc < 0) {
            json_decref(counts);
            return rc;
        }
        (void)json_object_set_new(counts, rows[i].member,
                                  json_integer((json_int_t)json_array_size(list)));
        json_decref(list);
    }
    call->answer =
        json_pack("{s:s, s:s, s:i, s:b, s:{s:s, s:s, s:s}, s:o, s:o}", "version", HULL_VERSION,
                  "api", "v1", "pid", (int)getpid(), "is_root", manager->place.is_root, "place",
                  "state", manager->place.state, "run", manager->place.run, "cache",
                  manager->place.cache, "host", host_facts(manager), "counts", counts);
    return call->answer != NULL ? 0 : error_set_errno(err, ENOMEM, "system");
}

static int get_openapi(struct api_call *call, struct error *err)
{
    call->answer = api_openapi();
    return call->answer != NULL ? 0 : error_set_errno(err, ENOMEM, "the API's description");
}

static int get_metrics(struct api_call *call, struct error *err)
{
    return metrics_write(call->manager, &call->text, err);
}

static int get_operations(struct api_call *call, struct error *err)
{
    return operations_list(call->manager->operations, &call->answer, err);
}

/* The operation itself is the answer, and may be waited for. */
static int get_operation(struct api_call *call, struct error *err)
{
    if (strlen(call->words[0]) >= OPERATION_ID_SIZE) {
        return error_set(err, ENOENT, "operation %.64s: there is none", call->words[0]);
    }
    json_t *operation = NULL;
    int rc = operations_get(call->manager->operations, call->words[0], &operation, err);
    if (rc < 0) {
        return rc;
    }
    json_decref(operation);
    strcpy(call->operation, call->words[0]);
    call->status = 200;
    return 0;
}

static int cancel_operation(struct api_call *call, struct error *err)
{
    int rc = get_operation(call, err);
    if (rc == 0) {
        call->status = 0;
        rc = operations_cancel(call->manager->operations, call->operation, err);
    }
    return rc;
}

static const struct api_query event_query[] = {
    {"type", "Only events of these types, divided by commas"},
    {0},
};

const struct api_route system_routes[] = {
    {"GET", "/v1/system", "getSystem", "The manager, its host and what it has", API_PLAIN, NULL,
     "System", NULL, get_system},
    {"GET", "/v1/openapi.json", "getOpenapi", "This description", API_PLAIN, NULL, NULL, NULL,
     get_openapi},
    {"GET", "/v1/metrics", "getMetrics", "Figures for Prometheus", API_TEXT, NULL, NULL, NULL,
     get_metrics},
    {"GET", "/v1/events", "listenEvents", "Events as they happen", API_EVENTS, NULL, NULL,
     event_query, NULL},
    {"GET", "/v1/operations", "listOperations",
     "The operations under way, and those of the last day", API_PLAIN, NULL, "[Operation]", NULL,
     get_operations},
    {"GET", "/v1/operations/{id}", "getOperation", "One operation", API_OPERATION, NULL,
     "Operation", NULL, get_operation},
    {"DELETE", "/v1/operations/{id}", "cancelOperation", "Cancels an operation", API_OPERATION,
     NULL, "Operation", NULL, cancel_operation},
    {"GET", "/v1/profiles", "listProfiles", "All profiles", API_PLAIN, NULL, "[Profile]", NULL,
     profiles_list},
    {"POST", "/v1/profiles", "createProfile", "Makes a profile", API_PLAIN, "ProfileCreate",
     "Profile", NULL, profiles_create},
    {"GET", "/v1/profiles/{name}", "getProfile", "One profile", API_PLAIN, NULL, "Profile", NULL,
     profiles_get},
    {"PUT", "/v1/profiles/{name}", "putProfile", "Replaces a profile", API_PLAIN, "ProfilePut",
     "Profile", NULL, profiles_put},
    {"DELETE", "/v1/profiles/{name}", "deleteProfile", "Deletes a profile that nobody has",
     API_PLAIN, NULL, NULL, NULL, profiles_delete},
    {0},
};

/* Values are texts; what is given as a number or a truth value becomes one. */
#define VALUE "{\"type\":[\"string\",\"number\",\"boolean\",\"array\"]}"
#define PROFILE_MEMBERS                                                                            \
    "\"description\":{\"type\":\"string\",\"maxLength\":4096},"                                    \
    "\"config\":{\"type\":\"object\",\"additionalProperties\":" VALUE "},"                         \
    "\"devices\":{\"type\":\"object\",\"additionalProperties\":{\"type\":\"object\","              \
    "\"required\":[\"type\"],\"additionalProperties\":" VALUE "}},"                                \
    "\"created_at\":{\"type\":\"string\",\"format\":\"date-time\"}"

const struct api_schema system_schemas[] = {
    {"Error", "{\"type\":\"object\",\"required\":[\"error\"],\"properties\":{\"error\":{"
              "\"type\":\"object\",\"required\":[\"code\",\"message\"],\"properties\":{"
              "\"code\":{\"type\":\"string\"},\"message\":{\"type\":\"string\"}}}}}"},
    {"Event", "{\"type\":\"object\",\"required\":[\"type\",\"time\"],\"properties\":{"
              "\"type\":{\"type\":\"string\"},"
              "\"time\":{\"type\":\"string\",\"format\":\"date-time\"}}}"},
    {"Operation",
     "{\"type\":\"object\",\"required\":[\"name\",\"kind\",\"description\",\"status\"],"
     "\"properties\":{\"name\":{\"type\":\"string\"},\"kind\":{\"type\":\"string\"},"
     "\"description\":{\"type\":\"string\"},\"status\":{\"enum\":[\"waiting\",\"running\","
     "\"done\",\"failed\",\"cancelled\"]},\"resources\":{\"type\":\"array\","
     "\"items\":{\"type\":\"string\"}},\"progress\":{\"type\":[\"object\",\"null\"],\"properties\":{"
     "\"text\":{\"type\":\"string\"},\"done\":{\"type\":\"integer\"},"
     "\"total\":{\"type\":\"integer\"}}},\"result\":{},"
     "\"error\":{\"type\":[\"object\",\"null\"]},\"created_at\":{\"type\":\"string\"},"
     "\"started_at\":{\"type\":[\"string\",\"null\"]},\"ended_at\":{\"type\":[\"string\",\"null\"]},"
     "\"request\":{}}}"},
    {"Profile", "{\"type\":\"object\",\"required\":[\"name\",\"config\",\"devices\"],"
                "\"properties\":{\"name\":{\"type\":\"string\"}," PROFILE_MEMBERS "}}"},
    {"ProfileCreate", "{\"type\":\"object\",\"required\":[\"name\"],\"additionalProperties\":false,"
                      "\"properties\":{\"name\":{\"type\":\"string\"}," PROFILE_MEMBERS "}}"},
    {"ProfilePut", "{\"type\":\"object\",\"additionalProperties\":false,"
                   "\"properties\":{\"name\":{\"type\":\"string\"}," PROFILE_MEMBERS "}}"},
    {"System",
     "{\"type\":\"object\",\"required\":[\"version\",\"api\",\"host\",\"counts\"],\"properties\":{"
     "\"version\":{\"type\":\"string\"},\"api\":{\"type\":\"string\"},"
     "\"pid\":{\"type\":\"integer\"},\"is_root\":{\"type\":\"boolean\"},"
     "\"place\":{\"type\":\"object\",\"additionalProperties\":{\"type\":\"string\"}},"
     "\"host\":{\"type\":\"object\"},"
     "\"counts\":{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}}}"},
    {0},
};
