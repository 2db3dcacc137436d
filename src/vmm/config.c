#include "vmm/config.h"

#include <stdio.h>
#include <string.h>

#include "vmm/config_reader.h"

static void read_file(struct config_reader *reader, const json_t *root, const char *key,
                      int *out_fd, const char **out_name)
{
    const json_t *object = json_object_get(root, key);
    *out_fd = -1;
    *out_name = NULL;
    if (object != NULL) {
        char where[32];
        (void)snprintf(where, sizeof(where), "%s ", key);
        reader->where = where;
        *out_fd = config_get_fd(reader, object, "fd", false);
        *out_name = config_get_text(reader, object, "name", key, 4096);
        reader->where = "";
    }
}

static void read_mac(struct config_reader *reader, const char *text, uint8_t *out_mac)
{
    unsigned byte[6];
    char end;
    if (strlen(text) != 17 || sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%c", &byte[0], &byte[1],
                                     &byte[2], &byte[3], &byte[4], &byte[5], &end) != 6) {
        config_fail(reader, "mac", "six hexadecimal bytes");
        return;
    }
    for (int i = 0; i < 6; i++) {
        out_mac[i] = (uint8_t)byte[i];
    }
}

static void read_net(struct config_reader *reader, const json_t *object, struct config_net *net)
{
    static const char *const kinds[] = {
        [CONFIG_NET_STREAM] = "stream", [CONFIG_NET_TAP] = "tap", [CONFIG_NET_NONE] = "none"};
    net->kind = (enum config_net_kind)config_get_word(reader, object, "kind", kinds,
                                                      ARRAY_COUNT(kinds), "stream, tap or none");
    net->fd = config_get_fd(reader, object, "fd", net->kind == CONFIG_NET_NONE);
    net->name = config_get_text(reader, object, "name", "net", 64);
    read_mac(reader, config_get_text(reader, object, "mac", NULL, 17), net->mac);
}

static void read_lists(struct config_reader *reader, const json_t *root, struct config *config)
{
    size_t index;
    json_t *object;
    const json_t *list = json_object_get(root, "disks");
    if (json_array_size(list) > MACHINE_MAX_DISKS) {
        config_fail(reader, "disks", "a shorter list");
        return;
    }
    reader->where = "disk ";
    json_array_foreach(list, index, object)
    {
        config_read_disk(reader, object, &config->disk[config->disk_count++]);
    }
    reader->where = "";
    list = json_object_get(root, "nets");
    if (json_array_size(list) > MACHINE_MAX_NETS) {
        config_fail(reader, "nets", "a shorter list");
        return;
    }
    reader->where = "net ";
    json_array_foreach(list, index, object)
    {
        read_net(reader, object, &config->net[config->net_count++]);
    }
    reader->where = "";
}

static void read_console(struct config_reader *reader, const json_t *root, struct config *config)
{
    static const char *const kinds[] = {
        [CONFIG_CONSOLE_NONE] = "none", [CONFIG_CONSOLE_STREAM] = "stream",
        [CONFIG_CONSOLE_PTY] = "pty",   [CONFIG_CONSOLE_LISTEN] = "listen",
        [CONFIG_CONSOLE_FILE] = "file",
    };
    static const char *const devices[] = {"serial", "virtio"};
    config->console_fd = -1;
    config->console_log_fd = -1;
    config->console_old_log_fd = -1;
    const json_t *object = json_object_get(root, "console");
    if (object == NULL) {
        return;
    }
    reader->where = "console ";
    config->console = (enum config_console_kind)config_get_word(
        reader, object, "kind", kinds, ARRAY_COUNT(kinds), "none, stream, pty, listen or file");
    if (config->console != CONFIG_CONSOLE_NONE) {
        config->console_fd = config_get_fd(reader, object, "fd", false);
    }
    config->console_log_fd = config_get_fd(reader, object, "log_fd", true);
    config->console_old_log_fd = config_get_fd(reader, object, "old_log_fd", true);
    config->is_console_virtio = config_get_word(reader, object, "device", devices,
                                                ARRAY_COUNT(devices), "serial or virtio") == 1;
    reader->where = "";
}

static void read_vsock(struct config_reader *reader, const json_t *root, struct config *config)
{
    const json_t *object = json_object_get(root, "vsock");
    config->vsock_dir_fd = -1;
    if (object != NULL) {
        reader->where = "vsock ";
        config->vsock_cid =
            (uint32_t)config_get_number(reader, object, "cid", 3, 0xfffffffeu, NULL);
        config->vsock_dir_fd = config_get_fd(reader, object, "dir_fd", false);
        reader->where = "";
    }
}

/* Where a saved state is restored it knows them, too. */
static void read_sizes(struct config_reader *reader, const json_t *root, struct config *config)
{
    static const uint64_t zero;
    const uint64_t *fallback = json_object_get(root, "restore") != NULL ? &zero : NULL;
    config->vcpu_count =
        (uint32_t)config_get_number(reader, root, "vcpus", 1, CONFIG_MAX_VCPUS, fallback);
    config->memory_bytes =
        config_get_number(reader, root, "memory_bytes", 1ull << 20, 1ull << 40, fallback);
    if (config->memory_bytes % GUEST_PAGE_SIZE != 0) {
        config_fail(reader, "memory_bytes", "a multiple of 4096");
    }
    const uint64_t same = config->memory_bytes;
    config->vcpu_max = (uint32_t)config_get_number(reader, root, "vcpus_max", config->vcpu_count,
                                                   CONFIG_MAX_VCPUS, &zero);
    config->memory_max_bytes = config_get_number(reader, root, "memory_max_bytes",
                                                 config->memory_bytes, 1ull << 40, &same);
}

static void read_root(struct config_reader *reader, const json_t *root, struct config *config)
{
    static const uint64_t zero;
    (void)config_get_number(reader, root, "version", CONFIG_VERSION, CONFIG_VERSION, NULL);
    (void)snprintf(config->name, sizeof(config->name), "%s",
                   config_get_text(reader, root, "name", "vm", CONFIG_NAME_SIZE - 1));
    config->board = config_get_text(reader, root, "board", "micro", 32);
    config->engine = config_get_text(reader, root, "engine", "auto", 256);
    if (json_object_get(root, "cpu_model") != NULL) {
        config->cpu_model = config_get_text(reader, root, "cpu_model", NULL, 64);
    }
    if (json_object_get(root, "command_line") != NULL) {
        config->command_line = config_get_text(reader, root, "command_line", NULL, 4096);
    }
    read_sizes(reader, root, config);
    config->huge_pages = config_get_bool(reader, root, "huge_pages");
    config->debug_exit = config_get_bool(reader, root, "debug_exit");
    config->no_reboot = config_get_bool(reader, root, "no_reboot");
    config->is_paused = config_get_bool(reader, root, "paused");
    config->is_verbose = config_get_bool(reader, root, "verbose");
    config->has_balloon = config_get_bool(reader, root, "balloon");
    config->has_rng = config_get_bool(reader, root, "rng");
    config->log_fd = config_get_fd(reader, root, "log_fd", true);
    config->control_fd = config_get_fd(reader, root, "control_fd", true);
    config->owner_fd = config_get_fd(reader, root, "owner_fd", true);
    config->started_ns = config_get_number(reader, root, "started_ns", 0, INT64_MAX, &zero);
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
    struct config_reader reader = {.where = "", .err = err};
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
