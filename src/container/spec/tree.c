/* A recursive descent through JSON. Strings and keys stay where they are in the text, unless an escape makes a copy necessary. */
#include "container/spec/tree.h"

#include <stdlib.h>
#include <string.h>

/* Up to so many keys are compared each with each; more are sorted. */
#define FEW_KEYS 16

struct parser {
    struct arena *arena;
    const char *text, *next, *end;
    unsigned depth;
    struct error *err;
};

const char *node_type_name(enum node_type type)
{
    static const char *const names[] = {
        [NODE_NULL] = "null",       [NODE_BOOL] = "a boolean",  [NODE_INTEGER] = "an integer",
        [NODE_REAL] = "a fraction", [NODE_STRING] = "a string", [NODE_LIST] = "a list",
        [NODE_OBJECT] = "an object"};
    return names[type];
}

bool node_has_key(const struct node *node, const char *key)
{
    return strlen(key) == node->key_length && memcmp(key, node->key, node->key_length) == 0;
}

const struct node *node_find(const struct node *object, const char *key)
{
    const struct node *node = object->first;
    while (node != NULL && !node_has_key(node, key)) {
        node = node->next;
    }
    return node != NULL && node->type != NODE_NULL ? node : NULL;
}

bool node_equals(const struct node *string, const char *text)
{
    return strlen(text) == string->length && memcmp(text, string->string, string->length) == 0;
}

/* Columns count characters, not bytes, as editors do. */
static int fail_at(struct parser *parser, const char *at, int code, const char *what)
{
    unsigned line = 1, column = 1;
    for (const char *c = parser->text; c < at; c++) {
        if (*c == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)*c & 0xc0) != 0x80) {
            column++;
        }
    }
    return error_set(parser->err, code, "line %u, column %u: %s", line, column, what);
}

static int fail(struct parser *parser, const char *what)
{
    return fail_at(parser, parser->next, EINVAL,
                   parser->next == parser->end ? "the text ends too early" : what);
}

static int fail_memory(struct parser *parser)
{
    return fail_at(parser, parser->next, E2BIG, "the document takes too much memory");
}

static void skip_space(struct parser *parser)
{
    while (parser->next < parser->end && (*parser->next == ' ' || *parser->next == '\n' ||
                                          *parser->next == '\t' || *parser->next == '\r')) {
        parser->next++;
    }
}

static bool accept(struct parser *parser, char c)
{
    if (parser->next < parser->end && *parser->next == c) {
        parser->next++;
        return true;
    }
    return false;
}

/* The length of the well-formed UTF-8 sequence at 'c' (RFC 3629), 0: there is none. */
static unsigned utf8_length(const unsigned char *c, size_t left)
{
    unsigned length = c[0] < 0xc2 ? 0 : c[0] < 0xe0 ? 2 : c[0] < 0xf0 ? 3 : c[0] < 0xf5 ? 4 : 0;
    if (length == 0 || length > left) {
        return 0;
    }
    for (unsigned i = 1; i < length; i++) {
        if ((c[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    /* Too long a form, a surrogate, beyond U+10FFFF. */
    bool is_wrong = (c[0] == 0xe0 && c[1] < 0xa0) || (c[0] == 0xed && c[1] >= 0xa0) ||
                    (c[0] == 0xf0 && c[1] < 0x90) || (c[0] == 0xf4 && c[1] >= 0x90);
    return is_wrong ? 0 : length;
}

static unsigned utf8_put(char *out, uint32_t point)
{
    if (point < 0x80) {
        out[0] = (char)point;
        return 1;
    }
    if (point < 0x800) {
        out[0] = (char)(0xc0 | point >> 6);
        out[1] = (char)(0x80 | (point & 0x3f));
        return 2;
    }
    if (point < 0x10000) {
        out[0] = (char)(0xe0 | point >> 12);
        out[1] = (char)(0x80 | (point >> 6 & 0x3f));
        out[2] = (char)(0x80 | (point & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | point >> 18);
    out[1] = (char)(0x80 | (point >> 12 & 0x3f));
    out[2] = (char)(0x80 | (point >> 6 & 0x3f));
    out[3] = (char)(0x80 | (point & 0x3f));
    return 4;
}

/* Four hexadecimal digits; -1: there are none. */
static int32_t take_hex(struct parser *parser)
{
    int32_t value = 0;
    for (unsigned i = 0; i < 4; i++) {
        if (parser->next == parser->end) {
            return -1;
        }
        char c = *parser->next;
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) {
            return -1;
        }
        value = value << 4 | digit;
        parser->next++;
    }
    return value;
}

/* Behind a backslash and 'u'. */
static int take_code_point(struct parser *parser, uint32_t *out_point)
{
    const char *begin = parser->next;
    int32_t first = take_hex(parser);
    if (first < 0) {
        return fail(parser, "four hexadecimal digits must follow \\u");
    }
    if (first == 0) {
        return fail_at(parser, begin, EINVAL, "a string must not have NUL (\\u0000) inside");
    }
    *out_point = (uint32_t)first;
    if (first < 0xd800 || first > 0xdfff) {
        return 0;
    }
    int32_t second = -1;
    if (first < 0xdc00 && accept(parser, '\\') && accept(parser, 'u')) {
        second = take_hex(parser);
    }
    if (second < 0xdc00 || second > 0xdfff) {
        return fail_at(parser, begin, EINVAL, "half a surrogate pair");
    }
    *out_point = 0x10000 + (((uint32_t)first & 0x3ff) << 10) + ((uint32_t)second & 0x3ff);
    return 0;
}

/* From the first escape on: 'out' has room for the rest of the text's string. */
static int take_escape(struct parser *parser, char *out, size_t *length)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (parser->next == parser->end) {
        return fail(parser, "");
    }
    const char *found = memchr(from, *parser->next, sizeof(from) - 1);
    if (found != NULL) {
        parser->next++;
        out[(*length)++] = to[found - from];
        return 0;
    }
    if (!accept(parser, 'u')) {
        return fail(parser, "no such escape: \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX are there");
    }
    uint32_t point = 0;
    int rc = take_code_point(parser, &point);
    if (rc == 0) {
        *length += utf8_put(out + *length, point);
    }
    return rc;
}

/* Moves over one character that stands for itself. */
static int take_plain(struct parser *parser, unsigned *out_length)
{
    const unsigned char *c = (const unsigned char *)parser->next;
    if (*c < 0x20) {
        return fail(parser, *c == '\n' ? "the string has no end in its line"
                                       : "a control character must be written as an escape");
    }
    *out_length = *c < 0x80 ? 1 : utf8_length(c, (size_t)(parser->end - parser->next));
    if (*out_length == 0) {
        return fail(parser, "this is not UTF-8");
    }
    parser->next += *out_length;
    return 0;
}

/* Where the string at 'begin' would end, at the latest: how much room its copy needs. */
static size_t raw_length(const struct parser *parser, const char *begin)
{
    const char *c = begin;
    while (c < parser->end && *c != '"') {
        c += *c == '\\' ? 2 : 1;
    }
    return (size_t)(MIN(c, parser->end) - begin);
}

static int take_string_with_escapes(struct parser *parser, const char *begin,
                                    const char **out_string, uint32_t *out_length)
{
    char *copy = arena_alloc(parser->arena, raw_length(parser, begin) + 1);
    if (copy == NULL) {
        return fail_memory(parser);
    }
    size_t length = (size_t)(parser->next - begin);
    memcpy(copy, begin, length);
    int rc = 0;
    while (rc == 0 && !accept(parser, '"')) {
        unsigned plain = 0;
        if (parser->next == parser->end) {
            return fail(parser, "");
        }
        if (accept(parser, '\\')) {
            rc = take_escape(parser, copy, &length);
        } else {
            rc = take_plain(parser, &plain);
            memcpy(copy + length, parser->next - plain, plain);
            length += plain;
        }
    }
    *out_string = copy;
    *out_length = (uint32_t)length;
    return rc;
}

/* Behind the opening quote. */
static int take_string(struct parser *parser, const char **out_string, uint32_t *out_length)
{
    const char *begin = parser->next;
    while (parser->next < parser->end) {
        if (*parser->next == '"') {
            *out_string = begin;
            *out_length = (uint32_t)(parser->next - begin);
            parser->next++;
            return 0;
        }
        if (*parser->next == '\\') {
            return take_string_with_escapes(parser, begin, out_string, out_length);
        }
        unsigned length;
        int rc = take_plain(parser, &length);
        if (rc < 0) {
            return rc;
        }
    }
    return fail(parser, "");
}

static bool skip_digits(struct parser *parser)
{
    const char *begin = parser->next;
    while (parser->next < parser->end && *parser->next >= '0' && *parser->next <= '9') {
        parser->next++;
    }
    return parser->next > begin;
}

static int take_number(struct parser *parser, struct node *node)
{
    node->type = NODE_INTEGER;
    node->is_negative = accept(parser, '-');
    const char *digits = parser->next;
    if (!skip_digits(parser)) {
        return fail(parser, "a value must stand here");
    }
    if (*digits == '0' && parser->next - digits > 1) {
        return fail_at(parser, digits, EINVAL, "a number must not begin with 0");
    }
    for (const char *c = digits; c < parser->next; c++) {
        if (__builtin_mul_overflow(node->magnitude, 10u, &node->magnitude) ||
            __builtin_add_overflow(node->magnitude, (unsigned)(*c - '0'), &node->magnitude)) {
            node->type = NODE_REAL;
        }
    }
    if (accept(parser, '.')) {
        node->type = NODE_REAL;
        if (!skip_digits(parser)) {
            return fail(parser, "a digit must follow the point");
        }
    }
    if (accept(parser, 'e') || accept(parser, 'E')) {
        node->type = NODE_REAL;
        if (!accept(parser, '-')) {
            (void)accept(parser, '+'); /* may be left away */
        }
        if (!skip_digits(parser)) {
            return fail(parser, "a digit must stand in the exponent");
        }
    }
    if (node->is_negative && node->magnitude > (uint64_t)INT64_MAX + 1) {
        node->type = NODE_REAL;
    }
    if (node->type == NODE_INTEGER && node->magnitude == 0) {
        node->is_negative = false;
    }
    return 0;
}

static int take_word(struct parser *parser, struct node *node)
{
    static const struct {
        const char *word;
        enum node_type type;
        bool value;
    } words[] = {{"true", NODE_BOOL, true}, {"false", NODE_BOOL}, {"null", NODE_NULL}};
    for (size_t i = 0; i < ARRAY_COUNT(words); i++) {
        size_t length = strlen(words[i].word);
        if ((size_t)(parser->end - parser->next) >= length &&
            memcmp(parser->next, words[i].word, length) == 0) {
            parser->next += length;
            node->type = words[i].type;
            node->boolean = words[i].value;
            return 0;
        }
    }
    return fail(parser, "a value must stand here");
}

static int compare_keys(const void *left, const void *right)
{
    const struct node *a = *(const struct node *const *)left,
                      *b = *(const struct node *const *)right;
    int order = memcmp(a->key, b->key, MIN(a->key_length, b->key_length));
    if (order == 0 && a->key_length != b->key_length) {
        order = a->key_length < b->key_length ? -1 : 1;
    }
    return order;
}

static int fail_twice(struct parser *parser, const struct node *node)
{
    char text[128];
    size_t length = 0;
    static const char begin[] = "key '", end[] = "' stands twice in its object";
    memcpy(text, begin, sizeof(begin) - 1);
    length = sizeof(begin) - 1;
    size_t shown = MIN(node->key_length, 64u);
    for (size_t i = 0; i < shown; i++) {
        text[length++] = (unsigned char)node->key[i] < 0x20 ? '?' : node->key[i];
    }
    memcpy(text + length, end, sizeof(end));
    bool is_in_text =
        node->key >= parser->text && node->key < parser->end; /* else it had escapes */
    return fail_at(parser, is_in_text ? node->key : node->begin, EINVAL, text);
}

static int check_keys(struct parser *parser, const struct node *object)
{
    if (object->length <= FEW_KEYS) {
        for (const struct node *a = object->first; a != NULL; a = a->next) {
            for (const struct node *b = a->next; b != NULL; b = b->next) {
                if (compare_keys(&a, &b) == 0) {
                    return fail_twice(parser, b);
                }
            }
        }
        return 0;
    }
    const struct node **all = arena_alloc(parser->arena, object->length * sizeof(all[0]));
    if (all == NULL) {
        return fail_memory(parser);
    }
    size_t count = 0;
    for (const struct node *node = object->first; node != NULL; node = node->next) {
        all[count++] = node;
    }
    qsort(all, count, sizeof(all[0]), compare_keys);
    for (size_t i = 1; i < count; i++) {
        if (compare_keys(&all[i - 1], &all[i]) == 0) {
            return fail_twice(parser, all[i - 1]->begin > all[i]->begin ? all[i - 1] : all[i]);
        }
    }
    return 0;
}

static int take_value(struct parser *parser, struct node *node);

/* One member of an object or of a list, with its key where it needs one. */
static int take_member(struct parser *parser, struct node *parent, struct node **out_node)
{
    struct node *node = arena_alloc(parser->arena, sizeof(*node));
    if (node == NULL) {
        return fail_memory(parser);
    }
    node->parent = parent;
    skip_space(parser);
    if (parent->type == NODE_OBJECT) {
        if (!accept(parser, '"')) {
            return fail(parser, "a key in quotes must stand here");
        }
        int rc = take_string(parser, &node->key, &node->key_length);
        if (rc < 0) {
            return rc;
        }
        skip_space(parser);
        if (!accept(parser, ':')) {
            return fail(parser, "a colon must follow the key");
        }
    }
    *out_node = node;
    return take_value(parser, node);
}

/* Behind the opening bracket. */
static int take_members(struct parser *parser, struct node *node, char closing)
{
    if (++parser->depth > TREE_MAX_DEPTH) {
        return fail_at(parser, parser->next, E2BIG, "more than 64 levels of brackets");
    }
    const struct node **link = &node->first;
    skip_space(parser);
    bool is_over = accept(parser, closing);
    while (!is_over) {
        struct node *member = NULL;
        int rc = take_member(parser, node, &member);
        if (rc < 0) {
            return rc;
        }
        *link = member;
        link = &member->next;
        node->length++;
        skip_space(parser);
        is_over = accept(parser, closing);
        if (!is_over && !accept(parser, ',')) {
            return fail(parser, closing == '}' ? "a comma or } must stand here"
                                               : "a comma or ] must stand here");
        }
    }
    parser->depth--;
    return node->type == NODE_OBJECT ? check_keys(parser, node) : 0;
}

static int take_value(struct parser *parser, struct node *node)
{
    skip_space(parser);
    node->begin = parser->next;
    int rc;
    if (accept(parser, '"')) {
        node->type = NODE_STRING;
        rc = take_string(parser, &node->string, &node->length);
    } else if (accept(parser, '{')) {
        node->type = NODE_OBJECT;
        rc = take_members(parser, node, '}');
    } else if (accept(parser, '[')) {
        node->type = NODE_LIST;
        rc = take_members(parser, node, ']');
    } else if (parser->next < parser->end &&
               (*parser->next == '-' || (*parser->next >= '0' && *parser->next <= '9'))) {
        rc = take_number(parser, node);
    } else {
        rc = take_word(parser, node);
    }
    node->extent = (uint32_t)(parser->next - node->begin);
    return rc;
}

int tree_parse(struct arena *arena, const char *text, size_t size, const struct node **out_root,
               struct error *err)
{
    if (size > TREE_MAX_BYTES) {
        return error_set(err, E2BIG, "the document is larger than 16 MiB");
    }
    struct parser parser = {
        .arena = arena, .text = text, .next = text, .end = text + size, .err = err};
    struct node *root = arena_alloc(arena, sizeof(*root));
    if (root == NULL) {
        return fail_memory(&parser);
    }
    int rc = take_value(&parser, root);
    if (rc < 0) {
        return rc;
    }
    skip_space(&parser);
    if (parser.next < parser.end) {
        return fail(&parser, "something stands behind the document's end");
    }
    *out_root = root;
    return 0;
}
