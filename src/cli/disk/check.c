/* hull disk check: is an image sound? */
#include <string.h>

#include "block/image.h"
#include "cli/disk/disk.h"
#include "cli/progress.h"

#define STATUS_CORRUPT     2
#define STATUS_LEAKS       3
#define STATUS_UNSUPPORTED 63

struct check_options {
    struct disk_options disk;
    unsigned repair;
};

static int parse_repair(void *into, const char *value, struct error *err)
{
    ((struct check_options *)into)->repair = BLOCK_REPAIR_LEAKS | BLOCK_REPAIR_ERRORS;
    return 0;
}

static int parse_repair_leaks(void *into, const char *value, struct error *err)
{
    ((struct check_options *)into)->repair |= BLOCK_REPAIR_LEAKS;
    return 0;
}

static const struct option_spec check_table[] = {
    {"repair", 'r', NULL, "repair errors and leaks; also: --repair all", NULL, parse_repair},
    {"repair-leaks", 0, NULL,
     "give back space that nothing uses, and repair nothing else; also: --repair leaks", NULL,
     parse_repair_leaks},
    DISK_OPTION_IMAGE_FORMAT("format of FILE"),
    DISK_OPTIONS_BACKING,
    DISK_OPTIONS_OUTPUT,
    DISK_OPTION_QUIET,
    {0},
};

struct check_progress {
    struct progress progress;
    uint64_t next_ns;
};

/* Findings go to stderr as they come. */
static void print_finding(void *ctx, const char *text)
{
    const struct check_options *options = ctx;
    if (!options->disk.is_quiet) {
        (void)fprintf(stderr, "%s\n", text);
    }
}

/* The check has the loop to itself: nothing but it can say how far it is. */
static void show_progress(void *ctx, uint64_t done, uint64_t total)
{
    struct check_progress *shown = ctx;
    uint64_t now_ns = clock_monotonic_ns();
    if (now_ns >= shown->next_ns) {
        shown->next_ns = now_ns + PROGRESS_INTERVAL_NS;
        progress_update(&shown->progress, done, total);
    }
}

static void put(json_t *object, const char *key, uint64_t number)
{
    json_object_set_new(object, key, json_integer((json_int_t)number));
}

static void report(const struct check_options *options, const char *path, struct block *block,
                   const struct block_check_result *result)
{
    json_t *object = json_object();
    json_object_set_new(object, "file", json_string(path));
    json_object_set_new(object, "format", json_string(block_format_name(block)));
    put(object, "errors", result->errors);
    put(object, "leaks", result->leaks);
    if (options->repair != 0) {
        put(object, "errors_fixed", result->errors_fixed);
        put(object, "leaks_fixed", result->leaks_fixed);
    }
    put(object, "allocated_clusters", result->allocated_clusters);
    put(object, "total_clusters", result->total_clusters);
    put(object, "compressed_clusters", result->compressed_clusters);
    put(object, "fragmented_clusters", result->fragmented_clusters);
    put(object, "end_offset", result->end_offset);
    output_object(options->disk.output, object);
    json_decref(object);
}

static int check(const char *path, struct check_options *options, struct error *err)
{
    struct event_loop *loop = NULL;
    struct block *block = NULL;
    struct block_check_result result = {0};
    int rc = disk_begin(path, &options->disk.image, options->repair != 0 ? DISK_WRITE : DISK_READ,
                        &loop, &block, err);
    bool is_supported = true;
    if (rc == 0) {
        struct check_progress shown = {0};
        char label[128];
        const char *slash = strrchr(path, '/');
        (void)snprintf(label, sizeof(label), "checking %.100s", slash != NULL ? slash + 1 : path);
        progress_begin(&shown.progress, label, options->disk.is_quiet);
        rc = block_check_with_progress(block, options->repair, print_finding, options,
                                       show_progress, &shown, &result, err);
        progress_end(&shown.progress);
        is_supported = rc != -EOPNOTSUPP;
    }
    if (rc == 0 && !options->disk.is_quiet) {
        report(options, path, block, &result);
    }
    int finish_rc = block_finish(block, rc == 0 ? err : NULL);
    event_loop_destroy(loop);
    if (!is_supported) {
        (void)cli_fail(err);
        return STATUS_UNSUPPORTED;
    }
    return rc < 0 || finish_rc < 0 ? cli_fail(err)
           : result.errors != 0    ? STATUS_CORRUPT
           : result.leaks != 0     ? STATUS_LEAKS
                                   : CLI_OK;
}

/* --repair may have a word behind it that says what. */
static int join_repair(int argc, char **argv)
{
    static char leaks[] = "--repair-leaks";
    static char all[] = "--repair";
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        bool has_equals = strncmp(argv[i], "--repair=", 9) == 0;
        const char *what = has_equals      ? argv[i] + 9
                           : i + 1 == argc ? ""
                           : strcmp(argv[i], "--repair") == 0 || strcmp(argv[i], "-r") == 0
                               ? argv[i + 1]
                               : "";
        if (strcmp(what, "leaks") != 0 && strcmp(what, "all") != 0) {
            continue;
        }
        argv[i] = what[0] == 'l' ? leaks : all;
        if (!has_equals) {
            argc--;
            memmove(&argv[i + 1], &argv[i + 2], (size_t)(argc - i - 1) * sizeof(*argv));
        }
    }
    return argc;
}

static int check_run(int argc, char **argv)
{
    struct check_options options = {.disk.image.is_alone = true, .disk.image.is_for_repair = true};
    int status = disk_words(&disk_check_verb, 1, join_repair(argc, argv), argv, &options);
    if (status >= 0) {
        return status;
    }
    options.disk.image.is_alone = options.disk.image.backing == NULL;
    struct error err = {0};
    return check(argv[0], &options, &err);
}

const struct verb disk_check_verb = {
    .name = "disk check",
    .arguments = "FILE",
    .summary = "Check whether an image is sound, and repair it",
    .description =
        "qcow2: tables, reference counts and what they say of each other. VMDK, VHDX, VHD and VDI: all\n"
        "tables are read, what they name must lie in its file, what is compressed must unpack; these are\n"
        "not repaired. Nobody else may have the image open while it is repaired.\n",
    .exit_status =
        "  0    sound\n  1    it could not be checked\n  2    errors, after the repair too\n"
        "  3    leaks: space that nothing uses, which does no harm\n"
        "  63   its format has nothing to check\n",
    .examples = "  hull disk check vm.qcow2\n  hull disk check vm.qcow2 --repair\n"
                "  hull disk check --json vm.vmdk\n",
    .options = check_table,
    .complete = "FILE",
    .run = check_run,
};
