/* hull disk convert: copies what an image holds into a new image of any format. */
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/core/size.h"
#include "block/copy.h"
#include "cli/disk/disk.h"
#include "cli/disk/target.h"
#include "cli/progress.h"

#define DEFAULT_ZERO_SIZE 4096u
#define MAX_ZERO_SIZE     (2u << 20)

struct convert_options {
    struct disk_options disk;
    struct disk_creation creation;
    struct cli_key to_key;
    unsigned parallel;
    uint32_t zero_size;
};

static int parse_format(void *into, const char *value, struct error *err)
{
    ((struct convert_options *)into)->creation.format = value;
    return disk_check_creatable(value, err);
}

static int parse_option(void *into, const char *value, struct error *err)
{
    return disk_creation_add(&((struct convert_options *)into)->creation, value, err);
}

static int parse_compress(void *into, const char *value, struct error *err)
{
    ((struct convert_options *)into)->creation.compress = true;
    return 0;
}

static int parse_parallel(void *into, const char *value, struct error *err)
{
    uint64_t number;
    int rc = number_parse(value, 1, BLOCK_COPY_MAX_PARALLEL, &number, err);
    if (rc == 0) {
        ((struct convert_options *)into)->parallel = (unsigned)number;
    }
    return rc;
}

static int parse_sparse(void *into, const char *value, struct error *err)
{
    uint64_t bytes;
    int rc = size_parse(value, 1, &bytes, err);
    if (rc == 0 && bytes != 0 &&
        (bytes < 512 || bytes > MAX_ZERO_SIZE || (bytes & (bytes - 1)) != 0)) {
        rc = error_set(err, EINVAL, "'%s' cannot be: 0, or a power of two from 512 to 2M", value);
    }
    if (rc == 0) {
        ((struct convert_options *)into)->zero_size = (uint32_t)bytes;
    }
    return rc;
}

static int parse_encrypt(void *into, const char *value, struct error *err)
{
    return disk_creation_encrypt(&((struct convert_options *)into)->creation, value, err);
}

static int parse_to_cache(void *into, const char *value, struct error *err)
{
    return disk_cache_parse(value, &((struct convert_options *)into)->creation.cache, err);
}

static int parse_iter_time(void *into, const char *value, struct error *err)
{
    return disk_creation_iter_time(&((struct convert_options *)into)->creation, value, err);
}

static int parse_to_key_file(void *into, const char *value, struct error *err)
{
    ((struct convert_options *)into)->to_key = (struct cli_key){CLI_KEY_FILE, value};
    return 0;
}

static int parse_to_key_env(void *into, const char *value, struct error *err)
{
    ((struct convert_options *)into)->to_key = (struct cli_key){CLI_KEY_ENV, value};
    return 0;
}

static int parse_to_key_ring(void *into, const char *value, struct error *err)
{
    ((struct convert_options *)into)->to_key = (struct cli_key){CLI_KEY_RING, value};
    return 0;
}

static const struct option_spec convert_table[] = {
    {"format", 'O', "FORMAT", "format of DST (default: what its name ends in, else raw)",
     disk_creatable_formats, parse_format},
    DISK_OPTION_IMAGE_FORMAT("format of SRC (default: found out)"),
    {"compress", 'c', NULL, "store clusters compressed, where the format can", NULL,
     parse_compress},
    {"option", 'o', "KEY=VALUE", "an option of DST's format", NULL, parse_option},
    {"parallel", 'm', "N", "requests at a time: 1 to 64 (default: 16)", NULL, parse_parallel},
    {"sparse", 'S', "SIZE", "leave out runs of zeros of that size; 0: none (default: 4K)", NULL,
     parse_sparse},
    DISK_OPTIONS_BACKING_BUT_CACHE,
    DISK_OPTION_CACHE_AS('T',
                         "use of the host's page cache for SRC: writeback, none, writethrough, "
                         "directsync or unsafe"),
    {"to-cache", 't', "MODE", "the same for DST; unsafe: it gets its name before it is durable",
     CACHE_MODES, parse_to_cache},
    DISK_OPTION_ENCRYPT(parse_encrypt),
    DISK_OPTION_ITER_TIME(parse_iter_time),
    {"to-key-file", 0, "FILE", "the key of DST (default: that of SRC)", "FILE", parse_to_key_file},
    {"to-key-env", 0, "NAME", "the same in a variable", NULL, parse_to_key_env},
    {"to-key-ring", 0, "NAME", "the same in the key ring", NULL, parse_to_key_ring},
    DISK_OPTION_QUIET,
    {0},
};

/* A conversion under way. */
struct conversion {
    struct event_loop *loop;
    struct block *from, *to;
    struct block_copy *copy;
    struct progress progress;
    struct event_timer *timer;
    int signal_fd;
    bool is_done;
    int status;
};

static void copy_done(void *ctx, int status)
{
    struct conversion *c = ctx;
    c->is_done = true;
    c->status = status;
    event_loop_stop(c->loop);
}

static void timer_fired(void *ctx)
{
    struct conversion *c = ctx;
    struct block_copy_progress progress;
    block_copy_get_progress(c->copy, &progress);
    progress_update(&c->progress, progress.done_bytes, progress.total_bytes);
    event_timer_arm(c->timer, clock_monotonic_ns() + PROGRESS_INTERVAL_NS);
}

static void signal_came(void *ctx, int fd, uint32_t events)
{
    struct conversion *c = ctx;
    struct signalfd_siginfo info;
    if (read(fd, &info, sizeof(info)) == sizeof(info)) {
        block_copy_cancel(c->copy);
        block_remote_give_up(c->from);
        block_remote_give_up(c->to);
    }
}

/* Ctrl-C and its like are a reason to clean up: threads that are started from now on leave them to us. */
static void block_signals(sigset_t *out_signals)
{
    (void)sigemptyset(out_signals);
    (void)sigaddset(out_signals, SIGINT);
    (void)sigaddset(out_signals, SIGTERM);
    (void)sigaddset(out_signals, SIGHUP);
    (void)sigprocmask(SIG_BLOCK, out_signals, NULL); /* valid signals */
}

static int watch_signals(struct conversion *c, struct event_source **out_source, struct error *err)
{
    sigset_t signals;
    block_signals(&signals);
    c->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (c->signal_fd < 0) {
        return error_set_errno(err, errno, "watching for signals");
    }
    return event_loop_add_fd(c->loop, c->signal_fd, EPOLLIN, signal_came, c, out_source, err);
}

static int run_copy(struct conversion *c, const struct block_copy_options *options,
                    struct error *err)
{
    struct event_source *source = NULL;
    int rc = watch_signals(c, &source, err);
    if (rc == 0) {
        rc = event_timer_create(c->loop, timer_fired, c, &c->timer, err);
    }
    if (rc == 0) {
        rc = block_copy_start(c->from, c->to, options, copy_done, c, &c->copy, err);
    }
    if (rc == 0 && !c->is_done) {
        event_timer_arm(c->timer, clock_monotonic_ns() + PROGRESS_INTERVAL_NS);
        rc = event_loop_run(c->loop, err);
    }
    if (rc == 0 && c->status < 0) {
        rc = c->status == -ECANCELED
                 ? error_set(err, ECANCELED, "interrupted: nothing was written under that name")
                 : error_set(err, -c->status, "%s", block_copy_failure(c->copy));
    }
    event_source_remove(source);
    if (c->timer != NULL) {
        event_timer_destroy(c->timer);
    }
    if (c->signal_fd >= 0) {
        close(c->signal_fd);
    }
    return rc;
}

static int convert(const char *source, const char *path, struct convert_options *options,
                   struct error *err)
{
    struct conversion c = {.signal_fd = -1};
    struct disk_target target = {.fd = -1};
    sigset_t signals;
    block_signals(&signals);
    int rc = event_loop_create(&c.loop, err);
    if (rc == 0) {
        rc = disk_open(c.loop, source, &options->disk.image, DISK_READ, &c.from, err);
    }
    if (rc == 0) {
        struct block_info info;
        block_get_info(c.from, &info);
        options->creation.size_bytes = info.size_bytes;
        options->creation.image = &options->disk.image;
        rc = disk_target_open(path, source, &options->creation.cache, &target, err);
    }
    if (rc == 0) {
        rc = disk_target_create(&target, &options->creation, c.loop, &c.to, err);
    }
    if (rc == 0) {
        char label[128];
        const char *slash = strrchr(source, '/');
        (void)snprintf(label, sizeof(label), "converting %.100s",
                       slash != NULL ? slash + 1 : source);
        progress_begin(&c.progress, label, options->disk.is_quiet);
        struct block_copy_options copy = {.parallel = options->parallel,
                                          .zero_size = options->zero_size,
                                          .compress = options->creation.compress,
                                          .in_order = strcmp(options->creation.format, "vmdk") == 0,
                                          .is_zero = !target.is_device &&
                                                     strcmp(options->creation.format, "luks") != 0};
        disk_target_flush_early(&target);
        rc = run_copy(&c, &copy, err);
        progress_end(&c.progress);
        if (rc < 0) {
            rc = error_prefix(err, rc, "converting %s", source);
        }
    }
    block_copy_destroy(c.copy);
    int finish_rc = block_finish(c.to, rc == 0 ? err : NULL);
    rc = rc < 0 ? rc : finish_rc;
    block_close(c.from);
    if (rc == 0) {
        rc = disk_target_commit(&target, err);
    }
    disk_target_close(&target);
    event_loop_destroy(c.loop);
    return rc;
}

static int convert_run(int argc, char **argv)
{
    struct convert_options options = {.zero_size = DEFAULT_ZERO_SIZE};
    int status = disk_words(&disk_convert_verb, 2, argc, argv, &options);
    if (status >= 0) {
        return status;
    }
    struct error err = {0};
    disk_creation_default_format(&options.creation, argv[1]);
    options.creation.key =
        options.to_key.kind != CLI_KEY_NONE ? &options.to_key : &options.disk.image.key;
    return convert(argv[0], argv[1], &options, &err) < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb disk_convert_verb = {
    .name = "disk convert",
    .arguments = "SRC DST",
    .summary = "Copy what an image holds into a new image",
    .description =
        "DST gets its name when it is whole and durable; what had the name before is replaced. Until\n"
        "then, and when the command fails or is interrupted, nothing has changed. A block device or\n"
        "a remote disk is written to in place. The options of each format are those of `hull disk create`.\n",
    .examples = "  hull disk convert vm.vmdk vm.raw\n"
                "  hull disk convert split.vmdk vm.raw --allow 'split-s*.vmdk'\n"
                "  hull disk convert vm.raw vm.qcow2 --compress --option compression_type=zstd\n"
                "  hull disk convert vm.qcow2 vm.vmdk --format vmdk\n"
                "  hull disk convert nbd://server/export vm.qcow2 --image-format raw\n",
    .options = convert_table,
    .complete = "FILE",
    .run = convert_run,
};
