/* state, list, ps, events, features, spec: what is shown. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/command/command.h"
#include "container/command/number.h"
#include "container/spec/features.h"

struct show_options {
    bool is_json, is_quiet, is_once, is_rootless;
    unsigned interval_s;
    const char *bundle;
};

static struct show_options *from(void *into)
{
    return into;
}

static int parse_format(void *into, const char *value, struct error *err)
{
    from(into)->is_json = strcmp(value, "json") == 0;
    return from(into)->is_json || strcmp(value, "table") == 0
               ? 0
               : error_set(err, EINVAL, "'%s' is unknown: table or json", value);
}

static int parse_quiet(void *into, const char *value, struct error *err)
{
    from(into)->is_quiet = true;
    return 0;
}

static int print_json(json_t *value)
{
    int rc = json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
    json_decref(value);
    (void)putchar('\n');
    return rc < 0 || fflush(stdout) != 0 ? COMMAND_FAILURE : COMMAND_OK;
}

static int state_run(int argc, char **argv)
{
    int status = command_options(&oci_state_verb, false, 1, 1, argc, argv, NULL, NULL);
    if (status >= 0) {
        return status;
    }
    struct error err = {0};
    json_t *state;
    return runtime_state(&command_global.runtime, argv[0], &state, &err) < 0 ? command_fail(&err)
                                                                             : print_json(state);
}

const struct verb oci_state_verb = {
    .name = "state",
    .arguments = "CONTAINER",
    .summary = "Show a container's state as JSON",
    .description =
        "Beside what the specification asks for, \"degraded\" lists what the host could not give: field and reason.\n",
    .run = state_run,
};

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text != NULL ? text : "";
}

static void print_table(const json_t *list)
{
    int id_width = 2, bundle_width = 6;
    size_t i;
    json_t *row;
    json_array_foreach(list, i, row)
    {
        id_width = MAX(id_width, (int)strlen(text_of(row, "id")));
        bundle_width = MAX(bundle_width, (int)strlen(text_of(row, "bundle")));
    }
    (void)printf("%-*s  %-8s  %-8s  %-*s  %-30s  OWNER\n", id_width, "ID", "PID", "STATUS",
                 bundle_width, "BUNDLE", "CREATED");
    json_array_foreach(list, i, row)
    {
        (void)printf("%-*s  %-8lld  %-8s  %-*s  %-30s  %s\n", id_width, text_of(row, "id"),
                     (long long)json_integer_value(json_object_get(row, "pid")),
                     text_of(row, "status"), bundle_width, text_of(row, "bundle"),
                     text_of(row, "created"), text_of(row, "owner"));
    }
}

static const struct option_spec list_table[] = {
    {"format", 'f', "FORMAT", "table or json (default: table)", "table|json", parse_format},
    {"quiet", 'q', NULL, "ids alone", NULL, parse_quiet},
    {0},
};

static int list_run(int argc, char **argv)
{
    struct show_options options = {0};
    int status = command_options(&oci_list_verb, false, 0, 0, argc, argv, &options, NULL);
    if (status >= 0) {
        return status;
    }
    struct error err = {0};
    json_t *list;
    if (runtime_list(&command_global.runtime, &list, &err) < 0) {
        return command_fail(&err);
    }
    if (options.is_json && !options.is_quiet) {
        return print_json(list);
    }
    size_t i;
    json_t *row;
    if (!options.is_quiet) {
        print_table(list);
    } else {
        json_array_foreach(list, i, row)
        {
            (void)puts(text_of(row, "id"));
        }
    }
    json_decref(list);
    return COMMAND_OK;
}

const struct verb oci_list_verb = {
    .name = "list",
    .arguments = "",
    .summary = "List the containers",
    .options = list_table,
    .run = list_run,
};

static const struct option_spec ps_table[] = {
    {"format", 'f', "FORMAT", "table or json (default: table)", "table|json", parse_format},
    {0},
};

static bool has_pid(const pid_t *pids, size_t count, long pid)
{
    for (size_t i = 0; i < count; i++) {
        if (pids[i] == pid) {
            return true;
        }
    }
    return false;
}

/* ps(1) shows them; its lines about others are left away. */
static int print_processes(const pid_t *pids, size_t count, int argc, char **argv,
                           struct error *err)
{
    char command[4096] = "ps -ef";
    if (argc > 0) {
        size_t used = (size_t)snprintf(command, sizeof(command), "ps");
        for (int i = 0; i < argc; i++) {
            if (strspn(argv[i],
                       "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-=,:%+.") !=
                strlen(argv[i])) {
                return error_set(err, EINVAL, "ps: '%.64s' is no option of ps", argv[i]);
            }
            used += (size_t)snprintf(command + used, sizeof(command) - used, " %s", argv[i]);
            if (used >= sizeof(command)) {
                return error_set(err, E2BIG, "ps: too many options");
            }
        }
    }
    FILE *ps = popen(command, "re"); /* NOLINT: the words were looked at */
    AUTO_FREE char *line = NULL;
    size_t size = 0;
    int column = -1;
    for (bool is_title = true; ps != NULL && getline(&line, &size, ps) > 0; is_title = false) {
        AUTO_FREE char *copy = strdup(line);
        char *save = NULL;
        int at = 0;
        for (char *word = strtok_r(copy, " \n", &save); word != NULL;
             word = strtok_r(NULL, " \n", &save), at++) {
            if (is_title && strcmp(word, "PID") == 0) {
                column = at;
            }
            if (!is_title && at == column && has_pid(pids, count, strtol(word, NULL, 10))) {
                (void)fputs(line, stdout);
            }
        }
        if (is_title) {
            (void)fputs(line, stdout);
        }
    }
    int status = ps != NULL ? pclose(ps) : -1;
    return status != 0 || column < 0
               ? error_set(err, EIO, "ps: the program ps has failed, or shows no PID")
               : 0;
}

static int ps_run(int argc, char **argv)
{
    struct show_options options = {0};
    int count, status = command_options(&oci_ps_verb, true, 1, -1, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    /* Options may also come behind the container, as callers of runc have them. */
    int first = 1;
    for (; first < count &&
           (strncmp(argv[first], "--format", 8) == 0 || strcmp(argv[first], "-f") == 0);
         first++) {
        const char *value = strchr(argv[first], '=');
        value = value != NULL ? value + 1 : first + 1 < count ? argv[++first] : "";
        options.is_json = strcmp(value, "json") == 0;
    }
    struct error err = {0};
    pid_t *pids;
    size_t pid_count;
    if (runtime_processes(&command_global.runtime, argv[0], &pids, &pid_count, &err) < 0) {
        return command_fail(&err);
    }
    if (options.is_json) {
        json_t *list = json_array();
        for (size_t i = 0; i < pid_count; i++) {
            json_array_append_new(list, json_integer(pids[i]));
        }
        status = print_json(list);
    } else {
        status = print_processes(pids, pid_count, count - first, argv + first, &err) < 0
                     ? command_fail(&err)
                     : COMMAND_OK;
    }
    free(pids);
    return status;
}

const struct verb oci_ps_verb = {
    .name = "ps",
    .arguments = "CONTAINER [PS-OPTION]...",
    .summary = "Show the processes of a container",
    .options = ps_table,
    .run = ps_run,
};

static int parse_interval(void *into, const char *value, struct error *err)
{
    char *end;
    unsigned long seconds = strtoul(value, &end, 10);
    if (end == value || (*end != '\0' && strcmp(end, "s") != 0) || seconds == 0 ||
        seconds > 86400) {
        return error_set(err, EINVAL, "'%s': 1s to 86400s", value);
    }
    from(into)->interval_s = (unsigned)seconds;
    return 0;
}

static int parse_stats(void *into, const char *value, struct error *err)
{
    from(into)->is_once = true;
    return 0;
}

static const struct option_spec events_table[] = {
    {"interval", 0, "TIME", "between two lines (default: 5s)", NULL, parse_interval},
    {"stats", 0, NULL, "one line of statistics, then the end", NULL, parse_stats},
    {0},
};

static int print_stats(const char *id, struct error *err)
{
    json_t *stats;
    int rc = runtime_stats(&command_global.runtime, id, &stats, err);
    if (rc < 0) {
        return rc;
    }
    json_t *line = json_pack("{s:s, s:s, s:o}", "type", "stats", "id", id, "data", stats);
    (void)json_dumpf(line, stdout, JSON_COMPACT);
    json_decref(line);
    (void)putchar('\n');
    return fflush(stdout) != 0 ? error_set_errno(err, errno, "writing") : 0;
}

static int events_run(int argc, char **argv)
{
    struct show_options options = {.interval_s = 5};
    int status = command_options(&oci_events_verb, false, 1, 1, argc, argv, &options, NULL);
    if (status >= 0) {
        return status;
    }
    struct error err = {0};
    int rc = print_stats(argv[0], &err);
    if (rc < 0 || options.is_once) {
        return rc < 0 ? command_fail(&err) : COMMAND_OK;
    }
    pid_t oom =
        fork(); /* waits for the OOM killer; the parent shows statistics until the container's end */
    if (oom == 0) {
        while (runtime_wait_oom(&command_global.runtime, argv[0], &err) == 1) {
            (void)printf("{\"type\":\"oom\",\"id\":\"%s\"}\n", argv[0]);
            (void)fflush(stdout);
        }
        _exit(0);
    }
    do {
        (void)sleep(options.interval_s);
        rc = print_stats(argv[0], &err);
    } while (rc == 0);
    if (oom > 0) {
        (void)kill(oom, SIGKILL);
    }
    return rc == -ESRCH || rc == -ENOENT ? COMMAND_OK : command_fail(&err);
}

const struct verb oci_events_verb = {
    .name = "events",
    .arguments = "CONTAINER",
    .summary = "Show a container's statistics again and again, and when it ran out of memory",
    .options = events_table,
    .run = events_run,
};

static int features_run(int argc, char **argv)
{
    int status = command_options(&oci_features_verb, false, 0, 0, argc, argv, NULL, NULL);
    return status >= 0 ? status : print_json(features_json());
}

const struct verb oci_features_verb = {
    .name = "features",
    .arguments = "",
    .summary = "Show what this runtime can do, as JSON",
    .run = features_run,
};

static int parse_spec_bundle(void *into, const char *value, struct error *err)
{
    from(into)->bundle = value;
    return 0;
}

static int parse_spec_rootless(void *into, const char *value, struct error *err)
{
    from(into)->is_rootless = true;
    return 0;
}

static const struct option_spec spec_table[] = {
    {"bundle", 'b', "DIR", "folder that config.json is written to (default: the current one)",
     "DIR", parse_spec_bundle},
    {"rootless", 0, NULL, "for a caller who is not root", NULL, parse_spec_rootless},
    {0},
};

static int write_spec(const struct show_options *options, struct error *err)
{
    char path[4096];
    if (snprintf(path, sizeof(path), "%s/config.json", options->bundle) >= (int)sizeof(path)) {
        return error_set(err, ENAMETOOLONG, "--bundle: the name is too long");
    }
    json_t *document = spec_default_json(options->is_rootless);
    AUTO_FREE char *text = json_dumps(document, JSON_INDENT(4));
    json_decref(document);
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (text == NULL || fd < 0) {
        return errno == EEXIST ? error_set(err, EEXIST, "%s exists: it is not overwritten", path)
                               : error_set_errno(err, errno, "writing %s", path);
    }
    int rc = file_write_all(fd, text, strlen(text), path, err);
    return rc < 0 ? rc : file_write_all(fd, "\n", 1, path, err);
}

static int spec_run(int argc, char **argv)
{
    struct show_options options = {.bundle = "."};
    int status = command_options(&oci_spec_verb, false, 0, 0, argc, argv, &options, NULL);
    if (status >= 0) {
        return status;
    }
    struct error err = {0};
    return write_spec(&options, &err) < 0 ? command_fail(&err) : COMMAND_OK;
}

const struct verb oci_spec_verb = {
    .name = "spec",
    .arguments = "",
    .summary = "Write a configuration to begin with",
    .options = spec_table,
    .run = spec_run,
};
