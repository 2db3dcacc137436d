/* What a container uses, in the words of "runc events --stats". */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/cgroup/stats.h"
#include "container/cgroup/tree.h"

/* Numbers beyond what JSON's integers hold here (v2's "max", v1's page counter) are cut to the largest. */
json_t *stats_number(uint64_t value)
{
    return json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value);
}

void stats_add(json_t *object, const char *name, uint64_t value)
{
    (void)json_object_set_new(object, name, stats_number(value));
}

void stats_add_some(json_t *object, const char *name, uint64_t value)
{
    if (value != 0) {
        stats_add(object, name, value);
    }
}

uint64_t stats_read(int group_fd, const char *file)
{
    uint64_t value;
    return control_read_u64(group_fd, file, &value) < 0 ? 0 : value;
}

void stats_each_line(int group_fd, const char *file, void (*fn)(const char *line, void *ctx),
                     void *ctx)
{
    AUTO_FREE char *text = control_read_all(group_fd, file);
    char *rest = NULL;
    for (char *line = text == NULL ? NULL : strtok_r(text, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        fn(line, ctx);
    }
}

static void add_raw(const char *line, void *ctx)
{
    const char *space = strchr(line, ' ');
    char name[128];
    if (space != NULL && (size_t)(space - line) < sizeof(name) &&
        isdigit((unsigned char)space[1])) {
        (void)snprintf(name, sizeof(name), "%.*s", (int)(space - line), line);
        stats_add(ctx, name, strtoull(space + 1, NULL, 10));
    }
}

json_t *stats_key_values(int group_fd, const char *file)
{
    json_t *values = json_object();
    stats_each_line(group_fd, file, add_raw, values);
    return values;
}

uint64_t stats_value(const json_t *values, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(values, name));
}

/* "some avg10=0.00 avg60=0.00 avg300=0.00 total=0" */
static void add_pressure(const char *line, void *ctx)
{
    char kind[8];
    double avg10, avg60, avg300;
    uint64_t total;
    if (sscanf(line, "%7s avg10=%lf avg60=%lf avg300=%lf total=%" SCNu64, kind, &avg10, &avg60,
               &avg300, &total) == 5) {
        (void)json_object_set_new(ctx, kind,
                                  json_pack("{s:f, s:f, s:f, s:o}", "avg10", avg10, "avg60", avg60,
                                            "avg300", avg300, "total", stats_number(total)));
    }
}

void stats_add_pressure(json_t *object, int group_fd, const char *file)
{
    json_t *pressure = json_object();
    stats_each_line(group_fd, file, add_pressure, pressure);
    if (json_object_size(pressure) == 2) {
        (void)json_object_set_new(object, "psi", pressure);
    } else {
        json_decref(pressure);
    }
}

/* "0-3,7" */
static json_t *parse_list(const char *text)
{
    json_t *numbers = json_array();
    while (isdigit((unsigned char)*text)) {
        char *end;
        unsigned long first = strtoul(text, &end, 10), last = first;
        if (*end == '-') {
            last = strtoul(end + 1, &end, 10);
        }
        for (unsigned long i = first; i <= last && i <= UINT16_MAX; i++) {
            (void)json_array_append_new(numbers, json_integer((json_int_t)i));
        }
        text = end + (*end == ',');
    }
    return numbers;
}

void stats_add_list(json_t *object, const char *name, int group_fd, const char *file)
{
    char text[4096];
    json_t *numbers = parse_list(control_read(group_fd, file, text, sizeof(text)) < 0 ? "" : text);
    if (json_array_size(numbers) > 0) {
        (void)json_object_set_new(object, name, numbers);
    } else {
        json_decref(numbers);
    }
}

/* Both versions name the limit's file after the size of the pages. */
void stats_add_hugetlb(json_t *data, int group_fd, bool is_unified)
{
    json_t *sizes = json_object_get(data, "hugetlb");
    static const char *const names[] = {"64KB", "2MB", "32MB", "512MB", "1GB", "16GB"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        char file[64];
        (void)snprintf(file, sizeof(file), "hugetlb.%s.%s", names[i],
                       is_unified ? "current" : "usage_in_bytes");
        uint64_t usage;
        if (control_read_u64(group_fd, file, &usage) < 0) {
            continue;
        }
        json_t *size = json_object();
        stats_add_some(size, "usage", usage);
        uint64_t failures = 0;
        if (is_unified) {
            (void)snprintf(file, sizeof(file), "hugetlb.%s.events", names[i]);
            (void)control_read_key(group_fd, file, "max", &failures);
        } else {
            (void)snprintf(file, sizeof(file), "hugetlb.%s.max_usage_in_bytes", names[i]);
            stats_add_some(size, "max", stats_read(group_fd, file));
            (void)snprintf(file, sizeof(file), "hugetlb.%s.failcnt", names[i]);
            failures = stats_read(group_fd, file);
        }
        stats_add(size, "failcnt", failures);
        (void)json_object_set_new(sizes, names[i], size);
    }
}

void stats_add_pids(json_t *data, int group_fd)
{
    json_t *pids = json_object_get(data, "pids");
    uint64_t limit = stats_read(group_fd, "pids.max");
    stats_add_some(pids, "current", stats_read(group_fd, "pids.current"));
    stats_add_some(pids, "limit", limit == UINT64_MAX ? 0 : limit);
}

static json_t *empty_data(void)
{
    return json_pack(
        "{s:{s:{s:i, s:i}, s:{}}, s:{}, s:{s:{}, s:{}, s:{}, s:{}, s:{}}, s:{}, s:{}, s:{}, s:{}, "
        "s:n}",
        "cpu", "usage", "kernel", 0, "user", 0, "throttling", "cpuset", "memory", "usage", "swap",
        "kernel", "kernelTCP", "raw", "pids", "blkio", "hugetlb", "intel_rdt",
        "network_interfaces");
}

json_t *cgroup_stats(const struct cgroup *cgroup)
{
    json_t *data = empty_data();
    for (size_t i = 0; i < cgroup->count && !cgroup->is_planned; i++) {
        const struct cgroup_place *place = &cgroup->place[i];
        AUTO_HANDLE int group_fd = place_open_group(place);
        if (group_fd < 0) {
            continue;
        }
        if (place->is_unified) {
            stats_add_v2(data, cgroup, group_fd);
        } else {
            stats_add_v1(data, place, group_fd);
        }
    }
    return data;
}
