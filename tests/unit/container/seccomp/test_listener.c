/* Covers src/container/seccomp/listener.c and programs that notify: the agent's side is played by the test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <jansson.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/pass_fd.h"
#include "support.h"

#define STATE                                                                                      \
    "{\"ociVersion\":\"1.3.0\",\"id\":\"c1\",\"status\":\"creating\",\"pid\":42,\"bundle\":\"/b\"}"

/* All that comes until the other side closes, and the one descriptor of the first message. */
static int receive(int fd, char *text, size_t size)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } ancillary;
    struct iovec iov = {.iov_base = text, .iov_len = size - 1};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &ancillary,
                             .msg_controllen = sizeof(ancillary)};
    ssize_t length = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    assert_true(length > 0);
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    assert_non_null(part);
    assert_int_equal(part->cmsg_type, SCM_RIGHTS);
    assert_int_equal(part->cmsg_len, CMSG_LEN(sizeof(int)));
    int received;
    memcpy(&received, CMSG_DATA(part), sizeof(received));
    size_t done = (size_t)length;
    while ((length = read(fd, text + done, size - 1 - done)) > 0) {
        done += (size_t)length;
    }
    assert_int_equal(length, 0);
    text[done] = '\0';
    return received;
}

static void child_main(const struct seccomp_program *program, int socket)
{
    int listener = -1;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        seccomp_program_install(program, &listener, NULL) < 0 ||
        pass_fd_send(socket, "l", 1, &listener, 1, 0) != 1 || close(socket) < 0 ||
        close(listener) < 0) {
        _exit(255);
    }
    syscall(SYS_exit_group, try_mkdir(NULL));
}

static void agent_answers(void **state)
{
    struct seccomp_program *program =
        program_with("\"defaultAction\": \"SCMP_ACT_ALLOW\", \"listenerPath\": \"/s\", \"flags\": "
                     "[\"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV\", \"SECCOMP_FILTER_FLAG_TSYNC\"], "
                     "\"syscalls\": [{\"names\": [\"mkdir\"], \"action\": \"SCMP_ACT_NOTIFY\"}]",
                     NULL);
    assert_true(seccomp_program_notifies(program));
    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    pid_t child = fork();
    if (child == 0) {
        child_main(program, sockets[1]);
    }
    (void)close(sockets[1]);
    char text[16];
    int listener = receive(sockets[0], text, sizeof(text));
    struct seccomp_notif call = {0};
    assert_int_equal(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call), 0);
    assert_int_equal(call.data.nr, SYS_mkdir);
    assert_int_equal(call.pid, child);
    struct seccomp_notif_resp answer = {.id = call.id, .error = -EXDEV};
    assert_int_equal(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer), 0);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(WEXITSTATUS(status), EXDEV);
    (void)close(listener);
    (void)close(sockets[0]);
    seccomp_program_free(program);
}

static int listen_at(char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 1), 0);
    return fd;
}

static void state_is_sent(void **state)
{
    char folder[] = "/tmp/hull-test-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    (void)snprintf(path, sizeof(path), "%s/agent", folder);
    int server = listen_at(path), pipes[2];
    assert_int_equal(pipe(pipes), 0);
    struct spec_seccomp seccomp = {.listener_path = path, .listener_metadata = "a \"b\""};
    struct error err = {0};
    int agent = seccomp_connect_agent(&seccomp, &err);
    assert_true(agent >= 0);
    assert_int_equal(seccomp_send_listener(&seccomp, agent, pipes[1], 42, STATE, &err), 0);
    (void)close(agent);
    int connection = accept(server, NULL, NULL);
    char text[4096];
    int received = receive(connection, text, sizeof(text));
    assert_int_equal(write(received, "x", 1), 1);
    assert_int_equal(read(pipes[0], text + 4000, 1), 1);
    json_t *got = json_loads(text, 0, NULL);
    json_t *expected =
        json_pack("{s:s, s:[s], s:i, s:s, s:o}", "ociVersion", SPEC_VERSION, "fds", "seccompFd",
                  "pid", 42, "metadata", "a \"b\"", "state", json_loads(STATE, 0, NULL));
    assert_true(json_equal(got, expected));
    json_decref(got);
    json_decref(expected);
    (void)close(received);
    (void)close(connection);
    (void)close(server);
    (void)close(pipes[0]);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(seccomp_connect_agent(&seccomp, &err), -ENOENT);
    assert_non_null(strstr(err.text, "linux.seccomp.listenerPath: connecting to /tmp/hull-test-"));
    (void)close(pipes[1]);
    assert_int_equal(rmdir(folder), 0);
}

static void wrong_paths_are_refused(void **state)
{
    char path[200];
    struct error err = {0};
    struct spec_seccomp seccomp = {.listener_path = path};
    memset(path, 'x', sizeof(path) - 1);
    path[0] = '/';
    path[sizeof(path) - 1] = '\0';
    assert_int_equal(seccomp_connect_agent(&seccomp, &err), -ENAMETOOLONG);
    assert_int_equal(seccomp_send_listener(&seccomp, 0, 0, 42, "{", &err), -EINVAL);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(agent_answers),
        cmocka_unit_test(state_is_sent),
        cmocka_unit_test(wrong_paths_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
