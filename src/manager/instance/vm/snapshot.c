#include "manager/instance/vm/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "base/host/huge.h"
#include "manager/instance/vm/disks.h"
#include "manager/instance/vm/guest.h"
#include "manager/instance/vm/life.h"
#include "manager/instance/vm/seed.h"

#define STILL_TIMEOUT_MS 120000 /* for a host that is slow to write the memory */

/* A VM whose guest stands still, or that does not run at all. */
struct still {
    const struct vm *vm;
    struct control_client client;
    bool is_up, was_running;
    int frozen; /* the agent's connection, -1: none */
    struct vm_disks disks;
};

/* A worker that died may have left the guest standing still: its step says that it ran before. */
static bool was_left(const struct job *job, const struct vm *vm)
{
    const json_t *step = job->is_recovery ? job_find_step(job, "vm-still") : NULL;
    const char *name = vm_property(step, "name");
    return name != NULL && strcmp(name, vm->name) == 0 &&
           json_is_true(json_object_get(step, "was_running"));
}

static int read_state(struct still *still, const struct job *job, struct error *err)
{
    json_t *status = NULL;
    int rc = vm_control_ask(&still->client, json_pack("{s:s}", "do", "status"), -1, &status, err);
    const char *state = vm_property(status, "state");
    still->was_running =
        (state != NULL && strcmp(state, "running") == 0) || was_left(job, still->vm);
    json_decref(status);
    return rc;
}

static int stand_still(struct still *still, struct job *job, const struct vm *vm,
                       bool is_freeze_wanted, struct error *err)
{
    *still = (struct still){.vm = vm, .client = {.fd = -1}, .frozen = -1};
    int rc = vm_disks_init(vm, &still->disks, err);
    still->is_up = vm_process_find(vm->place, vm->name) != 0;
    if (rc < 0 || !still->is_up) {
        return rc;
    }
    rc = vm_control_open(vm->place, vm->name, STILL_TIMEOUT_MS, &still->client, err);
    if (rc == 0) {
        rc = read_state(still, job, err);
    }
    if (rc == 0) {
        rc = job_step(
            job, "vm-still",
            json_pack("{s:s, s:b}", "name", vm->name, "was_running", (int)still->was_running), err);
    }
    if (rc == 0 && still->was_running) {
        still->frozen = is_freeze_wanted ? guest_freeze(vm) : -1;
        rc = vm_control_ask(&still->client, json_pack("{s:s}", "do", "pause"), -1, NULL, err);
    }
    return rc < 0 ? rc : vm_disks_reconcile(&still->disks, &still->client, err);
}

static void go_on(struct still *still)
{
    if (still->client.fd >= 0 && still->was_running) {
        /* A VM that has ended meanwhile needs none. */
        error_ignore(
            vm_control_ask(&still->client, json_pack("{s:s}", "do", "resume"), -1, NULL, NULL));
    }
    still->was_running = false;
    guest_thaw(still->vm, still->frozen);
    still->frozen = -1;
}

static void end_still(struct still *still)
{
    go_on(still);
    control_client_close(&still->client);
    vm_disks_fini(&still->disks);
}

static int save_memory(struct still *still, int fd, struct error *err)
{
    return vm_control_ask(&still->client, json_pack("{s:s, s:s}", "do", "save", "then", "pause"),
                          fd, NULL, err);
}

static int save_memory_as(struct still *still, const char *path, struct error *err)
{
    (void)unlink(
        path); /* of a worker that died; a file that is emptied would be written at once when it is closed */
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 ? error_set_errno(err, errno, "saved memory %s", path)
                  : save_memory(still, fd, err);
}

static void snapshot_path(const struct vm *vm, const char *snapshot, const char *file,
                          char out_path[PATH_MAX])
{
    char part[160];
    (void)snprintf(part, sizeof(part), "snapshots/%s%s%s", snapshot, file != NULL ? "/" : "",
                   file != NULL ? file : "");
    vm_state_path(vm, part, out_path);
}

static int snapshot_disk(void *ctx, struct vm_disk *disk, struct error *err)
{
    return disk->driver->disk_snapshot(disk->pool, disk->name, ctx, err);
}

static void forget_disks(struct vm_disks *disks, const char *snapshot)
{
    for (unsigned i = 0; i < disks->count; i++) {
        const struct vm_disk *disk = &disks->disk[i];
        if (!disk->is_volume) {
            error_ignore(disk->driver->disk_forget(disk->pool, disk->name, snapshot, NULL));
        }
    }
}

/* Disks and memory are those of one moment. */
static int take(struct job *job, struct still *still, const char *snapshot, bool has_memory,
                struct error *err)
{
    char path[PATH_MAX];
    snapshot_path(still->vm, snapshot, NULL, path);
    int rc = file_make_folders(path, 0700, 0700, err);
    if (rc == 0 && has_memory) {
        job_progress(job, "saving the memory", 0, 0);
        snapshot_path(still->vm, snapshot, "memory", path);
        rc = save_memory_as(still, path, err);
    }
    return rc < 0 ? rc
                  : vm_disks_change(&still->disks, still->is_up ? &still->client : NULL,
                                    snapshot_disk, (void *)snapshot, err);
}

static void remove_saved(const struct vm *vm, const char *snapshot)
{
    char path[PATH_MAX];
    snapshot_path(vm, snapshot, "memory", path);
    (void)unlink(path); /* only those with memory have one */
    snapshot_path(vm, snapshot, VM_CARDS, path);
    (void)unlink(path); /* only imported ones */
    snapshot_path(vm, snapshot, NULL, path);
    (void)rmdir(path);
}

int vm_snapshot(struct job *job, const json_t *document, const char *snapshot, bool has_memory,
                struct error *err)
{
    struct vm vm;
    vm_init(&vm, &job->place, job, document);
    struct still *still = calloc(1, sizeof(*still));
    if (still == NULL) {
        return error_set_errno(err, ENOMEM, "vm %s", vm.name);
    }
    int rc = stand_still(still, job, &vm, !has_memory, err);
    if (rc == 0 && has_memory && !still->is_up) {
        rc = error_set(err, EINVAL, "vm %s: it does not run: a snapshot without memory", vm.name);
    }
    if (rc == 0) {
        rc = take(job, still, snapshot, has_memory, err);
        if (rc < 0) {
            forget_disks(&still->disks, snapshot);
            remove_saved(&vm, snapshot);
        }
    }
    end_still(still);
    free(still);
    return rc < 0 ? error_prefix(err, rc, "snapshot %s of %s", snapshot, vm.name) : 0;
}

static int restore_disk(void *ctx, struct vm_disk *disk, struct error *err)
{
    return disk->driver->disk_restore(disk->pool, disk->name, ctx, err);
}

/* Memory that came from elsewhere knows other addresses of the cards. */
static void tell_cards(const struct vm *vm, struct job *job, const char *snapshot)
{
    char path[PATH_MAX];
    struct error late;
    snapshot_path(vm, snapshot, VM_CARDS, path);
    json_auto_t *before = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    if (before != NULL && guest_give_cards(vm, before, &late) < 0) {
        job_progress(job, late.text, 0, 0);
    }
}

/* Not recorded as a step: run again, it does the same. */
int vm_restore(struct job *job, const json_t *document, const char *snapshot, struct error *err)
{
    struct vm vm;
    char memory[PATH_MAX];
    struct stat info;
    vm_init(&vm, &job->place, job, document);
    bool was_up = vm_process_find(vm.place, vm.name) != 0;
    struct vm_disks *disks = calloc(1, sizeof(*disks));
    int rc = disks == NULL ? error_set_errno(err, ENOMEM, "vm %s", vm.name) : 0;
    if (rc == 0 && was_up) {
        rc = vm_life_stop(&vm, job, true, 0, err);
    }
    if (rc == 0) {
        rc = vm_disks_init(&vm, disks, err);
    }
    if (rc == 0) {
        rc = vm_disks_change(disks, NULL, restore_disk, (void *)snapshot, err);
    }
    if (disks != NULL) {
        vm_disks_fini(disks);
    }
    free(disks);
    snapshot_path(&vm, snapshot, "memory", memory);
    bool has_memory = stat(memory, &info) == 0;
    if (rc == 0 && (was_up || has_memory)) {
        job_progress(job, "starting", 0, 0);
        rc = vm_life_start(&vm, has_memory ? memory : NULL, false, err);
        if (rc == 0 && has_memory) {
            guest_set_time(&vm);
            tell_cards(&vm, job, snapshot);
        }
    }
    return rc < 0 ? error_prefix(err, rc, "restore of %s to %s", vm.name, snapshot) : 0;
}

int vm_forget(struct job *job, const json_t *document, const char *snapshot, struct error *err)
{
    struct vm vm;
    vm_init(&vm, &job->place, job, document);
    struct vm_disks *disks = calloc(1, sizeof(*disks));
    int rc = disks == NULL ? error_set_errno(err, ENOMEM, "vm %s", vm.name)
                           : vm_disks_init(&vm, disks, err);
    for (unsigned i = 0; rc == 0 && i < disks->count; i++) {
        const struct vm_disk *disk = &disks->disk[i];
        if (!disk->is_volume) {
            rc = disk->driver->disk_forget(disk->pool, disk->name, snapshot, err);
        }
    }
    if (disks != NULL) {
        vm_disks_fini(disks);
    }
    free(disks);
    if (rc == 0) {
        remove_saved(&vm, snapshot);
    }
    return rc < 0 ? error_prefix(err, rc, "snapshot %s of %s", snapshot, vm.name) : 0;
}

/* What a disk of the old instance becomes in the new one. */
struct copying {
    const struct vm *to;
    const char *snapshot;
};

static int clone_disk(void *ctx, struct vm_disk *disk, struct error *err)
{
    const struct copying *copying = ctx;
    char name[sizeof(disk->name)];
    int length = snprintf(name, sizeof(name), "instances/%s/%s", copying->to->name, disk->device);
    return (size_t)length >= sizeof(name)
               ? error_set(err, ENAMETOOLONG, "name of a disk")
               : disk->driver->disk_clone(disk->pool, disk->name, copying->snapshot, name, err);
}

/* A snapshot stands still whatever the VM does; else it does while its disks are copied. */
static int copy_disks(struct still *still, const struct copying *copying, struct error *err)
{
    struct vm_disks *disks = &still->disks;
    if (copying->snapshot == NULL) {
        return vm_disks_change(disks, still->is_up ? &still->client : NULL, clone_disk,
                               (void *)copying, err);
    }
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < disks->count; i++) {
        if (!disks->disk[i].is_volume) {
            rc = clone_disk((void *)copying, &disks->disk[i], err);
        }
    }
    return rc;
}

/* One that never ran has no places yet. */
static int copy_places(const struct vm *from, const struct vm *to, struct error *err)
{
    char path[PATH_MAX];
    void *text = NULL;
    size_t size;
    vm_state_path(from, "places.json", path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        return 0;
    }
    int rc = fd < 0 ? error_set_errno(err, errno, "%s", path)
                    : file_read_whole(fd, 65536, path, &text, &size, err);
    if (rc == 0) {
        vm_state_path(to, "places.json", path);
        rc = file_replace(path, text, 0600, true, err);
    }
    free(text);
    return rc;
}

/* One of an image stays where it is; one that lies with the instance (it was imported) is the new one's own, too. */
static int copy_boot_file(const struct vm *from, const struct vm *to, const char *name,
                          json_t *boot, const char *key, struct error *err)
{
    char here[PATH_MAX], there[PATH_MAX];
    vm_state_path(from, name, here);
    vm_state_path(to, name, there);
    const char *path = json_string_value(json_object_get(boot, key));
    if (path == NULL || strcmp(path, here) != 0) {
        return 0;
    }
    AUTO_CLOSE int in = open(here, O_RDONLY | O_CLOEXEC);
    AUTO_CLOSE int out = open(there, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (in < 0 || out < 0) {
        return error_set_errno(err, errno, "copying %s", here);
    }
    int rc = file_copy(in, out, here, err);
    if (rc == 0 && json_object_set_new(boot, key, json_string(there)) < 0) {
        rc = error_set_errno(err, ENOMEM, "%s", there);
    }
    return rc;
}

static int copy_boot(const struct vm *from, const struct vm *to, struct error *err)
{
    char path[PATH_MAX];
    void *text = NULL;
    size_t size;
    vm_state_path(from, "boot.json", path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 ? error_set_errno(err, errno, "%s", path)
                    : file_read_whole(fd, 65536, path, &text, &size, err);
    json_auto_t *boot = rc == 0 ? json_loadb(text, size, 0, NULL) : NULL;
    free(text);
    rc = rc < 0 ? rc : copy_boot_file(from, to, "vmlinuz", boot, "kernel", err);
    rc = rc < 0 ? rc : copy_boot_file(from, to, "initrd", boot, "initrd", err);
    if (rc == 0) {
        AUTO_FREE char *copy = json_dumps(boot, JSON_INDENT(2));
        vm_state_path(to, "boot.json", path);
        rc = copy == NULL ? error_set(err, EBADMSG, "%s: is no JSON", path)
                          : file_replace(path, copy, 0600, true, err);
    }
    return rc < 0 ? rc : copy_places(from, to, err);
}

static void undo_clone(const struct vm *to, struct vm_disks *disks)
{
    char path[PATH_MAX];
    struct copying copying = {.to = to};
    for (unsigned i = 0; i < disks->count; i++) {
        char name[160];
        const struct vm_disk *disk = &disks->disk[i];
        (void)snprintf(name, sizeof(name), "instances/%s/%s", copying.to->name, disk->device);
        if (!disk->is_volume) {
            error_ignore(disk->driver->disk_remove(disk->pool, name, NULL));
        }
    }
    static const char *const files[] = {"boot.json", "places.json", "seed.iso", "memory", "logs",
                                        "vmlinuz",   "initrd",      VM_RENEW,   NULL};
    for (unsigned i = 0; files[i] != NULL; i++) {
        vm_state_path(to, files[i], path);
        (void)remove(path); /* perhaps it was not made yet */
    }
    vm_state_path(to, NULL, path);
    (void)rmdir(path);
}

/* Is there room for the guest's memory twice more, as what is saved and as the clone's? */
static bool fits_into_memory(struct still *still)
{
    json_t *status = NULL;
    unsigned long long available_kib = 0;
    char line[128];
    if (vm_control_ask(&still->client, json_pack("{s:s}", "do", "status"), -1, &status, NULL) < 0) {
        return false;
    }
    json_int_t bytes = json_integer_value(json_object_get(status, "memory_bytes"));
    json_decref(status);
    FILE *file = fopen("/proc/meminfo", "re");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL &&
           sscanf(line, "MemAvailable: %llu kB", &available_kib) != 1) {
    }
    if (file != NULL) {
        fclose(file);
    }
    return bytes > 0 && (unsigned long long)bytes < available_kib / 3 * 1024;
}

/* It becomes the clone's memory (migrate/save.h): no file on a disk, if it fits. */
static int save_for_clone(struct still *still, const struct vm *to, int *out_fd,
                          char out_path[PATH_MAX], struct error *err)
{
    bool fits = fits_into_memory(still);
    int fd = fits ? huge_create_file("clone") : -1;
    fd = fits && fd < 0 ? memfd_create("hull-clone", MFD_CLOEXEC) : fd;
    vm_state_path(to, "memory", out_path);
    if (fd < 0) {
        return save_memory_as(still, out_path, err);
    }
    *out_fd = fd;
    (void)snprintf(out_path, PATH_MAX, "/proc/%d/fd/%d", (int)getpid(), fd);
    return save_memory(still, fd, err);
}

static int make_clone(struct job *job, struct still *still, const struct vm *to,
                      const char *snapshot, bool is_live, struct error *err)
{
    char path[PATH_MAX];
    char memory[PATH_MAX];
    struct stat info;
    struct copying copying = {.to = to, .snapshot = snapshot};
    AUTO_CLOSE int fd = -1;
    vm_state_path(to, "logs", path);
    int rc = file_make_folders(path, 0700, 0700, err);
    if (rc == 0) {
        rc = copy_disks(still, &copying, err);
    }
    if (rc == 0 && is_live) {
        job_progress(job, "saving the memory", 0, 0);
        rc = save_for_clone(still, to, &fd, memory, err);
    }
    go_on(still);
    vm_state_path(still->vm, "seed.iso", path);
    if (rc == 0) {
        rc = copy_boot(still->vm, to, err);
    }
    if (rc == 0) {
        rc = vm_seed_write(to, stat(path, &info) == 0, err);
    }
    if (rc == 0 && !is_live && guest_is_to_renew(still->vm)) {
        rc = guest_renew_later(to, err);
    }
    if (rc == 0 && is_live) {
        job_progress(job, "starting", 0, 0);
        rc = vm_life_start(to, memory, false, err);
        vm_state_path(to, "memory", path);
        (void)unlink(path); /* if it was a file */
    }
    return rc;
}

int vm_clone(struct job *job, const json_t *document, const json_t *from, const char *snapshot,
             bool is_live, struct error *err)
{
    struct vm old;
    struct vm new;
    vm_init(&old, &job->place, job, from);
    vm_init(&new, &job->place, job, document);
    struct still *still = calloc(1, sizeof(*still));
    if (still == NULL) {
        return error_set_errno(err, ENOMEM, "vm %s", new.name);
    }
    bool has_agent = is_live && guest_has_agent(&old);
    int rc = snapshot == NULL ? stand_still(still, job, &old, !is_live, err)
                              : vm_disks_init(&old, &still->disks, err);
    if (rc == 0 && is_live && (snapshot != NULL || !still->is_up)) {
        rc = error_set(err, EINVAL, "vm %s: %s: a live clone is one of a VM that runs", old.name,
                       snapshot != NULL ? "a snapshot has no life" : "it does not run");
    } else if (rc == 0) {
        rc = make_clone(job, still, &new, snapshot, is_live, err);
        if (rc < 0) {
            undo_clone(&new, &still->disks);
        }
    }
    end_still(still);
    free(still);
    if (rc == 0 && is_live) {
        struct error late;
        if (!has_agent) {
            job_progress(job, "the guest has no hull-agent: it keeps its name and keys", 0, 0);
        } else if (guest_give_identity(&new, &old, &late) < 0) {
            job_progress(job, late.text, 0, 0);
        }
    }
    return rc < 0 ? error_prefix(err, rc, "clone %s of %s", new.name, old.name) : 0;
}

void vm_release_left(struct job *job, const char *not_name)
{
    const json_t *step = job->is_recovery ? job_find_step(job, "vm-still") : NULL;
    const char *name = vm_property(step, "name");
    json_t *document = NULL;
    json_t *expanded = NULL;
    struct still *still = calloc(1, sizeof(*still));
    if (still != NULL && name != NULL && strcmp(name, not_name) != 0 &&
        instance_load(&job->place, name, &document, NULL) == 0 &&
        instance_expand(document, json_object_get(job->request, "profiles"), &expanded, NULL) ==
            0) {
        struct vm vm;
        vm_init(&vm, &job->place, job, expanded);
        error_ignore(stand_still(still, job, &vm, false, NULL));
        end_still(still);
    }
    json_decref(document);
    json_decref(expanded);
    free(still);
}
