/* Users in /etc/passwd. */
#include "container/runtime/passwd.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/host/file.h"

#define PASSWD   "/etc/passwd"
#define MAX_SIZE (4u << 20)

/* A container's may be anything: a pipe would have its reader wait, a device would never end, and reading some files of the kernel's
 * changes something (those have no size). */
static bool is_plain(const struct stat *info)
{
    return S_ISREG(info->st_mode) && info->st_size > 0;
}

static int open_passwd(void)
{
    struct stat info;
    if (stat(PASSWD, &info) < 0 || !is_plain(&info)) {
        return -1;
    }
    AUTO_CLOSE int fd = open(PASSWD, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    bool is_same =
        fd >= 0 && fstat(fd, &info) == 0 && is_plain(&info); /* not exchanged meanwhile */
    return is_same ? TAKE_FD(fd) : -1;
}

const struct passwd *passwd_find(uint32_t uid)
{
    AUTO_CLOSE int fd = open_passwd();
    AUTO_FREE void *text = NULL;
    size_t size;
    struct error ignored;
    if (fd < 0 || file_read_whole(fd, MAX_SIZE, PASSWD, &text, &size, &ignored) < 0) {
        return NULL;
    }
    FILE *file = size != 0 ? fmemopen(text, size, "r") : NULL;
    struct passwd *entry = NULL;
    while (file != NULL && (entry = fgetpwent(file)) != NULL && entry->pw_uid != uid) {
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return entry;
}
