/* Rubbish for hull-agent and for the host's end of it; the first byte says as what: a tar stream, a request, a guest's
 * files (passwd, group, hosts, mountinfo), or JSON that a guest sends. What is accepted is walked through, and entries of
 * tar come back from a stream of our own. */
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/hosts.h"
#include "agent/mounts.h"
#include "agent/program.h"
#include "agent/request.h"
#include "agent/tar.h"
#include "agent/user.h"
#include "base/core/invariant.h"
#include "manager/instance/vm/agent_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Nothing is started here. */
void program_run_behind(const char *const *argv)
{
}

#define ENTRIES_MAX 1000

struct stream {
    uint8_t *byte;
    size_t size, at;
};

static int stream_read(void *ctx, void *data, size_t size, struct error *err)
{
    struct stream *s = ctx;
    if (size > s->size - s->at) {
        return error_set(err, ENODATA, "the end");
    }
    memcpy(data, s->byte + s->at, size);
    s->at += size;
    return 0;
}

static int stream_write(void *ctx, const void *data, size_t size, struct error *err)
{
    struct stream *s = ctx;
    s->byte = realloc(s->byte, s->size + size);
    invariant(s->byte != NULL);
    memcpy(s->byte + s->size, data, size);
    s->size += size;
    return 0;
}

static void check_comes_back(const struct tar_entry *e)
{
    struct stream s = {0};
    struct tar_reader r = {.read = stream_read, .ctx = &s};
    struct error err = {0};
    invariant(tar_write_head(stream_write, &s, e, &err) == 0 && s.size % TAR_BLOCK == 0);
    invariant(tar_next(&r, &err) == 1);
    invariant(strcmp(r.entry.path, e->path) == 0 && strcmp(r.entry.target, e->target) == 0);
    invariant(r.entry.type == e->type && r.entry.mode == e->mode && r.entry.size == e->size);
    invariant(r.entry.uid == e->uid && r.entry.gid == e->gid);
    invariant(r.entry.time.tv_sec == e->time.tv_sec && r.entry.time.tv_nsec == e->time.tv_nsec);
    tar_reader_end(&r);
    free(s.byte);
}

static void try_tar(const uint8_t *data, size_t size)
{
    struct stream s = {.byte = (uint8_t *)data, .size = size};
    struct tar_reader r = {.read = stream_read, .ctx = &s};
    struct error err = {0};
    uint8_t some[100];
    size_t got;
    int rc = 1;
    for (int i = 0; i < ENTRIES_MAX && rc > 0 && (rc = tar_next(&r, &err)) > 0; i++) {
        const struct tar_entry *e = &r.entry;
        invariant(e->path[0] != '\0' && strlen(e->path) < PATH_MAX && strlen(e->target) < PATH_MAX);
        invariant((e->mode & ~07777u) == 0 && e->size <= INT64_MAX);
        invariant(e->uid != UINT32_MAX && e->gid != UINT32_MAX);
        invariant(e->time.tv_nsec >= 0 && e->time.tv_nsec < 1000000000);
        check_comes_back(e);
        if (tar_read(&r, some, sizeof(some), &got, &err) == 0) {
            invariant(got <= sizeof(some) && got <= e->size);
        }
    }
    invariant(rc >= 0 || err.text[0] != '\0');
    tar_reader_end(&r);
}

static void try_request(const char *text, size_t size)
{
    struct request r;
    struct error err = {0};
    int rc = request_parse(text, size, &r, &err);
    invariant(rc == 0 || err.text[0] != '\0');
    if (rc < 0) {
        return;
    }
    for (size_t i = 0; r.command != NULL && r.command[i] != NULL; i++) {
        (void)strlen(r.command[i]);
    }
    for (size_t i = 0; r.environment != NULL && r.environment[i] != NULL; i += 2) {
        invariant(strchr(r.environment[i], '=') == NULL && r.environment[i + 1] != NULL);
    }
    invariant(r.path == NULL || r.path[0] == '/');
    invariant(r.hostname == NULL || strpbrk(r.hostname, " \t\n#/") == NULL);
    invariant(r.time_ns >= 0);
    request_free(&r);
}

static void try_files(char *text, size_t size)
{
    struct user user;
    struct mount_entry entry;
    FILE *passwd = size > 0 ? fmemopen(text, size, "r") : NULL;
    FILE *group = size > 0 ? fmemopen(text, size, "r") : NULL;
    if (user_find_in(passwd, group, "me", &user, NULL) == 0) {
        invariant(user.home[0] == '/' && user.shell[0] == '/' && user.uid != UINT32_MAX);
        invariant(user.group_count <= USER_MAX_GROUPS);
    }
    if (passwd != NULL) {
        (void)fclose(passwd);
    }
    if (group != NULL) {
        (void)fclose(group);
    }
    char *hosts = hosts_rename(text, "old", "new");
    invariant(hosts != NULL && strstr(hosts, "new") != NULL);
    char *again = hosts_rename(hosts, "old", "new");
    invariant(again != NULL && strcmp(hosts, again) == 0);
    free(hosts);
    free(again);
    if (mounts_parse_line(text, &entry)) {
        invariant(entry.place != NULL && entry.type != NULL && entry.source != NULL);
    }
}

static void check_clean(const char *text)
{
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
        invariant(*c >= 0x20 && *c != 0x7f && !(*c == 0xc2 && c[1] < 0xa0));
    }
}

static void try_guest(const char *text, size_t size)
{
    json_t *object = NULL;
    struct error err = {0};
    bool is_last;
    if (agent_text_parse(text, size, &object, &err) == 0) {
        char *words = json_dumps(object, JSON_COMPACT);
        invariant(words != NULL);
        check_clean(words);
        free(words);
        invariant(agent_text_error(object, &err) < 0);
        check_clean(err.text);
        json_decref(object);
    }
    if (agent_text_control(text, size, &object, &is_last, &err) == 0) {
        invariant(json_object_size(object) == 1);
        invariant(is_last == (json_object_get(object, "started") == NULL));
        json_decref(object);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    char *text = malloc(size); /* without the first byte, and with an end */
    invariant(text != NULL);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    switch (data[0] & 3) {
    case 0:
        try_tar((const uint8_t *)text, size - 1);
        break;
    case 1:
        try_request(text, size - 1);
        break;
    case 2:
        try_files(text, strlen(text));
        break;
    default:
        try_guest(text, size - 1);
    }
    free(text);
    return 0;
}
