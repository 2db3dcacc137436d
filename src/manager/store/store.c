#include "manager/store/store.h"

#include <errno.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/command/options.h"
#include "base/host/file.h"

/* Names that are told in an error, and looked through for the most similar one. */
#define TOLD_NAMES     5
#define COMPARED_NAMES 5000

enum statement {
    STATEMENT_GET,
    STATEMENT_HAS,
    STATEMENT_LIST,
    STATEMENT_NAMES,
    STATEMENT_PUT,
    STATEMENT_DELETE,
    STATEMENT_COUNT
};

static const char *const statement_texts[STATEMENT_COUNT] = {
    [STATEMENT_GET] = "SELECT body FROM documents WHERE kind = ?1 AND name = ?2",
    [STATEMENT_HAS] = "SELECT 1 FROM documents WHERE kind = ?1 AND name = ?2",
    [STATEMENT_LIST] = "SELECT body FROM documents WHERE kind = ?1 ORDER BY name",
    [STATEMENT_NAMES] = "SELECT name FROM documents WHERE kind = ?1 ORDER BY name LIMIT ?2",
    [STATEMENT_PUT] = ("INSERT INTO documents (kind, name, body) VALUES (?1, ?2, ?3) "
                       "ON CONFLICT (kind, name) DO UPDATE SET body = excluded.body"),
    [STATEMENT_DELETE] = "DELETE FROM documents WHERE kind = ?1 AND name = ?2",
};

/* Row N leads from schema version N to N + 1. */
static const char *const migrations[STORE_SCHEMA_VERSION] = {
    "CREATE TABLE documents (kind TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL, "
    "PRIMARY KEY (kind, name)) WITHOUT ROWID, STRICT",
};

struct documents {
    sqlite3 *database;
    sqlite3_stmt *statements[STATEMENT_COUNT];
    bool is_in_transaction;
};

static int code_of(int result)
{
    if (result == SQLITE_IOERR_SHMSIZE) { /* the WAL's index, which is as long as the disk allows */
        return ENOSPC;
    }
    switch (result & 0xff) {
    case SQLITE_FULL:
        return ENOSPC;
    case SQLITE_NOMEM:
        return ENOMEM;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return EBUSY;
    case SQLITE_PERM:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_AUTH:
        return EACCES;
    default:
        return EIO;
    }
}

static int failed(struct documents *documents, const char *what, struct error *err)
{
    int result = sqlite3_extended_errcode(documents->database);
    bool has_quota =
        (result & 0xff) == SQLITE_IOERR && sqlite3_system_errno(documents->database) == EDQUOT;
    return error_set(err, has_quota ? ENOSPC : code_of(result), "database: %s: %s", what,
                     sqlite3_errmsg(documents->database));
}

static int execute(struct documents *documents, const char *text, const char *what,
                   struct error *err)
{
    return sqlite3_exec(documents->database, text, NULL, NULL, NULL) == SQLITE_OK
               ? 0
               : failed(documents, what, err);
}

/* A statement that gives one integer. */
static int ask_number(struct documents *documents, const char *text, int *out_number,
                      struct error *err)
{
    sqlite3_stmt *statement = NULL;
    int rc = 0;
    if (sqlite3_prepare_v2(documents->database, text, -1, &statement, NULL) != SQLITE_OK ||
        sqlite3_step(statement) != SQLITE_ROW) {
        rc = failed(documents, text, err);
    } else {
        *out_number = sqlite3_column_int(statement, 0);
    }
    (void)sqlite3_finalize(statement); /* repeats the error of the step */
    return rc;
}

static bool is_damage(int result)
{
    return (result & 0xff) == SQLITE_CORRUPT || (result & 0xff) == SQLITE_NOTADB;
}

/* 'out_is_damaged' when it is no database or quick_check complains. */
static int check_health(struct documents *documents, bool *out_is_damaged, struct error *err)
{
    sqlite3_stmt *statement = NULL;
    int result =
        sqlite3_prepare_v2(documents->database, "PRAGMA quick_check(1)", -1, &statement, NULL);
    if (result == SQLITE_OK) {
        result = sqlite3_step(statement);
    }
    int rc = 0;
    if (result == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(statement, 0);
        *out_is_damaged = text == NULL || strcmp(text, "ok") != 0;
    } else if (is_damage(result)) {
        *out_is_damaged = true;
    } else {
        rc = failed(documents, "checking it", err);
    }
    (void)sqlite3_finalize(statement);
    return rc;
}

static int migrate(struct documents *documents, struct error *err)
{
    int version = 0;
    int rc = ask_number(documents, "PRAGMA user_version", &version, err);
    if (rc < 0 || version == STORE_SCHEMA_VERSION) {
        return rc;
    }
    if (version < 0 || version > STORE_SCHEMA_VERSION) {
        return error_set(err, EPROTO,
                         "database: it has schema %d, of a newer hulld: this one knows up to %d",
                         version, STORE_SCHEMA_VERSION);
    }
    rc = execute(documents, "BEGIN IMMEDIATE", "changing its schema", err);
    for (int i = version; rc == 0 && i < STORE_SCHEMA_VERSION; i++) {
        rc = execute(documents, migrations[i], "changing its schema", err);
    }
    char text[64];
    snprintf(text, sizeof(text), "PRAGMA user_version = %d; COMMIT", STORE_SCHEMA_VERSION);
    return rc < 0 ? rc : execute(documents, text, "changing its schema", err);
}

static int prepare(struct documents *documents, struct error *err)
{
    for (unsigned i = 0; i < STATEMENT_COUNT; i++) {
        if (sqlite3_prepare_v3(documents->database, statement_texts[i], -1,
                               SQLITE_PREPARE_PERSISTENT, &documents->statements[i],
                               NULL) != SQLITE_OK) {
            return failed(documents, "preparing a statement", err);
        }
    }
    return 0;
}

/* Opens it as far as it goes; '*out_documents' is to be closed in any case. */
static int open_once(const char *path, struct documents **out_documents, bool *out_is_damaged,
                     struct error *err)
{
    struct documents *documents = calloc(1, sizeof(*documents));
    *out_documents = documents;
    if (documents == NULL) {
        return error_set_errno(err, ENOMEM, "database %s", path);
    }
    int result = sqlite3_open_v2(path, &documents->database,
                                 SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX |
                                     SQLITE_OPEN_NOFOLLOW,
                                 NULL);
    if (result != SQLITE_OK) {
        return error_set(err, code_of(result), "database %s: %s", path, sqlite3_errstr(result));
    }
    (void)sqlite3_extended_result_codes(documents->database, 1); /* always SQLITE_OK */
    (void)sqlite3_busy_timeout(documents->database, 2000);
    int rc = check_health(documents, out_is_damaged, err);
    if (rc < 0 || *out_is_damaged) {
        return rc;
    }
    /* Before anything is written: a newer schema stays as it is. */
    int version = 0;
    rc = ask_number(documents, "PRAGMA user_version", &version, err);
    if (rc == 0 && version <= STORE_SCHEMA_VERSION) {
        rc = execute(documents,
                     "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; "
                     "PRAGMA trusted_schema = OFF; PRAGMA cache_size = -1024",
                     "preparing it", err);
    }
    if (rc == 0) {
        rc = migrate(documents, err);
    }
    return rc < 0 ? rc : prepare(documents, err);
}

/* The database with what belongs to it becomes PATH.corrupt-TIME. */
static int keep_aside(const char *path, struct error *err)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct tm parts;
    gmtime_r(&now.tv_sec, &parts);
    char when[32];
    strftime(when, sizeof(when), "%Y%m%dT%H%M%SZ", &parts);
    static const char *const endings[] = {"", "-wal", "-shm"};
    for (unsigned i = 0; i < 3; i++) {
        char from[PATH_MAX], to[PATH_MAX];
        snprintf(from, sizeof(from), "%s%s", path, endings[i]);
        int length = snprintf(to, sizeof(to), "%s.corrupt-%s%s", path, when, endings[i]);
        /* Two in one second: the later one has a number. */
        for (unsigned n = 2; length < (int)sizeof(to) && access(to, F_OK) == 0 && n < 100; n++) {
            length = snprintf(to, sizeof(to), "%s.corrupt-%s.%u%s", path, when, n, endings[i]);
        }
        if (length >= (int)sizeof(to)) {
            return error_set(err, ENAMETOOLONG, "database %s", path);
        }
        if (rename(from, to) < 0 && (i == 0 || errno != ENOENT)) {
            return error_set_errno(err, errno, "database %s: keeping the damaged one as %s", path,
                                   to);
        }
    }
    return 0;
}

int documents_open(const char *path, struct documents **out_documents, bool *out_was_corrupt,
                   struct error *err)
{
    struct documents *documents = NULL;
    bool is_damaged = false;
    int rc = open_once(path, &documents, &is_damaged, err);
    if (out_was_corrupt != NULL) {
        *out_was_corrupt = is_damaged;
    }
    if (rc == 0 && is_damaged) {
        documents_close(documents);
        documents = NULL;
        bool is_damaged_again = false;
        rc = keep_aside(path, err);
        if (rc == 0) {
            rc = open_once(path, &documents, &is_damaged_again, err);
        }
        if (rc == 0 && is_damaged_again) {
            rc = error_set(err, EIO, "database %s: a new one is damaged, too", path);
        }
    }
    if (rc < 0) {
        documents_close(documents);
        return rc;
    }
    *out_documents = documents;
    return 0;
}

int documents_open_read(const char *path, struct documents **out_documents, struct error *err)
{
    struct documents *documents = calloc(1, sizeof(*documents));
    if (documents == NULL) {
        return error_set_errno(err, ENOMEM, "database %s", path);
    }
    int result =
        sqlite3_open_v2(path, &documents->database,
                        SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW, NULL);
    int rc = 0, version = 0;
    if (result != SQLITE_OK) {
        rc = error_set(err, code_of(result), "database %s: %s", path, sqlite3_errstr(result));
    } else {
        (void)sqlite3_busy_timeout(documents->database, 2000);
        rc = ask_number(documents, "PRAGMA user_version", &version, err);
    }
    if (rc == 0 && version != STORE_SCHEMA_VERSION) {
        rc = error_set(err, EPROTO, "database %s: it has schema %d: %d is expected", path, version,
                       STORE_SCHEMA_VERSION);
    }
    rc = rc < 0 ? rc : prepare(documents, err);
    if (rc < 0) {
        documents_close(documents);
        return rc;
    }
    *out_documents = documents;
    return 0;
}

void documents_close(struct documents *documents)
{
    if (documents == NULL) {
        return;
    }
    for (unsigned i = 0; i < STATEMENT_COUNT; i++) {
        (void)sqlite3_finalize(documents->statements[i]); /* repeats an earlier error */
    }
    (void)sqlite3_close(documents->database); /* no statement is left */
    free(documents);
}

static sqlite3_stmt *bind(struct documents *documents, enum statement which, const char *kind,
                          const char *name)
{
    sqlite3_stmt *statement = documents->statements[which];
    (void)sqlite3_reset(statement); /* repeats an earlier error */
    (void)sqlite3_clear_bindings(statement);
    /* Fails only without memory, which the step then says. */
    (void)sqlite3_bind_text(statement, 1, kind, -1, SQLITE_STATIC);
    if (name != NULL) {
        (void)sqlite3_bind_text(statement, 2, name, -1, SQLITE_STATIC);
    }
    return statement;
}

static int read_body(sqlite3_stmt *statement, const char *kind, json_t **out_document,
                     struct error *err)
{
    const char *text = (const char *)sqlite3_column_text(statement, 0);
    size_t size = (size_t)sqlite3_column_bytes(statement, 0);
    json_error_t reason;
    json_t *document = text == NULL ? NULL : json_loadb(text, size, 0, &reason);
    if (!json_is_object(document)) {
        json_decref(document);
        return error_set(err, EIO, "database: a document of kind %s is no JSON object", kind);
    }
    *out_document = document;
    return 0;
}

/* "instance web1: there is none: did you mean 'web2'?", or with those that there are. */
static int say_none(struct documents *documents, const char *kind, const char *name,
                    struct error *err)
{
    sqlite3_stmt *statement = bind(documents, STATEMENT_NAMES, kind, NULL);
    (void)sqlite3_bind_int(statement, 2, COMPARED_NAMES);
    char told[160] = "", best[64] = "";
    size_t length = 0;
    unsigned count = 0;
    while (sqlite3_step(statement) == SQLITE_ROW) {
        const char *one = (const char *)sqlite3_column_text(statement, 0);
        if (one == NULL || strlen(one) >= sizeof(best) || strchr(one, '|') != NULL) {
            continue;
        }
        if (count < TOLD_NAMES) {
            int more =
                snprintf(told + length, sizeof(told) - length, "%s%s", count > 0 ? ", " : "", one);
            length = MIN(length + (size_t)more, sizeof(told) - 1);
        }
        count++;
        /* The best one so far against the next one. */
        char words[2 * sizeof(best)], nearest[sizeof(best)];
        snprintf(words, sizeof(words), "%s%s%s", best, best[0] != '\0' ? "|" : "", one);
        if (nearest_word(name, words, nearest, sizeof(nearest)) != NULL) {
            snprintf(best, sizeof(best), "%s", nearest);
        }
    }
    (void)sqlite3_reset(statement);
    if (best[0] != '\0') {
        return error_set(err, ENOENT, "%s %s: there is none: did you mean '%s'?", kind, name, best);
    }
    return count == 0 ? error_set(err, ENOENT, "%s %s: there is none", kind, name)
                      : error_set(err, ENOENT, "%s %s: there is none: there are %s%s", kind, name,
                                  told, count > TOLD_NAMES ? ", ..." : "");
}

int documents_get(struct documents *documents, const char *kind, const char *name,
                  json_t **out_document, struct error *err)
{
    sqlite3_stmt *statement = bind(documents, STATEMENT_GET, kind, name);
    int result = sqlite3_step(statement);
    int rc;
    if (result == SQLITE_ROW) {
        rc = read_body(statement, kind, out_document, err);
    } else if (result == SQLITE_DONE) {
        rc = say_none(documents, kind, name, err);
    } else {
        rc = failed(documents, "reading a document", err);
    }
    (void)sqlite3_reset(statement);
    return rc;
}

bool documents_has(struct documents *documents, const char *kind, const char *name)
{
    sqlite3_stmt *statement = bind(documents, STATEMENT_HAS, kind, name);
    bool has = sqlite3_step(statement) == SQLITE_ROW;
    (void)sqlite3_reset(statement);
    return has;
}

int documents_list(struct documents *documents, const char *kind, json_t **out_list,
                   struct error *err)
{
    json_t *list = json_array();
    if (list == NULL) {
        return error_set_errno(err, ENOMEM, "database: listing");
    }
    sqlite3_stmt *statement = bind(documents, STATEMENT_LIST, kind, NULL);
    int rc = 0, result;
    while (rc == 0 && (result = sqlite3_step(statement)) != SQLITE_DONE) {
        json_t *document = NULL;
        if (result != SQLITE_ROW) {
            rc = failed(documents, "listing documents", err);
            break;
        }
        rc = read_body(statement, kind, &document, err);
        if (rc == 0 && json_array_append_new(list, document) < 0) {
            rc = error_set_errno(err, ENOMEM, "database: listing");
        }
    }
    (void)sqlite3_reset(statement);
    if (rc < 0) {
        json_decref(list);
        return rc;
    }
    *out_list = list;
    return 0;
}

int documents_put(struct documents *documents, const char *kind, const char *name,
                  const json_t *document, struct error *err)
{
    if (!json_is_object(document)) {
        return error_set(err, EINVAL, "%s %s: a document is a JSON object", kind, name);
    }
    AUTO_FREE char *text = json_dumps(document, JSON_COMPACT);
    if (text == NULL) {
        return error_set(err, ENOMEM, "%s %s: writing its document", kind, name);
    }
    sqlite3_stmt *statement = bind(documents, STATEMENT_PUT, kind, name);
    (void)sqlite3_bind_text(statement, 3, text, -1, SQLITE_STATIC);
    int rc = sqlite3_step(statement) == SQLITE_DONE ? 0 : failed(documents, "writing", err);
    (void)sqlite3_reset(statement);
    (void)sqlite3_clear_bindings(statement);
    return rc;
}

int documents_delete(struct documents *documents, const char *kind, const char *name,
                     struct error *err)
{
    sqlite3_stmt *statement = bind(documents, STATEMENT_DELETE, kind, name);
    int rc = 0;
    if (sqlite3_step(statement) != SQLITE_DONE) {
        rc = failed(documents, "deleting", err);
    } else if (sqlite3_changes(documents->database) == 0) {
        rc = say_none(documents, kind, name, err);
    }
    (void)sqlite3_reset(statement);
    return rc;
}

int documents_begin(struct documents *documents, struct error *err)
{
    int rc = execute(documents, "BEGIN IMMEDIATE", "beginning a change", err);
    documents->is_in_transaction = rc == 0;
    return rc;
}

int documents_commit(struct documents *documents, struct error *err)
{
    documents->is_in_transaction = false;
    int rc = execute(documents, "COMMIT", "making a change durable", err);
    if (rc < 0 && sqlite3_get_autocommit(documents->database) == 0) {
        (void)sqlite3_exec(documents->database, "ROLLBACK", NULL, NULL, NULL);
    }
    return rc;
}

void documents_rollback(struct documents *documents)
{
    if (documents->is_in_transaction) {
        documents->is_in_transaction = false;
        /* Does nothing where a failure has rolled it back already. */
        (void)sqlite3_exec(documents->database, "ROLLBACK", NULL, NULL, NULL);
    }
}
