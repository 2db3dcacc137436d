/* Jobs on disks in use: starting them, orders to them, and what is told of them. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/host/log.h"
#include "block/bitmap.h"
#include "block/image.h"
#include "block/remote.h"
#include "vmm/disk_request.h"
#include "vmm/disk_verbs.h"

static const char *state_word(enum block_job_state state)
{
    static const char *const words[] = {
        [BLOCK_JOB_RUNNING] = "running",     [BLOCK_JOB_PAUSED] = "paused",
        [BLOCK_JOB_READY] = "ready",         [BLOCK_JOB_DONE] = "done",
        [BLOCK_JOB_CANCELLED] = "cancelled", [BLOCK_JOB_FAILED] = "failed",
    };
    return words[state];
}

static json_t *job_object(const struct block_job_info *info)
{
    json_t *object = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I}", "job", info->id, "kind",
                               info->kind, "disk", info->disk, "state", state_word(info->state),
                               "done_bytes", (json_int_t)info->done_bytes, "total_bytes",
                               (json_int_t)info->total_bytes, "speed", (json_int_t)info->speed);
    if (info->failure != NULL && info->failure[0] != '\0') {
        json_t *text = json_string(info->failure);
        json_object_set_new(object, "failure", text != NULL ? text : json_string("failed"));
    }
    return object;
}

/* What the verbs that start a job have in common. */
static int begin_job(struct vmm *vmm, const struct control_request *request, size_t *out_disk,
                     char *name, size_t size, struct block_job_options *out_options,
                     struct error *err)
{
    *out_options = (struct block_job_options){0};
    int rc = request_find_disk(vmm, request, out_disk, err);
    if (rc == 0) {
        rc = request_get_number(request, "speed", INT64_MAX, 0, &out_options->speed, err);
    }
    if (rc == 0) {
        out_options->front = vmm->front[*out_disk];
        out_options->disk = vmm_disk_name(*out_disk, name, size);
    }
    return rc;
}

static void answer_job(const struct vmm *vmm, size_t disk, json_t **out_answer)
{
    const struct block_job *job = block_jobs_of(vmm->jobs, vmm->front[disk]);
    struct block_job_info info;
    if (job != NULL) {
        block_job_get_info(job, &info);
        *out_answer = job_object(&info);
    }
}

/* The image at that depth: 0 is the top. */
static struct block *at_depth(struct block *root, uint64_t depth)
{
    while (root != NULL && depth-- > 0) {
        root = block_backing(root);
    }
    return root;
}

/* An image that the disk stands on, open for writing: the file that came with the request, or one called 'name', perhaps behind a
 * socket that came. */
static int take_below(struct vmm *vmm, struct control_request *request, size_t disk, int *fd,
                      const char *name, struct block **out_block, struct error *err)
{
    const struct block_file_options options = {.is_direct = vmm->config.disk[disk].is_direct,
                                               .aio = request_aio(vmm, disk)};
    struct block *file = NULL;
    struct stat status;
    int taken = *fd;
    int rc = 0;
    bool is_socket = taken >= 0 && fstat(taken, &status) == 0 && S_ISSOCK(status.st_mode);
    if (taken >= 0 && !is_socket) {
        rc = request_check_file(request, taken, err);
        if (rc < 0) {
            return rc;
        }
        *fd = -1;
        rc = block_front_make_writable(vmm->front[disk], taken, &options, out_block, err);
    } else {
        if (is_socket) {
            rc = request_open_server(vmm, request, fd, name, true, &file, err);
        }
        if (rc == 0 && is_socket) {
            rc = block_remote_for_format(&file, err);
        }
        if (rc == 0) {
            rc = block_front_make_named_writable(vmm->front[disk], name, file, out_block, err);
        }
    }
    return rc < 0 ? error_prefix(err, rc, "%s: %s", request->verb, name) : 0;
}

static int run_stream(struct vmm *vmm, struct control_client *client,
                      struct control_request *request, json_t **out_answer, struct error *err)
{
    size_t disk = 0;
    char disk_name[16];
    const char *name = NULL;
    uint64_t base_depth = 0;
    struct block_job_options options;
    int rc = begin_job(vmm, request, &disk, disk_name, sizeof(disk_name), &options, err);
    if (rc == 0) {
        rc = request_check_chain(vmm, request, disk, err);
    }
    if (rc == 0) {
        rc = request_check_lasting(vmm, request, disk, err);
    }
    if (rc == 0) {
        rc = request_get_text(request, "name", request->fd >= 0, &name, err);
    }
    if (rc == 0) {
        rc = request_get_number(request, "base", BLOCK_MAX_CHAIN, 0, &base_depth, err);
    }
    if (rc < 0) {
        return rc;
    }
    struct block *target = block_front_root(options.front);
    struct block *base = base_depth > 0 ? at_depth(target, base_depth) : NULL;
    if (base_depth > 0 && base == NULL) {
        return error_set(err, EINVAL, "%s: \"base\" is a place in the chain: see disk-list",
                         request->verb);
    }
    if (rc == 0 && name != NULL) {
        rc = take_below(vmm, request, disk, &request->fd, name, &target, err);
        base = base_depth > 0 ? at_depth(block_front_root(options.front), base_depth) : NULL;
    }
    if (rc == 0) {
        rc = block_stream_start(vmm->jobs, &options, target, base,
                                base != NULL ? block_name(base) : NULL,
                                base != NULL ? block_disk_format(base) : NULL, err);
        if (rc < 0 && target != block_front_root(options.front)) {
            block_front_make_readonly(target);
        }
    }
    if (rc == 0) {
        answer_job(vmm, disk, out_answer);
    }
    return rc;
}

/* The image above the one at that depth, whose header will name another one: of the top one it is open anyway. */
static int take_above(struct vmm *vmm, struct control_request *request, size_t disk, uint64_t depth,
                      struct block **out_block, struct error *err)
{
    const struct block_front *front = vmm->front[disk];
    *out_block = depth > 0 ? at_depth(block_front_root(front), depth - 1) : NULL;
    if (depth < 2 || *out_block == NULL) {
        return 0;
    }
    char name[1024];
    struct block *taken = NULL;
    (void)snprintf(name, sizeof(name), "%s", block_name(*out_block)); /* it may be exchanged */
    int rc = take_below(vmm, request, disk, &request->other_fd, name, &taken, err);
    if (rc == 0 && taken != at_depth(block_front_root(front), depth - 1)) {
        block_front_make_readonly(taken);
        rc = error_set(err, EINVAL,
                       "%s: another file came with the request than image %llu of disk-list",
                       request->verb, (unsigned long long)depth - 1);
    }
    *out_block = rc == 0 ? taken : NULL;
    return rc;
}

static int run_commit(struct vmm *vmm, struct control_client *client,
                      struct control_request *request, json_t **out_answer, struct error *err)
{
    size_t disk = 0;
    char disk_name[16];
    const char *name = NULL;
    uint64_t from = 0;
    struct block_job_options options;
    struct block *base = NULL, *above = NULL;
    int rc = begin_job(vmm, request, &disk, disk_name, sizeof(disk_name), &options, err);
    if (rc == 0) {
        rc = request_check_chain(vmm, request, disk, err);
    }
    if (rc == 0) {
        rc = request_check_lasting(vmm, request, disk, err);
    }
    if (rc == 0) {
        rc = request_get_number(request, "from", BLOCK_MAX_CHAIN, 0, &from, err);
    }
    if (rc == 0 && at_depth(block_front_root(options.front), from) == NULL) {
        rc = error_set(err, EINVAL, "%s: \"from\" is a place in the chain: see disk-list",
                       request->verb);
    }
    if (rc == 0) {
        rc = request_get_text(request, "name", true, &name, err);
    }
    if (rc == 0) {
        rc = take_below(vmm, request, disk, &request->fd, name, &base, err);
    }
    if (rc < 0) {
        return rc;
    }
    rc = take_above(vmm, request, disk, from, &above, err);
    if (rc == 0) {
        rc =
            block_commit_start(vmm->jobs, &options, at_depth(block_front_root(options.front), from),
                               base, block_name(base), block_disk_format(base), err);
        if (rc < 0 && from > 1) {
            block_front_make_readonly(above);
        }
    }
    if (rc < 0) {
        block_front_make_readonly(base);
        return rc;
    }
    answer_job(vmm, disk, out_answer);
    return 0;
}

/* Is there an image that the job shall go on with? */
static int read_existing(const struct control_request *request, bool *out_is_existing,
                         struct error *err)
{
    const json_t *existing = json_object_get(request->arguments, "existing");
    *out_is_existing = json_is_true(existing);
    return existing == NULL || json_is_boolean(existing)
               ? 0
               : error_set(err, EINVAL, "%s: \"existing\" is true or false", request->verb);
}

/* The image that came with the request, for a job to copy to. */
static int take_target(struct vmm *vmm, struct control_request *request, size_t disk,
                       struct block_job_target *out_target, struct error *err)
{
    const char *format = NULL;
    struct block *file = NULL;
    struct block_info info;
    bool is_bare = false;
    bool is_existing = false;
    int rc = request_check_plain(vmm, request, disk, err);
    if (rc == 0) {
        rc = read_existing(request, &is_existing, err);
    }
    if (rc == 0) {
        rc = request_get_text(request, "format", false, &format, err);
    }
    format = rc == 0 && format != NULL ? format : "raw";
    if (rc == 0 && strcmp(format, "raw") != 0 && strcmp(format, "qcow2") != 0) {
        rc = error_set(err, EOPNOTSUPP, "%s: format %.16s: raw and qcow2 are accepted",
                       request->verb, format);
    }
    if (rc == 0) {
        rc = request_take_file(vmm, request, disk, format, &is_bare, &file, err);
        is_bare = is_bare && !is_existing;
    }
    if (rc == 0) {
        block_get_info(block_front_block(vmm->front[disk]), &info);
        const struct block_create_options create = {.format = format,
                                                    .size_bytes = info.size_bytes};
        const struct block_job_target_options options = {
            .format = format, .size_bytes = info.size_bytes, .create = is_bare ? &create : NULL};
        rc = block_job_open_target(file, &options, out_target, err);
    }
    return rc < 0 ? error_prefix(err, rc, "%s", request->verb) : 0;
}

static int find_bitmap(struct vmm *vmm, const struct control_request *request, size_t disk,
                       struct block_bitmap **out_bitmap, struct error *err)
{
    const char *name = NULL;
    int rc = request_get_text(request, "bitmap", false, &name, err);
    *out_bitmap = NULL;
    if (rc == 0 && name != NULL) {
        *out_bitmap = block_bitmap_find(vmm->front[disk], name);
        rc = *out_bitmap != NULL ? 0
                                 : error_set(err, ENODEV, "%s: disk%zu has no bitmap %.40s",
                                             request->verb, disk, name);
    }
    return rc;
}

static int read_mirror(struct vmm *vmm, const struct control_request *request, size_t disk,
                       struct block_mirror_options *out_mirror, struct error *err)
{
    static const char *const words[] = {[BLOCK_MIRROR_FULL] = "full",
                                        [BLOCK_MIRROR_TOP] = "top",
                                        [BLOCK_MIRROR_NONE] = "none",
                                        [BLOCK_MIRROR_INCREMENTAL] = "incremental"};
    const char *sync = NULL;
    *out_mirror = (struct block_mirror_options){0};
    int rc = request_get_text(request, "sync", false, &sync, err);
    if (rc == 0) {
        rc = read_existing(request, &out_mirror->is_existing, err);
    }
    if (rc == 0) {
        rc = find_bitmap(vmm, request, disk, &out_mirror->bitmap, err);
    }
    if (rc < 0) {
        return rc;
    }
    sync = sync != NULL ? sync : out_mirror->bitmap != NULL ? "incremental" : "full";
    size_t i = 0;
    while (i < ARRAY_COUNT(words) && strcmp(words[i], sync) != 0) {
        i++;
    }
    out_mirror->sync = (enum block_mirror_sync)i;
    bool is_incremental = out_mirror->sync == BLOCK_MIRROR_INCREMENTAL;
    if (i == ARRAY_COUNT(words)) {
        return error_set(err, EINVAL, "%s: \"sync\" is full, top, none or incremental",
                         request->verb);
    }
    if (is_incremental && (out_mirror->bitmap == NULL || !out_mirror->is_existing)) {
        return error_set(
            err, EINVAL,
            "%s: \"bitmap\" says what has changed since when; the rest has to be in the "
            "target: \"existing\" true",
            request->verb);
    }
    return out_mirror->sync == BLOCK_MIRROR_NONE ? request_check_lasting(vmm, request, disk, err)
                                                 : 0;
}

static int run_mirror(struct vmm *vmm, struct control_client *client,
                      struct control_request *request, json_t **out_answer, struct error *err)
{
    size_t disk;
    char name[16];
    struct block_job_options options;
    struct block_mirror_options mirror;
    struct block_job_target target;
    int rc = begin_job(vmm, request, &disk, name, sizeof(name), &options, err);
    if (rc == 0) {
        rc = read_mirror(vmm, request, disk, &mirror, err);
    }
    if (rc == 0) {
        rc = take_target(vmm, request, disk, &target, err);
    }
    if (rc == 0) {
        rc = block_mirror_start(vmm->jobs, &options, &mirror, &target, err);
    }
    if (rc == 0) {
        answer_job(vmm, disk, out_answer);
    }
    return rc;
}

static int read_backup(struct vmm *vmm, const struct control_request *request, size_t disk,
                       struct block_backup_options *out_backup, struct error *err)
{
    const char *mode = NULL;
    *out_backup = (struct block_backup_options){0};
    int rc = find_bitmap(vmm, request, disk, &out_backup->bitmap, err);
    if (rc == 0) {
        rc = request_get_text(request, "mode", false, &mode, err);
    }
    if (rc == 0) {
        rc = request_get_text(request, "backing", false, &out_backup->backing_name, err);
    }
    if (rc == 0) {
        rc = request_get_text(request, "backing-format", out_backup->backing_name != NULL,
                              &out_backup->backing_format, err);
    }
    if (rc < 0) {
        return rc;
    }
    mode = mode != NULL ? mode : out_backup->bitmap != NULL ? "incremental" : "full";
    out_backup->is_full = strcmp(mode, "full") == 0;
    if (!out_backup->is_full && strcmp(mode, "incremental") != 0) {
        return error_set(err, EINVAL, "%s: \"mode\" is full or incremental", request->verb);
    }
    return out_backup->is_full || out_backup->bitmap != NULL
               ? 0
               : error_set(err, EINVAL, "%s: \"bitmap\" says what has changed since when",
                           request->verb);
}

static int run_backup(struct vmm *vmm, struct control_client *client,
                      struct control_request *request, json_t **out_answer, struct error *err)
{
    size_t disk;
    char name[16];
    struct block_job_options options;
    struct block_job_target target;
    struct block_backup_options backup;
    int rc = begin_job(vmm, request, &disk, name, sizeof(name), &options, err);
    if (rc == 0) {
        rc = read_backup(vmm, request, disk, &backup, err);
    }
    if (rc == 0) {
        rc = take_target(vmm, request, disk, &target, err);
    }
    if (rc == 0) {
        rc = block_backup_start(vmm->jobs, &options, &backup, &target, err);
    }
    if (rc == 0) {
        answer_job(vmm, disk, out_answer);
    }
    return rc;
}

static void add_job(void *ctx, const struct block_job_info *job)
{
    json_array_append_new(ctx, job_object(job));
}

static int run_jobs(struct vmm *vmm, struct control_client *client, struct control_request *request,
                    json_t **out_answer, struct error *err)
{
    json_t *jobs = json_array();
    block_jobs_list(vmm->jobs, add_job, jobs);
    *out_answer = json_pack("{s:o}", "jobs", jobs);
    return 0;
}

static int find_job(const struct vmm *vmm, const struct control_request *request,
                    struct block_job **out_job, struct error *err)
{
    const char *id;
    int rc = request_get_text(request, "job", true, &id, err);
    if (rc < 0) {
        return rc;
    }
    *out_job = block_jobs_find(vmm->jobs, id);
    return *out_job != NULL
               ? 0
               : error_set(err, ENODEV, "%s: no job %.16s is running: see jobs", request->verb, id);
}

static int run_job_pause(struct vmm *vmm, struct control_client *client,
                         struct control_request *request, json_t **out_answer, struct error *err)
{
    struct block_job *job;
    int rc = find_job(vmm, request, &job, err);
    if (rc == 0) {
        block_job_pause(job);
    }
    return rc;
}

static int run_job_resume(struct vmm *vmm, struct control_client *client,
                          struct control_request *request, json_t **out_answer, struct error *err)
{
    struct block_job *job;
    int rc = find_job(vmm, request, &job, err);
    if (rc == 0) {
        block_job_resume(job);
    }
    return rc;
}

static int run_job_cancel(struct vmm *vmm, struct control_client *client,
                          struct control_request *request, json_t **out_answer, struct error *err)
{
    struct block_job *job;
    int rc = find_job(vmm, request, &job, err);
    if (rc == 0) {
        block_job_cancel(job);
    }
    return rc;
}

/* The mirror of a disk, as the request does not say which job. */
struct mirror_search {
    const char *disk;
    char id[16];
    unsigned count;
};

static void look_at_job(void *ctx, const struct block_job_info *job)
{
    struct mirror_search *search = ctx;
    if (job->state <= BLOCK_JOB_READY && strcmp(job->kind, "mirror") == 0 &&
        strcmp(job->disk, search->disk) == 0) {
        (void)snprintf(search->id, sizeof(search->id), "%s", job->id);
        search->count++;
    }
}

static int find_mirror(const struct vmm *vmm, const struct control_request *request,
                       struct block_job **out_job, struct error *err)
{
    size_t disk;
    char name[16];
    if (json_object_get(request->arguments, "disk") == NULL) {
        return find_job(vmm, request, out_job, err);
    }
    int rc = request_find_disk(vmm, request, &disk, err);
    if (rc < 0) {
        return rc;
    }
    struct mirror_search search = {.disk = vmm_disk_name(disk, name, sizeof(name))};
    block_jobs_list(vmm->jobs, look_at_job, &search);
    *out_job = search.count == 1 ? block_jobs_find(vmm->jobs, search.id) : NULL;
    return *out_job != NULL ? 0
           : search.count > 1
               ? error_set(err, EINVAL, "%s: disk%zu has %u mirrors: job=J says which",
                           request->verb, disk, search.count)
               : error_set(err, ENODEV, "%s: disk%zu has no mirror", request->verb, disk);
}

static int run_mirror_complete(struct vmm *vmm, struct control_client *client,
                               struct control_request *request, json_t **out_answer,
                               struct error *err)
{
    const json_t *pivot = json_object_get(request->arguments, "pivot");
    struct block_job *job;
    if (pivot != NULL && !json_is_boolean(pivot)) {
        return error_set(err, EINVAL, "%s: \"pivot\" is true or false", request->verb);
    }
    int rc = find_mirror(vmm, request, &job, err);
    return rc == 0 ? block_job_complete(job, !json_is_false(pivot), err) : rc;
}

static int run_job_speed(struct vmm *vmm, struct control_client *client,
                         struct control_request *request, json_t **out_answer, struct error *err)
{
    struct block_job *job = NULL;
    uint64_t speed = 0;
    int rc = find_job(vmm, request, &job, err);
    if (rc == 0 && json_object_get(request->arguments, "speed") == NULL) {
        rc = error_set(err, EINVAL, "%s: \"speed\" is bytes a second; 0: no limit", request->verb);
    }
    if (rc == 0) {
        rc = request_get_number(request, "speed", INT64_MAX, 0, &speed, err);
    }
    if (rc == 0) {
        block_job_set_speed(job, speed);
    }
    return rc;
}

void vmm_job_event(void *ctx, const struct block_job_info *job, enum block_job_event event)
{
    struct vmm *vmm = ctx;
    static const char *const names[] = {[BLOCK_JOB_PROGRESS] = "job-progress",
                                        [BLOCK_JOB_STATE] = "job-state",
                                        [BLOCK_JOB_ENDED] = "job-ended"};
    if (event == BLOCK_JOB_ENDED) {
        log_write(job->state == BLOCK_JOB_FAILED ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO,
                  "vm %s: %s: %s %s: %s%s%s", vmm->config.name, job->disk, job->kind, job->id,
                  state_word(job->state), job->failure[0] != '\0' ? ": " : "", job->failure);
    }
    if (vmm->control != NULL) {
        json_t *line = job_object(job);
        json_object_set_new(line, "event", json_string(names[event]));
        json_object_set_new(line, "name", json_string(vmm->config.name));
        control_send_event(vmm->control, line);
    }
}

const struct control_verb vmm_job_verbs[] = {
    {"disk-stream", run_stream},
    {"disk-commit", run_commit},
    {"disk-backup", run_backup},
    {"disk-mirror", run_mirror},
    {"disk-mirror-complete", run_mirror_complete},
    {"jobs", run_jobs},
    {"job-pause", run_job_pause},
    {"job-resume", run_job_resume},
    {"job-cancel", run_job_cancel},
    {"job-speed", run_job_speed},
};
const size_t vmm_job_verb_count = ARRAY_COUNT(vmm_job_verbs);
