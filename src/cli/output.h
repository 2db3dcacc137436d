/* Showing lists and values: as a table, JSON, YAML or CSV. */
#ifndef CLI_OUTPUT_H
#define CLI_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>

#include "base/core/error.h"

enum output_format {
    OUTPUT_TABLE,
    OUTPUT_JSON,
    OUTPUT_YAML,
    OUTPUT_CSV,
};

/* The rows that option tables use for --json and --format. */
#define OUTPUT_OPTION_JSON(parse_fn)                                                               \
    {                                                                                              \
        "json", 0, NULL, "the same as --format json", NULL, parse_fn                               \
    }
#define OUTPUT_OPTION_FORMAT(parse_fn)                                                             \
    {                                                                                              \
        "format", 0, "FORMAT", "table, json, yaml or csv (default: table)", "table|json|yaml|csv", \
            parse_fn                                                                               \
    }

int must_check output_parse_format(const char *word, enum output_format *out_format,
                                   struct error *err);

struct output_column {
    const char *key;   /* member of each row */
    const char *title; /* "ENGINE" */
};

/* 'rows' is an array of flat objects; the columns end with a key of NULL. JSON and YAML show 'whole' in place of the
 * rows if it is not NULL. */
void output_list(enum output_format format, const struct output_column *columns, const json_t *rows,
                 const json_t *whole);

/* One object, nested or not; as a table its members stand in lines "a.b  value", and where its one member is a list of objects,
 * these do. */
void output_object(enum output_format format, const json_t *object);

/* Does 'fd' show colours: a terminal, and the user has not said NO_COLOR? */
bool output_has_color(int fd);

#endif
