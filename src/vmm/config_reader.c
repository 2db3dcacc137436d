#include "vmm/config_reader.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "device/pci/pci.h"

void config_fail(struct config_reader *reader, const char *key, const char *accepted)
{
    if (reader->status == 0) {
        reader->status = error_set(reader->err, EINVAL, "configuration: %s%s: %s is needed",
                                   reader->where, key, accepted);
    }
}

const char *config_get_text(struct config_reader *reader, const json_t *object, const char *key,
                            const char *fallback, size_t max_length)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL && fallback != NULL) {
        return fallback;
    }
    const char *text = json_string_value(value);
    if (text == NULL || json_string_length(value) != strlen(text) || strlen(text) > max_length) {
        config_fail(reader, key, "a text");
        return "";
    }
    return text;
}

uint64_t config_get_number(struct config_reader *reader, const json_t *object, const char *key,
                           uint64_t min, uint64_t max, const uint64_t *fallback)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL && fallback != NULL) {
        return *fallback;
    }
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 0 || (uint64_t)number < min || (uint64_t)number > max) {
        char accepted[80];
        (void)snprintf(accepted, sizeof(accepted), "a number from %llu to %llu",
                       (unsigned long long)min, (unsigned long long)max);
        config_fail(reader, key, accepted);
        return min;
    }
    return (uint64_t)number;
}

bool config_get_bool(struct config_reader *reader, const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (value != NULL && !json_is_boolean(value)) {
        config_fail(reader, key, "true or false");
    }
    return json_is_true(value);
}

int config_get_fd(struct config_reader *reader, const json_t *object, const char *key,
                  bool is_optional)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL && is_optional) {
        return -1;
    }
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 3 || number > 1000000 ||
        fcntl((int)number, F_SETFD, FD_CLOEXEC) < 0) {
        config_fail(reader, key, "an open descriptor");
        return -1;
    }
    return (int)number;
}

size_t config_get_word(struct config_reader *reader, const json_t *object, const char *key,
                       const char *const *words, size_t count, const char *accepted)
{
    const char *text = config_get_text(reader, object, key, NULL, 64);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(text, words[i]) == 0) {
            return i;
        }
    }
    config_fail(reader, key, accepted);
    return 0;
}

void config_read_place(struct config_reader *reader, const json_t *object,
                       struct config_place *place)
{
    static const uint64_t any;
    place->is_there = true;
    place->id = config_get_text(reader, object, "id", "", 64);
    place->slot = (unsigned)config_get_number(reader, object, "slot", 0, PCI_MAX_DEVICES - 1, &any);
}
