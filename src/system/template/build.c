/* Building a template: aside, and then by one rename under the lock. */
#include "system/template/build.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "system/template/catalog.h"

static int check_word(const char *what, const char *word, const char *letters, struct error *err)
{
    if (word[0] == '\0' || strspn(word, letters) != strlen(word) || word[0] == '-' ||
        strlen(word) > 100) {
        return error_set(err, EINVAL, "%s '%.100s': not the name of one", what, word);
    }
    return 0;
}

static const struct variant *find_variant(const char *name)
{
    for (const struct variant *v = build_variants; v->name != NULL; v++) {
        if (strcmp(v->name, name) == 0) {
            return v;
        }
    }
    return NULL;
}

static int check_files(const char *const *files, struct error *err)
{
    for (; files != NULL && *files != NULL; files++) {
        const char *colon = strrchr(*files, ':');
        if (colon == NULL || colon == *files || colon[1] != '/') {
            return error_set(err, EINVAL, "file '%.150s': FILE:/PATH with a whole path", *files);
        }
    }
    return 0;
}

static int check_request(const struct template_build *request, struct error *err)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789.+-:=~_";
    int count = (request->variant != NULL) + (request->from != NULL) + (request->root_tree != NULL);
    int rc = store_check_name("template", request->name, err);
    if (rc == 0 && strncmp(request->name, MANIFEST_PREFIX, strlen(MANIFEST_PREFIX)) == 0) {
        rc = error_set(err, EINVAL, "template name '%s': '" MANIFEST_PREFIX "' begins digests",
                       request->name);
    }
    if (rc == 0 && count != 1) {
        rc = error_set(err, EINVAL,
                       "template %s: one of a variant, a template to stand on, or a tree of files",
                       request->name);
    }
    if (rc == 0 && request->variant != NULL && find_variant(request->variant) == NULL) {
        rc = error_set(err, EINVAL, "variant '%.64s': minimal, standard, web or busybox",
                       request->variant);
    }
    if (rc == 0 && request->variant != NULL && strcmp(request->variant, "busybox") == 0 &&
        request->packages != NULL && request->packages[0] != NULL) {
        rc = error_set(err, EINVAL, "variant busybox: has no packages");
    }
    if (rc == 0 && request->suite != NULL) {
        rc = check_word("suite", request->suite, letters, err);
    }
    for (const char *const *p = request->packages; rc == 0 && p != NULL && *p != NULL; p++) {
        rc = check_word("package", *p, letters, err);
    }
    rc = rc < 0 ? rc : check_files(request->files, err);
    if (rc == 0 && geteuid() != 0) {
        rc = error_set(
            err, EPERM,
            "building a template needs root, or a user's namespace: its files have many owners");
    }
    return rc;
}

void build_path(const struct build *build, const char *name, char out_path[PATH_MAX])
{
    (void)snprintf(out_path, PATH_MAX, "%s/%s", build->folder, name);
}

void build_phase(struct build *build, const char *what, int from, int to, unsigned steps)
{
    build->phase = what;
    build->percent = from;
    build->phase_from = from;
    build->phase_to = to;
    build->phase_steps = steps;
    build->phase_done = 0;
}

void build_step(struct build *build)
{
    build->phase_done++;
    if (build->phase_steps > 0) {
        unsigned done = MIN(build->phase_done, build->phase_steps);
        build->percent = build->phase_from + (int)((unsigned)(build->phase_to - build->phase_from) *
                                                   done / build->phase_steps);
    }
}

int build_poll(void *ctx)
{
    struct build *build = ctx;
    return build->request->progress != NULL
               ? build->request->progress(build->request->ctx, build->phase, build->percent)
               : 0;
}

/* Makes the folder and takes its lock, so that it is never there without one. */
static int make_folder(struct build *build, struct error *err)
{
    static const char *const names[] = {"root", "target", "scratch"};
    char path[PATH_MAX];
    int lock;
    int rc = manifest_lock(build->store, &lock, err);
    if (rc < 0) {
        return rc;
    }
    (void)snprintf(build->folder, sizeof(build->folder),
                   "%s/templates/" MANIFEST_UNFINISHED "XXXXXX", build->store->state);
    if (mkdtemp(build->folder) == NULL) {
        rc = error_set_errno(err, errno, "making the folder %s", build->folder);
        build->folder[0] = '\0';
    } else {
        build->lock_fd = open(build->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        /* It stays with 0700: programs in it that run as their owner, root, are nothing for users of the host. */
        if (build->lock_fd < 0 || flock(build->lock_fd, LOCK_EX) < 0) {
            rc = error_set_errno(err, errno, "locking the folder %s", build->folder);
        }
    }
    close(lock);
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(names); i++) {
        build_path(build, names[i], path);
        /* The umask is the user's. */
        if (mkdir(path, 0755) < 0 || chmod(path, 0755) < 0) {
            rc = error_set_errno(err, errno, "making the folder %s", path);
        }
    }
    return rc;
}

static int inherit(struct build *build, struct error *err)
{
    struct manifest m;
    int rc = template_open(build->store, build->request->from, true, &build->base, err);
    rc = rc < 0 ? rc : manifest_load(build->store, build->base.digest, &m, err);
    if (rc < 0) {
        return rc;
    }
    if (build->base.count == LAYERS_MAX) {
        rc = error_set(err, E2BIG, "template %s: it has %d layers already, and no more can be",
                       build->request->from, LAYERS_MAX);
    }
    const char *suite = json_string_value(json_object_get(m.document, "suite"));
    (void)snprintf(build->suite, sizeof(build->suite), "%s", suite != NULL ? suite : "");
    manifest_fini(&m);
    return rc;
}

static int make_content(struct build *build, struct error *err)
{
    const struct template_build *request = build->request;
    if (request->from != NULL) {
        int rc = inherit(build, err);
        return rc < 0 ? rc : build_inside(build, false, err);
    }
    if (request->root_tree != NULL) {
        int rc = build_root_tree(build, err);
        return rc < 0 ? rc : build_inside(build, false, err);
    }
    const struct variant *variant = find_variant(request->variant);
    int rc =
        variant->packages == NULL ? build_busybox(build, err) : build_debian(build, variant, err);
    return rc < 0 ? rc : build_inside(build, true, err);
}

static json_t *text_or_null(const char *text)
{
    return text != NULL && text[0] != '\0' ? json_string(text) : json_null();
}

static json_t *describe(const struct build *build, const struct digest_records *records,
                        const char *tree, const char *quick)
{
    const struct template_build *request = build->request;
    char when[32];
    time_t now = time(NULL);
    struct tm parts;
    (void)strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &parts));
    json_t *packages = json_array();
    for (const char *const *p = request->packages; p != NULL && *p != NULL; p++) {
        json_array_append_new(packages, json_string(*p));
    }
    const char *variant = request->variant != NULL     ? request->variant
                          : request->root_tree != NULL ? "tree"
                                                       : "application";
    json_t *document = json_pack("{s:i, s:s, s:s, s:s, s:o, s:o, s:o, s:I, s:I, s:s}", "format", 1,
                                 "tree", tree, "quick", quick, "variant", variant, "suite",
                                 text_or_null(build->suite), "from", text_or_null(request->from),
                                 "packages", packages, "size_bytes", (json_int_t)records->bytes,
                                 "files", (json_int_t)records->files, "created_at", when);
    if (document != NULL && request->from != NULL) {
        json_object_set_new(document, "below", json_string(build->base.digest));
    }
    return document;
}

static int write_records(const struct build *build, const struct digest_records *records,
                         struct error *err)
{
    char path[PATH_MAX];
    build_path(build, "tree", path);
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    return fd < 0 ? error_set_errno(err, errno, "writing %s", path)
                  : file_write_all(fd, records->data, records->size, path, err);
}

/* What only the building needs. */
static int remove_scratch(const struct build *build, struct error *err)
{
    static const char *const names[] = {"work", "target", "scratch"};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(names); i++) {
        char path[PATH_MAX];
        build_path(build, names[i], path);
        rc = layers_remove(path, err);
    }
    return rc;
}

static int describe_content(struct build *build, char out_digest[TEMPLATE_DIGEST_SIZE],
                            struct error *err)
{
    char root[PATH_MAX];
    char tree[DIGEST_HEX_SIZE], quick[DIGEST_HEX_SIZE];
    struct digest_records records;
    build_phase(build, "reading what was made", 96, 100, 0);
    int rc = build_poll(build) != 0 ? error_set(err, ECANCELED, "interrupted") : 0;
    rc = rc < 0 ? rc : remove_scratch(build, err);
    build_path(build, "root", root);
    rc = rc < 0 ? rc : digest_tree(root, &records, err);
    if (rc < 0) {
        return rc;
    }
    digest_bytes(records.data, records.size, tree);
    rc = write_records(build, &records, err);
    rc = rc < 0 ? rc : digest_tree_quick(root, quick, err);
    if (rc == 0) {
        json_t *document = describe(build, &records, tree, quick);
        rc = document == NULL ? error_set_errno(err, ENOMEM, "describing the template")
                              : manifest_save(build->folder, document, err);
        json_decref(document);
        manifest_digest(tree, build->request->from != NULL ? build->base.digest : NULL, out_digest);
    }
    digest_records_fini(&records);
    /* Durable before it has a name. */
    if (rc == 0 && syncfs(build->lock_fd) < 0) {
        rc = error_set_errno(err, errno, "writing %s", build->folder);
    }
    return rc;
}

/* One with the same content is as good, if nobody has changed it. */
static bool is_there(const struct store *store, const char *digest)
{
    struct template_layers layers;
    if (template_open(store, digest, true, &layers, NULL) < 0) {
        return false;
    }
    template_close(&layers);
    return true;
}

static int commit(struct build *build, const char *digest, struct error *err)
{
    char path[PATH_MAX];
    int lock;
    int rc = manifest_lock(build->store, &lock, err);
    if (rc < 0) {
        return rc;
    }
    store_template_path(build->store, digest, NULL, path);
    if (!is_there(build->store, digest)) {
        /* What is there was changed, or is half of one: ours takes its place. */
        rc = layers_remove(path, err);
        if (rc == 0 && rename(build->folder, path) < 0) {
            rc = error_set_errno(err, errno, "moving the template to %s", path);
        }
        if (rc == 0) {
            build->folder[0] = '\0';
        }
    }
    rc = rc < 0 ? rc : catalog_set_name(build->store, build->request->name, digest, err);
    close(lock);
    return rc;
}

int template_build(const struct store *store, const struct template_build *request,
                   char out_digest[TEMPLATE_DIGEST_SIZE], struct error *err)
{
    struct build build = {.store = store, .request = request, .lock_fd = -1, .base.lock_fd = -1};
    char digest[TEMPLATE_DIGEST_SIZE];
    int rc = check_request(request, err);
    if (rc < 0) {
        return rc;
    }
    build_phase(&build, "preparing", 0, 1, 0);
    error_ignore(template_sweep(store, NULL, NULL)); /* what others left is no reason to fail */
    rc = make_folder(&build, err);
    rc = rc < 0 ? rc : make_content(&build, err);
    rc = rc < 0 ? rc : describe_content(&build, digest, err);
    rc = rc < 0 ? rc : commit(&build, digest, err);
    template_close(&build.base);
    if (build.folder[0] != '\0') {
        error_ignore(layers_remove(build.folder, NULL)); /* the next sweep tries again */
    }
    if (build.lock_fd >= 0) {
        close(build.lock_fd);
    }
    if (rc < 0) {
        return error_prefix(err, rc, "building the template %s", request->name);
    }
    error_ignore(
        template_sweep(store, NULL, NULL)); /* what had the name before, if nobody needs it */
    memcpy(out_digest, digest, TEMPLATE_DIGEST_SIZE);
    return 0;
}
