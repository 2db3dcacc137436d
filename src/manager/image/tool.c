#include "manager/image/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "base/host/file.h"
#include "base/host/program.h"

#define POLL_NS    20000000
#define MAX_OUTPUT (1u << 20)

static int missing(const struct tool *tool, struct error *err)
{
    return error_set(err, ENOENT, "%s: not found: install the package %s", tool->argv[0],
                     tool->package);
}

/* Programs in Go write lines of a log: time="..." level=fatal msg="text", with quotation marks in the text escaped. */
static void take_message(char *line)
{
    static const char start[] = "msg=\"";
    const char *from = strstr(line, start);
    char *to = line;
    if (from == NULL || strstr(line, "level=") == NULL) {
        return;
    }
    for (from += strlen(start); *from != '\0' && *from != '"'; from++) {
        from += *from == '\\' && from[1] != '\0';
        *to++ = *from;
    }
    *to = '\0';
}

/* Of a long line the end says more than the beginning. */
static void put_end(const char *line, char *out, size_t size)
{
    size_t length = strlen(line);
    bool is_long = length >= size;
    (void)snprintf(out, size, "%s%s", is_long ? "..." : "",
                   is_long ? line + length - (size - 1 - strlen("...")) : line);
}

/* The last line of what it said, which mostly is why it failed; or the first that calls itself an error. */
static void last_words(int fd, char *out, size_t size)
{
    char text[4096];
    off_t end = lseek(fd, 0, SEEK_END);
    off_t from = end > (off_t)sizeof(text) - 1 ? end - (off_t)(sizeof(text) - 1) : 0;
    ssize_t got = end > 0 ? pread(fd, text, sizeof(text) - 1, from) : 0;
    text[got > 0 ? got : 0] = '\0';
    char *save;
    bool is_error = false;
    (void)snprintf(out, size, "it did not say why");
    for (char *line = strtok_r(text, "\r\n", &save); line != NULL;
         line = strtok_r(NULL, "\r\n", &save)) {
        if (!is_error && line[strspn(line, " \t")] != '\0') {
            for (char *c = line; *c != '\0'; c++) {
                *c = (unsigned char)*c < ' ' || *c == 0x7f ? ' ' : *c;
            }
            take_message(line);
            put_end(line, out, size);
            is_error = strncmp(line, "E: ", 3) == 0 || program_code(line, 0) != 0;
        }
    }
}

static int wait_for(struct job *job, const struct tool *tool, pid_t pid, int words,
                    struct error *err)
{
    static const struct timespec pause = {.tv_nsec = POLL_NS};
    char text[128]; /* and what the operation is about, in an error's text */
    int status;
    for (;;) {
        pid_t ended = waitpid(pid, &status, WNOHANG);
        if (ended == pid) {
            break;
        }
        if (ended < 0 && errno != EINTR) {
            return error_set_errno(err, errno, "waiting for %s", tool->argv[0]);
        }
        if (job_is_cancelled(job)) {
            (void)kill(-pid, SIGKILL); /* its session; perhaps it has none yet */
            (void)kill(pid, SIGKILL);  /* not waited for yet */
            while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
            }
            return error_set(err, ECANCELED, "%s: cancelled", tool->argv[0]);
        }
        (void)nanosleep(&pause, NULL); /* shorter is fine */
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        return 0;
    }
    if (WIFSIGNALED(status)) {
        return error_set(err, ECHILD, "%s was killed by signal %d", tool->argv[0],
                         WTERMSIG(status));
    }
    last_words(words, text, sizeof(text));
    return error_set(err, program_code(text, ECHILD), "%s failed: %s", tool->argv[0], text);
}

static int run(struct job *job, const struct tool *tool, int output, struct error *err)
{
    char path[PATH_MAX], name[80];
    pid_t pid;
    (void)snprintf(name, sizeof(name), "%s", tool->argv[0]);
    if (program_find(name, true, path, sizeof(path), NULL) < 0) {
        /* The PATH of users often lacks /usr/sbin. */
        (void)snprintf(name, sizeof(name), "../sbin/%s", tool->argv[0]);
        if (program_find(name, true, path, sizeof(path), NULL) < 0) {
            return missing(tool, err);
        }
    }
    AUTO_CLOSE int words = memfd_create("words", MFD_CLOEXEC);
    if (words < 0) {
        return error_set_errno(err, errno, "starting %s", tool->argv[0]);
    }
    const struct process_spec spec = {.program = name,
                                      .argv = tool->argv,
                                      .stdout_fd = output >= 0 ? output : words,
                                      .stderr_fd = words};
    int rc = process_spawn(&spec, true, &pid, err);
    return rc < 0 ? rc : wait_for(job, tool, pid, words, err);
}

int tool_run(struct job *job, const struct tool *tool, struct error *err)
{
    if (tool->output == NULL) {
        return run(job, tool, -1, err);
    }
    AUTO_CLOSE int fd = open(tool->output, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    return fd < 0 ? error_set_errno(err, errno, "writing %s", tool->output)
                  : run(job, tool, fd, err);
}

int tool_read(struct job *job, const struct tool *tool, char **out_text, struct error *err)
{
    AUTO_CLOSE int fd = memfd_create("output", MFD_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "starting %s", tool->argv[0]);
    }
    void *text;
    size_t size;
    int rc = run(job, tool, fd, err);
    if (rc == 0 && lseek(fd, 0, SEEK_SET) < 0) {
        rc = error_set_errno(err, errno, "reading from %s", tool->argv[0]);
    }
    rc = rc < 0 ? rc : file_read_whole(fd, MAX_OUTPUT, tool->argv[0], &text, &size, err);
    if (rc == 0) {
        *out_text = text;
    }
    return rc;
}
