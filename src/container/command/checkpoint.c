/* checkpoint, restore. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/compiler.h"
#include "container/command/command.h"
#include "container/command/number.h"

#define DEFAULT_IMAGE "checkpoint" /* as runc's, in the current folder */
#define MAX_FD        1000000

struct words {
    struct checkpoint_options checkpoint;
    struct create_options create;
    bool is_detached;
};

#define TEXT(name, member)                                                                         \
    static int name(void *into, const char *value, struct error *err)                              \
    {                                                                                              \
        ((struct words *)into)->member = value;                                                    \
        return value[0] == '\0' ? error_set(err, EINVAL, "a value is expected") : 0;               \
    }
#define FLAG(name, member)                                                                         \
    static int name(void *into, const char *value, struct error *err)                              \
    {                                                                                              \
        ((struct words *)into)->member = true;                                                     \
        return 0;                                                                                  \
    }
TEXT(parse_image, checkpoint.image_path)
TEXT(parse_work, checkpoint.work_path)
TEXT(parse_lsm_profile, checkpoint.lsm_profile)
TEXT(parse_lsm_context, checkpoint.lsm_mount_context)
TEXT(parse_bundle, create.bundle)
TEXT(parse_pid_file, create.pid_file)
FLAG(parse_leave, checkpoint.leaves_running)
FLAG(parse_tcp, checkpoint.allows_tcp)
FLAG(parse_unix, checkpoint.allows_unix)
FLAG(parse_shell, checkpoint.is_shell_job)
FLAG(parse_lazy, checkpoint.is_lazy)
FLAG(parse_locks, checkpoint.allows_locks)
FLAG(parse_pre_dump, checkpoint.is_pre_dump)
FLAG(parse_dedup, checkpoint.dedups)
FLAG(parse_detach, is_detached)

/* criu finds the folder from that of the image. */
static int parse_parent(void *into, const char *value, struct error *err)
{
    ((struct words *)into)->checkpoint.parent_path = value;
    return value[0] == '/' || value[0] == '\0'
               ? error_set(err, EINVAL, "'%s': a path from the image's folder is expected", value)
               : 0;
}

static int parse_cgroups(void *into, const char *value, struct error *err)
{
    static const char *const names[] = {"soft", "full", "strict", "ignore"};
    for (int i = 0; i < (int)ARRAY_COUNT(names); i++) {
        if (strcmp(value, names[i]) == 0) {
            ((struct words *)into)->checkpoint.cgroups = (enum checkpoint_cgroups)i;
            return 0;
        }
    }
    return error_set(err, EINVAL, "'%s' is unknown: soft, full, strict or ignore", value);
}

static int parse_empty(void *into, const char *value, struct error *err)
{
    ((struct words *)into)->checkpoint.empty_network = true;
    return strcmp(value, "network") == 0
               ? 0
               : error_set(err, EINVAL, "'%s': only network can be left empty", value);
}

static int parse_status(void *into, const char *value, struct error *err)
{
    unsigned fd;
    int rc = number_parse_count(value, MAX_FD, &fd, err);
    ((struct words *)into)->checkpoint.status_fd = rc < 0 ? -1 : (int)fd;
    return rc;
}

/* ADDRESS:PORT; the address is kept where the option lies. */
static int parse_server(void *into, const char *value, struct error *err)
{
    static char address[256];
    struct checkpoint_options *options = &((struct words *)into)->checkpoint;
    const char *colon = strrchr(value, ':');
    if (colon == NULL || colon == value || (size_t)(colon - value) >= sizeof(address)) {
        return error_set(err, EINVAL, "'%s': ADDRESS:PORT is expected", value);
    }
    (void)snprintf(address, sizeof(address), "%.*s", (int)(colon - value), value);
    options->page_server_address = address;
    return number_parse_count(colon + 1, UINT16_MAX, &options->page_server_port, err);
}

#define COMMON_OPTIONS                                                                              \
    {"image-path", 0,          "DIR", "where the files of the processes are (default: checkpoint)", \
     "DIR",        parse_image},                                                                    \
        {"work-path", 0, "DIR", "where logs are (default: the same)", "DIR", parse_work},           \
        {"tcp-established", 0, NULL, "with open TCP connections", NULL, parse_tcp},                 \
        {"ext-unix-sk", 0, NULL, "with Unix sockets to outside", NULL, parse_unix},                 \
        {"shell-job", 0, NULL, "with a session that began outside", NULL, parse_shell},             \
        {"lazy-pages", 0,         NULL, "memory is fetched when it is used (userfaultfd)",          \
         NULL,         parse_lazy},                                                                 \
        {"file-locks", 0, NULL, "with file locks", NULL, parse_locks},                              \
        {"manage-cgroups-mode",                                                                     \
         0,                                                                                         \
         "MODE",                                                                                    \
         "soft, full, strict or ignore (default: soft)",                                            \
         "soft|full|strict|ignore",                                                                 \
         parse_cgroups},                                                                            \
        {"empty-ns", 0,          "NAMESPACE", "network: devices and addresses are not kept",        \
         "network",  parse_empty},                                                                  \
    {                                                                                               \
        "auto-dedup", 0, NULL, "memory that is in a later image goes from the earlier", NULL,       \
            parse_dedup                                                                             \
    }

static const struct option_spec checkpoint_table[] = {
    COMMON_OPTIONS,
    {"parent-path", 0, "DIR", "earlier image by --pre-dump, from the image's folder", "DIR",
     parse_parent},
    {"leave-running", 0, NULL, "the container goes on", NULL, parse_leave},
    {"pre-dump", 0, NULL, "memory alone, while the container goes on", NULL, parse_pre_dump},
    {"page-server", 0, "ADDRESS:PORT", "a `criu page-server` gets the memory", NULL, parse_server},
    {"status-fd", 0, "FD", "descriptor that gets a byte when lazy pages may be asked for", NULL,
     parse_status},
    {0},
};

static const struct option_spec restore_table[] = {
    COMMON_OPTIONS,
    {"bundle", 'b', "DIR", "folder with config.json (default: the current one)", "DIR",
     parse_bundle},
    {"detach", 'd', NULL, "do not wait for the container's end", NULL, parse_detach},
    {"pid-file", 0, "FILE", "where the process id is written to", "FILE", parse_pid_file},
    {"lsm-profile", 0, "KIND:NAME", "another profile: apparmor:NAME or selinux:LABEL", NULL,
     parse_lsm_profile},
    {"lsm-mount-context", 0, "CONTEXT", "another SELinux context of mounts", NULL,
     parse_lsm_context},
    {0},
};

static int checkpoint_run(int argc, char **argv)
{
    struct words words = {.checkpoint = {.image_path = DEFAULT_IMAGE, .status_fd = -1}};
    int status = command_options(&oci_checkpoint_verb, false, 1, 1, argc, argv, &words, NULL);
    if (status >= 0) {
        return status;
    }
    struct error err = {0};
    return runtime_checkpoint(&command_global.runtime, argv[0], &words.checkpoint, &err) < 0
               ? command_fail(&err)
               : COMMAND_OK;
}

const struct verb oci_checkpoint_verb = {
    .name = "checkpoint",
    .arguments = "CONTAINER",
    .summary = "Write a running container's processes to files, and end it",
    .description =
        "The program criu does it. What cannot be written (io_uring, devices, nested namespaces ...) is told\n"
        "before anything is touched.\n",
    .options = checkpoint_table,
    .run = checkpoint_run,
};

static int restore_run(int argc, char **argv)
{
    struct words words = {.checkpoint = {.image_path = DEFAULT_IMAGE, .status_fd = -1},
                          .create.bundle = "."};
    int status = command_options(&oci_restore_verb, false, 1, 1, argc, argv, &words, NULL);
    if (status >= 0) {
        return status;
    }
    struct error err = {0};
    status = COMMAND_OK;
    int rc = runtime_restore(&command_global.runtime, argv[0], &words.create, &words.checkpoint,
                             words.is_detached, &status, &err);
    return rc < 0 ? command_fail(&err) : status;
}

const struct verb oci_restore_verb = {
    .name = "restore",
    .arguments = "CONTAINER",
    .summary = "Make a container whose processes go on where a checkpoint has left them",
    .exit_status =
        "  That of the program, 128 + N after signal N; 1 if it could not be restored.\n",
    .options = restore_table,
    .run = restore_run,
};
