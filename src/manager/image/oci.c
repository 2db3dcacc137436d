#include "manager/image/oci.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "manager/image/tar.h"
#include "manager/image/tool.h"

#define MAX_MANIFEST (4u << 20)
#define MAX_LAYERS   512

struct unpacking {
    struct job *job;
    const char *folder;
    struct tar_times *times;
    int root_fd;
};

static int poll_job(void *ctx)
{
    return job_is_cancelled(ctx);
}

/* Only what names an image in one of the ways that make sense here; never an option. */
static int check_name(const char *from, struct error *err)
{
    static const char *const ways[] = {"docker://", "oci:", "oci-archive:", "docker-archive:"};
    for (size_t i = 0; i < ARRAY_COUNT(ways); i++) {
        if (strncmp(from, ways[i], strlen(ways[i])) == 0) {
            return 0;
        }
    }
    return error_set(
        err, EINVAL,
        "url '%.100s': http://, https://, docker://, oci:, oci-archive: or docker-archive:", from);
}

/* Into FOLDER/fetched: manifest.json and a file for each blob, whose digests skopeo has compared. */
static int fetch(struct job *job, const char *from, const char *folder, struct error *err)
{
    char to[PATH_MAX];
    (void)snprintf(to, sizeof(to), "dir:%.3900s/fetched", folder);
    const char *const argv[] = {
        "skopeo", "copy", "--quiet", "--override-os", "linux", "--override-arch", "amd64",
        from,     to,     NULL};
    const struct tool tool = {.package = "skopeo", .argv = argv};
    job_progress(job, "fetching the layers", 0, 0);
    return tool_run(job, &tool, err);
}

static int load_manifest(const char *folder, json_t **out_manifest, struct error *err)
{
    char path[PATH_MAX];
    void *text;
    size_t size;
    (void)snprintf(path, sizeof(path), "%.3900s/fetched/manifest.json", folder);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "reading %s", path);
    }
    int rc = file_read_whole(fd, MAX_MANIFEST, path, &text, &size, err);
    if (rc < 0) {
        return rc;
    }
    json_t *manifest = json_loadb(text, size, 0, NULL);
    free(text);
    if (!json_is_array(json_object_get(manifest, "layers")) ||
        json_array_size(json_object_get(manifest, "layers")) > MAX_LAYERS) {
        json_decref(manifest);
        return error_set(err, EBADMSG, "the image's manifest: has no layers, or more than %d",
                         MAX_LAYERS);
    }
    *out_manifest = manifest;
    return 0;
}

/* A packed layer is unpacked to a file of its own; the descriptor is of that one then. */
static int open_layer(struct job *job, const char *folder, const char *path, int *out_fd,
                      struct error *err)
{
    static const struct {
        const char *magic;
        size_t size;
        const char *program, *package;
    } packers[] = {{"\x1f\x8b", 2, "gzip", "gzip"},
                   {"\x28\xb5\x2f\xfd", 4, "zstd", "zstd"},
                   {"\xfd"
                    "7zXZ",
                    5, "xz", "xz-utils"},
                   {"BZh", 3, "bzip2", "bzip2"}};
    char start[8] = "", plain[PATH_MAX];
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    ssize_t got = fd >= 0 ? pread(fd, start, sizeof(start), 0) : -1;
    if (got < 0) {
        int code = errno;
        if (fd >= 0) {
            close(fd);
        }
        return error_set_errno(err, code, "reading %s", path);
    }
    (void)snprintf(plain, sizeof(plain), "%.3900s/layer.tar", folder);
    for (size_t i = 0; i < ARRAY_COUNT(packers); i++) {
        if ((size_t)got >= packers[i].size &&
            memcmp(start, packers[i].magic, packers[i].size) == 0) {
            const char *const argv[] = {packers[i].program, "-dc", path, NULL};
            const struct tool tool = {.package = packers[i].package, .argv = argv, .output = plain};
            close(fd);
            int rc = tool_run(job, &tool, err);
            fd = rc < 0 ? -1 : open(plain, O_RDONLY | O_CLOEXEC);
            if (rc == 0 && fd < 0) {
                rc = error_set_errno(err, errno, "reading %s", plain);
            }
            if (rc < 0) {
                return rc;
            }
            break;
        }
    }
    *out_fd = fd;
    return 0;
}

static int unpack_layer(const struct unpacking *u, const json_t *layer, struct error *err)
{
    static const char prefix[] = "sha256:";
    const char *digest = json_string_value(json_object_get(layer, "digest"));
    const char *digits = digest != NULL && strncmp(digest, prefix, strlen(prefix)) == 0
                             ? digest + strlen(prefix)
                             : "";
    char path[PATH_MAX];
    if (strlen(digits) != 64 || strspn(digits, "0123456789abcdef") != 64) {
        return error_set(err, EBADMSG, "the image's manifest: a layer without a digest");
    }
    (void)snprintf(path, sizeof(path), "%.3900s/fetched/%s", u->folder, digits);
    AUTO_CLOSE int fd = -1;
    int rc = open_layer(u->job, u->folder, path, &fd, err);
    if (rc < 0) {
        return rc;
    }
    const struct tar_layer tar = {
        .fd = fd, .root_fd = u->root_fd, .times = u->times, .poll = poll_job, .ctx = u->job};
    rc = tar_unpack(&tar, err);
    return rc < 0 ? error_prefix(err, rc, "layer %.12s", digits) : 0;
}

static int unpack_all(const struct unpacking *u, const json_t *manifest, struct error *err)
{
    const json_t *layers = json_object_get(manifest, "layers"), *layer;
    size_t i;
    json_array_foreach(layers, i, layer)
    {
        job_progress(u->job, "unpacking the layers", i, json_array_size(layers));
        int rc = unpack_layer(u, layer, err);
        if (rc < 0) {
            return rc;
        }
    }
    return tar_set_times(u->times, u->root_fd, err);
}

static int unpack_into(struct job *job, const char *folder, const char *root,
                       const json_t *manifest, struct error *err)
{
    int rc = file_make_folders(root, 0755, 0755, err);
    AUTO_CLOSE int fd = rc < 0 ? -1 : open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (rc == 0 && (fd < 0 || fchmod(fd, 0755) < 0)) { /* the umask is the caller's */
        rc = error_set_errno(err, errno, "making %s", root);
    }
    struct unpacking u = {.job = job, .folder = folder, .times = tar_times_new(), .root_fd = fd};
    if (rc == 0 && u.times == NULL) {
        rc = error_set_errno(err, ENOMEM, "unpacking the layers");
    }
    rc = rc < 0 ? rc : unpack_all(&u, manifest, err);
    tar_times_free(u.times);
    return rc;
}

int oci_unpack(struct job *job, const char *from, const char *folder, char out_root[PATH_MAX],
               struct error *err)
{
    json_t *manifest;
    int rc = check_name(from, err);
    rc = rc < 0 ? rc : fetch(job, from, folder, err);
    rc = rc < 0 ? rc : load_manifest(folder, &manifest, err);
    if (rc < 0) {
        return rc;
    }
    (void)snprintf(out_root, PATH_MAX, "%.3900s/root", folder);
    rc = unpack_into(job, folder, out_root, manifest, err);
    json_decref(manifest);
    return rc;
}
