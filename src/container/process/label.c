/* Security labels of the next exec. */
#include "container/process/label.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "container/mount/handle.h"
#include "container/mount/procfs.h"

#define TEXT_MAX 4096 /* the kernel takes a page */

int label_format_apparmor(const char *profile, char *out_text, size_t size)
{
    if (*profile == '\0' || strpbrk(profile, "\n\t") != NULL) {
        return -EINVAL;
    }
    int length = snprintf(out_text, size, "exec %s", profile);
    return length < 0 || (size_t)length >= size ? -EINVAL : 0;
}

/* A kernel without the module has the file without anything behind it. */
static bool is_active(int proc_fd, const char *current)
{
    AUTO_HANDLE int fd = procfs_open_file(proc_fd, current, O_RDONLY);
    char text[TEXT_MAX];
    return fd >= 0 && read(fd, text, sizeof(text)) > 0;
}

static int set_apparmor(int proc_fd, const char *profile, struct degrade *degrade,
                        struct error *err)
{
    char text[TEXT_MAX];
    if (label_format_apparmor(profile, text, sizeof(text)) < 0) {
        return error_set(err, EINVAL, "process.apparmorProfile: not a name of a profile");
    }
    bool has_own_files = true;
    int rc = procfs_write(proc_fd, "self/attr/apparmor/exec", text);
    if (rc == -ENOENT) { /* before Linux 5.8, or without AppArmor */
        has_own_files = false;
        rc = procfs_write(proc_fd, "self/attr/exec", text);
    }
    if (rc == 0) {
        return 0;
    }
    if (!is_active(proc_fd, has_own_files ? "self/attr/apparmor/current" : "self/attr/current")) {
        if (strcmp(profile, "unconfined") != 0) {
            degrade_add(degrade, "process.apparmorProfile", "AppArmor is not enabled on this host");
        }
        return 0;
    }
    return error_set_errno(err, -rc, "process.apparmorProfile: %s", profile);
}

static int set_selinux(int proc_fd, const char *label, struct degrade *degrade, struct error *err)
{
    int rc = procfs_write(proc_fd, "self/attr/exec", label);
    if (rc == 0) {
        return 0;
    }
    if (!is_active(proc_fd, "self/attr/current")) {
        degrade_add(degrade, "process.selinuxLabel", "SELinux is not enabled on this host");
        return 0;
    }
    return error_set_errno(err, -rc, "process.selinuxLabel: %s", label);
}

int label_set_exec(const struct spec_process *process, struct degrade *degrade, struct error *err)
{
    bool has_profile = process->apparmor_profile != NULL && *process->apparmor_profile != '\0';
    bool has_label = process->selinux_label != NULL && *process->selinux_label != '\0';
    if (!has_profile && !has_label) {
        return 0;
    }
    AUTO_HANDLE int proc = procfs_open(err);
    int rc = proc < 0      ? proc
             : has_profile ? set_apparmor(proc, process->apparmor_profile, degrade, err)
                           : 0;
    return rc == 0 && has_label ? set_selinux(proc, process->selinux_label, degrade, err) : rc;
}
