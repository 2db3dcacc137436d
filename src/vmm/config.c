#include "vmm/config.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

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
    config_read_place(reader, object, &net->place);
    net->fd = -1;
    net->kind = (enum config_net_kind)config_get_word(reader, object, "kind", kinds,
                                                      ARRAY_COUNT(kinds), "stream, tap or none");
    net->fd = config_get_fd(reader, object, "fd", net->kind == CONFIG_NET_NONE);
    net->name = config_get_text(reader, object, "name", "net", 64);
    read_mac(reader, config_get_text(reader, object, "mac", NULL, 17), net->mac);
}

/* The number of a member, which says it itself or gets the lowest that is free. */
static int choose_index(const json_t *object, const struct config_place *first, size_t stride,
                        size_t max, size_t *out_index, struct error *err)
{
    const json_t *wanted = json_object_get(object, "index");
    json_int_t number = json_integer_value(wanted);
    if (wanted != NULL &&
        (!json_is_integer(wanted) || number < 0 || (uint64_t)number >= (uint64_t)max)) {
        return error_set(err, EINVAL, "index: a number from 0 to %zu is needed", max - 1);
    }
    for (size_t i = wanted != NULL ? (size_t)number : 0; i < max; i++) {
        const struct config_place *place =
            (const struct config_place *)((const char *)first + i * stride);
        if (!place->is_there) {
            *out_index = i;
            return 0;
        }
        if (wanted != NULL) {
            return error_set(err, EBUSY, "index %zu: another one has it", i);
        }
    }
    return error_set(err, ENOSPC, "there are as many as there can be: %zu", max);
}

static int choose_disk(const struct config *config, const json_t *object, size_t *out_index,
                       struct error *err)
{
    return choose_index(object, &config->disk[0].place, sizeof(config->disk[0]), MACHINE_MAX_DISKS,
                        out_index, err);
}

static int choose_net(const struct config *config, const json_t *object, size_t *out_index,
                      struct error *err)
{
    return choose_index(object, &config->net[0].place, sizeof(config->net[0]), MACHINE_MAX_NETS,
                        out_index, err);
}

static void add_disk(struct config_reader *reader, const json_t *object, struct config *config)
{
    size_t at;
    struct error problem;
    if (choose_disk(config, object, &at, &problem) < 0) {
        config_fail(reader, "index", "another number");
        return;
    }
    config_read_disk(reader, object, &config->disk[at]);
    config->disk_count = MAX(config->disk_count, at + 1);
}

static void add_net(struct config_reader *reader, const json_t *object, struct config *config)
{
    size_t at;
    struct error problem;
    if (choose_net(config, object, &at, &problem) < 0) {
        config_fail(reader, "index", "another number");
        return;
    }
    read_net(reader, object, &config->net[at]);
    config->net_count = MAX(config->net_count, at + 1);
}

/* Those that have a number of their own come first. */
static void read_list(struct config_reader *reader, const json_t *list, struct config *config,
                      void (*add)(struct config_reader *reader, const json_t *object,
                                  struct config *config))
{
    for (int pass = 0; pass < 2; pass++) {
        size_t index;
        json_t *object;
        json_array_foreach(list, index, object)
        {
            if ((json_object_get(object, "index") == NULL) == (pass == 1)) {
                add(reader, object, config);
            }
        }
    }
    reader->where = "";
}

static void read_share(struct config_reader *reader, const json_t *object,
                       struct machine_share *share)
{
    share->fd = config_get_fd(reader, object, "fd", false);
    share->tag = config_get_text(reader, object, "tag", NULL, 36);
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
    read_list(reader, list, config, add_disk);
    list = json_object_get(root, "nets");
    if (json_array_size(list) > MACHINE_MAX_NETS) {
        config_fail(reader, "nets", "a shorter list");
        return;
    }
    reader->where = "net ";
    read_list(reader, list, config, add_net);
    list = json_object_get(root, "shares");
    if (json_array_size(list) > MACHINE_MAX_SHARES) {
        config_fail(reader, "shares", "a shorter list");
        return;
    }
    reader->where = "share ";
    json_array_foreach(list, index, object)
    {
        read_share(reader, object, &config->share[config->share_count++]);
    }
    reader->where = "";
}

static enum config_console_kind read_kind(struct config_reader *reader, const json_t *object)
{
    static const char *const kinds[] = {
        [CONFIG_CONSOLE_NONE] = "none", [CONFIG_CONSOLE_STREAM] = "stream",
        [CONFIG_CONSOLE_PTY] = "pty",   [CONFIG_CONSOLE_LISTEN] = "listen",
        [CONFIG_CONSOLE_FILE] = "file",
    };
    return (enum config_console_kind)config_get_word(
        reader, object, "kind", kinds, ARRAY_COUNT(kinds), "none, stream, pty, listen or file");
}

static void read_serials(struct config_reader *reader, const json_t *root, struct config *config)
{
    size_t index;
    json_t *object;
    const json_t *list = json_object_get(root, "serials");
    if (json_array_size(list) > MACHINE_MAX_SERIALS) {
        config_fail(reader, "serials", "a shorter list");
        return;
    }
    reader->where = "serial ";
    json_array_foreach(list, index, object)
    {
        struct config_serial *serial = &config->serial[config->serial_count++];
        serial->kind = read_kind(reader, object);
        serial->fd = config_get_fd(reader, object, "fd", serial->kind == CONFIG_CONSOLE_NONE);
    }
    reader->where = "";
}

static void read_console(struct config_reader *reader, const json_t *root, struct config *config)
{
    static const char *const devices[] = {"serial", "virtio"};
    config->console_fd = -1;
    config->console_log_fd = -1;
    config->console_old_log_fd = -1;
    const json_t *object = json_object_get(root, "console");
    if (object == NULL) {
        return;
    }
    reader->where = "console ";
    config->console = read_kind(reader, object);
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
    read_serials(reader, root, config);
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

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

void config_remove_disk(struct config *config, size_t index)
{
    struct config_disk *disk = &config->disk[index];
    close_fd(&disk->fd);
    close_fd(&disk->data.fd);
    close_fd(&disk->crypt_fd);
    close_fd(&disk->overlay_fd);
    for (size_t i = 0; i < disk->layer_count; i++) {
        close_fd(&disk->layer[i].fd);
    }
    json_decref(disk->place.own);
    *disk = (struct config_disk){0};
}

void config_remove_net(struct config *config, size_t index)
{
    struct config_net *net = &config->net[index];
    close_fd(&net->fd);
    json_decref(net->place.own);
    *net = (struct config_net){0};
}

int config_add_disk(struct config *config, json_t *object, size_t *out_index, struct error *err)
{
    struct config_reader reader = {.where = "disk ", .err = err};
    int rc = choose_disk(config, object, out_index, err);
    if (rc < 0) {
        return rc;
    }
    config_read_disk(&reader, object, &config->disk[*out_index]);
    config->disk[*out_index].place.own = json_incref(object);
    if (reader.status < 0) {
        json_decref(object);
        config->disk[*out_index] = (struct config_disk){0};
        return reader.status;
    }
    config->disk_count = MAX(config->disk_count, *out_index + 1);
    return 0;
}

int config_add_net(struct config *config, json_t *object, size_t *out_index, struct error *err)
{
    struct config_reader reader = {.where = "net ", .err = err};
    int rc = choose_net(config, object, out_index, err);
    if (rc < 0) {
        return rc;
    }
    read_net(&reader, object, &config->net[*out_index]);
    config->net[*out_index].place.own = json_incref(object);
    if (reader.status < 0) {
        json_decref(object);
        config->net[*out_index] = (struct config_net){0};
        return reader.status;
    }
    config->net_count = MAX(config->net_count, *out_index + 1);
    return 0;
}

void config_fini(struct config *config)
{
    for (size_t i = 0; i < MACHINE_MAX_DISKS; i++) {
        json_decref(config->disk[i].place.own);
    }
    for (size_t i = 0; i < MACHINE_MAX_NETS; i++) {
        json_decref(config->net[i].place.own);
    }
    json_decref(config->root);
    config->root = NULL;
}
