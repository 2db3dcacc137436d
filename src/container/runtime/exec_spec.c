/* The process of `exec`, from a file or from options. */
#include "container/runtime/exec_spec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"

#define MAX_PROCESS_SIZE (16u << 20)

static int from_file(const char *path, struct exec_spec *out, struct error *err)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "--process: opening %s", path);
    }
    AUTO_FREE void *text = NULL;
    size_t size;
    int rc = file_read_whole(fd, MAX_PROCESS_SIZE, path, &text, &size, err);
    rc = rc < 0 ? rc : spec_parse_process(text, size, &out->document, err);
    if (rc < 0) {
        return error_prefix(err, rc, "--process");
    }
    out->value.process = out->document->process;
    return 0;
}

static size_t count_of(const char *const *list)
{
    size_t count = 0;
    while (list != NULL && list[count] != NULL) {
        count++;
    }
    return count;
}

/* 'first' and then 'second' in new memory, NULL behind them. */
static const char **join(const char *const *first, size_t first_count, const char *const *second,
                         size_t second_count)
{
    const char **list = calloc(first_count + second_count + 1, sizeof(*list));
    if (list != NULL && first_count != 0) {
        memcpy(list, first, first_count * sizeof(*list));
    }
    if (list != NULL && second_count != 0) {
        memcpy(list + first_count, second, second_count * sizeof(*list));
    }
    return list;
}

static int parse_id(const char *text, const char *option, uint32_t *out_id, const char **out_rest,
                    struct error *err)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno != 0 || end == text || text[0] == '-' || value >= UINT32_MAX) {
        return error_set(err, EINVAL, "%s '%.100s': numbers are expected", option, text);
    }
    *out_id = (uint32_t)value;
    *out_rest = end;
    return 0;
}

static int set_user(const char *user, struct spec_process *process, struct error *err)
{
    const char *rest;
    int rc = parse_id(user, "--user", &process->uid, &rest, err);
    if (rc == 0 && *rest == ':') {
        rc = parse_id(rest + 1, "--user", &process->gid, &rest, err);
    }
    return rc == 0 && *rest != '\0'
               ? error_set(err, EINVAL, "--user '%.100s': UID or UID:GID is expected", user)
               : rc;
}

static int add_groups(const struct exec_options *options, struct exec_spec *out, struct error *err)
{
    struct spec_process *process = &out->value.process;
    size_t count = count_of(options->gids), before = process->additional_gid_count;
    if (count == 0) {
        return 0;
    }
    out->gids = calloc(before + count, sizeof(*out->gids));
    if (out->gids == NULL) {
        return error_set_errno(err, ENOMEM, "--additional-gids");
    }
    if (before != 0) {
        memcpy(out->gids, process->additional_gids, before * sizeof(*out->gids));
    }
    for (size_t i = 0; i < count; i++) {
        const char *rest;
        int rc =
            parse_id(options->gids[i], "--additional-gids", &out->gids[before + i], &rest, err);
        if (rc < 0 || *rest != '\0') {
            return rc < 0 ? rc
                          : error_set(err, EINVAL, "--additional-gids '%.100s': a number",
                                      options->gids[i]);
        }
    }
    process->additional_gids = out->gids;
    process->additional_gid_count = before + count;
    return 0;
}

static int add_capabilities(const struct exec_options *options, struct spec_process *process,
                            struct error *err)
{
    for (size_t i = 0; options->caps != NULL && options->caps[i] != NULL; i++) {
        uint8_t number;
        int rc = spec_parse_capability(options->caps[i], &number, err);
        if (rc < 0) {
            return error_prefix(err, rc, "--cap");
        }
        process->has_capabilities = true;
        process->bounding |= 1ull << number;
        process->effective |= 1ull << number;
        process->permitted |= 1ull << number;
    }
    return 0;
}

static int from_options(const struct exec_options *options, struct exec_spec *out,
                        struct error *err)
{
    struct spec_process *process = &out->value.process;
    size_t arg_count = count_of(options->args), env_count = count_of(options->env);
    if (arg_count == 0) {
        return error_set(err, EINVAL, "exec: a program or --process is expected");
    }
    out->args = join(options->args, arg_count, NULL, 0);
    out->env = join(process->env.item, process->env.count, options->env, env_count);
    if (out->args == NULL || out->env == NULL) {
        return error_set_errno(err, ENOMEM, "the program's arguments");
    }
    process->args = (struct spec_strings){out->args, arg_count};
    process->env = (struct spec_strings){out->env, process->env.count + env_count};
    process->has_terminal = options->has_terminal;
    process->console_rows = options->rows;
    process->console_columns = options->columns;
    process->cwd = options->cwd != NULL ? options->cwd : process->cwd;
    process->no_new_privileges |= options->no_new_privileges;
    process->apparmor_profile =
        options->apparmor != NULL ? options->apparmor : process->apparmor_profile;
    process->selinux_label =
        options->process_label != NULL ? options->process_label : process->selinux_label;
    if (process->cwd[0] != '/') {
        return error_set(err, EINVAL, "--cwd '%.100s': an absolute path is expected", process->cwd);
    }
    int rc = options->user != NULL ? set_user(options->user, process, err) : 0;
    rc = rc < 0 ? rc : add_groups(options, out, err);
    return rc < 0 ? rc : add_capabilities(options, process, err);
}

int exec_spec_make(const struct spec *config, const struct exec_options *options,
                   struct exec_spec *out, struct error *err)
{
    *out = (struct exec_spec){.value = *config};
    if (!config->has_process && options->process == NULL) {
        return error_set(err, EINVAL,
                         "exec: the container has no process object: --process is needed");
    }
    out->value.has_process = true;
    int rc = options->process != NULL ? from_file(options->process, out, err)
                                      : from_options(options, out, err);
    if (rc < 0) {
        exec_spec_fini(out);
    }
    return rc;
}

void exec_spec_fini(struct exec_spec *spec)
{
    spec_destroy(spec->document);
    free(spec->args);
    free(spec->env);
    free(spec->gids);
    *spec = (struct exec_spec){0};
}
