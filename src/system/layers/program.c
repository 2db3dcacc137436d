/* Programs of the host. */
#include "system/layers/program.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/program.h"

#define LINE_SIZE 160

static char *const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", NULL};

static bool find_program(const char *name, char *out_path, size_t size)
{
    static const char *const folders[] = {"/usr/sbin", "/sbin", "/usr/bin", "/bin",
                                          "/usr/local/sbin"};
    for (size_t i = 0; i < ARRAY_COUNT(folders); i++) {
        (void)snprintf(out_path, size, "%s/%s", folders[i], name);
        if (access(out_path, X_OK) == 0) {
            return true;
        }
    }
    return false;
}

static int spawn(const char *path, const char *const *args, int output, pid_t *out_pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int rc = posix_spawn_file_actions_init(&actions);
    if (rc != 0) {
        return -rc;
    }
    rc = posix_spawnattr_init(&attributes);
    if (rc != 0) {
        posix_spawn_file_actions_destroy(&actions);
        return -rc;
    }
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    rc = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    rc = rc != 0 ? rc : posix_spawn_file_actions_adddup2(&actions, output, 1);
    rc = rc != 0 ? rc : posix_spawn_file_actions_adddup2(&actions, output, 2);
    rc = rc != 0 ? rc : posix_spawnattr_setsigmask(&attributes, &none);
    rc = rc != 0 ? rc : posix_spawnattr_setsigdefault(&attributes, &all);
    rc = rc != 0 ? rc
                 : posix_spawnattr_setflags(&attributes,
                                            POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    rc = rc != 0 ? rc
                 : posix_spawn(out_pid, path, &actions, &attributes, (char *const *)(uintptr_t)args,
                               environment);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return -rc;
}

/* Until the program closes it; of what it writes the last line that is not empty. */
static void read_last_line(int fd, char out_line[LINE_SIZE])
{
    char data[512];
    size_t used = 0;
    bool is_done = false; /* a line is there, and starts anew with the next byte */
    out_line[0] = '\0';
    for (;;) {
        ssize_t size = read(fd, data, sizeof(data));
        if (size < 0 && errno == EINTR) {
            continue;
        }
        if (size <= 0) {
            return;
        }
        for (ssize_t i = 0; i < size; i++) {
            if (data[i] == '\n' || data[i] == '\r') {
                is_done = true;
                continue;
            }
            used = is_done ? 0 : used;
            is_done = false;
            if (used < LINE_SIZE - 1) {
                bool is_plain = (unsigned char)data[i] >= ' ' && (unsigned char)data[i] < 0x7f;
                out_line[used++] = is_plain ? data[i] : '?';
                out_line[used] = '\0';
            }
        }
    }
}

int layers_run_program(const char *const *args, int ok_max, const char *package, struct error *err)
{
    char path[64], line[LINE_SIZE];
    if (!find_program(args[0], path, sizeof(path))) {
        return error_set(err, ENOENT, "%s is missing: install %s", args[0], package);
    }
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) {
        return error_set_errno(err, errno, "starting %s", args[0]);
    }
    pid_t pid;
    int rc = spawn(path, args, ends[1], &pid);
    close(ends[1]);
    if (rc < 0) {
        close(ends[0]);
        return error_set_errno(err, -rc, "starting %s", args[0]);
    }
    read_last_line(ends[0], line);
    close(ends[0]);
    int status;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            return error_set_errno(err, errno, "waiting for %s", args[0]);
        }
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) > ok_max) {
        return error_set(err, program_code(line, EIO), "%s failed (%s %d): %s", args[0],
                         WIFEXITED(status) ? "status" : "signal",
                         WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), line);
    }
    return WEXITSTATUS(status);
}
