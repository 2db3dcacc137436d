#include "manager/instance/vm/disks.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/core/size.h"
#include "base/host/file.h"

#define MANY_LAYERS 8 /* each one costs a look into its tables */

static int read_disk(const struct vm *vm, const char *device, const json_t *settings,
                     struct vm_disk *disk, struct error *err)
{
    const char *source = vm_property(settings, "source");
    const char *size = vm_property(settings, "size");
    int rc = size != NULL ? size_parse(size, 1, &disk->size_bytes, err) : 0;
    if (rc < 0) {
        return error_prefix(err, rc, "disk %s", device);
    }
    disk->device = device;
    disk->settings = settings;
    disk->is_volume = source != NULL;
    disk->is_readonly = vm_is_on(vm_property(settings, "readonly"));
    if (source != NULL && source[0] == '/') {
        (void)snprintf(disk->file.format, sizeof(disk->file.format), "raw");
        (void)snprintf(disk->file.path, sizeof(disk->file.path), "%s", source);
        return 0;
    }
    int length = source != NULL ? snprintf(disk->name, sizeof(disk->name), "volumes/%s", source)
                                : snprintf(disk->name, sizeof(disk->name), "instances/%s/%s",
                                           vm->name, device);
    if ((size_t)length >= sizeof(disk->name) || (source != NULL && strchr(source, '/') != NULL)) {
        return error_set(err, EINVAL, "disk %s: no name of a disk", device);
    }
    rc = vm_find_pool(vm, settings, &disk->pool, err);
    return rc < 0 ? error_prefix(err, rc, "disk %s", device)
                  : pool_driver_find(disk->pool, &disk->driver, err);
}

static bool is_disk(const json_t *settings)
{
    const char *type = vm_property(settings, "type");
    return type != NULL && strcmp(type, "disk") == 0;
}

int vm_disks_init(const struct vm *vm, struct vm_disks *out_disks, struct error *err)
{
    const json_t *devices = json_object_get(vm->document, "devices");
    const char *name;
    json_t *settings;
    *out_disks = (struct vm_disks){0};
    int rc = 0;
    for (unsigned round = 0; rc == 0 && round < 2; round++) {
        json_object_foreach((json_t *)devices, name, settings)
        {
            bool is_root = strcmp(name, "root") == 0;
            if (!is_disk(settings) || is_root != (round == 0)) {
                continue;
            }
            if (out_disks->count == VM_MAX_DISKS) {
                return error_set(err, E2BIG, "vm %s: more than %d disks", vm->name, VM_MAX_DISKS);
            }
            rc = read_disk(vm, name, settings, &out_disks->disk[out_disks->count++], err);
            if (rc < 0) {
                break;
            }
        }
    }
    return rc;
}

void vm_disks_fini(struct vm_disks *disks)
{
    for (unsigned i = 0; i < disks->count; i++) {
        json_decref(disks->disk[i].pool);
    }
    disks->count = 0;
}

int vm_disks_find(struct vm_disks *disks, struct error *err)
{
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < disks->count; i++) {
        struct vm_disk *disk = &disks->disk[i];
        if (disk->driver != NULL) {
            rc = disk->driver->disk_find(disk->pool, disk->name, &disk->file, err);
        }
    }
    return rc;
}

void vm_disks_settle(struct vm_disks *disks)
{
    for (unsigned i = 0; i < disks->count; i++) {
        const struct vm_disk *disk = &disks->disk[i];
        json_t *layers = NULL, *found = NULL;
        if (disk->driver != NULL && !disk->is_volume &&
            disk->driver->disk_layers(disk->pool, disk->name, &layers, NULL) == 0 &&
            json_array_size(layers) > MANY_LAYERS) {
            error_ignore(disk->driver->sweep(disk->pool, &found, NULL));
        }
        json_decref(layers);
        json_decref(found);
    }
}

static void remove_first(struct vm_disks *disks, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        const struct vm_disk *disk = &disks->disk[i];
        if (!disk->is_volume) {
            error_ignore(disk->driver->disk_remove(disk->pool, disk->name, NULL));
        }
    }
}

int vm_disks_create(struct vm_disks *disks, const struct pool_disk *base, struct error *err)
{
    for (unsigned i = 0; i < disks->count; i++) {
        struct vm_disk *disk = &disks->disk[i];
        bool is_root = strcmp(disk->device, "root") == 0;
        if (disk->is_volume) {
            continue;
        }
        int rc = !is_root && disk->size_bytes == 0
                     ? error_set(err, EINVAL, "disk %s: size is missing: as in 10G", disk->device)
                     : disk->driver->disk_create(disk->pool, disk->name, disk->size_bytes,
                                                 is_root ? base : NULL, &disk->file, err);
        if (rc < 0) {
            remove_first(disks, i);
            return error_prefix(err, rc, "disk %s", disk->device);
        }
    }
    return 0;
}

int vm_disks_remove(struct vm_disks *disks, struct error *err)
{
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < disks->count; i++) {
        const struct vm_disk *disk = &disks->disk[i];
        if (!disk->is_volume) {
            rc = disk->driver->disk_remove(disk->pool, disk->name, err);
        }
    }
    return rc;
}

/* Takes 'text' over. */
static char *add_layer(char *text, const json_t *layer)
{
    const char *path = vm_property(layer, "path");
    const char *format = vm_property(layer, "format");
    char *longer = text == NULL || path == NULL || format == NULL
                       ? NULL
                       : vm_text("%s,backing=%s,backing-format=%s", text, path, format);
    free(text);
    return longer;
}

/* A comma in a path would begin another option. */
static bool has_comma(const struct vm_disk *disk, const json_t *layers)
{
    size_t index;
    json_t *layer;
    json_array_foreach((json_t *)layers, index, layer)
    {
        const char *path = vm_property(layer, "path");
        if (path != NULL && strchr(path, ',') != NULL) {
            return true;
        }
    }
    return strchr(disk->file.path, ',') != NULL;
}

int vm_disk_option(const struct vm_disk *disk, char **out_text, struct error *err)
{
    json_t *layers = NULL;
    const char *cache = vm_property(disk->settings, "cache");
    int rc =
        disk->driver == NULL ? 0 : disk->driver->disk_layers(disk->pool, disk->name, &layers, err);
    if (rc < 0) {
        return rc;
    }
    char *text = vm_text("%s,format=%s,serial=%.20s%s%s%s", disk->file.path, disk->file.format,
                         disk->device, disk->is_readonly ? ",readonly" : "",
                         cache != NULL ? ",cache=" : "", cache != NULL ? cache : "");
    size_t index;
    json_t *layer;
    json_array_foreach(layers, index, layer)
    {
        text = add_layer(text, layer);
    }
    if (has_comma(disk, layers)) {
        free(text);
        rc = error_set(err, EINVAL, "disk %s: a path with a comma: another folder", disk->device);
    } else if (text == NULL) {
        rc = error_set_errno(err, ENOMEM, "disk %s", disk->device);
    } else {
        *out_text = text;
    }
    json_decref(layers);
    return rc;
}

/* The VM gets the disk's file, which is new and stands on the one that it has. */
static int go_on_with(struct control_client *client, const struct vm_disk *disk, struct error *err)
{
    AUTO_CLOSE int fd = open(disk->file.path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return error_set_errno(err, errno, "disk %s: %s", disk->device, disk->file.path);
    }
    return vm_control_ask(client,
                          json_pack("{s:s, s:s, s:s, s:s}", "do", "disk-snapshot", "disk",
                                    disk->device, "name", disk->file.path, "format",
                                    disk->file.format),
                          fd, NULL, err);
}

static bool is_same_file(const char *path, const struct stat *before)
{
    struct stat now;
    return stat(path, &now) == 0 && now.st_dev == before->st_dev && now.st_ino == before->st_ino;
}

/* Of disk-list: the file that the VM writes to; NULL: it has no such disk. */
static const char *file_in_use(const json_t *list, const char *device)
{
    size_t index;
    json_t *row;
    json_array_foreach(json_object_get(list, "disks"), index, row)
    {
        const char *serial = vm_property(row, "serial");
        if (serial != NULL && strncmp(serial, device, 20) == 0) {
            return vm_property(row, "file");
        }
    }
    return NULL;
}

static int reconcile(const struct vm_disk *disk, struct control_client *client, const json_t *list,
                     struct error *err)
{
    struct stat used;
    json_t *layers = NULL;
    const char *file = file_in_use(list, disk->device);
    if (disk->driver == NULL || file == NULL || stat(file, &used) < 0 ||
        is_same_file(disk->file.path, &used)) {
        return 0;
    }
    int rc = disk->driver->disk_layers(disk->pool, disk->name, &layers, err);
    const char *below = vm_property(json_array_get(layers, 0), "path");
    if (rc == 0 && below != NULL && is_same_file(below, &used)) {
        rc = go_on_with(client, disk, err);
    } else if (rc == 0) {
        rc = error_set(err, EIO, "disk %s: the VM writes to %s, which its pool does not know",
                       disk->device, file);
    }
    json_decref(layers);
    return rc;
}

int vm_disks_reconcile(struct vm_disks *disks, struct control_client *client, struct error *err)
{
    json_t *list = NULL;
    int rc = vm_disks_find(disks, err);
    if (rc == 0) {
        rc = vm_control_ask(client, json_pack("{s:s}", "do", "disk-list"), -1, &list, err);
    }
    for (unsigned i = 0; rc == 0 && i < disks->count; i++) {
        rc = reconcile(&disks->disk[i], client, list, err);
    }
    json_decref(list);
    return rc;
}

int vm_disks_change(struct vm_disks *disks, struct control_client *client, vm_disk_fn fn, void *ctx,
                    struct error *err)
{
    int rc = vm_disks_find(disks, err);
    if (rc == 0 && client != NULL) {
        rc = vm_control_ask(client, json_pack("{s:s}", "do", "disk-flush"), -1, NULL, err);
    }
    for (unsigned i = 0; rc == 0 && i < disks->count; i++) {
        struct vm_disk *disk = &disks->disk[i];
        struct stat before;
        if (disk->is_volume) {
            continue;
        }
        if (stat(disk->file.path, &before) < 0) {
            return error_set_errno(err, errno, "disk %s: %s", disk->device, disk->file.path);
        }
        rc = fn(ctx, disk, err);
        if (rc == 0) {
            rc = disk->driver->disk_find(disk->pool, disk->name, &disk->file, err);
        }
        if (rc == 0 && client != NULL && !is_same_file(disk->file.path, &before)) {
            rc = go_on_with(client, disk, err);
        }
        if (rc < 0) {
            return error_prefix(err, rc, "disk %s", disk->device);
        }
    }
    return rc;
}
