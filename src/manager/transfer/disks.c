/* VMs: their disks as sparse files, of which a later state has only what differs from the one before, and what they boot. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "block/block.h"
#include "manager/instance/vm/disks.h"
#include "manager/instance/vm/guest.h"
#include "manager/instance/vm/seed.h"
#include "manager/pool/disk_file.h"
#include "manager/text.h"
#include "manager/transfer/transfer.h"

#define PIECE      (64u << 10) /* of comparisons */
#define STEP       (1u << 20)
#define MAX_DISK   ((uint64_t)1 << 46)
#define SECTOR     512u
#define MAX_APPEND 511

/* The disk with all that it stands on. */
static int chain_of(const struct vm_disk *disk, const char *name, json_t **out_chain,
                    struct error *err)
{
    struct pool_disk top;
    json_auto_t *layers = NULL;
    int rc = disk->driver->disk_find(disk->pool, name, &top, err);
    rc = rc < 0 ? rc : disk->driver->disk_layers(disk->pool, name, &layers, err);
    if (rc < 0) {
        return rc;
    }
    json_t *chain = json_pack("[{s:s, s:s}]", "path", top.path, "format", top.format);
    (void)json_array_extend(chain, layers);
    *out_chain = chain;
    return 0;
}

/* One disk while it is read. */
struct reading {
    struct event_loop *loop;
    struct block *block;
    uint64_t size;
};

static int read_begin(const json_t *chain, bool is_readonly, struct reading *out, struct error *err)
{
    struct block_info info;
    *out = (struct reading){0};
    int rc = event_loop_create(&out->loop, err);
    rc = rc < 0 ? rc : disk_file_open(chain, is_readonly, out->loop, &out->block, err);
    if (rc < 0) {
        event_loop_destroy(out->loop);
        *out = (struct reading){0};
        return rc;
    }
    block_get_info(out->block, &info);
    out->size = info.size_bytes;
    return 0;
}

static void read_end(struct reading *reading)
{
    block_close(reading->block);
    event_loop_destroy(reading->loop);
    *reading = (struct reading){0};
}

static int cancelled(struct error *err)
{
    return error_set(err, ECANCELED, "it was cancelled");
}

/* What is not zeros. */
static int map_all(struct job *job, const struct reading *now, struct bundle_map *map,
                   struct error *err)
{
    for (uint64_t at = 0; at < now->size;) {
        struct block_extent extent;
        unsigned depth;
        int rc = block_map_chain(now->block, at, MIN(now->size - at, (uint64_t)1 << 30), &extent,
                                 &depth);
        if (rc < 0) {
            return error_set_errno(err, -rc, "reading %s", block_name(now->block));
        }
        if (extent.kind == BLOCK_EXTENT_DATA || extent.kind == BLOCK_EXTENT_COMPRESSED) {
            rc = bundle_map_add(map, at, extent.size_bytes, err);
        }
        at += extent.size_bytes;
        rc = rc == 0 && job_is_cancelled(job) ? cancelled(err) : rc;
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* What is another than before, also where it is zeros now. */
static int map_changes(struct job *job, const struct reading *now, const struct reading *before,
                       struct bundle_map *map, struct error *err)
{
    AUTO_FREE char *data = calloc(2, PIECE);
    if (data == NULL) {
        return error_set_errno(err, ENOMEM, "a disk");
    }
    for (uint64_t at = 0; at < now->size; at += PIECE) {
        size_t part = (size_t)MIN(PIECE, now->size - at);
        size_t old = before->size > at ? (size_t)MIN(part, before->size - at) : 0;
        memset(data + PIECE, 0, PIECE);
        int rc = block_read(now->block, at, data, part);
        rc = rc == 0 && old > 0 ? block_read(before->block, at, data + PIECE, old) : rc;
        if (rc < 0) {
            return error_set_errno(err, -rc, "reading %s", block_name(now->block));
        }
        if (memcmp(data, data + PIECE, part) != 0) {
            rc = bundle_map_add(map, at, part, err);
        }
        rc = rc == 0 && job_is_cancelled(job) ? cancelled(err) : rc;
        if (rc < 0) {
            return rc;
        }
        job_progress(job, "comparing", at, now->size);
    }
    return 0;
}

static int send_data(struct job *job, const struct reading *now, const struct bundle_map *map,
                     struct bundle_writer *writer, struct error *err)
{
    uint64_t total = bundle_map_data(map), done = 0;
    AUTO_FREE char *data = malloc(STEP);
    if (data == NULL) {
        return error_set_errno(err, ENOMEM, "a disk");
    }
    for (size_t i = 0; i < map->count; i++) {
        const struct bundle_extent *extent = &map->extents[i];
        for (uint64_t at = 0; at < extent->size;) {
            size_t part = (size_t)MIN(STEP, extent->size - at);
            int rc = block_read(now->block, extent->offset + at, data, part);
            rc = rc < 0 ? error_set_errno(err, -rc, "reading %s", block_name(now->block))
                        : bundle_write(writer, data, part, err);
            if (rc < 0) {
                return rc;
            }
            at += part;
            done += part;
            job_progress(job, "sending", done, total);
        }
    }
    return 0;
}

/* The disk at a state: a clone of its snapshot, which nobody writes to; else itself. 'out_name' is its name in the pool. */
static int open_state(struct job *job, const struct vm_disk *disk, const char *snapshot,
                      size_t state, char out_name[160], struct reading *out, struct error *err)
{
    json_auto_t *chain = NULL;
    (void)snprintf(out_name, 160, "%s", disk->name);
    int rc = 0;
    if (snapshot != NULL) {
        (void)snprintf(out_name, 160, "transfers/%.40s/%.56s-%zu", job->id, disk->device, state);
        rc = job_step(job, "clone",
                      json_pack("{s:s, s:O, s:s}", "device", disk->device, "pool", disk->pool,
                                "name", out_name),
                      err);
        rc =
            rc < 0 ? rc : disk->driver->disk_clone(disk->pool, disk->name, snapshot, out_name, err);
    }
    rc = rc < 0 ? rc : chain_of(disk, out_name, &chain, err);
    return rc < 0 ? rc : read_begin(chain, true, out, err);
}

static void close_state(const struct vm_disk *disk, const char *name, struct reading *reading)
{
    read_end(reading);
    if (strcmp(name, disk->name) != 0 && name[0] != '\0') {
        error_ignore(disk->driver->disk_remove(disk->pool, name, NULL));
    }
}

static int send_state(struct job *job, const char *device, size_t state, const struct reading *now,
                      const struct reading *before, struct bundle_writer *writer, struct error *err)
{
    char name[BUNDLE_NAME_SIZE];
    struct bundle_map map = {.real_size = now->size};
    int rc = transfer_disk_name(device, state, name, err);
    if (rc == 0) {
        rc = before->block != NULL ? map_changes(job, now, before, &map, err)
                                   : map_all(job, now, &map, err);
    }
    rc = rc < 0 ? rc : bundle_begin_sparse(writer, name, &map, err);
    rc = rc < 0 ? rc : send_data(job, now, &map, writer, err);
    bundle_map_fini(&map);
    return rc;
}

static int send_disk(struct job *job, const struct vm_disk *disk, const json_t *states,
                     const struct transfer_moment *moment, struct bundle_writer *writer,
                     struct error *err)
{
    char name[160] = "", name_before[160] = "";
    struct reading now = {0}, before = {0};
    const json_t *state;
    size_t i;
    int rc = 0;
    json_array_foreach(states, i, state)
    {
        const char *snapshot = text_of(state, "snapshot");
        if (snapshot == NULL && moment->snapshot[0] != '\0') {
            snapshot = moment->snapshot;
        }
        rc = open_state(job, disk, snapshot, i, name, &now, err);
        rc = rc < 0 ? rc : send_state(job, disk->device, i, &now, &before, writer, err);
        close_state(disk, name_before, &before);
        before = now;
        now = (struct reading){0};
        memcpy(name_before, name, sizeof(name));
        if (rc < 0) {
            break;
        }
    }
    close_state(disk, name_before, &before);
    return rc;
}

static int each_disk(struct work *work,
                     int (*fn)(void *ctx, const struct vm_disk *disk, struct error *err), void *ctx,
                     struct error *err)
{
    struct vm vm;
    struct vm_disks *disks = calloc(1, sizeof(*disks));
    if (disks == NULL) {
        return error_set_errno(err, ENOMEM, "vm %s", work->name);
    }
    vm_init(&vm, &work->job->place, work->job, work->expanded);
    int rc = vm_disks_init(&vm, disks, err);
    for (unsigned i = 0; rc == 0 && i < disks->count; i++) {
        if (!disks->disk[i].is_volume) {
            rc = fn(ctx, &disks->disk[i], err);
        }
    }
    vm_disks_fini(disks);
    free(disks);
    return rc;
}

struct preparing {
    struct work *work;
    json_t *list;
};

static int describe_disk(void *ctx, const struct vm_disk *disk, struct error *err)
{
    struct preparing *preparing = ctx;
    struct pool_disk file;
    uint64_t size;
    char name[BUNDLE_NAME_SIZE];
    int rc = transfer_disk_name(disk->device, TRANSFER_MAX_STATES, name, err);
    rc = rc < 0 ? rc : disk->driver->disk_find(disk->pool, disk->name, &file, err);
    rc = rc < 0 ? rc : disk_file_size(file.path, file.format, &size, err);
    return rc < 0 ? rc
                  : json_array_append_new(preparing->list,
                                          json_pack("{s:s, s:I}", "device", disk->device,
                                                    "size_bytes", (json_int_t)size));
}

int vm_read_boot(struct work *work, json_t **out_boot, struct error *err)
{
    char path[PATH_MAX];
    void *text = NULL;
    size_t size;
    place_state_path(&work->job->place, "instances", work->name, "boot.json", path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 ? error_set_errno(err, errno, "%s", path)
                    : file_read_whole(fd, 65536, path, &text, &size, err);
    if (rc == 0) {
        *out_boot = json_loadb(text, size, 0, NULL);
        rc = *out_boot == NULL ? error_set(err, EBADMSG, "%s: is no JSON", path) : 0;
    }
    free(text);
    return rc;
}

int vm_prepare(struct work *work, const char *folder, const struct transfer_moment *moment,
               json_t *header, struct error *err)
{
    json_auto_t *boot = NULL;
    char seed[PATH_MAX];
    struct preparing preparing = {.work = work, .list = json_array()};
    (void)json_object_set_new(header, "disks", preparing.list);
    int rc = each_disk(work, describe_disk, &preparing, err);
    rc = rc < 0 ? rc : vm_read_boot(work, &boot, err);
    if (rc < 0) {
        return rc;
    }
    place_state_path(&work->job->place, "instances", work->name, "seed.iso", seed);
    json_t *said =
        json_pack("{s:b, s:b, s:s, s:b}", "kernel", text_or_empty(boot, "kernel")[0] != '\0',
                  "initrd", text_or_empty(boot, "initrd")[0] != '\0', "append",
                  text_or_empty(boot, "append"), "cloud_init", access(seed, F_OK) == 0);
    rc = json_object_set_new(header, "boot", said);
    return rc < 0 ? error_set_errno(err, ENOMEM, "an export")
                  : vm_prepare_memory(work, header, err);
}

static int send_boot_file(const char *path, const char *name, struct bundle_writer *writer,
                          struct error *err)
{
    struct stat st;
    AUTO_FREE char *data = malloc(STEP);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (data == NULL || fd < 0 || fstat(fd, &st) < 0) {
        return error_set_errno(err, data == NULL ? ENOMEM : errno, "reading %s", path);
    }
    uint64_t size = (uint64_t)st.st_size;
    int rc = bundle_begin(writer, name, size, err);
    for (uint64_t at = 0; rc == 0 && at < size; at += STEP) {
        size_t part = (size_t)MIN(STEP, size - at);
        rc = file_read_at(fd, data, part, at, path, err);
        rc = rc < 0 ? rc : bundle_write(writer, data, part, err);
    }
    return rc;
}

struct sending {
    struct work *work;
    const struct transfer_moment *moment;
    const json_t *states;
    struct bundle_writer *writer;
};

static int send_one(void *ctx, const struct vm_disk *disk, struct error *err)
{
    struct sending *sending = ctx;
    return send_disk(sending->work->job, disk, sending->states, sending->moment, sending->writer,
                     err);
}

int vm_send(struct work *work, const struct transfer_moment *moment, const json_t *header,
            struct bundle_writer *writer, struct error *err)
{
    json_auto_t *boot = NULL;
    struct sending sending = {.work = work,
                              .moment = moment,
                              .states = json_object_get(header, "states"),
                              .writer = writer};
    int rc = vm_read_boot(work, &boot, err);
    const char *kernel = text_or_empty(boot, "kernel"), *initrd = text_or_empty(boot, "initrd");
    if (rc == 0 && kernel[0] != '\0') {
        rc = send_boot_file(kernel, TRANSFER_KERNEL, writer, err);
    }
    if (rc == 0 && initrd[0] != '\0') {
        rc = send_boot_file(initrd, TRANSFER_INITRD, writer, err);
    }
    rc = rc < 0 ? rc : each_disk(work, send_one, &sending, err);
    return rc < 0 ? rc : vm_send_memory(work, header, writer, err);
}

void vm_send_recover(struct job *job)
{
    const json_t *step;
    size_t i;
    json_array_foreach(job->steps, i, step)
    {
        const struct pool_driver *driver;
        const json_t *pool = json_object_get(step, "pool");
        const char *name = text_of(step, "name");
        if (strcmp(text_or_empty(step, "step"), "clone") == 0 && name != NULL &&
            strncmp(name, "transfers/", 10) == 0 && pool_driver_find(pool, &driver, NULL) == 0) {
            error_ignore(driver->disk_remove(pool, name, NULL));
        }
    }
}

struct packing {
    struct work *work;
    const struct transfer_moment *moment;
    const char *path;
    unsigned count;
};

static int copy_progress(void *ctx, uint64_t done, uint64_t total)
{
    job_progress(ctx, "copying the disk", done, total);
    return job_is_cancelled(ctx) ? -ECANCELED : 0;
}

static int pack_root(void *ctx, const struct vm_disk *disk, struct error *err)
{
    struct packing *packing = ctx;
    struct job *job = packing->work->job;
    const char *snapshot = packing->moment->snapshot[0] != '\0' ? packing->moment->snapshot : NULL;
    char name[160];
    struct reading reading = {0};
    json_auto_t *chain = NULL;
    if (strcmp(disk->device, "root") != 0) {
        return 0;
    }
    packing->count++;
    int rc = open_state(job, disk, snapshot, 0, name, &reading, err);
    read_end(&reading);
    rc = rc < 0 ? rc : chain_of(disk, name, &chain, err);
    rc = rc < 0 ? rc : disk_file_copy(chain, packing->path, copy_progress, job, err);
    close_state(disk, name, &reading);
    return rc;
}

int vm_pack(struct work *work, const struct transfer_moment *moment, const char *path,
            struct error *err)
{
    struct packing packing = {.work = work, .moment = moment, .path = path};
    int rc = each_disk(work, pack_root, &packing, err);
    return rc == 0 && packing.count == 0
               ? error_set(err, EOPNOTSUPP, "vm %s has no root disk of its own", work->name)
               : rc;
}

/* Changes of a disk: what came is written into it. */
static int apply(struct job *job, const json_t *chain, const char *path,
                 const struct bundle_map *map, struct error *err)
{
    struct reading target;
    AUTO_FREE char *data = malloc(STEP);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (data == NULL || fd < 0) {
        return error_set_errno(err, data == NULL ? ENOMEM : errno, "reading %s", path);
    }
    int rc = read_begin(chain, false, &target, err);
    if (rc < 0) {
        return rc;
    }
    for (size_t i = 0; rc == 0 && i < map->count; i++) {
        const struct bundle_extent *extent = &map->extents[i];
        for (uint64_t at = 0; rc == 0 && at < extent->size; at += STEP) {
            size_t part = (size_t)MIN(STEP, extent->size - at);
            rc = file_read_at(fd, data, part, extent->offset + at, path, err);
            if (rc == 0 && (rc = block_write(target.block, extent->offset + at, data, part)) < 0) {
                rc = error_set_errno(err, -rc, "writing %s", block_name(target.block));
            }
            rc = rc == 0 && job_is_cancelled(job) ? cancelled(err) : rc;
        }
    }
    int finished = block_finish(target.block, rc == 0 ? err : NULL);
    event_loop_destroy(target.loop);
    return rc < 0 ? rc : finished;
}

/* Disks are arrays of sectors, whatever an archive says. */
static int check_map(const struct bundle_map *map, const char *name, struct error *err)
{
    bool is_good = map->real_size > 0 && map->real_size % SECTOR == 0 && map->real_size <= MAX_DISK;
    for (size_t i = 0; is_good && i < map->count; i++) {
        is_good = map->extents[i].offset % SECTOR == 0 && map->extents[i].size % SECTOR == 0;
    }
    return is_good ? 0 : error_set(err, EBADMSG, "%s: is no disk", name);
}

struct receiving {
    struct work *work;
    const struct transfer_files *files;
    const json_t *states;
};

static int receive_state(struct receiving *receiving, const struct vm_disk *disk, size_t number,
                         const struct transfer_file *file, struct error *err)
{
    struct job *job = receiving->work->job;
    char path[PATH_MAX];
    json_auto_t *chain = NULL;
    transfer_path(receiving->files->folder, file->name, path);
    int rc;
    if (number == 0) {
        json_auto_t *layers = json_pack("[{s:s, s:s}]", "path", path, "format", "raw");
        rc = disk->driver->disk_import(disk->pool, disk->name, layers, copy_progress, job, err);
    } else {
        struct pool_disk top;
        uint64_t size = 0;
        rc = disk->driver->disk_find(disk->pool, disk->name, &top, err);
        rc = rc < 0 ? rc : disk_file_size(top.path, top.format, &size, err);
        if (rc == 0 && size != file->map.real_size) {
            rc = disk->driver->disk_resize(disk->pool, disk->name, file->map.real_size, err);
        }
        rc = rc < 0 ? rc : chain_of(disk, disk->name, &chain, err);
        rc = rc < 0 ? rc : apply(job, chain, path, &file->map, err);
    }
    (void)unlink(path); /* nobody needs it any more, and it takes room */
    const char *snapshot = text_of(json_array_get(receiving->states, number), "snapshot");
    return rc < 0 || snapshot == NULL
               ? rc
               : disk->driver->disk_snapshot(disk->pool, disk->name, snapshot, err);
}

static int receive_disk(void *ctx, const struct vm_disk *disk, struct error *err)
{
    struct receiving *receiving = ctx;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < json_array_size(receiving->states); i++) {
        char name[BUNDLE_NAME_SIZE];
        rc = transfer_disk_name(disk->device, i, name, err);
        const struct transfer_file *file = rc == 0 ? transfer_find(receiving->files, name) : NULL;
        if (rc == 0 && (file == NULL || !file->is_sparse)) {
            rc = error_set(err, EBADMSG, "disk %s: did not come with the export", disk->device);
        }
        rc = rc < 0 ? rc : check_map(&file->map, name, err);
        rc = rc < 0 ? rc : receive_state(receiving, disk, i, file, err);
    }
    return rc;
}

static int make_snapshot_folders(const struct vm *vm, const json_t *states, struct error *err)
{
    const json_t *state;
    size_t i;
    int rc = 0;
    json_array_foreach(states, i, state)
    {
        char part[160], path[PATH_MAX];
        const char *snapshot = text_of(state, "snapshot");
        if (snapshot != NULL && rc == 0) {
            (void)snprintf(part, sizeof(part), "snapshots/%.100s", snapshot);
            vm_state_path(vm, part, path);
            rc = file_make_folders(path, 0700, 0700, err);
        }
    }
    return rc;
}

/* A kernel and an initrd lie in the instance's own folder: there may be no image that has them. */
static int take_boot(const struct vm *vm, const struct transfer_files *files, const json_t *header,
                     struct error *err)
{
    static const char *const names[][2] = {{TRANSFER_KERNEL, "vmlinuz"},
                                           {TRANSFER_INITRD, "initrd"}};
    char paths[2][PATH_MAX] = {"", ""}, from[PATH_MAX];
    const char *append = text_or_empty(json_object_get(header, "boot"), "append");
    for (unsigned i = 0; i < 2; i++) {
        const struct transfer_file *file = transfer_find(files, names[i][0]);
        if (file != NULL) {
            transfer_path(files->folder, file->name, from);
            vm_state_path(vm, names[i][1], paths[i]);
            if (rename(from, paths[i]) < 0) {
                return error_set_errno(err, errno, "writing %s", paths[i]);
            }
        }
    }
    if (strlen(append) > MAX_APPEND) {
        return error_set(err, EBADMSG, "append: at most %d bytes", MAX_APPEND);
    }
    json_auto_t *boot =
        json_pack("{s:s, s:s, s:s}", "kernel", paths[0], "initrd", paths[1], "append", append);
    AUTO_FREE char *text = json_dumps(boot, JSON_INDENT(2));
    vm_state_path(vm, "boot.json", from);
    return text == NULL ? error_set(err, EINVAL, "vm %s: its paths are no text", vm->name)
                        : file_replace(from, text, 0600, true, err);
}

int vm_receive(struct work *work, const struct transfer_files *files, const json_t *header,
               struct error *err)
{
    struct vm vm;
    char path[PATH_MAX];
    struct receiving receiving = {
        .work = work, .files = files, .states = json_object_get(header, "states")};
    vm_init(&vm, &work->job->place, work->job, work->expanded);
    vm_state_path(&vm, "logs", path);
    int rc = file_make_folders(path, 0700, 0700, err);
    rc = rc < 0 ? rc : make_snapshot_folders(&vm, receiving.states, err);
    rc = rc < 0 ? rc : take_boot(&vm, files, header, err);
    const json_t *boot = json_object_get(header, "boot");
    rc = rc < 0 ? rc : vm_seed_write(&vm, json_is_true(json_object_get(boot, "cloud_init")), err);
    if (rc == 0 && json_is_true(json_object_get(work->job->request, "as_new"))) {
        rc = guest_renew_later(&vm, err);
    }
    rc = rc < 0 ? rc : job_step(work->job, "vm-disks", NULL, err);
    rc = rc < 0 ? rc : each_disk(work, receive_disk, &receiving, err);
    return rc < 0 ? rc : vm_receive_memory(work, files, header, err);
}
