/* What exports, imports and templates share. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"
#include "manager/instance/vm/snapshot.h"
#include "manager/text.h"
#include "manager/transfer/transfer.h"
#include "system/layers/layers.h"

#define AREA "transfers"

int transfer_folder_make(struct job *job, char out_folder[PATH_MAX], struct error *err)
{
    place_state_path(&job->place, AREA, job->id, NULL, out_folder);
    int rc = layers_remove(out_folder, err);
    return rc < 0 ? rc : file_make_folders(out_folder, 0700, 0700, err);
}

void transfer_folder_remove(const struct job *job)
{
    char path[PATH_MAX];
    place_state_path(&job->place, AREA, job->id, NULL, path);
    error_ignore(layers_remove(path, NULL));
    place_state_path(&job->place, AREA, NULL, NULL, path);
    (void)rmdir(path); /* others may work in it */
    place_run_path(&job->place, AREA, job->id, NULL, path);
    (void)unlink(path); /* at which a worker that died has waited for its client */
}

void transfer_path(const char *folder, const char *name, char out_path[PATH_MAX])
{
    (void)snprintf(out_path, PATH_MAX, "%.3900s/%s", folder, name);
}

void transfer_state_name(size_t state, char out_name[BUNDLE_NAME_SIZE])
{
    (void)snprintf(out_name, BUNDLE_NAME_SIZE, "states/%zu.tar", state);
}

int transfer_disk_name(const char *device, size_t state, char out_name[BUNDLE_NAME_SIZE],
                       struct error *err)
{
    /* Some room for what GNU's format adds to it. */
    int length = snprintf(out_name, BUNDLE_NAME_SIZE, "disks/%s/%zu.raw", device, state);
    return length >= BUNDLE_NAME_SIZE - 20
               ? error_set(err, ENAMETOOLONG, "disk %s: its name is too long for an export", device)
               : 0;
}

int transfer_poll(void *job)
{
    return job_is_cancelled(job);
}

const struct transfer_file *transfer_find(const struct transfer_files *files, const char *name)
{
    for (size_t i = 0; i < files->count; i++) {
        if (strcmp(files->list[i].name, name) == 0) {
            return &files->list[i];
        }
    }
    return NULL;
}

int transfer_moment_begin(struct work *work, struct transfer_moment *out_moment, struct error *err)
{
    enum instance_status status = work_status(work);
    *out_moment = (struct transfer_moment){0};
    if (status == INSTANCE_STOPPED || status == INSTANCE_ERROR) {
        return 0;
    }
    (void)snprintf(out_moment->snapshot, sizeof(out_moment->snapshot), "export-%.12s",
                   work->job->id);
    job_progress(work->job, "making a snapshot", 0, 0);
    int rc = job_step(work->job, "moment",
                      json_pack("{s:s, s:b}", "snapshot", out_moment->snapshot, "was_running",
                                status == INSTANCE_RUNNING),
                      err);
    rc = rc < 0
             ? rc
             : work->driver->snapshot(work->job, work->expanded, out_moment->snapshot, false, err);
    if (rc < 0) {
        transfer_moment_end(work, out_moment);
        out_moment->snapshot[0] = '\0';
    }
    return rc;
}

void transfer_moment_end(struct work *work, const struct transfer_moment *moment)
{
    if (moment->snapshot[0] != '\0') {
        struct error ignored;
        error_ignore(work->driver->forget(work->job, work->expanded, moment->snapshot, &ignored));
    }
}

void transfer_moment_recover(struct job *job)
{
    struct work work;
    struct error ignored;
    struct transfer_moment moment = {0};
    const json_t *step = job_find_step(job, "moment");
    if (step == NULL || work_open(job, &work, &ignored) < 0) {
        return;
    }
    /* It may have been left standing still. */
    vm_release_left(job, "");
    if (json_is_true(json_object_get(step, "was_running")) &&
        work_status(&work) == INSTANCE_PAUSED) {
        error_ignore(work.driver->pause(job, work.expanded, false, &ignored));
    }
    (void)snprintf(moment.snapshot, sizeof(moment.snapshot), "%s", text_or_empty(step, "snapshot"));
    transfer_moment_end(&work, &moment);
    work_close(&work);
}
