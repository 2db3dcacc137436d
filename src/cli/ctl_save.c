/* hull ctl PATH save: the VM's process can open no file, so it gets one here, and the file gets its name only when it is
 * complete. */
#include "cli/ctl.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/size.h"
#include "base/host/file.h"
#include "cli/verbs.h"

#define BAR_WIDTH 40u

/* A file without a name in the target's folder, or (file systems that lack this) one with a name of its own. */
struct new_file {
    const char *target;
    char folder[PATH_MAX];
    char name[PATH_MAX];
    int fd;
};

/* For the signal handler: a name that must not be left behind. */
static char pending_name[PATH_MAX];

static void interrupted(int number)
{
    if (pending_name[0] != '\0') {
        (void)unlink(pending_name);
    }
    (void)raise(number); /* SA_RESETHAND: the default action now */
}

static void catch_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    struct sigaction action = {.sa_handler = interrupted, .sa_flags = (int)SA_RESETHAND};
    for (size_t i = 0; i < ARRAY_COUNT(numbers); i++) {
        (void)sigaction(numbers[i], &action, NULL); /* valid signals */
    }
}

static int target_error(const struct new_file *file, int code, struct error *err)
{
    return error_set(err, code, "save file %s: %s: a file in a folder that can be written",
                     file->target, strerror(code));
}

static int file_begin(struct new_file *file, const char *target, struct error *err)
{
    file->target = target;
    const char *slash = strrchr(target, '/');
    int folder_length = slash == NULL ? 0 : (int)(slash - target);
    int length = slash == NULL ? snprintf(file->folder, sizeof(file->folder), ".")
                               : snprintf(file->folder, sizeof(file->folder), "%.*s",
                                          slash == target ? 1 : folder_length, target);
    struct stat status;
    if (length < 0 || (size_t)length >= sizeof(file->folder)) {
        return target_error(file, ENAMETOOLONG, err);
    }
    if (target[0] == '\0' || (slash != NULL && slash[1] == '\0') ||
        (stat(target, &status) == 0 && !S_ISREG(status.st_mode))) {
        return error_set(err, EINVAL, "save file %s: not a file: the path of a file", target);
    }
    length =
        snprintf(file->name, sizeof(file->name), "%s/.hull-save-%d", file->folder, (int)getpid());
    if (length < 0 || (size_t)length >= sizeof(file->name)) {
        return target_error(file, ENAMETOOLONG, err);
    }
    file->fd = open(file->folder, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    if (file->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
        memcpy(pending_name, file->name, sizeof(pending_name));
        file->fd = open(file->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (file->fd < 0) {
            pending_name[0] = '\0'; /* whoever's it is, it is not ours */
        }
    }
    return file->fd < 0 ? target_error(file, errno, err) : 0;
}

/* The data is on the disk already: now the name. */
static int file_commit(struct new_file *file, struct error *err)
{
    if (pending_name[0] == '\0') {
        char link_path[64];
        (void)snprintf(link_path, sizeof(link_path), "/proc/self/fd/%d", file->fd);
        if (linkat(AT_FDCWD, link_path, AT_FDCWD, file->name, AT_SYMLINK_FOLLOW) < 0) {
            return target_error(file, errno, err);
        }
        memcpy(pending_name, file->name, sizeof(pending_name));
    }
    if (rename(file->name, file->target) < 0) {
        return target_error(file, errno, err);
    }
    pending_name[0] = '\0';
    AUTO_CLOSE int folder = open(file->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0 || fsync(folder) < 0) {
        return target_error(file, errno, err);
    }
    return 0;
}

static void file_end(struct new_file *file)
{
    if (pending_name[0] != '\0') {
        (void)unlink(pending_name);
        pending_name[0] = '\0';
    }
    if (file->fd >= 0) {
        close(file->fd);
    }
}

static void show_progress(void *ctx, const json_t *line)
{
    bool *is_shown = ctx;
    const char *event = json_string_value(json_object_get(line, "event"));
    if (event == NULL || strcmp(event, "progress") != 0 || !isatty(STDERR_FILENO)) {
        return;
    }
    uint64_t done = (uint64_t)json_integer_value(json_object_get(line, "done"));
    uint64_t total = (uint64_t)json_integer_value(json_object_get(line, "total"));
    uint64_t part = total == 0 ? BAR_WIDTH : MIN(done, total) * BAR_WIDTH / total;
    char done_text[24];
    char total_text[24];
    (void)fprintf(stderr, "\rsaving [%.*s%*s] %s of %s ", (int)part,
                  "########################################", (int)(BAR_WIDTH - part), "",
                  size_format(done, done_text, sizeof(done_text)),
                  size_format(total, total_text, sizeof(total_text)));
    *is_shown = true;
}

static void show_result(const char *target, const json_t *answer, enum output_format format)
{
    if (format != OUTPUT_TABLE) {
        output_object(format, answer);
        return;
    }
    char size_text[24];
    const char *state = json_string_value(json_object_get(answer, "state"));
    (void)printf("saved to %s, %s; the VM is %s\n", target,
                 size_format((uint64_t)json_integer_value(json_object_get(answer, "used_bytes")),
                             size_text, sizeof(size_text)),
                 state != NULL ? state : "unknown");
}

int ctl_save(struct control_client *client, json_t *request, enum output_format format)
{
    struct error err;
    const char *target = json_string_value(json_object_get(request, "file"));
    if (target == NULL) {
        (void)error_set(&err, EINVAL, "ctl: save: no file is named: save file=F");
        return cli_fail(&err);
    }
    struct new_file file = {.fd = -1};
    catch_signals();
    bool is_shown = false;
    json_t *answer = NULL;
    int rc = file_begin(&file, target, &err);
    if (rc == 0) {
        rc = control_client_send(client, request, file.fd, &err);
    }
    if (rc == 0) {
        rc = control_client_await(client, json_integer_value(json_object_get(request, "id")),
                                  show_progress, &is_shown, &answer, &err);
        if (is_shown) {
            (void)fputc('\n', stderr);
        }
    }
    if (rc == 0) {
        rc = file_commit(&file, &err);
    }
    if (rc == 0) {
        show_result(target, answer, format);
    }
    json_decref(answer);
    file_end(&file);
    return rc < 0 ? cli_fail(&err) : CLI_OK;
}
