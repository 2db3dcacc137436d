/* Covers base/host/unix_socket.c and pid_file.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/host/file.h"
#include "base/host/pid_file.h"
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

/* Answers one message that came with a descriptor, into which it writes. */
static void *answer_one(void *listening)
{
    const int *listen_fd = listening;
    int fd = accept(*listen_fd, NULL, NULL);
    char text[64] = "";
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } ancillary;
    struct iovec iov = {.iov_base = text, .iov_len = sizeof(text) - 1};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &ancillary,
                             .msg_controllen = sizeof(ancillary)};
    int passed = -1;
    if (recvmsg(fd, &message, 0) > 0 && CMSG_FIRSTHDR(&message) != NULL) {
        memcpy(&passed, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(passed));
        (void)!write(passed, text, strlen(text));
        close(passed);
    }
    if (strcmp(text, "silence") != 0) {
        char large[5000];
        memset(large, 'y', sizeof(large));
        (void)!write(fd, large, sizeof(large));
    }
    close(fd);
    return NULL;
}

static void messages_are_answered(void **state)
{
    static const struct {
        const char *text;
        int rc;
    } cases[] = {{"hello", 0}, {"silence", -EPROTO}};
    struct error err;
    int fd = -1;
    (void)unlink(path);
    assert_int_equal(unix_socket_listen_packets(path, "switch", &fd, &err), 0);
    for (size_t i = 0; i < 2; i++) {
        pthread_t thread;
        int ends[2];
        char got[16] = "", *answer = NULL;
        assert_int_equal(pipe(ends), 0);
        assert_int_equal(pthread_create(&thread, NULL, answer_one, &fd), 0);
        assert_int_equal(
            unix_socket_ask(path, "switch", cases[i].text, ends[1], 20000, &answer, &err),
            cases[i].rc);
        pthread_join(thread, NULL);
        assert_int_equal(read(ends[0], got, sizeof(got)), strlen(cases[i].text));
        assert_string_equal(got, cases[i].text);
        assert_int_equal(answer != NULL ? strlen(answer) : 0, cases[i].rc == 0 ? 5000 : 0);
        free(answer);
        close(ends[0]);
        close(ends[1]);
    }
    char *answer;
    /* Nobody answers, nobody is there. */
    assert_int_equal(unix_socket_ask(path, "switch", "x", -1, 10, &answer, &err), -ETIMEDOUT);
    close(fd);
    assert_int_equal(unix_socket_ask(path, "switch", "x", -1, 10, &answer, &err), -ECONNREFUSED);
}

static void a_pid_file_is_locked(void **state)
{
    struct error err;
    char file[80];
    int fd = -1, second = -1;
    (void)snprintf(file, sizeof(file), "%s/pid", folder);
    assert_int_equal(pid_file_find(file), 0);
    assert_int_equal(pid_file_open(file, "the switch", &fd, &err), 0);
    assert_int_equal(pid_file_find(file), getpid());
    assert_int_equal(pid_file_open(file, "the switch", &second, &err), -EBUSY);
    assert_non_null(strstr(err.text, "the switch runs already"));
    close(fd);
    /* The number is there, and nobody's. */
    assert_int_equal(pid_file_find(file), 0);
    assert_int_equal(pid_file_open(file, "the switch", &fd, &err), 0);
    assert_int_equal(pwrite(fd, "12\nx", 4, 0), 4);
    assert_int_equal(pid_file_find(file), 12);
    assert_int_equal(pwrite(fd, "-1x\n", 4, 0), 4);
    assert_int_equal(pid_file_find(file), 0);
    close(fd);
    (void)unlink(file);
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
        cmocka_unit_test(messages_are_answered),
        cmocka_unit_test(a_pid_file_is_locked),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
