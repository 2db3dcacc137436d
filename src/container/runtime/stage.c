/* Making the container's processes, directly or by one in between. */
#include "container/runtime/stage.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/runtime/channel.h"
#include "container/runtime/namespaces.h"

pid_t stage_clone(uint64_t flags, const struct cgroup *cgroup, bool *out_is_in_unified,
                  int *out_pidfd)
{
    AUTO_CLOSE int unified = cgroup != NULL ? cgroup_open_unified(cgroup) : -1;
    *out_is_in_unified = unified >= 0;
    pid_t pid = namespaces_clone(flags, unified, false, out_pidfd);
    if (pid < 0 && unified >= 0 && errno != EAGAIN && errno != ENOMEM) {
        *out_is_in_unified = false; /* a kernel or a group that does not take processes so */
        pid = namespaces_clone(flags, -1, false, out_pidfd);
    }
    return pid;
}

noreturn_fn void stage_end(pid_t pid, int rc, int channel, struct error *err)
{
    if (rc == 0) {
        rc = pid < 0 ? error_set_errno(err, errno, "making the container's process")
                     : channel_send(channel, CHANNEL_PID, &pid, sizeof(pid), NULL, 0, err);
    }
    if (rc < 0) {
        channel_send_error(channel, err);
    }
    _exit(rc < 0);
}

int stage_wait(pid_t stage, int channel, const char *who, struct channel_message *message,
               pid_t *out_pid, int *out_pidfd, struct error *err)
{
    int rc = channel_expect(channel, CHANNEL_PID, message, who, err);
    if (rc < 0) {
        (void)kill(stage, SIGKILL);
    }
    (void)waitpid(stage, NULL, 0);
    if (rc == 0 && message->size != sizeof(*out_pid)) {
        rc = error_set(err, EPROTO, "%s sent a broken message", who);
    }
    if (rc < 0) {
        return rc;
    }
    memcpy(out_pid, message->data, sizeof(*out_pid));
    *out_pidfd = (int)syscall(SYS_pidfd_open, *out_pid,
                              0); /* a child that has not been waited for keeps its number */
    return *out_pidfd < 0 ? error_set_errno(err, errno, "opening the container's process") : 0;
}
