#include "control/client.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/host/file.h"
#include "base/host/pass_fd.h"
#include "base/host/unix_socket.h"

#define READ_SIZE 4096u
#define MAX_LINE  (4u << 20)

int control_client_open(const char *path, struct control_client *out_client, struct error *err)
{
    *out_client = (struct control_client){.fd = -1};
    return unix_socket_connect(path, "control socket", &out_client->fd, err);
}

void control_client_close(struct control_client *client)
{
    if (client->fd >= 0) {
        close(client->fd);
    }
    free(client->buffer);
    *client = (struct control_client){.fd = -1};
}

int control_client_send(struct control_client *client, const json_t *request, int fd,
                        struct error *err)
{
    return control_client_send_files(client, request, (const int[]){fd, -1}, err);
}

int control_client_send_files(struct control_client *client, const json_t *request, const int fd[2],
                              struct error *err)
{
    size_t count = fd[0] < 0 ? 0 : fd[1] < 0 ? 1 : 2;
    return control_client_send_many(client, request, fd, count, err);
}

int control_client_send_many(struct control_client *client, const json_t *request, const int *fd,
                             size_t fd_count, struct error *err)
{
    AUTO_FREE char *text = json_dumps(request, JSON_COMPACT);
    if (text == NULL) {
        return error_set_errno(err, ENOMEM, "control request");
    }
    size_t size = strlen(text);
    text[size++] = '\n'; /* in the place of the end mark */
    for (size_t sent = 0; sent < size;) {
        ssize_t count =
            pass_fd_send(client->fd, text + sent, size - sent, fd, sent == 0 ? fd_count : 0, 0);
        if (count < 0 && errno != EINTR) {
            return error_set_errno(err, errno, "control request");
        }
        sent += count > 0 ? (size_t)count : 0;
    }
    return 0;
}

static int read_more(struct control_client *client, struct error *err)
{
    if (client->used + READ_SIZE > client->capacity) {
        size_t capacity = MAX(client->capacity * 2, (size_t)READ_SIZE);
        char *larger = capacity <= MAX_LINE ? realloc(client->buffer, capacity) : NULL;
        if (larger == NULL) {
            return error_set(err, EMSGSIZE, "control answer: the line is too long");
        }
        client->buffer = larger;
        client->capacity = capacity;
    }
    ssize_t count;
    do {
        count = recv(client->fd, client->buffer + client->used, client->capacity - client->used, 0);
    } while (count < 0 && errno == EINTR);
    if (count < 0) {
        return error_set_errno(err, errno, "control answer");
    }
    if (count == 0) {
        return error_set(err, ENODATA, "control connection: the VM closed it before it answered");
    }
    client->used += (size_t)count;
    return 0;
}

int control_client_receive(struct control_client *client, json_t **out_line, struct error *err)
{
    char *end;
    while ((end = client->used != 0 ? memchr(client->buffer, '\n', client->used) : NULL) == NULL) {
        int rc = read_more(client, err);
        if (rc < 0) {
            return rc;
        }
    }
    json_error_t problem;
    size_t length = (size_t)(end - client->buffer);
    json_t *line = json_loadb(client->buffer, length, 0, &problem);
    client->used -= length + 1;
    memmove(client->buffer, end + 1, client->used);
    if (line == NULL) {
        return error_set(err, EBADMSG, "control answer: no JSON: %.100s", problem.text);
    }
    *out_line = line;
    return 0;
}

int control_client_await(struct control_client *client, json_int_t id,
                         void (*event)(void *ctx, const json_t *line), void *ctx,
                         json_t **out_answer, struct error *err)
{
    for (;;) {
        json_t *line;
        int rc = control_client_receive(client, &line, err);
        if (rc < 0) {
            return rc;
        }
        json_t *failure = json_object_get(line, "error");
        json_t *answer = json_object_get(line, "ok");
        const json_t *line_id = json_object_get(line, "id");
        /* An error without id is about the connection or a request that was not understood. */
        if (failure != NULL && (line_id == NULL || json_integer_value(line_id) == id)) {
            const char *message = json_string_value(json_object_get(failure, "message"));
            rc = error_set(err, EIO, "%s",
                           message != NULL ? message : "the VM refused without a reason");
        } else if (answer != NULL && json_integer_value(line_id) == id) {
            *out_answer = json_incref(answer);
            rc = 1;
        } else if (event != NULL) {
            event(ctx, line);
        }
        json_decref(line);
        if (rc != 0) {
            return MIN(rc, 0);
        }
    }
}
