/* Properties from JSON to D-Bus. */
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "container/systemd/systemd.h"

static int append_integer(sd_bus_message *message, char type, const json_t *value)
{
    if (!json_is_integer(value)) {
        return -EINVAL;
    }
    int64_t number = json_integer_value(value);
    switch (type) {
    case 'y': {
        uint8_t byte = (uint8_t)number;
        return sd_bus_message_append_basic(message, type, &byte);
    }
    case 'n':
    case 'q': {
        uint16_t word = (uint16_t)number;
        return sd_bus_message_append_basic(message, type, &word);
    }
    case 'i':
    case 'u': {
        uint32_t word = (uint32_t)number;
        return sd_bus_message_append_basic(message, type, &word);
    }
    default:
        return sd_bus_message_append_basic(message, type, &number);
    }
}

static int append_basic(sd_bus_message *message, char type, const json_t *value)
{
    if (type == 's') {
        const char *text = json_string_value(value);
        return text == NULL ? -EINVAL : sd_bus_message_append_basic(message, type, text);
    }
    if (type == 'b') {
        int is_true = json_is_true(value);
        return json_is_boolean(value) ? sd_bus_message_append_basic(message, type, &is_true)
                                      : -EINVAL;
    }
    return strchr("ynqiuxt", type) != NULL ? append_integer(message, type, value) : -EINVAL;
}

static int append_pair(sd_bus_message *message, const json_t *pair)
{
    const char *first = json_string_value(json_array_get(pair, 0));
    const char *second = json_string_value(json_array_get(pair, 1));
    return first == NULL || second == NULL ? -EINVAL
                                           : sd_bus_message_append(message, "(ss)", first, second);
}

static int append_list(sd_bus_message *message, const char *type, const json_t *list)
{
    size_t i;
    const json_t *value;
    if (!json_is_array(list)) {
        return -EINVAL;
    }
    int rc = sd_bus_message_open_container(message, 'a', type);
    json_array_foreach(list, i, value)
    {
        if (rc >= 0) {
            rc = type[0] == '(' ? append_pair(message, value)
                                : append_basic(message, type[0], value);
        }
    }
    return rc < 0 ? rc : sd_bus_message_close_container(message);
}

static int append_property(sd_bus_message *message, const char *name, const char *type,
                           const json_t *value)
{
    bool is_list = strcmp(type, "as") == 0 || strcmp(type, "ay") == 0 || strcmp(type, "au") == 0 ||
                   strcmp(type, "a(ss)") == 0;
    if (!is_list && (strlen(type) != 1)) {
        return -EINVAL;
    }
    int rc = sd_bus_message_open_container(message, 'r', "sv");
    rc = rc < 0 ? rc : sd_bus_message_append_basic(message, 's', name);
    rc = rc < 0 ? rc : sd_bus_message_open_container(message, 'v', type);
    if (rc >= 0) {
        rc =
            is_list ? append_list(message, type + 1, value) : append_basic(message, type[0], value);
    }
    rc = rc < 0 ? rc : sd_bus_message_close_container(message);
    return rc < 0 ? rc : sd_bus_message_close_container(message);
}

int properties_append(sd_bus_message *message, const json_t *properties, int version,
                      struct error *err)
{
    size_t i;
    json_t *row;
    int rc = sd_bus_message_open_container(message, 'a', "(sv)");
    json_array_foreach(properties, i, row)
    {
        const char *name = "?", *type;
        json_t *value;
        int since;
        if (rc < 0) {
            break;
        }
        rc = json_unpack(row, "[s,s,o,i]", &name, &type, &value, &since) < 0 ? -EINVAL : 0;
        if (rc == 0 && since <= version) {
            rc = append_property(message, name, type, value);
        }
        if (rc < 0) {
            return error_set_errno(err, -rc, "property %s", name);
        }
    }
    rc = rc < 0 ? rc : sd_bus_message_close_container(message);
    return rc < 0 ? error_set_errno(err, -rc, "a message to systemd") : 0;
}
