#include "manager/image/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <nettle/sha2.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "manager/image/image.h"
#include "manager/image/names.h"
#include "manager/text.h"
#include "system/layers/layers.h"

#define FORMAT       1
#define MAX_MANIFEST (1u << 20)
#define MAX_DOCUMENT (4u << 20)
#define PIECE        (1u << 20)
#define AREA         "images"

static const char *const file_keys[] = {"disk", "kernel", "initrd"}; /* of "vm" */

/* One word that is the name of a file in a folder. */
static bool is_plain(const char *name)
{
    return name[0] != '\0' && name[0] != '.' && strchr(name, '/') == NULL && strlen(name) < 200;
}

int files_begin(struct job *job, char out_folder[PATH_MAX], struct error *err)
{
    char name[64];
    (void)snprintf(name, sizeof(name), ".build-%.40s", job->id);
    place_state_path(&job->place, AREA, name, NULL, out_folder);
    int rc = layers_remove(out_folder, err);
    return rc < 0 ? rc : file_make_folders(out_folder, 0700, 0711, err);
}

void files_abandon(const char *folder)
{
    error_ignore(layers_remove(folder, NULL)); /* the next prune tries again */
}

static void to_hex(const uint8_t *digest, char out_hex[IMAGE_SHA256_SIZE])
{
    for (int i = 0; i < SHA256_DIGEST_SIZE; i++) {
        (void)snprintf(out_hex + (size_t)2 * i, 3, "%02x", digest[i]);
    }
}

static int hash_file(struct job *job, int fd, const char *path, char out_hex[IMAGE_SHA256_SIZE],
                     struct error *err)
{
    uint8_t digest[SHA256_DIGEST_SIZE];
    struct sha256_ctx sha;
    AUTO_FREE uint8_t *piece = malloc(PIECE);
    if (piece == NULL) {
        return error_set_errno(err, ENOMEM, "reading %s", path);
    }
    sha256_init(&sha);
    for (;;) {
        ssize_t got = read(fd, piece, PIECE);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return error_set_errno(err, errno, "reading %s", path);
        }
        if (got == 0) {
            break;
        }
        if (job_is_cancelled(job)) {
            return error_set(err, ECANCELED, "reading %s: cancelled", path);
        }
        sha256_update(&sha, (size_t)got, piece);
    }
    sha256_digest(&sha, sizeof(digest), digest);
    to_hex(digest, out_hex);
    return 0;
}

static int open_file(const char *path, int *out_fd, struct stat *out_stat, struct error *err)
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "reading %s", path);
    }
    if (fstat(fd, out_stat) < 0 || !S_ISREG(out_stat->st_mode)) {
        close(fd);
        return error_set(err, EBADMSG, "%s: is no file", path);
    }
    *out_fd = fd;
    return 0;
}

static json_int_t mtime_of(const struct stat *st)
{
    return (json_int_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

static int describe_file(struct job *job, const char *folder, const char *name, json_t *files,
                         struct error *err)
{
    char path[PATH_MAX], hex[IMAGE_SHA256_SIZE];
    struct stat st;
    AUTO_CLOSE int fd = -1;
    (void)snprintf(path, sizeof(path), "%.3800s/%s", folder, name);
    int rc = open_file(path, &fd, &st, err);
    rc = rc < 0 ? rc : hash_file(job, fd, name, hex, err);
    if (rc == 0 && fsync(fd) < 0) {
        rc = error_set_errno(err, errno, "writing %s", path);
    }
    if (rc == 0) {
        json_array_append_new(files, json_pack("{s:s, s:I, s:I, s:s}", "name", name, "size",
                                               (json_int_t)st.st_size, "mtime_ns", mtime_of(&st),
                                               "sha256", hex));
    }
    return rc;
}

/* Of what a disk alone is: its files' digests, and how they boot. */
static void make_digest(const json_t *files, const json_t *vm, char out_digest[72])
{
    uint8_t digest[SHA256_DIGEST_SIZE];
    char hex[IMAGE_SHA256_SIZE];
    struct sha256_ctx sha;
    const json_t *file;
    size_t i;
    sha256_init(&sha);
    json_array_foreach(files, i, file)
    {
        sha256_update(&sha, 64, (const uint8_t *)text_or_empty(file, "sha256"));
    }
    const char *append = text_or_empty(vm, "append");
    sha256_update(&sha, strlen(append), (const uint8_t *)append);
    sha256_digest(&sha, sizeof(digest), digest);
    to_hex(digest, hex);
    (void)snprintf(out_digest, 72, "sha256-%s", hex);
}

int files_describe(struct job *job, const char *folder, const char *digest, const json_t *vm,
                   char out_digest[72], struct error *err)
{
    char path[PATH_MAX], made[72];
    json_t *files = json_array();
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(file_keys); i++) {
        const char *name = text_or_empty(vm, file_keys[i]);
        rc = name[0] != '\0' ? describe_file(job, folder, name, files, err) : 0;
    }
    if (rc < 0) {
        json_decref(files);
        return rc;
    }
    make_digest(files, vm, made);
    (void)snprintf(out_digest, 72, "%.71s", digest != NULL ? digest : made);
    json_t *manifest = json_pack("{s:i, s:s, s:o, s:O}", "format", FORMAT, "image", out_digest,
                                 "files", files, "vm", vm);
    char *text = manifest != NULL ? json_dumps(manifest, JSON_INDENT(2)) : NULL;
    json_decref(manifest);
    if (text == NULL) {
        return error_set_errno(err, ENOMEM, "describing the image");
    }
    (void)snprintf(path, sizeof(path), "%.3800s/manifest.json", folder);
    rc = file_replace(path, text, 0644, true, err);
    free(text);
    return rc;
}

int files_commit(const struct place *place, const char *folder, const char *digest,
                 struct error *err)
{
    char path[PATH_MAX];
    json_t *vm;
    if (files_open(place, digest, &vm, NULL) == 0) {
        json_decref(vm);
        files_abandon(folder);
        return 0;
    }
    int rc = files_remove(place, digest, err); /* what is there is half of one, or was changed */
    place_state_path(place, AREA, digest, NULL, path);
    if (rc == 0 && rename(folder, path) < 0) {
        rc = error_set_errno(err, errno, "moving the image to %s", path);
    }
    place_state_path(place, AREA, NULL, NULL, path);
    AUTO_CLOSE int fd = rc == 0 ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (rc == 0 && (fd < 0 || fsync(fd) < 0)) {
        rc = error_set_errno(err, errno, "writing %s", path);
    }
    return rc;
}

static bool is_known_file(const json_t *files, const char *name)
{
    const json_t *file;
    size_t i;
    json_array_foreach(files, i, file)
    {
        if (strcmp(text_or_empty(file, "name"), name) == 0) {
            return true;
        }
    }
    return false;
}

int files_parse(const char *text, const char *digest, json_t **out_manifest, struct error *err)
{
    json_error_t why;
    json_t *manifest = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    if (manifest == NULL) {
        return error_set(err, EBADMSG, "manifest of the image %.71s: line %d: %.100s", digest,
                         why.line, why.text);
    }
    const json_t *files = json_object_get(manifest, "files"), *vm = json_object_get(manifest, "vm");
    const json_t *file;
    size_t i;
    bool is_good = json_integer_value(json_object_get(manifest, "format")) == FORMAT &&
                   strcmp(text_or_empty(manifest, "image"), digest) == 0 && json_is_array(files) &&
                   json_is_object(vm) && is_known_file(files, text_or_empty(vm, "disk")) &&
                   text_or_empty(vm, "format")[0] != '\0';
    json_array_foreach(files, i, file)
    {
        is_good = is_good && is_plain(text_or_empty(file, "name")) &&
                  strlen(text_or_empty(file, "sha256")) == 64 &&
                  json_is_integer(json_object_get(file, "size")) &&
                  json_is_integer(json_object_get(file, "mtime_ns"));
    }
    for (i = 0; is_good && i < ARRAY_COUNT(file_keys); i++) {
        const char *name = text_or_empty(vm, file_keys[i]);
        is_good = name[0] == '\0' || is_known_file(files, name);
    }
    if (!is_good) {
        json_decref(manifest);
        return error_set(err, EBADMSG, "manifest of the image %.71s: is not one of it", digest);
    }
    *out_manifest = manifest;
    return 0;
}

static int load(const struct place *place, const char *digest, json_t **out_manifest,
                struct error *err)
{
    char path[PATH_MAX];
    void *text;
    size_t size;
    place_state_path(place, AREA, digest, "manifest.json", path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "reading %s", path);
    }
    int rc = file_read_whole(fd, MAX_MANIFEST, path, &text, &size, err);
    if (rc == 0) {
        rc = files_parse(text, digest, out_manifest, err);
        free(text);
    }
    return rc;
}

/* 'job' NULL: sizes and times alone. */
static int compare(const struct place *place, struct job *job, const char *digest,
                   const json_t *manifest, struct error *err)
{
    const json_t *files = json_object_get(manifest, "files"), *file;
    size_t i;
    json_array_foreach(files, i, file)
    {
        char path[PATH_MAX], hex[IMAGE_SHA256_SIZE];
        struct stat st;
        AUTO_CLOSE int fd = -1;
        place_state_path(place, AREA, digest, text_or_empty(file, "name"), path);
        int rc = open_file(path, &fd, &st, err);
        if (rc < 0) {
            return error_prefix(err, rc, "image %.71s", digest);
        }
        bool is_same = st.st_size == json_integer_value(json_object_get(file, "size"));
        if (job == NULL) {
            is_same =
                is_same && mtime_of(&st) == json_integer_value(json_object_get(file, "mtime_ns"));
        } else if (is_same) {
            job_progress(job, "reading the files", i, json_array_size(files));
            rc = hash_file(job, fd, path, hex, err);
            if (rc < 0) {
                return rc;
            }
            is_same = strcmp(hex, text_or_empty(file, "sha256")) == 0;
        }
        if (!is_same) {
            return error_set(err, EBADMSG,
                             "image %.71s: %s was changed: delete the image and make it again",
                             digest, text_or_empty(file, "name"));
        }
    }
    return 0;
}

int files_open(const struct place *place, const char *digest, json_t **out_vm, struct error *err)
{
    json_t *manifest;
    int rc = load(place, digest, &manifest, err);
    if (rc < 0) {
        return rc;
    }
    rc = compare(place, NULL, digest, manifest, err);
    if (rc == 0) {
        *out_vm = json_incref(json_object_get(manifest, "vm"));
    }
    json_decref(manifest);
    return rc;
}

int files_check(struct job *job, const char *digest, struct error *err)
{
    json_t *manifest;
    int rc = load(&job->place, digest, &manifest, err);
    if (rc == 0) {
        rc = compare(&job->place, job, digest, manifest, err);
        json_decref(manifest);
    }
    return rc;
}

int files_remove(const struct place *place, const char *digest, struct error *err)
{
    char path[PATH_MAX];
    place_state_path(place, AREA, digest, NULL, path);
    return layers_remove(path, err);
}

static bool names_digest(const char *path, const char *digest)
{
    void *text;
    size_t size;
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || file_read_whole(fd, MAX_DOCUMENT, path, &text, &size, NULL) < 0) {
        return false;
    }
    bool is_named = memmem(text, size, digest, strlen(digest)) != NULL;
    free(text);
    return is_named;
}

int files_users(const struct place *place, const char *digest, json_t **out_names,
                struct error *err)
{
    char path[PATH_MAX];
    json_t *names = json_array();
    place_state_path(place, "instances", NULL, NULL, path);
    DIR *dir = opendir(path);
    if (dir == NULL && errno != ENOENT) {
        json_decref(names);
        return error_set_errno(err, errno, "reading the folder %s", path);
    }
    struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        place_state_path(place, "instances", entry->d_name, "instance.yaml", path);
        if (entry->d_name[0] != '.' && names_digest(path, digest)) {
            json_array_append_new(names, json_string(entry->d_name));
        }
    }
    if (dir != NULL) {
        (void)closedir(dir); /* nothing was written */
    }
    *out_names = names;
    return 0;
}

int image_vm_files(const struct place *place, const json_t *image, struct image_vm_files *out_files,
                   struct error *err)
{
    const char *digest = text_or_empty(image, "name");
    json_t *vm;
    int rc = image_is_digest(digest)
                 ? files_open(place, digest, &vm, err)
                 : error_set(err, EINVAL, "image '%.64s': has no digest", digest);
    if (rc == -ENOENT) {
        return error_set(err, ENOENT, "image %.71s: has no form for VMs", digest);
    }
    if (rc < 0) {
        return rc;
    }
    const char *kernel = text_or_empty(vm, "kernel"), *initrd = text_or_empty(vm, "initrd");
    *out_files = (struct image_vm_files){0};
    place_state_path(place, AREA, digest, text_or_empty(vm, "disk"), out_files->disk);
    if (kernel[0] != '\0') {
        place_state_path(place, AREA, digest, kernel, out_files->kernel);
    }
    if (initrd[0] != '\0') {
        place_state_path(place, AREA, digest, initrd, out_files->initrd);
    }
    (void)snprintf(out_files->format, sizeof(out_files->format), "%s", text_or_empty(vm, "format"));
    (void)snprintf(out_files->append, sizeof(out_files->append), "%s", text_or_empty(vm, "append"));
    json_decref(vm);
    return 0;
}
