/* Containers: their image, and what each state of them has above it, as archives of tar whose owners are those that the
 * container sees. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "manager/containers.h"
#include "manager/image/image.h"
#include "manager/image/names.h"
#include "manager/image/work.h"
#include "manager/instance/container/container.h"
#include "manager/text.h"
#include "manager/transfer/rename.h"
#include "manager/transfer/transfer.h"
#include "system/layers/layers.h"
#include "system/rootless/rootless.h"
#include "system/template/boxed.h"
#include "system/template/template.h"

/* Of overlayfs only what says that a folder covers, or was renamed: the rest is of use on its own host alone. */
#define XATTRS                                                                                     \
    "--xattrs", "--xattrs-include=user.*", "--xattrs-include=security.capability",                 \
        "--xattrs-include=trusted.overlay.opaque", "--xattrs-include=trusted.overlay.redirect",    \
        "--acls", "--numeric-owner", "--force-local"
/* In a user's namespace overlayfs has its attributes by names that everybody may set. In archives they have the host's. */
#define OPAQUE       "trusted.overlay.opaque"
#define REDIRECT     "trusted.overlay.redirect"
#define USERS_OPAQUE "user.overlay.opaque"

/* What makes a machine one of a kind, or belongs to its past. The image's own making empties /etc/machine-id. */
static const char *const of_machine[] = {
    "./etc/ssh/ssh_host_*_key",
    "./etc/ssh/ssh_host_*_key.pub",
    "./etc/hostname",
    "./var/lib/dbus/machine-id",
    "./var/lib/systemd/random-seed",
    "./var/lib/cloud/*",
    "./var/log/cloud-init*.log",
    "./var/log/journal/*",
    "./var/lib/dhcp/*.leases",
    "./var/lib/dhcpcd/*.lease*",
    "./var/lib/NetworkManager/*.lease",
    "./run/*",
    "./tmp/*",
    "./var/tmp/*",
    "./etc/resolv.conf",
};

struct packing {
    const char **lower; /* NULL: 'folder' as it is */
    size_t lower_count;
    const char *folder; /* what is packed, or where layers are mounted */
    bool is_cleaned;    /* without what is the machine's own */
};

static int mount_layers(void *ctx, struct error *err)
{
    const struct packing *packing = ctx;
    const struct layers_mount request = {
        .lower = packing->lower, .lower_count = packing->lower_count, .target = packing->folder};
    return packing->lower != NULL ? layers_mount(&request, err) : 0;
}

static int pack(struct job *job, struct packing *packing, const char *path, struct error *err)
{
    static const char *const options[] = {"--format=posix",
                                          "--pax-option=delete=atime,delete=ctime",
                                          "--sparse",
                                          "--sort=name",
                                          "--warning=no-file-ignored",
                                          XATTRS,
                                          "--anchored",
                                          "--wildcards",
                                          "--wildcards-match-slash"};
    static const char *const users_options[] = {
        "--xattrs-exclude=user.overlay.impure", "--xattrs-exclude=user.overlay.origin",
        "--xattrs-exclude=user.overlay.uuid",   "--xattrs-exclude=user.overlay.nlink",
        "--xattrs-exclude=user.overlay.upper",  "--xattrs-exclude=user.overlay.metacopy"};
    char excludes[ARRAY_COUNT(of_machine)][64];
    const char
        *argv[8 + ARRAY_COUNT(options) + ARRAY_COUNT(users_options) + ARRAY_COUNT(of_machine)] = {
            "tar", "--create", "--file", path, "--directory", packing->folder};
    bool is_users = !rootless_is_host_root();
    size_t count = 6;
    for (size_t i = 0; i < ARRAY_COUNT(options); i++) {
        argv[count++] = options[i];
    }
    for (size_t i = 0; is_users && i < ARRAY_COUNT(users_options); i++) {
        argv[count++] = users_options[i];
    }
    for (size_t i = 0; packing->is_cleaned && i < ARRAY_COUNT(of_machine); i++) {
        (void)snprintf(excludes[i], sizeof(excludes[i]), "--exclude=%s", of_machine[i]);
        argv[count++] = excludes[i];
    }
    argv[count] = ".";
    const struct boxed program = {.what = "tar",
                                  .prepare = mount_layers,
                                  .prepare_ctx = packing,
                                  .argv = argv,
                                  .missing_package = "tar",
                                  .poll = transfer_poll,
                                  .ctx = job};
    return boxed_run(&program, err);
}

/* tar finds out by itself whether an archive is compressed; what comes here is not, and so has no more in it than its size
 * says. */
static int check_plain(const char *path, struct error *err)
{
    char block[512];
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    int rc = fd < 0 ? error_set_errno(err, errno, "reading %s", path)
                    : file_read_at(fd, block, sizeof(block), 0, path, err);
    return rc == 0 && memcmp(block + 257, "ustar", 5) != 0
               ? error_set(err, EBADMSG, "%s: is no archive of tar", path)
               : rc;
}

static int to_user(const char *path, struct error *err)
{
    int rc = rename_find(path, REDIRECT, err);
    if (rc > 0) {
        return error_set(err, EOPNOTSUPP,
                         "folders of its image were renamed in it, which containers of ordinary "
                         "users cannot have: make a template of it, and export what is launched "
                         "from that");
    }
    return rc < 0 ? rc : rename_attribute(path, OPAQUE, USERS_OPAQUE, err);
}

static int unpack(struct job *job, const char *path, const char *folder, struct error *err)
{
    const char *const argv[] = {"tar",
                                "--extract",
                                "--file",
                                path,
                                "--directory",
                                folder,
                                "--preserve-permissions",
                                "--same-owner",
                                XATTRS,
                                NULL};
    const struct boxed program = {
        .what = "tar", .argv = argv, .missing_package = "tar", .poll = transfer_poll, .ctx = job};
    int rc = check_plain(path, err);
    rc = rc < 0 || rootless_is_host_root() ? rc : to_user(path, err);
    return rc < 0 ? rc : boxed_run(&program, err);
}

/* What the container has above its image, as a folder. 'out_layers' is to be closed. */
static int take_out(struct work *work, const char *snapshot, const char *folder,
                    struct template_layers *out_layers, struct error *err)
{
    struct life life;
    const struct life_private private = {.folder = folder, .poll = transfer_poll, .ctx = work->job};
    int rc = container_open(&work->job->place, NULL, &life, err);
    return rc < 0 ? rc : life_private_out(&life, work->name, snapshot, &private, out_layers, err);
}

static int pack_state(struct work *work, const char *folder, size_t number, const char *snapshot,
                      struct template_layers *out_layers, struct error *err)
{
    char upper[PATH_MAX], path[PATH_MAX], name[BUNDLE_NAME_SIZE];
    transfer_state_name(number, name);
    transfer_path(folder, "upper", upper);
    transfer_path(folder, name, path);
    int rc = take_out(work, snapshot, upper, out_layers, err);
    struct packing packing = {.folder = upper};
    rc = rc < 0 ? rc : pack(work->job, &packing, path, err);
    rc = rc < 0 || rootless_is_host_root() ? rc : rename_attribute(path, USERS_OPAQUE, OPAQUE, err);
    struct error ignored;
    int removed = layers_remove(upper, rc < 0 ? &ignored : err);
    return rc < 0 ? rc : removed;
}

/* The image that all states stand on. */
static int pack_base(struct work *work, const char *folder, struct template_layers *layers,
                     struct error *err)
{
    char target[PATH_MAX], path[PATH_MAX];
    transfer_path(folder, "target", target);
    transfer_path(folder, TRANSFER_BASE, path);
    if (mkdir(target, 0700) < 0) {
        return error_set_errno(err, errno, "making %s", target);
    }
    struct packing packing = {
        .lower = (const char **)layers->path, .lower_count = layers->count, .folder = target};
    int rc = pack(work->job, &packing, path, err);
    (void)rmdir(target); /* the folder goes with all in it in any case */
    return rc;
}

int container_prepare(struct work *work, const char *folder, const struct transfer_moment *moment,
                      json_t *header, struct error *err)
{
    json_t *state, *states = json_object_get(header, "states");
    char digest[TEMPLATE_DIGEST_SIZE] = "", path[PATH_MAX];
    size_t i;
    int rc = 0;
    transfer_path(folder, "states", path);
    if (mkdir(path, 0700) < 0) {
        return error_set_errno(err, errno, "making %s", path);
    }
    json_array_foreach(states, i, state)
    {
        struct template_layers layers = {.lock_fd = -1};
        const char *snapshot = text_of(state, "snapshot");
        if (snapshot == NULL && moment->snapshot[0] != '\0') {
            snapshot = moment->snapshot;
        }
        job_progress(work->job, "packing its files", i, json_array_size(states) + 1);
        rc = pack_state(work, folder, i, snapshot, &layers, err);
        if (rc == 0 && i == 0) {
            memcpy(digest, layers.digest, sizeof(digest));
            rc = pack_base(work, folder, &layers, err);
        } else if (rc == 0 && strcmp(digest, layers.digest) != 0) {
            rc = error_set(err, EOPNOTSUPP,
                           "container %s has snapshots of another image: export it without them",
                           work->name);
        }
        template_close(&layers);
        if (rc < 0) {
            return rc;
        }
    }
    (void)json_object_set_new(header, "base", json_string(digest));
    return 0;
}

static int send_file(struct work *work, const char *folder, const char *name,
                     struct bundle_writer *writer, struct error *err)
{
    char path[PATH_MAX];
    struct stat st;
    AUTO_FREE char *data = malloc(262144);
    transfer_path(folder, name, path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || data == NULL || fstat(fd, &st) < 0) {
        return error_set_errno(err, data == NULL ? ENOMEM : errno, "reading %s", path);
    }
    uint64_t size = (uint64_t)st.st_size;
    int rc = bundle_begin(writer, name, size, err);
    for (uint64_t at = 0; rc == 0 && at < size;) {
        size_t part = (size_t)MIN(262144, size - at);
        rc = file_read_at(fd, data, part, at, name, err);
        rc = rc < 0 ? rc : bundle_write(writer, data, part, err);
        at += part;
        job_progress(work->job, "sending", at, size);
    }
    return rc;
}

int container_send(struct work *work, const char *folder, const json_t *header,
                   struct bundle_writer *writer, struct error *err)
{
    size_t count = json_array_size(json_object_get(header, "states"));
    int rc = send_file(work, folder, TRANSFER_BASE, writer, err);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        char name[BUNDLE_NAME_SIZE];
        transfer_state_name(i, name);
        rc = send_file(work, folder, name, writer, err);
    }
    return rc;
}

int container_pack(struct work *work, const char *folder, const struct transfer_moment *moment,
                   const char *path, struct error *err)
{
    char upper[PATH_MAX], target[PATH_MAX];
    struct template_layers layers = {.lock_fd = -1};
    const char *lower[LAYERS_MAX] = {upper};
    transfer_path(folder, "upper", upper);
    transfer_path(folder, "target", target);
    job_progress(work->job, "packing its files", 0, 0);
    int rc =
        take_out(work, moment->snapshot[0] != '\0' ? moment->snapshot : NULL, upper, &layers, err);
    if (rc == 0 && layers.count >= LAYERS_MAX) {
        rc = error_set(err, E2BIG, "container %s has too many layers", work->name);
    }
    if (rc == 0 && mkdir(target, 0700) < 0) {
        rc = error_set_errno(err, errno, "making %s", target);
    }
    for (size_t i = 0; rc == 0 && i < layers.count; i++) {
        lower[i + 1] = layers.path[i];
    }
    struct packing packing = {
        .lower = lower, .lower_count = layers.count + 1, .folder = target, .is_cleaned = true};
    rc = rc < 0 ? rc : pack(work->job, &packing, path, err);
    template_close(&layers);
    return rc;
}

bool transfer_knows_image(const struct job *job, const char *digest)
{
    const json_t *known;
    size_t i;
    json_array_foreach(json_object_get(job->request, "known"), i, known)
    {
        if (json_is_string(known) && strcmp(json_string_value(known), digest) == 0) {
            return true;
        }
    }
    return false;
}

/* Does this host have the image? Then that is as good. */
static bool has_image(const struct job *job, const char *digest)
{
    struct store store;
    struct template_layers layers;
    if (!image_is_digest(digest) || !transfer_knows_image(job, digest) ||
        containers_store(&job->place, &store, NULL) < 0 ||
        template_open(&store, digest, true, &layers, NULL) < 0) {
        return false;
    }
    template_close(&layers);
    return true;
}

int container_receive_image(struct work *work, const struct transfer_files *files,
                            const json_t *header, bool *out_is_made, struct error *err)
{
    char made[TEMPLATE_DIGEST_SIZE], path[PATH_MAX], source[200];
    const char *digest = text_or_empty(header, "base");
    json_t *document = NULL, *result = NULL;
    int rc = 0;
    (void)snprintf(source, sizeof(source), "import of instance %.100s",
                   text_or_empty(header, "name"));
    transfer_path(files->folder, TRANSFER_BASE, path);
    bool is_here = has_image(work->job, digest);
    struct template_build request = {.root_tree = path};
    if (!is_here) {
        rc = check_plain(path, err);
        rc = rc < 0 ? rc : work_template(work->job, &request, made, err);
        digest = made;
        is_here = rc == 0 && transfer_knows_image(work->job, made);
        *out_is_made = rc == 0 && !is_here;
    }
    rc = rc < 0 ? rc : json_object_set_new(work->document, "image_digest", json_string(digest));
    if (rc == 0 && !is_here) {
        rc = work_document(&work->job->place, digest, source, true, &document, err);
        rc = rc < 0 ? rc : work_finish(work->job, document, false, NULL, &result, err);
        json_decref(result);
    }
    return rc;
}

static int receive_state(struct work *work, const struct life *life,
                         const struct transfer_files *files, const json_t *state, size_t number,
                         struct error *err)
{
    char name[BUNDLE_NAME_SIZE], path[PATH_MAX], upper[PATH_MAX];
    const struct life_private private = {.folder = upper, .poll = transfer_poll, .ctx = work->job};
    transfer_state_name(number, name);
    transfer_path(files->folder, name, path);
    transfer_path(files->folder, "upper", upper);
    if (mkdir(upper, 0700) < 0) {
        return error_set_errno(err, errno, "making %s", upper);
    }
    int rc = unpack(work->job, path, upper, err);
    rc = rc < 0 ? rc : life_private_in(life, work->name, text_of(state, "snapshot"), &private, err);
    struct error ignored;
    int removed = layers_remove(upper, rc < 0 ? &ignored : err);
    (void)unlink(path); /* nobody needs it any more, and it takes room */
    return rc < 0 ? rc : removed;
}

int container_receive(struct work *work, const struct transfer_files *files, const json_t *header,
                      struct error *err)
{
    struct life life;
    const json_t *state, *states = json_object_get(header, "states");
    size_t i;
    json_t *image = json_pack("{s:s}", "name", text_or_empty(work->document, "image_digest"));
    int rc = work->driver->create(work->job, work->expanded, image, err);
    json_decref(image);
    rc = rc < 0 ? rc : container_open(&work->job->place, NULL, &life, err);
    json_array_foreach(states, i, state)
    {
        job_progress(work->job, "unpacking its files", i, json_array_size(states));
        rc = rc < 0 ? rc : receive_state(work, &life, files, state, i, err);
    }
    /* What it was given once it has; as somebody else it gets it anew. */
    bool is_new = json_is_true(json_object_get(work->job->request, "as_new"));
    json_t *given = is_new ? container_clone_files() : json_array();
    json_t *first = is_new ? container_first_files(work->expanded) : json_array();
    (void)json_array_extend(given, first);
    rc = rc < 0 ? rc : life_give_files(&life, work->name, given, err);
    json_decref(first);
    json_decref(given);
    return rc;
}
