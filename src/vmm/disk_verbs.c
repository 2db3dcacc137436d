/* Disks in use: what they stand on, their size and limits. Files that a verb needs come as descriptors, opened by whoever
 * asks: this process can open none.
 * Jobs: job_verbs.c. */
#include "vmm/disk_verbs.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/host/log.h"
#include "block/bitmap.h"
#include "block/image.h"
#include "vmm/disk_request.h"

static json_t *chain_of(struct block *root)
{
    json_t *chain = json_array();
    for (const struct block *at = root; at != NULL; at = block_backing(at)) {
        struct block_info info;
        block_get_info(at, &info);
        json_array_append_new(chain, json_pack("{s:s, s:s, s:I, s:b}", "file", block_name(at),
                                               "format", block_disk_format(at), "size_bytes",
                                               (json_int_t)info.size_bytes, "open_for_writing",
                                               (int)block_front_is_open_for_writing(at)));
    }
    return chain;
}

/* Those of a disk that run. */
struct job_names {
    const char *disk;
    json_t *ids;
};

static void add_job_name(void *ctx, const struct block_job_info *job)
{
    struct job_names *names = ctx;
    if (job->state <= BLOCK_JOB_READY && strcmp(job->disk, names->disk) == 0) {
        json_array_append_new(names->ids, json_string(job->id));
    }
}

static int run_list(struct vmm *vmm, struct control_client *client, struct control_request *request,
                    json_t **out_answer, struct error *err)
{
    json_t *disks = json_array();
    for (size_t i = 0; i < vmm->config.disk_count; i++) {
        if (!vmm->config.disk[i].place.is_there) {
            continue;
        }
        struct block *root = block_front_root(vmm->front[i]);
        struct block_info info;
        char name[16];
        block_get_info(block_front_block(vmm->front[i]), &info);
        json_t *entry =
            json_pack("{s:s, s:s, s:s, s:I, s:b, s:o}", "name",
                      vmm_disk_name(i, name, sizeof(name)), "file", block_name(root), "format",
                      block_disk_format(root), "size_bytes", (json_int_t)info.size_bytes,
                      "readonly", (int)info.is_readonly, "chain", chain_of(root));
        if (vmm->config.disk[i].serial[0] != '\0') {
            json_object_set_new(entry, "serial", json_string(vmm->config.disk[i].serial));
        }
        if (vmm->config.disk[i].place.id[0] != '\0') {
            json_object_set_new(entry, "id", json_string(vmm->config.disk[i].place.id));
        }
        struct job_names names = {.disk = name, .ids = json_array()};
        block_jobs_list(vmm->jobs, add_job_name, &names);
        if (json_array_size(names.ids) > 0) {
            json_object_set(entry, "jobs", names.ids);
        }
        json_decref(names.ids);
        json_array_append_new(disks, entry);
    }
    *out_answer = json_pack("{s:o}", "disks", disks);
    return 0;
}

/* Where hull ctl can make no file. */
static int make_overlay(struct vmm *vmm, size_t disk, const char *format, struct block *file,
                        struct error *err)
{
    const struct block *root = block_front_root(vmm->front[disk]);
    struct block_info info;
    block_get_info(block_front_block(vmm->front[disk]), &info);
    const struct block_create_options create = {.format = format,
                                                .size_bytes = info.size_bytes,
                                                .backing_name = block_name(root),
                                                .backing_format = block_disk_format(root)};
    int rc = block_create(file, &create, err);
    if (rc < 0) {
        block_close(file);
    }
    return rc;
}

static int run_snapshot(struct vmm *vmm, struct control_client *client,
                        struct control_request *request, json_t **out_answer, struct error *err)
{
    size_t disk;
    const char *format = NULL;
    struct block *file = NULL;
    bool is_bare = false;
    int rc = request_find_disk(vmm, request, &disk, err);
    if (rc == 0) {
        rc = request_check_free(vmm, request, disk, err);
    }
    if (rc == 0) {
        rc = request_check_lasting(vmm, request, disk, err);
    }
    if (rc == 0) {
        rc = request_check_plain(vmm, request, disk, err);
    }
    if (rc == 0) {
        rc = request_get_text(request, "format", false, &format, err);
    }
    if (rc < 0) {
        return rc;
    }
    format = format != NULL ? format : "qcow2";
    if (strcmp(format, "qcow2") != 0) {
        return error_set(err, EOPNOTSUPP, "%s: format %.16s stands on nothing: qcow2 is accepted",
                         request->verb, format);
    }
    rc = request_take_file(vmm, request, disk, format, &is_bare, &file, err);
    if (rc == 0 && is_bare) {
        rc = make_overlay(vmm, disk, format, file, err);
    }
    if (rc == 0) {
        rc = block_front_put_overlay(vmm->front[disk], file, format, err);
    }
    if (rc < 0) {
        return error_prefix(err, rc, "%s", request->verb);
    }
    log_info("vm %s: disk%zu: a snapshot: writes go to %s now", vmm->config.name, disk,
             block_name(block_front_root(vmm->front[disk])));
    *out_answer = json_pack("{s:o}", "chain", chain_of(block_front_root(vmm->front[disk])));
    return 0;
}

/* All that the guest was told is in the files then: who pauses the VM may copy them. */
static int run_flush(struct vmm *vmm, struct control_client *client,
                     struct control_request *request, json_t **out_answer, struct error *err)
{
    for (size_t i = 0; i < vmm->config.disk_count; i++) {
        if (!vmm->config.disk[i].place.is_there) {
            continue;
        }
        struct block_info info;
        block_get_info(vmm->disk[i], &info);
        block_drain(vmm->disk[i]);
        int rc = info.is_readonly ? 0 : block_flush(vmm->disk[i]);
        if (rc < 0) {
            return error_set_errno(err, -rc, "%s: disk%zu", request->verb, i);
        }
    }
    return 0;
}

static int run_resize(struct vmm *vmm, struct control_client *client,
                      struct control_request *request, json_t **out_answer, struct error *err)
{
    size_t disk;
    uint64_t bytes = 0;
    struct block_info info;
    int rc = request_find_disk(vmm, request, &disk, err);
    if (rc == 0) {
        rc = request_check_free(vmm, request, disk, err);
    }
    if (rc == 0) {
        rc = request_get_number(request, "bytes", INT64_MAX, 0, &bytes, err);
    }
    if (rc < 0) {
        return rc;
    }
    block_get_info(block_front_block(vmm->front[disk]), &info);
    if (bytes == 0 || bytes % 512 != 0) {
        return error_set(err, EINVAL, "%s: \"bytes\" is the new size: a multiple of 512",
                         request->verb);
    }
    if (bytes < info.size_bytes && !json_is_true(json_object_get(request->arguments, "shrink"))) {
        return error_set(err, EINVAL,
                         "%s: the disk has %llu bytes: \"shrink\" true permits to cut them off",
                         request->verb, (unsigned long long)info.size_bytes);
    }
    block_drain(vmm->disk[disk]);
    rc = block_resize(vmm->disk[disk], bytes);
    if (rc == -EOPNOTSUPP) {
        return error_set(err, EOPNOTSUPP, "%s: an image of that kind cannot be resized",
                         request->verb);
    }
    if (rc < 0) {
        return error_set_errno(err, -rc, "%s: disk%zu", request->verb, disk);
    }
    rc = block_bitmaps_store(vmm->front[disk], err);
    machine_disk_resized(vmm->machine, disk);
    if (rc < 0) {
        return error_prefix(err, rc, "%s: it has the new size, but", request->verb);
    }
    *out_answer = json_pack("{s:I}", "size_bytes", (json_int_t)bytes);
    return 0;
}

static void put_limit(void *ctx, const char *key, uint64_t value)
{
    json_object_set_new(ctx, key, json_integer((json_int_t)value));
}

/* Limits that the request names change, the others stay; all disks of the group have the new ones. */
static int run_throttle(struct vmm *vmm, struct control_client *client,
                        struct control_request *request, json_t **out_answer, struct error *err)
{
    size_t index;
    int rc = request_find_disk(vmm, request, &index, err);
    if (rc < 0) {
        return rc;
    }
    struct block_throttle_group *group = vmm->policy[index].throttle;
    struct block_throttle_limits limits;
    block_throttle_get(group, &limits);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)request->arguments, key, value)
    {
        bool is_bytes;
        if (strcmp(key, "id") == 0 || strcmp(key, "do") == 0 || strcmp(key, "disk") == 0) {
            continue;
        }
        if (!json_is_integer(value) || json_integer_value(value) < 0 ||
            !block_throttle_set_key(&limits, key, (uint64_t)json_integer_value(value), &is_bytes)) {
            return error_set(err, EINVAL,
                             "disk-throttle: \"%.40s\": a number for bps, bps-rd, bps-wr, iops, "
                             "iops-rd, iops-wr, each also with -max and -max-length, or iops-size",
                             key);
        }
    }
    rc = block_throttle_check(&limits, err);
    if (rc < 0) {
        return error_prefix(err, rc, "disk-throttle");
    }
    block_throttle_set(group, &limits);
    *out_answer = json_object();
    block_throttle_each(&limits, put_limit, *out_answer);
    return 0;
}

const struct control_verb vmm_disk_verbs[] = {
    {"disk-list", run_list},     {"disk-flush", run_flush},       {"disk-snapshot", run_snapshot},
    {"disk-resize", run_resize}, {"disk-throttle", run_throttle},
};
const size_t vmm_disk_verb_count = ARRAY_COUNT(vmm_disk_verbs);
