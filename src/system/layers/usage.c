/* What trees occupy. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "system/layers/layers.h"
#include "system/layers/links.h"
#include "system/layers/walk.h"

struct usage {
    uint64_t blocks, files;
    struct links links;
};

static int count(struct usage *usage, const struct stat *st)
{
    bool is_new = true;
    if (!S_ISDIR(st->st_mode) && st->st_nlink > 1 &&
        links_find(&usage->links, st->st_dev, st->st_ino, &is_new) == NULL) {
        return -ENOMEM;
    }
    usage->blocks += is_new ? (uint64_t)st->st_blocks : 0;
    usage->files += is_new;
    return 0;
}

/* What is mounted in the tree is not of it. */
static int count_entry(struct usage *usage, struct walk *walk, const char *name)
{
    struct stat st;
    if (fstatat(walk_fd(walk), name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0) {
        return errno == ENOENT ? 0 : -errno;
    }
    if (!S_ISDIR(st.st_mode)) {
        return count(usage, &st);
    }
    int fd = walk_open_folder(walk_fd(walk), name);
    if (fd < 0) {
        bool is_other = fd == -EXDEV || fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP;
        return is_other ? 0 : fd; /* mounted, or changed meanwhile */
    }
    int rc = count(usage, &st);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    return walk_enter(walk, fd, -1, name);
}

static int count_tree(struct usage *usage, const char *path, struct error *err)
{
    AUTO_WALK struct walk walk = {0};
    struct stat st;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 ? -errno : walk_enter(&walk, fd, -1, "");
    rc = rc == 0 && fstat(fd, &st) < 0 ? -errno : rc;
    rc = rc < 0 ? rc : count(usage, &st);
    while (rc == 0 && walk.count > 0) {
        const struct dirent *entry;
        rc = walk_next(&walk, &entry);
        if (rc == 0) {
            rc = walk_leave(&walk);
        } else if (rc > 0) {
            rc = count_entry(usage, &walk, entry->d_name);
        }
    }
    return rc < 0 ? error_set_errno(err, -rc, "counting %s", path) : 0;
}

int layers_usage(const char *path, uint64_t *out_bytes, uint64_t *out_files, struct error *err)
{
    struct usage usage = {0};
    int rc = count_tree(&usage, path, err);
    links_fini(&usage.links);
    if (rc == 0) {
        *out_bytes = usage.blocks * 512;
        *out_files = usage.files;
    }
    return rc;
}
