/* The agent that answers notified calls: it gets the listener once, and the runtime has no more to do with it. */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/pass_fd.h"
#include "container/seccomp/seccomp.h"

#define AGENT_TIMEOUT_S 10 /* for an agent that neither accepts nor reads */

int seccomp_connect_agent(const struct spec_seccomp *seccomp, struct error *err)
{
    const char *path = seccomp->listener_path;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path)) {
        return error_set(err, ENAMETOOLONG,
                         "linux.seccomp.listenerPath: a socket's path has at most %zu bytes",
                         sizeof(address.sun_path) - 1);
    }
    memcpy(address.sun_path, path, strlen(path));
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct timeval limit = {.tv_sec = AGENT_TIMEOUT_S};
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0 ||
        connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        return error_set_errno(err, errno, "linux.seccomp.listenerPath: connecting to %s", path);
    }
    return TAKE_FD(fd);
}

/* config-linux.md, The Container Process State. */
static char *process_state(const struct spec_seccomp *seccomp, pid_t pid, const char *state)
{
    json_t *container = json_loads(state, 0, NULL);
    json_t *object = json_pack("{s:s, s:[s], s:i, s:o}", "ociVersion", SPEC_VERSION, "fds",
                               "seccompFd", "pid", (int)pid, "state", container);
    char *text = NULL;
    if (object != NULL &&
        (seccomp->listener_metadata == NULL ||
         json_object_set_new(object, "metadata", json_string(seccomp->listener_metadata)) == 0)) {
        text = json_dumps(object, JSON_COMPACT);
    }
    json_decref(object);
    return text;
}

int seccomp_send_listener(const struct spec_seccomp *seccomp, int agent, int listener, pid_t pid,
                          const char *state, struct error *err)
{
    AUTO_FREE char *text = process_state(seccomp, pid, state);
    if (text == NULL) {
        return error_set(err, EINVAL,
                         "the state of the container for the seccomp agent is no JSON");
    }
    size_t size = strlen(text), done = 0;
    while (done < size) {
        /* The descriptor goes with the first bytes, and with them only. */
        ssize_t sent = pass_fd_send(agent, text + done, size - done, &listener, done == 0 ? 1 : 0,
                                    MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) {
            continue;
        }
        if (sent <= 0) {
            return error_set_errno(err, sent < 0 ? errno : EPIPE,
                                   "linux.seccomp.listenerPath: sending to %s",
                                   seccomp->listener_path);
        }
        done += (size_t)sent;
    }
    return 0;
}
