/* Where the program is. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container/process/process.h"

#define DEFAULT_PATH "/bin:/usr/bin" /* as execvp without PATH */

static const char *find_path(const struct spec_strings *env)
{
    const char *found = DEFAULT_PATH;
    for (size_t i = 0; i < env->count; i++) {
        if (strncmp(env->item[i], "PATH=", 5) == 0) {
            found = env->item[i] + 5; /* the last one wins, as in a shell */
        }
    }
    return found;
}

/* 0, or why it cannot be executed. */
static int check_program(const char *path)
{
    struct stat st;
    if (stat(path, &st) < 0) {
        return -errno;
    }
    if (S_ISDIR(st.st_mode)) {
        return -EISDIR;
    }
    return S_ISREG(st.st_mode) && faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0 ? 0 : -EACCES;
}

static int take(const char *path, char **out_path, struct error *err)
{
    char *copy = strdup(path);
    if (copy == NULL) {
        return error_set(err, ENOMEM, "no memory for the program's path");
    }
    *out_path = copy;
    return 0;
}

int process_find_program(const struct spec_process *process, char **out_path, struct error *err)
{
    const char *name = process->args.count == 0 ? "" : process->args.item[0];
    if (*name == '\0') {
        return error_set(err, ENOENT, "exec: \"\": executable file not found in $PATH");
    }
    if (strchr(name, '/') != NULL) {
        int rc = check_program(name);
        return rc == 0         ? take(name, out_path, err)
               : rc == -EACCES ? error_set(err, EACCES, "exec: \"%s\": permission denied", name)
               : rc == -EISDIR
                   ? error_set(err, EACCES, "exec: \"%s\": is a directory: permission denied", name)
               : rc == -ENOTDIR ? error_set(err, ENOTDIR, "exec: \"%s\": not a directory", name)
               : rc == -ENOENT
                   ? error_set(err, ENOENT, "exec: \"%s\": stat %s: no such file or directory",
                               name, name)
                   : error_set_errno(err, -rc, "exec: \"%s\"", name);
    }
    bool is_denied = false;
    for (const char *part = find_path(&process->env); part != NULL;) {
        size_t size = strcspn(part, ":");
        char path[PATH_MAX];
        /* An empty part is the current directory. */
        int length =
            snprintf(path, sizeof(path), "%.*s%s%s", (int)size, part, size == 0 ? "./" : "/", name);
        int rc = length < 0 || (size_t)length >= sizeof(path) ? -ENAMETOOLONG : check_program(path);
        if (rc == 0) {
            return take(path, out_path, err);
        }
        is_denied = is_denied || rc == -EACCES;
        part = part[size] == ':' ? part + size + 1 : NULL;
    }
    return is_denied
               ? error_set(err, EACCES, "exec: \"%s\": permission denied", name)
               : error_set(err, ENOENT, "exec: \"%s\": executable file not found in $PATH", name);
}
