#include "cli/storage_process.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/program.h"
#include "block/remote.h"
#include "cli/boot_files.h"

/* hull-storage --fd N --ready-fd M --uri URI [--readonly] [--reconnect S] */
static int start(const struct storage_process *process, int fd, int ready_fd, pid_t *out_pid,
                 struct error *err)
{
    char fd_text[16];
    char ready_text[16];
    char seconds[16];
    (void)snprintf(fd_text, sizeof(fd_text), "%d", fd);
    (void)snprintf(ready_text, sizeof(ready_text), "%d", ready_fd);
    (void)snprintf(seconds, sizeof(seconds), "%u", process->reconnect_s);
    const char *argv[11] = {"hull-storage", "--fd",  fd_text,     "--ready-fd",
                            ready_text,     "--uri", process->uri};
    size_t count = 7;
    if (process->is_readonly) {
        argv[count++] = "--readonly";
    }
    if (process->has_reconnect) {
        argv[count++] = "--reconnect";
        argv[count++] = seconds;
    }
    struct process_spec spec = {.program = "hull-storage",
                                .argv = argv,
                                .stdout_fd = -1,
                                .stderr_fd = process->log_fd,
                                .outlives_us = process->outlives_us,
                                .keep = {fd, ready_fd},
                                .keep_count = 2};
    return process_spawn(&spec, false, out_pid, err);
}

int storage_process_await(const struct storage_process *process, int ready_fd, struct error *err)
{
    char line[ERROR_TEXT_SIZE];
    char name[256];
    (void)block_uri_for_people(process->uri, name, sizeof(name));
    int rc = boot_read_ready(ready_fd, line, sizeof(line));
    if (rc < 0) {
        return error_set(err, -rc, "disk %s: hull-storage does not start", name);
    }
    if (strcmp(line, "ready") == 0) {
        return 0;
    }
    const char *why = strncmp(line, "hull: ", 6) == 0 ? line + 6 : line;
    return why[0] != '\0' ? error_set(err, EIO, "%s", why)
                          : error_set(err, EIO, "disk %s: hull-storage has ended", name);
}

int storage_process_spawn(const struct storage_process *process, int *out_fd, int *out_ready_fd,
                          pid_t *out_pid, struct error *err)
{
    char name[256];
    int pair[2];
    int ready[2];
    *out_pid = 0;
    (void)block_uri_for_people(process->uri, name, sizeof(name));
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        return error_set_errno(err, errno, "disk %s: making a socket pair", name);
    }
    AUTO_CLOSE int user_fd = pair[0];
    AUTO_CLOSE int helper_fd = pair[1];
    if (pipe2(ready, O_CLOEXEC) < 0) {
        return error_set_errno(err, errno, "disk %s: making a pipe", name);
    }
    AUTO_CLOSE int ready_fd = ready[0];
    AUTO_CLOSE int helper_ready_fd = ready[1];
    int rc = start(process, helper_fd, helper_ready_fd, out_pid, err);
    if (rc == 0) {
        *out_fd = TAKE_FD(user_fd);
        *out_ready_fd = TAKE_FD(ready_fd);
    }
    return rc;
}

int storage_process_start(const struct storage_process *process, int *out_fd, pid_t *out_pid,
                          struct error *err)
{
    AUTO_CLOSE int fd = -1;
    AUTO_CLOSE int ready_fd = -1;
    int rc = storage_process_spawn(process, &fd, &ready_fd, out_pid, err);
    if (rc == 0) {
        rc = storage_process_await(process, ready_fd, err);
    }
    if (rc == 0) {
        *out_fd = TAKE_FD(fd);
    }
    return rc;
}
