/* hull ct template: root file systems that containers are made from. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/size.h"
#include "base/host/event_loop.h"
#include "cli/ct/ct.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "system/template/template.h"

#define MAX_WORDS      256 /* packages, and files */
#define SHOWN_AFTER_NS 1000000000ull

struct template_options {
    const char *state;
    enum output_format output;
    bool is_quiet, is_forced;
    struct template_build build;
    const char *packages[MAX_WORDS + 1];
    const char *files[MAX_WORDS + 1];
    size_t package_count, file_count;
};

static volatile sig_atomic_t was_interrupted;

static int parse_state(void *into, const char *value, struct error *err)
{
    ((struct template_options *)into)->state = value;
    return 0;
}

static int parse_json(void *into, const char *value, struct error *err)
{
    ((struct template_options *)into)->output = OUTPUT_JSON;
    return 0;
}

static int parse_output(void *into, const char *value, struct error *err)
{
    return output_parse_format(value, &((struct template_options *)into)->output, err);
}

static int parse_quiet(void *into, const char *value, struct error *err)
{
    ((struct template_options *)into)->is_quiet = true;
    return 0;
}

static int parse_force(void *into, const char *value, struct error *err)
{
    ((struct template_options *)into)->is_forced = true;
    return 0;
}

static int parse_variant(void *into, const char *value, struct error *err)
{
    ((struct template_options *)into)->build.variant = value;
    return 0;
}

static int parse_suite(void *into, const char *value, struct error *err)
{
    ((struct template_options *)into)->build.suite = value;
    return 0;
}

static int parse_from(void *into, const char *value, struct error *err)
{
    ((struct template_options *)into)->build.from = value;
    return 0;
}

static int add_word(const char **words, size_t *count, const char *value, struct error *err)
{
    if (*count == MAX_WORDS) {
        return error_set(err, E2BIG, "more than %d", MAX_WORDS);
    }
    words[(*count)++] = value;
    return 0;
}

static int parse_package(void *into, const char *value, struct error *err)
{
    struct template_options *options = into;
    return add_word(options->packages, &options->package_count, value, err);
}

static int parse_file(void *into, const char *value, struct error *err)
{
    struct template_options *options = into;
    return add_word(options->files, &options->file_count, value, err);
}

static int parse_run(void *into, const char *value, struct error *err)
{
    ((struct template_options *)into)->build.run = value;
    return 0;
}

static int parse_root_tree(void *into, const char *value, struct error *err)
{
    ((struct template_options *)into)->build.root_tree = value;
    return 0;
}

#define OPTION_STATE                                                                               \
    {                                                                                              \
        "state", 0, "DIR",                                                                         \
            "where containers and templates are (default: " STORE_DEFAULT_STATE ")", "DIR",        \
            parse_state                                                                            \
    }

static const struct option_spec build_table[] = {
    {"variant", 0, "VARIANT",
     "what of Debian: minimal, standard, web; or busybox alone (default: minimal)",
     "minimal|standard|web|busybox", parse_variant},
    {"suite", 0, "SUITE", "Debian's release, as in bookworm (default: the host's)", NULL,
     parse_suite},
    {"from", 0, "TEMPLATE", "a layer on this template in place of a variant", "TEMPLATE",
     parse_from},
    {"root-tree", 0, "PATH", "the content of a folder or tar file in place of a variant", "FILE",
     parse_root_tree},
    {"package", 'p', "PACKAGE", "one more of Debian's packages; may be given again", NULL,
     parse_package},
    {"file", 0, "FILE:/PATH", "copy a file or folder into it; may be given again", "FILE",
     parse_file},
    {"run", 0, "COMMAND", "run this in it at the end, by sh as root", NULL, parse_run},
    OPTION_STATE,
    {"quiet", 'q', NULL, "show no progress", NULL, parse_quiet},
    {0},
};

static const struct option_spec show_table[] = {
    OUTPUT_OPTION_JSON(parse_json),
    OUTPUT_OPTION_FORMAT(parse_output),
    OPTION_STATE,
    {0},
};

static const struct option_spec check_table[] = {
    OPTION_STATE,
    {0},
};

static const struct option_spec delete_table[] = {
    {"force", 'f', NULL, "take the name away although something uses it", NULL, parse_force},
    OPTION_STATE,
    {0},
};

/* Parses, and opens the store. -1: go on; else the exit status. */
static int begin(const struct verb *verb, int words, int argc, char **argv,
                 struct template_options *options, struct store *out_store)
{
    struct error err;
    int count = 0;
    int status = cli_options(verb, false, argc, argv, options, &count);
    if (status >= 0) {
        return status;
    }
    if (count != words) {
        (void)error_set(&err, EINVAL, "%s: %s: hull %s %s", verb->name,
                        count < words ? "something is missing" : "too many words", verb->name,
                        verb->arguments);
        return cli_fail(&err);
    }
    char run[PATH_MAX];
    const char *state = options->state, *users_run = NULL;
    int rc = ct_enter(&state, run, &users_run, &err);
    rc = rc < 0 ? rc : store_open(state, users_run, out_store, &err);
    return rc < 0 ? cli_fail(&err) : -1;
}

static void interrupted(int signal_number)
{
    was_interrupted = 1;
}

/* What is shown of a build: a bar with its phase's name, or a line for each phase. */
struct show {
    struct progress progress;
    const char *phase; /* the last one that has its line */
    bool is_quiet;
};

static int build_progress(void *ctx, const char *what, int percent)
{
    struct show *show = ctx;
    show->progress.label = what;
    bool is_long = clock_monotonic_ns() - show->progress.start_ns > SHOWN_AFTER_NS;
    if (is_long && !show->progress.is_terminal && !show->is_quiet &&
        (show->phase == NULL || strcmp(show->phase, what) != 0)) {
        (void)fprintf(stderr, "%s\n", what);
        show->phase = what;
    }
    progress_update(&show->progress, percent > 0 ? (uint64_t)percent : 0, 100);
    return was_interrupted;
}

static int build_run(int argc, char **argv)
{
    struct template_options options = {0};
    struct store store;
    struct error err;
    char digest[TEMPLATE_DIGEST_SIZE];
    int status = begin(&ct_template_build_verb, 1, argc, argv, &options, &store);
    if (status >= 0) {
        return status;
    }
    struct show show = {.is_quiet = options.is_quiet};
    struct template_build *build = &options.build;
    build->name = argv[0];
    build->packages = options.packages;
    build->files = options.files;
    build->progress = build_progress;
    build->ctx = &show;
    if (build->variant == NULL && build->from == NULL && build->root_tree == NULL) {
        build->variant = "minimal";
    }
    /* A build that is interrupted takes away what it has made. */
    const struct sigaction action = {.sa_handler = interrupted};
    (void)sigaction(SIGINT, &action, NULL);  /* signals that there are */
    (void)sigaction(SIGTERM, &action, NULL); /* the same */
    (void)sigaction(SIGHUP, &action, NULL);  /* the same */
    progress_begin(&show.progress, "preparing", options.is_quiet);
    int rc = template_build(&store, build, digest, &err);
    progress_end(&show.progress);
    if (rc < 0) {
        return cli_fail(&err);
    }
    (void)printf("%s\n", digest);
    return CLI_OK;
}

const struct verb ct_template_build_verb = {
    .name = "ct template build",
    .arguments = "NAME",
    .summary = "Build a template, and let NAME mean it",
    .description =
        "The result's digest is printed. A template of that name is replaced: containers that were made from it\n"
        "keep theirs. Packages come from where the host's apt gets them; settings for proxies and passwords of the\n"
        "host are used while it is built, and are not in the template. Needs root, and mmdebstrap for Debian.\n"
        "\n"
        "Variants:\n"
        "  minimal    systemd, dbus, ip, ping, ps, less, apt\n"
        "  standard   and an SSH server, editors, cron, logs, sudo, tools for the network\n"
        "  web        standard, and nginx\n"
        "  busybox    the host's busybox-static alone, in a second\n",
    .examples =
        "  hull ct template build debian\n"
        "  hull ct template build db --from debian -p postgresql --run 'systemctl enable postgresql'\n"
        "  hull ct template build site --from debian -p nginx-light --file ./public:/var/www/html\n"
        "  hull ct template build alpine --root-tree alpine-minirootfs.tar.gz\n",
    .options = build_table,
    .run = build_run,
};

/* Sizes and lists in words, for the table. */
static json_t *shown_row(const json_t *template)
{
    char text[96];
    json_t *row = json_copy((json_t *)template);
    const json_t *size = json_object_get(template, "size_bytes");
    const char *digest = json_string_value(json_object_get(template, "digest"));
    if (json_is_integer(size)) {
        json_object_set_new(
            row, "size",
            json_string(size_format((uint64_t)json_integer_value(size), text, sizeof(text))));
    }
    (void)snprintf(text, sizeof(text), "%.19s", digest);
    json_object_set_new(row, "short_digest", json_string(text));
    json_object_set_new(row, "users",
                        json_integer((json_int_t)json_array_size(json_object_get(row, "used_by"))));
    return row;
}

static int list_run(int argc, char **argv)
{
    static const struct output_column columns[] = {
        {"name", "NAME"},   {"variant", "VARIANT"}, {"suite", "SUITE"},
        {"from", "FROM"},   {"size", "SIZE"},       {"files", "FILES"},
        {"users", "USERS"}, {"created_at", "MADE"}, {"short_digest", "DIGEST"},
        {NULL, NULL},
    };
    struct template_options options = {0};
    struct store store;
    struct error err;
    json_t *list, *template;
    size_t i;
    int status = begin(&ct_template_list_verb, 0, argc, argv, &options, &store);
    if (status >= 0) {
        return status;
    }
    if (template_list(&store, &list, &err) < 0) {
        return cli_fail(&err);
    }
    json_t *rows = json_array();
    json_array_foreach(list, i, template)
    {
        json_array_append_new(rows, shown_row(template));
    }
    output_list(options.output, columns, rows, list);
    json_decref(rows);
    json_decref(list);
    return CLI_OK;
}

const struct verb ct_template_list_verb = {
    .name = "ct template list",
    .arguments = "",
    .summary = "List the templates that there are",
    .examples = "  hull ct template list\n"
                "  hull ct template list --json\n",
    .options = show_table,
    .run = list_run,
};

/* The row of a template in the list of all. */
static json_t *find_row(const json_t *list, const struct template_layers *layers)
{
    size_t i;
    json_t *template;
    json_array_foreach((json_t *)list, i, template)
    {
        const char *name = json_string_value(json_object_get(template, "name"));
        const char *digest = json_string_value(json_object_get(template, "digest"));
        if (layers->name[0] != '\0' ? strcmp(name, layers->name) == 0
                                    : strcmp(digest, layers->digest) == 0) {
            return template;
        }
    }
    return NULL;
}

static int info_show(const struct store *store, const char *name, enum output_format output,
                     struct error *err)
{
    struct template_layers layers;
    json_t *list;
    int rc = template_open(store, name, false, &layers, err);
    if (rc < 0) {
        return rc;
    }
    rc = template_list(store, &list, err);
    if (rc == 0) {
        json_t *template = find_row(list, &layers);
        json_t *paths = json_array();
        for (size_t i = 0; i < layers.count; i++) {
            json_array_append_new(paths, json_string(layers.path[i]));
        }
        if (template == NULL) {
            rc = error_set(err, ENOENT, "template %s: was deleted just now", name);
        } else {
            json_object_set(template, "layers", paths);
            output_object(output, template);
        }
        json_decref(paths);
        json_decref(list);
    }
    template_close(&layers);
    return rc;
}

static int info_run(int argc, char **argv)
{
    struct template_options options = {0};
    struct store store;
    struct error err;
    int status = begin(&ct_template_info_verb, 1, argc, argv, &options, &store);
    if (status >= 0) {
        return status;
    }
    return info_show(&store, argv[0], options.output, &err) < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb ct_template_info_verb = {
    .name = "ct template info",
    .arguments = "NAME",
    .summary = "Show what a template is, what it stands on and who uses it",
    .description = "NAME may be a digest, or the beginning of one, too.\n",
    .examples = "  hull ct template info debian\n",
    .options = show_table,
    .run = info_run,
};

static int check_run(int argc, char **argv)
{
    struct template_options options = {0};
    struct store store;
    struct error err;
    int status = begin(&ct_template_check_verb, 1, argc, argv, &options, &store);
    if (status >= 0) {
        return status;
    }
    if (template_check(&store, argv[0], &err) < 0) {
        return cli_fail(&err);
    }
    (void)printf("template %s: as it was built\n", argv[0]);
    return CLI_OK;
}

const struct verb ct_template_check_verb = {
    .name = "ct template check",
    .arguments = "NAME",
    .summary = "Compare all files of a template with what was built",
    .description =
        "Reads all of it and of what it stands on. Each use of a template compares a quick digest only, which\n"
        "changes when the folder is moved to another disk, too: where the content is the same, this sets it right.\n",
    .examples = "  hull ct template check debian\n",
    .options = check_table,
    .run = check_run,
};

static int delete_run(int argc, char **argv)
{
    struct template_options options = {0};
    struct store store;
    struct error err;
    int status = begin(&ct_template_delete_verb, 1, argc, argv, &options, &store);
    if (status >= 0) {
        return status;
    }
    return template_delete(&store, argv[0], options.is_forced, &err) < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb ct_template_delete_verb = {
    .name = "ct template delete",
    .arguments = "NAME",
    .summary = "Delete a template",
    .description =
        "Its files go when no other name, no container and no other template needs them.\n",
    .examples = "  hull ct template delete debian\n",
    .options = delete_table,
    .run = delete_run,
};

static const struct verb *const template_verbs[] = {
    &ct_template_build_verb, &ct_template_list_verb,   &ct_template_info_verb,
    &ct_template_check_verb, &ct_template_delete_verb, NULL,
};

const struct verb ct_template_verb = {
    .name = "ct template",
    .arguments = "VERB [NAME]",
    .summary = "Build, list, check and delete templates",
    .description =
        "A template is a root file system that containers are made from, or a layer of files on another template.\n"
        "It is known by the digest of its content, to which names point; containers never write to it.\n",
    .examples = "  hull ct template build debian --variant minimal\n"
                "  hull ct template list\n",
    .verbs = template_verbs,
};
