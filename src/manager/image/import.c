/* image-import: archives of root file systems, disks, and images of OCI registries. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "manager/image/files.h"
#include "manager/image/oci.h"
#include "manager/image/tool.h"
#include "manager/image/work.h"
#include "manager/text.h"
#include "system/layers/layers.h"

#define DISK "disk.qcow2"

struct import {
    struct job *job;
    char folder[PATH_MAX]; /* of the job, aside */
    char path[PATH_MAX];   /* what is taken */
    char format[16];
    char source[200];
};

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcasecmp(text + length - end_length, end) == 0;
}

/* By what the name ends in; disks are looked at. */
static const char *format_of_name(const char *name)
{
    static const char *const ends[][2] = {
        {".tar", "tar"},     {".tar.gz", "tar"},  {".tgz", "tar"},     {".tar.xz", "tar"},
        {".tar.zst", "tar"}, {".tar.bz2", "tar"}, {".qcow2", "qcow2"}, {".vmdk", "vmdk"},
        {".vhdx", "vhdx"},   {".raw", "raw"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(ends); i++) {
        if (ends_with(name, ends[i][0])) {
            return ends[i][1];
        }
    }
    return "";
}

static bool is_format(const char *format)
{
    static const char *const formats[] = {"", "tar", "qcow2", "raw", "vmdk", "vhdx", "oci"};
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        if (strcmp(format, formats[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* Into the job's folder. Only what a server of the web can give: no files of this host by a URL. */
static int download(struct import *import, const char *url, struct error *err)
{
    (void)snprintf(import->path, sizeof(import->path), "%.3900s/download", import->folder);
    const char *const argv[] = {"curl",        "--fail",   "--silent",    "--show-error",
                                "--location",  "--proto",  "=http,https", "--proto-redir",
                                "=http,https", "--output", import->path,  "--",
                                url,           NULL};
    const struct tool tool = {.package = "curl", .argv = argv};
    job_progress(import->job, "downloading", 0, 0);
    return tool_run(import->job, &tool, err);
}

static int find_source(struct import *import, struct error *err)
{
    const char *path = text_or_empty(import->job->request, "path"),
               *url = text_or_empty(import->job->request, "url");
    const char *format = text_or_empty(import->job->request, "format");
    struct stat st;
    if ((path[0] != '\0') == (url[0] != '\0')) {
        return error_set(err, EINVAL, "importing an image: needs a path, or a url");
    }
    if (!is_format(format)) {
        return error_set(err, EINVAL, "format '%.64s': tar, qcow2, raw, vmdk, vhdx or oci", format);
    }
    const char *from = path[0] != '\0' ? path : url;
    (void)snprintf(import->source, sizeof(import->source), "import %.190s", from);
    (void)snprintf(import->format, sizeof(import->format), "%s",
                   format[0] != '\0' ? format : format_of_name(from));
    if (strncmp(url, "http://", 7) == 0 || strncmp(url, "https://", 8) == 0) {
        return download(import, url, err);
    }
    if (url[0] != '\0') {
        (void)snprintf(import->path, sizeof(import->path), "%.4000s", url);
        (void)snprintf(import->format, sizeof(import->format), "oci");
        return 0;
    }
    if (path[0] != '/' || strlen(path) >= sizeof(import->path) || stat(path, &st) < 0) {
        return error_set_errno(err, path[0] != '/' ? EINVAL : errno, "importing %.150s", path);
    }
    (void)snprintf(import->path, sizeof(import->path), "%s%s", S_ISDIR(st.st_mode) ? "oci:" : "",
                   path);
    if (S_ISDIR(st.st_mode)) {
        (void)snprintf(import->format, sizeof(import->format), "oci");
    }
    return 0;
}

/* Kernel or initrd that came with a disk. */
static int take_file(struct import *import, const char *key, const char *name, struct error *err)
{
    char to[PATH_MAX];
    struct stat st;
    const char *from = text_or_empty(import->job->request, key);
    if (from[0] == '\0') {
        return 0;
    }
    (void)snprintf(to, sizeof(to), "%.3900s/%s", import->folder, name);
    AUTO_CLOSE int in = open(from, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (in < 0 || fstat(in, &st) < 0 || !S_ISREG(st.st_mode)) {
        return error_set(err, EINVAL, "%s %.150s: cannot be read, or is no file", key, from);
    }
    AUTO_CLOSE int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    return out < 0 ? error_set_errno(err, errno, "writing %s", to) : file_copy(in, out, from, err);
}

static int describe_disk(struct import *import, uint64_t size, char out_digest[72], json_t **out_vm,
                         struct error *err)
{
    const json_t *request = import->job->request;
    const char *append = text_or_empty(request, "append");
    bool has_kernel = text_or_empty(request, "kernel")[0] != '\0';
    bool has_initrd = text_or_empty(request, "initrd")[0] != '\0';
    if (strlen(append) >= sizeof(((struct image_vm_files *)NULL)->append)) {
        return error_set(err, EINVAL, "append: at most %zu bytes",
                         sizeof(((struct image_vm_files *)NULL)->append) - 1);
    }
    if (!has_kernel && (has_initrd || append[0] != '\0')) {
        return error_set(err, EINVAL, "initrd and append: need a kernel");
    }
    json_t *vm =
        json_pack("{s:s, s:s, s:I, s:s, s:s, s:s}", "disk", DISK, "format", "qcow2",
                  "virtual_size_bytes", (json_int_t)size, "kernel", has_kernel ? "vmlinuz" : "",
                  "initrd", has_initrd ? "initrd" : "", "append", append);
    int rc = take_file(import, "kernel", "vmlinuz", err);
    rc = rc < 0 ? rc : take_file(import, "initrd", "initrd", err);
    job_progress(import->job, "reading the disk", 80, 100);
    rc = rc < 0 ? rc : files_describe(import->job, import->folder, NULL, vm, out_digest, err);
    if (rc < 0) {
        json_decref(vm);
        return rc;
    }
    *out_vm = vm;
    return 0;
}

static int import_disk(struct import *import, json_t **out_document, struct error *err)
{
    char to[PATH_MAX], format[16], digest[72];
    uint64_t size;
    struct stat st;
    json_t *vm = NULL;
    (void)snprintf(to, sizeof(to), "%.3900s/" DISK, import->folder);
    int rc = work_disk_info(import->job, import->path,
                            import->format[0] != '\0' ? import->format : NULL, format, &size, err);
    /* Any file would do for one. */
    if (rc == 0 && import->format[0] == '\0' && strcmp(format, "raw") == 0 &&
        !ends_with(import->source, ".img")) {
        rc = error_set(err, EINVAL,
                       "%.150s: is of no known format: if it is a raw disk, say so: format raw",
                       text_or_empty(import->job->request, "path"));
    }
    job_progress(import->job, "copying the disk", 10, 100);
    rc = rc < 0 ? rc : work_convert(import->job, import->path, format, to, "qcow2", err);
    rc = rc < 0 ? rc : describe_disk(import, size, digest, &vm, err);
    if (rc < 0) {
        return rc;
    }
    if (ends_with(import->path, "/download")) {
        (void)unlink(import->path); /* it goes with the folder in any case */
    }
    int64_t used = stat(to, &st) == 0 ? (int64_t)st.st_blocks * 512 : 0;
    rc = files_commit(&import->job->place, import->folder, digest, err);
    rc = rc < 0
             ? rc
             : work_document(&import->job->place, digest, import->source, false, out_document, err);
    if (rc < 0) {
        json_decref(vm);
        return rc;
    }
    json_object_set_new(*out_document, "size_bytes", json_integer(used));
    json_object_set_new(*out_document, "forms", json_pack("[s]", "vm"));
    json_object_set_new(*out_document, "vm", vm);
    return 0;
}

static int import_tree(struct import *import, json_t **out_document, struct error *err)
{
    char digest[TEMPLATE_DIGEST_SIZE], root[PATH_MAX];
    int rc = 0;
    if (strcmp(import->format, "oci") == 0) {
        rc = oci_unpack(import->job, import->path, import->folder, root, err);
    } else {
        (void)snprintf(root, sizeof(root), "%s", import->path);
    }
    struct template_build request = {.root_tree = root};
    rc = rc < 0 ? rc : work_template(import->job, &request, digest, err);
    return rc < 0 ? rc
                  : work_document(&import->job->place, digest, import->source, true, out_document,
                                  err);
}

int image_import(struct job *job, json_t **out_result, struct error *err)
{
    struct import import = {.job = job};
    const char *alias = text_or_empty(job->request, "alias");
    json_t *document;
    int rc = alias[0] != '\0' ? image_check_alias(alias, err) : 0;
    rc = rc < 0 ? rc : files_begin(job, import.folder, err);
    if (rc < 0) {
        return rc;
    }
    rc = find_source(&import, err);
    if (rc == 0) {
        bool is_tree = strcmp(import.format, "tar") == 0 || strcmp(import.format, "oci") == 0;
        rc = is_tree ? import_tree(&import, &document, err) : import_disk(&import, &document, err);
    }
    files_abandon(import.folder);
    return rc < 0 ? rc : work_finish(job, document, false, alias, out_result, err);
}
