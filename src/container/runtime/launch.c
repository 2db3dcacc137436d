/* From a process in its namespaces to the user's program. */
#include "container/runtime/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/process/process.h"
#include "container/runtime/passwd.h"
#include "container/runtime/terminal.h"

#include <linux/close_range.h>

void launch_reset_signals(void)
{
    const struct sigaction plain = {.sa_handler = SIG_DFL};
    for (int i = 1; i < _NSIG; i++) {
        (void)sigaction(i, &plain, NULL); /* SIGKILL, SIGSTOP and the C library's own refuse */
    }
    sigset_t none;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

int launch_become_root(const struct spec *spec, struct error *err)
{
    if (spec_find_namespace(spec, CLONE_NEWUSER) == NULL) {
        return 0;
    }
    /* Where setgroups is denied, groups of the caller stay; it says so with EPERM. */
    if (setgroups(0, NULL) < 0 && errno != EPERM) {
        return error_set_errno(err, errno, "leaving the caller's groups");
    }
    if (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0) {
        return error_set_errno(
            err, errno,
            "linux.uidMappings: becoming root of the user namespace, which needs mappings of 0");
    }
    return 0;
}

static bool has_variable(const struct spec_strings *env, const char *name)
{
    size_t length = strlen(name);
    for (size_t i = 0; i < env->count; i++) {
        if (strncmp(env->item[i], name, length) == 0 && env->item[i][length] == '=') {
            return true;
        }
    }
    return false;
}

int launch_make_filter(const char *root, const struct spec_seccomp *seccomp,
                       struct seccomp_program **out_program, int *out_agent,
                       struct degrade *degrade, struct error *err)
{
    *out_program = NULL;
    *out_agent = -1;
    if (!seccomp->is_set) {
        return 0;
    }
    char cache[PATH_MAX];
    (void)snprintf(cache, sizeof(cache), "%s/.seccomp", root);
    int rc = seccomp_program_create(seccomp, cache, out_program, degrade, err);
    if (rc == 0 && seccomp_program_notifies(*out_program)) {
        int agent = seccomp_connect_agent(seccomp, err);
        rc = agent < 0 ? agent : 0;
        *out_agent = agent < 0 ? -1 : agent;
    }
    return rc;
}

int launch_open_terminal(const struct spec_process *process, struct rootfs *rootfs,
                         int console_socket, int *out_master, struct error *err)
{
    *out_master = -1;
    if (!process->has_terminal) {
        return 0;
    }
    AUTO_CLOSE int master = -1;
    char name[64];
    int rc = rootfs_open_terminal(rootfs, process->uid, rootfs != NULL, &master, name, sizeof(name),
                                  err);
    if (rc == 0 && process->console_rows != 0 && process->console_columns != 0) {
        rc = terminal_set_size(master, process->console_rows, process->console_columns, err);
    }
    if (rc == 0 && console_socket >= 0) {
        rc = terminal_send(console_socket, master, name, err);
    }
    if (rc < 0) {
        return rc;
    }
    int slave = ioctl(master, TIOCGPTPEER,
                      O_RDWR | O_NOCTTY |
                          O_CLOEXEC); /* without a path, which the container could replace */
    if (slave < 0) {
        return error_set_errno(err, errno, "opening the terminal");
    }
    rc = terminal_take(slave, err);
    if (rc == 0 && console_socket < 0) {
        *out_master = TAKE_FD(master);
    }
    return rc;
}

static bool is_among(int fd, const int *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (list[i] == fd) {
            return true;
        }
    }
    return false;
}

void launch_close_descriptors(unsigned preserve_fds, const int *kept, size_t count)
{
    int end = 3 + (int)preserve_fds;
    for (size_t i = 0; i < count; i++) {
        end = MAX(end, kept[i] + 1);
    }
    for (int fd = 3; fd < end; fd++) {
        /* Of the caller's are those that an exec leaves open; where he has fewer than he says, the runtime's own are in their
         * place. */
        bool is_callers = fd < 3 + (int)preserve_fds && (fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0;
        if (!is_callers && !is_among(fd, kept, count)) {
            (void)close(fd);
        }
    }
    (void)syscall(SYS_close_range, end, ~0u, 0);
}

int launch_prepare(struct launch *launch, struct degrade *degrade, struct error *err)
{
    int rc = process_set_environment(launch->spec, launch->no_new_keyring, launch->makes_cwd,
                                     degrade, err);
    return rc < 0 ? rc : process_find_program(&launch->spec->process, &launch->path, err);
}

static int install_filter(const struct launch *launch, struct error *err)
{
    AUTO_FREE char *state = NULL;
    if (seccomp_program_notifies(
            launch
                ->program)) { /* behind the filter every call may be one that waits for the agent */
        json_t *document = state_document(launch->state, launch->status);
        state = json_dumps(document, JSON_COMPACT);
        json_decref(document);
        if (state == NULL) {
            return error_set_errno(err, ENOMEM, "linux.seccomp.listenerPath");
        }
    }
    int listener = -1;
    int rc = seccomp_program_install(launch->program, &listener, err);
    if (rc == 0 && listener >= 0) {
        rc = seccomp_send_listener(&launch->spec->linux_.seccomp, launch->agent, listener, getpid(),
                                   state, err);
        close(listener);
    }
    return rc;
}

/* A program may open /dev/stdout again, which asks who owns the pipe. Files and devices stay whose they are: they are the
 * host's. */
static int give_pipes(uint32_t uid, struct error *err)
{
    for (int fd = 0; fd <= 2; fd++) {
        struct stat info;
        if (fstat(fd, &info) == 0 && (S_ISFIFO(info.st_mode) || S_ISSOCK(info.st_mode)) &&
            info.st_uid != uid && fchown(fd, uid, (gid_t)-1) < 0 && errno != EPERM &&
            errno != EINVAL && errno != EROFS) {
            return error_set_errno(err, errno, "giving descriptor %d to user %u", fd, uid);
        }
    }
    return 0;
}

int launch_execute(struct launch *launch, struct degrade *degrade, struct error *err)
{
    const struct spec_process *process = &launch->spec->process;
    char home[4096 + 8];
    const char **env = calloc(process->env.count + 2, sizeof(*env));
    if (env == NULL) {
        return error_set_errno(err, ENOMEM, "the program's environment");
    }
    memcpy(env, process->env.item, process->env.count * sizeof(*env));
    if (!has_variable(&process->env, "HOME")) {
        /* Where the configuration has none, it is what the container's /etc/passwd says. */
        const struct passwd *user = passwd_find(process->uid);
        (void)snprintf(home, sizeof(home), "HOME=%s", user != NULL ? user->pw_dir : "/");
        env[process->env.count] = home;
    }
    /* A filter needs CAP_SYS_ADMIN or no_new_privs: with the latter it comes last, so that it need not allow what sets the
     * identity. */
    bool is_early = launch->program != NULL && !process->no_new_privileges;
    int rc = give_pipes(process->uid, err);
    rc = rc < 0 ? rc : process_set_identity(process, is_early, degrade, err);
    if (rc == 0 && is_early && (rc = install_filter(launch, err)) == 0) {
        rc = process_drop_rest(process, err);
    } else if (rc == 0 && launch->program != NULL) {
        rc = install_filter(launch, err);
    }
    if (rc == 0) {
        (void)syscall(SYS_close_range, 3 + launch->preserve_fds, ~0u, CLOSE_RANGE_CLOEXEC);
        execve(launch->path, (char *const *)(uintptr_t)process->args.item,
               (char *const *)(uintptr_t)env);
        rc = error_set_errno(err, errno, "executing %s", launch->path);
    }
    free(env);
    return rc;
}
