/* YAML by libyaml's events. */
#include "system/config/yaml.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <yaml.h>

#define MAX_DEPTH 16

struct reader {
    yaml_parser_t parser;
    const char *what;
    struct error *err;
};

static int fail(struct reader *reader, size_t line, const char *reason)
{
    return error_set(reader->err, EINVAL, "%s, line %zu: %s", reader->what, line + 1, reason);
}

static int next(struct reader *reader, yaml_event_t *event)
{
    if (yaml_parser_parse(&reader->parser, event)) {
        return 0;
    }
    const yaml_parser_t *p = &reader->parser;
    return fail(reader, p->problem_mark.line, p->problem != NULL ? p->problem : "no YAML");
}

static int read_node(struct reader *reader, yaml_event_t *event, unsigned depth, json_t **out);

static int read_scalar(struct reader *reader, const yaml_event_t *event, json_t **out)
{
    const char *text = (const char *)event->data.scalar.value;
    size_t length = event->data.scalar.length;
    bool is_plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (event->data.scalar.anchor != NULL || event->data.scalar.tag != NULL) {
        return fail(reader, event->start_mark.line, "anchors and tags are not taken");
    }
    if (memchr(text, '\0', length) != NULL) {
        return fail(reader, event->start_mark.line, "a NUL byte in a value");
    }
    *out = is_plain && (length == 0 || strcmp(text, "~") == 0 || strcmp(text, "null") == 0)
               ? json_null()
               : json_stringn(text, length);
    return *out != NULL ? 0 : fail(reader, event->start_mark.line, "a value is not UTF-8");
}

static int read_sequence(struct reader *reader, unsigned depth, json_t *list)
{
    for (;;) {
        yaml_event_t event;
        int rc = next(reader, &event);
        if (rc < 0) {
            return rc;
        }
        bool is_end = event.type == YAML_SEQUENCE_END_EVENT;
        json_t *item = NULL;
        rc = is_end ? 0 : read_node(reader, &event, depth, &item);
        yaml_event_delete(&event);
        if (rc < 0 || is_end) {
            return rc;
        }
        (void)json_array_append_new(list, item);
    }
}

static int read_member(struct reader *reader, const yaml_event_t *name, unsigned depth,
                       json_t *object)
{
    const char *key = (const char *)name->data.scalar.value;
    if (name->type != YAML_SCALAR_EVENT || name->data.scalar.anchor != NULL ||
        name->data.scalar.tag != NULL || strlen(key) != name->data.scalar.length) {
        return fail(reader, name->start_mark.line, "a key has to be a word");
    }
    if (json_object_get(object, key) != NULL) {
        return fail(reader, name->start_mark.line, "the key is there twice");
    }
    yaml_event_t event;
    int rc = next(reader, &event);
    if (rc < 0) {
        return rc;
    }
    json_t *value = NULL;
    rc = read_node(reader, &event, depth, &value);
    yaml_event_delete(&event);
    if (rc == 0 && json_object_set_new(object, key, value) < 0) {
        rc = fail(reader, name->start_mark.line, "the key is not UTF-8");
    }
    return rc;
}

static int read_mapping(struct reader *reader, unsigned depth, json_t *object)
{
    for (;;) {
        yaml_event_t name;
        int rc = next(reader, &name);
        if (rc < 0) {
            return rc;
        }
        bool is_end = name.type == YAML_MAPPING_END_EVENT;
        rc = is_end ? 0 : read_member(reader, &name, depth, object);
        yaml_event_delete(&name);
        if (rc < 0 || is_end) {
            return rc;
        }
    }
}

static int read_node(struct reader *reader, yaml_event_t *event, unsigned depth, json_t **out)
{
    if (event->type == YAML_SCALAR_EVENT) {
        return read_scalar(reader, event, out);
    }
    bool is_list = event->type == YAML_SEQUENCE_START_EVENT;
    if (!is_list && event->type != YAML_MAPPING_START_EVENT) {
        return fail(reader, event->start_mark.line, "anchors and tags are not taken");
    }
    bool is_marked =
        is_list
            ? event->data.sequence_start.anchor != NULL || event->data.sequence_start.tag != NULL
            : event->data.mapping_start.anchor != NULL || event->data.mapping_start.tag != NULL;
    if (is_marked) {
        return fail(reader, event->start_mark.line, "anchors and tags are not taken");
    }
    if (depth == MAX_DEPTH) {
        return fail(reader, event->start_mark.line, "more than 16 levels");
    }
    json_t *value = is_list ? json_array() : json_object();
    int rc =
        is_list ? read_sequence(reader, depth + 1, value) : read_mapping(reader, depth + 1, value);
    if (rc < 0) {
        json_decref(value);
        return rc;
    }
    *out = value;
    return 0;
}

/* STREAM-START, DOCUMENT-START, node, DOCUMENT-END, STREAM-END. */
static int read_stream(struct reader *reader, json_t **out)
{
    json_t *value = NULL;
    for (bool is_done = false; !is_done;) {
        yaml_event_t event;
        int rc = next(reader, &event);
        if (rc < 0) {
            json_decref(value);
            return rc;
        }
        switch (event.type) {
        case YAML_STREAM_START_EVENT:
        case YAML_DOCUMENT_END_EVENT:
            break;
        case YAML_DOCUMENT_START_EVENT:
            rc = value != NULL ? fail(reader, event.start_mark.line, "more than one document") : 0;
            break;
        case YAML_STREAM_END_EVENT:
            is_done = true;
            break;
        default:
            rc = read_node(reader, &event, 0, &value);
            break;
        }
        yaml_event_delete(&event);
        if (rc < 0) {
            json_decref(value);
            return rc;
        }
    }
    *out = value != NULL ? value : json_object();
    return 0;
}

int yaml_parse(const char *text, size_t size, const char *what, json_t **out_value,
               struct error *err)
{
    struct reader reader = {.what = what, .err = err};
    if (!yaml_parser_initialize(&reader.parser)) {
        return error_set(err, ENOMEM, "%s: no memory", what);
    }
    yaml_parser_set_encoding(&reader.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, size);
    int rc = read_stream(&reader, out_value);
    yaml_parser_delete(&reader.parser);
    return rc;
}

struct buffer {
    char *text;
    size_t size;
};

static int keep(void *ctx, unsigned char *data, size_t size)
{
    struct buffer *buffer = ctx;
    char *larger = realloc(buffer->text, buffer->size + size + 1);
    if (larger == NULL) {
        return 0;
    }
    memcpy(larger + buffer->size, data, size);
    buffer->text = larger;
    buffer->size += size;
    larger[buffer->size] = '\0';
    return 1;
}

/* Words that other readers take for truth values or nothing, and what looks like a number, are quoted to stay words, unless
 * they are numbers. */
static bool needs_quotes(const char *text)
{
    static const char *const words[] = {"",   "~",  "null", "true", "false", "yes",
                                        "no", "on", "off",  "y",    "n"};
    for (size_t i = 0; i < ARRAY_COUNT(words); i++) {
        if (strcasecmp(text, words[i]) == 0) {
            return true;
        }
    }
    return false;
}

static int emit(yaml_emitter_t *emitter, yaml_event_t *event)
{
    return yaml_emitter_emit(emitter, event) ? 0 : -EINVAL;
}

static int emit_scalar(yaml_emitter_t *emitter, const char *text, bool is_word)
{
    yaml_event_t event;
    yaml_scalar_style_t style =
        is_word && needs_quotes(text) ? YAML_DOUBLE_QUOTED_SCALAR_STYLE : YAML_ANY_SCALAR_STYLE;
    return yaml_scalar_event_initialize(&event, NULL, NULL, (yaml_char_t *)text, (int)strlen(text),
                                        1, 1, style)
               ? emit(emitter, &event)
               : -ENOMEM;
}

/* 'depth' ends the recursion. */
static int emit_value(yaml_emitter_t *emitter, const json_t *value, unsigned depth)
{
    yaml_event_t event;
    if (depth > MAX_DEPTH) {
        return -EINVAL;
    }
    if (json_is_array(value)) {
        (void)yaml_sequence_start_event_initialize(&event, NULL, NULL, 1,
                                                   YAML_BLOCK_SEQUENCE_STYLE);
        int rc = emit(emitter, &event);
        size_t i;
        json_t *item;
        json_array_foreach(value, i, item)
        {
            rc = rc < 0 ? rc : emit_value(emitter, item, depth + 1);
        }
        (void)yaml_sequence_end_event_initialize(&event);
        return rc < 0 ? rc : emit(emitter, &event);
    }
    if (json_is_object(value)) {
        (void)yaml_mapping_start_event_initialize(&event, NULL, NULL, 1, YAML_BLOCK_MAPPING_STYLE);
        int rc = emit(emitter, &event);
        const char *key;
        json_t *member;
        json_object_foreach((json_t *)value, key, member)
        {
            rc = rc < 0 ? rc : emit_scalar(emitter, key, true);
            rc = rc < 0 ? rc : emit_value(emitter, member, depth + 1);
        }
        (void)yaml_mapping_end_event_initialize(&event);
        return rc < 0 ? rc : emit(emitter, &event);
    }
    if (json_is_string(value)) {
        return emit_scalar(emitter, json_string_value(value), true);
    }
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    int rc = text != NULL ? emit_scalar(emitter, text, false) : -ENOMEM;
    free(text);
    return rc;
}

int yaml_write(const json_t *value, char **out_text, struct error *err)
{
    struct buffer buffer = {0};
    yaml_emitter_t emitter;
    yaml_event_t event;
    if (!yaml_emitter_initialize(&emitter)) {
        return error_set(err, ENOMEM, "writing YAML: no memory");
    }
    yaml_emitter_set_output(&emitter, keep, &buffer);
    yaml_emitter_set_unicode(&emitter, 1);
    yaml_emitter_set_width(&emitter, -1);
    (void)yaml_stream_start_event_initialize(&event, YAML_UTF8_ENCODING);
    int rc = emit(&emitter, &event);
    (void)yaml_document_start_event_initialize(&event, NULL, NULL, NULL, 1);
    rc = rc < 0 ? rc : emit(&emitter, &event);
    rc = rc < 0 ? rc : emit_value(&emitter, value, 0);
    (void)yaml_document_end_event_initialize(&event, 1);
    rc = rc < 0 ? rc : emit(&emitter, &event);
    (void)yaml_stream_end_event_initialize(&event);
    rc = rc < 0 ? rc : emit(&emitter, &event);
    yaml_emitter_delete(&emitter);
    if (rc < 0 || buffer.text == NULL) {
        free(buffer.text);
        return error_set(err, rc < 0 ? -rc : ENOMEM, "writing YAML: the value cannot be written");
    }
    *out_text = buffer.text;
    return 0;
}
