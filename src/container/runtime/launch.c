/* From a process in its namespaces to the user's program. */
#include "container/runtime/launch.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "container/process/process.h"

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

/* HOME, where the configuration has none, is what the container's /etc/passwd says. */
static const char *home_of(uint32_t uid, char *space, size_t size)
{
    const char *home = "/";
    FILE *file = fopen("/etc/passwd", "re");
    for (struct passwd *entry; file != NULL && (entry = fgetpwent(file)) != NULL;) {
        if (entry->pw_uid == uid && entry->pw_dir[0] == '/' && strlen(entry->pw_dir) < size) {
            home = strcpy(space, entry->pw_dir); /* NOLINT: its length was looked at */
            break;
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return home;
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

int launch_prepare(struct launch *launch, struct degrade *degrade, struct error *err)
{
    int rc = process_set_environment(launch->spec, launch->no_new_keyring, launch->makes_cwd,
                                     degrade, err);
    return rc < 0 ? rc : process_find_program(&launch->spec->process, &launch->path, err);
}

static int install_filter(const struct launch *launch, struct error *err)
{
    int listener = -1;
    int rc = seccomp_program_install(launch->program, &listener, err);
    if (rc == 0 && listener >= 0) {
        rc = seccomp_send_listener(&launch->spec->linux_.seccomp, listener, getpid(), launch->state,
                                   err);
        close(listener);
    }
    return rc;
}

int launch_execute(struct launch *launch, struct degrade *degrade, struct error *err)
{
    const struct spec_process *process = &launch->spec->process;
    char home[4096 + 8] = "HOME=";
    const char **env = calloc(process->env.count + 2, sizeof(*env));
    if (env == NULL) {
        return error_set_errno(err, ENOMEM, "the program's environment");
    }
    memcpy(env, process->env.item, process->env.count * sizeof(*env));
    if (!has_variable(&process->env, "HOME")) {
        char space[4096];
        (void)snprintf(home, sizeof(home), "HOME=%s", home_of(process->uid, space, sizeof(space)));
        env[process->env.count] = home;
    }
    /* A filter needs CAP_SYS_ADMIN or no_new_privs: with the latter it comes last, so that it need not allow what sets the identity. */
    bool is_early = launch->program != NULL && !process->no_new_privileges;
    int rc = process_set_identity(process, is_early, degrade, err);
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
