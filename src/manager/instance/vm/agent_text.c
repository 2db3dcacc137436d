#include "manager/instance/vm/agent_text.h"

#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"

#define DEPTH_MAX   16
#define MESSAGE_MAX 200

/* By brackets, so that the parser never sees what is too deep for it. */
static bool is_flat(const char *text, size_t size)
{
    int depth = 0;
    bool is_string = false;
    for (size_t i = 0; i < size; i++) {
        if (is_string && text[i] == '\\') {
            i++;
        } else if (text[i] == '"') {
            is_string = !is_string;
        } else if (!is_string && (text[i] == '[' || text[i] == '{')) {
            depth++;
        } else if (!is_string && (text[i] == ']' || text[i] == '}')) {
            depth--;
        }
        if (depth > DEPTH_MAX) {
            return false;
        }
    }
    return true;
}

/* Escape sequences would reach somebody's terminal. Those of C1 are two bytes in UTF-8. */
static json_t *clean_string(const char *text)
{
    AUTO_FREE char *copy = strdup(text);
    for (unsigned char *c = (unsigned char *)copy; copy != NULL && *c != '\0'; c++) {
        if (*c < 0x20 || *c == 0x7f) {
            *c = '?';
        } else if (*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0) {
            c[0] = c[1] = '?';
        }
    }
    return copy == NULL ? NULL : json_string(copy);
}

/* A copy. NULL: no memory. */
static json_t *clean(const json_t *value)
{
    json_t *copy, *item;
    const char *name;
    size_t i;
    switch (json_typeof(value)) {
    case JSON_STRING:
        return clean_string(json_string_value(value));
    case JSON_ARRAY:
        copy = json_array();
        json_array_foreach(value, i, item)
        {
            if (json_array_append_new(copy, clean(item)) < 0) {
                json_decref(copy);
                return NULL;
            }
        }
        return copy;
    case JSON_OBJECT:
        copy = json_object();
        json_object_foreach((json_t *)value, name, item)
        {
            json_t *key = clean_string(name);
            int rc =
                key == NULL ? -1 : json_object_set_new(copy, json_string_value(key), clean(item));
            json_decref(key);
            if (rc < 0) {
                json_decref(copy);
                return NULL;
            }
        }
        return copy;
    default:
        return json_deep_copy(value);
    }
}

int agent_text_parse(const char *text, size_t size, json_t **out_object, struct error *err)
{
    json_t *dirty = is_flat(text, size) ? json_loadb(text, size, 0, NULL) : NULL;
    if (!json_is_object(dirty)) {
        json_decref(dirty);
        return error_set(err, EPROTO, "guest agent: what it says is no JSON object");
    }
    json_t *object = clean(dirty);
    json_decref(dirty);
    if (object == NULL) {
        return error_set_errno(err, ENOMEM, "guest agent");
    }
    *out_object = object;
    return 0;
}

int agent_text_error(const json_t *problem, struct error *err)
{
    static const struct {
        const char *code;
        int number;
    } known[] = {{"invalid", EINVAL}, {"not-found", ENOENT},       {"forbidden", EACCES},
                 {"busy", EBUSY},     {"unsupported", EOPNOTSUPP}, {"failed", EIO}};
    const char *code = json_string_value(json_object_get(problem, "code"));
    const char *message = json_string_value(json_object_get(problem, "message"));
    int number = EIO;
    for (size_t i = 0; code != NULL && i < ARRAY_COUNT(known); i++) {
        number = strcmp(known[i].code, code) == 0 ? known[i].number : number;
    }
    return error_set(err, number, "guest agent: %.*s", MESSAGE_MAX,
                     message != NULL ? message : "it failed and does not say why");
}

/* A number of a member: of an exit status or a signal. */
static json_t *take_number(const json_t *control, const char *name, json_int_t least,
                           json_int_t most)
{
    const json_t *number = json_object_get(control, name);
    json_int_t value = json_integer_value(number);
    return json_is_integer(number) && value >= least && value <= most
               ? json_pack("{s:I}", name, value)
               : NULL;
}

static json_t *take_error(const json_t *problem)
{
    static const char *const known[] = {"invalid", "not-found", "forbidden", "busy", "unsupported"};
    const char *code = json_string_value(json_object_get(problem, "code"));
    const char *kept = "failed";
    struct error words;
    error_ignore(agent_text_error(problem, &words));
    for (size_t i = 0; code != NULL && i < ARRAY_COUNT(known); i++) {
        kept = strcmp(known[i], code) == 0 ? known[i] : kept;
    }
    /* Cut within a character it is no text any more. */
    json_t *message = json_string(words.text);
    return json_pack("{s:{s:s,s:o}}", "error", "code", kept, "message",
                     message != NULL ? message : json_string("guest agent: it failed"));
}

int agent_text_control(const char *text, size_t size, json_t **out_control, bool *out_is_last,
                       struct error *err)
{
    json_t *control, *kept = NULL;
    int rc = agent_text_parse(text, size, &control, err);
    if (rc < 0) {
        return rc;
    }
    bool is_last = true;
    if (json_object_get(control, "exit") != NULL) {
        kept = take_number(control, "exit", 0, 255);
    } else if (json_object_get(control, "signalled") != NULL) {
        kept = take_number(control, "signalled", 1, 64);
    } else if (json_is_object(json_object_get(control, "error"))) {
        kept = take_error(json_object_get(control, "error"));
    } else if (json_is_true(json_object_get(control, "started"))) {
        is_last = false;
        kept = json_pack("{s:b}", "started", true);
    }
    json_decref(control);
    if (kept == NULL) {
        return error_set(err, EPROTO, "guest agent: a control frame that no session has");
    }
    *out_control = kept;
    *out_is_last = is_last;
    return 0;
}
