#include "system/template/digest.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <nettle/sha2.h>

#include "base/core/endian.h"
#include "base/host/file.h"

#define BUFFER_SIZE (256u << 10)
#define MAX_PATH    (DIGEST_DEPTH * 256u)
#define MAX_XATTR   (64u << 10) /* the kernel's own limit, of a list and of a value */

struct walk {
    bool is_quick;
    struct sha256_ctx quick; /* what a quick one has seen */
    FILE *out;               /* where records go */
    char *record;            /* the one that is being made */
    size_t record_size;
    FILE *record_out;
    char *path;
    size_t path_length;
    unsigned depth;
    uint64_t files, bytes;
    char *buffer;
    struct error *err;
};

static void hex_from(const uint8_t digest[SHA256_DIGEST_SIZE], char out_hex[DIGEST_HEX_SIZE])
{
    for (size_t i = 0; i < SHA256_DIGEST_SIZE; i++) {
        (void)snprintf(out_hex + 2 * i, 3, "%02x", digest[i]);
    }
}

void digest_bytes(const void *data, size_t size, char out_hex[DIGEST_HEX_SIZE])
{
    struct sha256_ctx sha;
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_init(&sha);
    sha256_update(&sha, size, data);
    sha256_digest(&sha, sizeof(digest), digest);
    hex_from(digest, out_hex);
}

static void printable(const char *text, size_t length, char *out_text, size_t size)
{
    size_t used = 0;
    for (; used < length && used + 1 < size; used++) {
        unsigned char c = (unsigned char)text[used];
        out_text[used] = (char)(c < 0x20 || c >= 0x7f ? '?' : c);
    }
    out_text[used] = '\0';
}

static int fail(struct walk *walk, const char *what)
{
    int code = errno;
    char path[128];
    printable(walk->path, walk->path_length, path, sizeof(path));
    return error_set_errno(walk->err, code, "%s /%s of the tree", what, path);
}

static void put_u32(FILE *to, uint32_t value)
{
    uint8_t bytes[4];
    le32_put(bytes, value);
    (void)fwrite(bytes, 1, sizeof(bytes), to); /* to memory: fflush tells */
}

static void put_u64(FILE *to, uint64_t value)
{
    uint8_t bytes[8];
    le64_put(bytes, value);
    (void)fwrite(bytes, 1, sizeof(bytes), to);
}

static void put_bytes(FILE *to, const void *data, size_t size)
{
    put_u32(to, (uint32_t)size);
    (void)fwrite(data, 1, size, to);
}

/* Attributes that say something about the host alone. */
static bool is_of_host(const char *name)
{
    static const char *const names[] = {
        "security.selinux",       "security.ima",           "security.evm",
        "trusted.overlay.origin", "trusted.overlay.impure", "trusted.overlay.nlink",
        "trusted.overlay.uuid",   "trusted.overlay.upper",  "trusted.overlay.protattr"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int put_xattrs(struct walk *walk, const char *link)
{
    AUTO_FREE char *names = malloc(MAX_XATTR);
    AUTO_FREE char *value = malloc(MAX_XATTR);
    AUTO_FREE char **sorted = NULL;
    if (names == NULL || value == NULL) {
        errno = ENOMEM;
        return fail(walk, "reading attributes of");
    }
    ssize_t size = llistxattr(link, names, MAX_XATTR);
    if (size < 0 && errno != EOPNOTSUPP) {
        return fail(walk, "reading attributes of");
    }
    size_t count = 0;
    for (ssize_t at = 0; at < size; at += (ssize_t)strlen(names + at) + 1) {
        count += !is_of_host(names + at);
    }
    sorted = calloc(count + 1, sizeof(*sorted));
    if (sorted == NULL) {
        return fail(walk, "reading attributes of");
    }
    size_t i = 0;
    for (ssize_t at = 0; at < size; at += (ssize_t)strlen(names + at) + 1) {
        if (!is_of_host(names + at)) {
            sorted[i++] = names + at;
        }
    }
    qsort(sorted, count, sizeof(*sorted), compare_names);
    put_u32(walk->record_out, (uint32_t)count);
    for (i = 0; i < count; i++) {
        ssize_t length = lgetxattr(link, sorted[i], value, MAX_XATTR);
        if (length < 0) {
            return fail(walk, "reading attributes of");
        }
        put_bytes(walk->record_out, sorted[i], strlen(sorted[i]));
        put_bytes(walk->record_out, value, (size_t)length);
    }
    return 0;
}

static int put_content(struct walk *walk, int folder, const char *name)
{
    struct sha256_ctx sha;
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_init(&sha);
    AUTO_CLOSE int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        return fail(walk, "opening");
    }
    ssize_t got;
    while ((got = read(fd, walk->buffer, BUFFER_SIZE)) > 0) {
        sha256_update(&sha, (size_t)got, (const uint8_t *)walk->buffer);
    }
    if (got < 0) {
        return fail(walk, "reading");
    }
    sha256_digest(&sha, sizeof(digest), digest);
    (void)fwrite(digest, 1, sizeof(digest), walk->record_out);
    return 0;
}

/* 'name' is NULL for the folder itself. */
static int put_record(struct walk *walk, int folder, const char *name, const struct stat *st)
{
    char link[320];
    char target[PATH_MAX];
    ssize_t target_length = 0;
    static const uint8_t no_content[SHA256_DIGEST_SIZE];
    bool is_file = S_ISREG(st->st_mode);
    bool is_device = S_ISBLK(st->st_mode) || S_ISCHR(st->st_mode);
    FILE *out = walk->record_out;
    rewind(out);
    put_bytes(out, walk->path, walk->path_length);
    put_u32(out, st->st_mode);
    put_u32(out, st->st_uid);
    put_u32(out, st->st_gid);
    put_u64(out, is_device ? st->st_rdev : 0);
    put_u64(out, is_file ? (uint64_t)st->st_size : 0);
    put_u64(out, (uint64_t)st->st_mtime);
    if (S_ISLNK(st->st_mode)) {
        target_length = readlinkat(folder, name, target, sizeof(target));
        if (target_length < 0) {
            return fail(walk, "reading the link");
        }
    }
    put_bytes(out, target, (size_t)target_length);
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d/%s", folder, name != NULL ? name : ".");
    int rc = put_xattrs(walk, link);
    if (rc == 0 && is_file) {
        rc = put_content(walk, folder, name);
    } else if (rc == 0) {
        (void)fwrite(no_content, 1, sizeof(no_content), out);
    }
    if (rc < 0) {
        return rc;
    }
    long size = ftell(out);
    if (fflush(out) != 0 || size < 0) {
        return fail(walk, "remembering");
    }
    put_bytes(walk->out, walk->record, (size_t)size);
    return 0;
}

/* Any write to an inode, or to what a folder holds, changes its ctime. */
static void put_quick(struct walk *walk, const struct stat *st)
{
    uint8_t bytes[5 * 8];
    le64_put(bytes, st->st_ino);
    le64_put(bytes + 8, (uint64_t)st->st_ctim.tv_sec);
    le64_put(bytes + 16, (uint64_t)st->st_ctim.tv_nsec);
    le64_put(bytes + 24, (uint64_t)st->st_size);
    le64_put(bytes + 32, walk->path_length);
    sha256_update(&walk->quick, sizeof(bytes), bytes);
    sha256_update(&walk->quick, walk->path_length, (const uint8_t *)walk->path);
}

static int visit(struct walk *walk, int folder, const char *name, const struct stat *st)
{
    walk->files++;
    walk->bytes += (uint64_t)st->st_blocks * 512 /
                   (S_ISDIR(st->st_mode) || st->st_nlink == 0 ? 1 : st->st_nlink);
    if (walk->is_quick) {
        put_quick(walk, st);
        return 0;
    }
    return put_record(walk, folder, name, st);
}

static void names_free(char **names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(names[i]);
    }
    free(names);
}

static int read_names(struct walk *walk, DIR *dir, char ***out_names, size_t *out_count)
{
    char **names = NULL;
    size_t count = 0, room = 0;
    struct dirent *entry;
    while ((void)(errno = 0), (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        if (count == room) {
            room = room == 0 ? 32 : room * 2;
            char **more = reallocarray(names, room, sizeof(*names));
            if (more == NULL) {
                break;
            }
            names = more;
        }
        names[count] = strdup(entry->d_name);
        if (names[count] == NULL) {
            break;
        }
        count++;
    }
    if (errno != 0) {
        int rc = fail(walk, "reading the folder");
        names_free(names, count);
        return rc;
    }
    if (count > 0) {
        qsort(names, count, sizeof(*names), compare_names);
    }
    *out_names = names;
    *out_count = count;
    return 0;
}

static int walk_folder(struct walk *walk, int fd);

static int walk_entry(struct walk *walk, int folder, const char *name)
{
    size_t before = walk->path_length;
    size_t length = strlen(name);
    struct stat st;
    if (before + length + 2 > MAX_PATH) {
        errno = ENAMETOOLONG;
        return fail(walk, "reading");
    }
    if (before > 0) {
        walk->path[walk->path_length++] = '/';
    }
    memcpy(walk->path + walk->path_length, name, length);
    walk->path_length += length;
    int rc = 0;
    if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        rc = fail(walk, "reading");
    }
    rc = rc < 0 ? rc : visit(walk, folder, name, &st);
    if (rc == 0 && S_ISDIR(st.st_mode)) {
        int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        rc = fd < 0 ? fail(walk, "opening") : walk_folder(walk, fd);
    }
    walk->path_length = before;
    return rc;
}

/* Takes the descriptor. */
static int walk_folder(struct walk *walk, int fd)
{
    char **names = NULL;
    size_t count = 0;
    if (walk->depth >= DIGEST_DEPTH) {
        close(fd);
        errno = ELOOP;
        return fail(walk, "too many folders in each other: reading");
    }
    DIR *dir = fdopendir(fd);
    if (dir == NULL) {
        int rc = fail(walk, "reading");
        close(fd);
        return rc;
    }
    int rc = read_names(walk, dir, &names, &count);
    if (rc == 0) {
        walk->depth++;
        for (size_t i = 0; rc == 0 && i < count; i++) {
            rc = walk_entry(walk, fd, names[i]);
        }
        walk->depth--;
        names_free(names, count);
    }
    (void)closedir(dir); /* nothing was written */
    return rc;
}

static int walk_tree(struct walk *walk, const char *path, struct error *err)
{
    struct stat st;
    walk->err = err;
    AUTO_FREE char *path_buffer = malloc(MAX_PATH);
    AUTO_FREE char *buffer = malloc(BUFFER_SIZE);
    walk->path = path_buffer;
    walk->buffer = buffer;
    if (walk->path == NULL || walk->buffer == NULL) {
        return error_set_errno(err, ENOMEM, "reading %s", path);
    }
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0) {
        int rc = error_set_errno(err, errno, "reading %s", path);
        if (fd >= 0) {
            close(fd);
        }
        return rc;
    }
    int rc = visit(walk, fd, NULL, &st);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    return walk_folder(walk, fd);
}

int digest_tree(const char *path, struct digest_records *out, struct error *err)
{
    struct walk walk = {0};
    struct digest_records records = {0};
    walk.out = open_memstream(&records.data, &records.size);
    walk.record_out = open_memstream(&walk.record, &walk.record_size);
    int rc = walk.out == NULL || walk.record_out == NULL
                 ? error_set_errno(err, ENOMEM, "reading %s", path)
                 : walk_tree(&walk, path, err);
    if (walk.record_out != NULL) {
        (void)fclose(walk.record_out); /* to memory */
    }
    if (walk.out != NULL && fclose(walk.out) != 0 && rc == 0) {
        rc = error_set_errno(err, ENOMEM, "reading %s", path);
    }
    free(walk.record);
    if (rc < 0) {
        free(records.data);
        return rc;
    }
    records.files = walk.files;
    records.bytes = walk.bytes;
    *out = records;
    return 0;
}

void digest_records_fini(struct digest_records *records)
{
    free(records->data);
    *records = (struct digest_records){0};
}

int digest_tree_quick(const char *path, char out_hex[DIGEST_HEX_SIZE], struct error *err)
{
    struct walk walk = {.is_quick = true};
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_init(&walk.quick);
    int rc = walk_tree(&walk, path, err);
    if (rc == 0) {
        sha256_digest(&walk.quick, sizeof(digest), digest);
        hex_from(digest, out_hex);
    }
    return rc;
}

/* One record of those that are left, or nothing where they end or make no sense. */
struct record {
    const uint8_t *data;
    size_t size;
    const char *path;
    size_t path_length;
};

static bool next_record(const uint8_t **data, size_t *size, struct record *out)
{
    if (*size < 8) {
        return false;
    }
    size_t length = le32_get(*data);
    size_t path_length = le32_get(*data + 4);
    if (length < 4 || length > *size - 4 || path_length > length - 4) {
        return false;
    }
    *out = (struct record){*data + 4, length, (const char *)*data + 8, path_length};
    *data += 4 + length;
    *size -= 4 + length;
    return true;
}

/* As the walk orders paths: a folder's end sorts before any byte of a name. */
static int compare_paths(const struct record *a, const struct record *b)
{
    size_t length = a->path_length < b->path_length ? a->path_length : b->path_length;
    for (size_t i = 0; i < length; i++) {
        unsigned char x = (unsigned char)a->path[i], y = (unsigned char)b->path[i];
        if (x != y) {
            return x == '/' ? -1 : y == '/' ? 1 : x < y ? -1 : 1;
        }
    }
    return a->path_length < b->path_length ? -1 : a->path_length > b->path_length;
}

void digest_difference(const void *old_data, size_t old_size, const void *new_data, size_t new_size,
                       char *out_text, size_t size)
{
    const uint8_t *from = old_data, *to = new_data;
    struct record old_record = {0}, new_record = {0};
    out_text[0] = '\0';
    for (;;) {
        bool has_old = next_record(&from, &old_size, &old_record);
        bool has_new = next_record(&to, &new_size, &new_record);
        if (!has_old && !has_new) {
            return;
        }
        int order = !has_old ? 1 : !has_new ? -1 : compare_paths(&old_record, &new_record);
        if (order == 0 && old_record.size == new_record.size &&
            memcmp(old_record.data, new_record.data, new_record.size) == 0) {
            continue;
        }
        const struct record *at = order > 0 ? &new_record : &old_record;
        char path[128];
        printable(at->path, at->path_length, path, sizeof(path));
        (void)snprintf(out_text, size, "/%s was %s", path,
                       order == 0  ? "changed"
                       : order > 0 ? "added"
                                   : "removed");
        return;
    }
}
