/* hull host: what this host can do. The engines are hull-vmm's: it is asked. */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fcntl.h>

#include "base/host/file.h"
#include "base/host/program.h"
#include "cli/host_checks.h"
#include "cli/output.h"
#include "cli/verbs.h"

#define PROBE_MAX_SIZE 65536u

struct host_options {
    enum output_format format;
};

static int parse_json(void *into, const char *value, struct error *err)
{
    ((struct host_options *)into)->format = OUTPUT_JSON;
    return 0;
}

static int parse_format(void *into, const char *value, struct error *err)
{
    return output_parse_format(value, &((struct host_options *)into)->format, err);
}

static const struct option_spec host_option_table[] = {
    OUTPUT_OPTION_JSON(parse_json), OUTPUT_OPTION_FORMAT(parse_format), {0}};

/* What hull-vmm --probe prints. */
static int run_probe(json_t **out_probe, struct error *err)
{
    int pipe_fds[2];
    if (pipe2(pipe_fds, O_CLOEXEC) < 0) {
        return error_set_errno(err, errno, "asking hull-vmm");
    }
    const char *argv[] = {"hull-vmm", "--probe", NULL};
    struct process_spec spec = {.program = "hull-vmm", .argv = argv, .stdout_fd = pipe_fds[1]};
    pid_t pid;
    int rc = process_spawn(&spec, false, &pid, err);
    close(pipe_fds[1]);
    AUTO_CLOSE int answer_fd = pipe_fds[0];
    if (rc < 0) {
        return rc;
    }
    AUTO_FREE char *text = malloc(PROBE_MAX_SIZE);
    size_t used = 0;
    ssize_t count = 0;
    while (text != NULL && used < PROBE_MAX_SIZE &&
           (count = read(answer_fd, text + used, PROBE_MAX_SIZE - used)) > 0) {
        used += (size_t)count;
    }
    int status;
    (void)waitpid(pid, &status, 0); /* our own child */
    json_t *probe = text != NULL ? json_loadb(text, used, 0, NULL) : NULL;
    if (!json_is_object(probe)) {
        json_decref(probe);
        return error_set(err, EIO, "asking hull-vmm: it gave no answer");
    }
    *out_probe = probe;
    return 0;
}

/* Appends the engines' rows; true if one is usable. */
static bool check_engines(json_t *rows, char *out_auto, size_t size)
{
    json_t *probe = NULL;
    struct error err = {0};
    out_auto[0] = '\0';
    if (run_probe(&probe, &err) < 0) {
        host_row(rows, "engines", "all", "unusable", err.text, "install hull completely");
        return false;
    }
    bool is_usable = false;
    size_t index;
    json_t *engine;
    json_array_foreach(json_object_get(probe, "engines"), index, engine)
    {
        const char *name;
        const char *quality;
        const char *reason;
        const char *remedy;
        if (json_unpack(engine, "{s:s, s:s, s:s, s:s}", "name", &name, "quality", &quality,
                        "reason", &reason, "remedy", &remedy) == 0 &&
            strcmp(name, "null") != 0) { /* runs nothing: it is there for tests */
            host_row(rows, "engines", name, quality, reason, remedy);
            is_usable = is_usable || strcmp(quality, "usable") == 0;
        }
    }
    const char *chosen = json_string_value(json_object_get(probe, "auto"));
    (void)snprintf(out_auto, size, "%s", chosen != NULL ? chosen : "");
    json_decref(probe);
    return is_usable;
}

/* The rows by area, for JSON and YAML. */
static json_t *by_area(const json_t *rows, const char *chosen, bool is_usable)
{
    json_t *whole = json_object();
    json_object_set_new(whole, "usable", json_boolean(is_usable));
    json_object_set_new(whole, "engines", json_array()); /* there even when none is */
    json_object_set_new(whole, "auto", chosen[0] != '\0' ? json_string(chosen) : json_null());
    size_t index;
    json_t *row;
    json_array_foreach(rows, index, row)
    {
        const char *area = json_string_value(json_object_get(row, "area"));
        json_t *list = json_object_get(whole, area);
        if (list == NULL) {
            list = json_array();
            json_object_set_new(whole, area, list);
        }
        json_t *entry = json_copy(row);
        (void)json_object_del(entry, "area");
        json_array_append_new(list, entry);
    }
    return whole;
}

static int host_run(int argc, char **argv)
{
    static const struct output_column columns[] = {
        {"area", "AREA"},     {"name", "NAME"},     {"status", "STATUS"},
        {"reason", "REASON"}, {"remedy", "REMEDY"}, {0},
    };
    struct host_options options = {0};
    int count = 0;
    int status = cli_options(&host_verb, false, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    if (count != 0) {
        struct error err;
        (void)error_set(&err, EINVAL, "host: argument %s is unknown: only options", argv[0]);
        return cli_fail(&err);
    }
    char chosen[64];
    json_t *rows = json_array();
    bool is_usable = check_engines(rows, chosen, sizeof(chosen));
    host_check_containers(rows);
    host_check_networking(rows);
    host_check_storage(rows);
    host_check_firmware(rows);
    json_t *whole = by_area(rows, chosen, is_usable);
    output_list(options.format, columns, rows, whole);
    if (options.format == OUTPUT_TABLE) {
        (void)printf("\n--engine auto takes: %s\n", chosen[0] != '\0' ? chosen : "none");
    }
    json_decref(whole);
    json_decref(rows);
    return is_usable ? CLI_OK : CLI_FAILURE;
}

const struct verb host_verb = {
    .name = "host",
    .arguments = "",
    .summary = "Show what this host can do",
    .description =
        "Lists engines, containers, networking, storage and firmware: usable or not, why, and what\n"
        "to do about it. --engine auto takes the first usable engine.\n",
    .exit_status = "  0    at least one engine is usable\n  1    none is\n",
    .examples = "  hull host\n  hull host --json\n  hull host --format csv\n",
    .options = host_option_table,
    .run = host_run,
};
