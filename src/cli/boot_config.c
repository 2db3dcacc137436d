/* The document that tells hull-vmm what to run: JSON, version 1. Its reader is vmm/config.c. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"
#include "block/remote.h"
#include "cli/boot_files.h"
#include "cli/cache_mode.h"

/* A path as text for messages: JSON is UTF-8, paths are what they like. */
static json_t *path_text(const char *path)
{
    json_t *text = json_string(path);
    AUTO_FREE char *copy = text == NULL ? strdup(path) : NULL;
    for (char *c = copy; c != NULL && *c != '\0'; c++) {
        if ((unsigned char)*c >= 0x80) {
            *c = '?';
        }
    }
    return copy != NULL ? json_string(copy) : text;
}

/* The same from the root on: what is made later stands on images by these names. */
static json_t *full_path_text(const char *path)
{
    if (block_is_uri(path)) {
        char people[512];
        return path_text(block_uri_for_people(path, people, sizeof(people)));
    }
    AUTO_FREE char *full = realpath(path, NULL);
    return path_text(full != NULL ? full : path);
}

static json_t *file_entry(int fd, const char *name)
{
    return json_pack("{s:i, s:o}", "fd", fd, "name", path_text(name));
}

static void put_limit(void *ctx, const char *key, uint64_t value)
{
    json_object_set_new(ctx, key, json_integer((json_int_t)value));
}

static json_t *throttle_entry(const struct boot_disk *disk)
{
    json_t *limits = json_object();
    block_throttle_each(&disk->throttle, put_limit, limits);
    if (disk->throttle_group != NULL) {
        json_object_set_new(limits, "group", path_text(disk->throttle_group));
    }
    return limits;
}

static void put_place(json_t *entry, const struct boot_place *place)
{
    if (place->id != NULL) {
        json_object_set_new(entry, "id", path_text(place->id));
    }
    if (place->slot != 0) {
        json_object_set_new(entry, "slot", json_integer(place->slot));
    }
    if (place->has_index) {
        json_object_set_new(entry, "index", json_integer(place->index));
    }
}

json_t *boot_config_disk(const struct boot_disk *disk, const struct boot_files *files, unsigned i)
{
    const struct cache_mode *cache = cache_mode_find(disk->cache);
    json_t *entry = json_pack(
        "{s:i, s:b, s:o, s:s, s:b, s:b, s:b, s:b, s:s, s:s, s:s, s:s, s:s, s:s, s:b}", "fd",
        files->disk[i], "remote", (int)block_is_uri(disk->path), "name", full_path_text(disk->path),
        "format", disk->format, "readonly", (int)disk->is_readonly, "direct", (int)cache->is_direct,
        "write_through", (int)cache->is_write_through, "unsafe", (int)cache->is_unsafe, "serial",
        disk->serial, "aio", disk->aio, "werror", disk->on_write_error, "rerror",
        disk->on_read_error, "detect_zeroes", disk->detect_zeroes, "discard", disk->discard,
        "copy_on_read", (int)disk->has_copy_on_read);
    put_place(entry, &disk->place);
    if (disk->has_reconnect) {
        json_object_set_new(entry, "reconnect", json_integer(disk->reconnect_s));
    }
    if (files->crypt[i] >= 0) {
        json_object_set_new(entry, "crypt_fd", json_integer(files->crypt[i]));
    }
    if (files->overlay[i] >= 0) {
        json_object_set_new(entry, "overlay_fd", json_integer(files->overlay[i]));
    }
    json_object_set_new(entry, "throttle", throttle_entry(disk));
    json_t *layers = json_array();
    for (unsigned j = 0; j < disk->layer_count; j++) {
        json_array_append_new(layers, json_pack("{s:i, s:b, s:o, s:s}", "fd", files->layer[i][j],
                                                "remote", (int)block_is_uri(disk->layer[j].path),
                                                "name", full_path_text(disk->layer[j].path),
                                                "format", disk->layer[j].format));
    }
    json_object_set_new(entry, "backing", layers);
    if (disk->data_path != NULL) {
        json_t *data =
            json_pack("{s:i, s:b, s:o}", "fd", files->data[i], "remote",
                      (int)block_is_uri(disk->data_path), "name", full_path_text(disk->data_path));
        json_object_set_new(entry, "data", data);
    }
    return entry;
}

json_t *boot_config_net(const struct boot_net *net, int fd)
{
    static const char *const kinds[] = {[BOOT_NET_USER] = "stream",
                                        [BOOT_NET_PASST] = "stream",
                                        [BOOT_NET_TAP] = "tap",
                                        [BOOT_NET_MACVTAP] = "tap",
                                        [BOOT_NET_SWITCH] = "stream"};
    static const char *const names[] = {
        [BOOT_NET_USER] = "user", [BOOT_NET_PASST] = "passt", [BOOT_NET_SWITCH] = "switch"};
    char text[BOOT_MAC_SIZE];
    boot_mac_text(net->mac, text);
    json_t *entry = json_pack("{s:s, s:i, s:s, s:s}", "kind", kinds[net->kind], "fd", fd, "name",
                              net->tap != NULL ? net->tap : names[net->kind], "mac", text);
    put_place(entry, &net->place);
    return entry;
}

static json_t *shares_entry(const struct boot_options *options, const struct boot_files *files)
{
    json_t *shares = json_array();
    for (unsigned i = 0; i < options->share_count; i++) {
        json_array_append_new(
            shares, json_pack("{s:i, s:s}", "fd", files->share[i], "tag", options->share[i].tag));
    }
    return shares;
}

static const char *const console_kinds[] = {
    [BOOT_CONSOLE_STDIO] = "stream", [BOOT_CONSOLE_PTY] = "pty",   [BOOT_CONSOLE_UNIX] = "listen",
    [BOOT_CONSOLE_FILE] = "file",    [BOOT_CONSOLE_NONE] = "none",
};

static json_t *serials_entry(const struct boot_options *options, const struct boot_files *files)
{
    json_t *serials = json_array();
    for (unsigned i = 0; i < options->serial_count; i++) {
        json_array_append_new(serials, json_pack("{s:s, s:i}", "kind",
                                                 console_kinds[options->serial[i].kind], "fd",
                                                 files->serial[i].vm_fd));
    }
    return serials;
}

static json_t *console_entry(const struct boot_options *options, const struct boot_files *files)
{
    json_t *entry =
        json_pack("{s:s, s:i, s:s}", "kind", console_kinds[options->console], "fd",
                  files->console_vm, "device", options->has_virtio_console ? "virtio" : "serial");
    if (files->console_log >= 0) {
        json_object_set_new(entry, "log_fd", json_integer(files->console_log));
        json_object_set_new(entry, "old_log_fd", json_integer(files->console_old_log));
    }
    return entry;
}

/* A saved state knows what is not said. */
static void add_sizes(json_t *root, const struct boot_options *options, bool is_restore)
{
    if (options->has_cpus || !is_restore) {
        json_object_set_new(root, "vcpus", json_integer((json_int_t)options->vcpu_count));
    }
    if (options->vcpu_max != 0) {
        json_object_set_new(root, "vcpus_max", json_integer((json_int_t)options->vcpu_max));
    }
    if (options->has_memory || !is_restore) {
        json_object_set_new(root, "memory_bytes", json_integer((json_int_t)options->memory_bytes));
        json_object_set_new(root, "memory_max_bytes",
                            json_integer((json_int_t)options->memory_max_bytes));
    }
}

char *boot_config_make(const struct boot_options *options, const struct boot_files *files)
{
    json_t *root = json_pack("{s:i, s:s, s:s, s:s, s:b, s:b, s:b, s:b, s:b, s:b, s:b}", "version",
                             1, "name", options->name, "board", "micro", "engine", options->engine,
                             "huge_pages", (int)options->huge_pages, "debug_exit",
                             (int)options->debug_exit, "no_reboot", (int)options->no_reboot,
                             "paused", (int)options->paused, "verbose", (int)options->verbose,
                             "balloon", (int)options->has_balloon, "rng", (int)options->has_rng);
    if (root == NULL) {
        return NULL;
    }
    add_sizes(root, options, files->restore >= 0);
    json_object_set_new(root, "started_ns", json_integer((json_int_t)options->started_ns));
    if (files->kernel >= 0) {
        json_object_set_new(root, "kernel", file_entry(files->kernel, options->kernel));
    }
    if (files->initrd >= 0) {
        json_object_set_new(root, "initrd", file_entry(files->initrd, options->initrd));
    }
    if (files->restore >= 0) {
        json_object_set_new(root, "restore", file_entry(files->restore, options->restore));
    }
    int rc = 0;
    if (options->append != NULL) {
        rc = json_object_set_new(root, "command_line", json_string(options->append));
    } else if (options->has_virtio_console) {
        /* Until the driver is there, the serial port leads to the same place. */
        rc = json_object_set_new(root, "command_line",
                                 json_string("earlyprintk=ttyS0 console=hvc0"));
    }
    if (options->cpu_model != NULL) {
        rc |= json_object_set_new(root, "cpu_model", json_string(options->cpu_model));
    }
    if (files->log >= 0) {
        json_object_set_new(root, "log_fd", json_integer(files->log));
    }
    if (files->control >= 0) {
        json_object_set_new(root, "control_fd", json_integer(files->control));
    }
    json_object_set_new(root, "owner_fd", json_integer(files->control_vm));
    if (options->vsock_cid != 0) {
        json_object_set_new(root, "vsock",
                            json_pack("{s:I, s:i}", "cid", (json_int_t)options->vsock_cid, "dir_fd",
                                      files->vsock_dir));
    }
    json_t *disks = json_array(), *nets = json_array();
    for (unsigned i = 0; i < options->disk_count; i++) {
        json_array_append_new(disks, boot_config_disk(&options->disk[i], files, i));
    }
    for (unsigned i = 0; i < options->net_count; i++) {
        json_array_append_new(nets, boot_config_net(&options->net[i], files->net[i]));
    }
    json_object_set_new(root, "disks", disks);
    json_object_set_new(root, "nets", nets);
    json_object_set_new(root, "serials", serials_entry(options, files));
    json_object_set_new(root, "shares", shares_entry(options, files));
    json_object_set_new(root, "console", console_entry(options, files));
    char *text = rc == 0 ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    return text;
}
