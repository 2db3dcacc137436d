#include "system/template/manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

#define MAX_MANIFEST (1u << 20)
#define FORMAT       1

bool manifest_is_digest(const char *text)
{
    size_t prefix = strlen(MANIFEST_PREFIX);
    return strncmp(text, MANIFEST_PREFIX, prefix) == 0 &&
           strlen(text) == TEMPLATE_DIGEST_SIZE - 1 &&
           strspn(text + prefix, "0123456789abcdef") == DIGEST_HEX_SIZE - 1;
}

void manifest_digest(const char *tree, const char *below, char out_digest[TEMPLATE_DIGEST_SIZE])
{
    char text[3 * TEMPLATE_DIGEST_SIZE];
    char hex[DIGEST_HEX_SIZE];
    int length = snprintf(text, sizeof(text), "hull template %d\ntree %s\nbelow %s\n", FORMAT, tree,
                          below != NULL ? below : "-");
    digest_bytes(text, (size_t)length, hex);
    (void)snprintf(out_digest, TEMPLATE_DIGEST_SIZE, MANIFEST_PREFIX "%s", hex);
}

static bool is_hex(const char *text)
{
    return text != NULL && strlen(text) == DIGEST_HEX_SIZE - 1 &&
           strspn(text, "0123456789abcdef") == DIGEST_HEX_SIZE - 1;
}

static int check(const char *digest, struct manifest *m, struct error *err)
{
    char real[TEMPLATE_DIGEST_SIZE];
    const json_t *below = json_object_get(m->document, "below");
    m->tree = json_string_value(json_object_get(m->document, "tree"));
    m->quick = json_string_value(json_object_get(m->document, "quick"));
    m->below = json_string_value(below);
    if (json_integer_value(json_object_get(m->document, "format")) != FORMAT) {
        return error_set(err, EBADMSG,
                         "template %s: its manifest is of another format: %d is known", digest,
                         FORMAT);
    }
    if (!is_hex(m->tree) || !is_hex(m->quick) ||
        (below != NULL && (m->below == NULL || !manifest_is_digest(m->below)))) {
        return error_set(err, EBADMSG, "template %s: its manifest has no digests: build it again",
                         digest);
    }
    manifest_digest(m->tree, m->below, real);
    if (strcmp(real, digest) != 0) {
        return error_set(err, EBADMSG,
                         "template %s: its manifest was changed: build the template again", digest);
    }
    return 0;
}

int manifest_load(const struct store *store, const char *digest, struct manifest *out,
                  struct error *err)
{
    char path[PATH_MAX];
    void *data;
    size_t size;
    store_template_path(store, digest, "manifest.json", path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "reading the template %s", digest);
    }
    int rc = file_read_whole(fd, MAX_MANIFEST, path, &data, &size, err);
    if (rc < 0) {
        return rc;
    }
    json_error_t json_err;
    struct manifest m = {.document = json_loadb(data, size, JSON_REJECT_DUPLICATES, &json_err)};
    free(data);
    if (!json_is_object(m.document)) {
        manifest_fini(&m);
        return error_set(err, EBADMSG, "template %s: its manifest is no JSON object", digest);
    }
    rc = check(digest, &m, err);
    if (rc < 0) {
        manifest_fini(&m);
        return rc;
    }
    *out = m;
    return 0;
}

void manifest_fini(struct manifest *manifest)
{
    json_decref(manifest->document);
    *manifest = (struct manifest){0};
}

int manifest_save(const char *folder, json_t *document, struct error *err)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s/manifest.json", folder) >= (int)sizeof(path)) {
        return error_set(err, ENAMETOOLONG, "%.100s...: too long", folder);
    }
    AUTO_FREE char *text = json_dumps(document, JSON_INDENT(2) | JSON_SORT_KEYS);
    return text == NULL ? error_set_errno(err, ENOMEM, "writing %s", path)
                        : file_replace(path, text, 0644, true, err);
}

int manifest_lock(const struct store *store, int *out_fd, struct error *err)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/templates", store->state);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd;
    if (fd >= 0) {
        do {
            rc = flock(fd, LOCK_EX);
        } while (rc < 0 && errno == EINTR);
    }
    if (rc < 0) {
        return error_set_errno(err, errno, "locking %s", path);
    }
    *out_fd = TAKE_FD(fd);
    return 0;
}
