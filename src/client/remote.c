#include "client/remote.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/core/size.h"
#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "base/host/program.h"
#include "client/client.h"

#define CONNECT_MS 60000 /* ssh may have to try several addresses */

static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";

/* As a word of a command line, it must not be taken for an option. */
static bool is_name(const char *text, size_t size, const char *more)
{
    bool is_good = size > 0 && text[0] != '-';
    for (size_t i = 0; is_good && i < size; i++) {
        is_good = strchr(letters, text[i]) != NULL || strchr(more, text[i]) != NULL;
    }
    return is_good;
}

int remote_parse(const char *text, struct remote *out_remote, struct error *err)
{
    static const char https[] = "https://", ssh[] = "ssh://";
    bool is_ssh = strncmp(text, ssh, sizeof(ssh) - 1) == 0;
    bool is_good = is_ssh || strncmp(text, https, sizeof(https) - 1) == 0;
    const char *rest = text + (is_ssh ? sizeof(ssh) - 1 : is_good ? sizeof(https) - 1 : 0);
    size_t length = strcspn(rest, "/");
    is_good =
        is_good && (rest[length] == '\0' || rest[length + 1] == '\0'); /* one '/' at the end */
    const char *at = memchr(rest, '@', length);
    size_t user = is_ssh && at != NULL ? (size_t)(at - rest) + 1 : 0;
    is_good = is_good && (user == 0 || is_name(rest, user - 1, ""));
    const char *host = rest + user;
    length -= user;
    const char *bracket = host[0] == '[' ? memchr(host, ']', length) : NULL;
    const char *end = bracket != NULL ? bracket + 1 : memchr(host, ':', length);
    size_t size = end != NULL ? (size_t)(end - host) : length;
    char port[6] = "";
    if (is_good && size < length) {
        uint64_t number;
        (void)snprintf(port, sizeof(port), "%.*s", (int)(length - size - 1), host + size + 1);
        is_good = host[size] == ':' && length - size <= sizeof(port) &&
                  number_parse(port, 1, 65535, &number, NULL) == 0;
    }
    host += bracket != NULL;
    size -= bracket != NULL ? 2 : 0;
    is_good = is_good && user + size < sizeof(out_remote->host) &&
              is_name(host, size, bracket != NULL ? ":%" : "");
    if (!is_good) {
        return error_set(err, EINVAL,
                         "'%.100s': no address of a hulld: https://HOST[:PORT] or "
                         "ssh://[USER@]HOST[:PORT]",
                         text);
    }
    *out_remote = (struct remote){.is_ssh = is_ssh};
    (void)snprintf(out_remote->host, sizeof(out_remote->host), "%.*s%.*s", (int)user, rest,
                   (int)size, host);
    (void)snprintf(out_remote->port, sizeof(out_remote->port), "%s",
                   port[0] != '\0' || is_ssh ? port : REMOTE_DEFAULT_TLS);
    return 0;
}

/* Where the certificates for a host lie: in a folder of its name, or where those for all are. */
static int certificate_folder(const char *host, char out[PATH_MAX], struct error *err)
{
    const char *chosen = getenv("HULL_REMOTE_CERTIFICATES");
    const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    int length =
        chosen != NULL && chosen[0] != '\0' ? snprintf(out, PATH_MAX, "%s", chosen)
        : config != NULL && config[0] == '/'
            ? snprintf(out, PATH_MAX, "%s/hull/certificates", config)
            : snprintf(out, PATH_MAX, "%s/.config/hull/certificates", home != NULL ? home : "");
    struct stat info;
    int whole =
        snprintf(out + length, length < PATH_MAX ? (size_t)(PATH_MAX - length) : 0, "/%s", host);
    if (length >= PATH_MAX || whole >= PATH_MAX - length - 16) {
        return error_set(err, ENAMETOOLONG, "folder of certificates");
    }
    if (stat(out, &info) < 0 || !S_ISDIR(info.st_mode)) {
        out[length] = '\0';
    }
    return 0;
}

/* Connections of one host share one of ssh's: the first one stays for a minute. */
static int ssh_control_path(char out[PATH_MAX])
{
    const char *run = getenv("XDG_RUNTIME_DIR");
    if (run == NULL || run[0] != '/' || strpbrk(run, "% \"") != NULL) {
        return -1;
    }
    return snprintf(out, PATH_MAX, "ControlPath=%s/hull-ssh-%%C", run) < 100 ? 0 : -1;
}

static int spawn(const struct remote *remote, int socket, int messages, pid_t *out_pid,
                 struct error *err)
{
    char folder[PATH_MAX] = "", control[PATH_MAX];
    const char *argv[24];
    size_t count = 0;
    if (remote->is_ssh) {
        argv[count++] = "ssh";
        argv[count++] = "-T";
        if (ssh_control_path(control) == 0) { /* the next request saves itself the greeting */
            const char *const shared[] = {
                "-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", control};
            memcpy(argv + count, shared, sizeof(shared));
            count += ARRAY_COUNT(shared);
        }
        if (remote->port[0] != '\0') {
            argv[count++] = "-p";
            argv[count++] = remote->port;
        }
        const char *const command[] = {"--", remote->host, "hull", "dial"};
        memcpy(argv + count, command, sizeof(command));
        count += ARRAY_COUNT(command);
    } else {
        int rc = certificate_folder(remote->host, folder, err);
        if (rc < 0) {
            return rc;
        }
        const char *const command[] = {"hull-dial", "--certificates", folder, remote->host,
                                       remote->port};
        memcpy(argv, command, sizeof(command));
        count = ARRAY_COUNT(command);
    }
    argv[count] = NULL;
    struct process_spec spec = {.program = argv[0],
                                .argv = argv,
                                .stdin_fd = socket,
                                .stdout_fd = socket,
                                .stderr_fd = messages};
    return process_spawn(&spec, remote->is_ssh, out_pid, err);
}

/* What the program said last on its standard error, in place of an error of ours. */
static int explain(const struct remote *remote, int messages, struct error *err)
{
    char text[ERROR_TEXT_SIZE] = "";
    ssize_t got = pread(messages, text, sizeof(text) - 1, 0);
    while (got > 0 && (text[got - 1] == '\n' || text[got - 1] == '\r')) {
        text[--got] = '\0';
    }
    const char *last = strrchr(text, '\n');
    last = last != NULL ? last + 1 : text;
    return client_error(err, ECONNREFUSED,
                        last[0] != '\0' ? last
                        : remote->is_ssh
                            ? "ssh has ended the connection: is `hull` installed there?"
                            : "hull-dial has ended");
}

/* The line before all others, byte by byte: what comes behind it is hulld's. */
static int await_ready(const struct remote *remote, int fd, int messages, struct error *err)
{
    static const char ready[] = CLIENT_READY;
    char line[ERROR_TEXT_SIZE] = "";
    int64_t deadline = clock_monotonic_ms() + CONNECT_MS;
    for (size_t size = 0; size < sizeof(line) - 1;) {
        struct pollfd polled = {.fd = fd, .events = POLLIN};
        int64_t left = deadline - clock_monotonic_ms();
        int count = left <= 0 ? 0 : poll(&polled, 1, (int)left);
        if (count == 0) {
            return error_set_errno(err, ETIMEDOUT, "connecting");
        }
        ssize_t got = count < 0 ? -1 : read(fd, line + size, 1);
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
            continue;
        }
        if (got <= 0) {
            return explain(remote, messages, err);
        }
        if (line[size++] == '\n') {
            line[size - 1] = '\0';
            return strncmp(line, ready, sizeof(ready) - 2) == 0 && size == sizeof(ready) - 1
                       ? 0
                       : client_error(err, ECONNREFUSED,
                                      strncmp(line, "hull: ", 6) == 0 ? line + 6 : line);
        }
    }
    return error_set(err, EPROTO, "no hull answers there");
}

/* Programs end with their connections, and are buried when the next one is made. A verb has few, most of them one after the other. */
static pid_t children[64];

static void bury(pid_t added)
{
    for (size_t i = 0; i < ARRAY_COUNT(children); i++) {
        if (children[i] > 0 && waitpid(children[i], NULL, WNOHANG) != 0) {
            children[i] = 0;
        }
        if (children[i] == 0) {
            children[i] = added;
            added = 0;
        }
    }
}

int remote_connect(const struct remote *remote, int *out_fd, struct error *err)
{
    int pair[2];
    AUTO_CLOSE int messages = memfd_create("messages", MFD_CLOEXEC);
    if (messages < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        return error_set_errno(err, errno, "a connection");
    }
    AUTO_CLOSE int near = pair[0];
    pid_t pid = 0;
    int rc = spawn(remote, pair[1], messages, &pid, err);
    (void)close(pair[1]);
    bury(rc < 0 ? 0 : pid);
    rc = rc < 0 ? rc : await_ready(remote, near, messages, err);
    if (rc < 0) {
        return error_prefix(err, rc, "hulld at %s", remote->host);
    }
    *out_fd = TAKE_FD(near);
    return 0;
}
