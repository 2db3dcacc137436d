#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "base/host/file.h"
#include "base/host/unix_socket.h"

static char folder[] = "/tmp/hull-test-socket-XXXXXX";
static char path[64];

static void only_its_owner_may_connect(void **state)
{
    struct error err;
    int fd;
    int client;
    assert_int_equal(unix_socket_listen(path, "control socket", &fd, &err), 0);
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    assert_int_equal(unix_socket_connect(path, "control socket", &client, &err), 0);
    close(client);
    close(fd);
}

static void what_a_dead_program_left_is_replaced(void **state)
{
    struct error err;
    int fd;
    /* The path of the test before is still there, and nobody listens. */
    assert_int_equal(unix_socket_listen(path, "control socket", &fd, &err), 0);
    int second = -1;
    assert_int_equal(unix_socket_listen(path, "control socket", &second, &err), -EADDRINUSE);
    char expected[200];
    (void)snprintf(expected, sizeof(expected),
                   "control socket %s: in use by a running program: a path that is free", path);
    assert_string_equal(err.text, expected);
    close(fd);
}

static void other_files_are_left_alone(void **state)
{
    struct error err;
    int fd = -1;
    (void)unlink(path);
    close(open(path, O_CREAT | O_CLOEXEC | O_WRONLY, 0600));
    assert_int_equal(unix_socket_listen(path, "control socket", &fd, &err), -EEXIST);
    assert_int_equal(access(path, F_OK), 0);
    char long_path[200];
    memset(long_path, 'x', sizeof(long_path) - 1);
    long_path[sizeof(long_path) - 1] = '\0';
    assert_int_equal(unix_socket_listen(long_path, "control socket", &fd, &err), -ENAMETOOLONG);
}

static int make_folder(void **state)
{
    if (mkdtemp(folder) == NULL) {
        return -1;
    }
    (void)snprintf(path, sizeof(path), "%s/socket", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)unlink(path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_its_owner_may_connect),
        cmocka_unit_test(what_a_dead_program_left_is_replaced),
        cmocka_unit_test(other_files_are_left_alone),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
