/* Reading by tables: objects, lists and the plain types. */
#include "container/spec/read.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/core/checked.h"

#define MAX_PATH_TEXT 120

struct path {
    char text[MAX_PATH_TEXT];
    size_t length;
};

static void path_add(struct path *path, const char *text, size_t length)
{
    size_t room = sizeof(path->text) - 1 - path->length;
    length = MIN(length, room);
    memcpy(path->text + path->length, text, length);
    path->length += length;
    path->text[path->length] = '\0';
}

static void path_add_member(struct path *path, const char *name, size_t length)
{
    if (path->length > 0) {
        path_add(path, ".", 1);
    }
    path_add(path, name, length);
}

/* TREE_MAX_DEPTH bounds the recursion. */
static void path_of(const struct node *node, struct path *path)
{
    if (node->parent == NULL) {
        return;
    }
    path_of(node->parent, path);
    if (node->parent->type == NODE_OBJECT) {
        path_add_member(path, node->key, node->key_length);
        return;
    }
    size_t index = 0;
    for (const struct node *n = node->parent->first; n != node; n = n->next) {
        index++;
    }
    char text[32];
    int length = snprintf(text, sizeof(text), "[%zu]", index);
    path_add(path, text, (size_t)length);
}

int reader_fail(struct reader *reader, const struct node *node, const char *member,
                const char *format, ...)
{
    struct path path = {.text = ""};
    path_of(node, &path);
    if (member != NULL) {
        path_add_member(&path, member, strlen(member));
    }
    char text[ERROR_TEXT_SIZE];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    for (char *c = text; *c != '\0'; c++) {
        *c =
            (unsigned char)*c < 0x20 || *c == 0x7f ? '?' : *c; /* texts of the document are in it */
    }
    for (char *c = path.text; *c != '\0'; c++) {
        *c = (unsigned char)*c < 0x20 || *c == 0x7f ? '?' : *c;
    }
    return error_set(reader->err, EINVAL, "%s%s%s", path.text, path.length > 0 ? ": " : "", text);
}

static const char out_of_memory[] = "the configuration takes too much memory";

void *reader_alloc(struct reader *reader, const struct node *node, size_t size)
{
    void *memory = arena_alloc(reader->arena, size);
    if (memory == NULL) {
        (void)error_set(reader->err, E2BIG, "%s", out_of_memory);
    }
    return memory;
}

static const char *copy_text(struct reader *reader, const struct node *node, const char *text,
                             size_t length)
{
    char *copy = reader_alloc(reader, node, length + 1);
    if (copy != NULL) {
        memcpy(copy, text, length);
    }
    return copy;
}

const char *reader_string(struct reader *reader, const struct node *string)
{
    return copy_text(reader, string, string->string, string->length);
}

const char *reader_key(struct reader *reader, const struct node *node)
{
    return copy_text(reader, node, node->key, node->key_length);
}

int read_expect(struct reader *reader, const struct node *node, enum node_type type)
{
    if (node->type == type) {
        return 0;
    }
    return reader_fail(reader, node, NULL, "must be %s, not %s", node_type_name(type),
                       node_type_name(node->type));
}

int read_object(struct reader *reader, const struct node *node, const struct field *fields,
                size_t count, void *out)
{
    int rc = read_expect(reader, node, NODE_OBJECT);
    uint64_t seen = 0;
    for (const struct node *member = node->first; rc == 0 && member != NULL;
         member = member->next) {
        size_t i = 0;
        while (i < count && !node_has_key(member, fields[i].name)) {
            i++;
        }
        if (i < count && member->type != NODE_NULL) {
            seen |= UINT64_C(1) << i;
            rc = fields[i].read(reader, member, &fields[i], (char *)out + fields[i].offset);
        }
    }
    for (size_t i = 0; rc == 0 && i < count; i++) {
        if (fields[i].is_required && (seen >> i & 1) == 0) {
            rc = reader_fail(reader, node, fields[i].name, "is required, but not given");
        }
    }
    return rc;
}

int read_elements(struct reader *reader, const struct node *node, enum node_type type,
                  size_t element_size, read_fn read, const void **out_items, size_t *out_count)
{
    int rc = read_expect(reader, node, type);
    if (rc < 0 || node->length == 0) {
        return rc;
    }
    char *items = reader_alloc(reader, node, node->length * element_size);
    if (items == NULL) {
        return -E2BIG;
    }
    size_t count = 0;
    for (const struct node *element = node->first; element != NULL; element = element->next) {
        rc = read(reader, element, NULL, items + count * element_size);
        if (rc < 0) {
            return rc;
        }
        count++;
    }
    *out_items = items;
    *out_count = count;
    return 0;
}

int read_bool(struct reader *reader, const struct node *node, const struct field *field, void *out)
{
    int rc = read_expect(reader, node, NODE_BOOL);
    if (rc == 0) {
        *(bool *)out = node->boolean;
    }
    return rc;
}

int read_spec_bool(struct reader *reader, const struct node *node, const struct field *field,
                   void *out)
{
    struct spec_bool *value = out;
    value->has = true;
    return read_bool(reader, node, field, &value->value);
}

/* The number within the field's limits and the type's, as two's complement. */
static int take_integer(struct reader *reader, const struct node *node, const struct field *field,
                        int64_t min, uint64_t max, uint64_t *out)
{
    int rc = read_expect(reader, node, NODE_INTEGER);
    if (rc < 0) {
        return rc;
    }
    if (field != NULL && (field->min != 0 || field->max != 0)) {
        min = MAX(min, field->min);
        max = MIN(max, field->max);
    }
    bool is_low = node->is_negative ? min >= 0 || node->magnitude > UINT64_C(0) - (uint64_t)min
                                    : min > 0 && node->magnitude < (uint64_t)min;
    if (is_low || (!node->is_negative && node->magnitude > max)) {
        return reader_fail(reader, node, NULL,
                           "%s%" PRIu64 " is not between %" PRId64 " and %" PRIu64,
                           node->is_negative ? "-" : "", node->magnitude, min, max);
    }
    *out = node->is_negative ? UINT64_C(0) - node->magnitude : node->magnitude;
    return 0;
}

int read_u32(struct reader *reader, const struct node *node, const struct field *field, void *out)
{
    uint64_t value = 0;
    int rc = take_integer(reader, node, field, 0, UINT32_MAX, &value);
    *(uint32_t *)out = (uint32_t)value;
    return rc;
}

int read_i32(struct reader *reader, const struct node *node, const struct field *field, void *out)
{
    uint64_t value = 0;
    int rc = take_integer(reader, node, field, INT32_MIN, INT32_MAX, &value);
    *(int32_t *)out = (int32_t)value;
    return rc;
}

int read_u64(struct reader *reader, const struct node *node, const struct field *field, void *out)
{
    return take_integer(reader, node, field, 0, UINT64_MAX, out);
}

int read_i64(struct reader *reader, const struct node *node, const struct field *field, void *out)
{
    uint64_t value = 0;
    int rc = take_integer(reader, node, field, INT64_MIN, INT64_MAX, &value);
    *(int64_t *)out = (int64_t)value;
    return rc;
}

int read_spec_u64(struct reader *reader, const struct node *node, const struct field *field,
                  void *out)
{
    struct spec_u64 *value = out;
    value->has = true;
    return read_u64(reader, node, field, &value->value);
}

int read_spec_i64(struct reader *reader, const struct node *node, const struct field *field,
                  void *out)
{
    struct spec_i64 *value = out;
    value->has = true;
    return read_i64(reader, node, field, &value->value);
}

int read_text(struct reader *reader, const struct node *node, const struct field *field, void *out)
{
    int rc = read_expect(reader, node, NODE_STRING);
    if (rc < 0) {
        return rc;
    }
    if (node->length == 0) {
        return field != NULL && field->is_required
                   ? reader_fail(reader, node, NULL, "must not be empty")
                   : 0;
    }
    const char *text = reader_string(reader, node);
    if (text == NULL) {
        return -E2BIG;
    }
    *(const char **)out = text;
    return 0;
}

int read_absolute_path(struct reader *reader, const struct node *node, const struct field *field,
                       void *out)
{
    int rc = read_text(reader, node, field, out);
    if (rc == 0 && node->length > 0 && node->string[0] != '/') {
        rc = reader_fail(reader, node, NULL, "'%.100s' must be an absolute path",
                         *(const char **)out);
    }
    return rc;
}

/* One number, or two with a dash between; numbers are small enough for any kernel. */
static bool skip_range(const char **text)
{
    unsigned long bounds[2] = {0, 0};
    unsigned count = 0;
    do {
        const char *c = *text;
        while (*c >= '0' && *c <= '9' && c - *text < 7) {
            bounds[count] = bounds[count] * 10 + (unsigned long)(*c++ - '0');
        }
        if (c == *text) {
            return false;
        }
        *text = c;
        count++;
    } while (count == 1 && **text == '-' && *++*text != '\0');
    return count == 1 ? (*text)[-1] != '-' : bounds[0] <= bounds[1];
}

static bool is_number_list(const char *text)
{
    bool goes_on = true;
    while (goes_on) {
        text += strspn(text, " ");
        if (!skip_range(&text)) {
            return false;
        }
        text += strspn(text, " ");
        goes_on = *text == ',';
        text += goes_on;
    }
    return *text == '\0';
}

int read_number_list(struct reader *reader, const struct node *node, const struct field *field,
                     void *out)
{
    int rc = read_text(reader, node, field, out);
    if (rc == 0 && node->length > 0 && !is_number_list(*(const char **)out)) {
        rc = reader_fail(reader, node, NULL, "'%.100s' is not a list like 0-3,7",
                         *(const char **)out);
    }
    return rc;
}

int read_strings(struct reader *reader, const struct node *node, const struct field *field,
                 void *out)
{
    struct spec_strings *strings = out;
    int rc = read_expect(reader, node, NODE_LIST);
    if (rc < 0) {
        return rc;
    }
    const char **items = reader_alloc(reader, node, (node->length + (size_t)1) * sizeof(items[0]));
    if (items == NULL) {
        return -E2BIG;
    }
    size_t count = 0;
    for (const struct node *n = node->first; n != NULL; n = n->next) {
        rc = read_expect(reader, n, NODE_STRING);
        if (rc < 0) {
            return rc;
        }
        items[count] = reader_string(reader, n);
        if (items[count] == NULL) {
            return -E2BIG;
        }
        count++;
    }
    *strings = (struct spec_strings){.item = items, .count = count};
    return 0;
}

int read_absolute_paths(struct reader *reader, const struct node *node, const struct field *field,
                        void *out)
{
    int rc = read_strings(reader, node, field, out);
    for (const struct node *n = rc == 0 ? node->first : NULL; rc == 0 && n != NULL; n = n->next) {
        if (n->length == 0 || n->string[0] != '/') {
            rc = reader_fail(reader, n, NULL, "'%.*s' must be an absolute path",
                             (int)MIN(n->length, 100u), n->string);
        }
    }
    return rc;
}

static int read_pair(struct reader *reader, const struct node *node, const struct field *field,
                     void *out)
{
    struct spec_pair *pair = out;
    int rc = read_expect(reader, node, NODE_STRING);
    if (rc == 0 && node->key_length == 0) {
        rc = reader_fail(reader, node->parent, NULL, "a name must not be empty");
    }
    if (rc < 0) {
        return rc;
    }
    pair->name = reader_key(reader, node);
    pair->value = reader_string(reader, node);
    return pair->name != NULL && pair->value != NULL ? 0 : -E2BIG;
}

int read_pairs(struct reader *reader, const struct node *node, const struct field *field, void *out)
{
    struct spec_pairs *pairs = out;
    return read_elements(reader, node, NODE_OBJECT, sizeof(struct spec_pair), read_pair,
                         (const void **)&pairs->item, &pairs->count);
}

int read_value(struct reader *reader, const struct node *node, const struct names *names,
               uint64_t *out_value)
{
    int rc = read_expect(reader, node, NODE_STRING);
    if (rc < 0) {
        return rc;
    }
    for (size_t i = 0; i < names->count; i++) {
        if (node_equals(node, names->item[i].name)) {
            *out_value = names->item[i].value;
            return 0;
        }
    }
    if (names->count == 0) {
        return reader_fail(reader, node, NULL, "'%.*s' is not supported, none is",
                           (int)MIN(node->length, 40u), node->string);
    }
    char all[ERROR_TEXT_SIZE] = "";
    size_t length = 0;
    for (size_t i = 0; i < names->count && length < sizeof(all); i++) {
        int added = snprintf(all + length, sizeof(all) - length, "%s%s", i == 0 ? "" : ", ",
                             names->item[i].name);
        length += (size_t)MAX(added, 0);
    }
    return reader_fail(reader, node, NULL, "'%.*s' is not one of %s", (int)MIN(node->length, 40u),
                       node->string, all);
}

int read_name(struct reader *reader, const struct node *node, const struct field *field, void *out)
{
    uint64_t value = 0;
    int rc = read_value(reader, node, field->names, &value);
    *(uint32_t *)out = (uint32_t)value;
    return rc;
}

int read_flags(struct reader *reader, const struct node *node, const struct field *field, void *out)
{
    int rc = read_expect(reader, node, NODE_LIST);
    uint64_t all = 0;
    for (const struct node *n = node->first; rc == 0 && n != NULL; n = n->next) {
        uint64_t value = 0;
        rc = read_value(reader, n, field->names, &value);
        all |= value;
    }
    *(uint64_t *)out = all;
    return rc;
}

static int read_id_mapping(struct reader *reader, const struct node *node,
                           const struct field *field, void *out)
{
    static const struct field fields[] = {
        {"containerID", read_u32, offsetof(struct spec_id_mapping, container_id), true},
        {"hostID", read_u32, offsetof(struct spec_id_mapping, host_id), true},
        {"size", read_u32, offsetof(struct spec_id_mapping, size), true, 1, UINT32_MAX},
    };
    return read_object(reader, node, fields, ARRAY_COUNT(fields), out);
}

/* The kernel takes no more than this (UID_GID_MAP_MAX_EXTENTS), which also bounds the comparison of each with each. */
#define MAX_MAPPINGS 340

int check_id_mappings(struct reader *reader, const struct node *node,
                      const struct spec_id_mappings *mappings)
{
    if (mappings->count > MAX_MAPPINGS) {
        return reader_fail(reader, node, NULL, "has more than %d mappings", MAX_MAPPINGS);
    }
    for (size_t i = 0; i < mappings->count; i++) {
        const struct spec_id_mapping *a = &mappings->item[i];
        if (!range_fits(a->container_id, a->size, UINT32_MAX) ||
            !range_fits(a->host_id, a->size, UINT32_MAX)) {
            return reader_fail(reader, node, NULL, "[%zu] reaches beyond the last id, 4294967294",
                               i);
        }
        for (size_t j = 0; j < i; j++) {
            const struct spec_id_mapping *b = &mappings->item[j];
            if (ranges_overlap(a->container_id, a->size, b->container_id, b->size) ||
                ranges_overlap(a->host_id, a->size, b->host_id, b->size)) {
                return reader_fail(reader, node, NULL, "[%zu] overlaps [%zu]", i, j);
            }
        }
    }
    return 0;
}

int read_id_mappings(struct reader *reader, const struct node *node, const struct field *field,
                     void *out)
{
    struct spec_id_mappings *mappings = out;
    int rc = read_elements(reader, node, NODE_LIST, sizeof(struct spec_id_mapping), read_id_mapping,
                           (const void **)&mappings->item, &mappings->count);
    return rc < 0 ? rc : check_id_mappings(reader, node, mappings);
}
