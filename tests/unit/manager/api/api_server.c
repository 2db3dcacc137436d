/* hulld's API without hulld: sessions whose worker echoes, floods, is deaf, or ends; operations that end when a test says so. "api-server SOCKET". */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "manager/api/catalog.h"
#include "session/frames.h"

#define FLOOD_FRAMES 200

static struct manager manager;

/* Of the one operation that there is. */
static struct operation_watch {
    void (*ended)(void *ctx, const json_t *operation);
    void *ctx;
    bool is_used;
} watches[8];
static bool has_ended;

static json_t *operation(void)
{
    return json_pack("{s:s, s:s, s:s, s:s}", "name", "00000000000000000000000000000001", "kind",
                     "test", "description", "testing", "status", has_ended ? "done" : "running");
}

int operations_get(struct operations *operations, const char *id, json_t **out_operation,
                   struct error *err)
{
    *out_operation = operation();
    return 0;
}

int operations_begin(struct operations *operations, const struct operation_spec *spec,
                     char out_id[OPERATION_ID_SIZE], struct error *err)
{
    has_ended = false;
    strcpy(out_id, "00000000000000000000000000000001");
    return 0;
}

int operations_watch(struct operations *operations, const char *id,
                     void (*ended)(void *ctx, const json_t *operation), void *ctx,
                     struct operation_watch **out_watch, struct error *err)
{
    for (size_t i = 0; i < ARRAY_COUNT(watches); i++) {
        if (!watches[i].is_used) {
            watches[i] = (struct operation_watch){.ended = ended, .ctx = ctx, .is_used = true};
            *out_watch = &watches[i];
            return 0;
        }
    }
    return error_set(err, EBUSY, "too many watches");
}

void operation_watch_cancel(struct operation_watch *watch)
{
    watch->is_used = false;
}

static int begin(struct api_call *call, struct error *err)
{
    return api_begin(call, "test", "testing", (const char *const[]){NULL}, NULL, err);
}

/* Answers how many were waiting. */
static int end(struct api_call *call, struct error *err)
{
    int count = 0;
    has_ended = true;
    json_t *document = operation();
    for (size_t i = 0; i < ARRAY_COUNT(watches); i++) {
        if (watches[i].is_used) {
            watches[i].is_used = false;
            watches[i].ended(watches[i].ctx, document);
            count++;
        }
    }
    json_decref(document);
    call->answer = json_pack("{s:i}", "waited", count);
    return 0;
}

static void echo(int fd)
{
    static uint8_t frame[1 + SESSION_MAX_PAYLOAD];
    ssize_t got;
    while ((got = recv(fd, frame, sizeof(frame), 0)) > 0) {
        /* What comes in goes out; "end" ends it. */
        if (frame[0] == SESSION_CONTROL && got == 4 && memcmp(frame + 1, "end", 3) == 0) {
            return;
        }
        frame[0] = frame[0] == SESSION_STDIN ? SESSION_STDOUT : frame[0];
        (void)!send(fd, frame, (size_t)got, MSG_NOSIGNAL);
    }
}

static void flood(int fd)
{
    static uint8_t data[SESSION_MAX_PAYLOAD];
    for (unsigned i = 0; i < FLOOD_FRAMES; i++) {
        memset(data, (int)i, sizeof(data));
        if (session_send(fd, SESSION_STDOUT, data, sizeof(data), NULL) < 0) {
            return;
        }
    }
    error_ignore(session_send_control(fd, json_pack("{s:i}", "exit", 3), NULL));
}

/* Reads after a while only, and says how much it was. */
static void be_deaf(int fd)
{
    static uint8_t frame[1 + SESSION_MAX_PAYLOAD];
    size_t total = 0;
    ssize_t got;
    sleep(2);
    while ((got = recv(fd, frame, sizeof(frame), 0)) > 1) {
        total += (size_t)got - 1;
    }
    error_ignore(session_send_control(fd, json_pack("{s:I}", "exit", (json_int_t)total), NULL));
}

static int open_session(struct api_call *call, struct error *err)
{
    static const struct {
        const char *name;
        void (*run)(int fd);
    } rows[] = {{"echo", echo}, {"flood", flood}, {"deaf", be_deaf}};
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        int fds[2];
        if (strcmp(call->words[0], rows[i].name) != 0) {
            continue;
        }
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0) {
            return error_set_errno(err, errno, "socketpair");
        }
        pid_t child = fork();
        if (child == 0) {
            /* Not hulld's descriptors: their other sides would wait for us. */
            dup2(fds[1], 3);
            closefrom(4);
            rows[i].run(3);
            _exit(0);
        }
        close(fds[1]);
        call->session_fd = fds[0];
        return 0;
    }
    return error_set(err, ENOENT, "session %s: there is none", call->words[0]);
}

static const struct api_route routes[] = {
    {"POST", "/v1/begin", "begin", "", API_OPERATION, NULL, NULL, NULL, begin},
    {"POST", "/v1/end", "end", "", API_PLAIN, NULL, NULL, NULL, end},
    {"GET", "/v1/session/{name}", "session", "", API_SESSION, NULL, NULL, NULL, open_session},
    {0},
};
static const struct api_schema schemas[] = {{0}};

int api_catalog_create_all(struct api_catalog **out_catalog, struct error *err)
{
    return api_catalog_create((const struct api_route *const[]){routes, NULL},
                              (const struct api_schema *const[]){schemas, NULL}, out_catalog, err);
}

static void stop(void *ctx)
{
    event_loop_stop(manager.loop);
}

static struct event_notifier *ending;

static void on_signal(int number)
{
    event_notifier_signal(ending);
}

int main(int argc, char **argv)
{
    struct error err = {0};
    const struct api_server_options options = {
        .manager = &manager, .socket_path = argv[1], .socket_fd = -1};
    (void)signal(SIGCHLD, SIG_IGN);
    if (argc != 2 || event_loop_create(&manager.loop, &err) < 0 ||
        event_notifier_create(manager.loop, stop, NULL, &ending, &err) < 0 ||
        api_server_create(&options, &manager.server, &err) < 0) {
        fprintf(stderr, "api-server: %s\n", err.text);
        return 1;
    }
    (void)signal(SIGTERM, on_signal);
    int rc = api_server_run(manager.server, &err);
    api_server_destroy(manager.server);
    event_notifier_destroy(ending);
    event_loop_destroy(manager.loop);
    return rc < 0;
}
