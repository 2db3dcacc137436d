/* What helper programs hear of descriptors, and say to who started them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/host/helper.h"

static void numbers_of_descriptors(void **state)
{
    static const char *const wrong[] = {
        "", "2", "0", "-1", "3x", "x3", "99999999999999999999", "2147483648", "3 "};
    struct error err;
    int fd = -1;
    assert_int_equal(helper_parse_fd("fd", "3", &fd, &err), 0);
    assert_int_equal(fd, 3);
    assert_int_equal(helper_parse_fd("fd", "2147483647", &fd, &err), 0);
    assert_int_equal(fd, 2147483647);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        fd = 7;
        assert_int_equal(helper_parse_fd("ready-fd", wrong[i], &fd, &err), -EINVAL);
        assert_int_equal(fd, 7);
        assert_non_null(strstr(err.text, "--ready-fd"));
    }
}

static void only_stream_sockets(void **state)
{
    int stream[2], packets[2], pipe_fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, stream), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets), 0);
    assert_int_equal(pipe(pipe_fds), 0);
    assert_int_equal(helper_check_socket(stream[0], NULL), 0);
    assert_int_equal(helper_check_socket(packets[0], NULL), -EINVAL);
    assert_int_equal(helper_check_socket(pipe_fds[0], NULL), -EINVAL);
    for (int i = 0; i < 2; i++) {
        close(stream[i]);
        close(packets[i]);
        close(pipe_fds[i]);
    }
    assert_int_equal(helper_check_socket(stream[0], NULL), -EINVAL);
}

static void assert_said(int fd, const char *expected)
{
    char text[512];
    ssize_t size = read(fd, text, sizeof(text) - 1);
    assert_true(size >= 0);
    text[size] = '\0';
    assert_string_equal(text, expected);
}

static void one_line_is_said(void **state)
{
    int pipe_fds[2];
    struct error err;
    error_ignore(error_set(&err, EIO, "the folder is gone"));
    assert_int_equal(pipe(pipe_fds), 0);
    assert_int_equal(helper_fail(pipe_fds[1], &err), 1);
    assert_said(pipe_fds[0], "hull: the folder is gone\n");
    helper_say_ready(-1);
    helper_say_ready(pipe_fds[1]);
    assert_said(pipe_fds[0], "ready\n");
    assert_said(pipe_fds[0], ""); /* it is closed */
    close(pipe_fds[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_of_descriptors),
        cmocka_unit_test(only_stream_sockets),
        cmocka_unit_test(one_line_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
