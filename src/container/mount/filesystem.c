/* New file systems as mounts that are attached nowhere yet. */
#include "container/mount/filesystem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "container/mount/beneath.h"
#include "container/mount/handle.h"

#define OPTION_MAX       4096
#define OPTION_VALUE_MAX 255 /* what fsconfig takes */

/* 1: mount(2) may do better. */
#define WANTS_MOUNT_CALL 1

static const struct {
    unsigned long flag;
    const char *set, *clear;
} superblock_flags[] = {
    {MS_RDONLY, "ro", "rw"},         {MS_SYNCHRONOUS, "sync", "async"},
    {MS_DIRSYNC, "dirsync", NULL},   {MS_LAZYTIME, "lazytime", "nolazytime"},
    {MS_MANDLOCK, "mand", "nomand"},
};

static const struct {
    uint64_t attribute;
    unsigned long flag;
} attribute_flags[] = {
    {MOUNT_ATTR_RDONLY, MS_RDONLY},         {MOUNT_ATTR_NOSUID, MS_NOSUID},
    {MOUNT_ATTR_NODEV, MS_NODEV},           {MOUNT_ATTR_NOEXEC, MS_NOEXEC},
    {MOUNT_ATTR_NOATIME, MS_NOATIME},       {MOUNT_ATTR_STRICTATIME, MS_STRICTATIME},
    {MOUNT_ATTR_NODIRATIME, MS_NODIRATIME}, {MOUNT_ATTR_NOSYMFOLLOW, 256 /* MS_NOSYMFOLLOW */},
};

int filesystem_next_option(const char **cursor, char *out_option, size_t size, char **out_value)
{
    const char *c = *cursor;
    while (*c == ',') {
        c++;
    }
    if (*c == '\0') {
        *cursor = c;
        return 0;
    }
    size_t length = 0;
    bool is_quoted = false;
    char *value = NULL;
    for (; *c != '\0' && (is_quoted || *c != ','); c++) {
        if (length + 2 >= size) {
            return -E2BIG;
        }
        is_quoted = *c == '"' ? !is_quoted : is_quoted;
        if (*c == '=' && value == NULL && length > 0) {
            out_option[length++] = '\0';
            value = out_option + length;
            continue;
        }
        out_option[length++] = *c;
        if (*c == '\\' && c[1] != '\0') {
            out_option[length++] = *++c;
        }
    }
    out_option[length] = '\0';
    *cursor = c;
    *out_value = value;
    return 1;
}

/* 0, WANTS_MOUNT_CALL or -errno. */
static int configure(int context, const struct filesystem_request *request)
{
    if (request->source != NULL &&
        fsconfig(context, FSCONFIG_SET_STRING, "source", request->source, 0) < 0) {
        return strlen(request->source) > OPTION_VALUE_MAX ? WANTS_MOUNT_CALL : -errno;
    }
    for (size_t i = 0; i < ARRAY_COUNT(superblock_flags); i++) {
        const char *name =
            request->superblock_flags & superblock_flags[i].flag     ? superblock_flags[i].set
            : request->superblock_cleared & superblock_flags[i].flag ? superblock_flags[i].clear
                                                                     : NULL;
        if (name != NULL && fsconfig(context, FSCONFIG_SET_FLAG, name, NULL, 0) < 0) {
            return WANTS_MOUNT_CALL;
        }
    }
    if (request->label != NULL &&
        fsconfig(context, FSCONFIG_SET_STRING, "context", request->label, 0) < 0) {
        return -errno;
    }
    const char *cursor = request->data == NULL ? "" : request->data;
    for (;;) {
        char option[OPTION_MAX], *value;
        int rc = filesystem_next_option(&cursor, option, sizeof(option), &value);
        if (rc <= 0) {
            return rc == -E2BIG ? WANTS_MOUNT_CALL : rc;
        }
        if ((value != NULL && strlen(value) > OPTION_VALUE_MAX) ||
            fsconfig(context, value != NULL ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, option,
                     value, 0) < 0) {
            return WANTS_MOUNT_CALL;
        }
    }
}

/* What the kernel says about it, without the letter for the level in front. */
static void read_log(int context, char *text, size_t size)
{
    ssize_t length = read(context, text, size - 1);
    text[length < 0 ? 0 : length] = '\0';
    char *end = strchr(text, '\n');
    if (end != NULL) {
        *end = '\0';
    }
}

/* By mount(2) on the directory itself: "." of the process is the one name of a descriptor that needs no /proc. */
static int mount_by_call(const struct filesystem_request *request, int target_fd)
{
    unsigned long flags = request->superblock_flags;
    for (size_t i = 0; i < ARRAY_COUNT(attribute_flags); i++) {
        flags |= request->attributes & attribute_flags[i].attribute ? attribute_flags[i].flag : 0;
    }
    AUTO_HANDLE int before = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (before < 0 || fchdir(target_fd) < 0) {
        return -errno;
    }
    int rc = mount(request->source, ".", request->type, flags, request->data) < 0 ? -errno : 0;
    return fchdir(before) < 0 && rc == 0 ? -errno : rc;
}

int filesystem_open(const struct filesystem_request *request, int target_fd, int *out_fd,
                    struct error *err)
{
    AUTO_HANDLE int context = fsopen(request->type, FSOPEN_CLOEXEC);
    if (context < 0) {
        return error_set_errno(err, errno, "file system %s", request->type);
    }
    char log[128] = "";
    int rc = configure(context, request);
    if (rc == 0) {
        rc = fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0 ? -errno : 0;
        if (rc == 0) {
            int fd = fsmount(context, FSMOUNT_CLOEXEC, (unsigned)request->attributes);
            if (fd >= 0) {
                *out_fd = fd;
                return 0;
            }
            rc = -errno;
        }
    } else if (rc == WANTS_MOUNT_CALL) {
        rc = target_fd < 0 ? -EINVAL : mount_by_call(request, target_fd);
        if (rc == 0) {
            *out_fd = -1;
            return 0;
        }
    }
    read_log(context, log, sizeof(log));
    return error_set_errno(err, -rc, "file system %s%s%s", request->type,
                           log[0] != '\0' ? ": " : "", log);
}

int filesystem_reconfigure(const struct filesystem_request *request, int mount_fd,
                           struct error *err)
{
    AUTO_HANDLE int context = fspick(mount_fd, "", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH);
    if (context < 0) {
        return error_set_errno(err, errno, "opening the file system");
    }
    int rc = configure(context, request);
    rc = rc == WANTS_MOUNT_CALL ? -EINVAL : rc;
    if (rc == 0 && fsconfig(context, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) < 0) {
        rc = -errno;
    }
    char log[128];
    read_log(context, log, sizeof(log));
    return rc < 0 ? error_set_errno(err, -rc, "changing the file system's options%s%s",
                                    log[0] != '\0' ? ": " : "", log)
                  : 0;
}
