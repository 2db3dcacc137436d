/* Starting criu and understanding its errors. */
#include "container/runtime/criu.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/runtime/launch.h"

#define PROGRAM        "criu"
#define STATUS_NO_EXEC 127
#define MAX_LOG_SIZE   (64u << 20)
#define MAX_TOLD       300

void criu_add(struct criu_words *words, const char *format, ...)
{
    va_list arguments;
    char *word = NULL;
    va_start(arguments, format);
    char **more = realloc(words->item, (words->count + 2) * sizeof(*more));
    if (more != NULL) {
        words->item = more;
    }
    if (more == NULL || vasprintf(&word, format, arguments) < 0) {
        words->is_incomplete = true;
    } else {
        more[words->count++] = word;
        more[words->count] = NULL;
    }
    va_end(arguments);
}

void criu_words_free(struct criu_words *words)
{
    for (size_t i = 0; i < words->count; i++) {
        free(words->item[i]);
    }
    free(words->item);
    *words = (struct criu_words){0};
}

/* The first line that tells an error of its own: programs that it lacks for what is not there are told in the same way. */
static bool find_error(int fd, char *out_line, size_t size)
{
    static const char *const passed_over[] = {"criu/util.c:", "save -V failed"};
    AUTO_FREE void *text = NULL;
    size_t length;
    struct error ignored;
    if (fd < 0 || file_read_whole(fd, MAX_LOG_SIZE, "log", &text, &length, &ignored) < 0) {
        return false;
    }
    for (char *rest = text, *line; (line = strsep(&rest, "\n")) != NULL;) {
        const char *at = strstr(line, "Error (");
        bool is_one = at != NULL;
        for (size_t i = 0; i < ARRAY_COUNT(passed_over); i++) {
            is_one = is_one && strstr(line, passed_over[i]) == NULL;
        }
        if (is_one) {
            const char *words = strstr(at, "): ");
            (void)snprintf(out_line, size, "%s", words != NULL ? words + 3 : at);
            return true;
        }
    }
    return false;
}

noreturn_fn static void become_criu(const struct criu_run *run, int output)
{
    struct error err = {0};
    launch_reset_signals();
    if (run->prepare != NULL && run->prepare(run->argument, &err) < 0) {
        dprintf(output, "Error (hull-oci): %s\n", err.text);
        _exit(STATUS_NO_EXEC);
    }
    if (dup2(output, STDOUT_FILENO) < 0 || dup2(output, STDERR_FILENO) < 0) {
        _exit(STATUS_NO_EXEC);
    }
    execvp(PROGRAM, run->words->item);
    _exit(STATUS_NO_EXEC);
}

static int run_criu(const struct criu_run *run, int output, int *out_status, struct error *err)
{
    pid_t pid = fork();
    if (pid == 0) {
        become_criu(run, output);
    }
    if (pid < 0) {
        return error_set_errno(err, errno, "starting " PROGRAM);
    }
    while (waitpid(pid, out_status, 0) < 0) {
        if (errno != EINTR) {
            return error_set_errno(err, errno, "waiting for " PROGRAM);
        }
    }
    return 0;
}

/* 'out_text' may be NULL: what it says is not wanted. */
static int run_and_read(const struct criu_run *run, char *out_text, size_t size, struct error *err)
{
    if (run->words->is_incomplete) {
        return error_set_errno(err, ENOMEM, "the arguments of " PROGRAM);
    }
    AUTO_CLOSE int output = memfd_create("criu", MFD_CLOEXEC);
    int status = 0;
    if (output < 0) {
        return error_set_errno(err, errno, "keeping what " PROGRAM " says");
    }
    int rc = run_criu(run, output, &status, err);
    if (rc == 0 && status == 0 && out_text != NULL) {
        ssize_t length = pread(output, out_text, size - 1, 0);
        out_text[length > 0 ? length : 0] = '\0';
    }
    if (rc < 0 || status == 0) {
        return rc;
    }
    char line[MAX_TOLD] = "it does not say why";
    AUTO_CLOSE int log = run->log != NULL ? open(run->log, O_RDONLY | O_CLOEXEC) : -1;
    (void)lseek(output, 0, SEEK_SET);
    bool is_logged = find_error(log, line, sizeof(line));
    if (!is_logged) {
        (void)find_error(output, line, sizeof(line));
    }
    return error_set(err, EIO, PROGRAM " %s: %s%s%s%s", run->words->item[1], line,
                     is_logged ? " (see " : "", is_logged ? run->log : "", is_logged ? ")" : "");
}

int criu_run(const struct criu_run *run, struct error *err)
{
    return run_and_read(run, NULL, 0, err);
}

int criu_check_version(unsigned major, unsigned minor, struct error *err)
{
    char text[MAX_TOLD] = "";
    unsigned found_major = 0, found_minor = 0;
    struct criu_words words = {0};
    criu_add(&words, PROGRAM);
    criu_add(&words, "--version");
    const struct criu_run run = {.words = &words};
    int rc = run_and_read(&run, text, sizeof(text), err);
    criu_words_free(&words);
    const char *version = strstr(text, "Version: ");
    if (rc == 0 &&
        (version == NULL || sscanf(version, "Version: %u.%u", &found_major, &found_minor) != 2 ||
         found_major < major || (found_major == major && found_minor < minor))) {
        rc = error_set(err, EOPNOTSUPP, PROGRAM " is too old: %u.%u, and %u.%u or newer is needed",
                       found_major, found_minor, major, minor);
    }
    return rc;
}

static bool is_installed(void)
{
    const char *path = getenv("PATH");
    for (const char *part = path; part != NULL;) {
        size_t length = strcspn(part, ":");
        char name[4096];
        int size = snprintf(name, sizeof(name), "%.*s/" PROGRAM, (int)length, part);
        if (size > 0 && (size_t)size < sizeof(name) && access(name, X_OK) == 0) {
            return true;
        }
        part = part[length] == ':' ? part + length + 1 : NULL;
    }
    return false;
}

int criu_check(struct error *err)
{
    if (!is_installed()) {
        return error_set(err, ENOENT,
                         PROGRAM ": executable file not found in $PATH: checkpoint and restore "
                                 "need it (Debian's package criu)");
    }
    struct criu_words words = {0};
    criu_add(&words, PROGRAM);
    criu_add(&words, "check");
    const struct criu_run run = {.words = &words};
    int rc = criu_run(&run, err);
    criu_words_free(&words);
    return rc < 0
               ? error_prefix(err, -EOPNOTSUPP,
                              PROGRAM " does not work on this host (is it older than the kernel?)")
               : 0;
}
