#include "manager/image/work.h"
#include "manager/containers.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "manager/image/files.h"
#include "manager/image/tool.h"
#include "manager/text.h"
#include "system/template/catalog.h"
#include "system/template/manifest.h"

#define MAX_RELEASE (64u << 10)

static int show_template(void *ctx, const char *what, int percent)
{
    struct job *job = ctx;
    job_progress(job, what, percent > 0 ? (uint64_t)percent : 0, 100);
    return job_is_cancelled(job);
}

/* The name that keeps it lives as long as the image. */
static int rename_template(const struct store *store, const char *from, const char *digest,
                           struct error *err)
{
    char name[65];
    int lock;
    image_template_name(digest, name);
    int rc = manifest_lock(store, &lock, err);
    if (rc == 0) {
        rc = catalog_set_name(store, name, digest, err);
        close(lock);
    }
    return rc < 0 ? rc : template_delete(store, from, true, err);
}

/* What a dead worker built for the same operation. */
static bool was_built(struct job *job, const struct store *store,
                      char out_digest[TEMPLATE_DIGEST_SIZE])
{
    struct template_layers layers;
    const char *digest = text_or_empty(job_find_step(job, "template"), "digest");
    if (!job->is_recovery || digest[0] == '\0' ||
        template_open(store, digest, true, &layers, NULL) < 0) {
        return false;
    }
    memcpy(out_digest, layers.digest, TEMPLATE_DIGEST_SIZE);
    template_close(&layers);
    return true;
}

int work_template(struct job *job, struct template_build *request,
                  char out_digest[TEMPLATE_DIGEST_SIZE], struct error *err)
{
    struct store store;
    char name[65];
    int rc = containers_store(&job->place, &store, err);
    if (rc < 0 || was_built(job, &store, out_digest)) {
        return rc;
    }
    (void)snprintf(name, sizeof(name), "building-%.40s", job->id);
    request->name = name;
    request->progress = show_template;
    request->ctx = job;
    rc = template_build(&store, request, out_digest, err);
    rc = rc < 0 ? rc : rename_template(&store, name, out_digest, err);
    return rc < 0 ? rc : job_step(job, "template", json_pack("{s:s}", "digest", out_digest), err);
}

/* NAME=VALUE of os-release; what is no plain text is left out. */
static void take_release(const char *text, const char *key, json_t *os, const char *as)
{
    size_t length = strlen(key);
    for (const char *line = text; line != NULL && *line != '\0';) {
        if (strncmp(line, key, length) == 0 && line[length] == '=') {
            char value[80];
            const char *from = line + length + 1;
            from += *from == '"' || *from == '\'';
            (void)snprintf(value, sizeof(value), "%.*s", (int)MIN(strcspn(from, "\"'\n"), 70u),
                           from);
            json_t *word = json_string(value);
            if (word != NULL) {
                json_object_set_new(os, as, word);
            }
            return;
        }
        line = strchr(line, '\n');
        line = line != NULL ? line + 1 : NULL;
    }
}

/* The tree's links lead nowhere but into it. */
static json_t *read_os(const char *root)
{
    static const char *const paths[] = {"etc/os-release", "usr/lib/os-release"};
    json_t *os = json_object();
    AUTO_CLOSE int folder = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    for (size_t i = 0; folder >= 0 && i < ARRAY_COUNT(paths) && json_object_size(os) == 0; i++) {
        struct open_how how = {.flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC,
                               .resolve = RESOLVE_IN_ROOT};
        AUTO_CLOSE int fd = (int)syscall(SYS_openat2, folder, paths[i], &how, sizeof(how));
        void *text;
        size_t size;
        if (fd >= 0 && file_read_whole(fd, MAX_RELEASE, paths[i], &text, &size, NULL) == 0) {
            take_release(text, "ID", os, "id");
            take_release(text, "VERSION_ID", os, "version");
            take_release(text, "VERSION_CODENAME", os, "codename");
            free(text);
        }
    }
    return os;
}

static int describe_template(const struct place *place, const char *digest, json_t *document,
                             struct error *err)
{
    struct store store;
    struct manifest manifest;
    char root[PATH_MAX];
    int rc = containers_store(place, &store, err);
    rc = rc < 0 ? rc : manifest_load(&store, digest, &manifest, err);
    if (rc < 0) {
        return rc;
    }
    json_object_set(document, "size_bytes", json_object_get(manifest.document, "size_bytes"));
    json_object_set(document, "packages", json_object_get(manifest.document, "packages"));
    json_object_set_new(document, "forms", json_pack("[s]", "container"));
    store_template_path(&store, digest, "root", root);
    json_object_set_new(document, "os", read_os(root));
    manifest_fini(&manifest);
    return 0;
}

int work_document(const struct place *place, const char *digest, const char *source,
                  bool has_template, json_t **out_document, struct error *err)
{
    struct utsname host;
    char when[32];
    time_t now = time(NULL);
    struct tm parts;
    (void)strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &parts));
    if (uname(&host) < 0) {
        return error_set_errno(err, errno, "asking for the host's architecture");
    }
    json_t *document = json_pack("{s:s, s:s, s:{}, s:s, s:[], s:i, s:s, s:s, s:[]}", "name", digest,
                                 "description", "", "os", "architecture", host.machine, "packages",
                                 "size_bytes", 0, "created_at", when, "source", source, "forms");
    if (document == NULL) {
        return error_set_errno(err, ENOMEM, "describing the image");
    }
    int rc = has_template ? describe_template(place, digest, document, err) : 0;
    if (rc < 0) {
        json_decref(document);
        return rc;
    }
    *out_document = document;
    return 0;
}

/* The same content may have got its form for VMs before. */
static void add_vm_form(const struct place *place, json_t *document)
{
    json_t *vm;
    if (json_object_get(document, "vm") == NULL &&
        files_open(place, text_or_empty(document, "name"), &vm, NULL) == 0) {
        json_object_set_new(document, "vm", vm);
        json_array_append_new(json_object_get(document, "forms"), json_string("vm"));
    }
}

int work_finish(struct job *job, json_t *document, bool needs_vm_form, const char *alias,
                json_t **out_result, struct error *err)
{
    char digest[TEMPLATE_DIGEST_SIZE];
    json_t *whole;
    (void)snprintf(digest, sizeof(digest), "%s", text_or_empty(document, "name"));
    add_vm_form(&job->place, document);
    int rc = job_put(job, "image", digest, json_incref(document), err);
    if (rc == 0 && needs_vm_form) {
        rc = image_need_vm_form(job, document, &whole, err);
        if (rc == 0) {
            json_decref(whole);
        }
    }
    json_decref(document);
    bool has_alias = alias != NULL && alias[0] != '\0';
    if (rc == 0 && has_alias) {
        rc = job_put(job, "alias", alias, json_pack("{s:s, s:s}", "name", alias, "digest", digest),
                     err);
    }
    if (rc == 0) {
        *out_result = json_pack("{s:s, s:s}", "digest", digest, "alias", has_alias ? alias : "");
    }
    return rc;
}

int work_convert(struct job *job, const char *from, const char *from_format, const char *to,
                 const char *to_format, struct error *err)
{
    /* One piece after the other: the same disk becomes the same file. */
    const char *const argv[] = {
        "hull",      "disk",     "convert", "-q", "--parallel", "1", "--image-format",
        from_format, "--format", to_format, "--", from,         to,  NULL};
    const struct tool tool = {.package = "hull", .argv = argv};
    return tool_run(job, &tool, err);
}

int work_disk_info(struct job *job, const char *path, const char *format, char out_format[16],
                   uint64_t *out_size, struct error *err)
{
    const char *argv[8] = {"hull", "disk", "info", "--json", path};
    if (format != NULL) {
        argv[5] = "--image-format";
        argv[6] = format;
    }
    const struct tool tool = {.package = "hull", .argv = argv};
    AUTO_FREE char *text = NULL;
    int rc = tool_read(job, &tool, &text, err);
    if (rc < 0) {
        return rc;
    }
    json_t *info = json_loads(text, 0, NULL);
    const char *found = text_or_empty(info, "format");
    json_int_t size = json_integer_value(json_object_get(info, "size_bytes"));
    if (found[0] == '\0' || strlen(found) >= 16 || size <= 0) {
        json_decref(info);
        return error_set(err, EBADMSG, "%s: is no disk that `hull disk info` knows", path);
    }
    (void)snprintf(out_format, 16, "%s", found);
    *out_size = (uint64_t)size;
    json_decref(info);
    return 0;
}
