/* What a container is and uses at the moment. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "manager/instance/container/container.h"
#include "manager/network/network.h"
#include "system/life/document.h"

/* How long a list may show what others than hulld have changed, as a pause. */
#define KEEP_NS UINT64_C(5000000000)

enum instance_status container_status(const struct place *place, const char *name, char *why,
                                      size_t why_size)
{
    struct life life;
    struct error err;
    char path[PATH_MAX];
    if (container_open(place, NULL, &life, &err) < 0) {
        (void)snprintf(why, why_size, "%s", err.text);
        return INSTANCE_ERROR;
    }
    switch (life_status(&life, name)) {
    case LIFE_RUNNING:
        return INSTANCE_RUNNING;
    case LIFE_PAUSED:
        return INSTANCE_PAUSED;
    case LIFE_STARTING:
        return INSTANCE_STARTING;
    case LIFE_LOST:
        (void)snprintf(why, why_size, "it runs without its keeper: a forced stop ends it");
        return INSTANCE_ERROR;
    case LIFE_STOPPED:
        break;
    }
    store_container_path(&life.store, name, "config.yaml", path);
    if (access(path, F_OK) < 0) {
        (void)snprintf(why, why_size, "its files are missing");
        return INSTANCE_ERROR;
    }
    return INSTANCE_STOPPED;
}

bool container_has_ended(const struct place *place, const char *name, bool *out_has_failed)
{
    struct life life;
    struct error ignored;
    return container_open(place, NULL, &life, &ignored) == 0 &&
           life_has_ended(&life, name, out_has_failed);
}

/* What was found of one that runs. */
struct seen {
    struct seen *next;
    char name[64];
    enum instance_status status;
    ino_t inode; /* of the runtime's state, which is replaced when it changes */
    struct timespec written;
    uint64_t until_ns;
};
static struct seen *all_seen;

static struct seen *find_seen(const char *name)
{
    struct seen *seen = all_seen;
    while (seen != NULL && strcmp(seen->name, name) != 0) {
        seen = seen->next;
    }
    return seen;
}

void container_status_forget(const char *name)
{
    for (struct seen **at = &all_seen; *at != NULL; at = &(*at)->next) {
        struct seen *seen = *at;
        if (strcmp(seen->name, name) == 0) {
            *at = seen->next;
            free(seen);
            return;
        }
    }
}

enum instance_status container_status_again(const struct place *place, const char *name, char *why,
                                            size_t why_size)
{
    struct life life;
    struct error ignored;
    struct stat st;
    char path[PATH_MAX];
    struct seen *seen = find_seen(name);
    if (container_open(place, NULL, &life, &ignored) < 0) {
        return container_status(place, name, why, why_size);
    }
    (void)snprintf(path, sizeof(path), "%s/%s/state.json", life.oci, name);
    bool is_there = stat(path, &st) == 0;
    if (seen != NULL && is_there && seen->inode == st.st_ino &&
        seen->written.tv_sec == st.st_mtim.tv_sec && seen->written.tv_nsec == st.st_mtim.tv_nsec &&
        clock_monotonic_ns() < seen->until_ns) {
        return seen->status;
    }
    container_status_forget(name);
    enum instance_status status = container_status(place, name, why, why_size);
    bool is_kept = is_there && (status == INSTANCE_RUNNING || status == INSTANCE_PAUSED);
    if (is_kept && (seen = calloc(1, sizeof(*seen))) != NULL) {
        *seen = (struct seen){.next = all_seen,
                              .status = status,
                              .inode = st.st_ino,
                              .written = st.st_mtim,
                              .until_ns = clock_monotonic_ns() + KEEP_NS};
        (void)snprintf(seen->name, sizeof(seen->name), "%s", name);
        all_seen = seen;
    }
    return status;
}

static json_t *read_number(const char *interface, const char *what)
{
    char path[128], text[32] = "";
    (void)snprintf(path, sizeof(path), "/sys/class/net/%s/statistics/%s", interface, what);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    return size > 0 ? json_integer(strtoll(text, NULL, 10)) : NULL;
}

/* A card at a switch has no end on the host: what the container's own side counts. */
static void add_tap(const char *name, json_int_t pid, json_t *list)
{
    char path[64], line[512];
    unsigned long long received, sent;
    (void)snprintf(path, sizeof(path), "/proc/%lld/net/dev", (long long)pid);
    FILE *in = pid > 0 ? fopen(path, "re") : NULL;
    while (in != NULL && fgets(line, sizeof(line), in) != NULL) {
        char *begin = line + strspn(line, " "), *colon = strchr(begin, ':');
        if (colon == NULL || (size_t)(colon - begin) != strlen(name) ||
            memcmp(begin, name, strlen(name)) != 0 ||
            sscanf(colon + 1, "%llu %*u %*u %*u %*u %*u %*u %*u %llu", &received, &sent) != 2) {
            continue;
        }
        (void)json_array_append_new(list, json_pack("{s:s, s:I, s:I}", "name", name,
                                                    "received_bytes", (json_int_t)received,
                                                    "sent_bytes", (json_int_t)sent));
    }
    if (in != NULL) {
        (void)fclose(in); /* it was only read */
    }
}

/* By the host's ends of its cards, which see the other direction. */
static void add_network(const struct life *life, const struct config *config, json_t *info)
{
    json_t *list = json_array();
    for (size_t i = 0; i < config->card_count; i++) {
        char interface[IFNAMSIZ];
        if (config->cards[i].switch_path != NULL) {
            add_tap(config->cards[i].name, json_integer_value(json_object_get(info, "pid")), list);
            continue;
        }
        document_host_name(&life->store, config->name, i, interface);
        json_t *received = read_number(interface, "tx_bytes");
        json_t *sent = read_number(interface, "rx_bytes");
        if (received != NULL && sent != NULL) {
            (void)json_array_append_new(
                list, json_pack("{s:s, s:s, s:O, s:O}", "name", config->cards[i].name, "interface",
                                interface, "received_bytes", received, "sent_bytes", sent));
        }
        json_decref(received);
        json_decref(sent);
    }
    (void)json_object_set_new(info, "network", list);
}

/* Where it has no address of its own, those that its cards were leased. */
static void add_leases(const struct place *place, const json_t *document, json_t *info)
{
    const char *name;
    json_t *device, *address;
    json_object_foreach(json_object_get(document, "devices"), name, device)
    {
        json_t *addresses;
        struct error ignored;
        size_t i;
        const char *mac = json_string_value(json_object_get(device, "mac"));
        if (!instance_is_device(device, "nic") || mac == NULL ||
            network_addresses(place, instance_property(device, "network"), mac, &addresses,
                              &ignored) < 0) {
            continue;
        }
        json_array_foreach(addresses, i, address)
        {
            const char *text = json_string_value(address);
            bool is_v6 = text != NULL && strchr(text, ':') != NULL;
            (void)json_array_append(json_object_get(info, is_v6 ? "ipv6" : "ipv4"), address);
        }
        json_decref(addresses);
    }
}

static void move(json_t *from, const char *key, json_t *to, const char *new_key)
{
    json_t *value = json_object_get(from, key);
    if (value != NULL && !json_is_null(value)) {
        (void)json_object_set(to, new_key, value);
    }
}

/* A process' begin, by its age. */
static void add_started(json_int_t pid, json_t *info)
{
    char path[64], text[1024];
    (void)snprintf(path, sizeof(path), "/proc/%lld/stat", (long long)pid);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    text[size > 0 ? size : 0] = '\0';
    const char *rest = strrchr(text, ')');
    unsigned long long ticks;
    struct timespec boot;
    if (rest == NULL || clock_gettime(CLOCK_BOOTTIME, &boot) < 0 ||
        sscanf(rest,
               ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
               &ticks) != 1) {
        return;
    }
    time_t started =
        time(NULL) - (boot.tv_sec - (time_t)(ticks / (unsigned long)sysconf(_SC_CLK_TCK)));
    struct tm parts;
    (void)gmtime_r(&started, &parts);
    (void)strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
    (void)json_object_set_new(info, "started_at", json_string(text));
}

/* Of what the host could not give that which is no detail of the container's making, in words. */
static void add_warnings(json_t *info)
{
    const json_t *item;
    size_t i;
    json_t *warnings = json_array();
    json_array_foreach(json_object_get(info, "degraded"), i, item)
    {
        const char *field = json_string_value(json_object_get(item, "field"));
        if (field != NULL && strncmp(field, "system.", 7) == 0) {
            (void)json_array_append(warnings, json_object_get(item, "reason"));
        }
    }
    if (json_array_size(warnings) != 0) {
        (void)json_object_set(info, "warnings", warnings);
    }
    json_decref(warnings);
}

int container_info(const struct place *place, const json_t *document, json_t **out_info,
                   struct error *err)
{
    struct life life;
    struct config *config;
    json_t *known;
    struct error ignored;
    const char *name = json_string_value(json_object_get(document, "name"));
    int rc = container_open(place, NULL, &life, err);
    rc = rc < 0 ? rc : life_info(&life, name, &known, err);
    if (rc < 0) {
        return rc;
    }
    json_t *info = json_object();
    static const char *const moved[][2] = {
        {"pid", "pid"},
        {"ipv4", "ipv4"},
        {"ipv6", "ipv6"},
        {"memory_used_bytes", "memory_used_bytes"},
        {"cpu_ns", "cpu_time_ns"},
        {"processes", "processes"},
        {"degraded", "degraded"},
        {"limits_hit", "counters"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(moved); i++) {
        move(known, moved[i][0], info, moved[i][1]);
    }
    json_decref(known);
    add_warnings(info);
    if (json_array_size(json_object_get(info, "ipv4")) == 0) {
        add_leases(place, document, info);
    }
    json_int_t pid = json_integer_value(json_object_get(info, "pid"));
    if (pid > 0) {
        add_started(pid, info);
    }
    if (config_load(&life.store, name, &config, &ignored) == 0) {
        add_network(&life, config, info);
        config_destroy(config);
    }
    *out_info = info;
    return 0;
}
