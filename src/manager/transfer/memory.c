/* The memory of a VM's snapshots: saved states (migrate/save_format.h), each a sparse file. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "manager/instance/vm/guest.h"
#include "manager/instance/vm/limits.h"
#include "manager/instance/vm/places.h"
#include "manager/instance/vm/snapshot.h"
#include "manager/text.h"
#include "manager/transfer/transfer.h"

#define STEP      (1u << 20)
#define MIN_HOLE  (64u << 10)  /* smaller ones are sent: maps have a limit */
#define MAX_STATE (128u << 20) /* of a saved state beside the memory itself */

void transfer_memory_name(size_t state, char out_name[BUNDLE_NAME_SIZE])
{
    (void)snprintf(out_name, BUNDLE_NAME_SIZE, "memory/%zu.save", state);
}

/* "STATE/instances/NAME/snapshots/SNAPSHOT/FILE" */
static void snapshot_path(const struct vm *vm, const char *snapshot, const char *file,
                          char out_path[PATH_MAX])
{
    char part[160];
    (void)snprintf(part, sizeof(part), "snapshots/%.100s/%s", snapshot, file);
    vm_state_path(vm, part, out_path);
}

int vm_prepare_memory(struct work *work, json_t *header, struct error *err)
{
    struct vm vm;
    char path[PATH_MAX];
    json_t *state, *snapshots = json_object_get(json_object_get(header, "document"), "snapshots");
    size_t i;
    bool has_memory = false;
    vm_init(&vm, &work->job->place, work->job, work->expanded);
    json_array_foreach(json_object_get(header, "states"), i, state)
    {
        const char *snapshot = text_of(state, "snapshot");
        if (snapshot == NULL) {
            continue;
        }
        snapshot_path(&vm, snapshot, "memory", path);
        if (access(path, F_OK) == 0) {
            (void)json_object_set_new(state, "memory", json_true());
            (void)json_object_set_new(json_array_get(snapshots, i), "memory", json_true());
            has_memory = true;
        }
    }
    if (!has_memory) {
        return 0;
    }
    struct vm_places places = {0};
    int rc = vm_places_load(&vm, &places, err);
    if (rc == 0) {
        (void)json_object_set_new(header, "format", json_integer(TRANSFER_FORMAT_MEMORY));
        (void)json_object_set_new(
            header, "places", json_pack("{s:O, s:O}", "disks", places.disks, "nets", places.nets));
    }
    vm_places_fini(&places);
    return rc;
}

/* What of the file is there. */
static int map_file(int fd, const char *path, struct bundle_map *map, struct error *err)
{
    off_t size = lseek(fd, 0, SEEK_END);
    off_t end = 0; /* of what the map has */
    int rc = size < 0 ? error_set_errno(err, errno, "reading %s", path) : 0;
    map->real_size = (uint64_t)size;
    for (off_t at = 0; rc == 0 && at < size;) {
        off_t data = lseek(fd, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO) {
            break; /* a hole up to the end */
        }
        off_t hole = data >= 0 ? lseek(fd, data, SEEK_HOLE) : -1;
        if (hole < 0) {
            return error_set_errno(err, errno, "reading %s", path);
        }
        data = map->count > 0 && data - end < (off_t)MIN_HOLE ? end : data;
        rc = bundle_map_add(map, (uint64_t)data, (uint64_t)(hole - data), err);
        at = end = hole;
    }
    return rc;
}

static int send_file(struct job *job, int fd, const char *path, const struct bundle_map *map,
                     struct bundle_writer *writer, struct error *err)
{
    uint64_t total = bundle_map_data(map), done = 0;
    AUTO_FREE char *data = malloc(STEP);
    int rc = data == NULL ? error_set_errno(err, ENOMEM, "saved memory") : 0;
    for (size_t i = 0; rc == 0 && i < map->count; i++) {
        const struct bundle_extent *extent = &map->extents[i];
        for (uint64_t at = 0; rc == 0 && at < extent->size; at += STEP) {
            size_t part = (size_t)MIN(STEP, extent->size - at);
            rc = file_read_at(fd, data, part, extent->offset + at, path, err);
            rc = rc < 0 ? rc : bundle_write(writer, data, part, err);
            done += part;
            job_progress(job, "sending memory", done, total);
        }
    }
    return rc;
}

static int send_memory(struct work *work, const struct vm *vm, const char *snapshot, size_t state,
                       struct bundle_writer *writer, struct error *err)
{
    char path[PATH_MAX], name[BUNDLE_NAME_SIZE];
    struct bundle_map map = {0};
    snapshot_path(vm, snapshot, "memory", path);
    transfer_memory_name(state, name);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    int rc =
        fd < 0 ? error_set_errno(err, errno, "reading %s", path) : map_file(fd, path, &map, err);
    rc = rc < 0 ? rc : bundle_begin_sparse(writer, name, &map, err);
    rc = rc < 0 ? rc : send_file(work->job, fd, path, &map, writer, err);
    bundle_map_fini(&map);
    return rc;
}

int vm_send_memory(struct work *work, const json_t *header, struct bundle_writer *writer,
                   struct error *err)
{
    struct vm vm;
    const json_t *state;
    size_t i;
    int rc = 0;
    vm_init(&vm, &work->job->place, work->job, work->expanded);
    json_array_foreach(json_object_get(header, "states"), i, state)
    {
        if (rc == 0 && json_is_true(json_object_get(state, "memory"))) {
            rc = send_memory(work, &vm, text_of(state, "snapshot"), i, writer, err);
        }
    }
    return rc;
}

/* Of the archive's words about places those that can be. */
static json_t *known_places(const json_t *list)
{
    json_t *known = json_object(), *entry;
    const char *name;
    json_object_foreach((json_t *)list, name, entry)
    {
        json_int_t index = json_integer_value(json_object_get(entry, "index"));
        json_int_t slot = json_integer_value(json_object_get(entry, "slot"));
        if (json_is_object(entry) && index >= 0 && index < VM_MAX_DISKS && slot >= 0 && slot < 32) {
            json_t *row = json_pack("{s:I}", "index", index);
            if (slot > 0) {
                (void)json_object_set_new(row, "slot", json_integer(slot));
            }
            (void)json_object_set_new(known, name, row);
        }
    }
    return known;
}

/* Saved devices stand where they stood. */
static int take_places(const struct vm *vm, const json_t *header, struct error *err)
{
    const json_t *said = json_object_get(header, "places");
    struct vm_places places = {.disks = known_places(json_object_get(said, "disks")),
                               .nets = known_places(json_object_get(said, "nets"))};
    int rc = vm_places_save(vm, &places, err);
    vm_places_fini(&places);
    return rc;
}

/* The addresses that the guest's memory knows, for when it has others here: "MAC" of its cards, as in a document. */
static int take_cards(const struct vm *vm, const char *snapshot, const json_t *header,
                      struct error *err)
{
    char path[PATH_MAX];
    const char *name;
    json_t *device;
    json_auto_t *devices = json_object();
    json_object_foreach(json_object_get(json_object_get(header, "document"), "devices"), name,
                        device)
    {
        const char *mac = text_of(device, "mac");
        if (mac != NULL) {
            (void)json_object_set_new(devices, name, json_pack("{s:s}", "mac", mac));
        }
    }
    json_auto_t *before = json_pack("{s:O}", "devices", devices);
    AUTO_FREE char *text = before != NULL ? json_dumps(before, JSON_COMPACT) : NULL;
    snapshot_path(vm, snapshot, VM_CARDS, path);
    return text == NULL ? error_set_errno(err, ENOMEM, "vm %s", vm->name)
                        : file_replace(path, text, 0600, true, err);
}

static int take_memory(struct work *work, const struct vm *vm, const struct transfer_files *files,
                       const char *snapshot, size_t state, struct error *err)
{
    char name[BUNDLE_NAME_SIZE], from[PATH_MAX], to[PATH_MAX];
    struct vm_limits limits;
    transfer_memory_name(state, name);
    const struct transfer_file *file = transfer_find(files, name);
    if (file == NULL || !file->is_sparse) {
        return error_set(err, EBADMSG, "snapshot %s: its memory did not come with the export",
                         snapshot);
    }
    int rc = vm_limits_read(vm, &limits, err);
    if (rc == 0 && !json_is_true(json_object_get(work->job->request, "trusted")) &&
        file->map.real_size > limits.memory_max_bytes + MAX_STATE) {
        rc = error_set(err, EPERM,
                       "its snapshot %s has more memory than its configuration allows: --trusted "
                       "takes it all the same",
                       snapshot);
    }
    transfer_path(files->folder, name, from);
    snapshot_path(vm, snapshot, "memory", to);
    return rc == 0 && rename(from, to) < 0 ? error_set_errno(err, errno, "writing %s", to) : rc;
}

int vm_receive_memory(struct work *work, const struct transfer_files *files, const json_t *header,
                      struct error *err)
{
    struct vm vm;
    const json_t *state, *request = work->job->request;
    size_t i;
    bool is_first = true;
    int rc = 0;
    vm_init(&vm, &work->job->place, work->job, work->expanded);
    if (json_is_true(json_object_get(request, "as_new"))) {
        return 0; /* it is another machine's */
    }
    json_array_foreach(json_object_get(header, "states"), i, state)
    {
        const char *snapshot = text_of(state, "snapshot");
        if (rc < 0 || !json_is_true(json_object_get(state, "memory"))) {
            continue;
        }
        rc = is_first ? take_places(&vm, header, err) : 0;
        is_first = false;
        rc = rc < 0 ? rc : take_memory(work, &vm, files, snapshot, i, err);
        if (rc == 0 && !json_is_true(json_object_get(request, "keep_identity"))) {
            rc = take_cards(&vm, snapshot, header, err);
        }
    }
    return rc;
}
