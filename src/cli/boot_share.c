/* Shared folders of a VM: --share, and the process hull-share behind each. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/program.h"
#include "cli/boot_files.h"

#define TAG_MAX 36 /* of the device */

static int check_tag(const struct boot_options *options, const char *tag, struct error *err)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    size_t length = strlen(tag);
    if (length == 0 || length > TAG_MAX || strspn(tag, letters) != length) {
        return error_set(err, EINVAL, "'%s' is no tag: 1 to %d letters, digits, '-', '_' and '.'",
                         tag, TAG_MAX);
    }
    for (unsigned i = 0; i < options->share_count; i++) {
        if (strcmp(options->share[i].tag, tag) == 0) {
            return error_set(err, EINVAL, "two shares have the tag %s: another one", tag);
        }
    }
    return 0;
}

int boot_parse_share(void *into, const char *value, struct error *err)
{
    struct boot_options *options = into;
    if (options->share_count == BOOT_MAX_SHARES) {
        return error_set(err, E2BIG, "too many shares: at most %d", BOOT_MAX_SHARES);
    }
    AUTO_FREE char *text = strdup(value);
    if (text == NULL) {
        return error_set_errno(err, ENOMEM, "reading the option");
    }
    /* The folder's name may have colons and commas; what follows the last colon has none of the former. */
    char *colon = strrchr(text, ':');
    if (colon == NULL || colon == text) {
        return error_set(err, EINVAL, "'%s' is no share: DIR:TAG[,readonly]", value);
    }
    *colon = '\0';
    char *rest = colon + 1;
    struct boot_share share = {.folder = text, .tag = strsep(&rest, ",")};
    int rc = check_tag(options, share.tag, err);
    char *key, *key_value;
    while (rc == 0 && boot_next_key(&rest, &key, &key_value)) {
        if (strcmp(key, "readonly") != 0 || key_value != NULL) {
            return boot_unknown_key(key, "readonly", err);
        }
        share.is_readonly = true;
    }
    if (rc == 0) {
        (void)TAKE_PTR(text); /* the share's */
        options->share[options->share_count++] = share;
    }
    return rc;
}

/* hull-share --fd N --ready-fd M --folder DIR [--readonly] [--verbose] */
static int start(const struct boot_share *share, bool is_verbose, int fd, int ready_fd,
                 pid_t *out_pid, struct error *err)
{
    char fd_text[16];
    char ready_text[16];
    (void)snprintf(fd_text, sizeof(fd_text), "%d", fd);
    (void)snprintf(ready_text, sizeof(ready_text), "%d", ready_fd);
    const char *argv[10] = {"hull-share", "--fd",     fd_text,      "--ready-fd",
                            ready_text,   "--folder", share->folder};
    size_t count = 7;
    if (share->is_readonly) {
        argv[count++] = "--readonly";
    }
    if (is_verbose) {
        argv[count++] = "--verbose";
    }
    struct process_spec spec = {.program = "hull-share",
                                .argv = argv,
                                .stdout_fd = -1,
                                .keep = {fd, ready_fd},
                                .keep_count = 2};
    return process_spawn(&spec, false, out_pid, err);
}

int boot_open_share(const struct boot_share *share, bool is_verbose, int *out_fd, pid_t *out_helper,
                    int *out_ready_fd, struct error *err)
{
    int pair[2];
    int ready[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        return error_set_errno(err, errno, "share %s: making a socket pair", share->tag);
    }
    AUTO_CLOSE int vm_fd = pair[0];
    AUTO_CLOSE int helper_fd = pair[1];
    if (pipe2(ready, O_CLOEXEC) < 0) {
        return error_set_errno(err, errno, "share %s: making a pipe", share->tag);
    }
    AUTO_CLOSE int ready_fd = ready[0];
    AUTO_CLOSE int helper_ready_fd = ready[1];
    int rc = start(share, is_verbose, helper_fd, helper_ready_fd, out_helper, err);
    if (rc == 0) {
        *out_fd = TAKE_FD(vm_fd);
        *out_ready_fd = TAKE_FD(ready_fd);
    }
    return rc;
}

int boot_await_share(const struct boot_share *share, int ready_fd, struct error *err)
{
    char line[ERROR_TEXT_SIZE];
    int rc = boot_read_ready(ready_fd, line, sizeof(line));
    if (rc < 0) {
        return error_set(err, -rc, "share %s: hull-share does not start", share->tag);
    }
    if (strcmp(line, "ready") == 0) {
        return 0;
    }
    const char *why = strncmp(line, "hull: ", 6) == 0 ? line + 6 : line;
    return why[0] != '\0' ? error_set(err, EIO, "%s", why)
                          : error_set(err, EIO, "share %s: hull-share has ended", share->tag);
}
