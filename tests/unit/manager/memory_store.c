#include "tests/unit/manager/memory_store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/invariant.h"
#include "base/host/file.h"

struct documents {
    char *path;   /* "": in memory alone */
    json_t *all;  /* {"log":[..],"kinds":{KIND:{NAME:DOCUMENT}}} */
    json_t *kept; /* what it was when a transaction began; NULL: there is none */
    int code;
    unsigned failures;
};

int documents_open(const char *path, struct documents **out_documents, bool *out_was_corrupt,
                   struct error *err)
{
    struct documents *documents = calloc(1, sizeof(*documents));
    documents->path = strdup(path);
    documents->all = path[0] != '\0' ? json_load_file(path, 0, NULL) : NULL;
    if (documents->all == NULL) {
        documents->all = json_pack("{s:[],s:{}}", "log", "kinds");
    }
    *out_documents = documents;
    return 0;
}

void documents_close(struct documents *documents)
{
    if (documents != NULL) {
        json_decref(documents->all);
        json_decref(documents->kept);
        free(documents->path);
        free(documents);
    }
}

void memory_store_fail(struct documents *documents, int code, unsigned count)
{
    documents->code = code;
    documents->failures = count;
}

const json_t *memory_store_log(const struct documents *documents)
{
    return json_object_get(documents->all, "log");
}

static json_t *kind_of(struct documents *documents, const char *kind)
{
    json_t *kinds = json_object_get(documents->all, "kinds");
    if (json_object_get(kinds, kind) == NULL) {
        json_object_set_new(kinds, kind, json_object());
    }
    return json_object_get(kinds, kind);
}

static int write_all(struct documents *documents, struct error *err)
{
    if (documents->path[0] == '\0' || documents->kept != NULL) {
        return 0;
    }
    AUTO_FREE char *text = json_dumps(documents->all, JSON_COMPACT);
    return file_replace(documents->path, text, 0600, false, err);
}

static int may_fail(struct documents *documents, struct error *err)
{
    if (documents->failures == 0) {
        return 0;
    }
    documents->failures--;
    return error_set_errno(err, documents->code, "database: writing");
}

static void remember(struct documents *documents, const char *what, const char *kind,
                     const char *name)
{
    if (strcmp(kind, "operation") != 0) {
        json_array_append_new(json_object_get(documents->all, "log"),
                              json_sprintf("%s %s %s", what, kind, name));
    }
}

int documents_get(struct documents *documents, const char *kind, const char *name,
                  json_t **out_document, struct error *err)
{
    json_t *document = json_object_get(kind_of(documents, kind), name);
    if (document == NULL) {
        return error_set(err, ENOENT, "%s %s: there is none", kind, name);
    }
    *out_document = json_deep_copy(document);
    return 0;
}

bool documents_has(struct documents *documents, const char *kind, const char *name)
{
    return json_object_get(kind_of(documents, kind), name) != NULL;
}

int documents_list(struct documents *documents, const char *kind, json_t **out_list,
                   struct error *err)
{
    const char *name;
    json_t *document;
    *out_list = json_array();
    json_object_foreach(kind_of(documents, kind), name, document)
    {
        json_array_append_new(*out_list, json_deep_copy(document));
    }
    return 0;
}

int documents_put(struct documents *documents, const char *kind, const char *name,
                  const json_t *document, struct error *err)
{
    int rc = may_fail(documents, err);
    if (rc < 0) {
        return rc;
    }
    json_object_set_new(kind_of(documents, kind), name, json_deep_copy(document));
    remember(documents, "put", kind, name);
    return write_all(documents, err);
}

int documents_delete(struct documents *documents, const char *kind, const char *name,
                     struct error *err)
{
    int rc = may_fail(documents, err);
    if (rc < 0) {
        return rc;
    }
    if (json_object_del(kind_of(documents, kind), name) < 0) {
        return error_set(err, ENOENT, "%s %s: there is none", kind, name);
    }
    remember(documents, "drop", kind, name);
    return write_all(documents, err);
}

int documents_begin(struct documents *documents, struct error *err)
{
    invariant(documents->kept == NULL); /* they do not nest */
    documents->kept = json_deep_copy(documents->all);
    return 0;
}

int documents_commit(struct documents *documents, struct error *err)
{
    int rc = may_fail(documents, err);
    if (rc < 0) {
        return rc;
    }
    json_decref(documents->kept);
    documents->kept = NULL;
    return write_all(documents, err);
}

void documents_rollback(struct documents *documents)
{
    if (documents->kept != NULL) {
        json_decref(documents->all);
        documents->all = documents->kept;
        documents->kept = NULL;
    }
}
