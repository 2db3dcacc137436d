#include "manager/containers.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/program.h"
#include "manager/instance/instance.h"
#include "manager/network/network.h"
#include "manager/text.h"
#include "system/rootless/rootless.h"

/* A user's running containers are forgotten at the next start of the host, as his other running things. */
static const char *run_of(const struct place *place, char path[PATH_MAX])
{
    (void)snprintf(path, PATH_MAX, "%s/ct", place->run);
    return place->is_root ? NULL : path;
}

int containers_store(const struct place *place, struct store *out_store, struct error *err)
{
    char run[PATH_MAX];
    return store_open(place->state, run_of(place, run), out_store, err);
}

int containers_open(const struct place *place, const char *keeper, struct life *out_life,
                    struct error *err)
{
    char run[PATH_MAX];
    return life_open(out_life, place->state, run_of(place, run), keeper, err);
}

static bool is_container(const json_t *document)
{
    return strcmp(text_or_empty(document, "kind"), "container") == 0;
}

bool containers_may_concern(const char *job)
{
    return strncmp(job, "image-", 6) == 0 || strcmp(job, "template-delete") == 0;
}

bool containers_concern(const struct place *place, const char *job, const json_t *request)
{
    const json_t *known = json_object_get(request, "document");
    const char *name = text_of(request, "name");
    char folder[PATH_MAX];
    json_t *document;
    if (strcmp(job, "system-check") == 0) {
        place_state_path(place, "containers", NULL, NULL, folder);
        return access(folder, F_OK) == 0;
    }
    if (strncmp(job, "instance-", 9) != 0 && strcmp(job, "template-create") != 0) {
        return containers_may_concern(job);
    }
    if (name == NULL || is_container(known) || instance_load(place, name, &document, NULL) < 0) {
        return is_container(known);
    }
    bool is_found = is_container(document);
    json_decref(document);
    return is_found;
}

/* What fails here fails again, and is told, when a card is attached. */
static void start_networks(const struct place *place, const json_t *request)
{
    json_t *network;
    struct error ignored;
    const char *name;
    json_object_foreach(json_object_get(request, "networks"), name, network)
    {
        error_ignore(network_up(place, network, &ignored));
    }
}

int containers_enter(struct place *place, const json_t *request, struct error *err)
{
    char run[PATH_MAX], keeper[PATH_MAX];
    if (place->has_owners) {
        return 0;
    }
    start_networks(place, request);
    int rc = program_find("hull-ct-keeper", false, keeper, sizeof(keeper), err);
    rc = rc < 0 ? rc : rootless_enter(run_of(place, run), keeper, err);
    place->has_owners = rc == 0;
    return rc;
}

/* In the new process. */
noreturn_fn static void do_inside(struct job *job, pid_t parent, int report,
                                  int (*fn)(void *ctx, struct error *err), void *ctx)
{
    struct error why = {0};
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    int rc = getppid() != parent ? -ESRCH : containers_enter(&job->place, NULL, &why);
    rc = rc < 0 ? rc : fn(ctx, &why);
    if (rc < 0 && why.code == 0) {
        error_ignore(error_set_errno(&why, -rc, "working in the user's namespace"));
    }
    _exit(rc < 0 && write(report, &why, sizeof(why)) > 0 ? 1 : 0);
}

int containers_do(struct job *job, int (*fn)(void *ctx, struct error *err), void *ctx,
                  struct error *err)
{
    int fds[2], status;
    struct error why = {0};
    if (job->place.has_owners) {
        return fn(ctx, err);
    }
    if (pipe2(fds, O_CLOEXEC) < 0) {
        return error_set_errno(err, errno, "starting a process in the user's namespace");
    }
    AUTO_CLOSE int from = fds[0], to = fds[1];
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        do_inside(job, parent, to, fn, ctx);
    }
    if (pid < 0) {
        return error_set_errno(err, errno, "starting a process in the user's namespace");
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
        if (job_is_cancelled(job)) {
            (void)kill(pid, SIGTERM); /* ours, not waited for yet */
        }
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        return 0;
    }
    (void)fcntl(from, F_SETFL, O_NONBLOCK);
    return read(from, &why, sizeof(why)) == sizeof(why)
               ? error_set(err, why.code, "%s", why.text)
               : error_set(err, ECHILD, "a process in the user's namespace was killed");
}
