#include "system/template/boxed.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/host/file.h"
#include "base/host/program.h"

#define POLL_MS       200
#define MAX_LINE      1000
#define STATUS_NO_RUN 125 /* the reason is in the pipe of errors */

struct pipes {
    int output[2], error[2], go[2];
};

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
    *fd = -1;
}

static void close_pipes(struct pipes *p)
{
    for (int i = 0; i < 2; i++) {
        close_fd(&p->output[i]);
        close_fd(&p->error[i]);
        close_fd(&p->go[i]);
    }
}

static void reset_signals(void)
{
    sigset_t none;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL); /* a valid mask */
    for (int i = 1; i < NSIG; i++) {
        (void)signal(i, SIG_DFL); /* some cannot be set */
    }
}

static void __attribute__((noreturn)) child_fail(struct pipes *p, const struct error *err)
{
    ssize_t written = write(p->error[1], err, sizeof(*err));
    _exit(written == sizeof(*err) ? STATUS_NO_RUN : 1);
}

static void __attribute__((noreturn)) child_exec(const struct boxed *program, struct pipes *p)
{
    struct error err;
    if (program->environment != NULL) {
        (void)execvpe(program->argv[0], (char *const *)program->argv,
                      (char *const *)program->environment);
    } else {
        (void)execvp(program->argv[0], (char *const *)program->argv);
    }
    if (errno == ENOENT && program->missing_package != NULL) {
        (void)error_set(&err, ENOENT, "%s: not found: install the package %s", program->argv[0],
                        program->missing_package);
    } else {
        (void)error_set_errno(&err, errno, "starting %s", program->argv[0]);
    }
    child_fail(p, &err);
}

/* The first process of its namespace: waits for whatever is left to it, until the program itself ends. */
static void __attribute__((noreturn)) child_reap(pid_t main_pid)
{
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, 0);
        if (pid == main_pid && WIFEXITED(status)) {
            _exit(WEXITSTATUS(status));
        }
        if (pid == main_pid || (pid < 0 && errno != EINTR)) {
            _exit(1);
        }
    }
}

static void __attribute__((noreturn)) child_main(const struct boxed *program, struct pipes *p)
{
    struct error err = {0};
    char byte;
    reset_signals();
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a valid signal */
    close_fd(&p->go[1]);
    if (read(p->go[0], &byte, 1) != 1) {
        _exit(1); /* the one who started us is gone */
    }
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (setsid() < 0 || null < 0 || dup2(null, STDIN_FILENO) < 0 ||
        dup2(p->output[1], STDOUT_FILENO) < 0 || dup2(p->output[1], STDERR_FILENO) < 0) {
        (void)error_set_errno(&err, errno, "starting %s", program->what);
        child_fail(p, &err);
    }
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0) {
        (void)error_set_errno(&err, errno, "starting %s: mounting its /proc", program->what);
        child_fail(p, &err);
    }
    if (program->prepare != NULL && program->prepare(program->prepare_ctx, &err) < 0) {
        child_fail(p, &err);
    }
    if (program->argv == NULL) {
        _exit(0);
    }
    pid_t pid = fork();
    if (pid == 0) {
        child_exec(program, p);
    }
    if (pid < 0) {
        (void)error_set_errno(&err, errno, "starting %s", program->what);
        child_fail(p, &err);
    }
    child_reap(pid);
}

/* Lines of the output, and which of them says best why it failed: that there is no space, the first error, else the
 * last of all. */
struct output {
    const struct boxed *program;
    char line[MAX_LINE];
    size_t length;
    char reason[160];
    bool has_error;
    int code;
};

static void end_line(struct output *out)
{
    out->line[out->length] = '\0';
    if (out->length > 0) {
        bool is_error = strncmp(out->line, "E: ", 3) == 0 || strstr(out->line, "rror:") != NULL;
        int code = program_code(out->line, ECHILD);
        if (!out->has_error || (code == ENOSPC && out->code == ECHILD)) {
            (void)snprintf(out->reason, sizeof(out->reason), "%.159s", out->line);
            out->has_error = out->has_error || is_error || code == ENOSPC;
            out->code = code;
        }
        if (out->program->line != NULL) {
            out->program->line(out->program->ctx, out->line);
        }
    }
    out->length = 0;
}

static void take_output(struct output *out, const char *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)data[i];
        if (c == '\n' || c == '\r') {
            end_line(out);
        } else if (out->length < sizeof(out->line) - 1) {
            out->line[out->length++] = (char)(c < 0x20 || c == 0x7f ? ' ' : c);
        }
    }
}

/* Until the last process has closed its end. */
static bool follow(struct output *out, int fd)
{
    char data[4096];
    for (;;) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        int count = poll(&ready, 1, POLL_MS);
        if (out->program->poll != NULL && out->program->poll(out->program->ctx) != 0) {
            return false;
        }
        if (count <= 0) {
            continue;
        }
        ssize_t got = read(fd, data, sizeof(data));
        if (got == 0 || (got < 0 && errno != EINTR)) {
            end_line(out);
            return true;
        }
        take_output(out, data, got > 0 ? (size_t)got : 0);
    }
}

static int finish(const struct boxed *program, pid_t pid, struct pipes *p, struct error *err)
{
    struct output out = {.program = program, .code = ECHILD};
    bool is_canceled = !follow(&out, p->output[0]);
    if (is_canceled) {
        (void)kill(pid, SIGKILL); /* ours, not waited for yet */
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    struct error why = {0};
    if (is_canceled) {
        return error_set(err, ECANCELED, "%s: interrupted", program->what);
    }
    if (read(p->error[0], &why, sizeof(why)) == sizeof(why)) {
        return error_set(err, why.code, "%s", why.text);
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        return 0;
    }
    return error_set(err, out.code, "%s failed%s: %s", program->what,
                     out.code == ENOSPC ? " for lack of space" : "",
                     out.reason[0] != '\0' ? out.reason : "it did not say why");
}

int boxed_run(const struct boxed *program, struct error *err)
{
    struct pipes p = {{-1, -1}, {-1, -1}, {-1, -1}};
    if (pipe2(p.output, O_CLOEXEC) < 0 || pipe2(p.error, O_CLOEXEC) < 0 ||
        pipe2(p.go, O_CLOEXEC) < 0) {
        int code = errno;
        close_pipes(&p);
        return error_set_errno(err, code, "starting %s", program->what);
    }
    pid_t pid = (pid_t)syscall(SYS_clone,
                               CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | SIGCHLD,
                               NULL, NULL, NULL, NULL);
    if (pid == 0) {
        child_main(program, &p);
    }
    int code = errno;
    close_fd(&p.output[1]);
    close_fd(&p.error[1]);
    if (pid < 0) {
        close_pipes(&p);
        return error_set_errno(err, code, "starting %s in namespaces of its own", program->what);
    }
    /* It cannot fail: we hold both ends. */
    ssize_t written = write(p.go[1], "", 1);
    (void)written;
    close_fd(&p.go[0]);
    int rc = finish(program, pid, &p, err);
    close_pipes(&p);
    return rc;
}
