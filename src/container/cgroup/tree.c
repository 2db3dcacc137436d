/* Folders of a control group hierarchy. */
#include "container/cgroup/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/host/file.h"

#define PATH_MAX_BYTES  4095
#define WALK_MAX_DEPTH  65536
#define MAKE_MAX_ROUNDS 8 /* others may remove what is above a group that is being made */
#define GROUP_MODE      0755

int group_path_parse(const char *path, char **out_path, struct error *err)
{
    if (strlen(path) > PATH_MAX_BYTES) {
        return error_set(err, EINVAL, "more than %d bytes", PATH_MAX_BYTES);
    }
    AUTO_FREE char *plain = calloc(1, strlen(path) + 1);
    if (plain == NULL) {
        return error_set(err, ENOMEM, "no memory for a path");
    }
    size_t size = 0;
    for (const char *part = path; *part != '\0';) {
        size_t length = strcspn(part, "/");
        if (length == 2 && memcmp(part, "..", 2) == 0) {
            return error_set(err, EINVAL, "\"..\" is not allowed in \"%.128s\"", path);
        }
        for (size_t i = 0; i < length; i++) {
            if ((unsigned char)part[i] < ' ' || part[i] == '\x7f') {
                return error_set(err, EINVAL, "a control character in a path");
            }
        }
        if (length > 0 && !(length == 1 && *part == '.')) {
            if (size > 0) {
                plain[size++] = '/';
            }
            memcpy(plain + size, part, length);
            size += length;
        }
        part += length;
        part += strspn(part, "/");
    }
    *out_path = TAKE_PTR(plain);
    return 0;
}

int group_open(int hierarchy_fd, const char *path)
{
    struct open_how how = {
        .flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
    };
    long fd = syscall(SYS_openat2, hierarchy_fd, *path == '\0' ? "." : path, &how, sizeof(how));
    return fd < 0 ? -errno : (int)fd;
}

void group_unmake(int hierarchy_fd, const char *path, unsigned made)
{
    AUTO_FREE char *copy = strdup(path);
    for (unsigned i = 0; i < made && copy != NULL; i++) {
        if (unlinkat(hierarchy_fd, copy, AT_REMOVEDIR) < 0 && errno != ENOENT) {
            return;
        }
        char *end = strrchr(copy, '/');
        if (end == NULL) {
            return;
        }
        *end = '\0';
    }
}

/* The same for the groups above 'path', which itself is not there. */
static void group_unmake_above(int hierarchy_fd, const char *path, unsigned made)
{
    group_unmake(hierarchy_fd, path, made == 0 ? 0 : made + 1);
}

/* Makes what is missing of 'path' from its first part on. */
static int make_parts(int hierarchy_fd, char *path, unsigned *made)
{
    for (char *end = path; end != NULL;) {
        end = strchr(end + 1, '/');
        if (end != NULL) {
            *end = '\0';
        }
        int rc = mkdirat(hierarchy_fd, path, GROUP_MODE) < 0 ? -errno : 0;
        if (rc == 0) {
            ++*made;
        } else if (rc == -EEXIST) {
            *made = 0;
        } else {
            group_unmake_above(hierarchy_fd, path, *made);
        }
        if (end != NULL) {
            *end = '/';
        }
        if (rc < 0 && rc != -EEXIST) {
            return rc;
        }
    }
    return 0;
}

int group_make(int hierarchy_fd, const char *path, unsigned *out_made)
{
    if (*path == '\0') {
        *out_made = 0;
        return 0;
    }
    /* Usually all but the last part is there. */
    if (mkdirat(hierarchy_fd, path, GROUP_MODE) == 0) {
        *out_made = 1;
        return 0;
    }
    if (errno == EEXIST) {
        *out_made = 0;
        return 0;
    }
    if (errno != ENOENT) {
        return -errno;
    }
    AUTO_FREE char *copy = strdup(path);
    if (copy == NULL) {
        return -ENOMEM;
    }
    int rc = -ENOENT;
    for (unsigned round = 0; round < MAKE_MAX_ROUNDS && rc == -ENOENT; round++) {
        unsigned made = 0;
        rc = make_parts(hierarchy_fd, copy, &made);
        if (rc == 0) {
            *out_made = made;
        }
    }
    return rc;
}

/* The names of the groups right below, one NUL-terminated string after the other. */
struct names {
    char *text;
    size_t size, next;
};

static int list_children(int group_fd, struct names *out_names)
{
    *out_names = (struct names){0};
    struct stat status;
    if (fstat(group_fd, &status) < 0) {
        return -errno;
    }
    if (status.st_nlink == 2) {
        return 0; /* kernfs counts folders */
    }
    int fd = openat(group_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (dir == NULL) {
        int rc = -errno;
        if (fd >= 0) {
            close(fd);
        }
        return rc == -ENOENT ? 0 : rc;
    }
    int rc = 0;
    const struct dirent *entry;
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        if (entry->d_type != DT_DIR || strcmp(entry->d_name, ".") == 0 ||
            strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        size_t size = strlen(entry->d_name) + 1;
        char *text = realloc(out_names->text, out_names->size + size);
        if (text == NULL) {
            rc = -ENOMEM;
        } else {
            memcpy(text + out_names->size, entry->d_name, size);
            out_names->text = text;
            out_names->size += size;
        }
    }
    closedir(dir);
    if (rc < 0) {
        free(out_names->text);
        *out_names = (struct names){0};
    }
    return rc;
}

/* A walk holds two descriptors however deep the groups are nested: containers nest as they like. */
struct walk {
    int fd; /* of the group it is in */
    struct names *level;
    size_t depth, capacity; /* levels in use, and room for them */
};

static int walk_enter(struct walk *walk, int fd)
{
    if (walk->depth == walk->capacity) {
        size_t capacity = walk->capacity == 0 ? 16 : 2 * walk->capacity;
        struct names *level =
            capacity > WALK_MAX_DEPTH ? NULL : realloc(walk->level, capacity * sizeof(*level));
        if (level == NULL) {
            close(fd);
            return -ENOMEM;
        }
        walk->level = level;
        walk->capacity = capacity;
    }
    if (walk->fd >= 0) {
        close(walk->fd);
    }
    walk->fd = fd;
    int rc = list_children(fd, &walk->level[walk->depth]);
    walk->depth += rc == 0;
    return rc;
}

static int walk_up(struct walk *walk)
{
    free(walk->level[--walk->depth].text);
    if (walk->depth == 0) {
        return 0;
    }
    int parent = openat(walk->fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0) {
        return -errno;
    }
    close(walk->fd);
    walk->fd = parent;
    return 0;
}

static void walk_fini(struct walk *walk)
{
    while (walk->depth > 0) {
        free(walk->level[--walk->depth].text);
    }
    free(walk->level);
    if (walk->fd >= 0) {
        close(walk->fd);
    }
}

/* 'visit' before what is below (NULL: none); 'removes': each group below is removed behind what is below it. */
static int walk_run(int group_fd, group_visit_fn visit, void *ctx, bool removes)
{
    struct walk walk = {.fd = -1};
    int result = 0;
    int start = openat(group_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (start < 0) {
        return errno == ENOENT ? 0 : -errno;
    }
    int rc = visit != NULL ? visit(start, ctx) : 0;
    if (rc != 0) {
        close(start);
        return rc;
    }
    rc = walk_enter(&walk, start);
    while (rc == 0 && walk.depth > 0) {
        struct names *names = &walk.level[walk.depth - 1];
        if (names->next == names->size) {
            rc = walk_up(&walk);
            if (rc < 0 || walk.depth == 0) {
                break;
            }
            names = &walk.level[walk.depth - 1];
            const char *done = names->text + names->next;
            names->next += strlen(done) + 1;
            if (removes && unlinkat(walk.fd, done, AT_REMOVEDIR) < 0 && errno != ENOENT &&
                result == 0) {
                result = -errno;
            }
            continue;
        }
        const char *name = names->text + names->next;
        int child = openat(walk.fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (child < 0) {
            names->next += strlen(name) + 1;
            rc = errno == ENOENT ? 0 : -errno;
            continue;
        }
        rc = visit != NULL ? visit(child, ctx) : 0;
        if (rc != 0) {
            close(child);
        } else {
            rc = walk_enter(&walk, child);
        }
    }
    walk_fini(&walk);
    return rc != 0 ? rc : result;
}

int group_walk(int group_fd, group_visit_fn visit, void *ctx)
{
    return walk_run(group_fd, visit, ctx, false);
}

int group_remove_below(int group_fd)
{
    return walk_run(group_fd, NULL, NULL, true);
}
