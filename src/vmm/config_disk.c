/* A disk in the configuration. */
#include <string.h>

#include "block/remote.h"
#include "vmm/config_reader.h"

#define MAX_RECONNECT_S 86400

/* A word of a list, or 'fallback' where there is none. */
static size_t get_word(struct config_reader *reader, const json_t *object, const char *key,
                       const char *const *words, size_t count, const char *accepted,
                       size_t fallback)
{
    return json_object_get(object, key) != NULL
               ? config_get_word(reader, object, key, words, count, accepted)
               : fallback;
}

static void read_throttle(struct config_reader *reader, json_t *object, struct config_disk *disk)
{
    const char *key;
    json_t *value;
    bool is_bytes;
    json_object_foreach(object, key, value)
    {
        json_int_t number = json_integer_value(value);
        if (strcmp(key, "group") == 0) {
            disk->throttle_group = config_get_text(reader, object, key, NULL, 64);
        } else if (!json_is_integer(value) || number < 0 ||
                   !block_throttle_set_key(&disk->throttle, key, (uint64_t)number, &is_bytes)) {
            config_fail(reader, "throttle", "an object of limits");
        }
    }
    struct error err = {0};
    if (block_throttle_check(&disk->throttle, &err) < 0) {
        config_fail(reader, "throttle", err.text);
    }
}

static void read_policies(struct config_reader *reader, const json_t *object,
                          struct config_disk *disk)
{
    static const char *const on_error[] = {[VIRTIO_BLK_REPORT] = "report",
                                           [VIRTIO_BLK_ENOSPC] = "enospc",
                                           [VIRTIO_BLK_STOP] = "stop",
                                           [VIRTIO_BLK_IGNORE] = "ignore"};
    static const char on_error_words[] = "report, enospc, stop or ignore";
    static const char *const detect[] = {[BLOCK_DETECT_ZEROES_OFF] = "off",
                                         [BLOCK_DETECT_ZEROES_ON] = "on",
                                         [BLOCK_DETECT_ZEROES_UNMAP] = "unmap"};
    static const char *const discard[] = {"unmap", "ignore"};
    disk->is_write_through = config_get_bool(reader, object, "write_through");
    disk->is_unsafe = config_get_bool(reader, object, "unsafe");
    disk->has_copy_on_read = config_get_bool(reader, object, "copy_on_read");
    disk->crypt_fd = config_get_fd(reader, object, "crypt_fd", true);
    disk->overlay_fd = config_get_fd(reader, object, "overlay_fd", true);
    disk->has_overlay = disk->overlay_fd >= 0;
    disk->on_read_error = (enum virtio_blk_on_error)get_word(reader, object, "rerror", on_error,
                                                             ARRAY_COUNT(on_error), on_error_words,
                                                             VIRTIO_BLK_REPORT);
    disk->on_write_error = (enum virtio_blk_on_error)get_word(reader, object, "werror", on_error,
                                                              ARRAY_COUNT(on_error), on_error_words,
                                                              VIRTIO_BLK_ENOSPC);
    disk->detect_zeroes = (enum block_detect_zeroes)get_word(
        reader, object, "detect_zeroes", detect, ARRAY_COUNT(detect), "off, on or unmap",
        BLOCK_DETECT_ZEROES_OFF);
    disk->ignores_discard = get_word(reader, object, "discard", discard, ARRAY_COUNT(discard),
                                     "unmap or ignore", 0) == 1;
    read_throttle(reader, json_object_get(object, "throttle"), disk);
}

void config_read_disk(struct config_reader *reader, const json_t *object, struct config_disk *disk)
{
    static const char *const aio[] = {
        [BLOCK_AIO_AUTO] = "auto", [BLOCK_AIO_URING] = "io_uring", [BLOCK_AIO_THREADS] = "threads"};
    static const uint64_t usual_s = BLOCK_REMOTE_RECONNECT_NS / 1000000000;
    config_read_place(reader, object, &disk->place);
    disk->fd = config_get_fd(reader, object, "fd", false);
    disk->is_remote = config_get_bool(reader, object, "remote");
    disk->reconnect_ns =
        config_get_number(reader, object, "reconnect", 0, MAX_RECONNECT_S, &usual_s) * 1000000000;
    disk->name = config_get_text(reader, object, "name", "disk", 4096);
    disk->format = config_get_text(reader, object, "format", "raw", 16);
    disk->serial = config_get_text(reader, object, "serial", "", 20);
    disk->is_readonly = config_get_bool(reader, object, "readonly");
    disk->is_direct = config_get_bool(reader, object, "direct");
    read_policies(reader, object, disk);
    disk->data.fd = -1;
    const json_t *data = json_object_get(object, "data");
    if (data != NULL) {
        disk->data.fd = config_get_fd(reader, data, "fd", false);
        disk->data.is_remote = config_get_bool(reader, data, "remote");
        disk->data.name = config_get_text(reader, data, "name", "data", 4096);
    }
    const json_t *layers = json_object_get(object, "backing");
    size_t index;
    json_t *layer;
    if (json_array_size(layers) > CONFIG_MAX_LAYERS) {
        config_fail(reader, "backing", "a shorter list");
        return;
    }
    json_array_foreach(layers, index, layer)
    {
        struct config_layer *to = &disk->layer[disk->layer_count++];
        to->fd = config_get_fd(reader, layer, "fd", false);
        to->is_remote = config_get_bool(reader, layer, "remote");
        to->name = config_get_text(reader, layer, "name", "backing", 4096);
        to->format = config_get_text(reader, layer, "format", NULL, 16);
    }
    if (json_object_get(object, "aio") != NULL) {
        disk->aio = (enum block_aio)config_get_word(reader, object, "aio", aio, ARRAY_COUNT(aio),
                                                    "auto, io_uring or threads");
    }
}
