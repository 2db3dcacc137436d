/* update: limits of a container that runs, from a file or from options. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/command/command.h"
#include "container/command/number.h"

#define MAX_SIZE (1u << 20)

struct update_options {
    const char *file;
    json_t *resources;
};

static json_t *section(void *into, const char *name)
{
    json_t *resources = ((struct update_options *)into)->resources;
    json_t *found = json_object_get(resources, name);
    if (found == NULL) {
        found = json_object();
        json_object_set_new(resources, name, found);
    }
    return found;
}

static int parse_file(void *into, const char *value, struct error *err)
{
    ((struct update_options *)into)->file = value;
    return 0;
}

static int set_number(void *into, const char *part, const char *field, const char *value,
                      struct error *err)
{
    int64_t number;
    int rc = number_parse_signed(value, &number, err);
    return rc < 0 ? rc : json_object_set_new(section(into, part), field, json_integer(number));
}

static int set_bytes(void *into, const char *part, const char *field, const char *value,
                     struct error *err)
{
    int64_t bytes;
    int rc = number_parse_bytes(value, &bytes, err);
    return rc < 0 ? rc : json_object_set_new(section(into, part), field, json_integer(bytes));
}

#define NUMBER_OPTION(name, part, field)                                                           \
    static int parse_##name(void *into, const char *value, struct error *err)                      \
    {                                                                                              \
        return set_number(into, part, field, value, err);                                          \
    }
#define BYTES_OPTION(name, field)                                                                  \
    static int parse_##name(void *into, const char *value, struct error *err)                      \
    {                                                                                              \
        return set_bytes(into, "memory", field, value, err);                                       \
    }
#define TEXT_OPTION(name, field)                                                                   \
    static int parse_##name(void *into, const char *value, struct error *err)                      \
    {                                                                                              \
        return json_object_set_new(section(into, "cpu"), field, json_string(value));               \
    }

NUMBER_OPTION(blkio_weight, "blockIO", "weight")
NUMBER_OPTION(cpu_period, "cpu", "period")
NUMBER_OPTION(cpu_quota, "cpu", "quota")
NUMBER_OPTION(cpu_burst, "cpu", "burst")
NUMBER_OPTION(cpu_rt_period, "cpu", "realtimePeriod")
NUMBER_OPTION(cpu_rt_runtime, "cpu", "realtimeRuntime")
NUMBER_OPTION(cpu_share, "cpu", "shares")
NUMBER_OPTION(cpu_idle, "cpu", "idle")
NUMBER_OPTION(pids_limit, "pids", "limit")
TEXT_OPTION(cpuset_cpus, "cpus")
TEXT_OPTION(cpuset_mems, "mems")
BYTES_OPTION(memory, "limit")
BYTES_OPTION(memory_reservation, "reservation")
BYTES_OPTION(memory_swap, "swap")
BYTES_OPTION(kernel_memory, "kernel")
BYTES_OPTION(kernel_memory_tcp, "kernelTCP")

static const struct option_spec update_table[] = {
    {"resources", 'r', "FILE", "an object as linux.resources of config.json; -: standard input",
     "FILE", parse_file},
    {"blkio-weight", 0, "N", "share of disk time: 10 to 1000", NULL, parse_blkio_weight},
    {"cpu-period", 0, "US", "of the quota", NULL, parse_cpu_period},
    {"cpu-quota", 0, "US", "CPU time in a period; -1: no limit", NULL, parse_cpu_quota},
    {"cpu-burst", 0, "US", "what may be saved of it", NULL, parse_cpu_burst},
    {"cpu-rt-period", 0, "US", "of the realtime quota", NULL, parse_cpu_rt_period},
    {"cpu-rt-runtime", 0, "US", "realtime CPU time in a period", NULL, parse_cpu_rt_runtime},
    {"cpu-share", 0, "N", "weight among other containers (1024 is usual)", NULL, parse_cpu_share},
    {"cpu-idle", 0, "N", "1: runs when nobody else would", NULL, parse_cpu_idle},
    {"cpuset-cpus", 0, "LIST", "CPUs it may use: 0-3,8", NULL, parse_cpuset_cpus},
    {"cpuset-mems", 0, "LIST", "memory nodes it may use", NULL, parse_cpuset_mems},
    {"memory", 0, "SIZE", "limit of memory", NULL, parse_memory},
    {"memory-reservation", 0, "SIZE", "what it is to have when memory is short", NULL,
     parse_memory_reservation},
    {"memory-swap", 0, "SIZE", "limit of memory and swap together", NULL, parse_memory_swap},
    {"kernel-memory", 0, "SIZE", "nothing on today's kernels", NULL, parse_kernel_memory},
    {"kernel-memory-tcp", 0, "SIZE", "limit of TCP's buffers (cgroup v1)", NULL,
     parse_kernel_memory_tcp},
    {"pids-limit", 0, "N", "processes at a time; -1: no limit", NULL, parse_pids_limit},
    {0},
};

static int read_file(const char *name, char **out_text, size_t *out_size, struct error *err)
{
    AUTO_CLOSE int fd =
        strcmp(name, "-") == 0 ? dup(STDIN_FILENO) : open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "--resources: opening %s", name);
    }
    char *text = malloc(MAX_SIZE + 1);
    size_t size = 0;
    ssize_t n = 1;
    while (text != NULL && n > 0 && size < MAX_SIZE) {
        n = read(fd, text + size, MAX_SIZE - size);
        size += n > 0 ? (size_t)n : 0;
    }
    if (text == NULL || n != 0) {
        int rc = error_set_errno(err,
                                 text == NULL ? ENOMEM
                                 : n < 0      ? errno
                                              : E2BIG,
                                 "--resources: reading %s", name);
        free(text);
        return rc;
    }
    *out_text = text;
    *out_size = size;
    return 0;
}

static int update(const char *id, const struct update_options *options, struct error *err)
{
    AUTO_FREE char *text = NULL;
    size_t size = 0;
    if (options->file != NULL) {
        int rc = read_file(options->file, &text, &size, err);
        if (rc < 0) {
            return rc;
        }
    } else {
        text = json_dumps(options->resources, JSON_COMPACT);
        if (text == NULL) {
            return error_set_errno(err, ENOMEM, "update");
        }
        size = strlen(text);
    }
    return runtime_update(&command_global.runtime, id, text, size, err);
}

static int update_run(int argc, char **argv)
{
    struct update_options options = {.resources = json_object()};
    int status = command_options(&oci_update_verb, false, 1, 1, argc, argv, &options, NULL);
    if (status < 0) {
        struct error err = {0};
        status = update(argv[0], &options, &err) < 0 ? command_fail(&err) : COMMAND_OK;
    }
    json_decref(options.resources);
    return status;
}

const struct verb oci_update_verb = {
    .name = "update",
    .arguments = "CONTAINER",
    .summary = "Change the limits of a container that runs",
    .options = update_table,
    .run = update_run,
};
