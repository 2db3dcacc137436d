/* template-create, template-delete: an instance as an image from which others are launched, and what they are launched with. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"
#include "manager/image/files.h"
#include "manager/image/vm_form.h"
#include "manager/image/work.h"
#include "manager/text.h"
#include "manager/transfer/transfer.h"

#define DISK "disk.qcow2"

/* Without what is one instance's own. */
static json_t *launch_settings(const struct work *work)
{
    static const char *const own[] = {"hostname", "user_data"};
    static const char *const own_of_card[] = {"mac", "ipv4", "ipv6"};
    static const char *const taken[] = {"profiles", "config", "devices"};
    json_t *settings = json_pack("{s:s, s:s}", "kind", work->driver->kind, "from", work->name);
    for (size_t i = 0; i < ARRAY_COUNT(taken); i++) {
        const json_t *value = json_object_get(work->document, taken[i]);
        if (value != NULL) {
            (void)json_object_set_new(settings, taken[i], json_deep_copy(value));
        }
    }
    for (size_t i = 0; i < ARRAY_COUNT(own); i++) {
        (void)json_object_del(json_object_get(settings, "config"), own[i]);
    }
    const char *name;
    json_t *device, *devices = json_object_get(settings, "devices");
    void *next;
    json_object_foreach_safe(devices, next, name, device)
    {
        for (size_t i = 0; i < ARRAY_COUNT(own_of_card); i++) {
            (void)json_object_del(device, own_of_card[i]);
        }
        /* Volumes and ports have one user. */
        if (json_object_size(device) == 0 || instance_is_device(device, "forward") ||
            (instance_is_device(device, "disk") && text_of(device, "source") != NULL)) {
            (void)json_object_del(devices, name);
        }
    }
    return settings;
}

static int make_of_container(struct work *work, const struct transfer_moment *moment,
                             const char *source, json_t **out_document, struct error *err)
{
    char folder[PATH_MAX], path[PATH_MAX], digest[TEMPLATE_DIGEST_SIZE];
    int rc = transfer_folder_make(work->job, folder, err);
    transfer_path(folder, "tree.tar", path);
    rc = rc < 0 ? rc : container_pack(work, folder, moment, path, err);
    struct template_build request = {.root_tree = path};
    rc = rc < 0 ? rc : work_template(work->job, &request, digest, err);
    transfer_folder_remove(work->job);
    return rc < 0 ? rc : work_document(&work->job->place, digest, source, true, out_document, err);
}

static int copy_file(const char *from, const char *folder, const char *name, struct error *err)
{
    char to[PATH_MAX];
    (void)snprintf(to, sizeof(to), "%.3900s/%s", folder, name);
    return from[0] != '\0' ? vm_form_copy(from, to, err) : 0;
}

/* Disk, kernel and initrd as the files of an image. */
static int make_files(struct work *work, const struct transfer_moment *moment, const char *folder,
                      json_t **out_vm, struct error *err)
{
    char raw[PATH_MAX], disk[PATH_MAX], format[16];
    uint64_t size = 0;
    json_auto_t *boot = NULL;
    (void)snprintf(raw, sizeof(raw), "%.3900s/root.raw", folder);
    (void)snprintf(disk, sizeof(disk), "%.3900s/" DISK, folder);
    int rc = vm_read_boot(work, &boot, err);
    rc = rc < 0 ? rc : vm_pack(work, moment, raw, err);
    rc = rc < 0 ? rc : work_disk_info(work->job, raw, "raw", format, &size, err);
    job_progress(work->job, "making the image's disk", 0, 0);
    rc = rc < 0 ? rc : work_convert(work->job, raw, "raw", disk, "qcow2", err);
    (void)unlink(raw); /* it goes with the folder in any case */
    const char *kernel = text_or_empty(boot, "kernel"), *initrd = text_or_empty(boot, "initrd");
    rc = rc < 0 ? rc : copy_file(kernel, folder, "vmlinuz", err);
    rc = rc < 0 ? rc : copy_file(initrd, folder, "initrd", err);
    if (rc == 0) {
        *out_vm = json_pack(
            "{s:s, s:s, s:I, s:s, s:s, s:s}", "disk", DISK, "format", "qcow2", "virtual_size_bytes",
            (json_int_t)size, "kernel", kernel[0] != '\0' ? "vmlinuz" : "", "initrd",
            initrd[0] != '\0' ? "initrd" : "", "append", text_or_empty(boot, "append"));
    }
    return rc;
}

static int make_of_vm(struct work *work, const struct transfer_moment *moment, const char *source,
                      json_t **out_document, struct error *err)
{
    struct job *job = work->job;
    char folder[PATH_MAX], digest[72], path[PATH_MAX];
    struct stat st;
    json_auto_t *vm = NULL;
    int rc = files_begin(job, folder, err);
    if (rc < 0) {
        return rc;
    }
    rc = make_files(work, moment, folder, &vm, err);
    (void)snprintf(path, sizeof(path), "%.3900s/" DISK, folder);
    json_int_t used = rc == 0 && stat(path, &st) == 0 ? (json_int_t)st.st_blocks * 512 : 0;
    rc = rc < 0 ? rc : files_describe(job, folder, NULL, vm, digest, err);
    rc = rc < 0 ? rc : files_commit(&job->place, folder, digest, err);
    if (rc < 0) {
        files_abandon(folder);
        return rc;
    }
    rc = work_document(&job->place, digest, source, false, out_document, err);
    if (rc == 0) {
        place_state_path(&job->place, "instances", work->name, "seed.iso", path);
        json_object_set_new(*out_document, "size_bytes", json_integer(used));
        json_object_set_new(*out_document, "forms", json_pack("[s]", "vm"));
        json_object_set(*out_document, "vm", vm);
        /* Its disk has been a machine's: what is launched from it becomes another one. */
        json_object_set_new(*out_document, "identity", json_string("renew"));
        json_object_set_new(*out_document, "cloud_init", json_boolean(stat(path, &st) == 0));
    }
    return rc;
}

static int put(struct work *work, json_t *document, json_t **out_result, struct error *err)
{
    const json_t *request = work->job->request;
    const char *alias = text_or_empty(request, "template");
    char now[32], digest[72];
    (void)snprintf(digest, sizeof(digest), "%.71s", text_or_empty(document, "name"));
    int rc = work_finish(work->job, document, false, NULL, out_result, err);
    if (rc < 0) {
        return rc;
    }
    instance_format_time(now);
    json_t *settings = launch_settings(work);
    (void)json_object_set_new(settings, "description",
                              json_string(text_or_empty(request, "description")));
    (void)json_object_set_new(settings, "created_at", json_string(now));
    rc = job_put(
        work->job, "alias", alias,
        json_pack("{s:s, s:s, s:o}", "name", alias, "digest", digest, "template", settings), err);
    if (rc == 0) {
        (void)json_object_set_new(*out_result, "alias", json_string(alias));
    }
    return rc;
}

int transfer_template(struct job *job, json_t **out_result, struct error *err)
{
    struct work work;
    struct transfer_moment moment = {0};
    char source[200];
    json_t *document = NULL;
    int rc = work_open(job, &work, err);
    if (rc < 0) {
        return rc;
    }
    (void)snprintf(source, sizeof(source), "template of %.100s", work.name);
    enum instance_status status = work_status(&work);
    if (status != INSTANCE_STOPPED && status != INSTANCE_ERROR &&
        !json_is_true(json_object_get(job->request, "live"))) {
        rc =
            error_set(err, EBUSY, "instance %s is %s: stop it first, or take it as it runs: --live",
                      work.name, instance_status_name(status));
    }
    rc = rc < 0 ? rc : transfer_moment_begin(&work, &moment, err);
    if (rc == 0) {
        rc = work.driver == &vm_driver ? make_of_vm(&work, &moment, source, &document, err)
                                       : make_of_container(&work, &moment, source, &document, err);
        transfer_moment_end(&work, &moment);
    }
    rc = rc < 0 ? rc : put(&work, document, out_result, err);
    work_close(&work);
    return rc;
}

int transfer_template_recover(struct job *job, json_t **out_result, struct error *err)
{
    transfer_moment_recover(job);
    vm_send_recover(job);
    return transfer_template(job, out_result, err);
}

int transfer_template_delete(struct job *job, json_t **out_result, struct error *err)
{
    const char *alias = text_or_empty(job->request, "template");
    int rc = job_drop(job, "alias", alias, err);
    if (rc == 0 && json_is_true(json_object_get(job->request, "with_image"))) {
        rc = work_remove_image(job, text_or_empty(job->request, "digest"), err);
    }
    if (rc == 0) {
        *out_result = json_pack("{s:s}", "name", alias);
    }
    return rc;
}
