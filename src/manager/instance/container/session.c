/* Sessions with a container: programs, its console, its log, files. Programs are run by hull-oci, which keeps itself out of the
 * container's reach; files are packed and unpacked by the container's own tar, as its root, so that what lies there can lead
 * nowhere else. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "manager/instance/container/container.h"
#include "manager/instance/container/program.h"
#include "manager/text.h"
#include "session/frames.h"
#include "system/life/internal.h"
#include "system/life/keeper.h"

#define LOG_PAUSE_MS 300

static int must_run(const struct life *life, const char *name, struct error *err)
{
    enum life_status status = life_status(life, name);
    return status == LIFE_RUNNING
               ? 0
               : error_set(err, ESRCH, "instance %s is %s", name, life_status_name(status));
}

/* A size of a terminal, as a packet for the keeper. */
static void send_size(int console, const json_t *resize)
{
    json_int_t columns = json_integer_value(json_array_get(resize, 0));
    json_int_t rows = json_integer_value(json_array_get(resize, 1));
    if (columns <= 0 || rows <= 0 || columns > UINT16_MAX || rows > UINT16_MAX) {
        return;
    }
    char packet[1 + sizeof(struct keeper_size)] = {KEEPER_SIZE};
    const struct keeper_size size = {.rows = (uint16_t)rows, .columns = (uint16_t)columns};
    memcpy(packet + 1, &size, sizeof(size));
    (void)send(console, packet, sizeof(packet), MSG_NOSIGNAL);
}

static bool from_client(int fd, int console, uint8_t *data)
{
    enum session_frame type;
    size_t size;
    struct error ignored;
    if (session_receive(fd, &type, data, &size, &ignored) < 0) {
        return false;
    }
    if (type == SESSION_CONTROL) {
        json_t *control = json_loadb((const char *)data, size, 0, NULL);
        send_size(console, json_object_get(control, "resize"));
        json_decref(control);
    }
    for (size_t done = 0; type == SESSION_STDIN && done < size;) {
        char packet[KEEPER_MAX_PACKET];
        size_t part = size - done < sizeof(packet) - 1 ? size - done : sizeof(packet) - 1;
        packet[0] = KEEPER_DATA;
        memcpy(packet + 1, data + done, part);
        if (send(console, packet, part + 1, MSG_NOSIGNAL) < 0) {
            return false;
        }
        done += part;
    }
    return true;
}

static int serve_console(const struct life *life, const char *name, int fd, struct error *err)
{
    AUTO_CLOSE int console = life_connect(life, name, KEEPER_ATTACH, err);
    AUTO_FREE uint8_t *data = malloc(SESSION_MAX_PAYLOAD);
    if (console < 0 || data == NULL) {
        return console < 0 ? console : error_set(err, ENOMEM, "no memory for a session");
    }
    int rc = session_send_control(fd, json_pack("{s:b}", "started", 1), err);
    while (rc == 0) {
        struct pollfd polled[] = {{.fd = fd, .events = POLLIN}, {.fd = console, .events = POLLIN}};
        if (poll(polled, ARRAY_COUNT(polled), -1) < 0 && errno != EINTR) {
            return error_set_errno(err, errno, "waiting for the console");
        }
        if (polled[0].revents != 0 && !from_client(fd, console, data)) {
            return 0;
        }
        if (polled[1].revents != 0) {
            char packet[KEEPER_MAX_PACKET];
            ssize_t size = recv(console, packet, sizeof(packet), 0);
            if (size <= 0) { /* the container has ended */
                return session_send_control(fd, json_pack("{s:i}", "exit", 0), err);
            }
            rc = session_send(fd, SESSION_STDOUT, packet + 1, (size_t)size - 1, err);
        }
    }
    return rc;
}

/* All of a file from 'from' on; returns where it ended, or -errno. */
static int64_t send_file(int from, int64_t offset, int fd, struct error *err)
{
    char data[16384];
    for (;;) {
        ssize_t size = pread(from, data, sizeof(data), offset);
        if (size < 0 && errno != EINTR) {
            return error_set_errno(err, errno, "reading the log");
        }
        if (size == 0) {
            return offset;
        }
        if (size > 0) {
            int rc = session_send(fd, SESSION_STDOUT, data, (size_t)size, err);
            if (rc < 0) {
                return rc;
            }
            offset += size;
        }
    }
}

static int open_log(const struct life *life, const char *name, const char *file)
{
    char path[PATH_MAX];
    store_container_path(&life->store, name, file, path);
    return open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
}

/* When the log is full it becomes "console.log.1", and a new one begins. */
static bool is_same_file(int a, int b)
{
    struct stat first, second;
    return fstat(a, &first) == 0 && fstat(b, &second) == 0 && first.st_ino == second.st_ino;
}

/* Does the client still listen? What it says does not matter. */
static bool wait_for_more(int fd, uint8_t *data)
{
    struct pollfd client = {.fd = fd, .events = POLLIN};
    enum session_frame type;
    size_t size;
    struct error ignored;
    return poll(&client, 1, LOG_PAUSE_MS) <= 0 ||
           session_receive(fd, &type, data, &size, &ignored) == 0;
}

static int follow_log(const struct life *life, const char *name, int log, int64_t offset, int fd,
                      struct error *err)
{
    AUTO_CLOSE int current = log;
    AUTO_FREE uint8_t *data = malloc(SESSION_MAX_PAYLOAD);
    if (data == NULL) {
        return error_set(err, ENOMEM, "no memory for a session");
    }
    while (offset >= 0 && wait_for_more(fd, data)) {
        if (current >= 0) {
            offset = send_file(current, offset, fd, err);
        }
        int newest = offset >= 0 ? open_log(life, name, CONTAINER_CONSOLE) : -1;
        if (newest < 0 || (current >= 0 && is_same_file(newest, current))) {
            if (newest >= 0) {
                close(newest);
            }
            continue;
        }
        if (current >= 0) {
            close(current);
        }
        current = newest;
        offset = 0;
    }
    return offset < 0 ? (int)offset : 0;
}

static int serve_logs(const struct life *life, const char *name, bool follows, int fd,
                      struct error *err)
{
    AUTO_CLOSE int old = open_log(life, name, CONTAINER_CONSOLE ".1");
    AUTO_CLOSE int log = open_log(life, name, CONTAINER_CONSOLE);
    int64_t offset = old >= 0 ? send_file(old, 0, fd, err) : 0;
    if (offset >= 0) {
        offset = log >= 0 ? send_file(log, 0, fd, err) : 0;
    }
    if (offset < 0) {
        return (int)offset;
    }
    int rc = follows ? follow_log(life, name, TAKE_FD(log), offset, fd, err) : 0;
    return rc < 0 ? rc : session_send_control(fd, json_pack("{s:i}", "exit", 0), err);
}

/* "NAME=VALUE" of an object. */
static int add_environment(struct program *program, const json_t *environment, struct error *err)
{
    const char *name;
    json_t *value;
    int rc = 0;
    json_object_foreach((json_t *)environment, name, value)
    {
        const char *text = json_string_value(value);
        if (text == NULL || *name == '\0' || strchr(name, '=') != NULL) {
            rc = rc < 0 ? rc : error_set(err, EINVAL, "environment: texts by name");
        } else if (rc == 0) {
            rc = program_add_variable(program, name, text, err);
        }
    }
    return rc;
}

static int serve_exec(const struct life *life, const char *name, const json_t *request, int fd,
                      struct error *err)
{
    struct program program = {.life = life, .name = name, .fd = fd, .cwd = text_of(request, "cwd")};
    const json_t *command = json_object_get(request, "command");
    size_t i;
    json_t *word;
    program.has_terminal = json_is_true(json_object_get(request, "terminal"));
    program.columns = json_integer_value(json_object_get(request, "columns"));
    program.rows = json_integer_value(json_object_get(request, "rows"));
    int rc = json_array_size(command) == 0 || !json_is_array(command)
                 ? error_set(err, EINVAL, "command: a list of words")
                 : 0;
    rc = rc < 0 ? rc : program_set_user(&program, text_of(request, "user"), err);
    rc = rc < 0 ? rc : add_environment(&program, json_object_get(request, "environment"), err);
    json_array_foreach(command, i, word)
    {
        const char *text = json_string_value(word);
        rc = rc < 0         ? rc
             : text == NULL ? error_set(err, EINVAL, "command: a list of words")
                            : program_add_word(&program, text, err);
    }
    rc = rc < 0 ? rc : program_run(&program, err);
    program_fini(&program);
    return rc;
}

/* 'path' in the container: unpacked there from standard input, or packed to standard output. */
static int serve_tar(const struct life *life, const char *name, const char *path, bool is_push,
                     int fd, struct error *err)
{
    static const char push[] = "mkdir -p -- \"$1\" && cd -- \"$1\" && exec tar -x -p -f -";
    static const char pull[] = "p=${1%/}; case $p in */*) d=${p%/*};; *) d=;; esac; "
                               "cd -- \"${d:-/}\" && exec tar -c -f - -- \"./${p##*/}\"";
    if (path == NULL || path[0] != '/') {
        return error_set(err, EINVAL, "path: an absolute one");
    }
    struct program program = {.life = life, .name = name, .fd = fd};
    const char *words[] = {"/bin/sh", "-c", is_push ? push : pull, "sh", path};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(words); i++) {
        rc = program_add_word(&program, words[i], err);
    }
    rc = rc < 0 ? rc : program_run(&program, err);
    program_fini(&program);
    return rc;
}

int container_session(const struct place *place, const json_t *document, const json_t *request,
                      int fd, struct error *err)
{
    struct life life;
    const char *name = text_of(document, "name"), *what = text_of(request, "do");
    int rc = container_open(place, NULL, &life, err);
    if (rc < 0 || what == NULL || name == NULL) {
        return rc < 0 ? rc : error_set(err, EINVAL, "do: missing");
    }
    if (strcmp(what, "logs") == 0) {
        return serve_logs(&life, name, json_is_true(json_object_get(request, "follow")), fd, err);
    }
    rc = must_run(&life, name, err);
    if (rc < 0) {
        return rc;
    }
    if (strcmp(what, "console") == 0) {
        return serve_console(&life, name, fd, err);
    }
    if (strcmp(what, "exec") == 0) {
        return serve_exec(&life, name, request, fd, err);
    }
    bool is_push = strcmp(what, "push") == 0;
    if (is_push || strcmp(what, "pull") == 0) {
        return serve_tar(&life, name, text_of(request, "path"), is_push, fd, err);
    }
    return error_set(err, EINVAL, "do '%.40s': exec, console, push, pull or logs", what);
}
