#include "manager/instance/vm/life.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/size.h"
#include "base/host/file.h"
#include "manager/instance/vm/command.h"
#include "manager/instance/vm/devices.h"
#include "manager/instance/vm/guest.h"
#include "manager/instance/vm/limits.h"
#include "manager/instance/vm/seed.h"
#include "manager/instance/vm/status.h"
#include "manager/network/network.h"

#define STOP_TIMEOUT_S    30
#define AGENT_TIMEOUT_MS  1000
#define QUIT_TIMEOUT_MS   5000
#define CHANGE_TIMEOUT_MS 5000
#define NOBODY            65534 /* whom hull-vmm becomes if it may */

static int read_boot(const struct vm *vm, json_t **out_boot, struct error *err)
{
    char path[PATH_MAX];
    json_error_t problem;
    vm_state_path(vm, "boot.json", path);
    *out_boot = json_load_file(path, 0, &problem);
    return *out_boot != NULL
               ? 0
               : error_set(err, EIO, "vm %s: %s: %.100s", vm->name, path, problem.text);
}

static int make_folders(const struct vm *vm, struct error *err)
{
    char path[PATH_MAX];
    vm_run_path(vm, "vsock", path);
    int rc = file_make_folders(path, 0700, 0700, err);
    if (rc == 0 && vm->place->is_root && chown(path, NOBODY, NOBODY) < 0) {
        rc = error_set_errno(err, errno, "vm %s: %s", vm->name, path);
    }
    if (rc == 0) {
        vm_state_path(vm, "logs", path);
        rc = file_make_folders(path, 0700, 0700, err);
    }
    return rc;
}

void vm_life_detach(const struct vm *vm, bool is_forgotten)
{
    const char *name;
    json_t *device;
    json_object_foreach(json_object_get(vm->document, "devices"), name, device)
    {
        vm_nic_release(vm, name, is_forgotten);
    }
}

/* One that ended badly is stopped from now on, as if it had ended well. */
static int forget_failure(const struct vm *vm, struct error *err)
{
    static const char *const files[] = {"status", "pid"};
    char path[PATH_MAX];
    for (size_t i = 0; i < ARRAY_COUNT(files); i++) {
        vm_run_path(vm, files[i], path);
        if (unlink(path) < 0 && errno != ENOENT) {
            return error_set_errno(err, errno, "vm %s: %s", vm->name, path);
        }
    }
    vm_life_detach(vm, false);
    return 0;
}

static int start(const struct vm *vm, const json_t *boot, const char *restore, bool is_paused,
                 struct vm_disks *disks, struct error *err)
{
    struct vm_places places = {0};
    struct vm_boot files = {.kernel = vm_property(boot, "kernel"),
                            .initrd = vm_property(boot, "initrd"),
                            .append = vm_property(boot, "append")};
    struct vm_command command = {0};
    if (files.kernel == NULL && vm_config(vm, "kernel") == NULL) {
        return error_set(err, EPROTONOSUPPORT,
                         "vm %s: its image has no kernel of its own: kernel, or another image",
                         vm->name);
    }
    int rc = vm_disks_init(vm, disks, err);
    if (rc == 0 && restore == NULL) {
        vm_disks_settle(disks);
    }
    if (rc == 0) {
        rc = vm_disks_find(disks, err);
    }
    if (rc == 0) {
        rc = vm_places_load(vm, &places, err);
    }
    if (rc == 0) {
        rc = vm_command_make(vm, disks, &places, &files, restore, is_paused, &command, err);
    }
    if (rc == 0) {
        rc = vm_process_start(vm, (const char *const *)command.word, err);
    }
    if (rc == 0) {
        vm_places_learn(vm, &places);
        rc = vm_places_save(vm, &places, err);
        if (rc < 0) {
            vm_process_kill(vm);
            if (vm_process_await_end(vm, NULL, QUIT_TIMEOUT_MS, NULL) == 0) {
                error_ignore(forget_failure(vm, NULL)); /* it was not the VM that failed */
            }
        }
    }
    vm_places_fini(&places);
    vm_command_fini(&command);
    vm_disks_fini(disks);
    return rc;
}

int vm_life_start(const struct vm *vm, const char *restore, bool is_paused, struct error *err)
{
    json_t *boot = NULL;
    if (vm_process_find(vm->place, vm->name) != 0) {
        return error_set(err, EALREADY, "vm %s: it runs already", vm->name);
    }
    struct vm_disks *disks = calloc(1, sizeof(*disks));
    int rc =
        disks == NULL ? error_set_errno(err, ENOMEM, "vm %s", vm->name) : make_folders(vm, err);
    if (rc == 0) {
        rc = read_boot(vm, &boot, err);
    }
    if (rc == 0) {
        rc = start(vm, boot, restore, is_paused, disks, err);
        if (rc < 0) {
            vm_life_detach(vm, false);
        }
    }
    if (rc == 0 && restore != NULL && !is_paused) {
        /* When it was saved they may have been others; a guest that does not follow has them from its next start on. */
        bool ignored = false;
        error_ignore(vm_limits_change(vm, &ignored, NULL));
    }
    json_decref(boot);
    free(disks);
    return rc;
}

/* False: nobody has been asked. */
static bool ask_guest(const struct vm *vm)
{
    json_t *request = json_pack("{s:s, s:s}", "do", "shutdown", "how", "poweroff");
    /* A guest that is paused hears nothing. */
    error_ignore(vm_control(vm, "resume", NULL, NULL));
    return guest_ask(vm, request, AGENT_TIMEOUT_MS, NULL, NULL) == 0 ||
           vm_control(vm, "poweroff", NULL, NULL) == 0;
}

static int end_now(const struct vm *vm, struct error *err)
{
    error_ignore(vm_control(vm, "quit", NULL, NULL));
    if (vm_process_await_end(vm, NULL, QUIT_TIMEOUT_MS, NULL) == 0) {
        return 0;
    }
    vm_process_kill(vm);
    return vm_process_await_end(vm, NULL, QUIT_TIMEOUT_MS, err);
}

int vm_life_stop(const struct vm *vm, struct job *job, bool is_forced, int timeout_s,
                 struct error *err)
{
    char why[ERROR_TEXT_SIZE];
    if (vm_process_find(vm->place, vm->name) == 0) {
        return vm_has_failed(vm->place, vm->name, why, sizeof(why))
                   ? forget_failure(vm, err)
                   : error_set(err, EALREADY, "vm %s: it does not run", vm->name);
    }
    bool has_waited = false;
    int rc = -ETIMEDOUT;
    const char *usual = vm_config(vm, "stop_timeout");
    if (timeout_s < 0) {
        timeout_s = usual != NULL ? atoi(usual) : STOP_TIMEOUT_S; /* it is checked */
    }
    if (!is_forced && ask_guest(vm)) {
        job_progress(job, "waiting for the guest to end", 0, 0);
        rc = vm_process_await_end(vm, job, MIN(timeout_s, INT_MAX / 1000) * 1000, err);
    }
    if (rc == -ECANCELED) {
        return rc; /* the guest goes on with what it was asked for */
    }
    if (rc < 0) {
        rc = end_now(vm, err);
        has_waited = !is_forced;
    }
    if (rc == 0 && vm_process_status(vm->place, vm->name) < 0) {
        rc = forget_failure(
            vm, err); /* it was ended, also where it could not say so: the disk is full */
    } else if (rc == 0) {
        vm_life_detach(vm, false);
    }
    return rc == 0 && has_waited
               ? error_set(err, ETIME, "vm %s: its guest took too long: it was ended", vm->name)
               : rc;
}

static bool is_other(const struct vm *vm, const struct vm *old, const char *key)
{
    const char *now = vm_config(vm, key);
    const char *before = vm_config(old, key);
    return now == NULL || before == NULL ? now != before : strcmp(now, before) != 0;
}

static uint64_t size_of(const json_t *device)
{
    uint64_t bytes = 0;
    const char *text = vm_property(device, "size");
    return text != NULL && size_parse(text, 1, &bytes, NULL) == 0 ? bytes : 0;
}

/* A disk's new size: the VM changes it if it runs, as it has the file, and tells the guest. */
static int grow(const struct vm *vm, const struct vm_disk *disk, bool is_up, struct error *err)
{
    struct control_client client;
    if (!is_up) {
        return disk->driver->disk_resize(disk->pool, disk->name, disk->size_bytes, err);
    }
    int rc = vm_control_open(vm->place, vm->name, CHANGE_TIMEOUT_MS, &client, err);
    if (rc < 0) {
        return rc;
    }
    rc = vm_control_ask(&client,
                        json_pack("{s:s, s:s, s:I}", "do", "disk-resize", "disk", disk->device,
                                  "bytes", (json_int_t)disk->size_bytes),
                        -1, NULL, err);
    control_client_close(&client);
    if (rc == 0 && strcmp(disk->device, "root") == 0) {
        /* A guest without agent does that itself, at its next start perhaps. */
        error_ignore(guest_ask(vm, json_pack("{s:s}", "do", "grow"), AGENT_TIMEOUT_MS, NULL, NULL));
    }
    return rc;
}

/* What a change of devices knows. */
struct change {
    const struct vm *vm, *old;
    struct vm_places places; /* if 'is_up' */
    bool is_up, waits;
};

static int add_disk(struct change *change, struct vm_disk *disk, struct error *err)
{
    int rc = 0;
    if (!disk->is_volume) {
        rc = disk->size_bytes == 0
                 ? error_set(err, EINVAL, "disk %s: size is missing: as in 10G", disk->device)
                 : disk->driver->disk_create(disk->pool, disk->name, disk->size_bytes, NULL,
                                             &disk->file, err);
    } else if (change->is_up && disk->driver != NULL) {
        rc = disk->driver->disk_find(disk->pool, disk->name, &disk->file, err);
    }
    if (rc < 0 || !change->is_up) {
        return rc;
    }
    rc = vm_plug_disk(change->vm, &change->places, disk, &change->waits, err);
    if (rc < 0 && !disk->is_volume) {
        error_ignore(disk->driver->disk_remove(disk->pool, disk->name, NULL));
    }
    return rc;
}

static int change_disk(struct change *change, struct vm_disk *disk, const json_t *before,
                       struct error *err)
{
    if (before == NULL) {
        return add_disk(change, disk, err);
    }
    if (disk->is_volume) {
        change->waits =
            change->waits || (change->is_up && !json_equal(disk->settings, (json_t *)before));
        return 0;
    }
    if (disk->size_bytes == 0 || disk->size_bytes == size_of(before)) {
        return 0;
    }
    return disk->size_bytes < size_of(before)
               ? error_set(err, EINVAL, "disk %s: a disk grows only: more than %s", disk->device,
                           vm_property(before, "size"))
               : grow(change->vm, disk, change->is_up, err);
}

/* Its file goes when the guest has let go of it. One that the guest keeps stays until the next start, if it has a life of its
 * own. */
static int remove_disk(struct change *change, struct vm_disk *disk, const json_t *after,
                       struct error *err)
{
    bool is_root = strcmp(disk->device, "root") == 0;
    int rc = 0;
    if (after != NULL) {
        return 0;
    }
    if (change->is_up) {
        rc = is_root ? error_set(err, EBUSY, "disk root: the VM runs from it: stop it first")
                     : vm_unplug(change->vm, &change->places, true, disk->device, err);
    }
    if (rc == -EBUSY && disk->is_volume && !is_root) {
        change->waits = true;
        return 0;
    }
    return rc < 0 || disk->is_volume ? rc : disk->driver->disk_remove(disk->pool, disk->name, err);
}

/* What is to be done with each disk of a document, given what the other document has of that name. */
typedef int (*disk_fn)(struct change *change, struct vm_disk *disk, const json_t *other,
                       struct error *err);

static int each_disk(struct change *change, const struct vm *of, const struct vm *other, disk_fn fn,
                     struct error *err)
{
    const json_t *others = json_object_get(other->document, "devices");
    struct vm_disks *disks = calloc(1, sizeof(*disks));
    int rc = disks == NULL ? error_set_errno(err, ENOMEM, "vm %s", of->name)
                           : vm_disks_init(of, disks, err);
    for (unsigned i = 0; rc == 0 && i < disks->count; i++) {
        struct vm_disk *disk = &disks->disk[i];
        rc = fn(change, disk, json_object_get(others, disk->device), err);
    }
    if (disks != NULL) {
        vm_disks_fini(disks);
    }
    free(disks);
    return rc;
}

static bool is_nic(const json_t *device)
{
    const char *type = vm_property(device, "type");
    return type != NULL && strcmp(type, "nic") == 0;
}

/* A card that is another one now goes and comes; one that the guest keeps waits for the next start. */
static int change_nics(struct change *change, struct error *err)
{
    const json_t *before = json_object_get(change->old->document, "devices");
    const json_t *after = json_object_get(change->vm->document, "devices");
    const char *name;
    json_t *device;
    json_object_foreach((json_t *)before, name, device)
    {
        if (!is_nic(device) || json_equal(device, json_object_get(after, name))) {
            continue;
        }
        int rc = vm_unplug(change->old, &change->places, false, name, err);
        if (rc == -EBUSY) {
            change->waits = true;
        } else if (rc < 0) {
            return rc;
        }
    }
    json_object_foreach((json_t *)after, name, device)
    {
        bool is_kept = json_object_get(change->places.nets, name) != NULL;
        int rc = is_nic(device) && !is_kept
                     ? vm_plug_nic(change->vm, &change->places, name, &change->waits, err)
                     : 0;
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int undo_disk(struct change *change, struct vm_disk *disk, const json_t *before,
                     struct error *err)
{
    bool was_plugged = json_object_get(change->places.disks, disk->device) != NULL;
    if (before != NULL || !was_plugged) {
        return 0;
    }
    if (vm_unplug(change->vm, &change->places, true, disk->device, NULL) == 0 && !disk->is_volume) {
        error_ignore(disk->driver->disk_remove(disk->pool, disk->name, NULL));
    }
    return 0;
}

/* What came goes, and cards that went come back. */
static void undo(struct change *change)
{
    const json_t *before = json_object_get(change->old->document, "devices");
    const json_t *after = json_object_get(change->vm->document, "devices");
    const char *name;
    json_t *device;
    error_ignore(each_disk(change, change->vm, change->old, undo_disk, NULL));
    json_object_foreach((json_t *)after, name, device)
    {
        bool is_plugged = json_object_get(change->places.nets, name) != NULL;
        if (is_nic(device) && is_plugged && !json_equal(device, json_object_get(before, name))) {
            error_ignore(vm_unplug(change->vm, &change->places, false, name, NULL));
        }
    }
    json_object_foreach((json_t *)before, name, device)
    {
        if (is_nic(device) && json_object_get(change->places.nets, name) == NULL) {
            error_ignore(vm_plug_nic(change->old, &change->places, name, &change->waits, NULL));
        }
    }
}

/* What may fail comes first, and what cannot be undone last. */
static int change_devices(struct change *change, struct error *err)
{
    int rc = 0;
    if (change->is_up) {
        rc = vm_places_load(change->old, &change->places, err);
        if (rc < 0) {
            return rc;
        }
        vm_unplug_strangers(change->old, &change->places);
    }
    rc = each_disk(change, change->vm, change->old, change_disk, err);
    if (rc == 0 && change->is_up) {
        rc = change_nics(change, err);
    }
    if (rc == 0) {
        rc = each_disk(change, change->old, change->vm, remove_disk, err);
    }
    if (!change->is_up) {
        return rc;
    }
    struct error other;
    if (rc < 0) {
        undo(change);
    }
    vm_places_learn(change->vm, &change->places);
    int saved = vm_places_save(change->vm, &change->places, rc == 0 ? err : &other);
    rc = rc == 0 ? saved : rc;
    vm_places_fini(&change->places);
    return rc;
}

/* Is any of the devices another one that is only made when the VM starts? */
static bool has_other_fixtures(const struct vm *vm, const struct vm *old)
{
    const struct vm *const each[2] = {vm, old};
    for (unsigned i = 0; i < 2; i++) {
        const json_t *others = json_object_get(each[1 - i]->document, "devices");
        const char *name;
        json_t *device;
        json_object_foreach(json_object_get(each[i]->document, "devices"), name, device)
        {
            bool is_live = instance_is_device(device, "disk") || instance_is_device(device, "nic");
            if (!is_live && !json_equal(device, json_object_get(others, name))) {
                return true;
            }
        }
    }
    return false;
}

int vm_change(struct job *job, const json_t *document, const json_t *old_document, bool *out_waits,
              struct error *err)
{
    static const char *const at_start[] = {"engine",    "cpus_max",   "memory_max",
                                           "cpu_model", "kernel",     "initrd",
                                           "append",    "huge_pages", "hostname"};
    struct vm vm;
    struct vm old;
    char seed[PATH_MAX];
    struct stat info;
    vm_init(&vm, &job->place, job, document);
    vm_init(&old, &job->place, job, old_document);
    bool is_up = vm_process_find(vm.place, vm.name) != 0;
    bool waits = is_up && has_other_fixtures(&vm, &old);
    for (unsigned i = 0; is_up && i < ARRAY_COUNT(at_start); i++) {
        waits = waits || is_other(&vm, &old, at_start[i]);
    }
    vm_state_path(&vm, "seed.iso", seed);
    bool has_limits = is_other(&vm, &old, "memory") || is_other(&vm, &old, "cpus");
    int rc = is_up && has_limits ? vm_limits_change(&vm, &waits, err) : 0;
    if (rc == 0) {
        struct change change = {.vm = &vm, .old = &old, .is_up = is_up, .waits = waits};
        rc = change_devices(&change, err);
        waits = change.waits;
    }
    if (rc == 0) {
        rc = vm_seed_write(&vm, stat(seed, &info) == 0, err);
    }
    *out_waits = waits;
    return rc;
}
