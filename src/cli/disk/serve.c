/* hull disk serve: images for NBD clients. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/core/size.h"
#include "base/host/file.h"
#include "base/host/log.h"
#include "block/nbd_server.h"
#include "block/nbd_tls.h"
#include "block/remote.h"
#include "cli/disk/disk.h"
#include "cli/disk/serve.h"

#define MAX_EXPORTS 64
#define MAX_CLIENTS 4096

struct serve_options {
    struct disk_options disk;
    struct serve_place place;
    const char *name[MAX_EXPORTS];
    unsigned name_count;
    const char *bitmap[NBD_SERVER_MAX_CONTEXTS];
    unsigned bitmap_count;
    const char *description;
    const char *pid_file;
    uint64_t max_clients;
    struct nbd_tls_options tls;
    bool is_readonly;
    bool is_temporary;
    bool is_persistent;
    bool goes_to_background;
};

static struct serve_options *from(void *into)
{
    return into;
}

static int parse_socket(void *into, const char *value, struct error *err)
{
    from(into)->place.socket_path = value;
    return 0;
}

static int parse_address(void *into, const char *value, struct error *err)
{
    from(into)->place.address = value;
    return 0;
}

static int parse_port(void *into, const char *value, struct error *err)
{
    uint64_t number;
    from(into)->place.port = value;
    return number_parse(value, 0, 65535, &number, err);
}

static int parse_export(void *into, const char *value, struct error *err)
{
    struct serve_options *o = into;
    if (o->name_count == MAX_EXPORTS) {
        return error_set(err, E2BIG, "too many: at most %d", MAX_EXPORTS);
    }
    o->name[o->name_count++] = value;
    return 0;
}

static int parse_bitmap(void *into, const char *value, struct error *err)
{
    struct serve_options *o = into;
    if (o->bitmap_count == NBD_SERVER_MAX_CONTEXTS) {
        return error_set(err, E2BIG, "too many: at most %d", NBD_SERVER_MAX_CONTEXTS);
    }
    o->bitmap[o->bitmap_count++] = value;
    return 0;
}

static int parse_description(void *into, const char *value, struct error *err)
{
    from(into)->description = value;
    return 0;
}

static int parse_pid_file(void *into, const char *value, struct error *err)
{
    from(into)->pid_file = value;
    return 0;
}

static int parse_max_clients(void *into, const char *value, struct error *err)
{
    return number_parse(value, 1, MAX_CLIENTS, &from(into)->max_clients, err);
}

static int parse_tls_dir(void *into, const char *value, struct error *err)
{
    from(into)->tls.folder = value;
    return 0;
}

static int parse_tls_psk(void *into, const char *value, struct error *err)
{
    from(into)->tls.psk_file = value;
    return 0;
}

static int parse_tls_any(void *into, const char *value, struct error *err)
{
    from(into)->tls.takes_any_client = true;
    return 0;
}

static int parse_read_only(void *into, const char *value, struct error *err)
{
    from(into)->is_readonly = true;
    return 0;
}

static int parse_snapshot(void *into, const char *value, struct error *err)
{
    from(into)->disk.image.snapshot = value;
    from(into)->is_readonly = true;
    return 0;
}

static int parse_temporary(void *into, const char *value, struct error *err)
{
    from(into)->is_temporary = true;
    return 0;
}

static int parse_persistent(void *into, const char *value, struct error *err)
{
    from(into)->is_persistent = true;
    return 0;
}

static int parse_fork(void *into, const char *value, struct error *err)
{
    from(into)->goes_to_background = true;
    return 0;
}

static const struct option_spec serve_table[] = {
    DISK_OPTION_IMAGE_FORMAT(
        "format of FILE (default: found out; to write: what its name ends in)"),
    {"format", 0, "FORMAT", "the same as --image-format", DISK_FORMATS, disk_parse_image_format},
    {"socket", 'k', "PATH", "listen on a socket in the file system", "FILE", parse_socket},
    {"address", 0, "HOST", "listen on this address (default: 127.0.0.1)", NULL, parse_address},
    {"port", 'p', "PORT", "listen on this port; 0: any (default: 10809)", NULL, parse_port},
    {"export", 'x', "NAME",
     "what clients ask for (default: nothing; of several files: their names)", NULL, parse_export},
    {"description", 'D', "TEXT", "what the export is, for people", NULL, parse_description},
    {"read-only", 'r', NULL, "clients cannot write", NULL, parse_read_only},
    {"snapshot", 'l', "NAME", "serve what the image's snapshot of that name holds; read-only", NULL,
     parse_snapshot},
    {"bitmap", 'B', "NAME", "clients may ask for a bitmap of the image, as qemu:dirty-bitmap:NAME",
     NULL, parse_bitmap},
    {"temporary", 's', NULL, "what clients write is lost at the end; FILE stays as it is", NULL,
     parse_temporary},
    {"tls-dir", 0, "DIR",
     "clients need TLS: server-cert.pem, server-key.pem and ca-cert.pem in DIR", "DIR",
     parse_tls_dir},
    {"tls-any-client", 0, NULL, "with --tls-dir: also clients without a certificate", NULL,
     parse_tls_any},
    {"tls-psk", 0, "FILE", "clients need TLS with a key of FILE (lines of NAME:HEX)", "FILE",
     parse_tls_psk},
    {"max-clients", 'e', "N", "clients at a time; others wait (default: 16)", NULL,
     parse_max_clients},
    {"persistent", 't', NULL, "go on when the last client has gone", NULL, parse_persistent},
    {"fork", 0, NULL, "go on in the background as soon as clients can connect", NULL, parse_fork},
    {"pid-file", 0, "FILE", "write the process's number to FILE", "FILE", parse_pid_file},
    DISK_OPTIONS_BACKING,
    {"json", 0, NULL, "print where it listens as JSON", NULL, disk_parse_json},
    DISK_OPTION_QUIET,
    {0},
};

/* What runs. */
struct serving {
    const struct serve_options *options;
    struct event_loop *loop;
    struct block *block[MAX_EXPORTS];
    unsigned block_count;
    struct nbd_server *server;
    struct nbd_tls *tls;
    struct serve_sockets sockets;
    int signal_fd;
    int ready_fd;
    struct event_source *signals;
    struct log_limit limit;
    bool is_stopping;
};

static void stopped(void *ctx)
{
    struct serving *s = ctx;
    event_loop_stop(s->loop);
}

static void stop(void *ctx)
{
    struct serving *s = ctx;
    if (!s->is_stopping) {
        s->is_stopping = true;
        nbd_server_stop(s->server, stopped, s);
    }
}

static sigset_t stop_signals(void)
{
    sigset_t signals;
    (void)sigemptyset(&signals);
    (void)sigaddset(&signals, SIGINT);
    (void)sigaddset(&signals, SIGTERM);
    (void)sigaddset(&signals, SIGHUP);
    return signals;
}

static void signal_came(void *ctx, int fd, uint32_t events)
{
    struct serving *s = ctx;
    struct signalfd_siginfo info;
    if (read(fd, &info, sizeof(info)) != sizeof(info)) {
        return;
    }
    if (s->is_stopping) {
        /* Asked twice: without waiting for clients. What is in flight may still wait for a server that is lost: a third one ends
         * the process at once. */
        sigset_t signals = stop_signals();
        (void)sigprocmask(SIG_UNBLOCK, &signals, NULL); /* valid signals */
        event_loop_stop(s->loop);
    }
    stop(s);
}

static void client_event(void *ctx, enum nbd_client_event event, bool has_started, const char *text)
{
    struct serving *s = ctx;
    if (text != NULL && !s->options->disk.is_quiet && !s->is_stopping) {
        log_limited(&s->limit, LOG_LEVEL_WARNING, "disk serve: a client was cut off: %s", text);
    }
    if (event == NBD_CLIENT_GONE && has_started && !s->options->is_persistent &&
        nbd_server_client_count(s->server) == 0) {
        /* Not from inside of the server's own work. */
        (void)!event_loop_defer(s->loop, stop, s, NULL);
    }
}

static int watch_signals(struct serving *s, struct error *err)
{
    sigset_t signals = stop_signals();
    (void)sigprocmask(SIG_BLOCK, &signals, NULL); /* valid signals */
    s->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->signal_fd < 0) {
        return error_set_errno(err, errno, "watching for signals");
    }
    return event_loop_add_fd(s->loop, s->signal_fd, EPOLLIN, signal_came, s, &s->signals, err);
}

/* The name of export 'i'. */
static const char *export_name(const struct serve_options *o, unsigned i, unsigned count,
                               const char *path)
{
    const char *slash = strrchr(path, '/');
    return i < o->name_count ? o->name[i] : count == 1 ? "" : slash != NULL ? slash + 1 : path;
}

static int open_exports(struct serving *s, char **paths, unsigned count, struct error *err)
{
    const struct serve_options *o = s->options;
    struct serve_wishes wishes = {
        .image = &o->disk.image,
        .description = o->description,
        .bitmap = o->bitmap,
        .bitmap_count = o->bitmap_count,
        .is_readonly = o->is_readonly,
        .is_temporary = o->is_temporary,
    };
    for (unsigned i = 0; i < count; i++) {
        int rc = serve_export_open(&wishes, paths[i], export_name(o, i, count, paths[i]), s->loop,
                                   s->server, &s->block[i], err);
        if (rc < 0) {
            return rc;
        }
        s->block_count = i + 1;
    }
    return 0;
}

static int listen_all(struct serving *s, struct error *err)
{
    int rc = serve_listen(&s->options->place, &s->sockets, err);
    for (unsigned i = 0; i < s->sockets.count; i++) {
        if (rc < 0) {
            close(s->sockets.fd[i]);
        } else {
            rc = nbd_server_listen(s->server, s->sockets.fd[i], err);
        }
    }
    return rc;
}

static int write_pid(const char *path, struct error *err)
{
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    char text[24];
    int size = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    return fd < 0 ? error_set_errno(err, errno, "pid file %s", path)
                  : file_write_all(fd, text, (size_t)size, path, err);
}

static void announce(const struct serving *s, char **paths)
{
    json_t *rows = json_array();
    for (unsigned i = 0; i < s->block_count; i++) {
        char uri[1024];
        (void)snprintf(uri, sizeof(uri), "nbd%s%s", s->tls != NULL ? "s" : "",
                       s->sockets.uri_start);
        const char *name = export_name(s->options, i, s->block_count, paths[i]);
        serve_uri_append(uri, sizeof(uri), name);
        size_t used = strlen(uri);
        (void)snprintf(uri + used, sizeof(uri) - used, "%s", s->sockets.uri_end);
        if (s->options->disk.output != OUTPUT_JSON) {
            printf("serving %s as %s\n", paths[i], uri);
            continue;
        }
        json_array_append_new(rows, json_pack("{s:o, s:o, s:o}", "file", disk_text(paths[i]),
                                              "export", disk_text(name), "uri", disk_text(uri)));
    }
    if (s->options->disk.output == OUTPUT_JSON) {
        json_t *first = json_array_get(rows, 0);
        json_t *line = json_pack("{s:O, s:i, s:o}", "uri", json_object_get(first, "uri"), "pid",
                                 (int)getpid(), "exports", rows);
        (void)json_dumpf(line, stdout, JSON_COMPACT); /* one line, for who reads line by line */
        (void)putchar('\n');
        json_decref(line);
    } else {
        json_decref(rows);
    }
    (void)fflush(stdout); /* who reads it waits for it */
}

static int prepare(struct serving *s, char **paths, unsigned count, struct error *err)
{
    const struct serve_options *o = s->options;
    if (o->name_count > 0 && o->name_count != count) {
        return error_set(err, EINVAL, "--export: %u names for %u files", o->name_count, count);
    }
    if (o->is_readonly && o->is_temporary) {
        return error_set(err, EINVAL,
                         "--temporary is for clients that write, not for --read-only or "
                         "--snapshot");
    }
    int rc = event_loop_create(&s->loop, err);
    rc = rc == 0 ? watch_signals(s, err) : rc;
    if (rc == 0 && (o->tls.folder != NULL || o->tls.psk_file != NULL)) {
        rc = nbd_tls_create(&o->tls, &s->tls, err);
    }
    struct nbd_server_options server = {
        .tls = s->tls, .max_clients = (unsigned)o->max_clients, .event = client_event, .ctx = s};
    rc = rc == 0 ? nbd_server_create(s->loop, &server, &s->server, err) : rc;
    rc = rc == 0 ? open_exports(s, paths, count, err) : rc;
    rc = rc == 0 ? listen_all(s, err) : rc;
    return rc == 0 && o->pid_file != NULL ? write_pid(o->pid_file, err) : rc;
}

static int finish(struct serving *s, int rc, struct error *err)
{
    nbd_server_destroy(s->server);
    nbd_tls_destroy(s->tls);
    for (unsigned i = 0; i < s->block_count; i++) {
        int one = block_finish(s->block[i], rc == 0 ? err : NULL);
        rc = rc < 0 ? rc : one;
    }
    if (s->sockets.made_path != NULL) {
        (void)unlink(s->sockets.made_path); /* may be gone */
    }
    event_source_remove(s->signals);
    if (s->signal_fd >= 0) {
        close(s->signal_fd);
    }
    event_loop_destroy(s->loop);
    return rc;
}

/* Are all images files of this machine, also those that they stand on? */
static bool is_local(const struct serve_options *o, char **paths, unsigned count)
{
    const char *backing = o->disk.image.backing;
    bool is_local = backing == NULL || !block_is_uri(backing);
    for (unsigned i = 0; i < count; i++) {
        is_local = is_local && !block_is_uri(paths[i]);
    }
    for (unsigned i = 0; i < o->disk.image.allowed_count; i++) {
        is_local = is_local && strstr(o->disk.image.allowed[i], "://") == NULL;
    }
    return is_local;
}

static int serve(const struct serve_options *options, char **paths, unsigned count,
                 struct error *err)
{
    struct serving s = {
        .options = options, .signal_fd = -1, .ready_fd = -1, .limit = LOG_LIMIT(20)};
    /* First: threads and rings do not survive a fork. */
    int rc = options->goes_to_background ? serve_fork(&s.ready_fd, err) : 0;
    rc = rc == 0 ? prepare(&s, paths, count, err) : rc;
    if (rc == 0) {
        if (!options->disk.is_quiet || options->disk.output == OUTPUT_JSON) {
            announce(&s, paths);
        }
        if (s.ready_fd >= 0) {
            serve_ready(s.ready_fd);
        }
        const char *off = getenv("HULL_NO_JAIL"); /* for debuggers */
        bool is_jailed = off == NULL || strcmp(off, "1") != 0;
        rc = is_jailed && is_local(options, paths, count) ? serve_jail_enter(err) : 0;
    }
    if (rc == 0) {
        rc = event_loop_run(s.loop, err);
    }
    return finish(&s, rc, err);
}

static int serve_run(int argc, char **argv)
{
    struct serve_options options = {.max_clients = 16};
    int words = 0;
    int status = cli_options(&disk_serve_verb, false, argc, argv, &options, &words);
    if (status >= 0) {
        return status;
    }
    if (!disk_check_count(&disk_serve_verb, words, 1, MAX_EXPORTS)) {
        return CLI_FAILURE;
    }
    struct error err = {0};
    return serve(&options, argv, (unsigned)words, &err) < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb disk_serve_verb = {
    .name = "disk serve",
    .arguments = "FILE...",
    .summary = "Serve images to NBD clients",
    .description =
        "Listens on a socket in the file system, on a TCP port, or on what systemd passes (LISTEN_FDS).\n"
        "Ends when the last client has gone, unless --persistent, or on SIGINT, SIGTERM or SIGHUP: what\n"
        "clients have asked is answered, and the disk is made durable.\n",
    .examples = "  hull disk serve vm.qcow2 --socket /run/vm.sock --persistent\n"
                "  hull disk serve vm.raw --read-only --export vm --fork --pid-file vm.pid\n"
                "  hull disk serve vm.qcow2 --snapshot before-upgrade --socket /run/old.sock\n",
    .options = serve_table,
    .complete = "FILE",
    .run = serve_run,
};
