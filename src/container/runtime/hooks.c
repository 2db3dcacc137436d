/* Running hooks. */
#include "container/runtime/hooks.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/file.h"

#define STATUS_NO_EXEC 127

noreturn_fn static void execute(const struct spec_hook *hook, int input)
{
    sigset_t none;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    if (dup2(input, STDIN_FILENO) < 0) {
        _exit(STATUS_NO_EXEC);
    }
    (void)syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC);
    const char *path_only[] = {hook->path, NULL};
    const char **args = hook->args.count != 0 ? hook->args.item : path_only;
    execve(hook->path, (char *const *)(uintptr_t)args, (char *const *)(uintptr_t)hook->env.item);
    dprintf(STDERR_FILENO, "%s: %s\n", hook->path, strerror(errno));
    _exit(STATUS_NO_EXEC);
}

/* -ETIMEDOUT where the time was over: it is killed then. */
static int wait_for(pid_t pid, const struct spec_hook *hook, int *out_status)
{
    int rc = 0;
    if (hook->timeout.has) {
        AUTO_CLOSE int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        struct pollfd ended = {.fd = pidfd, .events = POLLIN};
        int64_t milliseconds =
            hook->timeout.value > INT32_MAX / 1000 ? INT32_MAX : hook->timeout.value * 1000;
        int ready;
        do {
            ready = poll(&ended, 1, (int)milliseconds);
        } while (ready < 0 && errno == EINTR);
        if (ready == 0) {
            kill(pid, SIGKILL);
            rc = -ETIMEDOUT;
        }
    }
    while (waitpid(pid, out_status, 0) < 0) {
        if (errno != EINTR) {
            return -errno;
        }
    }
    return rc;
}

static int run_one(const struct spec_hook *hook, int input, struct error *err)
{
    pid_t pid = fork();
    if (pid == 0) {
        execute(hook, input);
    }
    if (pid < 0) {
        return error_set_errno(err, errno, "starting %s", hook->path);
    }
    int status = 0;
    int rc = wait_for(pid, hook, &status);
    if (rc == -ETIMEDOUT) {
        return error_set(err, ETIMEDOUT, "%s took longer than %lld s", hook->path,
                         (long long)hook->timeout.value);
    }
    if (rc < 0) {
        return error_set_errno(err, -rc, "waiting for %s", hook->path);
    }
    if (WIFSIGNALED(status)) {
        return error_set(err, EIO, "%s ended by signal %d", hook->path, WTERMSIG(status));
    }
    return WEXITSTATUS(status) == 0
               ? 0
               : error_set(err, EIO, "%s ended with status %d", hook->path, WEXITSTATUS(status));
}

int hooks_run(const struct spec_hooks_at *hooks, const char *field, const struct state *state,
              enum container_status status, struct error *err)
{
    if (hooks->count == 0) {
        return 0;
    }
    json_t *document = state_document(state, status);
    AUTO_FREE char *text = json_dumps(document, JSON_COMPACT);
    json_decref(document);
    if (text == NULL) {
        return error_set_errno(err, ENOMEM, "%s", field);
    }
    AUTO_CLOSE int input = memfd_create("state", MFD_CLOEXEC);
    int rc = input < 0 ? error_set_errno(err, errno, "keeping the state for hooks")
                       : file_write_all(input, text, strlen(text), "the state for hooks", err);
    for (size_t i = 0; i < hooks->count && rc == 0; i++) {
        (void)lseek(input, 0, SEEK_SET);
        rc = run_one(&hooks->item[i], input, err);
        if (rc < 0) {
            (void)error_prefix(err, rc, "%s[%zu]", field, i);
        }
    }
    return rc;
}
