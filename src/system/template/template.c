/* Finding templates, checking and showing them. */
#include "system/template/template.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "system/template/catalog.h"

#define MAX_RECORDS (1u << 30)

static int verify_quick(const struct manifest *m, const char *root, const char *word,
                        struct error *err)
{
    char hex[DIGEST_HEX_SIZE];
    int rc = digest_tree_quick(root, hex, err);
    if (rc < 0) {
        return rc;
    }
    if (strcmp(hex, m->quick) != 0) {
        return error_set(err, EBADMSG,
                         "template %.71s: its files were changed: `hull ct template check` says "
                         "which; else build it again",
                         word);
    }
    return 0;
}

static int add_layer(const struct store *store, const char *digest, const char *word,
                     bool is_verified, struct template_layers *layers,
                     char out_below[TEMPLATE_DIGEST_SIZE], struct error *err)
{
    char path[PATH_MAX];
    struct manifest m;
    if (layers->count == LAYERS_MAX) {
        return error_set(err, E2BIG, "template %s: more than %d layers", word, LAYERS_MAX);
    }
    int rc = manifest_load(store, digest, &m, err);
    if (rc < 0) {
        return rc;
    }
    store_template_path(store, digest, "root", path);
    if (is_verified) {
        rc = verify_quick(&m, path, layers->count == 0 ? word : digest, err);
    }
    if (rc == 0) {
        layers->path[layers->count] = strdup(path);
        rc = layers->path[layers->count] == NULL
                 ? error_set_errno(err, ENOMEM, "opening the template %s", word)
                 : 0;
    }
    if (rc == 0) {
        layers->count++;
        (void)snprintf(out_below, TEMPLATE_DIGEST_SIZE, "%s", m.below != NULL ? m.below : "");
    }
    manifest_fini(&m);
    return rc;
}

int template_open(const struct store *store, const char *name, bool is_verified,
                  struct template_layers *out, struct error *err)
{
    struct template_layers layers = {.lock_fd = -1};
    char digest[TEMPLATE_DIGEST_SIZE];
    char below[TEMPLATE_DIGEST_SIZE];
    bool is_name = false;
    int rc = template_find(store, name, layers.digest, &is_name, err);
    rc = rc < 0 ? rc : catalog_hold(store, layers.digest, &layers.lock_fd, err);
    if (rc < 0) {
        return rc;
    }
    memcpy(digest, layers.digest, sizeof(digest));
    if (is_name) {
        (void)snprintf(layers.name, sizeof(layers.name), "%s", name);
    }
    while (rc == 0 && digest[0] != '\0') {
        rc = add_layer(store, digest, name, is_verified, &layers, below, err);
        memcpy(digest, below, sizeof(digest));
    }
    if (rc < 0) {
        template_close(&layers);
        return rc;
    }
    *out = layers;
    return 0;
}

void template_close(struct template_layers *layers)
{
    for (size_t i = 0; i < layers->count; i++) {
        free(layers->path[i]);
    }
    if (layers->digest[0] != '\0' && layers->lock_fd >= 0) {
        close(layers->lock_fd);
    }
    *layers = (struct template_layers){.lock_fd = -1};
}

/* Names what differs, if the records of the build are there and are its own. */
static int say_difference(const struct store *store, const char *digest, const struct manifest *m,
                          const struct digest_records *now, const char *name, struct error *err)
{
    char path[PATH_MAX];
    char hex[DIGEST_HEX_SIZE];
    char text[200] = "";
    void *data = NULL;
    size_t size;
    store_template_path(store, digest, "tree", path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && file_read_whole(fd, MAX_RECORDS, path, &data, &size, NULL) == 0) {
        digest_bytes(data, size, hex);
        if (strcmp(hex, m->tree) == 0) {
            digest_difference(data, size, now->data, now->size, text, sizeof(text));
        }
        free(data);
    }
    return error_set(err, EBADMSG, "template %.71s: %s: build it again", name,
                     text[0] != '\0' ? text : "its files were changed");
}

/* The quick digest is set right where only that one differs: the folder was moved to another disk, for example. */
static int refresh_quick(const struct store *store, const char *digest, const struct manifest *m,
                         const char *root, struct error *err)
{
    char hex[DIGEST_HEX_SIZE];
    char folder[PATH_MAX];
    int rc = digest_tree_quick(root, hex, err);
    if (rc < 0 || strcmp(hex, m->quick) == 0) {
        return rc;
    }
    json_object_set_new(m->document, "quick", json_string(hex));
    store_template_path(store, digest, NULL, folder);
    return manifest_save(folder, m->document, err);
}

static int check_layer(const struct store *store, const char *digest, const char *name,
                       char out_below[TEMPLATE_DIGEST_SIZE], struct error *err)
{
    struct manifest m;
    struct digest_records now;
    char root[PATH_MAX];
    char hex[DIGEST_HEX_SIZE];
    int rc = manifest_load(store, digest, &m, err);
    if (rc < 0) {
        return rc;
    }
    store_template_path(store, digest, "root", root);
    rc = digest_tree(root, &now, err);
    if (rc == 0) {
        digest_bytes(now.data, now.size, hex);
        (void)snprintf(out_below, TEMPLATE_DIGEST_SIZE, "%s", m.below != NULL ? m.below : "");
        rc = strcmp(hex, m.tree) != 0 ? say_difference(store, digest, &m, &now, name, err)
                                      : refresh_quick(store, digest, &m, root, err);
        digest_records_fini(&now);
    }
    manifest_fini(&m);
    return rc;
}

int template_check(const struct store *store, const char *name, struct error *err)
{
    char digest[TEMPLATE_DIGEST_SIZE];
    char below[TEMPLATE_DIGEST_SIZE] = "";
    int hold;
    int rc = template_find(store, name, digest, NULL, err);
    rc = rc < 0 ? rc : catalog_hold(store, digest, &hold, err);
    if (rc < 0) {
        return rc;
    }
    for (unsigned i = 0; rc == 0 && digest[0] != '\0'; i++) {
        rc = i == LAYERS_MAX
                 ? error_set(err, E2BIG, "template %s: more than %d layers", name, LAYERS_MAX)
                 : check_layer(store, digest, i == 0 ? name : digest, below, err);
        memcpy(digest, below, sizeof(digest));
    }
    close(hold);
    return rc;
}

static int add_row(const struct store *store, const char *name, const char *digest,
                   const json_t *names, json_t *list, struct error *err)
{
    static const char *const keys[] = {"variant",    "suite", "from",      "packages",
                                       "size_bytes", "files", "created_at"};
    struct manifest m;
    json_t *users;
    int rc = catalog_users(store, digest, names, &users, err);
    if (rc < 0) {
        return rc;
    }
    json_t *row = json_pack("{s:s, s:s}", "name", name, "digest", digest);
    struct error why;
    if (manifest_load(store, digest, &m, &why) == 0) {
        for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
            json_t *value = json_object_get(m.document, keys[i]);
            json_object_set(row, keys[i], value != NULL ? value : json_null());
        }
        manifest_fini(&m);
    } else {
        json_object_set_new(row, "error", json_string(why.text));
    }
    json_object_set_new(row, "used_by", users);
    json_array_append_new(list, row);
    return 0;
}

int template_list(const struct store *store, json_t **out_list, struct error *err)
{
    json_t *names, *digests, *digest;
    const char *name;
    size_t i;
    int rc = catalog_names(store, &names, err);
    if (rc < 0) {
        return rc;
    }
    rc = catalog_digests(store, &digests, err);
    if (rc < 0) {
        json_decref(names);
        return rc;
    }
    json_t *list = json_array();
    json_object_foreach(names, name, digest)
    {
        rc = rc < 0 ? rc : add_row(store, name, json_string_value(digest), names, list, err);
    }
    json_array_foreach(digests, i, digest)
    {
        const char *text = json_string_value(digest);
        if (rc == 0 && catalog_name_of(names, text) == NULL) {
            rc = add_row(store, "", text, names, list, err);
        }
    }
    json_decref(digests);
    json_decref(names);
    if (rc < 0) {
        json_decref(list);
        return rc;
    }
    *out_list = list;
    return 0;
}
