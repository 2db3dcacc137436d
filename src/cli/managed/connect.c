/* Finding hulld, and starting one for an ordinary user. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "base/host/program.h"
#include "cli/managed/managed.h"
#include "manager/place.h"

#define START_MS 20000 /* a bound for a loaded host */
#define GRACE_MS 1000  /* for another hulld, which was started at the same time */

int managed_find(struct client *out_client, struct error *err)
{
    char path[PLACE_MAX_PATH];
    const char *remote = getenv("HULL_REMOTE");
    if (remote != NULL && remote[0] != '\0') {
        return strstr(remote, "://") != NULL
                   ? client_init(out_client, remote, err)
                   : error_set(err, EINVAL,
                               "HULL_REMOTE=%.100s: https://HOST[:PORT] or "
                               "ssh://[USER@]HOST[:PORT]",
                               remote);
    }
    int rc = place_find_socket(path, err);
    return rc < 0 ? rc : client_init(out_client, path, err);
}

static bool is_listening(const struct client *client)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (client->is_remote) {
        return true; /* what there is, the request will say */
    }
    memcpy(address.sun_path, client->where, sizeof(address.sun_path)); /* client_init: it fits */
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return fd >= 0 &&
           (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 ||
            (errno != ECONNREFUSED && errno != ENOENT)); /* what it is, the request will say */
}

/* What hulld said last, in place of an error of ours. */
static int explain(int log, const char *path, struct error *err)
{
    char text[ERROR_TEXT_SIZE] = "";
    struct stat info;
    off_t from = fstat(log, &info) == 0 && info.st_size >= (off_t)sizeof(text)
                     ? info.st_size - (off_t)sizeof(text) + 1
                     : 0;
    ssize_t got = pread(log, text, sizeof(text) - 1, from);
    while (got > 0 && text[got - 1] == '\n') {
        text[--got] = '\0';
    }
    const char *last = strrchr(text, '\n');
    last = last != NULL ? last + 1 : text;
    if (strncmp(last, "hulld: ", 7) == 0) {
        last += 7;
    }
    return last[0] != '\0' ? client_error(err, EIO, last)
                           : error_set(err, EIO, "it has ended: see %s", path);
}

static int wait_until_listening(const struct client *client, pid_t pid, int log, const char *path,
                                struct error *err)
{
    int64_t deadline = clock_monotonic_ms() + START_MS;
    bool is_dead = false;
    while (clock_monotonic_ms() < deadline) {
        if (is_listening(client)) {
            return 0;
        }
        if (!is_dead && waitpid(pid, NULL, WNOHANG) == pid) {
            is_dead = true;
            deadline = MIN(deadline, clock_monotonic_ms() + GRACE_MS);
        }
        (void)nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    return is_dead ? explain(log, path, err)
                   : error_set(err, ETIMEDOUT, "it does not listen: see %s", path);
}

static int run(const struct client *client, const char *program, const char *const *argv, int log,
               const char *path, struct error *err)
{
    struct process_spec spec = {
        .program = program, .argv = argv, .stdout_fd = -1, .stderr_fd = log, .outlives_us = true};
    pid_t pid;
    int rc = process_spawn(&spec, strcmp(program, "hulld") != 0, &pid, err);
    return rc < 0 ? rc : wait_until_listening(client, pid, log, path, err);
}

/* Within a control group that is the user's, where his systemd gives one: his containers' limits, and systemd in them, need that. */
static bool start_in_scope(const struct client *client, int log, const char *path)
{
    char manager[PATH_MAX], hulld[PATH_MAX], found[PATH_MAX];
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    struct error ignored;
    (void)snprintf(manager, sizeof(manager), "%s/systemd/private", runtime != NULL ? runtime : "");
    if (geteuid() == 0 || runtime == NULL || access(manager, F_OK) < 0 ||
        program_find("systemd-run", true, found, sizeof(found), &ignored) < 0 ||
        program_find("hulld", false, hulld, sizeof(hulld), &ignored) < 0) {
        return false;
    }
    const char *argv[] = {"systemd-run",  "--user", "--scope", "--quiet",     "--collect", "-p",
                          "Delegate=yes", "--",     hulld,     "--idle-exit", "300",       NULL};
    return run(client, "systemd-run", argv, log, path, &ignored) == 0;
}

static int start(const struct client *client, struct error *err)
{
    struct place place;
    char path[PLACE_MAX_PATH + 16];
    static const char *const argv[] = {"hulld", "--idle-exit", "300", NULL};
    int rc = place_open(NULL, &place, err);
    if (rc < 0) {
        return rc;
    }
    (void)snprintf(path, sizeof(path), "%s/hulld.log", place.state);
    AUTO_CLOSE int log =
        open(path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (log < 0) {
        return error_set_errno(err, errno, "log %s", path);
    }
    return start_in_scope(client, log, path) ? 0 : run(client, "hulld", argv, log, path, err);
}

/* The host's own, which systemd looks after. */
static int start_service(const struct client *client, struct error *err)
{
    static const char *const argv[] = {"systemctl", "start", "hulld", NULL};
    struct process_spec spec = {
        .program = "systemctl", .argv = argv, .stdout_fd = -1, .stderr_fd = -1};
    pid_t pid;
    int status = 0;
    int rc = process_spawn(&spec, true, &pid, err);
    if (rc < 0) {
        return rc;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return status == 0 && is_listening(client)
               ? 0
               : error_set(err, ECONNREFUSED,
                           "`systemctl start hulld` failed: `journalctl -u hulld` says why, if "
                           "it is installed");
}

int managed_open(struct client *out_client, struct error *err)
{
    int rc = managed_find(out_client, err);
    if (rc < 0 || is_listening(out_client)) {
        return rc;
    }
    const char *chosen = getenv("HULL_SOCKET"), *state = getenv("HULL_STATE");
    if (chosen != NULL && chosen[0] != '\0') {
        return error_set(err, ECONNREFUSED, "hulld: nobody listens at %s, which HULL_SOCKET names",
                         chosen);
    }
    bool is_service = geteuid() == 0 && (state == NULL || state[0] == '\0');
    bool has_systemd = access("/run/systemd/system", F_OK) == 0;
    rc = is_service && has_systemd ? start_service(out_client, err) : start(out_client, err);
    return rc < 0 ? error_prefix(err, rc, "starting hulld") : 0;
}
