/* Covers mount/beneath.c: nothing that an image can hold, or do meanwhile, leads out of it. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "container/mount/beneath.h"

struct place {
    char path[64];
    int fd;
};

static int set_up(void **state)
{
    static struct place place;
    strcpy(place.path, "/tmp/hull-beneath-XXXXXX");
    assert_non_null(mkdtemp(place.path));
    place.fd = open(place.path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    assert_true(place.fd >= 0);
    assert_int_equal(mkdirat(place.fd, "root", 0755), 0);
    int root = openat(place.fd, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
    close(place.fd);
    place.fd = root;
    *state = &place;
    return 0;
}

static int tear_down(void **state)
{
    struct place *place = *state;
    char command[128];
    close(place->fd);
    (void)snprintf(command, sizeof(command), "rm -rf %s", place->path);
    return system(command);
}

/* Where a descriptor is, without the directory of the test; NULL if it is elsewhere. */
static const char *where(const struct place *place, int fd)
{
    static char text[PATH_MAX];
    char link[64];
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, text, sizeof(text) - 1);
    assert_true(size > 0);
    text[size] = '\0';
    size_t start = strlen(place->path) + strlen("/root");
    close(fd);
    return strncmp(text, place->path, strlen(place->path)) == 0 && (size_t)size >= start
               ? text + start
               : NULL;
}

static void test_makes_what_is_missing(void **state)
{
    struct place *place = *state;
    struct stat st;
    assert_string_equal(where(place, beneath_make(place->fd, "/a/b/c", true)), "/a/b/c");
    assert_string_equal(where(place, beneath_make(place->fd, "//a//b/file", false)), "/a/b/file");
    assert_int_equal(fstatat(place->fd, "a/b/file", &st, 0), 0);
    assert_true(S_ISREG(st.st_mode));
    assert_string_equal(where(place, beneath_make(place->fd, "/a/../x/./y/", true)), "/x/y");
    assert_string_equal(where(place, beneath_make(place->fd, "/", true)), "");
    assert_int_equal(beneath_make(place->fd, "/a/b/file/below", true), -ENOTDIR);
    char too_long[PATH_MAX + 2];
    memset(too_long, 'a', sizeof(too_long) - 1);
    too_long[sizeof(too_long) - 1] = '\0';
    assert_int_equal(beneath_make(place->fd, too_long, true), -ENAMETOOLONG);
}

static void test_links_stay_below(void **state)
{
    struct place *place = *state;
    assert_int_equal(symlinkat("/etc", place->fd, "absolute"), 0);
    assert_int_equal(symlinkat("../../../../../../etc", place->fd, "up"), 0);
    assert_int_equal(symlinkat("absolute", place->fd, "chain"), 0);
    assert_int_equal(beneath_open(place->fd, "absolute", O_PATH, 0), -ENOENT);
    assert_string_equal(where(place, beneath_make(place->fd, "/up/passwd", false)), "/etc/passwd");
    assert_string_equal(where(place, beneath_make(place->fd, "/absolute/x/y", true)), "/etc/x/y");
    assert_string_equal(where(place, beneath_make(place->fd, "/chain", true)), "/etc");
    assert_string_equal(where(place, beneath_open(place->fd, "../../../..", O_PATH, 0)), "");
}

/* /var/run in a Debian image, before there is a /run. */
static void test_links_that_lead_nowhere(void **state)
{
    struct place *place = *state;
    assert_int_equal(mkdirat(place->fd, "var", 0755), 0);
    assert_int_equal(symlinkat("/run", place->fd, "var/run"), 0);
    assert_int_equal(symlinkat("../lib/x", place->fd, "var/lib"), 0);
    assert_int_equal(symlinkat("loop", place->fd, "loop"), 0);
    assert_string_equal(where(place, beneath_make(place->fd, "/var/run/secrets/a", true)),
                        "/run/secrets/a");
    assert_string_equal(where(place, beneath_make(place->fd, "/var/lib/file", false)),
                        "/lib/x/file");
    assert_int_equal(beneath_make(place->fd, "/loop/a", true), -ELOOP);
}

static void test_magic_links_lead_nowhere(void **state)
{
    struct place *place = *state;
    char path[64];
    int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    (void)snprintf(path, sizeof(path), "self/fd/%d/etc", place->fd);
    assert_int_equal(beneath_open(proc, path, O_PATH, 0), -ELOOP);
    assert_int_equal(beneath_open(proc, "self/root/etc", O_PATH, 0), -ELOOP);
    assert_int_equal(beneath_make(proc, "self/cwd/hull-must-not-be-made", true), -ELOOP);
    close(proc);
}

static void test_parents(void **state)
{
    struct place *place = *state;
    const char *name = NULL;
    assert_string_equal(where(place, beneath_make_parent(place->fd, "/dev/net/tun", &name)),
                        "/dev/net");
    assert_string_equal(name, "tun");
    assert_string_equal(where(place, beneath_make_parent(place->fd, "top", &name)), "");
    assert_int_equal(beneath_make_parent(place->fd, "/dev/..", &name), -EINVAL);
    assert_int_equal(beneath_make_parent(place->fd, "/dev/", &name), -EINVAL);
}

/* CVE-2021-30465: a directory on the way becomes a link out and back again while mount points are made below it. */
static void test_exchanged_links(void **state)
{
    struct place *place = *state;
    char outside[96];
    (void)snprintf(outside, sizeof(outside), "%s/outside", place->path);
    assert_int_equal(mkdir(outside, 0755), 0);
    assert_int_equal(mkdirat(place->fd, "volume", 0755), 0);
    assert_int_equal(symlinkat("../outside", place->fd, "link"), 0);
    pid_t parent = getpid(), pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        while (getppid() == parent) {
            (void)renameat2(place->fd, "volume", place->fd, "link", RENAME_EXCHANGE);
        }
        _exit(0);
    }
    bool is_always_below = true;
    for (int i = 0; i < 2000; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "volume/%d/x", i % 50);
        int fd = beneath_make(place->fd, name, true);
        is_always_below = is_always_below && (fd < 0 || where(place, fd) != NULL);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_true(is_always_below);
    assert_int_equal(rmdir(outside), 0); /* nothing was made there */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_makes_what_is_missing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_links_stay_below, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_links_that_lead_nowhere, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_magic_links_lead_nowhere, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_parents, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_exchanged_links, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
