/* The part of JSON Schema 2020-12 that the tables use: type, properties, required, additionalProperties, enum, const, items, minimum, maximum, minLength,
 * maxLength, minItems, maxItems, pattern and $ref. Other keywords describe and check nothing. */
#include <regex.h>
#include <stdio.h>
#include <string.h>

#include "base/command/options.h"
#include "manager/api/catalog.h"

#define REF_PREFIX "#/components/schemas/"

struct path {
    char text[128];
};

/* Of one check; 'at' is where it is in the value. */
struct check {
    const json_t *schemas;
    struct path at;
    struct error *err;
};

static int check_value(struct check *check, const json_t *schema, const json_t *value,
                       unsigned depth);

static int wrong(struct check *check, const char *format, ...) printf_like(2, 3);

static int wrong(struct check *check, const char *format, ...)
{
    char text[ERROR_TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    return check->at.text[0] == '\0'
               ? error_set(check->err, EINVAL, "body: %s", text)
               : error_set(check->err, EINVAL, "%s: %s", check->at.text, text);
}

static bool has_type(const json_t *value, const char *type)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return strcmp(type, "object") == 0;
    case JSON_ARRAY:
        return strcmp(type, "array") == 0;
    case JSON_STRING:
        return strcmp(type, "string") == 0;
    case JSON_INTEGER:
        return strcmp(type, "integer") == 0 || strcmp(type, "number") == 0;
    case JSON_REAL:
        return strcmp(type, "number") == 0;
    case JSON_TRUE:
    case JSON_FALSE:
        return strcmp(type, "boolean") == 0;
    default:
        return strcmp(type, "null") == 0;
    }
}

/* "string" or ["string", "null"]. */
static int check_type(struct check *check, const json_t *types, const json_t *value)
{
    if (json_is_string(types)) {
        const char *type = json_string_value(types);
        return has_type(value, type) ? 0 : wrong(check, "it has to be of type %s", type);
    }
    char names[96] = "";
    size_t length = 0, i;
    const json_t *type;
    json_array_foreach(types, i, type)
    {
        if (has_type(value, json_string_value(type))) {
            return 0;
        }
        int more = snprintf(names + length, sizeof(names) - length, "%s%s", i > 0 ? " or " : "",
                            json_string_value(type));
        length = MIN(length + (size_t)more, sizeof(names) - 1);
    }
    return i == 0 ? 0 : wrong(check, "it has to be of type %s", names);
}

static int check_enum(struct check *check, const json_t *accepted, const json_t *value)
{
    char names[160] = "";
    size_t length = 0, i;
    const json_t *one;
    json_array_foreach(accepted, i, one)
    {
        if (json_equal(one, value)) {
            return 0;
        }
        const char *word = json_is_string(one) ? json_string_value(one) : "...";
        int more =
            snprintf(names + length, sizeof(names) - length, "%s%s", i > 0 ? ", " : "", word);
        length = MIN(length + (size_t)more, sizeof(names) - 1);
    }
    return wrong(check, "one of: %s", names);
}

static int check_number(struct check *check, const json_t *schema, const json_t *value)
{
    const json_t *minimum = json_object_get(schema, "minimum");
    const json_t *maximum = json_object_get(schema, "maximum");
    if (minimum != NULL && json_number_value(value) < json_number_value(minimum)) {
        return wrong(check, "at least %.15g", json_number_value(minimum));
    }
    if (maximum != NULL && json_number_value(value) > json_number_value(maximum)) {
        return wrong(check, "at most %.15g", json_number_value(maximum));
    }
    return 0;
}

/* 'size' of 'what' between the schema's 'least' and 'most'. */
static int check_size(struct check *check, const json_t *schema, const char *least,
                      const char *most, size_t size, const char *what)
{
    const json_t *minimum = json_object_get(schema, least);
    const json_t *maximum = json_object_get(schema, most);
    if (minimum != NULL && (json_int_t)size < json_integer_value(minimum)) {
        return wrong(check, "at least %lld %s", (long long)json_integer_value(minimum), what);
    }
    if (maximum != NULL && (json_int_t)size > json_integer_value(maximum)) {
        return wrong(check, "at most %lld %s", (long long)json_integer_value(maximum), what);
    }
    return 0;
}

static size_t count_characters(const char *text)
{
    size_t count = 0;
    for (; *text != '\0'; text++) {
        count += ((unsigned char)*text & 0xc0) != 0x80; /* jansson has checked the UTF-8 */
    }
    return count;
}

/* Patterns are written so that they mean the same in ECMAScript and as extended regular expressions of POSIX. */
static int check_string(struct check *check, const json_t *schema, const json_t *value)
{
    const char *text = json_string_value(value);
    int rc =
        check_size(check, schema, "minLength", "maxLength", count_characters(text), "characters");
    const char *pattern = json_string_value(json_object_get(schema, "pattern"));
    if (rc < 0 || pattern == NULL) {
        return rc;
    }
    regex_t compiled;
    if (regcomp(&compiled, pattern, REG_EXTENDED | REG_NOSUB) != 0) {
        return error_set(check->err, EIO, "schema: pattern %s cannot be used", pattern);
    }
    int result = regexec(&compiled, text, 0, NULL, 0);
    regfree(&compiled);
    return result == 0 ? 0 : wrong(check, "it has to match %s", pattern);
}

static struct path enter(struct check *check, const char *name)
{
    struct path before = check->at;
    snprintf(check->at.text, sizeof(check->at.text), "%.60s%s%.60s", before.text,
             before.text[0] != '\0' ? "." : "", name);
    return before;
}

static int check_items(struct check *check, const json_t *schema, const json_t *value,
                       unsigned depth)
{
    int rc = check_size(check, schema, "minItems", "maxItems", json_array_size(value), "items");
    const json_t *items = json_object_get(schema, "items"), *item;
    size_t i;
    if (items == NULL) {
        return rc;
    }
    json_array_foreach(value, i, item)
    {
        if (rc < 0) {
            break;
        }
        char number[24];
        snprintf(number, sizeof(number), "%zu", i);
        struct path before = enter(check, number);
        rc = check_value(check, items, item, depth);
        check->at = before;
    }
    return rc;
}

static int unknown_member(struct check *check, const json_t *properties, const char *name)
{
    char words[1024] = "", hint[64];
    size_t length = 0;
    const char *one;
    const json_t *ignored;
    json_object_foreach((json_t *)properties, one, ignored)
    {
        int more =
            snprintf(words + length, sizeof(words) - length, "%s%s", length > 0 ? "|" : "", one);
        length = MIN(length + (size_t)more, sizeof(words) - 1);
    }
    if (nearest_word(name, words, hint, sizeof(hint)) != NULL) {
        return wrong(check, "unknown member '%.60s': did you mean '%s'?", name, hint);
    }
    for (char *bar = words; (bar = strchr(bar, '|')) != NULL;) {
        *bar = ' ';
    }
    return wrong(check, "unknown member '%.60s': there are: %.140s", name, words);
}

static int check_members(struct check *check, const json_t *schema, const json_t *value,
                         unsigned depth)
{
    const json_t *properties = json_object_get(schema, "properties");
    const json_t *others = json_object_get(schema, "additionalProperties");
    const json_t *name_of_required, *member;
    const char *name;
    size_t i;
    json_array_foreach(json_object_get(schema, "required"), i, name_of_required)
    {
        if (json_object_get(value, json_string_value(name_of_required)) == NULL) {
            return wrong(check, "member '%s' is missing", json_string_value(name_of_required));
        }
    }
    json_object_foreach((json_t *)value, name, member)
    {
        const json_t *rule = json_object_get(properties, name);
        if (rule == NULL) {
            if (json_is_false(others)) {
                return unknown_member(check, properties, name);
            }
            rule = others;
        }
        if (!json_is_object(rule)) {
            continue;
        }
        struct path before = enter(check, name);
        int rc = check_value(check, rule, member, depth);
        check->at = before;
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int check_value(struct check *check, const json_t *schema, const json_t *value,
                       unsigned depth)
{
    if (depth == 0) {
        return wrong(check, "it is nested too deeply");
    }
    const char *ref = json_string_value(json_object_get(schema, "$ref"));
    if (ref != NULL) {
        const json_t *target = strncmp(ref, REF_PREFIX, strlen(REF_PREFIX)) == 0
                                   ? json_object_get(check->schemas, ref + strlen(REF_PREFIX))
                                   : NULL;
        return target == NULL ? error_set(check->err, EIO, "schema: there is no %s", ref)
                              : check_value(check, target, value, depth - 1);
    }
    const json_t *types = json_object_get(schema, "type");
    const json_t *accepted = json_object_get(schema, "enum");
    const json_t *fixed = json_object_get(schema, "const");
    int rc = types != NULL ? check_type(check, types, value) : 0;
    if (rc == 0 && accepted != NULL) {
        rc = check_enum(check, accepted, value);
    }
    if (rc == 0 && fixed != NULL && !json_equal(fixed, value)) {
        rc = wrong(check, "only one value is accepted");
    }
    if (rc < 0) {
        return rc;
    }
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return check_members(check, schema, value, depth - 1);
    case JSON_ARRAY:
        return check_items(check, schema, value, depth - 1);
    case JSON_STRING:
        return check_string(check, schema, value);
    case JSON_INTEGER:
    case JSON_REAL:
        return check_number(check, schema, value);
    default:
        return 0;
    }
}

int schema_check(const json_t *schemas, const char *name, const json_t *value, struct error *err)
{
    struct check check = {.schemas = schemas, .err = err};
    size_t length = strlen(name);
    if (name[0] == '[' && length > 2) {
        json_t *schema = json_pack("{s:s, s:{s:s+%}}", "type", "array", "items", "$ref", REF_PREFIX,
                                   name + 1, length - 2);
        int rc = schema == NULL ? error_set(err, ENOMEM, "checking a body")
                                : check_value(&check, schema, value, API_MAX_DEPTH);
        json_decref(schema);
        return rc;
    }
    const json_t *schema = json_object_get(schemas, name);
    return schema == NULL ? error_set(err, EIO, "schema: there is no %s", name)
                          : check_value(&check, schema, value, API_MAX_DEPTH);
}
