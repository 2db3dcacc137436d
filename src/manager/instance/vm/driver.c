/* VMs as instances: made, started, stopped, changed. Snapshots and clones: snapshot.c; sessions: session.c. */
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/size.h"
#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "manager/image/image.h"
#include "manager/instance/vm/command.h"
#include "manager/instance/vm/guest.h"
#include "manager/instance/vm/life.h"
#include "manager/instance/vm/seed.h"
#include "manager/instance/vm/session.h"
#include "manager/instance/vm/snapshot.h"
#include "manager/instance/vm/status.h"
#include "manager/network/network.h"
#include "manager/text.h"

#define DEFAULT_ROOT_SIZE (10ull << 30)

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    return remove(path);
}

static int remove_folder(const char *path, struct error *err)
{
    if (nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) < 0 && errno != ENOENT) {
        return error_set_errno(err, errno, "removing %s", path);
    }
    return 0;
}

static int write_boot(const struct vm *vm, const struct image_vm_files *files, struct error *err)
{
    char path[PATH_MAX];
    json_t *boot = json_pack("{s:s, s:s, s:s}", "kernel", files->kernel, "initrd", files->initrd,
                             "append", files->append);
    AUTO_FREE char *text = boot != NULL ? json_dumps(boot, JSON_INDENT(2)) : NULL;
    json_decref(boot);
    vm_state_path(vm, "boot.json", path);
    return text == NULL ? error_set(err, EINVAL, "vm %s: its image's paths are no text", vm->name)
                        : file_replace(path, text, 0600, true, err);
}

static bool has_cloud_init(const json_t *image)
{
    size_t index;
    json_t *package;
    json_array_foreach(json_object_get(image, "packages"), index, package)
    {
        const char *name = json_string_value(package);
        if (name != NULL &&
            (strcmp(name, "cloud-init") == 0 || strncmp(name, "cloud-init=", 11) == 0)) {
            return true;
        }
    }
    return json_is_true(json_object_get(image, "cloud_init"));
}

static uint64_t bytes_of(const json_t *image)
{
    json_t *size = json_object_get(json_object_get(image, "vm"), "virtual_size_bytes");
    return json_integer_value(size) > 0 ? ((uint64_t)json_integer_value(size) + 511) / 512 * 512
                                        : 0;
}

static int make_disks(struct job *job, const struct vm *vm, const struct image_vm_files *files,
                      uint64_t image_bytes, struct error *err)
{
    struct vm_disks *disks = calloc(1, sizeof(*disks));
    struct pool_disk base;
    if (disks == NULL) {
        return error_set_errno(err, ENOMEM, "vm %s", vm->name);
    }
    (void)snprintf(base.path, sizeof(base.path), "%s", files->disk);
    (void)snprintf(base.format, sizeof(base.format), "%s", files->format);
    int rc = vm_disks_init(vm, disks, err);
    if (rc == 0) {
        rc = job_step(job, "vm-disks", NULL, err);
    }
    if (rc == 0) {
        struct vm_disk *root = &disks->disk[0];
        if (disks->count != 0 && strcmp(root->device, "root") == 0 && root->size_bytes == 0) {
            root->size_bytes = MAX(DEFAULT_ROOT_SIZE, image_bytes);
        }
        job_progress(job, "making disks", 0, 0);
        rc = vm_disks_create(disks, &base, err);
    }
    vm_disks_fini(disks);
    free(disks);
    return rc;
}

static int vm_remove(struct job *job, const json_t *document, struct error *err);

static int vm_create(struct job *job, const json_t *document, const json_t *image,
                     struct error *err)
{
    struct vm vm;
    struct image_vm_files files;
    char path[PATH_MAX];
    json_t *full = NULL;
    vm_init(&vm, &job->place, job, document);
    int rc = image_need_vm_form(job, image, &full, err);
    if (rc == 0) {
        rc = image_vm_files(&job->place, full, &files, err);
    }
    if (rc == 0) {
        vm_state_path(&vm, "logs", path);
        rc = file_make_folders(path, 0700, 0700, err);
    }
    if (rc == 0) {
        rc = write_boot(&vm, &files, err);
    }
    if (rc == 0) {
        rc = vm_seed_write(&vm, has_cloud_init(full), err);
    }
    if (rc == 0) {
        rc = make_disks(job, &vm, &files, bytes_of(full), err);
    }
    bool is_renewed = strcmp(text_or_empty(full, "identity"), "renew") == 0;
    if (rc == 0 && is_renewed) {
        rc = guest_renew_later(&vm, err);
    }
    /* Images from elsewhere have no hull-agent as a rule, and often have cloud-init. */
    bool has_agent = is_renewed || strncmp(text_or_empty(full, "source"), "build ", 6) == 0;
    if (rc == 0 && has_agent && !has_cloud_init(full)) {
        rc = guest_give_keys_later(&vm, err);
    }
    json_decref(full);
    if (rc < 0) {
        error_ignore(vm_remove(job, document, NULL));
    }
    return rc;
}

/* Also what another worker began: what is not there is fine. */
static int vm_remove(struct job *job, const json_t *document, struct error *err)
{
    struct vm vm;
    char path[PATH_MAX];
    vm_init(&vm, &job->place, job, document);
    struct vm_disks *disks = calloc(1, sizeof(*disks));
    if (disks == NULL) {
        return error_set_errno(err, ENOMEM, "vm %s", vm.name);
    }
    if (vm_process_find(&job->place, vm.name) != 0) {
        free(disks);
        return error_set(err, EBUSY, "vm %s: it runs: stop it, or delete with force", vm.name);
    }
    vm_release_left(job, vm.name);
    int rc = vm_disks_init(&vm, disks, err);
    if (rc == 0) {
        rc = vm_disks_remove(disks, err);
    }
    vm_disks_fini(disks);
    free(disks);
    vm_life_detach(&vm, true);
    if (rc == 0) {
        vm_run_path(&vm, NULL, path);
        rc = remove_folder(path, err);
    }
    /* The instance's document is not the driver's. */
    static const char *const own[] = {"logs",   "snapshots", "boot.json", "places.json", "seed.iso",
                                      "memory", "vmlinuz",   "initrd",    VM_RENEW,      VM_KEYS};
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(own); i++) {
        vm_state_path(&vm, own[i], path);
        rc = remove_folder(path, err);
    }
    return rc;
}

static int vm_start(struct job *job, const json_t *document, struct error *err)
{
    struct vm vm;
    vm_init(&vm, &job->place, job, document);
    job_progress(job, "starting", 0, 0);
    int rc = vm_life_start(&vm, NULL, false, err);
    if (rc == 0) {
        guest_renew(&vm, job);
        guest_give_keys(&vm, job);
    }
    return rc;
}

static int vm_stop(struct job *job, const json_t *document, bool is_forced, int timeout_s,
                   struct error *err)
{
    struct vm vm;
    vm_init(&vm, &job->place, job, document);
    return vm_life_stop(&vm, job, is_forced, timeout_s, err);
}

static int vm_pause(struct job *job, const json_t *document, bool is_paused, struct error *err)
{
    struct vm vm;
    vm_init(&vm, &job->place, job, document);
    return vm_control(&vm, is_paused ? "pause" : "resume", NULL, err);
}

const struct instance_driver vm_driver = {
    .kind = "vm",
    .create = vm_create,
    .remove = vm_remove,
    .start = vm_start,
    .stop = vm_stop,
    .pause = vm_pause,
    .change = vm_change,
    .snapshot = vm_snapshot,
    .restore = vm_restore,
    .forget = vm_forget,
    .clone = vm_clone,
    .session = vm_session,
    .status = vm_status,
    .info = vm_info,
};
