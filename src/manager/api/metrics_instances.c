/* What instances count. */
#include <stdio.h>
#include <stdlib.h>

#include "base/host/file.h"
#include "manager/api/metrics.h"
#include "manager/instance/requests.h"

/* A label's value: quoted, with escapes. */
static void label(FILE *out, const char *name, const char *value)
{
    fprintf(out, "%s=\"", name);
    for (; value != NULL && *value != '\0'; value++) {
        if (*value == '\\' || *value == '"') {
            fputc('\\', out);
        }
        if (*value == '\n') {
            fputs("\\n", out);
        } else {
            fputc(*value, out);
        }
    }
    fputc('"', out);
}

/* What each instance tells of itself, and as what it is shown. */
static const struct {
    const char *member, *name, *type, *help;
    double scale;
} instance_rows[] = {
    {"memory_used_bytes", "hull_instance_memory_used_bytes", "gauge", "Memory in use.", 1},
    {"disk_used_bytes", "hull_instance_disk_used_bytes", "gauge", "Bytes on the host's disk.", 1},
    {"cpu_time_ns", "hull_instance_cpu_seconds_total", "counter", "Time on CPUs.", 1e-9},
    {"processes", "hull_instance_processes", "gauge", "Processes inside.", 1},
};
/* The same of each of its network interfaces and disks. */
static const struct {
    const char *list, *member, *name, *help;
} device_rows[] = {
    {"network", "received_bytes", "hull_instance_network_received_bytes_total", "Bytes received."},
    {"network", "sent_bytes", "hull_instance_network_sent_bytes_total", "Bytes sent."},
    {"disk", "read_bytes", "hull_instance_disk_read_bytes_total", "Bytes read."},
    {"disk", "written_bytes", "hull_instance_disk_written_bytes_total", "Bytes written."},
};

struct seen {
    const char *name, *kind;
    enum instance_status status;
    json_t *info; /* NULL: it tells nothing */
};

static void labels(FILE *out, const struct seen *instance)
{
    fputc('{', out);
    label(out, "name", instance->name);
    fputc(',', out);
    label(out, "kind", instance->kind);
}

static void head(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void show_status(FILE *out, const struct seen *seen, size_t count)
{
    head(out, "hull_instance_running", "gauge", "1 as long as it runs.");
    for (size_t i = 0; i < count; i++) {
        fputs("hull_instance_running", out);
        labels(out, &seen[i]);
        fprintf(out, "} %d\n", seen[i].status == INSTANCE_RUNNING);
    }
}

static void show_figures(FILE *out, const struct seen *seen, size_t count)
{
    for (size_t row = 0; row < ARRAY_COUNT(instance_rows); row++) {
        head(out, instance_rows[row].name, instance_rows[row].type, instance_rows[row].help);
        for (size_t i = 0; i < count; i++) {
            const json_t *value = json_object_get(seen[i].info, instance_rows[row].member);
            if (json_is_number(value)) {
                fputs(instance_rows[row].name, out);
                labels(out, &seen[i]);
                fprintf(out, "} %.15g\n", json_number_value(value) * instance_rows[row].scale);
            }
        }
    }
}

static void show_devices(FILE *out, const struct seen *seen, size_t count)
{
    for (size_t row = 0; row < ARRAY_COUNT(device_rows); row++) {
        head(out, device_rows[row].name, "counter", device_rows[row].help);
        for (size_t i = 0; i < count; i++) {
            size_t k;
            const json_t *device;
            json_array_foreach(json_object_get(seen[i].info, device_rows[row].list), k, device)
            {
                const json_t *value = json_object_get(device, device_rows[row].member);
                if (json_is_integer(value)) {
                    fputs(device_rows[row].name, out);
                    labels(out, &seen[i]);
                    fputc(',', out);
                    label(out, "device", json_string_value(json_object_get(device, "name")));
                    fprintf(out, "} %lld\n", (long long)json_integer_value(value));
                }
            }
        }
    }
}

static void look_at(struct manager *manager, const json_t *document, const json_t *profiles,
                    struct seen *out_seen)
{
    const struct instance_driver *driver = instance_driver(document);
    char why[ERROR_TEXT_SIZE];
    json_t *expanded = NULL;
    out_seen->name = json_string_value(json_object_get(document, "name"));
    out_seen->kind = driver->kind;
    out_seen->status = driver->status(&manager->place, out_seen->name, why, sizeof(why));
    bool has_figures = out_seen->status == INSTANCE_RUNNING || out_seen->status == INSTANCE_PAUSED;
    if (has_figures && instance_expand(document, profiles, &expanded, NULL) == 0) {
        /* What one does not tell is left out. */
        error_ignore(driver->info(&manager->place, expanded, &out_seen->info, NULL));
        json_decref(expanded);
    }
}

void metrics_write_instances(struct manager *manager, FILE *out)
{
    json_t *list = NULL, *profiles = NULL;
    if (documents_list(manager->documents, "instance", &list, NULL) < 0) {
        return;
    }
    size_t count = json_array_size(list), i;
    struct seen *seen = calloc(count + 1, sizeof(*seen));
    if (seen != NULL && request_related(manager->documents, "profile", &profiles, NULL) == 0) {
        const json_t *document;
        json_array_foreach(list, i, document)
        {
            look_at(manager, document, profiles, &seen[i]);
        }
        show_status(out, seen, count);
        show_figures(out, seen, count);
        show_devices(out, seen, count);
        for (i = 0; i < count; i++) {
            json_decref(seen[i].info);
        }
    }
    free(seen);
    json_decref(profiles);
    json_decref(list);
}
