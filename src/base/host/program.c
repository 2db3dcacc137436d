#include "base/host/program.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/core/compiler.h"

#ifndef HULL_LIBEXEC_DIR
#define HULL_LIBEXEC_DIR "/usr/libexec/hull"
#define HULL_BIN_DIR     "/usr/bin"
#endif

static bool is_program(const char *dir, size_t dir_length, const char *name, char *out_path,
                       size_t size)
{
    int length = snprintf(out_path, size, "%.*s/%s", (int)dir_length, dir, name);
    return length > 0 && (size_t)length < size && access(out_path, X_OK) == 0;
}

int program_find(const char *name, bool is_foreign, char *out_path, size_t size, struct error *err)
{
    const char *chosen = getenv("HULL_LIBEXEC");
    if (chosen != NULL && is_program(chosen, strlen(chosen), name, out_path, size)) {
        return 0;
    }
    /* Beside this program; then in an installation, which may have been moved as a whole: from hull or from a helper of it. */
    static const char *const from_own[] = {"", "/../libexec/hull", "/../../bin"};
    static const char *const installed[] = {HULL_LIBEXEC_DIR, HULL_BIN_DIR};
    char own[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", own, sizeof(own) - 1);
    own[MAX(length, 0)] = '\0';
    char *slash = strrchr(own, '/');
    for (size_t i = 0; slash != NULL && i < ARRAY_COUNT(from_own); i++) {
        char folder[PATH_MAX + 32];
        int count =
            snprintf(folder, sizeof(folder), "%.*s%s", (int)(slash - own), own, from_own[i]);
        if (is_program(folder, (size_t)count, name, out_path, size)) {
            return 0;
        }
    }
    for (size_t i = 0; i < ARRAY_COUNT(installed); i++) {
        if (is_program(installed[i], strlen(installed[i]), name, out_path, size)) {
            return 0;
        }
    }
    const char *dirs = is_foreign ? getenv("PATH") : NULL;
    while (dirs != NULL && *dirs != '\0') {
        size_t dir_length = strcspn(dirs, ":");
        if (dir_length != 0 && is_program(dirs, dir_length, name, out_path, size)) {
            return 0;
        }
        dirs += dir_length + (dirs[dir_length] == ':');
    }
    return error_set(err, ENOENT, "program %s: not found: it is expected beside hull%s", name,
                     is_foreign ? " or in PATH" : " or in " HULL_LIBEXEC_DIR);
}

/* In the child: only what is safe between fork and exec of a program with one thread. */
noreturn_fn static void child_run(const struct process_spec *spec, const char *path, pid_t parent)
{
    if (!spec->outlives_us) {
        (void)prctl(PR_SET_PDEATHSIG,
                    SIGKILL); /* the worst case is a program that ends on its own */
        if (getppid() != parent) {
            _exit(127);
        }
    }
    (void)setsid(); /* fails only for a group leader, which a new child is not */
    sigset_t none;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    for (int number = 1; number < SIGRTMIN; number++) {
        (void)signal(number, SIG_DFL); /* SIGKILL and SIGSTOP refuse, rightly */
    }
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0 || dup2(spec->stdin_fd > 0 ? spec->stdin_fd : null_fd, 0) < 0 ||
        dup2(spec->stdout_fd >= 0 ? spec->stdout_fd : null_fd, 1) < 0 ||
        (spec->stderr_fd > 0 && dup2(spec->stderr_fd, 2) < 0)) {
        _exit(127);
    }
    if (syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC) < 0) {
        for (int fd = 3; fd < 1024; fd++) {
            (void)fcntl(fd, F_SETFD, FD_CLOEXEC); /* numbers without a descriptor refuse */
        }
    }
    for (size_t i = 0; i < spec->keep_count; i++) {
        if (fcntl(spec->keep[i], F_SETFD, 0) < 0) {
            _exit(127);
        }
    }
    (void)execv(path, (char *const *)spec->argv);
    _exit(127);
}

int process_spawn(const struct process_spec *spec, bool is_foreign, pid_t *out_pid,
                  struct error *err)
{
    char path[PATH_MAX];
    int rc = program_find(spec->program, is_foreign, path, sizeof(path), err);
    if (rc < 0) {
        return rc;
    }
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid < 0) {
        return error_set_errno(err, errno, "starting %s", path);
    }
    if (pid == 0) {
        child_run(spec, path, parent);
    }
    *out_pid = pid;
    return 0;
}

int program_code(const char *line, int otherwise)
{
    /* The last is what tar says when a part of a block still fitted. */
    static const char *const words[] = {"No space left on device", "Disk quota exceeded",
                                        ": Wrote only "};
    for (size_t i = 0; i < ARRAY_COUNT(words); i++) {
        if (strstr(line, words[i]) != NULL) {
            return ENOSPC;
        }
    }
    return otherwise;
}
