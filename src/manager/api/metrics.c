#include "manager/api/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"
#include "manager/api/api.h"

static void head(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void number(FILE *out, const char *name, const char *type, const char *help, uint64_t value)
{
    head(out, name, type, help);
    fprintf(out, "%s %" PRIu64 "\n", name, value);
}

static uint64_t resident_bytes(void)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file == NULL) {
        return 0;
    }
    bool is_read = fscanf(file, "%*u %lu", &pages) == 1;
    fclose(file);
    return is_read ? (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static void count_objects(FILE *out, struct manager *manager)
{
    static const char *const kinds[] = {"instance", "image",   "network",
                                        "pool",     "profile", "volume"};
    head(out, "hull_objects", "gauge", "Objects by kind.");
    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        json_t *list = NULL;
        if (documents_list(manager->documents, kinds[i], &list, NULL) == 0) {
            fprintf(out, "hull_objects{kind=\"%s\"} %zu\n", kinds[i], json_array_size(list));
            json_decref(list);
        }
    }
}

static void count_operations(FILE *out, struct manager *manager)
{
    static const char *const states[] = {"waiting", "running", "done", "failed", "cancelled"};
    unsigned counts[ARRAY_COUNT(states)] = {0};
    json_t *list = NULL;
    if (operations_list(manager->operations, &list, NULL) < 0) {
        return;
    }
    size_t i;
    const json_t *one;
    json_array_foreach(list, i, one)
    {
        const char *status = json_string_value(json_object_get(one, "status"));
        for (size_t k = 0; k < ARRAY_COUNT(states); k++) {
            counts[k] += status != NULL && strcmp(status, states[k]) == 0;
        }
    }
    json_decref(list);
    head(out, "hull_operations", "gauge", "Operations that are known, by status.");
    for (size_t k = 0; k < ARRAY_COUNT(states); k++) {
        fprintf(out, "hull_operations{status=\"%s\"} %u\n", states[k], counts[k]);
    }
}

int metrics_write(struct manager *manager, char **out_text, struct error *err)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL) {
        return error_set_errno(err, ENOMEM, "metrics");
    }
    struct api_counters counters = {0};
    api_server_counters(manager->server, &counters);
    head(out, "hull_info", "gauge", "The manager's version.");
    fprintf(out, "hull_info{version=\"%s\"} 1\n", HULL_VERSION);
    number(out, "hull_resident_memory_bytes", "gauge", "Memory of hulld.", resident_bytes());
    number(out, "hull_api_requests_total", "counter", "Requests to the API.", counters.requests);
    number(out, "hull_api_failures_total", "counter", "Requests that hulld could not serve.",
           counters.failures);
    number(out, "hull_api_refused_connections_total", "counter", "Connections too many.",
           counters.refused);
    number(out, "hull_api_connections", "gauge", "Connections.", counters.connections);
    number(out, "hull_api_listeners", "gauge", "WebSockets of events.", counters.listeners);
    number(out, "hull_api_sessions", "gauge", "WebSockets of sessions.", counters.sessions);
    count_objects(out, manager);
    count_operations(out, manager);
    metrics_write_instances(manager, out);
    bool failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed) {
        free(text);
        return error_set_errno(err, ENOMEM, "metrics");
    }
    *out_text = text;
    return 0;
}
