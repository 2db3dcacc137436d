#include "vmm/disk_request.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "block/remote.h"

#define MAX_FILE_NAME   1023u /* what a qcow2 header holds */
#define MAX_RECONNECT_S 86400u

/* The disk that a request names: "disk0", its id, or its serial number. */
int request_find_disk(const struct vmm *vmm, const struct control_request *request,
                      size_t *out_disk, struct error *err)
{
    const char *name = json_string_value(json_object_get(request->arguments, "disk"));
    for (size_t i = 0; name != NULL && name[0] != '\0' && i < vmm->config.disk_count; i++) {
        char own[32];
        (void)snprintf(own, sizeof(own), "disk%zu", i);
        const struct config_disk *disk = &vmm->config.disk[i];
        if (disk->place.is_there && (strcmp(name, own) == 0 || strcmp(name, disk->serial) == 0 ||
                                     strcmp(name, disk->place.id) == 0)) {
            *out_disk = i;
            return machine_is_leaving(vmm->machine, MACHINE_PART_DISK, i)
                       ? error_set(err, EBUSY, "%s: disk%zu is being unplugged", request->verb, i)
                       : 0;
        }
    }
    if (name == NULL) {
        return error_set(err, EINVAL, "%s: \"disk\" says which disk: disk-list has the names",
                         request->verb);
    }
    return error_set(err, ENODEV, "%s: there is no disk %.40s: disk-list has the names",
                     request->verb, name);
}

/* NULL: not given; 'err' is set if it is given and no text that fits. */
int request_get_text(const struct control_request *request, const char *key, bool is_needed,
                     const char **out_text, struct error *err)
{
    const json_t *value = json_object_get(request->arguments, key);
    *out_text = json_string_value(value);
    if (value == NULL && is_needed) {
        return error_set(err, EINVAL, "%s: \"%s\" is missing: %s=NAME", request->verb, key, key);
    }
    if (value != NULL && (*out_text == NULL || strlen(*out_text) != json_string_length(value) ||
                          strlen(*out_text) > MAX_FILE_NAME || (*out_text)[0] == '\0')) {
        return error_set(err, EINVAL, "%s: \"%s\" is a text of at most %u bytes", request->verb,
                         key, MAX_FILE_NAME);
    }
    return 0;
}

int request_get_number(const struct control_request *request, const char *key, uint64_t max,
                       uint64_t fallback, uint64_t *out_number, struct error *err)
{
    const json_t *value = json_object_get(request->arguments, key);
    json_int_t number = json_integer_value(value);
    *out_number = fallback;
    if (value == NULL) {
        return 0;
    }
    if (!json_is_integer(value) || number < 0 || (uint64_t)number > max) {
        return error_set(err, EINVAL, "%s: \"%s\" is a number from 0 to %llu", request->verb, key,
                         (unsigned long long)max);
    }
    *out_number = (uint64_t)number;
    return 0;
}

const char *vmm_disk_name(size_t index, char *out_name, size_t size)
{
    (void)snprintf(out_name, size, "disk%zu", index);
    return out_name;
}

static int check_job(const struct control_request *request, size_t disk,
                     const struct block_job *job, struct error *err)
{
    struct block_job_info info;
    if (job == NULL) {
        return 0;
    }
    block_job_get_info(job, &info);
    return error_set(err, EBUSY, "%s: job %s (%s) has disk%zu: one thing at a time", request->verb,
                     info.id, info.kind, disk);
}

int request_check_free(const struct vmm *vmm, const struct control_request *request, size_t disk,
                       struct error *err)
{
    return check_job(request, disk, block_jobs_of(vmm->jobs, vmm->front[disk]), err);
}

int request_check_chain(const struct vmm *vmm, const struct control_request *request, size_t disk,
                        struct error *err)
{
    return check_job(request, disk, block_jobs_of_chain(vmm->jobs, vmm->front[disk]), err);
}

/* S_IFREG ...; 0: it is none. */
static mode_t kind_of(int fd)
{
    struct stat status;
    return fd >= 0 && fstat(fd, &status) == 0 ? status.st_mode & S_IFMT : 0;
}

int request_check_file(const struct control_request *request, int fd, struct error *err)
{
    mode_t kind = kind_of(fd);
    return kind == S_IFREG || kind == S_IFBLK
               ? 0
               : error_set(
                     err, EINVAL,
                     "%s: a regular file or block device is needed, as a descriptor sent with "
                     "the request",
                     request->verb);
}

enum block_aio request_aio(const struct vmm *vmm, size_t disk)
{
    enum block_aio aio = vmm->config.disk[disk].aio;
    return aio == BLOCK_AIO_URING ? BLOCK_AIO_AUTO : aio;
}

int request_open_server(struct vmm *vmm, const struct control_request *request, int *fd,
                        const char *name, bool is_for_format, struct block **out_file,
                        struct error *err)
{
    struct block_remote_options options = {.is_for_format = is_for_format};
    bool is_channel = json_is_true(json_object_get(request->arguments, "channel"));
    uint64_t seconds = 0;
    int rc = request_get_number(request, "reconnect", MAX_RECONNECT_S,
                                BLOCK_REMOTE_RECONNECT_NS / 1000000000, &seconds, err);
    if (rc < 0) {
        return rc;
    }
    int taken = *fd;
    *fd = -1;
    options.reconnect_ns = is_channel ? seconds * 1000000000 : 0;
    return is_channel ? block_open_nbd_channel(taken, name, &options, vmm->loop, out_file, err)
                      : block_open_nbd_fd(taken, name, &options, vmm->loop, out_file, err);
}

static int take_server(struct vmm *vmm, struct control_request *request, size_t disk,
                       const char *name, const char *format, struct block **out_file,
                       struct error *err)
{
    bool is_raw = strcmp(format, "raw") == 0;
    struct block_info info, own;
    int rc = request_open_server(vmm, request, &request->fd, name, !is_raw, out_file, err);
    if (rc < 0) {
        return rc;
    }
    block_get_info(*out_file, &info);
    block_get_info(block_front_block(vmm->front[disk]), &own);
    return !is_raw || info.logical_block_size > own.logical_block_size
               ? block_remote_for_format(out_file, err)
               : 0;
}

int request_take_file(struct vmm *vmm, struct control_request *request, size_t disk,
                      const char *format, bool *out_is_bare, struct block **out_file,
                      struct error *err)
{
    const char *name;
    mode_t kind = kind_of(request->fd);
    *out_is_bare = kind != S_IFREG && strcmp(format, "raw") != 0;
    int rc = request_get_text(request, "name", true, &name, err);
    if (rc == 0 && kind == S_IFSOCK) {
        return take_server(vmm, request, disk, name, format, out_file, err);
    }
    if (rc == 0) {
        rc = request_check_file(request, request->fd, err);
    }
    if (rc < 0) {
        return rc;
    }
    const struct block_file_options options = {.is_growable = strcmp(format, "raw") != 0,
                                               .is_direct = vmm->config.disk[disk].is_direct,
                                               .aio = request_aio(vmm, disk)};
    int fd = request->fd;
    request->fd = -1;
    return block_open_file(fd, name, &options, vmm->loop, out_file, err);
}

int request_check_lasting(const struct vmm *vmm, const struct control_request *request, size_t disk,
                          struct error *err)
{
    return !vmm->config.disk[disk].has_overlay
               ? 0
               : error_set(err, EOPNOTSUPP,
                           "%s: what disk%zu has of its own ends with the VM (snapshot=on): "
                           "disk-mirror and disk-backup keep it",
                           request->verb, disk);
}

int request_check_plain(const struct vmm *vmm, const struct control_request *request, size_t disk,
                        struct error *err)
{
    const struct block *at = block_front_root(vmm->front[disk]);
    while (at != NULL && strcmp(block_disk_format(at), "luks") != 0) {
        at = block_backing(at);
    }
    if (at == NULL || json_is_true(json_object_get(request->arguments, "plain"))) {
        return 0;
    }
    return error_set(
        err, EPERM,
        "%s: disk%zu is encrypted, the new file would not be: \"plain\" true permits it",
        request->verb, disk);
}
