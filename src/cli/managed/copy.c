/* hull push and pull. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"
#include "cli/managed/managed.h"
#include "cli/managed/transfer_stream.h"

static const struct option_spec table[] = {
    MANAGED_OPTION_QUIET,
    {0},
};

/* "NAME:/PATH": cuts the word. */
static int split(char *word, const char **out_path, struct error *err)
{
    char *colon = strchr(word, ':');
    if (colon == NULL || colon == word || colon[1] != '/') {
        return error_set(err, EINVAL, "'%.100s': NAME:PATH, an absolute path in an instance", word);
    }
    *colon = '\0';
    *out_path = colon + 1;
    return 0;
}

/* A path as its folder and the last part of it: "/a/b/" is "b" in "/a". */
static int split_path(const char *path, char out_folder[PATH_MAX], char out_name[NAME_MAX + 1],
                      struct error *err)
{
    size_t size = strlen(path);
    while (size > 1 && path[size - 1] == '/') {
        size--;
    }
    size_t at = size;
    while (at > 0 && path[at - 1] != '/') {
        at--;
    }
    bool is_dots = (size - at == 1 && path[at] == '.') ||
                   (size - at == 2 && path[at] == '.' && path[at + 1] == '.');
    if (size == at || is_dots || size - at > NAME_MAX || at >= PATH_MAX) {
        return error_set(err, EINVAL, "'%.100s' does not end with the name of a file or folder",
                         path);
    }
    (void)snprintf(out_folder, PATH_MAX, "%.*s", at > 0 ? (int)at : 1, at > 0 ? path : ".");
    (void)snprintf(out_name, NAME_MAX + 1, "%.*s", (int)(size - at), path + at);
    return 0;
}

struct copy {
    struct client client;
    struct client_socket *socket;
    struct progress progress;
    char label[PATH_MAX + 100];
    struct transfer_stream stream;
    unsigned left_out;
};

static int begin(struct copy *copy, const char *verb, const char *name, const char *path,
                 bool is_quiet, struct error *err)
{
    (void)signal(SIGPIPE, SIG_IGN);
    (void)snprintf(copy->label, sizeof(copy->label), "%sing %s", verb, path);
    int rc = managed_open(&copy->client, err);
    rc = rc < 0 ? rc
                : managed_session_open(&copy->client, name, verb,
                                       json_pack("{s:s, s:s}", "do", verb, "path", path),
                                       &copy->socket, err);
    progress_begin(&copy->progress, copy->label, is_quiet);
    return rc < 0 ? rc : transfer_begin(&copy->stream, copy->socket, &copy->progress, err);
}

/* The exit status, which 'rc' is if it is no error. */
static int end(struct copy *copy, int rc, const char *name, const struct error *err)
{
    progress_end(&copy->progress);
    transfer_end(&copy->stream);
    if (rc < 0) {
        struct error told = *err;
        if (copy->socket != NULL) { /* else hulld has said whose it is */
            error_ignore(error_prefix(&told, rc, "%s", name));
        }
        client_socket_close(copy->socket);
        return cli_fail(&told);
    }
    client_socket_close(copy->socket);
    return rc == 0 && copy->left_out > 0 ? CLI_FAILURE : rc;
}

static int push_run(int argc, char **argv)
{
    struct managed_options options = {0};
    struct copy copy = {0};
    struct error err = {0};
    const char *path;
    char folder[PATH_MAX], name[NAME_MAX + 1], unused[PATH_MAX];
    int count;
    int status = cli_words(&push_verb, 2, 2, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    int rc = split(argv[1], &path, &err);
    if (rc == 0 && path[strlen(path) - 1] == '/') { /* into it, with the name that it has here */
        char real[PATH_MAX];
        rc = realpath(argv[0], real) == NULL ? error_set_errno(&err, errno, "%.160s", argv[0])
                                             : split_path(real, unused, name, &err);
        (void)snprintf(folder, sizeof(folder), "%s", path);
    } else if (rc == 0) {
        rc = split_path(path, folder, name, &err);
    }
    if (rc == 0 && access(argv[0], R_OK) < 0) {
        rc = error_set_errno(&err, errno, "%.160s", argv[0]);
    }
    if (rc < 0) {
        return cli_fail(&err);
    }
    rc = begin(&copy, "push", argv[1], folder, options.is_quiet, &err);
    if (rc == 0) {
        copy.stream.total = transfer_measure(argv[0]);
        rc = transfer_pack(argv[0], name, &copy.stream, &copy.left_out, &err);
        rc = rc < 0 ? rc : transfer_finish(&copy.stream, &err);
    }
    return end(&copy, rc, argv[1], &err);
}

const struct verb push_verb = {
    .name = "push",
    .arguments = "FILE NAME:PATH",
    .summary = "Copy a file or folder into an instance",
    .description =
        "PATH is what it is called there; one that ends with \"/\" is the folder into which it comes. Folders that are\n"
        "missing are made. What is copied belongs to root there.\n",
    .examples = "  hull push nginx.conf web1:/etc/nginx/\n  hull push site web1:/srv/www\n",
    .options = table,
    .complete = "FILE",
    .run = push_run,
};

static int pull_run(int argc, char **argv)
{
    struct managed_options options = {0};
    struct copy copy = {0};
    struct error err = {0};
    const char *path;
    char folder[PATH_MAX], name[NAME_MAX + 1], unused[PATH_MAX];
    int count;
    int status = cli_words(&pull_verb, 2, 2, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    struct stat info;
    int rc = split(argv[0], &path, &err);
    rc = rc < 0 ? rc : split_path(path, unused, name, &err);
    if (rc == 0 && stat(argv[1], &info) == 0 && S_ISDIR(info.st_mode)) {
        (void)snprintf(folder, sizeof(folder), "%s", argv[1]);
    } else if (rc == 0) {
        rc = split_path(argv[1], folder, name, &err);
    }
    AUTO_CLOSE int fd = rc < 0 ? rc : open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (rc == 0 && fd < 0) {
        rc = error_set_errno(&err, errno, "folder %.160s", folder);
    }
    if (rc < 0) {
        return cli_fail(&err);
    }
    rc = begin(&copy, "pull", argv[0], path, options.is_quiet, &err);
    if (rc == 0) {
        struct tar_reader reader = {.read = transfer_take, .ctx = &copy.stream};
        rc = transfer_unpack(fd, name, &reader, &copy.left_out, &err);
        tar_reader_end(&reader);
        rc = rc < 0 ? rc : transfer_drain(&copy.stream, &err);
    }
    return end(&copy, rc, argv[0], &err);
}

const struct verb pull_verb = {
    .name = "pull",
    .arguments = "NAME:PATH FILE",
    .summary = "Copy a file or folder out of an instance",
    .description =
        "FILE is what it is called here, or a folder that is there already. Nothing but that is written, whatever the\n"
        "instance sends: links are not followed, owners are not kept, devices are left out.\n",
    .examples = "  hull pull web1:/var/log/nginx .\n  hull pull web1:/etc/hostname name.txt\n",
    .options = table,
    .complete = "INSTANCE",
    .run = pull_run,
};
