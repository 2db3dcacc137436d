/* Runs a function in a child. */
#include "child.h"

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct degrade child_degrade;
struct error child_error;

void child_check_at(bool condition, const char *text, const char *file, int line)
{
    if (!condition) {
        (void)fprintf(stderr, "%s:%d: %s (%s; %s; %s)\n", file, line, text, strerror(errno),
                      child_error.text, child_degrade.text);
        _exit(1);
    }
}

void child_run(unsigned long namespaces, void (*check)(void))
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        child_check(unshare((int)namespaces) == 0);
        check();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}
