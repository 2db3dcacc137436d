#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

struct spec *spec_with(const char *members)
{
    char *text;
    int length = asprintf(&text,
                          "{\"ociVersion\": \"1.3.0\", \"root\": {\"path\": \"r\"}, \"linux\": "
                          "{\"seccomp\": {%s}}}",
                          members);
    assert_true(length > 0);
    struct spec *spec = NULL;
    struct error err = {0};
    if (spec_parse(text, (size_t)length, &spec, &err) < 0) {
        fail_msg("%s", err.text);
    }
    free(text);
    return spec;
}

struct seccomp_program *program_with(const char *members, const char *cache)
{
    struct spec *spec = spec_with(members);
    struct seccomp_program *program = NULL;
    struct degrade degrade = {0};
    struct error err = {0};
    if (seccomp_program_create(&spec->linux_.seccomp, cache, &program, &degrade, &err) < 0) {
        fail_msg("%s", err.text);
    }
    assert_string_equal(degrade.text, "");
    spec_destroy(spec);
    return program;
}

int status_of(const struct seccomp_program *program, int (*run)(void *argument), void *argument)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int listener;
        (void)signal(SIGSYS, SIG_DFL); /* cmocka has a handler for it */
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
            seccomp_program_install(program, &listener, NULL) < 0) {
            _exit(255);
        }
        syscall(SYS_exit_group, run(argument));
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

int try_mkdir(void *unused)
{
    return syscall(SYS_mkdir, "/", 0700) < 0 ? errno : 0;
}
