/* hull ctl PATH disk-...: the verbs that need a file. The VM's process can open none: it is made or opened here and passed on. */
#include "cli/ctl.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"
#include "block/remote.h"
#include "cli/disk/disk.h"
#include "cli/disk/target.h"
#include "cli/storage_keeper.h"
#include "cli/verbs.h"

#define LIST_ID 2

enum file_use {
    FILE_OVERLAY, /* a new image on top of the disk's: has its name before it is used */
    FILE_TARGET, /* a new image to copy to: has its name when the VM has taken it, and marked it as unfinished */
    FILE_BELOW, /* one that the disk stands on, to be written to */
};

static const struct disk_verb {
    const char *name;
    enum file_use use;
    bool is_file_optional;
} disk_verbs[] = {
    {"disk-snapshot", FILE_OVERLAY},   {"disk-commit", FILE_BELOW},
    {"disk-stream", FILE_BELOW, true}, {"disk-mirror", FILE_TARGET},
    {"disk-backup", FILE_TARGET},
};

static const struct disk_verb *find_verb(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(disk_verbs); i++) {
        if (strcmp(disk_verbs[i].name, name) == 0) {
            return &disk_verbs[i];
        }
    }
    return NULL;
}

bool ctl_disk_has(const char *verb, const json_t *request)
{
    const struct disk_verb *found = find_verb(verb);
    return found != NULL && (!found->is_file_optional || json_object_get(request, "file") != NULL);
}

/* One run of such a verb. */
struct disk_call {
    struct control_client *client;
    const char *verb;
    json_t *request;
    const char *file;    /* as the user says it */
    char path[PATH_MAX]; /* from the root on: how the VM calls it, and images name it */
    json_t *disk;        /* the row of disk-list; borrowed from 'list' */
    json_t *list;
    json_t *answer;
    bool is_remote; /* the file: it is a URI */
};

static const char *get_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

/* The whole path of a file that need not be there yet. */
static int full_path(const char *file, char *out_path, struct error *err)
{
    const char *slash = strrchr(file, '/');
    const char *last = slash != NULL ? slash + 1 : file;
    char folder[PATH_MAX];
    int length = slash == NULL ? snprintf(folder, sizeof(folder), ".")
                 : slash == file
                     ? snprintf(folder, sizeof(folder), "/")
                     : snprintf(folder, sizeof(folder), "%.*s", (int)(slash - file), file);
    AUTO_FREE char *real =
        (size_t)length < sizeof(folder) && last[0] != '\0' ? realpath(folder, NULL) : NULL;
    if (real == NULL) {
        return error_set(err, EINVAL, "%s: no such folder: the path of a file", file);
    }
    length = snprintf(out_path, PATH_MAX, "%s/%s", strcmp(real, "/") == 0 ? "" : real, last);
    return length < PATH_MAX ? 0 : error_set_errno(err, ENAMETOOLONG, "%s", file);
}

/* What the VM says of the disk that the request names. */
static int look_up_disk(struct disk_call *call, struct error *err)
{
    json_t *request = json_pack("{s:i, s:s}", "id", LIST_ID, "do", "disk-list");
    int rc = control_client_send(call->client, request, -1, err);
    json_decref(request);
    if (rc == 0) {
        rc = control_client_await(call->client, LIST_ID, NULL, NULL, &call->list, err);
    }
    if (rc < 0) {
        return rc;
    }
    const char *name = get_text(call->request, "disk");
    size_t index;
    json_t *disk;
    json_array_foreach(json_object_get(call->list, "disks"), index, disk)
    {
        if (strcmp(get_text(disk, "name"), name) == 0 ||
            (name[0] != '\0' && strcmp(get_text(disk, "serial"), name) == 0)) {
            call->disk = disk;
            return 0;
        }
    }
    return error_set(err, EINVAL, "%s: there is no disk '%s': disk=NAME, as disk-list says it",
                     call->verb, name);
}

static int check_new(const struct disk_call *call, struct error *err)
{
    struct stat status;
    if (lstat(call->path, &status) == 0) {
        bool may_exist = find_verb(call->verb)->use == FILE_TARGET;
        return error_set(err, EEXIST, "%s: %s is there already: a new name is needed%s", call->verb,
                         call->file, may_exist ? ", or existing=true" : "");
    }
    return 0;
}

static int make_image(struct disk_target *target, struct disk_creation *creation, const char *path,
                      struct error *err)
{
    struct event_loop *loop = NULL;
    struct block *block = NULL;
    creation->is_only_made = true;
    int rc = disk_target_open(path, NULL, &creation->cache, target, err);
    if (rc == 0) {
        rc = event_loop_create(&loop, err);
    }
    if (rc == 0) {
        rc = disk_target_create(target, creation, loop, &block, err);
    }
    int finish_rc = block_finish(block, rc == 0 ? err : NULL);
    event_loop_destroy(loop);
    return rc < 0 ? rc : finish_rc;
}

static int send_with_files(struct disk_call *call, int fd, int other_fd, struct error *err)
{
    json_object_set_new(call->request, "name", json_string(call->path));
    int rc =
        control_client_send_files(call->client, call->request, (const int[]){fd, other_fd}, err);
    return rc < 0 ? rc
                  : control_client_await(call->client,
                                         json_integer_value(json_object_get(call->request, "id")),
                                         NULL, NULL, &call->answer, err);
}

static int send_with_file(struct disk_call *call, int fd, struct error *err)
{
    return send_with_files(call, fd, -1, err);
}

/* The image that there is, for what is made on top of it or names it: as good as there, if it is remote. */
static int check_there(const struct disk_call *call, const char *file, struct error *err)
{
    struct stat status;
    return block_is_uri(file) || stat(file, &status) == 0
               ? 0
               : error_set_errno(err, errno, "%s: the disk's image %s", call->verb, file);
}

static int use_overlay(struct disk_call *call, struct error *err)
{
    struct disk_target target = {.fd = -1};
    const char *below = get_text(call->disk, "file");
    struct disk_creation creation = {
        .format = "qcow2",
        .size_bytes = (uint64_t)json_integer_value(json_object_get(call->disk, "size_bytes")),
        .backing = below,
        .backing_format = get_text(call->disk, "format"),
    };
    int rc = check_new(call, err);
    if (rc == 0) {
        rc = check_there(call, below, err);
    }
    if (rc == 0) {
        rc = make_image(&target, &creation, call->path, err);
    }
    if (rc == 0) {
        rc = disk_target_commit(&target, err);
    }
    if (rc == 0 && (rc = send_with_file(call, target.fd, err)) == -EIO) {
        (void)unlink(call->path); /* refused: nobody uses it */
    }
    disk_target_close(&target);
    return rc;
}

/* An incremental backup may say what it stands on. */
static int add_backing(struct disk_call *call, struct error *err)
{
    const char *backing = get_text(call->request, "backing");
    const char *format = json_string_value(json_object_get(call->request, "backing-format"));
    if (backing[0] == '\0') {
        return 0;
    }
    if (block_is_uri(backing)) {
        json_object_set_new(call->request, "backing-format",
                            json_string(format != NULL ? format : "raw"));
        return 0;
    }
    AUTO_FREE char *real = realpath(backing, NULL);
    if (real == NULL) {
        return error_set_errno(err, errno, "%s: backing=%s", call->verb, backing);
    }
    int rc = disk_backing_format(backing, format, &format, err);
    if (rc == 0) {
        json_object_set_new(call->request, "backing", json_string(real));
        json_object_set_new(call->request, "backing-format", json_string(format));
    }
    return rc;
}

/* What a target has where no format is said: by its name. */
static const char *target_format(struct disk_call *call)
{
    struct disk_creation creation = {
        .format = json_string_value(json_object_get(call->request, "format"))};
    if (creation.format == NULL && find_verb(call->verb)->use == FILE_TARGET) {
        disk_creation_default_format(&creation, call->is_remote ? "" : call->path);
        json_object_set_new(call->request, "format", json_string(creation.format));
    }
    return json_string_value(json_object_get(call->request, "format"));
}

static int use_target(struct disk_call *call, struct error *err)
{
    struct disk_target target = {.fd = -1};
    struct disk_creation creation = {
        .format = target_format(call),
        .size_bytes = (uint64_t)json_integer_value(json_object_get(call->disk, "size_bytes")),
    };
    int rc = check_new(call, err);
    if (rc == 0) {
        rc = add_backing(call, err);
    }
    if (rc == 0) {
        rc = make_image(&target, &creation, call->path, err);
    }
    if (rc == 0) {
        rc = send_with_file(call, target.fd, err);
    }
    if (rc == 0) {
        rc = disk_target_commit(&target, err);
    }
    disk_target_close(&target);
    return rc;
}

/* What has its name already, and is written to in place: the VM makes an image in it, if there shall be one. */
static int use_in_place(struct disk_call *call, int fd, struct error *err)
{
    (void)target_format(call);
    int rc = find_verb(call->verb)->use == FILE_TARGET ? add_backing(call, err) : 0;
    return rc < 0 ? rc : send_with_file(call, fd, err);
}

static int use_there(struct disk_call *call, bool is_device, struct error *err)
{
    /* O_EXCL: nobody has the device mounted. */
    AUTO_CLOSE int fd = open(call->file, O_RDWR | (is_device ? O_EXCL : 0) | O_CLOEXEC);
    return fd >= 0 ? use_in_place(call, fd, err)
                   : error_set_errno(err, errno, "%s: opening %s", call->verb, call->file);
}

/* Takes what is for its hull-storage alone out of the request. */
static int read_storage_options(struct disk_call *call, struct storage_process *process,
                                int *out_log_fd, struct error *err)
{
    const json_t *reconnect = json_object_get(call->request, "reconnect");
    const char *log = json_string_value(json_object_get(call->request, "log"));
    json_int_t seconds = json_integer_value(reconnect);
    if (reconnect != NULL && (!json_is_integer(reconnect) || seconds < 0 || seconds > 86400)) {
        return error_set(err, EINVAL, "%s: reconnect=: a number of seconds, at most 86400",
                         call->verb);
    }
    *out_log_fd = open(log != NULL ? log : "/dev/null",
                       O_WRONLY | O_APPEND | O_CLOEXEC | (log != NULL ? O_CREAT : 0), 0666);
    if (*out_log_fd < 0) {
        return error_set_errno(err, errno, "%s: log=%s", call->verb, log != NULL ? log : "");
    }
    process->log_fd = *out_log_fd;
    process->has_reconnect = reconnect != NULL;
    process->reconnect_s = (unsigned)seconds;
    json_object_del(call->request, "log");
    return 0;
}

/* A disk of a server: as for `hull boot`, a process of its own has the connection. It lives as long as the VM uses the disk. */
static int use_server(struct disk_call *call, struct error *err)
{
    struct storage_process process = {.uri = call->file};
    AUTO_CLOSE int log_fd = -1;
    AUTO_CLOSE int channel = -1;
    int rc = read_storage_options(call, &process, &log_fd, err);
    if (rc == 0) {
        rc = storage_keeper_start(&process, &channel, err);
    }
    if (rc == 0) {
        (void)block_uri_for_people(call->file, call->path, sizeof(call->path));
        json_object_set_new(call->request, "channel", json_true());
        rc = use_in_place(call, channel, err);
    }
    return rc;
}

/* The image above the one from which on a commit takes: its header will name another one. The VM has only opened it for reading, unless
 * it is the top. -1: it need not come. */
static int open_above(const struct disk_call *call, int *out_fd, struct error *err)
{
    json_int_t from = json_integer_value(json_object_get(call->request, "from"));
    const json_t *chain = json_object_get(call->disk, "chain");
    *out_fd = -1;
    if (from < 2 || (size_t)from >= json_array_size(chain)) {
        return 0; /* of other places the VM tells */
    }
    const char *file = get_text(json_array_get(chain, (size_t)from - 1), "file");
    if (block_is_uri(file)) {
        return 0; /* it was the top once, or the VM refuses */
    }
    *out_fd = open(file, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    return *out_fd >= 0 ? 0 : error_set_errno(err, errno, "%s: opening %s", call->verb, file);
}

/* A remote image that the disk stands on. If the VM has it open for writing, as one that was the top once, there is nothing to do. */
static int use_below_remote(struct disk_call *call, struct error *err)
{
    size_t index;
    json_t *image;
    (void)block_uri_for_people(call->file, call->path, sizeof(call->path));
    json_array_foreach(json_object_get(call->disk, "chain"), index, image)
    {
        if (strcmp(get_text(image, "file"), call->path) == 0) {
            return json_is_true(json_object_get(image, "open_for_writing"))
                       ? send_with_file(call, -1, err)
                       : use_server(call, err);
        }
    }
    return error_set(err, EINVAL, "%s: %s does not stand on %s: see disk-list", call->verb,
                     get_text(call->disk, "name"), call->path);
}

static int use_below(struct disk_call *call, struct error *err)
{
    AUTO_CLOSE int fd = open(call->file, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    AUTO_CLOSE int above_fd = -1;
    AUTO_FREE char *real = realpath(call->file, NULL);
    if (fd < 0 || real == NULL || strlen(real) >= sizeof(call->path)) {
        return error_set_errno(err, errno, "%s: opening %s", call->verb, call->file);
    }
    memcpy(call->path, real, strlen(real) + 1);
    int rc = open_above(call, &above_fd, err);
    return rc < 0 ? rc : send_with_files(call, fd, above_fd, err);
}

static int use_file(struct disk_call *call, struct error *err)
{
    enum file_use use = find_verb(call->verb)->use;
    struct stat status;
    if (use == FILE_BELOW) {
        return call->is_remote ? use_below_remote(call, err) : use_below(call, err);
    }
    if (call->is_remote) {
        return use_server(call, err);
    }
    bool is_there = stat(call->path, &status) == 0;
    bool is_device = is_there && S_ISBLK(status.st_mode);
    if (is_device ||
        (use == FILE_TARGET && json_is_true(json_object_get(call->request, "existing")))) {
        return use_there(call, is_device, err);
    }
    return use == FILE_OVERLAY ? use_overlay(call, err) : use_target(call, err);
}

int ctl_disk(struct control_client *client, const char *verb, json_t *request,
             enum output_format format)
{
    struct error err;
    struct disk_call call = {.client = client, .verb = verb, .request = request};
    call.file = get_text(request, "file");
    call.is_remote = block_is_uri(call.file);
    bool wants_wait = ctl_job_take_wait(request);
    int rc = call.file[0] == '\0'
                 ? error_set(&err, EINVAL, "ctl: %s: no file is named: file=F", verb)
             : call.is_remote ? 0
                              : full_path(call.file, call.path, &err);
    if (rc == 0) {
        rc = look_up_disk(&call, &err);
    }
    if (rc == 0 && wants_wait) {
        rc = ctl_job_follow(client, &err);
    }
    if (rc == 0) {
        rc = use_file(&call, &err);
    }
    if (rc == 0 && wants_wait && json_object_get(call.answer, "job") != NULL) {
        rc = ctl_job_await(client, call.answer, format, &err);
    } else if (rc == 0) {
        output_object(format, call.answer);
    }
    json_decref(call.answer);
    json_decref(call.list);
    return rc < 0 ? cli_fail(&err) : CLI_OK;
}
