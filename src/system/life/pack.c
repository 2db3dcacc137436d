/* Writing and reading such files. */
#include "system/life/pack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"

#define FIRST_LINE  "hull-ct-checkpoint 1\n"
#define MAX_HEADER  (1u << 20)
#define MAX_NAME    128
#define BUFFER_SIZE (1u << 16)
#define UNFINISHED  ".unfinished"

struct packing {
    struct sha256_ctx sha;
    int fd; /* the file */
    const char *path;
    char buffer[BUFFER_SIZE];
};

static void end_digest(struct packing *p, char out[PACK_DIGEST_SIZE])
{
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_digest(&p->sha, sizeof(digest), digest);
    for (size_t i = 0; i < sizeof(digest); i++) {
        (void)snprintf(out + 2 * i, 3, "%02x", digest[i]);
    }
}

static int put(struct packing *p, const void *data, size_t size, struct error *err)
{
    sha256_update(&p->sha, size, data);
    return file_write_all(p->fd, data, size, p->path, err);
}

/* Exactly that much. */
static int take(struct packing *p, void *data, size_t size, struct error *err)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = read(p->fd, (char *)data + done, size - done);
        if (n == 0) {
            return error_set(err, EINVAL, "%s: ends too early", p->path);
        }
        if (n < 0 && errno != EINTR) {
            return error_set_errno(err, errno, "reading %s", p->path);
        }
        done += n > 0 ? (size_t)n : 0;
    }
    sha256_update(&p->sha, size, data);
    return 0;
}

/* Plain names of files, as criu gives them. */
static bool is_name(const char *name)
{
    return name != NULL && name[0] != '.' && name[0] != '\0' && strlen(name) < MAX_NAME &&
           strchr(name, '/') == NULL;
}

static int list_files(int folder, const char *path, json_t *list, struct error *err)
{
    int copy = fcntl(folder, F_DUPFD_CLOEXEC, 3);
    DIR *entries = copy >= 0 ? fdopendir(copy) : NULL;
    if (entries == NULL) {
        if (copy >= 0) {
            close(copy);
        }
        return error_set_errno(err, errno, "reading %s", path);
    }
    const struct dirent *entry;
    while ((entry = readdir(entries)) != NULL) {
        struct stat st;
        if (is_name(entry->d_name) &&
            fstatat(folder, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode)) {
            (void)json_array_append_new(list, json_pack("{s:s, s:I}", "name", entry->d_name, "size",
                                                        (json_int_t)st.st_size));
        }
    }
    (void)closedir(entries);
    return 0;
}

static int put_file(struct packing *p, int folder, const char *name, uint64_t size,
                    struct error *err)
{
    AUTO_CLOSE int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return error_set_errno(err, errno, "opening %s", name);
    }
    int rc = 0;
    for (uint64_t at = 0; rc == 0 && at < size;) {
        size_t part = size - at < BUFFER_SIZE ? (size_t)(size - at) : BUFFER_SIZE;
        rc = file_read_at(fd, p->buffer, part, at, name, err);
        rc = rc < 0 ? rc : put(p, p->buffer, part, err);
        at += part;
    }
    return rc;
}

static int put_all(struct packing *p, int folder, const json_t *list, struct error *err)
{
    AUTO_FREE char *header = json_dumps(list, JSON_COMPACT);
    if (header == NULL || strlen(header) >= MAX_HEADER) {
        return error_set(err, ENOMEM, "%s: too many files", p->path);
    }
    int rc = put(p, FIRST_LINE, strlen(FIRST_LINE), err);
    rc = rc < 0 ? rc : put(p, header, strlen(header), err);
    rc = rc < 0 ? rc : put(p, "\n", 1, err);
    size_t i;
    const json_t *item;
    json_array_foreach(list, i, item)
    {
        rc = rc < 0 ? rc
                    : put_file(p, folder, json_string_value(json_object_get(item, "name")),
                               (uint64_t)json_integer_value(json_object_get(item, "size")), err);
    }
    return rc == 0 && fsync(p->fd) < 0 ? error_set_errno(err, errno, "writing %s", p->path) : rc;
}

int pack_write(const char *folder, const char *path, char out_digest[PACK_DIGEST_SIZE],
               struct error *err)
{
    char unfinished[PATH_MAX];
    if (snprintf(unfinished, sizeof(unfinished), "%s" UNFINISHED, path) >= PATH_MAX) {
        return error_set(err, ENAMETOOLONG, "%.100s...: too long", path);
    }
    AUTO_CLOSE int dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) {
        return error_set_errno(err, errno, "opening %s", folder);
    }
    AUTO_FREE struct packing *p = calloc(1, sizeof(*p));
    if (p == NULL) {
        return error_set(err, ENOMEM, "no memory for writing %s", path);
    }
    AUTO_CLOSE int fd =
        open(unfinished, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return error_set_errno(err, errno, "making %s", unfinished);
    }
    *p = (struct packing){.fd = fd, .path = path};
    sha256_init(&p->sha);
    json_t *list = json_array();
    int rc = list_files(dir, folder, list, err);
    rc = rc < 0 ? rc : put_all(p, dir, list, err);
    json_decref(list);
    if (rc == 0 && renameat2(AT_FDCWD, unfinished, AT_FDCWD, path, RENAME_NOREPLACE) < 0) {
        rc = error_set_errno(err, errno, "making %s", path);
    }
    if (rc < 0) {
        (void)unlink(unfinished);
        return rc;
    }
    end_digest(p, out_digest);
    return 0;
}

/* The two lines. */
static int take_header(struct packing *p, json_t **out_list, struct error *err)
{
    char first[sizeof(FIRST_LINE)] = "";
    int rc = take(p, first, strlen(FIRST_LINE), err);
    if (rc < 0 || strcmp(first, FIRST_LINE) != 0) {
        return rc == 0 || rc == -EINVAL ? error_set(err, EINVAL, "%s: no checkpoint", p->path) : rc;
    }
    AUTO_FREE char *header = malloc(MAX_HEADER);
    size_t size = 0;
    if (header == NULL) {
        return error_set(err, ENOMEM, "no memory for reading %s", p->path);
    }
    do {
        rc = take(p, header + size, 1, err);
    } while (rc == 0 && header[size++] != '\n' && size < MAX_HEADER);
    *out_list = rc == 0 ? json_loadb(header, size, JSON_REJECT_DUPLICATES, NULL) : NULL;
    return rc < 0 ? rc
           : json_is_array(*out_list)
               ? 0
               : error_set(err, EINVAL, "%s: the checkpoint is damaged", p->path);
}

static int take_file(struct packing *p, int folder, const json_t *item, struct error *err)
{
    const char *name = json_string_value(json_object_get(item, "name"));
    json_int_t left = json_integer_value(json_object_get(item, "size"));
    if (!is_name(name) || left < 0) {
        return error_set(err, EINVAL, "%s: the checkpoint is damaged", p->path);
    }
    AUTO_CLOSE int fd =
        openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return error_set_errno(err, errno, "unpacking %s: making %s", p->path, name);
    }
    int rc = 0;
    while (rc == 0 && left > 0) {
        size_t part = left < (json_int_t)BUFFER_SIZE ? (size_t)left : BUFFER_SIZE;
        rc = take(p, p->buffer, part, err);
        rc = rc < 0 ? rc : file_write_all(fd, p->buffer, part, name, err);
        left -= (json_int_t)part;
    }
    return rc;
}

int pack_read(const char *path, const char *digest, const char *folder, struct error *err)
{
    AUTO_CLOSE int dir = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (dir < 0 || fd < 0) {
        return error_set_errno(err, errno, "opening %s", dir < 0 ? folder : path);
    }
    AUTO_FREE struct packing *p = calloc(1, sizeof(*p));
    if (p == NULL) {
        return error_set(err, ENOMEM, "no memory for reading %s", path);
    }
    *p = (struct packing){.fd = fd, .path = path};
    sha256_init(&p->sha);
    json_t *list = NULL;
    int rc = take_header(p, &list, err);
    size_t i;
    const json_t *item;
    json_array_foreach(list, i, item)
    {
        rc = rc < 0 ? rc : take_file(p, dir, item, err);
    }
    json_decref(list);
    char more, found[PACK_DIGEST_SIZE];
    if (rc == 0 && read(fd, &more, 1) != 0) {
        rc = error_set(err, EINVAL, "%s: more than a checkpoint", path);
    }
    if (rc < 0) {
        return rc;
    }
    end_digest(p, found);
    return strcmp(found, digest) == 0
               ? 0
               : error_set(err, EINVAL, "%s: not this container's last checkpoint, or damaged",
                           path);
}
