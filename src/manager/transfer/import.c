/* instance-import: all of the file is taken aside and checked before anything of the instance is there. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/core/cleanup.h"
#include "base/host/file.h"
#include "manager/containers.h"
#include "manager/image/work.h"
#include "manager/text.h"
#include "manager/transfer/stream.h"
#include "manager/transfer/transfer.h"
#include "system/store.h"

#define SPARE (256u << 20) /* that an import leaves on the file system */

static int bad(struct error *err, const char *what)
{
    return error_set(err, EBADMSG, "no file of an exported instance: %s", what);
}

/* Names that become files of ours. */
static int check_states(const json_t *header, struct error *err)
{
    const json_t *states = json_object_get(header, "states"), *state;
    const json_t *snapshots = json_object_get(json_object_get(header, "document"), "snapshots"),
                 *item;
    size_t i, count = json_array_size(states);
    bool is_vm = strcmp(text_or_empty(header, "kind"), "vm") == 0;
    if (count == 0 || count > TRANSFER_MAX_STATES || json_array_size(snapshots) != count - 1) {
        return bad(err, "its states");
    }
    json_array_foreach(states, i, state)
    {
        const char *name = text_of(state, "snapshot");
        item = json_array_get(snapshots, i);
        bool has_memory = json_is_true(json_object_get(state, "memory"));
        if (has_memory && (name == NULL || !is_vm)) {
            return bad(err, "memory of what has none");
        }
        if (i == count - 1 ? name != NULL
                           : name == NULL || strcmp(name, text_or_empty(item, "name")) != 0) {
            return bad(err, "its states");
        }
        int rc = name != NULL ? store_check_name("snapshot", name, err) : 0;
        for (size_t j = 0; rc == 0 && j < i; j++) {
            const char *other = text_of(json_array_get(states, j), "snapshot");
            rc = name != NULL && strcmp(name, other) == 0 ? bad(err, "two snapshots of one name")
                                                          : 0;
        }
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static bool has_memory(const json_t *header, size_t state)
{
    const json_t *states = json_object_get(header, "states");
    return json_is_true(json_object_get(json_array_get(states, state), "memory"));
}

/* What belongs to a file of that header, in its order: an array of names. */
static int expected_members(const json_t *header, json_t **out_names, struct error *err)
{
    json_auto_t *names = json_array();
    size_t count = json_array_size(json_object_get(header, "states")), i;
    char name[BUNDLE_NAME_SIZE];
    if (strcmp(text_or_empty(header, "kind"), "container") == 0) {
        (void)json_array_append_new(names, json_string(TRANSFER_BASE));
        for (i = 0; i < count; i++) {
            transfer_state_name(i, name);
            (void)json_array_append_new(names, json_string(name));
        }
    } else {
        const json_t *boot = json_object_get(header, "boot"), *disk;
        if (json_is_true(json_object_get(boot, "kernel"))) {
            (void)json_array_append_new(names, json_string(TRANSFER_KERNEL));
        }
        if (json_is_true(json_object_get(boot, "initrd"))) {
            (void)json_array_append_new(names, json_string(TRANSFER_INITRD));
        }
        json_array_foreach(json_object_get(header, "disks"), i, disk)
        {
            for (size_t state = 0; state < count; state++) {
                int rc = transfer_disk_name(text_or_empty(disk, "device"), state, name, err);
                if (rc < 0) {
                    return rc;
                }
                (void)json_array_append_new(names, json_string(name));
            }
        }
        for (size_t state = 0; state < count; state++) {
            if (has_memory(header, state)) {
                transfer_memory_name(state, name);
                (void)json_array_append_new(names, json_string(name));
            }
        }
    }
    *out_names = TAKE_PTR(names);
    return 0;
}

/* Does a state have that name? */
static bool is_state(const json_t *header, const char *name)
{
    const json_t *state;
    size_t i;
    json_array_foreach(json_object_get(header, "states"), i, state)
    {
        if (strcmp(text_or_empty(state, "snapshot"), name) == 0) {
            return name[0] != '\0';
        }
    }
    return false;
}

/* Of the file's words about snapshots those that are known, and true. */
static json_t *make_snapshots(const json_t *header, bool is_new)
{
    const json_t *list = json_object_get(json_object_get(header, "document"), "snapshots"), *item;
    json_t *made = json_array();
    size_t i;
    json_array_foreach(list, i, item)
    {
        const char *parent = text_or_empty(item, "parent");
        json_t *row = json_pack("{s:s, s:s, s:b}", "name", text_or_empty(item, "name"),
                                "created_at", text_or_empty(item, "created_at"), "memory",
                                (int)(has_memory(header, i) && !is_new));
        if (is_state(header, parent)) {
            (void)json_object_set_new(row, "parent", json_string(parent));
        }
        if (json_is_true(json_object_get(item, "automatic"))) {
            (void)json_object_set_new(row, "automatic", json_true());
        }
        (void)json_array_append_new(made, row);
    }
    return made;
}

static int check_room(const char *folder, uint64_t size, const char *name, struct error *err)
{
    struct statvfs room;
    if (statvfs(folder, &room) < 0) {
        return error_set_errno(err, errno, "folder %s", folder);
    }
    uint64_t free_bytes = (uint64_t)room.f_bavail * room.f_frsize;
    return size > free_bytes || free_bytes - size < SPARE
               ? error_set(err, ENOSPC, "%s has %llu bytes, for which there is no room", name,
                           (unsigned long long)size)
               : 0;
}

static int make_folder_of(const char *path, struct error *err)
{
    char folder[PATH_MAX];
    (void)snprintf(folder, sizeof(folder), "%.*s", (int)(strrchr(path, '/') - path), path);
    return file_make_folders(folder, 0700, 0700, err);
}

static int take_bytes(struct bundle_reader *reader, int fd, uint64_t offset, uint64_t size,
                      char *data, const char *name, struct error *err)
{
    for (uint64_t done = 0; done < size;) {
        size_t part = 0;
        int rc = bundle_read(reader, data, (size_t)MIN(262144, size - done), &part, err);
        rc = rc < 0 ? rc : part == 0 ? bad(err, "a member that is too short") : 0;
        rc = rc < 0 ? rc : file_write_at(fd, data, part, offset + done, name, err);
        if (rc < 0) {
            return rc;
        }
        done += part;
    }
    return 0;
}

static int take_member(struct bundle_reader *reader, const struct bundle_member *member,
                       const char *folder, struct transfer_file *file, struct error *err)
{
    char path[PATH_MAX];
    AUTO_FREE char *data = malloc(262144);
    transfer_path(folder, member->name, path);
    (void)snprintf(file->name, sizeof(file->name), "%s", member->name);
    int rc = data == NULL ? error_set_errno(err, ENOMEM, "an import")
                          : check_room(folder, member->size, member->name, err);
    rc = rc < 0 ? rc : make_folder_of(path, err);
    if (rc < 0) {
        return rc;
    }
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return error_set_errno(err, errno, "making %s", path);
    }
    file->is_sparse = member->is_sparse;
    if (!member->is_sparse) {
        return take_bytes(reader, fd, 0, member->size, data, member->name, err);
    }
    file->map.real_size = member->map.real_size;
    if (ftruncate(fd, (off_t)member->map.real_size) < 0) {
        return error_set_errno(err, errno, "making %s", path);
    }
    for (size_t i = 0; rc == 0 && i < member->map.count; i++) {
        const struct bundle_extent *extent = &member->map.extents[i];
        rc = bundle_map_add(&file->map, extent->offset, extent->size, err);
        rc = rc < 0 ? rc
                    : take_bytes(reader, fd, extent->offset, extent->size, data, member->name, err);
    }
    return rc;
}

/* All members, each where and as it has to be, and the manifest. */
static int take_members(struct job *job, struct bundle_reader *reader, const json_t *names,
                        struct transfer_files *files, struct error *err)
{
    const struct bundle_member *member;
    int rc;
    size_t count = json_array_size(names);
    files->list = calloc(count + 1, sizeof(*files->list));
    if (files->list == NULL) {
        return error_set_errno(err, ENOMEM, "an import");
    }
    while ((rc = bundle_next(reader, &member, err)) > 0) {
        const char *expected = json_string_value(json_array_get(names, files->count));
        if (expected == NULL || strcmp(member->name, expected) != 0) {
            return bad(err, "it has other members than its header says");
        }
        job_progress(job, "receiving", files->count, count);
        rc = take_member(reader, member, files->folder, &files->list[files->count++], err);
        if (rc < 0) {
            return rc;
        }
    }
    return rc == 0 && files->count < count ? bad(err, "it lacks members") : rc;
}

static void drop_files(struct transfer_files *files)
{
    for (size_t i = 0; i < files->count; i++) {
        bundle_map_fini(&files->list[i].map);
    }
    free(files->list);
    files->list = NULL;
}

/* Whatever would let it reach into this host is its exporter's word only. */
static int check_trust(const json_t *document, const json_t *expanded, struct error *err)
{
    static const char *const keys[] = {"privileged", "nesting", "seccomp", "kernel", "initrd"};
    static const char hint[] = "--trusted takes it all the same";
    const char *name;
    json_t *device;
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        const char *value = text_of(json_object_get(document, "config"), keys[i]);
        if (value != NULL && strcmp(value, "false") != 0 && strcmp(value, "default") != 0) {
            return error_set(err, EPERM, "its configuration has %s=%.60s: %s", keys[i], value,
                             hint);
        }
    }
    json_object_foreach(json_object_get(expanded, "devices"), name, device)
    {
        const json_t *own = json_object_get(json_object_get(document, "devices"), name);
        if (own != NULL &&
            (instance_is_device(device, "share") ||
             (instance_is_device(device, "disk") && (text_of(device, "source") != NULL)) ||
             (instance_is_device(device, "nic") &&
              strcmp(instance_property(device, "spoofing"), "drop") != 0) ||
             (instance_is_device(device, "serial") &&
              strcmp(instance_property(device, "to"), "pty") != 0))) {
            return error_set(err, EPERM, "its device %.60s is something of its host's: %s", name,
                             hint);
        }
    }
    return 0;
}

/* Are uuid and cards' addresses free? */
static int check_identity(const struct place *place, const json_t *document, struct error *err)
{
    char path[PATH_MAX];
    place_state_path(place, "instances", NULL, NULL, path);
    DIR *folder = opendir(path);
    const struct dirent *entry;
    int rc = 0;
    while (folder != NULL && rc == 0 && (entry = readdir(folder)) != NULL) {
        json_auto_t *other = NULL;
        const char *name;
        json_t *device, *theirs;
        if (entry->d_name[0] == '.' || instance_load(place, entry->d_name, &other, NULL) < 0) {
            continue;
        }
        if (strcmp(text_or_empty(other, "uuid"), text_or_empty(document, "uuid")) == 0) {
            rc = error_set(err, EEXIST,
                           "instance %.64s has its uuid: import it without "
                           "--keep-identity",
                           entry->d_name);
        }
        json_object_foreach(json_object_get(document, "devices"), name, device)
        {
            const char *mac = text_of(device, "mac"), *ignored;
            json_object_foreach(json_object_get(other, "devices"), ignored, theirs)
            {
                if (rc == 0 && mac != NULL && strcmp(text_or_empty(theirs, "mac"), mac) == 0) {
                    rc = error_set(err, EEXIST,
                                   "instance %.64s has the address %s of its card %.60s: import it "
                                   "without --keep-identity",
                                   entry->d_name, mac, name);
                }
            }
        }
    }
    if (folder != NULL) {
        (void)closedir(folder);
    }
    return rc;
}

static int set_identity(const struct job *job, json_t *document, struct error *err)
{
    static const char *const own[] = {"mac", "ipv4", "ipv6"};
    char uuid[INSTANCE_UUID_SIZE];
    const char *name;
    json_t *device, *devices = json_object_get(document, "devices");
    void *next;
    if (json_is_true(json_object_get(job->request, "keep_identity"))) {
        return check_identity(&job->place, document, err);
    }
    int rc = instance_make_uuid(uuid, err);
    if (rc < 0) {
        return rc;
    }
    bool is_new = json_is_true(json_object_get(job->request, "as_new"));
    (void)json_object_set_new(document, "uuid", json_string(uuid));
    json_object_foreach_safe(devices, next, name, device)
    {
        for (size_t i = 0; i < ARRAY_COUNT(own); i++) {
            (void)json_object_del(device, own[i]);
        }
        if (json_object_size(device) == 0 || (is_new && instance_is_device(device, "forward"))) {
            (void)json_object_del(devices, name);
        }
    }
    if (is_new) {
        (void)json_object_del(json_object_get(document, "config"), "hostname");
    }
    return 0;
}

/* Its devices' networks and pools are this host's, or the ones that were asked for. */
static int place_devices(struct work *work, struct error *err)
{
    static const char *const places[][3] = {{"nic", "network", "networks"},
                                            {"disk", "pool", "pools"}};
    const json_t *request = work->job->request, *found;
    const char *name;
    json_t *device, *own = json_object_get(work->document, "devices");
    if (own == NULL) {
        own = json_object();
        (void)json_object_set_new(work->document, "devices", own);
    }
    json_object_foreach(json_object_get(work->expanded, "devices"), name, device)
    {
        for (size_t i = 0; i < ARRAY_COUNT(places); i++) {
            const char *key = places[i][1], *asked = text_of(request, key);
            if (!instance_is_device(device, places[i][0]) ||
                (i == 1 && text_of(device, "source") != NULL)) {
                continue;
            }
            if (asked != NULL) {
                json_t *mine = json_object_get(own, name);
                if (mine == NULL) {
                    mine = json_object();
                    (void)json_object_set_new(own, name, mine);
                }
                (void)json_object_set_new(mine, key, json_string(asked));
            } else if (instance_related(request, places[i][2], instance_property(device, key),
                                        &found, err) < 0) {
                return error_set(err, ENOENT,
                                 "its device %.60s needs the %s %.60s, which is not here: choose "
                                 "another one with --%s",
                                 name, key, instance_property(device, key), key);
            }
        }
    }
    return work_expand(work, err);
}

static int check_profiles(const struct work *work, struct error *err)
{
    const json_t *profiles = json_object_get(work->document, "profiles"), *name, *found;
    size_t i;
    json_array_foreach(profiles, i, name)
    {
        const char *text = json_string_value(name);
        if (text != NULL &&
            instance_related(work->job->request, "profiles", text, &found, err) < 0) {
            return error_set(err, ENOENT,
                             "it has the profile %.60s, which is not here: choose others with "
                             "--profile, or none with --profile ''",
                             text);
        }
    }
    return 0;
}

/* The document of the new instance: what the file says, checked as if a client had sent it. */
static int make_document(struct work *work, const json_t *header, struct error *err)
{
    static const char *const taken[] = {"kind",     "uuid",   "description", "image",
                                        "profiles", "config", "devices"};
    const json_t *said = json_object_get(header, "document"), *request = work->job->request;
    char now[32];
    instance_format_time(now);
    work->document =
        json_pack("{s:s, s:s, s:b}", "name", work->name, "created_at", now, "incomplete", 1);
    for (size_t i = 0; i < ARRAY_COUNT(taken); i++) {
        const json_t *value = json_object_get(said, taken[i]);
        if (value != NULL) {
            (void)json_object_set_new(work->document, taken[i], json_deep_copy(value));
        }
    }
    if (json_array_size(json_object_get(said, "snapshots")) > 0) {
        const char *current = text_or_empty(said, "snapshot");
        bool is_new = json_is_true(json_object_get(request, "as_new"));
        (void)json_object_set_new(work->document, "snapshots", make_snapshots(header, is_new));
        if (is_state(header, current)) {
            (void)json_object_set_new(work->document, "snapshot", json_string(current));
        }
    }
    if (json_object_get(request, "chosen_profiles") != NULL) {
        (void)json_object_set(work->document, "profiles",
                              json_object_get(request, "chosen_profiles"));
    }
    const char *kind = text_or_empty(work->document, "kind");
    if (strcmp(kind, text_or_empty(header, "kind")) != 0) {
        return bad(err, "its header and its document differ");
    }
    int rc = instance_check(work->document, err);
    rc = rc < 0 ? rc : check_profiles(work, err);
    rc = rc < 0 ? rc : set_identity(work->job, work->document, err);
    rc = rc < 0 ? rc : work_expand(work, err);
    if (rc == 0 && !json_is_true(json_object_get(request, "trusted"))) {
        rc = check_trust(work->document, work->expanded, err);
    }
    rc = rc < 0 ? rc : place_devices(work, err);
    rc = rc < 0 ? rc : work_add_macs(work, err);
    /* Before all of the file is taken: where that is refused nobody need send it. */
    return rc < 0 || strcmp(kind, "container") != 0
               ? rc
               : containers_enter(&work->job->place, NULL, err);
}

static int receive(struct work *work, const char *folder, json_t **out_header,
                   struct transfer_files *files, struct error *err)
{
    struct transfer_stream *stream = NULL;
    struct bundle_reader *reader = NULL;
    json_auto_t *names = NULL;
    int rc = stream_open(work->job, &stream, err);
    if (rc < 0) {
        return rc;
    }
    files->folder = folder;
    rc = bundle_reader_create(stream_read, stream, &reader, err);
    rc = rc < 0 ? rc : bundle_read_header(reader, out_header, err);
    rc = rc < 0 ? rc : check_states(*out_header, err);
    rc = rc < 0 ? rc : make_document(work, *out_header, err);
    rc = rc < 0 ? rc : expected_members(*out_header, &names, err);
    rc = rc < 0 ? rc : take_members(work->job, reader, names, files, err);
    rc = rc < 0 ? rc : stream_finish(stream, err);
    if (rc < 0 && rc != -EPIPE) { /* so that it stops sending */
        error_ignore(session_send_control(
            stream->fd, json_pack("{s:{s:s}}", "error", "message", err->text), NULL));
    }
    bundle_reader_destroy(reader);
    stream_close(stream);
    return rc;
}

static int make(struct work *work, const struct transfer_files *files, const json_t *header,
                bool *out_has_image, struct error *err)
{
    bool is_vm = work->driver == &vm_driver;
    int rc = job_step(work->job, "making",
                      json_pack("{s:s, s:s}", "name", work->name, "kind", work->driver->kind), err);
    if (rc == 0 && !is_vm) {
        rc = container_receive_image(work, files, header, out_has_image, err);
        rc = rc < 0 ? rc : work_expand(work, err);
    }
    rc = rc < 0 ? rc : work_publish(work, err);
    if (rc == 0) {
        rc = is_vm ? vm_receive(work, files, header, err)
                   : container_receive(work, files, header, err);
    }
    if (rc == 0 && job_is_cancelled(work->job)) {
        rc = error_set(err, ECANCELED, "importing instance %s was cancelled", work->name);
    }
    return rc < 0 ? rc : work_complete(work, err);
}

/* An image that was made for it alone. */
static void remove_image(struct job *job, const char *digest)
{
    struct error ignored;
    if (digest[0] != '\0' && !transfer_knows_image(job, digest)) {
        error_ignore(work_remove_image(job, digest, &ignored));
    }
}

/* What a dead worker was building. */
static void sweep_templates(const struct job *job)
{
    struct store store;
    struct error ignored;
    if (job->place.has_owners && containers_store(&job->place, &store, &ignored) == 0) {
        error_ignore(template_sweep(&store, NULL, &ignored));
    }
}

int transfer_import(struct job *job, json_t **out_result, struct error *err)
{
    struct work work = {.job = job, .name = text_of(job->request, "name")};
    struct transfer_files files = {0};
    char folder[PATH_MAX];
    json_auto_t *header = NULL, *other = NULL;
    int rc = work.name == NULL ? error_set(err, EINVAL, "name: missing")
                               : place_check_instance_name(work.name, err);
    if (rc == 0 && instance_load(&job->place, work.name, &other, err) != -ENOENT) {
        rc = error_set(err, EEXIST, "instance %s exists already", work.name);
    }
    rc = rc < 0 ? rc : transfer_folder_make(job, folder, err);
    if (rc < 0) {
        return rc;
    }
    rc = receive(&work, folder, &header, &files, err);
    if (rc == 0) {
        bool has_image = false;
        rc = make(&work, &files, header, &has_image, err);
        if (rc < 0) {
            work_undo(&work);
            remove_image(job, has_image ? text_or_empty(work.document, "image_digest") : "");
        } else {
            work_event(&work, "created");
            *out_result = work_result(&work);
        }
    }
    drop_files(&files);
    transfer_folder_remove(job);
    work_close(&work);
    return rc;
}

int transfer_import_recover(struct job *job, json_t **out_result, struct error *err)
{
    const json_t *step = job_find_step(job, "making");
    int rc = strcmp(text_or_empty(step, "kind"), "container") == 0
                 ? containers_enter(&job->place, NULL, err)
                 : 0;
    if (rc < 0) {
        return rc;
    }
    rc = step == NULL ? error_set(err, ECANCELED, "the import was interrupted")
                      : work_recover_made(job, text_of(step, "name"), out_result, err);
    if (rc < 0) {
        remove_image(job, text_or_empty(job_find_step(job, "template"), "digest"));
        sweep_templates(job);
    }
    transfer_folder_remove(job);
    return rc;
}
