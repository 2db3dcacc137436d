/* User namespaces that exist for their mappings only. */
#include "container/mount/idmap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/mount/handle.h"

#define LINE_MAX_BYTES 36 /* three numbers of 10 digits, blanks, end of line */

char *idmap_format(const struct spec_id_mappings *mappings)
{
    size_t size = mappings->count * LINE_MAX_BYTES + 1;
    char *text = calloc(1, size);
    size_t used = 0;
    for (size_t i = 0; text != NULL && i < mappings->count; i++) {
        const struct spec_id_mapping *m = &mappings->item[i];
        used += (size_t)snprintf(text + used, size - used, "%u %u %u\n", m->container_id,
                                 m->host_id, m->size);
    }
    return text;
}

static int write_map(pid_t pid, const char *name, const struct spec_id_mappings *mappings,
                     struct error *err)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
    AUTO_FREE char *text = idmap_format(mappings);
    AUTO_HANDLE int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (text == NULL || fd < 0) {
        return error_set_errno(err, text == NULL ? ENOMEM : errno, "opening %s", path);
    }
    return file_write_all(fd, text, strlen(text), path, err);
}

static int open_mapped(pid_t pid, const struct spec_id_mappings *uids,
                       const struct spec_id_mappings *gids, struct error *err)
{
    int rc = write_map(pid, "uid_map", uids, err);
    rc = rc < 0 ? rc : write_map(pid, "gid_map", gids, err);
    if (rc < 0) {
        return rc;
    }
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/user", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? error_set_errno(err, errno, "opening %s", path) : fd;
}

int idmap_make_namespace(const struct spec_id_mappings *uids, const struct spec_id_mappings *gids,
                         struct error *err)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) {
        return error_set_errno(err, errno, "making a user namespace for a mount's id mappings");
    }
    struct clone_args args = {.flags = CLONE_NEWUSER, .exit_signal = SIGCHLD};
    long pid = syscall(SYS_clone3, &args, sizeof(args));
    if (pid == 0) {
        char byte;
        close(ends[1]);
        _exit(read(ends[0], &byte, 1) < 0); /* until the caller closes the other end, or is gone */
    }
    close(ends[0]);
    int fd = pid < 0
                 ? error_set_errno(err, errno, "making a user namespace for a mount's id mappings")
                 : open_mapped((pid_t)pid, uids, gids, err);
    close(ends[1]);
    while (pid > 0 && waitpid((pid_t)pid, NULL, 0) < 0 && errno == EINTR) {
    }
    return fd;
}
