#include "agent/request.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define MAX_WORDS 4096 /* of a command, and variables of its environment */

static const char *const kind_name[] = {
    [REQUEST_INFO] = "info",         [REQUEST_EXEC] = "exec",     [REQUEST_PUSH] = "push",
    [REQUEST_PULL] = "pull",         [REQUEST_FREEZE] = "freeze", [REQUEST_THAW] = "thaw",
    [REQUEST_SHUTDOWN] = "shutdown", [REQUEST_TIME] = "time",     [REQUEST_GROW] = "grow",
    [REQUEST_IDENTITY] = "identity",
};

bool request_is_harmless(enum request_kind kind)
{
    return kind <= REQUEST_PULL;
}

/* A member that may be missing or null. */
static int read_string(const json_t *document, const char *name, const char **out_text,
                       struct error *err)
{
    const json_t *value = json_object_get(document, name);
    *out_text = json_string_value(value);
    return *out_text != NULL || value == NULL || json_is_null(value)
               ? 0
               : error_set(err, EINVAL, "request: %s: a string", name);
}

static int read_bool(const json_t *document, const char *name, bool *out_value, struct error *err)
{
    const json_t *value = json_object_get(document, name);
    *out_value = json_is_true(value);
    return value == NULL || json_is_boolean(value)
               ? 0
               : error_set(err, EINVAL, "request: %s: true or false", name);
}

static int read_number(const json_t *document, const char *name, json_int_t most,
                       json_int_t otherwise, json_int_t *out_value, struct error *err)
{
    const json_t *value = json_object_get(document, name);
    *out_value = value == NULL ? otherwise : json_integer_value(value);
    return value == NULL || (json_is_integer(value) && *out_value >= 0 && *out_value <= most)
               ? 0
               : error_set(err, EINVAL, "request: %s: a number of at most %lld", name,
                           (long long)most);
}

static int read_command(const json_t *document, struct request *r, struct error *err)
{
    const json_t *command = json_object_get(document, "command");
    size_t count = json_array_size(command);
    if ((command != NULL && !json_is_array(command)) || count > MAX_WORDS) {
        return error_set(err, EINVAL, "request: command: an array of at most %d words", MAX_WORDS);
    }
    r->command = calloc(count + 1, sizeof(*r->command));
    if (r->command == NULL) {
        return error_set_errno(err, ENOMEM, "request");
    }
    for (size_t i = 0; i < count; i++) {
        r->command[i] = json_string_value(json_array_get(command, i));
        if (r->command[i] == NULL || r->command[0][0] == '\0') {
            return error_set(err, EINVAL, "request: command: strings, the first of them a program");
        }
    }
    return 0;
}

static int read_environment(json_t *document, struct request *r, struct error *err)
{
    json_t *environment = json_object_get(document, "environment");
    size_t count = json_object_size(environment), i = 0;
    if ((environment != NULL && !json_is_object(environment)) || count > MAX_WORDS) {
        return error_set(err, EINVAL, "request: environment: an object of at most %d variables",
                         MAX_WORDS);
    }
    r->environment = calloc(count * 2 + 1, sizeof(*r->environment));
    if (r->environment == NULL) {
        return error_set_errno(err, ENOMEM, "request");
    }
    const char *name;
    json_t *value;
    json_object_foreach(environment, name, value)
    {
        if (name[0] == '\0' || strchr(name, '=') != NULL || !json_is_string(value)) {
            return error_set(err, EINVAL, "request: environment: names without '=', and strings");
        }
        r->environment[i++] = name;
        r->environment[i++] = json_string_value(value);
    }
    return 0;
}

static int read_exec(json_t *document, struct request *r, struct error *err)
{
    json_int_t columns = 0, rows = 0;
    int rc = read_command(document, r, err);
    rc = rc < 0 ? rc : read_environment(document, r, err);
    rc = rc < 0 ? rc : read_string(document, "cwd", &r->cwd, err);
    rc = rc < 0 ? rc : read_string(document, "user", &r->user, err);
    rc = rc < 0 ? rc : read_bool(document, "terminal", &r->has_terminal, err);
    rc = rc < 0 ? rc : read_number(document, "columns", UINT16_MAX, 80, &columns, err);
    rc = rc < 0 ? rc : read_number(document, "rows", UINT16_MAX, 24, &rows, err);
    r->columns = (uint16_t)columns;
    r->rows = (uint16_t)rows;
    return rc;
}

static int read_path(const json_t *document, struct request *r, struct error *err)
{
    int rc = read_string(document, "path", &r->path, err);
    if (rc == 0 && (r->path == NULL || r->path[0] != '/' || strlen(r->path) >= PATH_MAX)) {
        rc = error_set(err, EINVAL, "request: path: an absolute path");
    }
    return rc;
}

static int read_shutdown(const json_t *document, struct request *r, struct error *err)
{
    const char *how;
    int rc = read_string(document, "how", &how, err);
    if (rc < 0) {
        return rc;
    }
    r->is_reboot = how != NULL && strcmp(how, "reboot") == 0;
    return how == NULL || r->is_reboot || strcmp(how, "poweroff") == 0
               ? 0
               : error_set(err, EINVAL, "request: how: poweroff or reboot");
}

/* RFC 1123; it goes into files of lines and words. */
static bool is_hostname(const char *name)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.";
    size_t length = strlen(name);
    return length > 0 && length <= 64 && strspn(name, plain) == length && name[0] != '-' &&
           name[0] != '.' && name[length - 1] != '-' && name[length - 1] != '.' &&
           strstr(name, "..") == NULL;
}

static int read_cards(const json_t *document, struct request *r, struct error *err)
{
    const json_t *cards = json_object_get(document, "cards"), *card;
    size_t i;
    if ((cards != NULL && !json_is_array(cards)) || json_array_size(cards) > CARDS_MAX) {
        return error_set(err, EINVAL, "request: cards: an array of at most %d", CARDS_MAX);
    }
    json_array_foreach(cards, i, card)
    {
        const char *from = json_string_value(json_object_get(card, "from"));
        const char *to = json_string_value(json_object_get(card, "to"));
        if (from == NULL || to == NULL || !card_parse_mac(from, r->cards[i].from) ||
            !card_parse_mac(to, r->cards[i].to)) {
            return error_set(err, EINVAL, "request: cards: from and to: MACs of one card each");
        }
    }
    r->card_count = json_array_size(cards);
    return 0;
}

static int read_identity(const json_t *document, struct request *r, struct error *err)
{
    int rc = read_string(document, "hostname", &r->hostname, err);
    rc = rc < 0 ? rc : read_string(document, "machine_id", &r->machine_id, err);
    rc = rc < 0 ? rc : read_bool(document, "host_keys", &r->has_host_keys, err);
    rc = rc < 0 ? rc : read_cards(document, r, err);
    if (rc == 0 && r->hostname != NULL && !is_hostname(r->hostname)) {
        rc = error_set(err, EINVAL,
                       "request: hostname: 1 to 64 letters, digits, '-' and '.' between them");
    }
    if (rc == 0 && r->machine_id != NULL &&
        (strlen(r->machine_id) != 32 || strspn(r->machine_id, "0123456789abcdef") != 32)) {
        rc = error_set(err, EINVAL, "request: machine_id: 32 hexadecimal digits");
    }
    return rc;
}

static int read_members(struct request *r, struct error *err)
{
    json_int_t ns = 0;
    int rc = 0;
    switch (r->kind) {
    case REQUEST_EXEC:
        return read_exec(r->document, r, err);
    case REQUEST_PUSH:
    case REQUEST_PULL:
        return read_path(r->document, r, err);
    case REQUEST_SHUTDOWN:
        return read_shutdown(r->document, r, err);
    case REQUEST_IDENTITY:
        return read_identity(r->document, r, err);
    case REQUEST_TIME:
        rc = read_number(r->document, "ns", INT64_MAX, -1, &ns, err);
        r->time_ns = ns;
        return rc == 0 && ns < 0 ? error_set(err, EINVAL, "request: ns: nanoseconds since 1970")
                                 : rc;
    default:
        return 0;
    }
}

int request_parse(const char *text, size_t size, struct request *out_request, struct error *err)
{
    struct request r = {.document = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL)};
    const char *name = json_string_value(json_object_get(r.document, "do"));
    size_t kind = 0;
    while (name != NULL && kind < ARRAY_COUNT(kind_name) && strcmp(kind_name[kind], name) != 0) {
        kind++;
    }
    int rc;
    if (name == NULL) {
        rc = error_set(err, EINVAL, "request: a JSON object with \"do\"");
    } else if (kind == ARRAY_COUNT(kind_name)) {
        rc = error_set(err, EINVAL, "request: this agent does not know '%.40s'", name);
    } else {
        r.kind = (enum request_kind)kind;
        rc = read_members(&r, err);
    }
    if (rc < 0) {
        request_free(&r);
        return rc;
    }
    *out_request = r;
    return 0;
}

void request_free(struct request *request)
{
    json_decref(request->document);
    free(request->command);
    free(request->environment);
    *request = (struct request){0};
}
