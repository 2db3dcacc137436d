#include "manager/manager.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/command/options.h"
#include "base/core/size.h"
#include "base/host/file.h"
#include "base/host/log.h"
#include "manager/api/api.h"
#include "manager/defaults.h"
#include "manager/instance/instance.h"
#include "manager/instance/vm/watch.h"
#include "manager/lifeline.h"
#include "manager/operation/reserve.h"
#include "manager/recover.h"

#define PROGRAM     "hulld"
#define SOCKET_NAME "/hulld.sock"
/* Connections, sessions with two descriptors each, and what is open anyway. */
#define MAX_OPEN_FILES 4096

struct choice {
    const char *state, *socket, *tls, *certificate, *key, *client_ca;
    uint64_t idle_exit_s; /* 0: never */
    bool is_verbose;
};

/* What main() has besides the manager itself. */
struct daemon {
    struct manager manager;
    struct event_source *signals;
    struct event_timer *idle;
    uint64_t idle_exit_s, idle_since_ns;
    int signal_fd, lock_fd;
};

void manager_time(char out_text[32])
{
    time_t now = time(NULL);
    struct tm parts;
    strftime(out_text, 32, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &parts));
}

void manager_event(struct manager *manager, json_t *event)
{
    char now[32];
    manager_time(now);
    if (event != NULL && json_object_set_new(event, "time", json_string(now)) == 0) {
        api_server_event(manager->server, event);
    }
    instance_changed(manager->lifetime, event);
    json_decref(event);
}

static void operation_event(void *ctx, const json_t *event)
{
    manager_event(ctx, json_copy((json_t *)event));
}

#define TEXT_OPTION(member)                                                                        \
    static int parse_##member(void *into, const char *value, struct error *err)                    \
    {                                                                                              \
        ((struct choice *)into)->member = value;                                                   \
        return 0;                                                                                  \
    }
TEXT_OPTION(state)
TEXT_OPTION(socket)
TEXT_OPTION(tls)
TEXT_OPTION(certificate)
TEXT_OPTION(key)
TEXT_OPTION(client_ca)

static int parse_verbose(void *into, const char *value, struct error *err)
{
    ((struct choice *)into)->is_verbose = true;
    return 0;
}

static int parse_idle_exit(void *into, const char *value, struct error *err)
{
    return number_parse(value, 1, 86400, &((struct choice *)into)->idle_exit_s, err);
}

static const struct option_spec options[] = {
    {"state", 0, "DIR", "where everything is kept (default: /var/lib/hull, or the user's)", "DIR",
     parse_state},
    {"socket", 0, "PATH", "where the API listens (default: hulld.sock in the run folder)", "FILE",
     parse_socket},
    {"tls", 0, "ADDRESS:PORT", "also serve the API there, to clients with a certificate", NULL,
     parse_tls},
    {"certificate", 0, "FILE", "the server's certificate (PEM), for --tls", "FILE",
     parse_certificate},
    {"key", 0, "FILE", "its key (PEM)", "FILE", parse_key},
    {"client-ca", 0, "FILE", "who has signed the clients' certificates (PEM)", "FILE",
     parse_client_ca},
    {"idle-exit", 0, "SECONDS", "end when nothing was to do for so long", NULL, parse_idle_exit},
    {"verbose", 'v', NULL, "log each connection", NULL, parse_verbose},
    {0},
};

static const struct verb verb = {
    .name = "",
    .arguments = "",
    .summary = "Hull's manager: instances, images, networks, pools, and the API",
    .description = "It ends in order on SIGTERM. Instances go on, and so does what is under way;\n"
                   "the next hulld takes it up.\n",
    .examples = "  hulld\n"
                "  hulld --state /srv/hull --tls '[::]:8443' --certificate server.pem \\\n"
                "        --key server.key --client-ca clients.pem\n",
    .exit_status = "  0  it was told to end, or had nothing to do\n"
                   "  1  it cannot serve: one line says why\n",
    .options = options,
};

static void got_signal(void *ctx, int fd, uint32_t events)
{
    struct daemon *daemon = ctx;
    struct signalfd_siginfo info;
    if (read(fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        log_info("ending: signal %u of process %u", info.ssi_signo, info.ssi_pid);
        lifeline_notify("STOPPING=1");
        event_loop_stop(daemon->manager.loop);
    }
}

static int watch_signals(struct daemon *daemon, struct error *err)
{
    sigset_t ending;
    sigemptyset(&ending);
    sigaddset(&ending, SIGTERM);
    sigaddset(&ending, SIGINT);
    if (sigprocmask(SIG_BLOCK, &ending, NULL) < 0) {
        return error_set_errno(err, errno, "signals");
    }
    daemon->signal_fd = signalfd(-1, &ending, SFD_CLOEXEC | SFD_NONBLOCK);
    if (daemon->signal_fd < 0) {
        return error_set_errno(err, errno, "signals");
    }
    return event_loop_add_fd(daemon->manager.loop, daemon->signal_fd, EPOLLIN, got_signal, daemon,
                             &daemon->signals, err);
}

static bool is_working(struct manager *manager)
{
    json_t *list = NULL;
    if (operations_list(manager->operations, &list, NULL) < 0) {
        return true;
    }
    bool works = false;
    size_t i;
    const json_t *one;
    json_array_foreach(list, i, one)
    {
        const char *status = json_string_value(json_object_get(one, "status"));
        works = works || (status != NULL &&
                          (strcmp(status, "running") == 0 || strcmp(status, "waiting") == 0));
    }
    json_decref(list);
    return works;
}

static void check_idle(void *ctx)
{
    struct daemon *daemon = ctx;
    struct api_counters counters;
    uint64_t now_ns = clock_monotonic_ns();
    api_server_counters(daemon->manager.server, &counters);
    if (counters.connections > 0 || is_working(&daemon->manager)) {
        daemon->idle_since_ns = now_ns;
    }
    if (now_ns - daemon->idle_since_ns >= daemon->idle_exit_s * 1000000000u) {
        log_info("ending: nothing was to do for %u s", (unsigned)daemon->idle_exit_s);
        event_loop_stop(daemon->manager.loop);
        return;
    }
    event_timer_arm(daemon->idle, now_ns + 1000000000u);
}

static int watch_idle(struct daemon *daemon, uint64_t seconds, struct error *err)
{
    if (seconds == 0) {
        return 0;
    }
    daemon->idle_exit_s = seconds;
    daemon->idle_since_ns = clock_monotonic_ns();
    int rc = event_timer_create(daemon->manager.loop, check_idle, daemon, &daemon->idle, err);
    if (rc == 0) {
        event_timer_arm(daemon->idle, daemon->idle_since_ns + 1000000000u);
    }
    return rc;
}

static int recover(struct manager *manager, struct error *err)
{
    unsigned count = 0;
    int rc = recover_instances(manager, &count, err);
    if (count > 0) {
        log_info("%u instances are known again by their folders", count);
    }
    return rc;
}

static int open_store(struct manager *manager, struct error *err)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/hull.db", manager->place.state);
    bool was_corrupt = false, is_new = false;
    int rc = documents_open(path, &manager->documents, &was_corrupt, err);
    if (rc == 0 && was_corrupt) {
        log_error("database %s was damaged: kept aside beside it, and made anew", path);
    }
    if (rc == 0) {
        rc = defaults_make(manager, &is_new, err);
    }
    /* A database of which nothing is known: the folders know more. */
    return rc == 0 && is_new ? recover(manager, err) : rc;
}

static int start_operations(struct manager *manager, struct error *err)
{
    const struct operations_options spec = {.loop = manager->loop,
                                            .place = manager->place,
                                            .documents = manager->documents,
                                            .event = operation_event,
                                            .ctx = manager};
    return operations_create(&spec, &manager->operations, err);
}

static int start_server(struct manager *manager, const struct choice *choice, struct error *err)
{
    char path[PLACE_MAX_PATH + sizeof(SOCKET_NAME)];
    snprintf(path, sizeof(path), "%s" SOCKET_NAME, manager->place.run);
    struct api_server_options spec = {.manager = manager,
                                      .socket_path = choice->socket != NULL ? choice->socket : path,
                                      .socket_fd = -1,
                                      .tls_address = choice->tls,
                                      .certificate = choice->certificate,
                                      .key = choice->key,
                                      .client_ca = choice->client_ca};
    int rc = lifeline_activated_socket(&spec.socket_fd, err);
    return rc < 0 ? rc : api_server_create(&spec, &manager->server, err);
}

static int start(struct daemon *daemon, const struct choice *choice, struct error *err)
{
    struct manager *manager = &daemon->manager;
    int rc = place_open(choice->state, &manager->place, err);
    if (rc == 0) {
        rc = lifeline_lock(&manager->place, &daemon->lock_fd, err);
    }
    if (rc == 0) {
        rc = event_loop_create(&manager->loop, err);
    }
    if (rc == 0) {
        rc = watch_signals(daemon, err);
    }
    if (rc == 0) {
        rc = open_store(manager, err);
        while (rc < 0 &&
               reserve_give(&manager->place, rc)) { /* it has to be known what to delete */
            documents_close(TAKE_PTR(manager->documents));
            rc = open_store(manager, err);
        }
    }
    if (rc == 0) {
        rc = start_operations(manager, err);
    }
    if (rc == 0) {
        rc = start_server(manager, choice, err);
    }
    if (rc == 0) {
        rc = vm_watch_create(manager, &manager->vms, err);
    }
    if (rc == 0) {
        rc = instance_begin(manager, &manager->lifetime, err);
    }
    return rc < 0 ? rc : watch_idle(daemon, choice->idle_exit_s, err);
}

static void end(struct daemon *daemon)
{
    struct manager *manager = &daemon->manager;
    event_timer_destroy(daemon->idle);
    instance_end(manager->lifetime);
    manager->lifetime = NULL;
    vm_watch_destroy(manager->vms);
    api_server_destroy(manager->server);
    manager->server = NULL;
    if (manager->operations != NULL) {
        operations_destroy(manager->operations);
    }
    documents_close(manager->documents);
    event_source_remove(daemon->signals);
    event_loop_destroy(manager->loop);
    if (daemon->signal_fd >= 0) {
        close(daemon->signal_fd);
    }
}

static void raise_limits(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < MAX_OPEN_FILES) {
        limit.rlim_cur = MIN(limit.rlim_max, MAX_OPEN_FILES);
        (void)setrlimit(RLIMIT_NOFILE, &limit); /* then there are fewer connections */
    }
}

int manager_main(int argc, char **argv)
{
    struct choice choice = {0};
    struct error err = {0};
    bool wants_help = false;
    int count = 0;
    log_init(2, LOG_LEVEL_INFO, PROGRAM);
    int rc = options_parse(PROGRAM, &verb, false, argc, argv, &choice, &count, &wants_help, &err);
    if (rc == 0 && wants_help) {
        help_print(PROGRAM, &verb, stdout);
        return 0;
    }
    if (rc == 0 && count > 0) {
        rc = error_set(&err, EINVAL, "unexpected word '%s': see hulld --help", argv[0]);
    }
    if (rc < 0) {
        log_error("%s", err.text);
        return 1;
    }
    if (choice.is_verbose) {
        log_init(2, LOG_LEVEL_DEBUG, PROGRAM);
    }
    (void)umask(0022);
    raise_limits();
    struct daemon daemon = {.signal_fd = -1, .lock_fd = -1};
    rc = start(&daemon, &choice, &err);
    if (rc == 0) {
        lifeline_notify("READY=1");
        log_info("serving %s", daemon.manager.place.state);
        rc = api_server_run(daemon.manager.server, &err);
    }
    if (rc < 0) {
        log_error("%s", err.text);
    }
    end(&daemon);
    return rc < 0 ? 1 : 0;
}
