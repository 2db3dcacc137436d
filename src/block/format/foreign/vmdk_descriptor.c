/* The text of a VMDK: "key=value" lines, and a line for each extent:
 *
 *     RW 4192256 SPARSE "disk-s001.vmdk"
 *     RW 4192256 FLAT "disk-flat.vmdk" 0
 *     RW 63 ZERO */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/format/foreign/vmdk.h"

#define MAX_SECTORS (FOREIGN_MAX_SIZE / SECTOR_SIZE)
#define NO_PARENT   0xffffffffu

/* A line without the blanks around it. */
struct words {
    const char *at;
    const char *end;
};

static void skip_blanks(struct words *words)
{
    while (words->at < words->end && (*words->at == ' ' || *words->at == '\t')) {
        words->at++;
    }
}

/* The next word, up to a blank. */
static struct words next_word(struct words *words)
{
    skip_blanks(words);
    struct words word = {words->at, words->at};
    while (word.end < words->end && *word.end != ' ' && *word.end != '\t') {
        word.end++;
    }
    words->at = word.end;
    return word;
}

static size_t length_of(const struct words *word)
{
    return (size_t)(word->end - word->at);
}

static bool is_word(const struct words *word, const char *text)
{
    return length_of(word) == strlen(text) && memcmp(word->at, text, strlen(text)) == 0;
}

static bool is_key(const struct words *word, const char *text)
{
    return length_of(word) == strlen(text) && strncasecmp(word->at, text, strlen(text)) == 0;
}

static int parse_sectors(struct words word, const char *what, uint64_t *out_sectors,
                         struct error *err)
{
    uint64_t value = 0;
    const char *c = word.at;
    for (; c < word.end && *c >= '0' && *c <= '9' && value <= MAX_SECTORS; c++) {
        value = value * 10 + (uint64_t)(*c - '0');
    }
    if (c == word.at || c != word.end || value > MAX_SECTORS) {
        return error_set(err, EINVAL, "%s is no number of sectors up to 1 PiB", what);
    }
    *out_sectors = value;
    return 0;
}

/* "..." with nothing but a name between the quotes. */
static int parse_quoted(struct words *words, char *to, size_t size, const char *what,
                        struct error *err)
{
    skip_blanks(words);
    const char *close = NULL;
    if (words->at < words->end && *words->at == '"') {
        close = memchr(words->at + 1, '"', (size_t)(words->end - words->at - 1));
    }
    if (close == NULL) {
        return error_set(err, EINVAL, "%s stands in no quotes", what);
    }
    int rc = foreign_copy_name(to, size, words->at + 1, (size_t)(close - words->at - 1), what, err);
    words->at = close + 1;
    return rc;
}

static int parse_extent_type(struct words word, enum vmdk_extent_type *out_type, struct error *err)
{
    static const struct {
        const char *name;
        enum vmdk_extent_type type;
    } types[] = {
        {"FLAT", VMDK_FLAT}, {"VMFS", VMDK_FLAT}, {"SPARSE", VMDK_SPARSE}, {"ZERO", VMDK_ZERO}};
    for (size_t i = 0; i < ARRAY_COUNT(types); i++) {
        if (is_word(&word, types[i].name)) {
            *out_type = types[i].type;
            return 0;
        }
    }
    char name[24] = "?";
    for (const char *c = word.at; c < word.end && c - word.at < (int)sizeof(name) - 1; c++) {
        name[c - word.at] = (char)(isalnum((unsigned char)*c) ? *c : '?');
        name[c - word.at + 1] = '\0';
    }
    return error_set(err, EOPNOTSUPP,
                     "extents of type %s are not supported: FLAT, VMFS, SPARSE and ZERO are", name);
}

/* What follows "RW " or "RDONLY ". */
static int parse_extent(struct words rest, struct vmdk_line *line, struct error *err)
{
    int rc = parse_sectors(next_word(&rest), "an extent's size", &line->sector_count, err);
    if (rc == 0) {
        rc = parse_extent_type(next_word(&rest), &line->type, err);
    }
    if (rc == 0 && line->sector_count == 0) {
        rc = error_set(err, EINVAL, "an extent has no sectors");
    }
    if (rc == 0 && line->type != VMDK_ZERO) {
        rc = parse_quoted(&rest, line->name, sizeof(line->name), "an extent's file name", err);
    }
    if (rc == 0 && line->type == VMDK_FLAT) {
        struct words offset = next_word(&rest);
        if (length_of(&offset) != 0) {
            rc = parse_sectors(offset, "an extent's offset", &line->flat_sector, err);
        }
    }
    return rc;
}

static int add_extent(struct vmdk_descriptor *descriptor, struct words rest, struct error *err)
{
    if (descriptor->line_count == VMDK_MAX_EXTENTS) {
        return error_set(err, EINVAL, "it has more than %u extents", VMDK_MAX_EXTENTS);
    }
    uint32_t count = descriptor->line_count;
    if ((count & (count - 1)) == 0) { /* at each power of two the room doubles */
        size_t room = count == 0 ? 1 : 2 * (size_t)count;
        struct vmdk_line *lines = realloc(descriptor->line, room * sizeof(*lines));
        if (lines == NULL) {
            return error_set_errno(err, ENOMEM, "reading the descriptor");
        }
        descriptor->line = lines;
    }
    struct vmdk_line *line = &descriptor->line[count];
    memset(line, 0, sizeof(*line));
    int rc = parse_extent(rest, line, err);
    if (rc < 0) {
        return error_prefix(err, rc, "extent %u", count + 1);
    }
    descriptor->line_count++;
    return 0;
}

static int parse_id(struct words value, const char *key, char *to, struct error *err)
{
    size_t length = length_of(&value);
    bool is_hex = length >= 1 && length <= 8;
    for (size_t i = 0; i < length; i++) {
        is_hex = is_hex && isxdigit((unsigned char)value.at[i]);
    }
    if (!is_hex) {
        return error_set(err, EINVAL, "%s is no number of up to eight hexadecimal digits", key);
    }
    char digits[9] = "";
    memcpy(digits, value.at, length);
    (void)snprintf(to, FOREIGN_ID_SIZE, "%08lx", strtoul(digits, NULL, 16));
    return 0;
}

/* A word that messages may show. */
static int parse_create_type(struct words *value, struct vmdk_descriptor *descriptor,
                             struct error *err)
{
    int rc = parse_quoted(value, descriptor->create_type, sizeof(descriptor->create_type),
                          "createType", err);
    for (const char *c = descriptor->create_type; rc == 0 && *c != '\0'; c++) {
        if (!isalnum((unsigned char)*c)) {
            rc = error_set(err, EINVAL, "createType is no word of letters and digits");
        }
    }
    return rc;
}

static int parse_key(struct vmdk_descriptor *descriptor, struct words key, struct words value,
                     struct error *err)
{
    if (is_key(&key, "version")) {
        if (length_of(&value) != 1 || *value.at < '1' || *value.at > '4') {
            return error_set(err, EOPNOTSUPP, "its version is not supported: 1 to 4 are");
        }
        return 0;
    }
    if (is_key(&key, "CID")) {
        return parse_id(value, "CID", descriptor->id, err);
    }
    if (is_key(&key, "parentCID")) {
        int rc = parse_id(value, "parentCID", descriptor->parent_id, err);
        if (rc == 0 && strtoul(descriptor->parent_id, NULL, 16) == NO_PARENT) {
            descriptor->parent_id[0] = '\0';
        }
        return rc;
    }
    if (is_key(&key, "createType")) {
        return parse_create_type(&value, descriptor, err);
    }
    if (is_key(&key, "parentFileNameHint")) {
        return parse_quoted(&value, descriptor->parent_name, sizeof(descriptor->parent_name),
                            "parentFileNameHint", err);
    }
    return 0; /* the rest says nothing about where data is */
}

static int parse_line(struct vmdk_descriptor *descriptor, struct words line, struct error *err)
{
    skip_blanks(&line);
    while (line.end > line.at && isspace((unsigned char)line.end[-1])) {
        line.end--;
    }
    if (line.at == line.end || *line.at == '#') {
        return 0;
    }
    struct words rest = line;
    struct words first = next_word(&rest);
    if (is_word(&first, "RW") || is_word(&first, "RDONLY")) {
        return add_extent(descriptor, rest, err);
    }
    if (is_word(&first, "NOACCESS")) {
        return error_set(err, EOPNOTSUPP, "it has an extent without access");
    }
    const char *equals = memchr(line.at, '=', (size_t)(line.end - line.at));
    if (equals == NULL) {
        return 0;
    }
    struct words key = {line.at, equals};
    while (key.end > key.at && isspace((unsigned char)key.end[-1])) {
        key.end--;
    }
    struct words value = {equals + 1, line.end};
    skip_blanks(&value);
    return parse_key(descriptor, key, value, err);
}

int vmdk_descriptor_parse(const char *text, struct vmdk_descriptor *out_descriptor,
                          struct error *err)
{
    struct vmdk_descriptor descriptor = {0};
    int rc = 0;
    while (*text != '\0' && rc == 0) {
        size_t length = strcspn(text, "\n");
        rc = parse_line(&descriptor, (struct words){text, text + length}, err);
        text += length + (text[length] == '\n');
    }
    if (rc < 0) {
        free(descriptor.line);
        return error_prefix(err, rc, "descriptor");
    }
    *out_descriptor = descriptor;
    return 0;
}
