/* hull-oci: global options, the table of verbs, how errors are told. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "container/command/command.h"
#include "container/runtime/protect.h"

#define PROGRAM   "hull-oci"
#define ROOT_NAME "hull-oci"

struct command_global command_global;

static char root_space[4096];

static int parse_root(void *into, const char *value, struct error *err)
{
    command_global.runtime.root = value;
    return value[0] == '\0' ? error_set(err, EINVAL, "a folder is expected") : 0;
}

static int parse_log(void *into, const char *value, struct error *err)
{
    command_global.log_file = value;
    return 0;
}

static int parse_log_format(void *into, const char *value, struct error *err)
{
    command_global.logs_json = strcmp(value, "json") == 0;
    return command_global.logs_json || strcmp(value, "text") == 0
               ? 0
               : error_set(err, EINVAL, "'%s' is unknown: text or json", value);
}

static int parse_log_level(void *into, const char *value, struct error *err)
{
    command_global.is_debug = strcmp(value, "debug") == 0;
    return 0;
}

static int parse_debug(void *into, const char *value, struct error *err)
{
    command_global.is_debug = true;
    return 0;
}

static int parse_systemd(void *into, const char *value, struct error *err)
{
    command_global.runtime.manager = CGROUP_MANAGER_SYSTEMD;
    return 0;
}

static int parse_manager(void *into, const char *value, struct error *err)
{
    static const char *const names[] = {"cgroupfs", "systemd", "disabled"};
    for (int i = 0; i < (int)ARRAY_COUNT(names); i++) {
        if (strcmp(value, names[i]) == 0) {
            command_global.runtime.manager = (enum cgroup_manager)i;
            return 0;
        }
    }
    return error_set(err, EINVAL, "'%s' is unknown: cgroupfs, systemd or disabled", value);
}

static int parse_rootless(void *into, const char *value, struct error *err)
{
    if (strcmp(value, "auto") == 0) {
        return 0;
    }
    bool is_on = strcmp(value, "true") == 0 || strcmp(value, "1") == 0;
    if (!is_on && strcmp(value, "false") != 0 && strcmp(value, "0") != 0) {
        return error_set(err, EINVAL, "'%s' is unknown: auto, true or false", value);
    }
    command_global.runtime.is_rootless = is_on;
    return 0;
}

static int parse_strict(void *into, const char *value, struct error *err)
{
    command_global.runtime.is_strict = true;
    return 0;
}

static int parse_version(void *into, const char *value, struct error *err)
{
    printf("%s version %s\nspec: %s\n", PROGRAM, HULL_VERSION, SPEC_VERSION);
    exit(COMMAND_OK);
}

static const struct option_spec global_table[] = {
    {"root", 0, "DIR",
     "where containers' states are (default: /run/hull-oci, or below XDG_RUNTIME_DIR)", "DIR",
     parse_root},
    {"log", 0, "FILE", "append errors to FILE too", "FILE", parse_log},
    {"log-format", 0, "FORMAT", "text or json (default: text)", "text|json", parse_log_format},
    {"log-level", 0, "LEVEL", "debug, warning or error (default: warning)", "debug|warning|error",
     parse_log_level},
    {"debug", 0, NULL, "as --log-level debug", NULL, parse_debug},
    {"systemd-cgroup", 0, NULL, "as --cgroup-manager systemd", NULL, parse_systemd},
    {"cgroup-manager", 0, "MANAGER",
     "who makes control groups: cgroupfs, systemd or disabled (default: cgroupfs)",
     "cgroupfs|systemd|disabled", parse_manager},
    {"rootless", 0, "WHEN", "whether the host's root calls: auto, true or false (default: auto)",
     "auto|true|false", parse_rootless},
    {"strict", 0, NULL,
     "what the host cannot give is an error (default: left away, and told by `state`)", NULL,
     parse_strict},
    {"version", 'v', NULL, "print the version", NULL, parse_version},
    {0},
};

static const struct verb *const oci_verbs[] = {
    &oci_create_verb, &oci_start_verb,      &oci_run_verb,
    &oci_exec_verb,   &oci_state_verb,      &oci_list_verb,
    &oci_ps_verb,     &oci_kill_verb,       &oci_pause_verb,
    &oci_resume_verb, &oci_update_verb,     &oci_events_verb,
    &oci_delete_verb, &oci_checkpoint_verb, &oci_restore_verb,
    &oci_spec_verb,   &oci_features_verb,   NULL,
};

static const struct verb oci_verb = {
    .name = "",
    .arguments = "VERB [OPTION]... [ARGUMENT]...",
    .summary =
        "Run containers as the OCI runtime specification has it, under podman, containerd or by hand",
    .options = global_table,
    .verbs = oci_verbs,
    .examples = "  podman --runtime $(command -v hull-oci) run --rm debian:12 true\n"
                "  hull-oci spec; hull-oci run web\n",
};

static void write_log(const char *level, const char *text)
{
    AUTO_CLOSE int fd =
        open(command_global.log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) {
        return; /* standard error has it */
    }
    char when[32];
    struct tm parts;
    time_t now = time(NULL);
    (void)strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &parts));
    if (command_global.logs_json) {
        json_t *line = json_pack("{s:s, s:s, s:s}", "level", level, "msg", text, "time", when);
        AUTO_FREE char *dump = line != NULL ? json_dumps(line, JSON_COMPACT) : NULL;
        json_decref(line);
        (void)dprintf(fd, "%s\n", dump != NULL ? dump : "");
    } else {
        (void)dprintf(fd, "%s %s: %s\n", when, level, text);
    }
}

int command_fail(const struct error *err)
{
    (void)fprintf(stderr, "%s: %s\n", PROGRAM, err->text);
    if (command_global.log_file != NULL) {
        write_log("error", err->text);
    }
    return COMMAND_FAILURE;
}

int command_options(const struct verb *verb, bool stops_at_word, int min, int max, int argc,
                    char **argv, void *into, int *out_count)
{
    struct error err;
    bool wants_help;
    int count = 0;
    if (options_parse(PROGRAM, verb, stops_at_word, argc, argv, into, &count, &wants_help, &err) <
        0) {
        return command_fail(&err);
    }
    if (wants_help) {
        help_print(PROGRAM, verb, stdout);
        return COMMAND_OK;
    }
    if (count < min || (max >= 0 && count > max)) {
        (void)error_set(&err, EINVAL, "%s: %s: %s is expected", verb->name,
                        count < min ? "too few words" : "too many words",
                        verb->arguments[0] != '\0' ? verb->arguments : "none");
        return command_fail(&err);
    }
    if (out_count != NULL) {
        *out_count = count;
    }
    return -1;
}

int command_add_word(struct command_words *words, const char *word, struct error *err)
{
    const char **more = realloc(words->item, (words->count + 2) * sizeof(*more));
    if (more == NULL) {
        return error_set_errno(err, ENOMEM, "a list of words");
    }
    words->item = more;
    more[words->count++] = word;
    more[words->count] = NULL;
    return 0;
}

/* In a user namespace, root is not the host's. */
static bool is_host_root(void)
{
    char line[64] = "";
    AUTO_CLOSE int fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);
    unsigned inside, outside, size;
    if (geteuid() != 0) {
        return false;
    }
    if (fd < 0 || read(fd, line, sizeof(line) - 1) <= 0) {
        return true;
    }
    return sscanf(line, "%u %u %u", &inside, &outside, &size) == 3 && inside == 0 && outside == 0 &&
           size == UINT32_MAX;
}

static void set_defaults(void)
{
    command_global.runtime.is_rootless = !is_host_root();
    const char *folder = getenv("XDG_RUNTIME_DIR");
    bool is_users = command_global.runtime.is_rootless && folder != NULL && folder[0] == '/';
    (void)snprintf(root_space, sizeof(root_space), "%s/%s", is_users ? folder : "/run", ROOT_NAME);
    command_global.runtime.root = root_space;
}

static const struct verb *find_verb(const char *word)
{
    for (size_t i = 0; oci_verbs[i] != NULL; i++) {
        if (strcmp(oci_verbs[i]->name, word) == 0) {
            return oci_verbs[i];
        }
    }
    return NULL;
}

static int unknown_verb(const char *word)
{
    char names[512] = "", hint[64];
    for (size_t i = 0; oci_verbs[i] != NULL; i++) {
        size_t used = strlen(names);
        (void)snprintf(names + used, sizeof(names) - used, "%s|", oci_verbs[i]->name);
    }
    struct error err;
    if (nearest_word(word, names, hint, sizeof(hint)) != NULL) {
        (void)error_set(&err, EINVAL, "verb %.64s: unknown: did you mean %s?", word, hint);
    } else {
        (void)error_set(&err, EINVAL, "verb %.64s: unknown: see `%s --help`", word, PROGRAM);
    }
    return command_fail(&err);
}

int oci_main(int argc, char **argv)
{
    set_defaults();
    struct error err;
    char **all =
        calloc((size_t)argc + 1, sizeof(*all)); /* as they came, for the program's second start */
    if (all == NULL) {
        return COMMAND_FAILURE;
    }
    memcpy(all, argv, (size_t)argc * sizeof(*all));
    int count = 0;
    bool wants_help = false;
    int status = COMMAND_FAILURE;
    if (options_parse(PROGRAM, &oci_verb, true, argc, argv, NULL, &count, &wants_help, &err) < 0) {
        status = command_fail(&err);
    } else if (wants_help || count == 0) {
        help_print(PROGRAM, &oci_verb, wants_help ? stdout : stderr);
        status = wants_help ? COMMAND_OK : COMMAND_FAILURE;
    } else {
        const struct verb *verb = find_verb(argv[0]);
        bool makes_processes =
            verb == &oci_create_verb || verb == &oci_run_verb || verb == &oci_exec_verb;
        if (verb == NULL) {
            status = unknown_verb(argv[0]);
        } else if (makes_processes && protect_program(all, &err) < 0) {
            status = command_fail(&err);
        } else {
            status = verb->run(count, argv);
        }
    }
    free(all);
    return status;
}
