/* hull-storage: opens the disk, locks itself in, serves its one client until that has gone. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/host/confine.h"
#include "base/host/helper.h"
#include "base/host/log.h"
#include "block/nbd_server.h"
#include "block/remote.h"
#include "storage/jail.h"
#include "storage/options.h"
#include "storage/storage.h"

struct storage {
    struct event_loop *loop;
    struct block *block;
    struct nbd_server *server;
};

static void client_event(void *ctx, enum nbd_client_event event, bool has_started, const char *text)
{
    struct storage *storage = ctx;
    if (event == NBD_CLIENT_GONE) {
        if (text != NULL) {
            log_info("client: %s", text);
        }
        event_loop_stop(storage->loop);
    }
}

static void signal_came(void *ctx, int fd, uint32_t events)
{
    struct storage *storage = ctx;
    event_loop_stop(storage->loop);
}

static int open_disk(struct storage *storage, const struct storage_options *options,
                     struct error *err)
{
    if (!block_is_uri(options->uri)) {
        return error_set(err, EINVAL, "--uri %.100s: expected SCHEME://...", options->uri);
    }
    struct block_remote_options remote = {.is_readonly = options->is_readonly,
                                          .reconnect_ns = options->reconnect_ns,
                                          .timeout_ns = options->timeout_ns};
    int rc = event_loop_create(&storage->loop, err);
    return rc < 0 ? rc : block_open_uri(options->uri, &remote, storage->loop, &storage->block, err);
}

static int serve(struct storage *storage, const struct storage_options *options, struct error *err)
{
    struct nbd_server_options server = {.max_clients = 1, .event = client_event, .ctx = storage};
    struct nbd_export export = {
        .name = "", .block = storage->block, .is_readonly = options->is_readonly};
    int rc = nbd_server_create(storage->loop, &server, &storage->server, err);
    if (rc == 0) {
        rc = nbd_server_add_export(storage->server, &export, err);
    }
    return rc < 0 ? rc : nbd_server_serve(storage->server, options->fd, err);
}

/* SIGTERM and its like end it in good order. Before there are threads. */
static int block_signals(int *out_fd, struct error *err)
{
    sigset_t signals;
    (void)sigemptyset(&signals);
    (void)sigaddset(&signals, SIGTERM);
    (void)sigaddset(&signals, SIGINT);
    (void)sigprocmask(SIG_BLOCK, &signals, NULL); /* valid signals */
    *out_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    return *out_fd < 0 ? error_set_errno(err, errno, "watching for signals") : 0;
}

static int start(struct storage *storage, const struct storage_options *options, struct error *err)
{
    int signal_fd;
    struct event_source *source;
    int rc = helper_check_socket(options->fd, err);
    if (rc == 0) {
        rc = confine_close_others(options->fd, options->ready_fd, err);
    }
    if (rc == 0) {
        rc = block_signals(&signal_fd, err);
    }
    if (rc == 0) {
        rc = open_disk(storage, options, err);
    }
    if (rc == 0) {
        rc = event_loop_add_fd(storage->loop, signal_fd, EPOLLIN, signal_came, storage, &source,
                               err);
    }
    /* The libraries are loaded, the names of hosts were asked for once: nothing more is to be mapped. */
    if (rc == 0) {
        rc = storage_jail_enter(err);
    }
    return rc < 0 ? rc : serve(storage, options, err);
}

int storage_main(int argc, char **argv)
{
    struct storage_options options;
    struct error err = {0};
    (void)signal(SIGPIPE, SIG_IGN); /* a valid signal */
    if (storage_parse_options(argc, argv, &options, &err) < 0) {
        return helper_fail(options.ready_fd, &err);
    }
    if (options.wants_help || options.wants_version) {
        (void)fputs(options.wants_help ? storage_usage : "hull-storage " HULL_VERSION "\n", stdout);
        return fflush(stdout) == 0 ? 0 : 1;
    }
    log_init(STDERR_FILENO, options.is_verbose ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING, "hull");
    struct storage storage = {0};
    if (start(&storage, &options, &err) < 0) {
        int status = helper_fail(options.ready_fd, &err);
        nbd_server_destroy(storage.server);
        block_close(storage.block);
        event_loop_destroy(storage.loop);
        return status;
    }
    helper_say_ready(options.ready_fd);
    int rc = event_loop_run(storage.loop, &err);
    block_remote_give_up(storage.block); /* nobody is left who waits */
    nbd_server_destroy(storage.server);
    int finish_rc = block_finish(storage.block, rc == 0 ? &err : NULL);
    if (rc < 0 || finish_rc < 0) {
        log_error("%s", err.text);
    }
    event_loop_destroy(storage.loop);
    return rc < 0 || finish_rc < 0 ? 1 : 0;
}
