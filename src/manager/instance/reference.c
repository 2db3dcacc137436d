/* The table of keys as a JSON Schema and as text. */
#include <string.h>

#include "manager/instance/keys.h"

static const char *kind_words(unsigned kinds)
{
    return kinds == KEY_CONTAINER ? "containers" : kinds == KEY_VM ? "VMs" : "both";
}

static bool belongs(const struct instance_key *key, const char *type, size_t length)
{
    return type == NULL ? key->device == NULL
                        : key->device != NULL && strlen(key->device) == length &&
                              memcmp(key->device, type, length) == 0;
}

static json_t *schema_of(const struct instance_key *key)
{
    json_t *text = json_pack("{s:s, s:s}", "type", "string", "description", key->help);
    if (key->is_list) {
        json_t *list = json_pack("{s:s, s:{s:s}, s:s}", "type", "array", "items", "type", "string",
                                 "description", key->help);
        return json_pack("{s:[o, o]}", "anyOf", text, list);
    }
    if (key->fallback != NULL) {
        (void)json_object_set_new(text, "default", json_string(key->fallback));
    }
    return text;
}

/* Properties of config (NULL) or of a type of device. */
static json_t *properties_of(const char *type, size_t length)
{
    json_t *properties = json_object();
    for (const struct instance_key *key = instance_keys; key->name != NULL; key++) {
        if (belongs(key, type, length)) {
            (void)json_object_set_new(properties, key->name, schema_of(key));
        }
    }
    return properties;
}

static json_t *closed_object(json_t *properties)
{
    return json_pack("{s:s, s:b, s:o}", "type", "object", "additionalProperties", 0, "properties",
                     properties);
}

static json_t *device_schemas(void)
{
    json_t *list = json_array();
    const char *type = instance_device_types();
    for (;;) {
        size_t length = strcspn(type, "|");
        json_t *properties = properties_of(type, length);
        (void)json_object_set_new(properties, "type",
                                  json_pack("{s:o}", "const", json_stringn(type, length)));
        (void)json_array_append_new(list, closed_object(properties));
        if (type[length] == '\0') {
            break;
        }
        type += length + 1;
    }
    json_t *none = json_pack("{s:{s:s}}", "type", "const", "none");
    (void)json_array_append_new(list, closed_object(none));
    return list;
}

json_t *instance_schema(void)
{
    json_t *snapshot =
        json_pack("{s:{s:s}, s:{s:s}, s:{s:s}, s:{s:s}, s:{s:s}}", "name", "type", "string",
                  "created_at", "type", "string", "memory", "type", "boolean", "parent", "type",
                  "string", "automatic", "type", "boolean");
    json_t *properties = json_pack(
        "{s:{s:s}, s:{s:[s, s]}, s:{s:s}, s:{s:s}, s:{s:s}, s:{s:s}, s:{s:s}, s:{s:s}, s:{s:s}}",
        "name", "type", "string", "kind", "enum", "container", "vm", "uuid", "type", "string",
        "description", "type", "string", "image", "type", "string", "image_digest", "type",
        "string", "created_at", "type", "string", "snapshot", "type", "string", "incomplete",
        "type", "boolean");
    (void)json_object_set_new(
        properties, "profiles",
        json_pack("{s:s, s:{s:s}}", "type", "array", "items", "type", "string"));
    (void)json_object_set_new(properties, "config", closed_object(properties_of(NULL, 0)));
    (void)json_object_set_new(properties, "devices",
                              json_pack("{s:s, s:{s:o}}", "type", "object", "additionalProperties",
                                        "anyOf", device_schemas()));
    (void)json_object_set_new(
        properties, "snapshots",
        json_pack("{s:s, s:o}", "type", "array", "items", closed_object(snapshot)));
    json_t *schema = closed_object(properties);
    (void)json_object_set_new(schema, "$schema",
                              json_string("https://json-schema.org/draft/2020-12/schema"));
    (void)json_object_set_new(schema, "title", json_string("An instance of Hull"));
    (void)json_object_set_new(schema, "required", json_pack("[s, s]", "name", "kind"));
    return schema;
}

/* A '|' would end the table's cell. */
static void print_cell(FILE *to, const char *text)
{
    for (; text != NULL && *text != '\0'; text++) {
        (void)fprintf(to, *text == '|' ? "\\|" : "%c", *text);
    }
}

static void print_keys(FILE *to, const char *type, size_t length)
{
    (void)fprintf(to,
                  "| %s | value | for | default | changes | |\n"
                  "| --- | --- | --- | --- | --- | --- |\n",
                  type == NULL ? "key" : "property");
    for (const struct instance_key *key = instance_keys; key->name != NULL; key++) {
        if (!belongs(key, type, length)) {
            continue;
        }
        (void)fprintf(to, "| `%s` | ", key->name);
        print_cell(to, key->value);
        (void)fprintf(to, "%s | %s | ", key->is_list ? ", a list" : "", kind_words(key->kinds));
        print_cell(to, key->fallback);
        (void)fprintf(to, " | %s%s | ",
                      key->is_fixed             ? "never"
                      : key->live == 0          ? "at the next start"
                      : key->live == key->kinds ? "at once"
                                                : "at once of ",
                      !key->is_fixed && key->live != 0 && key->live != key->kinds
                          ? kind_words(key->live)
                          : "");
        print_cell(to, key->help);
        (void)fputs(" |\n", to);
    }
}

void instance_reference(FILE *to)
{
    (void)fputs(
        "# Keys of instances\n\n"
        "Generated from the table in src/manager/instance/keys.c.\n\n"
        "Values are texts. Sizes take K, M, G and T (powers of 1024). A list is written as a list, or as one text with an item "
        "on each line.\n\n## config\n\n",
        to);
    print_keys(to, NULL, 0);
    const char *type = instance_device_types();
    for (;;) {
        size_t length = strcspn(type, "|");
        (void)fprintf(to, "\n## Devices of type %.*s\n\n", (int)length, type);
        print_keys(to, type, length);
        if (type[length] == '\0') {
            break;
        }
        type += length + 1;
    }
    (void)fputs("\nA device of type `none` takes away what a profile gives under its name.\n", to);
}
