#include "cli/output.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"

#define MAX_COLUMNS 12
#define MAX_DEPTH   32

int output_parse_format(const char *word, enum output_format *out_format, struct error *err)
{
    static const char *const words[] = {[OUTPUT_TABLE] = "table",
                                        [OUTPUT_JSON] = "json",
                                        [OUTPUT_YAML] = "yaml",
                                        [OUTPUT_CSV] = "csv"};
    for (size_t i = 0; i < ARRAY_COUNT(words); i++) {
        if (strcmp(word, words[i]) == 0) {
            *out_format = (enum output_format)i;
            return 0;
        }
    }
    return error_set(err, EINVAL, "'%s' is no format: table, json, yaml or csv", word);
}

bool output_has_color(int fd)
{
    const char *no_color = getenv("NO_COLOR");
    return isatty(fd) && (no_color == NULL || no_color[0] == '\0');
}

/* The first member of each, which is what it is called: "a, b". */
static char *names_of(const json_t *objects)
{
    char *text = NULL;
    size_t size, index;
    FILE *out = open_memstream(&text, &size);
    json_t *object;
    if (out == NULL) {
        return NULL;
    }
    json_array_foreach(objects, index, object)
    {
        const char *name = json_string_value(json_object_iter_value(json_object_iter(object)));
        (void)fprintf(out, "%s%s", index > 0 ? ", " : "", name != NULL ? name : "?");
    }
    (void)fclose(out); /* to memory */
    return text;
}

/* A value in one line: texts bare, objects by their names, everything else as JSON. The caller frees. */
static char *plain_text(const json_t *value)
{
    if (value == NULL || json_is_null(value)) {
        return strdup("");
    }
    if (json_is_string(value)) {
        return strdup(json_string_value(value));
    }
    if (json_is_object(json_array_get(value, 0))) {
        return names_of(value);
    }
    return json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
}

/* Characters, not bytes: UTF-8 continuation bytes take no column. */
static size_t text_width(const char *text)
{
    size_t width = 0;
    for (; *text != '\0'; text++) {
        width += ((unsigned char)*text & 0xc0) != 0x80;
    }
    return width;
}

static const char *status_color(const char *text)
{
    static const struct {
        const char *word, *color;
    } colors[] = {{"usable", "\033[32m"},  {"limited", "\033[33m"},  {"unusable", "\033[31m"},
                  {"running", "\033[32m"}, {"starting", "\033[33m"}, {"paused", "\033[33m"},
                  {"error", "\033[31m"}};
    for (size_t i = 0; i < ARRAY_COUNT(colors); i++) {
        if (strcmp(text, colors[i].word) == 0) {
            return colors[i].color;
        }
    }
    return NULL;
}

static void cell_print(const char *text, size_t width, bool is_last, bool has_color)
{
    const char *color = has_color ? status_color(text) : NULL;
    (void)fputs(color != NULL ? color : "", stdout);
    for (const char *c = text; *c != '\0'; c++) { /* names and texts of others stay texts */
        bool is_control = ((unsigned char)*c < ' ' && *c != '\n' && *c != '\t') || *c == 0x7f;
        (void)putchar(is_control ? '?' : *c);
    }
    (void)fputs(color != NULL ? "\033[0m" : "", stdout);
    for (size_t used = text_width(text); !is_last && used < width + 2; used++) {
        (void)putchar(' ');
    }
}

static void table_print(const struct output_column *columns, const json_t *rows)
{
    size_t widths[MAX_COLUMNS] = {0};
    size_t count = 0;
    size_t index;
    json_t *row;
    for (; columns[count].key != NULL && count < MAX_COLUMNS; count++) {
        widths[count] = text_width(columns[count].title);
        json_array_foreach(rows, index, row)
        {
            AUTO_FREE char *text = plain_text(json_object_get(row, columns[count].key));
            widths[count] = MAX(widths[count], text_width(text != NULL ? text : ""));
        }
    }
    for (size_t i = 0; i < count; i++) {
        cell_print(columns[i].title, widths[i], i + 1 == count, false);
    }
    (void)putchar('\n');
    bool has_color = output_has_color(STDOUT_FILENO);
    json_array_foreach(rows, index, row)
    {
        for (size_t i = 0; i < count; i++) {
            AUTO_FREE char *text = plain_text(json_object_get(row, columns[i].key));
            cell_print(text != NULL ? text : "", widths[i], i + 1 == count, has_color);
        }
        (void)putchar('\n');
    }
}

static void csv_cell(const char *text, bool is_last)
{
    if (strpbrk(text, ",\"\n") != NULL) {
        (void)putchar('"');
        for (; *text != '\0'; text++) {
            (void)printf("%s%c", *text == '"' ? "\"" : "", *text);
        }
        (void)putchar('"');
    } else {
        (void)fputs(text, stdout);
    }
    (void)putchar(is_last ? '\n' : ',');
}

static void csv_print(const struct output_column *columns, const json_t *rows)
{
    size_t index;
    json_t *row;
    for (size_t i = 0; columns[i].key != NULL; i++) {
        csv_cell(columns[i].key, columns[i + 1].key == NULL);
    }
    json_array_foreach(rows, index, row)
    {
        for (size_t i = 0; columns[i].key != NULL; i++) {
            AUTO_FREE char *text = plain_text(json_object_get(row, columns[i].key));
            csv_cell(text != NULL ? text : "", columns[i + 1].key == NULL);
        }
    }
}

static void json_print(const json_t *value)
{
    (void)json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    (void)putchar('\n');
}

static bool is_empty_or_scalar(const json_t *value)
{
    return (!json_is_object(value) || json_object_size(value) == 0) &&
           (!json_is_array(value) || json_array_size(value) == 0);
}

static void yaml_print(const json_t *value, int indent);

/* "key:" or "-" is printed; now what belongs to it. A JSON scalar is a YAML scalar too. */
static void yaml_value(const json_t *value, int indent)
{
    if (is_empty_or_scalar(value)) {
        (void)putchar(' ');
        (void)json_dumpf(value, stdout, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15) | JSON_COMPACT);
        (void)putchar('\n');
    } else {
        (void)putchar('\n');
        yaml_print(value, indent + 2);
    }
}

static void yaml_print(const json_t *value, int indent)
{
    if (indent > MAX_DEPTH * 2) {
        return;
    }
    const char *key;
    size_t index;
    json_t *member;
    json_object_foreach((json_t *)value, key, member)
    {
        (void)printf("%*s%s:", indent, "", key);
        yaml_value(member, indent);
    }
    json_array_foreach(value, index, member)
    {
        (void)printf("%*s-", indent, "");
        yaml_value(member, indent);
    }
}

void output_list(enum output_format format, const struct output_column *columns, const json_t *rows,
                 const json_t *whole)
{
    switch (format) {
    case OUTPUT_TABLE:
        table_print(columns, rows);
        break;
    case OUTPUT_CSV:
        csv_print(columns, rows);
        break;
    case OUTPUT_JSON:
        json_print(whole != NULL ? whole : rows);
        break;
    case OUTPUT_YAML:
        yaml_print(whole != NULL ? whole : rows, 0);
        break;
    }
}

/* Puts each leaf of 'value' into 'rows' as {"key": "a.b", "value": ...}. */
static void flatten(const json_t *value, const char *name, json_t *rows, int depth)
{
    if (!json_is_object(value) || depth > MAX_DEPTH) {
        json_t *row = json_object();
        json_object_set_new(row, "key", json_string(name));
        json_object_set(row, "value", (json_t *)value);
        json_array_append_new(rows, row);
        return;
    }
    const char *key;
    json_t *member;
    json_object_foreach((json_t *)value, key, member)
    {
        AUTO_FREE char *path = NULL;
        if (asprintf(&path, "%s%s%s", name, name[0] != '\0' ? "." : "", key) < 0) {
            path = NULL;
        } else {
            flatten(member, path, rows, depth + 1);
        }
    }
}

/* An object that is but a list of objects: a line for each, whose columns are the first one's members. */
static void print_rows(enum output_format format, const json_t *rows)
{
    struct output_column columns[MAX_COLUMNS + 1] = {0};
    char titles[MAX_COLUMNS][32];
    size_t count = 0;
    const char *key;
    json_t *member;
    json_object_foreach(json_array_get(rows, 0), key, member)
    {
        if (count < MAX_COLUMNS) {
            size_t i = 0;
            for (; key[i] != '\0' && i < sizeof(titles[0]) - 1; i++) {
                titles[count][i] = (char)(key[i] == '_' ? ' ' : toupper((unsigned char)key[i]));
            }
            titles[count][i] = '\0';
            columns[count] = (struct output_column){key, titles[count]};
            count++;
        }
    }
    output_list(format, columns, rows, NULL);
}

void output_object(enum output_format format, const json_t *object)
{
    static const struct output_column columns[] = {{"key", "KEY"}, {"value", "VALUE"}, {0}};
    const json_t *first = json_object_iter_value(json_object_iter((json_t *)object));
    bool is_list = json_object_size(object) == 1 && json_is_array(first);
    bool is_empty = json_object_size(object) == 0 || (is_list && json_array_size(first) == 0);
    if (is_empty && format == OUTPUT_TABLE) {
        return; /* done, and nothing to tell */
    }
    if (is_list && json_is_object(json_array_get(first, 0)) &&
        (format == OUTPUT_TABLE || format == OUTPUT_CSV)) {
        print_rows(format, first);
        return;
    }
    json_t *rows = json_array();
    if (json_object_size(object) != 0) {
        flatten(object, "", rows, 0);
    }
    output_list(format, columns, rows, object);
    json_decref(rows);
}
