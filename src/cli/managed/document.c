/* Documents of the API as the command line shows and changes them. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/core/size.h"
#include "base/host/file.h"
#include "cli/managed/managed.h"
#include "system/config/yaml.h"

#define MAX_EDITED (1u << 20)

/* The member of that name, an object, made where it is missing. */
static json_t *inner(json_t *object, const char *key)
{
    json_t *member = json_object_get(object, key);
    if (member == NULL) {
        member = json_object();
        (void)json_object_set_new(object, key, member);
    }
    return member;
}

int managed_set(json_t *document, const char *word, struct error *err)
{
    const char *equals = strchr(word, '=');
    if (equals == NULL || equals == word) {
        return error_set(err, EINVAL, "'%.100s': KEY=VALUE or DEVICE.PROPERTY=VALUE", word);
    }
    json_t *value = json_string(equals + 1);
    AUTO_FREE char *key = strndup(word, (size_t)(equals - word));
    if (value == NULL || key == NULL) {
        json_decref(value);
        return error_set(err, EINVAL, "'%.100s': its value is not UTF-8", word);
    }
    /* The last dot: devices may have dots in their names, properties have none. */
    char *dot = strrchr(key, '.');
    json_t *into;
    const char *member = key;
    if (dot != NULL && dot != key && dot[1] != '\0') {
        *dot = '\0';
        into = inner(inner(document, "devices"), key);
        member = dot + 1;
    } else {
        into = inner(document, "config");
    }
    return json_object_set_new(into, member, value) == 0
               ? 0
               : error_set(err, EINVAL, "'%.100s': not UTF-8", word);
}

json_t *managed_difference(const json_t *before, const json_t *after)
{
    json_t *patch = json_object();
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)after, key, value)
    {
        json_t *old = json_object_get(before, key);
        if (old != NULL && json_equal(old, value)) {
            continue;
        }
        (void)json_object_set_new(patch, key,
                                  json_is_object(old) && json_is_object(value)
                                      ? managed_difference(old, value)
                                      : json_incref(value));
    }
    json_object_foreach((json_t *)before, key, value)
    {
        if (json_object_get(after, key) == NULL) {
            (void)json_object_set_new(patch, key, json_null());
        }
    }
    return patch;
}

/* $VISUAL, $EDITOR, or one that there is, on the file. */
static int run_editor(const char *path, struct error *err)
{
    const char *editor = getenv("VISUAL");
    editor = editor != NULL && editor[0] != '\0' ? editor : getenv("EDITOR");
    editor = editor != NULL && editor[0] != '\0' ? editor : "editor";
    AUTO_FREE char *command = NULL;
    if (asprintf(&command, "%s \"$1\"", editor) < 0) {
        command = NULL;
        return error_set(err, ENOMEM, "editor %s", editor);
    }
    struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
    (void)sigaction(SIGINT, &ignore, &before); /* Ctrl-C is the editor's */
    pid_t pid = fork();
    if (pid == 0) {
        (void)sigaction(SIGINT, &before, NULL);
        (void)execl("/bin/sh", "sh", "-c", command, "sh", path, (char *)NULL);
        _exit(127);
    }
    int status = -1;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    (void)sigaction(SIGINT, &before, NULL);
    return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0
               ? 0
               : error_set(err, EIO, "editor %s: has failed; nothing was changed", editor);
}

static int edit_file(const char *path, int fd, const char *what, const char *text, json_t **out_new,
                     struct error *err)
{
    int rc = file_write_all(fd, text, strlen(text), path, err);
    rc = rc < 0 ? rc : run_editor(path, err);
    if (rc < 0) {
        return rc;
    }
    AUTO_FREE void *edited = NULL;
    size_t size;
    AUTO_CLOSE int again = open(path, O_RDONLY | O_CLOEXEC); /* editors put a new file there */
    if (again < 0) {
        return error_set_errno(err, errno, "reading %s", path);
    }
    rc = file_read_whole(again, MAX_EDITED, path, &edited, &size, err);
    return rc < 0 ? rc : yaml_parse(edited, size, what, out_new, err);
}

int managed_edit(const char *what, const json_t *value, json_t **out_patch, struct error *err)
{
    AUTO_FREE char *text = NULL;
    char folder[] = "/tmp/hull-edit-XXXXXX", path[64];
    json_t *before = NULL, *after = NULL;
    *out_patch = NULL;
    int rc = yaml_write(value, &text, err);
    /* Read back, all scalars are texts: the same as what will come from the editor. */
    rc = rc < 0 ? rc : yaml_parse(text, strlen(text), what, &before, err);
    if (rc < 0) {
        return rc;
    }
    if (mkdtemp(folder) == NULL) {
        json_decref(before);
        return error_set_errno(err, errno, "a folder in /tmp");
    }
    (void)snprintf(path, sizeof(path), "%s/edit.yaml", folder);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    rc = fd < 0 ? error_set_errno(err, errno, "file %s", path)
                : edit_file(path, fd, what, text, &after, err);
    if (fd >= 0) {
        (void)close(fd);
    }
    (void)unlink(path);
    (void)rmdir(folder); /* stays when the editor has left something there */
    if (rc == 0 && !json_is_object(after)) {
        rc = error_set(err, EINVAL, "%s: must be members with values", what);
    }
    if (rc == 0 && !json_equal(before, after)) {
        *out_patch = managed_difference(before, after);
    }
    json_decref(before);
    json_decref(after);
    return rc;
}

static void set_text(json_t *row, const char *key, const char *text)
{
    (void)json_object_set_new(row, key, json_string(text));
}

void managed_add_size(json_t *row, const char *key, const char *text_key)
{
    char text[24] = "-";
    const json_t *bytes = json_object_get(row, key);
    if (json_is_integer(bytes) && json_integer_value(bytes) >= 0) {
        (void)size_format((uint64_t)json_integer_value(bytes), text, sizeof(text));
    }
    set_text(row, text_key, text);
}

/* "2026-01-01T12:00:00Z" as "2026-01-01 12:00". */
void managed_add_time(json_t *row, const char *key, const char *text_key)
{
    const char *time = json_string_value(json_object_get(row, key));
    char text[17] = "-";
    if (time != NULL && strlen(time) >= 16 && time[10] == 'T') {
        (void)snprintf(text, sizeof(text), "%.10s %.5s", time, time + 11);
    }
    set_text(row, text_key, text);
}

void managed_add_words(json_t *row, const char *key, const char *text_key)
{
    char text[200] = "";
    size_t i;
    json_t *word;
    json_array_foreach(json_object_get(row, key), i, word)
    {
        size_t used = strlen(text);
        const char *value = json_string_value(word);
        (void)snprintf(text + used, sizeof(text) - used, "%s%s", used > 0 ? " " : "",
                       value != NULL ? value : "?");
    }
    set_text(row, text_key, text[0] != '\0' ? text : "-");
}

/* Of an array the first; numbers as people write them. */
void managed_add_first(json_t *row, const char *key, const char *text_key)
{
    const json_t *value = json_object_get(row, key);
    char number[32];
    if (json_is_array(value)) {
        value = json_array_get(value, 0);
    }
    if (json_is_number(value)) {
        (void)snprintf(number, sizeof(number), "%g", json_number_value(value));
        set_text(row, text_key, number);
    } else {
        const char *text = json_string_value(value);
        set_text(row, text_key, text != NULL && text[0] != '\0' ? text : "-");
    }
}
