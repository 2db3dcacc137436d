/* hull logs and events. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "cli/managed/managed.h"

struct logs_options {
    struct managed_options managed;
    bool follows;
};

static int parse_follow(void *into, const char *value, struct error *err)
{
    ((struct logs_options *)into)->follows = true;
    return 0;
}

static const struct option_spec logs_table[] = {
    {"follow", 'f', NULL, "go on printing what comes, until Ctrl-C", NULL, parse_follow},
    {0},
};

static int write_part(void *ctx, const char *data, size_t size, struct error *err)
{
    return file_write_all(STDOUT_FILENO, data, size, "output", err);
}

static int follow(const struct client *client, const char *name, struct error *err)
{
    struct client_socket *socket;
    const struct session_terminal how = {.is_console = true}; /* its end is no failure */
    int rc = managed_session_open(client, name, "logs/follow",
                                  json_pack("{s:s, s:b}", "do", "logs", "follow", 1), &socket, err);
    if (rc == 0) {
        rc = session_run(socket, &how, err);
        client_socket_close(socket);
    }
    return rc;
}

static int logs_run(int argc, char **argv)
{
    struct logs_options options = {0};
    struct client client;
    struct error err = {0};
    int count;
    int status = cli_words(&logs_verb, 1, 1, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    int rc = managed_open(&client, &err);
    if (rc == 0 && options.follows) {
        rc = follow(&client, argv[0], &err);
    } else if (rc == 0) {
        char *path = client_path("/v1/instances", argv[0], "logs", NULL);
        rc = client_read(&client, path, write_part, NULL, &err);
        free(path);
    }
    return rc < 0 ? cli_fail(&err) : rc;
}

const struct verb logs_verb = {
    .name = "logs",
    .arguments = "NAME",
    .summary = "Print what an instance's console has shown",
    .examples = "  hull logs web1\n  hull logs -f web1\n",
    .options = logs_table,
    .complete = "INSTANCE",
    .run = logs_run,
};

static const struct option_spec events_table[] = {
    {"json", 0, NULL, "as JSON, one event a line", NULL, managed_parse_json},
    {0},
};

static void print_word(const json_t *object, const char *key, const char *before)
{
    const char *word = json_string_value(json_object_get(object, key));
    struct error text;
    (void)client_error(&text, EINVAL, word != NULL ? word : "-");
    (void)printf("%s%s", before, text.text);
}

/* "2026-01-01T12:00:00Z instance name=web1 status=running": what an event says of itself, in one line. */
static void print_event(const json_t *event)
{
    const json_t *operation = json_object_get(event, "operation");
    const char *key;
    json_t *value;
    print_word(event, "time", "");
    print_word(event, "type", " ");
    if (operation != NULL) {
        print_word(operation, "status", " ");
        print_word(operation, "description", " ");
    }
    json_object_foreach((json_t *)event, key, value)
    {
        bool is_shown = strcmp(key, "time") == 0 || strcmp(key, "type") == 0;
        if (!is_shown && !json_is_object(value) && !json_is_array(value)) {
            struct error text;
            char *plain = json_is_string(value) ? strdup(json_string_value(value))
                                                : json_dumps(value, JSON_ENCODE_ANY);
            (void)client_error(&text, EINVAL, plain != NULL ? plain : "");
            (void)printf(" %s=%s", key, text.text);
            free(plain);
        }
    }
    (void)putchar('\n');
}

/* 1: the connection has ended. */
static int show_events(struct client_socket *socket, bool is_json, struct error *err)
{
    for (;;) {
        bool is_text;
        const uint8_t *data;
        size_t size;
        int rc = client_socket_receive(socket, &is_text, &data, &size, err);
        if (rc == -EAGAIN || rc == -ENODATA) {
            (void)fflush(stdout);
            return rc == -EAGAIN ? 0 : 1;
        }
        if (rc < 0) {
            return rc;
        }
        json_t *event = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
        if (!json_is_object(event)) {
            json_decref(event);
            return error_set(err, EPROTO, "hulld's events: one that is no object");
        }
        if (is_json) {
            (void)json_dumpf(event, stdout, JSON_COMPACT);
            (void)putchar('\n');
        } else {
            print_event(event);
        }
        json_decref(event);
    }
}

static int events_run(int argc, char **argv)
{
    struct managed_options options = {0};
    struct client client;
    struct client_socket *socket;
    struct error err = {0};
    int count;
    int status = cli_words(&events_verb, 0, 0, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    int rc = managed_open(&client, &err);
    rc = rc < 0 ? rc : client_socket_open(&client, "/v1/events", &socket, &err);
    if (rc < 0) {
        return cli_fail(&err);
    }
    while (rc == 0) {
        rc = show_events(socket, options.output == OUTPUT_JSON, &err);
        short events = (short)(POLLIN | (client_socket_is_sending(socket) ? POLLOUT : 0));
        struct pollfd polled = {.fd = client_socket_fd(socket), .events = events};
        if (rc == 0 && poll(&polled, 1, -1) > 0 && (polled.revents & POLLOUT) != 0) {
            rc = client_socket_flush(socket, &err);
        }
    }
    client_socket_close(socket);
    return rc < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb events_verb = {
    .name = "events",
    .arguments = "",
    .summary = "Print what happens, until Ctrl-C",
    .examples = "  hull events\n  hull events --json | jq .type\n",
    .options = events_table,
    .run = events_run,
};
