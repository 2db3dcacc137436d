#include "agent/pack.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/host/file.h"

#define CHUNK     65536
#define DEPTH_MAX 256

/* A file with more than one name, and the first of them. */
struct seen {
    dev_t device;
    ino_t inode;
    char path[];
};

struct pack {
    tar_write_fn write;
    pack_warning_fn warn;
    void *ctx;
    void *seen; /* tree of tsearch(3) */
    uint8_t *data;
    char path[PATH_MAX];
};

static int compare_seen(const void *a, const void *b)
{
    const struct seen *x = a, *y = b;
    return x->device != y->device ? (x->device < y->device ? -1 : 1)
           : x->inode != y->inode ? (x->inode < y->inode ? -1 : 1)
                                  : 0;
}

/* The name under which the file has been packed already; NULL: now is the first time. */
static const char *find_seen(struct pack *p, const struct stat *status)
{
    struct seen *seen = malloc(sizeof(*seen) + strlen(p->path) + 1);
    if (seen == NULL) {
        return NULL; /* packed twice, then */
    }
    *seen = (struct seen){.device = status->st_dev, .inode = status->st_ino};
    memcpy(seen->path, p->path, strlen(p->path) + 1);
    struct seen *const *found = tsearch(seen, &p->seen, compare_seen);
    if (found != NULL && *found == seen) {
        return NULL;
    }
    free(seen);
    return found != NULL ? (*found)->path : NULL;
}

/* Exactly 'size' bytes follow the head, whatever has become of the file. */
static int pack_data(struct pack *p, int fd, uint64_t size, struct error *err)
{
    bool is_short = false;
    for (uint64_t left = size; left > 0;) {
        size_t want = MIN(left, (uint64_t)CHUNK);
        ssize_t got = is_short ? 0 : read(fd, p->data, want);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0 && !is_short) {
            is_short = true;
            p->warn(p->ctx, p->path, got < 0 ? strerror(errno) : "it shrank while it was read");
        }
        if (is_short) {
            memset(p->data, 0, want);
            got = (ssize_t)want;
        }
        int rc = p->write(p->ctx, p->data, (size_t)got, err);
        if (rc < 0) {
            return rc;
        }
        left -= (uint64_t)got;
    }
    return tar_write_padding(p->write, p->ctx, size, err);
}

static struct tar_entry make_entry(struct pack *p, const struct stat *status)
{
    return (struct tar_entry){
        .path = p->path,
        .target = "",
        .mode = status->st_mode & 07777,
        .uid = status->st_uid,
        .gid = status->st_gid,
        .time = status->st_mtim,
    };
}

static int pack_file(struct pack *p, int fd, struct stat *status, struct error *err)
{
    struct tar_entry e = make_entry(p, status);
    const char *first = status->st_nlink > 1 ? find_seen(p, status) : NULL;
    e.type = first != NULL ? TAR_HARD_LINK : TAR_FILE;
    if (first != NULL) {
        e.target = (char *)first;
        return tar_write_head(p->write, p->ctx, &e, err);
    }
    e.size = (uint64_t)status->st_size;
    int rc = tar_write_head(p->write, p->ctx, &e, err);
    return rc < 0 ? rc : pack_data(p, fd, e.size, err);
}

/* What is not opened: links and special files. */
static int pack_special(struct pack *p, int parent, const char *name, const struct stat *status,
                        struct error *err)
{
    char target[PATH_MAX];
    struct tar_entry e = make_entry(p, status);
    switch (status->st_mode & S_IFMT) {
    case S_IFLNK: {
        ssize_t size = readlinkat(parent, name, target, sizeof(target) - 1);
        if (size < 0) {
            p->warn(p->ctx, p->path, strerror(errno));
            return 0;
        }
        target[size] = '\0';
        e.type = TAR_LINK;
        e.target = target;
        break;
    }
    case S_IFCHR:
    case S_IFBLK:
        e.type = S_ISCHR(status->st_mode) ? TAR_CHARACTER : TAR_BLOCK_DEVICE;
        e.major = major(status->st_rdev);
        e.minor = minor(status->st_rdev);
        break;
    case S_IFIFO:
        e.type = TAR_FIFO;
        break;
    default:
        return 0; /* sockets belong to programs that run */
    }
    return tar_write_head(p->write, p->ctx, &e, err);
}

static bool is_made_up(int fd)
{
    static const uint32_t types[] = {PROC_SUPER_MAGIC,    SYSFS_MAGIC,       CGROUP_SUPER_MAGIC,
                                     CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC,     TRACEFS_MAGIC,
                                     SECURITYFS_MAGIC,    BPF_FS_MAGIC,      PSTOREFS_MAGIC,
                                     EFIVARFS_MAGIC,      DEVPTS_SUPER_MAGIC};
    struct statfs status;
    bool found = false;
    for (size_t i = 0; fstatfs(fd, &status) == 0 && i < ARRAY_COUNT(types); i++) {
        found = found || (uint32_t)status.f_type == types[i];
    }
    return found;
}

static int pack_folder(struct pack *p, int fd, const struct stat *status, unsigned depth,
                       struct error *err);

/* 'p->path' is the entry's. 'fd' (taken over) is open to read, or -1 for what is packed without that. */
static int pack_open(struct pack *p, int fd, unsigned depth, struct error *err)
{
    AUTO_CLOSE int own = fd;
    struct stat status;
    if (fstat(own, &status) < 0) {
        return error_set_errno(err, errno, "packing %.160s", p->path);
    }
    if (S_ISREG(status.st_mode)) {
        return pack_file(p, own, &status, err);
    }
    return S_ISDIR(status.st_mode) ? pack_folder(p, TAKE_FD(own), &status, depth, err) : 0;
}

static int pack_name(struct pack *p, int parent, const char *name, unsigned depth,
                     struct error *err)
{
    struct stat status;
    if (fstatat(parent, name, &status, AT_SYMLINK_NOFOLLOW) < 0) {
        if (errno != ENOENT) {
            p->warn(p->ctx, p->path, strerror(errno));
        }
        return 0; /* removed meanwhile */
    }
    if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) {
        return pack_special(p, parent, name, &status, err);
    }
    /* O_NONBLOCK: it may be a pipe by now. */
    int fd = openat(parent, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0) {
        p->warn(p->ctx, p->path, strerror(errno));
        return 0;
    }
    return pack_open(p, fd, depth, err);
}

static int pack_entries(struct pack *p, DIR *folder, unsigned depth, struct error *err)
{
    size_t length = strlen(p->path);
    struct dirent *entry;
    int rc = 0;
    while (rc == 0 && (entry = readdir(folder)) != NULL) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
            continue;
        }
        if (length + strlen(name) + 2 >= sizeof(p->path) || depth >= DEPTH_MAX) {
            p->warn(p->ctx, p->path, "what is in it lies too deep");
            break;
        }
        p->path[length] = '/';
        memcpy(p->path + length + 1, name, strlen(name) + 1);
        rc = pack_name(p, dirfd(folder), name, depth + 1, err);
        p->path[length] = '\0';
    }
    return rc;
}

static int pack_folder(struct pack *p, int fd, const struct stat *status, unsigned depth,
                       struct error *err)
{
    struct tar_entry e = make_entry(p, status);
    e.type = TAR_FOLDER;
    DIR *folder = is_made_up(fd) ? NULL : fdopendir(fd);
    int rc = tar_write_head(p->write, p->ctx, &e, err);
    if (folder == NULL) {
        close(fd);
        return rc;
    }
    rc = rc < 0 ? rc : pack_entries(p, folder, depth, err);
    closedir(folder);
    return rc;
}

/* The last part of a path that may end in "/". */
static void set_name(struct pack *p, const char *path)
{
    size_t end = strlen(path);
    while (end > 0 && path[end - 1] == '/') {
        end--;
    }
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') {
        start--;
    }
    (void)snprintf(p->path, sizeof(p->path), "%.*s", (int)(end - start), path + start);
    if (p->path[0] == '\0' || strcmp(p->path, "..") == 0) {
        (void)strcpy(p->path, ".");
    }
}

int pack(const char *path, tar_write_fn write, pack_warning_fn warn, void *ctx, struct error *err)
{
    AUTO_FREE struct pack *p = calloc(1, sizeof(*p));
    AUTO_FREE uint8_t *data = malloc(CHUNK);
    if (p == NULL || data == NULL) {
        return error_set_errno(err, ENOMEM, "packing %.160s", path);
    }
    *p = (struct pack){.write = write, .warn = warn, .ctx = ctx, .data = data};
    set_name(p, path);
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "%.200s", path);
    }
    int rc = pack_open(p, fd, 0, err);
    tdestroy(p->seen, free);
    return rc < 0 ? rc : tar_write_end(write, ctx, err);
}
