/* Covers vmm/control.c: lines, limits, descriptors and clients, with a handler of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/control.h"

struct fixture {
    struct event_loop *loop;
    struct control *control;
    int client; /* the other end of the owner's connection */
    int seen_fd;
};

static int handle(void *ctx, struct control_client *client, struct control_request *request,
                  json_t **out_answer, struct error *err)
{
    struct fixture *fixture = ctx;
    if (strcmp(request->verb, "add") == 0) {
        json_int_t sum = json_integer_value(json_object_get(request->arguments, "a")) +
                         json_integer_value(json_object_get(request->arguments, "b"));
        *out_answer = json_pack("{s:I}", "sum", sum);
        return 0;
    }
    if (strcmp(request->verb, "fd") == 0) {
        struct stat status;
        fixture->seen_fd = request->fd >= 0 && fstat(request->fd, &status) == 0;
        return 0;
    }
    if (strcmp(request->verb, "events") == 0) {
        control_client_wants_events(client, true);
        return 0;
    }
    if (strcmp(request->verb, "much") == 0) {
        char *text = malloc(100001);
        assert_non_null(text);
        memset(text, 'x', 100000);
        text[100000] = '\0';
        *out_answer = json_pack("{s:s}", "text", text);
        free(text);
        return 0;
    }
    return error_set(err, ENOSYS, "verb %s is unknown", request->verb);
}

static int set_up(void **state)
{
    static struct fixture fixture;
    int pair[2];
    fixture = (struct fixture){.seen_fd = -1};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(event_loop_create(&fixture.loop, NULL), 0);
    assert_int_equal(
        control_create(fixture.loop, -1, pair[0], handle, &fixture, &fixture.control, NULL), 0);
    fixture.client = pair[1];
    *state = &fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    control_destroy(fixture->control);
    event_loop_destroy(fixture->loop);
    close(fixture->client);
    return 0;
}

static void stop(void *ctx)
{
    event_loop_stop(ctx);
}

/* Runs the loop until nothing is left to do: the stop comes after what is ready now. */
static void serve(struct fixture *fixture)
{
    for (int i = 0; i < 20; i++) {
        assert_int_equal(event_loop_defer(fixture->loop, stop, fixture->loop, NULL), 0);
        assert_int_equal(event_loop_run(fixture->loop, NULL), 0);
    }
}

static void say(struct fixture *fixture, const char *text)
{
    size_t size = strlen(text);
    assert_int_equal(send(fixture->client, text, size, MSG_NOSIGNAL), size);
    serve(fixture);
}

static void check_heard(struct fixture *fixture, const char *expected)
{
    char text[4096];
    ssize_t count = recv(fixture->client, text, sizeof(text) - 1, MSG_DONTWAIT);
    text[count > 0 ? count : 0] = '\0';
    assert_string_equal(text, expected);
}

static void requests_are_answered_in_order(void **state)
{
    say(*state,
        "{\"id\":1,\"do\":\"add\",\"a\":1,\"b\":2}\n{\"id\":\"x\",\"do\":\"add\",\"a\":3,\"b\":4}\n\n");
    check_heard(*state, "{\"id\":1,\"ok\":{\"sum\":3}}\n{\"id\":\"x\",\"ok\":{\"sum\":7}}\n");
}

static void a_line_may_come_in_pieces(void **state)
{
    say(*state, "{\"id\":1,\"do\":");
    check_heard(*state, "");
    say(*state, "\"add\"}");
    check_heard(*state, "");
    say(*state, "\n");
    check_heard(*state, "{\"id\":1,\"ok\":{\"sum\":0}}\n");
}

static void garbage_is_answered_with_an_error(void **state)
{
    say(*state, "hello\n");
    check_heard(
        *state,
        "{\"error\":{\"code\":\"invalid\",\"message\":\"'[' or '{' expected near 'hello'\"}}\n");
    say(*state, "[1]\n");
    check_heard(*state, "{\"error\":{\"code\":\"invalid\",\"message\":\"not an object\"}}\n");
    say(*state, "{\"id\":5}\n");
    check_heard(
        *state,
        "{\"error\":{\"code\":\"invalid\",\"message\":\"no verb: {\\\"id\\\":1,\\\"do\\\":\\\"status\\\"} is a request\"},\"id\":5}\n");
    say(*state, "{\"id\":[],\"do\":\"add\"}\n");
    check_heard(
        *state,
        "{\"error\":{\"code\":\"invalid\",\"message\":\"\\\"id\\\" is neither a number nor a text\"}}\n");
    say(*state, "{\"id\":5,\"do\":\"dance\"}\n");
    check_heard(
        *state,
        "{\"error\":{\"code\":\"unknown-verb\",\"message\":\"verb dance is unknown\"},\"id\":5}\n");
    /* And the connection still works. */
    say(*state, "{\"do\":\"add\"}\n");
    check_heard(*state, "{\"ok\":{\"sum\":0}}\n");
}

static void deep_nesting_is_an_error(void **state)
{
    char text[8192];
    memset(text, '[', sizeof(text));
    text[sizeof(text) - 2] = '\n';
    text[sizeof(text) - 1] = '\0';
    say(*state, text);
    char answer[300] = "";
    assert_true(recv(((struct fixture *)*state)->client, answer, sizeof(answer) - 1, MSG_DONTWAIT) >
                0);
    assert_non_null(strstr(answer, "\"code\":\"invalid\""));
}

static void an_endless_line_ends_the_connection(void **state)
{
    struct fixture *fixture = *state;
    char piece[4097];
    memset(piece, 'x', sizeof(piece) - 1);
    piece[sizeof(piece) - 1] = '\0';
    for (size_t sent = 0; sent < CONTROL_MAX_LINE; sent += sizeof(piece) - 1) {
        say(fixture, piece);
    }
    check_heard(fixture,
                "{\"error\":{\"code\":\"invalid\",\"message\":\"the line is too long\"}}\n");
    assert_int_equal(recv(fixture->client, piece, 1, MSG_DONTWAIT), 0);
}

static void send_with_fds(struct fixture *fixture, const char *text, int count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(4 * sizeof(int))];
    } ancillary = {0};
    struct iovec vector = {.iov_base = (char *)text, .iov_len = strlen(text)};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = &ancillary,
                             .msg_controllen = CMSG_SPACE((size_t)count * sizeof(int))};
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
    int fds[4] = {0, 0, 0, 0};
    memcpy(CMSG_DATA(part), fds, (size_t)count * sizeof(int));
    assert_true(sendmsg(fixture->client, &message, MSG_NOSIGNAL) > 0);
    serve(fixture);
}

static void descriptors_arrive_and_do_not_leak(void **state)
{
    struct fixture *fixture = *state;
    int before = dup(0);
    close(before);
    send_with_fds(fixture, "{\"do\":\"fd\"}\n", 1);
    assert_int_equal(fixture->seen_fd, 1);
    check_heard(fixture, "{\"ok\":{}}\n");
    send_with_fds(fixture, "{\"do\":\"add\"}\n", 4);
    send_with_fds(fixture, "rubbish\n{\"do\":\"add\"}\n", 2);
    say(fixture, "{\"do\":\"fd\"}\n");
    assert_int_equal(fixture->seen_fd, 0);
    int after = dup(0);
    close(after);
    assert_int_equal(before, after);
}

static void events_go_to_those_who_asked(void **state)
{
    struct fixture *fixture = *state;
    control_send_event(fixture->control, json_pack("{s:s}", "event", "unheard"));
    check_heard(fixture, "");
    say(fixture, "{\"do\":\"events\"}\n");
    check_heard(fixture, "{\"ok\":{}}\n");
    control_send_event(fixture->control, json_pack("{s:s}", "event", "paused"));
    check_heard(fixture, "{\"event\":\"paused\"}\n");
}

static void a_slow_reader_is_dropped(void **state)
{
    struct fixture *fixture = *state;
    for (int i = 0; i < 40; i++) {
        if (send(fixture->client, "{\"do\":\"much\"}\n", 14, MSG_NOSIGNAL) < 0) {
            break; /* dropped already */
        }
        serve(fixture);
    }
    size_t heard = 0;
    char text[65536];
    ssize_t count;
    while ((count = recv(fixture->client, text, sizeof(text), MSG_DONTWAIT)) > 0) {
        heard += (size_t)count;
    }
    assert_int_equal(count, 0); /* the end, not a pause */
    assert_true(heard < 2 * CONTROL_MAX_OUTPUT);
}

static void clients_have_a_limit(void **state)
{
    struct event_loop *loop;
    struct control *control;
    struct sockaddr_un address = {.sun_family = AF_UNIX}; /* the kernel chooses an abstract name */
    socklen_t size = sizeof(address);
    int fds[CONTROL_MAX_CLIENTS + 1];
    struct fixture fixture = {0};
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(sa_family_t)), 0);
    assert_int_equal(listen(listener, 64), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    assert_int_equal(event_loop_create(&loop, NULL), 0);
    assert_int_equal(control_create(loop, listener, -1, handle, &fixture, &control, NULL), 0);
    fixture.loop = loop;
    for (size_t i = 0; i < ARRAY_COUNT(fds); i++) {
        fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fds[i], (struct sockaddr *)&address, size), 0);
        serve(&fixture);
    }
    fixture.client = fds[CONTROL_MAX_CLIENTS];
    check_heard(&fixture, "{\"error\":{\"code\":\"busy\",\"message\":\"too many clients\"}}\n");
    close(fds[0]);
    serve(&fixture);
    fixture.client = fds[1];
    say(&fixture, "{\"do\":\"add\"}\n");
    check_heard(&fixture, "{\"ok\":{\"sum\":0}}\n");
    control_destroy(control);
    event_loop_destroy(loop);
    for (size_t i = 1; i < ARRAY_COUNT(fds); i++) {
        close(fds[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(requests_are_answered_in_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_line_may_come_in_pieces, set_up, tear_down),
        cmocka_unit_test_setup_teardown(garbage_is_answered_with_an_error, set_up, tear_down),
        cmocka_unit_test_setup_teardown(deep_nesting_is_an_error, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_endless_line_ends_the_connection, set_up, tear_down),
        cmocka_unit_test_setup_teardown(descriptors_arrive_and_do_not_leak, set_up, tear_down),
        cmocka_unit_test_setup_teardown(events_go_to_those_who_asked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_slow_reader_is_dropped, set_up, tear_down),
        cmocka_unit_test(clients_have_a_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
