/* hull export and import. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/host/file.h"
#include "cli/managed/managed.h"
#include "cli/managed/transfer_stream.h"
#include "manager/transfer/bundle.h"

#define PIECE        65536
#define CANCELLED    130
#define RETRY_NS     20000000
#define MAX_PROFILES 64

struct transfer_options {
    struct managed_options managed;
    bool has_snapshots, keeps_identity, is_new, is_trusted;
    const char *compress, *network, *pool;
    const char *profiles[MAX_PROFILES];
    size_t profile_count;
};

static int parse_snapshots(void *into, const char *value, struct error *err)
{
    ((struct transfer_options *)into)->has_snapshots = true;
    return 0;
}

static int parse_compress(void *into, const char *value, struct error *err)
{
    ((struct transfer_options *)into)->compress = value;
    return strcmp(value, "zstd") == 0 || strcmp(value, "none") == 0
               ? 0
               : error_set(err, EINVAL, "'%.40s': zstd or none", value);
}

static int parse_keep(void *into, const char *value, struct error *err)
{
    ((struct transfer_options *)into)->keeps_identity = true;
    return 0;
}

static int parse_new(void *into, const char *value, struct error *err)
{
    ((struct transfer_options *)into)->is_new = true;
    return 0;
}

static int parse_trusted(void *into, const char *value, struct error *err)
{
    ((struct transfer_options *)into)->is_trusted = true;
    return 0;
}

static int parse_network(void *into, const char *value, struct error *err)
{
    ((struct transfer_options *)into)->network = value;
    return 0;
}

static int parse_pool(void *into, const char *value, struct error *err)
{
    ((struct transfer_options *)into)->pool = value;
    return 0;
}

static int parse_profile(void *into, const char *value, struct error *err)
{
    struct transfer_options *options = into;
    if (options->profile_count == MAX_PROFILES) {
        return error_set(err, E2BIG, "more than %d profiles", MAX_PROFILES);
    }
    options->profiles[options->profile_count++] = value;
    return 0;
}

/* An operation with its stream. Ctrl-C cancels it. */
struct moving {
    struct client client;
    struct batch batch;
    char *path; /* of the operation */
    struct client_socket *socket;
    struct progress progress;
    char label[200];
    struct transfer_stream stream;
    sigset_t before;
    int signals;
};

static void cancel(struct moving *moving)
{
    json_t *answer;
    struct error ignored; /* it has ended just now, or its end will tell */
    if (client_call(&moving->client, "DELETE", moving->path, NULL, NULL, &answer, &ignored) == 0) {
        json_decref(answer);
    }
}

/* -EINTR: the user has had enough. */
static int check_signals(struct moving *moving, struct error *err)
{
    struct signalfd_siginfo info;
    return read(moving->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)
               ? error_set(err, EINTR, "interrupted")
               : 0;
}

/* The worker has to be there first. */
static int open_stream(struct moving *moving, struct error *err)
{
    char *path = client_path("/v1/operations", strrchr(moving->path, '/') + 1, "stream", NULL);
    int rc;
    for (;;) {
        json_t *operation;
        rc = client_socket_open(&moving->client, path, &moving->socket, err);
        if (rc == 0) {
            break;
        }
        rc = check_signals(moving, err);
        rc = rc < 0
                 ? rc
                 : client_call(&moving->client, "GET", moving->path, NULL, NULL, &operation, err);
        if (rc < 0) {
            break;
        }
        const char *status = json_string_value(json_object_get(operation, "status"));
        bool goes_on =
            status != NULL && (strcmp(status, "waiting") == 0 || strcmp(status, "running") == 0);
        json_decref(operation);
        if (!goes_on) { /* its end says why */
            rc = error_set(err, ENODATA, "the operation has ended");
            break;
        }
        const struct timespec pause = {.tv_nsec = RETRY_NS};
        (void)nanosleep(&pause, NULL);
    }
    free(path);
    return rc;
}

static int begin(struct moving *moving, const char *label, const char *path, const json_t *body,
                 bool is_quiet, struct error *err)
{
    sigset_t stops;
    (void)signal(SIGPIPE, SIG_IGN);
    sigemptyset(&stops);
    sigaddset(&stops, SIGINT);
    sigaddset(&stops, SIGTERM);
    sigaddset(&stops, SIGHUP);
    (void)sigprocmask(SIG_BLOCK, &stops, &moving->before);
    moving->signals = signalfd(-1, &stops, SFD_CLOEXEC | SFD_NONBLOCK);
    (void)snprintf(moving->label, sizeof(moving->label), "%s", label);
    batch_begin(&moving->batch, &moving->client, "", is_quiet);
    int rc = batch_call(&moving->batch, "POST", path, body, NULL, err);
    if (rc == 0) {
        moving->path = batch_path(&moving->batch);
        rc = moving->path == NULL ? error_set(err, EPROTO, "hulld began no operation") : 0;
    }
    rc = rc < 0 ? rc : open_stream(moving, err);
    progress_begin(&moving->progress, moving->label, is_quiet);
    rc = rc < 0 ? rc : transfer_begin(&moving->stream, moving->socket, &moving->progress, err);
    moving->stream.wake_fd = moving->signals;
    return rc;
}

/* Waits for the operation's end. The exit status; what hulld says of a failure is worth more than what was seen of it here. */
static int end(struct moving *moving, int rc, const struct error *err)
{
    progress_end(&moving->progress);
    transfer_end(&moving->stream);
    client_socket_close(moving->socket);
    if (rc < 0 && moving->path != NULL) {
        cancel(moving);
    }
    bool was_begun = moving->path != NULL;
    int status = was_begun ? batch_end(&moving->batch, NULL) : CLI_FAILURE;
    bool is_told = was_begun && status != CLI_OK &&
                   (status != CANCELLED || rc == -ENODATA || rc == -EPIPE || rc == -ECONNRESET);
    if (rc == -EINTR) {
        status = CANCELLED;
    } else if (rc < 0 && !is_told) {
        status = cli_fail(err);
    }
    free(moving->path);
    (void)close(moving->signals);
    (void)sigprocmask(SIG_SETMASK, &moving->before, NULL);
    return status;
}

/* All that comes, into the file. */
static int take_all(struct moving *moving, int fd, const char *name, struct error *err)
{
    AUTO_FREE char *data = malloc(PIECE);
    int rc = data == NULL ? error_set(err, ENOMEM, "an export") : 0;
    for (size_t size = 1; rc == 0 && size > 0;) {
        rc = transfer_take_some(&moving->stream, data, PIECE, &size, err);
        rc = rc < 0 || size == 0 ? rc : file_write_all(fd, data, size, name, err);
    }
    return rc;
}

/* A file beside the one that is to be, which it becomes when all is there. */
struct target {
    const char *path;
    char part[PATH_MAX];
    int fd;
    bool is_stdout;
};

static int open_target(struct target *target, const char *path, bool is_forced, struct error *err)
{
    struct stat info;
    *target = (struct target){.path = path, .fd = STDOUT_FILENO};
    target->is_stdout = strcmp(path, "-") == 0;
    if (target->is_stdout) {
        return isatty(STDOUT_FILENO) == 1
                   ? error_set(err, EINVAL, "an export is nothing for a terminal: give a file")
                   : 0;
    }
    if (lstat(path, &info) == 0 && !is_forced) {
        return error_set(err, EEXIST, "%.160s: is there already: --force replaces it", path);
    }
    int length = snprintf(target->part, sizeof(target->part), "%s.part-%d", path, (int)getpid());
    if (length >= (int)sizeof(target->part)) {
        return error_set(err, ENAMETOOLONG, "%.100s", path);
    }
    target->fd = open(target->part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    return target->fd < 0 ? error_set_errno(err, errno, "%.160s", target->part) : 0;
}

static int close_target(struct target *target, int status)
{
    struct error err;
    if (target->is_stdout || target->fd < 0) {
        return status;
    }
    if (status == CLI_OK && (fsync(target->fd) < 0 || rename(target->part, target->path) < 0)) {
        error_set_errno(&err, errno, "%.160s", target->path);
        status = cli_fail(&err);
    }
    if (status != CLI_OK) {
        (void)unlink(target->part);
    }
    (void)close(target->fd);
    return status;
}

static const struct option_spec export_table[] = {
    {"snapshots", 's', NULL, "with its snapshots", NULL, parse_snapshots},
    {"compress", 0, "HOW", "zstd (default) or none", "zstd|none", parse_compress},
    MANAGED_OPTION_FORCE("replace a file that is there"),
    MANAGED_OPTION_QUIET,
    {0},
};

static int export_run(int argc, char **argv)
{
    struct transfer_options options = {.compress = "zstd"};
    struct moving moving = {.signals = -1};
    struct target target;
    struct error err = {0};
    char label[200];
    int count;
    int status = cli_words(&export_verb, 2, 2, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    if (managed_open(&moving.client, &err) < 0 ||
        open_target(&target, argv[1], options.managed.is_forced, &err) < 0) {
        return cli_fail(&err);
    }
    json_t *body =
        json_pack("{s:b, s:s}", "snapshots", options.has_snapshots, "compress", options.compress);
    char *path = client_path("/v1/instances", argv[0], "export", NULL);
    (void)snprintf(label, sizeof(label), "exporting %.64s", argv[0]);
    int rc = begin(&moving, label, path, body, options.managed.is_quiet, &err);
    rc = rc < 0 ? rc : take_all(&moving, target.fd, target.path, &err);
    status = end(&moving, rc, &err);
    free(path);
    json_decref(body);
    return close_target(&target, status);
}

const struct verb export_verb = {
    .name = "export",
    .arguments = "NAME FILE",
    .summary = "Write an instance into one file",
    .description =
        "The file has all of the instance: its configuration, its disks or files, and checksums. \"-\" is standard output.\n"
        "One that runs goes on; the file has what a snapshot of it would have. The file is there when it is whole.\n",
    .examples = "  hull export web1 web1.hull\n"
                "  hull export vm1 vm1.hull --snapshots\n"
                "  hull export web1 - | ssh other hull import - web1\n",
    .options = export_table,
    .complete = "INSTANCE",
    .run = export_run,
};

/* The file, of which the beginning is read twice: also standard input. */
struct source {
    int fd;
    uint64_t total; /* 0: unknown */
    char *kept;     /* what was read for the header */
    size_t kept_size, kept_room, at;
};

static int keep(struct source *source, const char *data, size_t size, struct error *err)
{
    if (source->kept_size + size > source->kept_room) {
        size_t room = 2 * (source->kept_room + size);
        char *more = realloc(source->kept, room);
        if (more == NULL) {
            return error_set(err, ENOMEM, "an import");
        }
        source->kept = more;
        source->kept_room = room;
    }
    memcpy(source->kept + source->kept_size, data, size);
    source->kept_size += size;
    return 0;
}

static int read_some(int fd, void *data, size_t size, size_t *out_size, struct error *err)
{
    ssize_t got;
    do {
        got = read(fd, data, size);
    } while (got < 0 && errno == EINTR);
    *out_size = got > 0 ? (size_t)got : 0;
    return got < 0 ? error_set_errno(err, errno, "reading the file") : 0;
}

static int read_kept(void *ctx, void *data, size_t size, size_t *out_size, struct error *err)
{
    struct source *source = ctx;
    int rc = read_some(source->fd, data, size, out_size, err);
    return rc < 0 ? rc : keep(source, data, *out_size, err);
}

/* By which name it was exported. */
static int read_name(struct source *source, char out_name[64], struct error *err)
{
    struct bundle_reader *reader = NULL;
    json_t *header = NULL;
    int rc = bundle_reader_create(read_kept, source, &reader, err);
    rc = rc < 0 ? rc : bundle_read_header(reader, &header, err);
    const char *name = json_string_value(json_object_get(header, "name"));
    if (rc == 0 && (name == NULL || strlen(name) > 63)) {
        rc = error_set(err, EBADMSG, "it names no instance: give a name");
    }
    (void)snprintf(out_name, 64, "%.63s", rc == 0 ? name : "");
    json_decref(header);
    bundle_reader_destroy(reader);
    return rc;
}

static int give_all(struct moving *moving, struct source *source, struct error *err)
{
    AUTO_FREE char *data = malloc(PIECE);
    int rc = data == NULL ? error_set(err, ENOMEM, "an import") : 0;
    moving->stream.total = source->total;
    rc = rc < 0 ? rc : transfer_give(&moving->stream, source->kept, source->kept_size, err);
    for (size_t size = 1; rc == 0 && size > 0;) {
        rc = read_some(source->fd, data, PIECE, &size, err);
        rc = rc < 0 || size == 0 ? rc : transfer_give(&moving->stream, data, size, err);
        rc = rc < 0 ? rc : check_signals(moving, err);
    }
    return rc < 0 ? rc : transfer_finish(&moving->stream, err);
}

static json_t *make_request(const struct transfer_options *options, const char *name)
{
    json_t *body =
        json_pack("{s:s, s:b, s:b, s:b, s:s*, s:s*}", "name", name, "keep_identity",
                  options->keeps_identity, "as_new", options->is_new, "trusted",
                  options->is_trusted, "network", options->network, "pool", options->pool);
    if (body != NULL && options->profile_count > 0) {
        json_t *profiles = json_array();
        for (size_t i = 0; i < options->profile_count; i++) {
            if (options->profiles[i][0] != '\0') {
                (void)json_array_append_new(profiles, json_string(options->profiles[i]));
            }
        }
        (void)json_object_set_new(body, "profiles", profiles);
    }
    return body;
}

static const struct option_spec import_table[] = {
    {"as-new", 0, NULL, "as another machine: machine-id and keys are made anew", NULL, parse_new},
    {"keep-identity", 0, NULL, "keep its uuid and the addresses of its cards", NULL, parse_keep},
    {"network", 0, "NETWORK", "what its cards are connected to", "NETWORK", parse_network},
    {"pool", 0, "POOL", "where its disks lie", "POOL", parse_pool},
    {"profile", 'p', "PROFILE", "its profiles instead of its own; '': none", "PROFILE",
     parse_profile},
    {"trusted", 0, NULL, "also take what reaches into this host: shared folders, privileges", NULL,
     parse_trusted},
    MANAGED_OPTION_QUIET,
    {0},
};

static int import_run(int argc, char **argv)
{
    struct transfer_options options = {0};
    struct moving moving = {.signals = -1};
    struct source source = {.fd = STDIN_FILENO};
    struct stat info;
    struct error err = {0};
    char name[64], label[200];
    int count;
    int status = cli_words(&import_verb, 1, 2, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    if (strcmp(argv[0], "-") != 0) {
        source.fd = open(argv[0], O_RDONLY | O_CLOEXEC);
    }
    int rc = source.fd < 0 ? error_set_errno(&err, errno, "%.160s", argv[0]) : 0;
    if (rc == 0 && fstat(source.fd, &info) == 0 && S_ISREG(info.st_mode)) {
        source.total = (uint64_t)info.st_size;
    }
    if (rc == 0 && (rc = read_name(&source, name, &err)) < 0) {
        error_ignore(error_prefix(&err, rc, "%.160s", argv[0]));
    }
    rc = rc < 0 ? rc : managed_open(&moving.client, &err);
    if (rc < 0) {
        free(source.kept);
        return cli_fail(&err);
    }
    json_t *body = make_request(&options, count == 2 ? argv[1] : name);
    (void)snprintf(label, sizeof(label), "importing %.64s", count == 2 ? argv[1] : name);
    rc = begin(&moving, label, "/v1/imports", body, options.managed.is_quiet, &err);
    rc = rc < 0 ? rc : give_all(&moving, &source, &err);
    status = end(&moving, rc, &err);
    json_decref(body);
    free(source.kept);
    return status;
}

const struct verb import_verb = {
    .name = "import",
    .arguments = "FILE [NAME]",
    .summary = "Make an instance of a file that `hull export` wrote",
    .description =
        "Without NAME it is called as it was. The file is checked before anything of it is used; \"-\" is standard input.\n"
        "The instance gets another uuid and other addresses, so that both may go on.\n",
    .examples = "  hull import web1.hull\n"
                "  hull import web1.hull web2 --as-new\n"
                "  hull import vm1.hull --network lan --pool fast\n",
    .options = import_table,
    .complete = "FILE",
    .run = import_run,
};
