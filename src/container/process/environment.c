/* What surrounds the program and is no matter of rights. */
#include <errno.h>
#include <limits.h>
#include <linux/keyctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "container/process/limits.h"
#include "container/process/process.h"

#define DEFAULT_MASK 0022

/* Of its own, so that the keys of the caller's session are not the container's. */
static int join_keyring(struct degrade *degrade, struct error *err)
{
    if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) >= 0) {
        return 0;
    }
    if (errno == ENOSYS || errno == EDQUOT || errno == EPERM) {
        int code = errno;
        degrade_add(degrade, "process", "no session keyring of its own: %s", strerror(code));
        return 0;
    }
    return error_set_errno(err, errno, "joining a new session keyring");
}

static int make_directories(const char *path)
{
    char prefix[PATH_MAX];
    size_t size = strlen(path);
    if (size >= sizeof(prefix)) {
        return -ENAMETOOLONG;
    }
    memcpy(prefix, path, size + 1);
    for (char *end = prefix + 1; end != NULL && *end != '\0';) {
        end = strchr(end, '/');
        if (end != NULL) {
            *end = '\0';
        }
        if (mkdir(prefix, 0755) < 0 && errno != EEXIST) {
            return -errno;
        }
        if (end != NULL) {
            *end++ = '/';
        }
    }
    return 0;
}

static int enter_cwd(const char *cwd, bool makes_cwd, struct error *err)
{
    if (chdir(cwd) < 0) {
        int rc = errno == ENOENT && makes_cwd ? make_directories(cwd) : -errno;
        if (rc < 0 || chdir(cwd) < 0) {
            return error_set_errno(err, rc < 0 ? -rc : errno, "process.cwd: entering %s", cwd);
        }
    }
    /* A cwd of /proc/self/fd/N leads to the host if a descriptor of it was left open (CVE-2024-21626). The kernel then says
     * "(unreachable)" in front; libc's getcwd is not asked, since it would hide that. */
    char path[PATH_MAX];
    long size = syscall(SYS_getcwd, path, sizeof(path));
    if (size < 0 || path[0] != '/') {
        int code = size < 0 ? errno : EXDEV;
        if (chdir("/") < 0) {
            code = errno;
        }
        return error_set(err, code, "process.cwd: %s is outside of the container's root", cwd);
    }
    return 0;
}

int process_set_environment(const struct spec *spec, bool no_new_keyring, bool makes_cwd,
                            struct degrade *degrade, struct error *err)
{
    const struct spec_process *process = &spec->process;
    int rc = no_new_keyring ? 0 : join_keyring(degrade, err);
    if (rc == 0 && spec->linux_.has_personality && personality(spec->linux_.personality) < 0) {
        rc = error_set_errno(err, errno, "linux.personality");
    }
    if (rc == 0 && spec->linux_.memory_policy.is_set) {
        rc = limits_set_memory_policy(&spec->linux_.memory_policy, degrade, err);
    }
    if (rc == 0 && process->cpu_affinity_final != NULL) {
        rc = process_set_affinity(process->cpu_affinity_final, err);
    }
    if (rc == 0 && process->scheduler.is_set) {
        rc = limits_set_scheduler(&process->scheduler, degrade, err);
    }
    if (rc == 0 && process->io_priority.has) {
        rc = limits_set_io_priority(process->io_priority.value, degrade, err);
    }
    rc = rc < 0 ? rc : enter_cwd(process->cwd, makes_cwd, err);
    (void)umask(process->umask.has ? (mode_t)(process->umask.value & 0777) : DEFAULT_MASK);
    return rc < 0 ? rc : limits_set_rlimits(process, degrade, err);
}
