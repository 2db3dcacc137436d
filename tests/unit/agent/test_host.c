/* The host's end against what guests may send: a process plays the VM's vsock folder. */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/serve.h"
#include "base/host/file.h"
#include "base/host/unix_socket.h"
#include "manager/instance/vm/agent.h"
#include "manager/instance/vm/agent_text.h"
#include "session/frames.h"

#define TIMEOUT_MS 30000

static char folder[64], socket_path[96];

/* Plays a guest on a connection on which the request has come. */
typedef void (*guest_fn)(int fd);

static void put(int fd, const void *data, size_t size)
{
    (void)!send(fd, data, size, MSG_NOSIGNAL);
}

static void put_frame(int fd, uint8_t kind, const char *text)
{
    error_ignore(session_stream_send(fd, (enum session_frame)kind, text, strlen(text), NULL));
}

static void read_request(int fd)
{
    char byte = 0;
    while (byte != '\n' && read(fd, &byte, 1) == 1) {
        continue;
    }
    static uint8_t data[SESSION_MAX_PAYLOAD];
    enum session_frame type;
    size_t size;
    put(fd, "OK 1\n", 5);
    error_ignore(session_stream_receive(fd, &type, data, &size, NULL));
}

static pid_t play(guest_fn guest, bool is_answered)
{
    int listener;
    struct error err = {0};
    assert_int_equal(unix_socket_listen(socket_path, "test", &listener, &err), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)alarm(60);
        int fd = accept(listener, NULL, NULL);
        if (is_answered) {
            read_request(fd);
        }
        guest(fd);
        _exit(0);
    }
    close(listener);
    return pid;
}

static void end_play(pid_t pid)
{
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    (void)unlink(socket_path);
}

static int call(guest_fn guest, bool is_answered, int timeout_ms, struct error *err)
{
    pid_t pid = play(guest, is_answered);
    json_t *request = json_pack("{s:s}", "do", "info"), *answer = NULL;
    int rc = agent_call(folder, request, timeout_ms, &answer, err);
    assert_true((rc == 0) == (answer != NULL));
    json_decref(request);
    json_decref(answer);
    end_play(pid);
    return rc;
}

static void nothing(int fd)
{
}

static void silence(int fd)
{
    (void)pause();
}

static void trickle(int fd)
{
    put(fd, "\x00\x10\0\0", 4);
    for (;;) {
        put(fd, "\1", 1);
        (void)poll(NULL, 0, 20);
    }
}

static void long_line(int fd)
{
    for (;;) {
        put(fd, "OK OK OK OK OK OK OK ", 20);
    }
}

static void huge_frame(int fd)
{
    put(fd, "\xff\xff\xff\xff\3", 5);
    (void)pause();
}

static void empty_frame(int fd)
{
    put(fd, "\0\0\0\0\3", 5);
    (void)pause();
}

static void half_frame(int fd)
{
    put(fd, "\x20\0\0\0\3{", 6);
}

static void wrong_kind(int fd)
{
    put_frame(fd, SESSION_STDOUT, "{\"ok\":{}}");
    (void)pause();
}

static void deep(int fd)
{
    char text[40001];
    memset(text, '[', sizeof(text) - 1);
    text[40000] = '\0';
    put_frame(fd, SESSION_CONTROL, text);
    (void)pause();
}

static void no_object(int fd)
{
    put_frame(fd, SESSION_CONTROL, "{\"ok\":[]}");
    (void)pause();
}

static void refusal(int fd)
{
    put_frame(fd, SESSION_CONTROL,
              "{\"error\":{\"code\":\"not-found\",\"message\":\"none \\u001b[2J\"}}");
}

static void fine(int fd)
{
    put_frame(fd, SESSION_CONTROL, "{\"ok\":{\"hostname\":\"x\"}}");
}

static void calls_have_limits(void **state)
{
    static const struct {
        guest_fn guest;
        bool is_answered;
        int timeout_ms, expected;
    } cases[] = {
        {fine, true, TIMEOUT_MS, 0},
        {nothing, false, TIMEOUT_MS, -ECONNREFUSED},
        {silence, false, 100, -ETIMEDOUT},
        {silence, true, 100, -ETIMEDOUT},
        {trickle, true, 300, -ETIMEDOUT},
        {long_line, false, TIMEOUT_MS, -EPROTO},
        {nothing, true, TIMEOUT_MS, -EPROTO},
        {huge_frame, true, TIMEOUT_MS, -EPROTO},
        {empty_frame, true, TIMEOUT_MS, -EPROTO},
        {half_frame, true, TIMEOUT_MS, -EPROTO},
        {wrong_kind, true, TIMEOUT_MS, -EPROTO},
        {deep, true, TIMEOUT_MS, -EPROTO},
        {no_object, true, TIMEOUT_MS, -EPROTO},
        {refusal, true, TIMEOUT_MS, -ENOENT},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct error err = {0};
        int rc = call(cases[i].guest, cases[i].is_answered, cases[i].timeout_ms, &err);
        assert_int_equal(rc, cases[i].expected);
        assert_null(strchr(err.text, '\033'));
    }
}

static void no_folder(void **state)
{
    struct error err = {0};
    json_t *request = json_object(), *answer = NULL;
    assert_int_equal(agent_call("/no/such/folder", request, 100, &answer, &err), -ENOENT);
    json_decref(request);
}

/* A session with a guest. Returns what agent_session does; the frames that came lie in 'client'. */
static int run_session(guest_fn guest, int client, int relay, struct error *err)
{
    pid_t pid = play(guest, true);
    json_t *request = json_pack("{s:s}", "do", "exec");
    int rc = agent_session(folder, request, relay, TIMEOUT_MS, err);
    json_decref(request);
    end_play(pid);
    return rc;
}

static void expect(int client, enum session_frame type, const char *text)
{
    static uint8_t data[SESSION_MAX_PAYLOAD + 1];
    enum session_frame got;
    size_t size;
    struct error err = {0};
    assert_int_equal(session_receive(client, &got, data, &size, &err), 0);
    data[size] = '\0';
    assert_int_equal(got, type);
    assert_string_equal((char *)data, text);
}

static void whole_session(int fd)
{
    put_frame(fd, SESSION_CONTROL, "{\"started\":true,\"more\":\"\\u001b\"}");
    put_frame(fd, SESSION_STDOUT, "out");
    put_frame(fd, SESSION_STDERR, "err");
    put_frame(fd, SESSION_STDOUT, "");
    put_frame(fd, SESSION_CONTROL, "{\"exit\":3}");
    (void)pause();
}

static void session_with_error(int fd)
{
    put_frame(fd, SESSION_CONTROL,
              "{\"error\":{\"code\":\"odd\\n\",\"message\":\"a\\u0007b \\u009b\"}}");
    (void)pause();
}

static void sessions_are_relayed(void **state)
{
    int ends[2];
    struct error err = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    assert_int_equal(run_session(whole_session, ends[0], ends[1], &err), 0);
    expect(ends[0], SESSION_CONTROL, "{\"started\":true}");
    expect(ends[0], SESSION_STDOUT, "out");
    expect(ends[0], SESSION_STDERR, "err");
    expect(ends[0], SESSION_STDOUT, "");
    expect(ends[0], SESSION_CONTROL, "{\"exit\":3}");
    assert_int_equal(run_session(session_with_error, ends[0], ends[1], &err), 0);
    expect(ends[0], SESSION_CONTROL,
           "{\"error\":{\"code\":\"failed\",\"message\":\"guest agent: a?b ??\"}}");
    close(ends[0]);
    close(ends[1]);
}

static void bad_kind(int fd)
{
    put_frame(fd, SESSION_CONTROL, "{\"started\":true}");
    put_frame(fd, SESSION_STDIN, "x");
    (void)pause();
}

static void bad_status(int fd)
{
    put_frame(fd, SESSION_CONTROL, "{\"exit\":256}");
    (void)pause();
}

static void bad_control(int fd)
{
    put_frame(fd, SESSION_CONTROL, "{\"resize\":[1,2]}");
    (void)pause();
}

static void bad_size(int fd)
{
    put_frame(fd, SESSION_CONTROL, "{\"started\":true}");
    put(fd, "\x02\x00\x01\x00\1", 5);
    (void)pause();
}

static void early_end(int fd)
{
    put_frame(fd, SESSION_CONTROL, "{\"started\":true}");
    put(fd, "\x20\0\0\0\1", 5);
}

static void sessions_have_limits(void **state)
{
    static const guest_fn guests[] = {bad_kind,  bad_status, bad_control, bad_size,
                                      early_end, huge_frame, deep,        nothing};
    for (size_t i = 0; i < ARRAY_COUNT(guests); i++) {
        int ends[2];
        struct error err = {0};
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
        assert_int_equal(run_session(guests[i], ends[0], ends[1], &err), -EPROTO);
        close(ends[0]);
        close(ends[1]);
    }
}

/* Sends back what comes, and ends at a frame of one byte. */
static void echo(int fd)
{
    static uint8_t data[SESSION_MAX_PAYLOAD];
    enum session_frame type;
    size_t size = 0;
    put_frame(fd, SESSION_CONTROL, "{\"started\":true}");
    while (size != 1 && session_stream_receive(fd, &type, data, &size, NULL) == 0) {
        error_ignore(session_stream_send(fd, SESSION_STDOUT, data, size, NULL));
    }
    put_frame(fd, SESSION_CONTROL, "{\"signalled\":9}");
    (void)pause();
}

#define FRAMES 300

/* The client of a session: sends all before it reads anything that does not fit the buffers. */
static void play_client(int fd)
{
    static uint8_t data[SESSION_MAX_PAYLOAD], back[SESSION_MAX_PAYLOAD];
    size_t sent = 0, got = 0, size;
    enum session_frame type;
    if (session_receive(fd, &type, back, &size, NULL) < 0 || type != SESSION_CONTROL) {
        _exit(1);
    }
    while (got <= FRAMES) {
        struct pollfd wait = {.fd = fd, .events = (short)(POLLIN | (sent <= FRAMES ? POLLOUT : 0))};
        (void)poll(&wait, 1, -1);
        if ((wait.revents & POLLOUT) != 0) {
            memset(data, (int)(sent & 0xff), sizeof(data));
            if (session_send(fd, SESSION_STDIN, data, sent < FRAMES ? sizeof(data) : 1, NULL) < 0) {
                _exit(2);
            }
            sent++;
        } else if ((wait.revents & POLLIN) != 0) {
            memset(data, (int)(got & 0xff), sizeof(data));
            if (session_receive(fd, &type, back, &size, NULL) < 0 || type != SESSION_STDOUT ||
                size != (got < FRAMES ? sizeof(data) : 1) || memcmp(data, back, size) != 0) {
                _exit(3);
            }
            got++;
        }
    }
    bool is_end = session_receive(fd, &type, back, &size, NULL) == 0 && type == SESSION_CONTROL;
    _exit(is_end ? 0 : 4);
}

static void much_data_both_ways(void **state)
{
    int ends[2], status;
    struct error err = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    pid_t client = fork();
    assert_true(client >= 0);
    if (client == 0) {
        (void)alarm(60);
        close(ends[1]);
        play_client(ends[0]);
    }
    assert_int_equal(run_session(echo, ends[0], ends[1], &err), 0);
    assert_int_equal(waitpid(client, &status, 0), client);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    close(ends[0]);
    close(ends[1]);
}

static void client_that_goes_away(void **state)
{
    int ends[2];
    struct error err = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    assert_int_equal(session_send(ends[0], SESSION_STDIN, "x", 1, &err), 0);
    close(ends[0]);
    assert_int_equal(run_session(echo, -1, ends[1], &err), 0);
    close(ends[1]);
}

/* hull-agent itself. */
static void true_agent(int fd)
{
    char byte = 0;
    while (byte != '\n' && read(fd, &byte, 1) == 1) {
        continue;
    }
    put(fd, "OK 1\n", 5);
    _exit(serve_connection(fd, false, NULL));
}

static int call_agent(const char *what, json_t **out_answer)
{
    struct error err = {0};
    pid_t pid = play(true_agent, false);
    json_t *request = json_pack("{s:s}", "do", what);
    int rc = agent_call(folder, request, TIMEOUT_MS, out_answer, &err);
    json_decref(request);
    end_play(pid);
    return rc;
}

static void calls_of_the_agent(void **state)
{
    json_t *answer = NULL;
    assert_int_equal(call_agent("info", &answer), 0);
    assert_string_equal(json_string_value(json_object_get(answer, "version")), HULL_VERSION);
    assert_true(json_is_array(json_object_get(answer, "addresses")));
    json_decref(answer);
    assert_int_equal(call_agent("grow", &answer), -EACCES);
    assert_int_equal(call_agent("dance", &answer), -EINVAL);
}

static void check_session(const char *program, const char *input, const char *const *output)
{
    int ends[2];
    struct error err = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    assert_int_equal(session_send(ends[0], SESSION_STDIN, input, strlen(input), &err), 0);
    assert_int_equal(session_send_control(ends[0], json_pack("{s:b}", "eof", 1), &err), 0);
    pid_t pid = play(true_agent, false);
    json_t *request = json_pack("{s:s,s:[s,s],s:o}", "do", "exec", "command", program, "-", "user",
                                json_sprintf("%u", getuid()));
    assert_int_equal(agent_session(folder, request, ends[1], TIMEOUT_MS, &err), 0);
    json_decref(request);
    end_play(pid);
    for (size_t i = 0; output[i] != NULL; i++) {
        expect(ends[0], output[i][0] == '{' ? SESSION_CONTROL : SESSION_STDOUT, output[i]);
    }
    close(ends[0]);
    close(ends[1]);
}

static void sessions_of_the_agent(void **state)
{
    static const char *const fine[] = {"{\"started\":true}", "words", "{\"exit\":0}", NULL};
    static const char *const none[] = {
        "{\"error\":{\"code\":\"not-found\",\"message\":\"guest agent: /no/such/program: No such "
        "file or directory\"}}",
        NULL};
    check_session("cat", "words", fine);
    check_session("/no/such/program", "words", none);
}

static int make_folder(void **state)
{
    (void)snprintf(folder, sizeof(folder), "/tmp/hull-agent-host.XXXXXX");
    if (mkdtemp(folder) == NULL) {
        return -1;
    }
    (void)snprintf(socket_path, sizeof(socket_path), "%s/connect", folder);
    return 0;
}

static int remove_folder(void **state)
{
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_have_limits),    cmocka_unit_test(no_folder),
        cmocka_unit_test(sessions_are_relayed), cmocka_unit_test(sessions_have_limits),
        cmocka_unit_test(much_data_both_ways),  cmocka_unit_test(client_that_goes_away),
        cmocka_unit_test(calls_of_the_agent),   cmocka_unit_test(sessions_of_the_agent),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
