#include "vmm/control.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/host/file.h"

#define READ_SIZE 4096u

struct control_client {
    struct control *control;
    struct event_source *source;
    int fd;
    int passed_fd[CONTROL_MAX_FILES]; /* came with bytes that are not a whole request yet, or -1 */
    bool wants_events;
    bool is_dead; /* to be freed when its callback is done */
    char *line;   /* grows up to CONTROL_MAX_LINE */
    size_t line_used, line_capacity;
    char *output;
    size_t output_used;
    struct control_client *next;
};

struct control {
    struct event_loop *loop;
    struct event_source *listen_source;
    int listen_fd;
    control_handle_fn handle;
    void *ctx;
    struct control_client *clients;
    unsigned client_count;
};

const char *control_code(int code)
{
    switch (code) {
    case EINVAL:
    case ERANGE:
    case E2BIG:
        return "invalid";
    case ENOSYS:
        return "unknown-verb";
    case EBUSY:
        return "busy";
    case ENODEV:
        return "no-device";
    case EOPNOTSUPP:
        return "unsupported";
    default:
        return "failed";
    }
}

static void client_watch(struct control_client *client)
{
    event_source_set_events(client->source,
                            EPOLLIN | (client->output_used != 0 ? (uint32_t)EPOLLOUT : 0));
}

static void forget_passed_fds(struct control_client *client)
{
    for (size_t i = 0; i < CONTROL_MAX_FILES; i++) {
        client->passed_fd[i] = -1;
    }
}

static void client_free(struct control_client *client)
{
    event_source_remove(client->source);
    close(client->fd);
    for (size_t i = 0; i < ARRAY_COUNT(client->passed_fd); i++) {
        if (client->passed_fd[i] >= 0) {
            close(client->passed_fd[i]);
        }
    }
    free(client->line);
    free(client->output);
    free(client);
}

static void client_remove(struct control_client *client)
{
    struct control *control = client->control;
    for (struct control_client **at = &control->clients; *at != NULL; at = &(*at)->next) {
        if (*at == client) {
            *at = client->next;
            control->client_count--;
            break;
        }
    }
    client_free(client);
}

/* Freed when its callback is done, or by the one that the shutdown causes. */
static void client_drop(struct control_client *client)
{
    client->is_dead = true;
    (void)shutdown(client->fd, SHUT_RDWR); /* fails only if the peer was faster */
}

static void flush_output(struct control_client *client)
{
    size_t sent = 0;
    while (sent < client->output_used) {
        ssize_t count = send(client->fd, client->output + sent, client->output_used - sent,
                             MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count < 0) {
            if (errno == EINTR) {
                continue;
            }
            if (errno != EAGAIN) {
                client_drop(client);
            }
            break;
        }
        sent += (size_t)count;
    }
    client->output_used -= sent;
    if (client->output_used == 0) {
        free(client->output);
        client->output = NULL;
    } else {
        memmove(client->output, client->output + sent, client->output_used);
    }
    client_watch(client);
}

static void send_line(struct control_client *client, const json_t *object)
{
    if (client->is_dead) {
        return;
    }
    AUTO_FREE char *text = json_dumps(object, JSON_COMPACT);
    size_t length = text != NULL ? strlen(text) : 0;
    size_t needed = client->output_used + length + 1;
    char *output =
        text != NULL && needed <= CONTROL_MAX_OUTPUT ? realloc(client->output, needed) : NULL;
    if (output == NULL) {
        client_drop(client); /* reads too slowly, or there is no memory to be kind */
        return;
    }
    memcpy(output + client->output_used, text, length);
    output[needed - 1] = '\n';
    client->output = output;
    client->output_used = needed;
    flush_output(client);
}

void control_client_send(struct control_client *client, json_t *event)
{
    send_line(client, event);
    json_decref(event);
}

void control_client_wants_events(struct control_client *client, bool wants)
{
    client->wants_events = wants;
}

static void answer_error(struct control_client *client, json_t *id, const char *code,
                         const char *message)
{
    json_t *answer = json_pack("{s:{s:s, s:s}}", "error", "code", code, "message", message);
    if (answer == NULL) { /* the message echoes bytes that are not UTF-8 */
        answer = json_pack("{s:{s:s, s:s}}", "error", "code", code, "message", "bad request");
    }
    if (id != NULL) {
        json_object_set(answer, "id", id);
    }
    control_client_send(client, answer);
}

static void serve_request(struct control_client *client, const json_t *request)
{
    json_t *id = json_object_get(request, "id");
    const char *verb = json_string_value(json_object_get(request, "do"));
    if (id != NULL && !json_is_integer(id) && !json_is_string(id)) {
        answer_error(client, NULL, "invalid", "\"id\" is neither a number nor a text");
        return;
    }
    if (verb == NULL) {
        answer_error(client, id, "invalid", "no verb: {\"id\":1,\"do\":\"status\"} is a request");
        return;
    }
    struct control *control = client->control;
    int passed[CONTROL_MAX_FILES];
    memcpy(passed, client->passed_fd, sizeof(passed));
    forget_passed_fds(client);
    struct control_request call = {.verb = verb,
                                   .arguments = request,
                                   .fd = passed[0],
                                   .other_fd = passed[1],
                                   .more_fd = passed + 2};
    json_t *answer = NULL;
    struct error err = {0};
    int rc = control->handle(control->ctx, client, &call, &answer, &err);
    passed[0] = call.fd;
    passed[1] = call.other_fd;
    for (size_t i = 0; i < CONTROL_MAX_FILES; i++) {
        if (passed[i] >= 0) {
            close(passed[i]);
        }
    }
    if (rc < 0) {
        answer_error(client, id, control_code(-rc), err.text);
        return;
    }
    json_t *line = json_object();
    if (id != NULL) {
        json_object_set(line, "id", id);
    }
    json_object_set_new(line, "ok", answer != NULL ? answer : json_object());
    control_client_send(client, line);
}

static void serve_line(struct control_client *client, const char *line, size_t length)
{
    if (strspn(line, " \t\r") == length) {
        return;
    }
    json_error_t problem;
    json_t *request = json_loadb(line, length, JSON_REJECT_DUPLICATES, &problem);
    if (!json_is_object(request)) {
        answer_error(client, NULL, "invalid", request == NULL ? problem.text : "not an object");
    } else {
        serve_request(client, request);
    }
    json_decref(request);
}

/* Serves every whole line of the buffer and keeps the rest. */
static void serve_lines(struct control_client *client)
{
    size_t start = 0;
    while (!client->is_dead) {
        char *line = client->line + start;
        char *end = memchr(line, '\n', client->line_used - start);
        if (end == NULL) {
            break;
        }
        *end = '\0';
        serve_line(client, line, (size_t)(end - line));
        start = (size_t)(end - client->line) + 1;
    }
    client->line_used -= start;
    memmove(client->line, client->line + start, client->line_used);
    if (client->line_used >= CONTROL_MAX_LINE && !client->is_dead) {
        answer_error(client, NULL, "invalid", "the line is too long");
        client->is_dead = true;
    }
}

/* Keeps as many descriptors as a request may have for the one at hand, and closes the others. */
static void take_passed_fds(struct control_client *client, struct msghdr *message)
{
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part != NULL;
         part = CMSG_NXTHDR(message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(part) + i * sizeof(fd), sizeof(fd));
            size_t place = 0;
            while (place < CONTROL_MAX_FILES && client->passed_fd[place] >= 0) {
                place++;
            }
            if (place < CONTROL_MAX_FILES) {
                client->passed_fd[place] = fd;
            } else {
                close(fd);
            }
        }
    }
}

static bool reserve_line(struct control_client *client)
{
    size_t needed = client->line_used + READ_SIZE + 1;
    if (needed > client->line_capacity) {
        char *line = realloc(client->line, needed);
        if (line == NULL) {
            return false;
        }
        client->line = line;
        client->line_capacity = needed;
    }
    return true;
}

static void client_read(struct control_client *client)
{
    if (!reserve_line(client)) {
        client->is_dead = true;
        return;
    }
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(CONTROL_MAX_FILES * sizeof(int))];
    } ancillary;
    struct iovec vector = {.iov_base = client->line + client->line_used, .iov_len = READ_SIZE};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = &ancillary,
                             .msg_controllen = sizeof(ancillary)};
    ssize_t count = recvmsg(client->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (count <= 0) {
        client->is_dead = count == 0 || (errno != EAGAIN && errno != EINTR);
        return;
    }
    take_passed_fds(client, &message);
    client->line_used += (size_t)count;
    serve_lines(client);
}

static void client_ready(void *ctx, int fd, uint32_t events)
{
    struct control_client *client = ctx;
    if ((events & EPOLLOUT) != 0) {
        flush_output(client);
    }
    if (!client->is_dead && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
        client_read(client);
    }
    if (client->is_dead) {
        client_remove(client);
    }
}

static int client_add(struct control *control, int fd, struct error *err)
{
    struct control_client *client = calloc(1, sizeof(*client));
    if (client == NULL) {
        close(fd);
        return error_set_errno(err, ENOMEM, "adding a control client");
    }
    *client = (struct control_client){.control = control, .fd = fd};
    forget_passed_fds(client);
    int rc =
        event_loop_add_fd(control->loop, fd, EPOLLIN, client_ready, client, &client->source, err);
    if (rc < 0) {
        close(fd);
        free(client);
        return rc;
    }
    client->next = control->clients;
    control->clients = client;
    control->client_count++;
    return 0;
}

static void client_waits(void *ctx, int fd, uint32_t events)
{
    struct control *control = ctx;
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0) {
        return;
    }
    if (control->client_count >= CONTROL_MAX_CLIENTS) {
        static const char full[] =
            "{\"error\":{\"code\":\"busy\",\"message\":\"too many clients\"}}\n";
        (void)!send(client, full, sizeof(full) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        close(client);
        return;
    }
    (void)client_add(control, client, NULL); /* without memory for it the client sees its end */
}

int control_create(struct event_loop *loop, int listen_fd, int owner_fd, control_handle_fn handle,
                   void *ctx, struct control **out_control, struct error *err)
{
    struct control *control = calloc(1, sizeof(*control));
    if (control == NULL) {
        return error_set_errno(err, ENOMEM, "creating the control connection");
    }
    *control = (struct control){.loop = loop, .listen_fd = listen_fd, .handle = handle, .ctx = ctx};
    int rc = 0;
    if (listen_fd >= 0) {
        rc = file_set_nonblocking(listen_fd, err);
        if (rc == 0) {
            rc = event_loop_add_fd(loop, listen_fd, EPOLLIN, client_waits, control,
                                   &control->listen_source, err);
        }
    }
    if (rc == 0 && owner_fd >= 0) {
        rc = client_add(control, owner_fd, err);
    }
    if (rc < 0) {
        control_destroy(control);
        return rc;
    }
    *out_control = control;
    return 0;
}

void control_destroy(struct control *control)
{
    if (control == NULL) {
        return;
    }
    while (control->clients != NULL) {
        struct control_client *client = control->clients;
        control->clients = client->next;
        client_free(client);
    }
    event_source_remove(control->listen_source);
    if (control->listen_fd >= 0) {
        close(control->listen_fd);
    }
    free(control);
}

void control_send_event(struct control *control, json_t *event)
{
    for (struct control_client *client = control->clients; client != NULL; client = client->next) {
        if (client->wants_events) {
            send_line(client, event);
        }
    }
    json_decref(event);
}
