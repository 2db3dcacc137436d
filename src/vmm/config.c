#include "vmm/config.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* What is being read, for messages and for a sticky failure: after the first one all reads give defaults. */
struct reader {
    const char *where;
    struct error *err;
    int status;
};

static void fail(struct reader *reader, const char *key, const char *accepted)
{
    if (reader->status == 0) {
        reader->status = error_set(reader->err, EINVAL, "configuration: %s%s: %s is needed",
                                   reader->where, key, accepted);
    }
}

static const char *get_text(struct reader *reader, const json_t *object, const char *key,
                            const char *fallback, size_t max_length)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL && fallback != NULL) {
        return fallback;
    }
    const char *text = json_string_value(value);
    if (text == NULL || json_string_length(value) != strlen(text) || strlen(text) > max_length) {
        fail(reader, key, "a text");
        return "";
    }
    return text;
}

static uint64_t get_number(struct reader *reader, const json_t *object, const char *key,
                           uint64_t min, uint64_t max, const uint64_t *fallback)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL && fallback != NULL) {
        return *fallback;
    }
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 0 || (uint64_t)number < min || (uint64_t)number > max) {
        char accepted[80];
        (void)snprintf(accepted, sizeof(accepted), "a number from %llu to %llu",
                       (unsigned long long)min, (unsigned long long)max);
        fail(reader, key, accepted);
        return min;
    }
    return (uint64_t)number;
}

static bool get_bool(struct reader *reader, const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (value != NULL && !json_is_boolean(value)) {
        fail(reader, key, "true or false");
    }
    return json_is_true(value);
}

/* A descriptor that is open here; -1 if 'is_optional' and not named. */
static int get_fd(struct reader *reader, const json_t *object, const char *key, bool is_optional)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL && is_optional) {
        return -1;
    }
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 3 || number > 1000000 ||
        fcntl((int)number, F_SETFD, FD_CLOEXEC) < 0) {
        fail(reader, key, "an open descriptor");
        return -1;
    }
    return (int)number;
}

/* Index of the text in 'words'. */
static size_t get_word(struct reader *reader, const json_t *object, const char *key,
                       const char *const *words, size_t count, const char *accepted)
{
    const char *text = get_text(reader, object, key, NULL, 64);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(text, words[i]) == 0) {
            return i;
        }
    }
    fail(reader, key, accepted);
    return 0;
}

static void read_file(struct reader *reader, const json_t *root, const char *key, int *out_fd,
                      const char **out_name)
{
    const json_t *object = json_object_get(root, key);
    *out_fd = -1;
    *out_name = NULL;
    if (object != NULL) {
        char where[32];
        (void)snprintf(where, sizeof(where), "%s ", key);
        reader->where = where;
        *out_fd = get_fd(reader, object, "fd", false);
        *out_name = get_text(reader, object, "name", key, 4096);
        reader->where = "";
    }
}

static void read_mac(struct reader *reader, const char *text, uint8_t *out_mac)
{
    unsigned byte[6];
    char end;
    if (strlen(text) != 17 || sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%c", &byte[0], &byte[1],
                                     &byte[2], &byte[3], &byte[4], &byte[5], &end) != 6) {
        fail(reader, "mac", "six hexadecimal bytes");
        return;
    }
    for (int i = 0; i < 6; i++) {
        out_mac[i] = (uint8_t)byte[i];
    }
}

static void read_disk(struct reader *reader, const json_t *object, struct config_disk *disk)
{
    static const char *const aio[] = {
        [BLOCK_AIO_AUTO] = "auto", [BLOCK_AIO_URING] = "io_uring", [BLOCK_AIO_THREADS] = "threads"};
    disk->fd = get_fd(reader, object, "fd", false);
    disk->name = get_text(reader, object, "name", "disk", 4096);
    disk->format = get_text(reader, object, "format", "raw", 16);
    disk->serial = get_text(reader, object, "serial", "", 20);
    disk->is_readonly = get_bool(reader, object, "readonly");
    disk->is_direct = get_bool(reader, object, "direct");
    disk->data.fd = -1;
    const json_t *data = json_object_get(object, "data");
    if (data != NULL) {
        disk->data.fd = get_fd(reader, data, "fd", false);
        disk->data.name = get_text(reader, data, "name", "data", 4096);
    }
    const json_t *layers = json_object_get(object, "backing");
    size_t index;
    json_t *layer;
    if (json_array_size(layers) > CONFIG_MAX_LAYERS) {
        fail(reader, "backing", "a shorter list");
        return;
    }
    json_array_foreach(layers, index, layer)
    {
        struct config_layer *to = &disk->layer[disk->layer_count++];
        to->fd = get_fd(reader, layer, "fd", false);
        to->name = get_text(reader, layer, "name", "backing", 4096);
        to->format = get_text(reader, layer, "format", NULL, 16);
    }
    if (json_object_get(object, "aio") != NULL) {
        disk->aio = (enum block_aio)get_word(reader, object, "aio", aio, ARRAY_COUNT(aio),
                                             "auto, io_uring or threads");
    }
}

static void read_net(struct reader *reader, const json_t *object, struct config_net *net)
{
    static const char *const kinds[] = {
        [CONFIG_NET_STREAM] = "stream", [CONFIG_NET_TAP] = "tap", [CONFIG_NET_NONE] = "none"};
    net->kind = (enum config_net_kind)get_word(reader, object, "kind", kinds, ARRAY_COUNT(kinds),
                                               "stream, tap or none");
    net->fd = get_fd(reader, object, "fd", net->kind == CONFIG_NET_NONE);
    net->name = get_text(reader, object, "name", "net", 64);
    read_mac(reader, get_text(reader, object, "mac", NULL, 17), net->mac);
}

static void read_lists(struct reader *reader, const json_t *root, struct config *config)
{
    size_t index;
    json_t *object;
    const json_t *list = json_object_get(root, "disks");
    if (json_array_size(list) > MACHINE_MAX_DISKS) {
        fail(reader, "disks", "a shorter list");
        return;
    }
    reader->where = "disk ";
    json_array_foreach(list, index, object)
    {
        read_disk(reader, object, &config->disk[config->disk_count++]);
    }
    reader->where = "";
    list = json_object_get(root, "nets");
    if (json_array_size(list) > MACHINE_MAX_NETS) {
        fail(reader, "nets", "a shorter list");
        return;
    }
    reader->where = "net ";
    json_array_foreach(list, index, object)
    {
        read_net(reader, object, &config->net[config->net_count++]);
    }
    reader->where = "";
}

static void read_console(struct reader *reader, const json_t *root, struct config *config)
{
    static const char *const kinds[] = {
        [CONFIG_CONSOLE_NONE] = "none", [CONFIG_CONSOLE_STREAM] = "stream",
        [CONFIG_CONSOLE_PTY] = "pty",   [CONFIG_CONSOLE_LISTEN] = "listen",
        [CONFIG_CONSOLE_FILE] = "file",
    };
    static const char *const devices[] = {"serial", "virtio"};
    config->console_fd = -1;
    const json_t *object = json_object_get(root, "console");
    if (object == NULL) {
        return;
    }
    reader->where = "console ";
    config->console = (enum config_console_kind)get_word(
        reader, object, "kind", kinds, ARRAY_COUNT(kinds), "none, stream, pty, listen or file");
    if (config->console != CONFIG_CONSOLE_NONE) {
        config->console_fd = get_fd(reader, object, "fd", false);
    }
    config->is_console_virtio =
        get_word(reader, object, "device", devices, ARRAY_COUNT(devices), "serial or virtio") == 1;
    reader->where = "";
}

static void read_vsock(struct reader *reader, const json_t *root, struct config *config)
{
    const json_t *object = json_object_get(root, "vsock");
    config->vsock_dir_fd = -1;
    if (object != NULL) {
        reader->where = "vsock ";
        config->vsock_cid = (uint32_t)get_number(reader, object, "cid", 3, 0xfffffffeu, NULL);
        config->vsock_dir_fd = get_fd(reader, object, "dir_fd", false);
        reader->where = "";
    }
}

static void read_root(struct reader *reader, const json_t *root, struct config *config)
{
    static const uint64_t zero;
    (void)get_number(reader, root, "version", CONFIG_VERSION, CONFIG_VERSION, NULL);
    (void)snprintf(config->name, sizeof(config->name), "%s",
                   get_text(reader, root, "name", "vm", CONFIG_NAME_SIZE - 1));
    config->board = get_text(reader, root, "board", "micro", 32);
    config->engine = get_text(reader, root, "engine", "auto", 256);
    if (json_object_get(root, "cpu_model") != NULL) {
        config->cpu_model = get_text(reader, root, "cpu_model", NULL, 64);
    }
    if (json_object_get(root, "command_line") != NULL) {
        config->command_line = get_text(reader, root, "command_line", NULL, 4096);
    }
    config->vcpu_count = (uint32_t)get_number(reader, root, "vcpus", 1, CONFIG_MAX_VCPUS, NULL);
    config->memory_bytes = get_number(reader, root, "memory_bytes", 1ull << 20, 1ull << 40, NULL);
    if (config->memory_bytes % GUEST_PAGE_SIZE != 0) {
        fail(reader, "memory_bytes", "a multiple of 4096");
    }
    config->huge_pages = get_bool(reader, root, "huge_pages");
    config->debug_exit = get_bool(reader, root, "debug_exit");
    config->no_reboot = get_bool(reader, root, "no_reboot");
    config->is_paused = get_bool(reader, root, "paused");
    config->is_verbose = get_bool(reader, root, "verbose");
    config->has_balloon = get_bool(reader, root, "balloon");
    config->has_rng = get_bool(reader, root, "rng");
    config->log_fd = get_fd(reader, root, "log_fd", true);
    config->control_fd = get_fd(reader, root, "control_fd", true);
    config->owner_fd = get_fd(reader, root, "owner_fd", true);
    config->started_ns = get_number(reader, root, "started_ns", 0, INT64_MAX, &zero);
    read_file(reader, root, "kernel", &config->kernel_fd, &config->kernel_name);
    read_file(reader, root, "initrd", &config->initrd_fd, &config->initrd_name);
    read_file(reader, root, "restore", &config->restore_fd, &config->restore_name);
    read_vsock(reader, root, config);
    read_console(reader, root, config);
    read_lists(reader, root, config);
}

int config_parse(const char *text, size_t size, struct config *out_config, struct error *err)
{
    json_error_t problem;
    struct config config = {0};
    config.root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &problem);
    if (!json_is_object(config.root)) {
        int rc = config.root == NULL
                     ? error_set(err, EINVAL, "configuration: line %d: %s: a JSON object is needed",
                                 problem.line, problem.text)
                     : error_set(err, EINVAL, "configuration: a JSON object is needed");
        json_decref(config.root);
        return rc;
    }
    struct reader reader = {.where = "", .err = err};
    read_root(&reader, config.root, &config);
    if (reader.status < 0) {
        json_decref(config.root);
        return reader.status;
    }
    *out_config = config;
    return 0;
}

void config_fini(struct config *config)
{
    json_decref(config->root);
    config->root = NULL;
}
