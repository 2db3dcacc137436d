/* --disk of `hull boot`. */
#include <stdlib.h>
#include <string.h>

#include "base/core/size.h"
#include "base/host/file.h"
#include "block/remote.h"
#include "cli/boot_options.h"
#include "cli/cache_mode.h"

static int take_format(const char *text, const char **out_format, struct error *err)
{
    static const char *const formats[] = {"raw", "qcow2", "luks", "vmdk", "vhdx", "vhd", "vdi"};
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        if (strcmp(text, formats[i]) == 0) {
            *out_format = formats[i];
            return 0;
        }
    }
    return error_set(
        err, EOPNOTSUPP,
        "format %s is not supported yet by this version: supported: raw, qcow2, luks, and for "
        "reading vmdk, vhdx, vhd, vdi",
        text);
}

/* What holds for files alone, or for remote disks alone. */
static int check_place(const struct boot_disk *disk, const char *path, struct error *err)
{
    if (!block_is_uri(path)) {
        return !disk->has_reconnect
                   ? 0
                   : error_set(err, EINVAL, "reconnect is for remote disks: NAME://...");
    }
    if (!disk->has_format) {
        return error_set(err, EINVAL, "a remote disk needs format=raw or format=qcow2");
    }
    const struct cache_mode *cache = cache_mode_find(disk->cache);
    if (cache->is_direct || cache->is_unsafe || strcmp(disk->aio, "auto") != 0) {
        return error_set(err, EINVAL,
                         "aio=%s, cache=%s: a remote disk's server decides: cache=writeback or "
                         "writethrough is accepted",
                         disk->aio, disk->cache);
    }
    return 0;
}

/* Formats are said, never guessed: also those of what an image stands on. */
static int check_layers(const struct boot_disk *disk, struct error *err)
{
    bool is_qcow2 = strcmp(disk->format, "qcow2") == 0, is_luks = strcmp(disk->format, "luks") == 0;
    if (is_luks && disk->key.kind == CLI_KEY_NONE) {
        return error_set(err, EINVAL, "format luks needs key-file=, key-env= or key-ring=");
    }
    if (!is_qcow2 && !is_luks && strcmp(disk->format, "raw") != 0 && !disk->is_readonly &&
        !disk->is_snapshot) {
        return error_set(
            err, EINVAL,
            "format %s is for reading only: readonly, or snapshot, or `hull disk convert`",
            disk->format);
    }
    if (!is_qcow2 && (disk->layer_count > 0 || disk->data_path != NULL)) {
        return error_set(err, EINVAL, "a %s image stands on nothing: format=qcow2 does",
                         disk->format);
    }
    for (unsigned i = 0; i < disk->layer_count; i++) {
        bool is_last = i + 1 == disk->layer_count;
        if (disk->layer[i].format == NULL) {
            return error_set(err, EINVAL, "backing=%s needs backing-format=raw or qcow2 behind it",
                             disk->layer[i].path);
        }
        if (!is_last && strcmp(disk->layer[i].format, "qcow2") != 0) {
            return error_set(err, EINVAL, "backing=%s is %s and stands on nothing",
                             disk->layer[i].path, disk->layer[i].format);
        }
    }
    return 0;
}

/* One of the words in 'words', which are divided by '|'. */
static int take_word(const char *key, const char *text, const char *words, const char **out_word,
                     struct error *err)
{
    size_t length = strlen(text);
    for (const char *at = words; at != NULL; at = strchr(at, '|')) {
        at += *at == '|';
        if (length > 0 && strncmp(at, text, length) == 0 &&
            (at[length] == '|' || at[length] == '\0')) {
            *out_word = text;
            return 0;
        }
    }
    return error_set(err, EINVAL, "%s '%s' is unknown: %s", key, text, words);
}

static int take_switch(const char *key, const char *value, bool *out_is_on, struct error *err)
{
    const char *word = "on";
    int rc = value != NULL ? take_word(key, value, "on|off", &word, err) : 0;
    *out_is_on = strcmp(word, "on") == 0;
    return rc;
}

/* -ENOENT: it is no limit. */
static int limit_key(struct boot_disk *disk, const char *key, const char *text, struct error *err)
{
    bool is_bytes;
    if (!block_throttle_set_key(&disk->throttle, key, 0, &is_bytes)) {
        return -ENOENT;
    }
    uint64_t value;
    int rc = is_bytes ? size_parse(text, 1, &value, err)
                      : number_parse(text, 0, BLOCK_THROTTLE_MAX_RATE, &value, err);
    if (rc < 0) {
        return error_prefix(err, rc, "%s", key);
    }
    (void)block_throttle_set_key(&disk->throttle, key, value, &is_bytes); /* as before */
    return 0;
}

/* What a disk does besides storing; -ENOENT: it is none of these. */
static int policy_key(struct boot_disk *disk, const char *key, const char *value, struct error *err)
{
    static const char on_error[] = "report|stop|ignore|enospc";
    const char *text = value != NULL ? value : "";
    if (strcmp(key, "cache") == 0) {
        return take_word(key, text, CACHE_MODES, &disk->cache, err);
    }
    if (strcmp(key, "werror") == 0) {
        return take_word(key, text, on_error, &disk->on_write_error, err);
    }
    if (strcmp(key, "rerror") == 0) {
        return take_word(key, text, on_error, &disk->on_read_error, err);
    }
    if (strcmp(key, "detect-zeroes") == 0) {
        return take_word(key, text, "off|on|unmap", &disk->detect_zeroes, err);
    }
    if (strcmp(key, "discard") == 0) {
        return take_word(key, text, "unmap|ignore", &disk->discard, err);
    }
    if (cli_key_kind(key) != CLI_KEY_NONE) {
        disk->key = (struct cli_key){cli_key_kind(key), text};
        return text[0] != '\0' ? 0 : error_set(err, EINVAL, "%s: says nothing", key);
    }
    if (strcmp(key, "copy-on-read") == 0) {
        return take_switch(key, value, &disk->has_copy_on_read, err);
    }
    if (strcmp(key, "snapshot") == 0) {
        return take_switch(key, value, &disk->is_snapshot, err);
    }
    if (strcmp(key, "group") == 0 || strcmp(key, "throttling.group") == 0) {
        disk->throttle_group = text;
        return text[0] != '\0' && strlen(text) <= 64
                   ? 0
                   : error_set(err, EINVAL, "group '%s' is no name: 1 to 64 characters", text);
    }
    return limit_key(disk, key, text, err);
}

/* What single keys cannot tell. */
static int check_policies(const struct boot_disk *disk, struct error *err)
{
    if (disk->is_readonly && (disk->is_snapshot || disk->has_copy_on_read)) {
        return error_set(err, EINVAL, "a disk that is readonly has no %s",
                         disk->is_snapshot ? "snapshot" : "copy-on-read");
    }
    if (strcmp(disk->detect_zeroes, "unmap") == 0 && strcmp(disk->discard, "ignore") == 0) {
        return error_set(err, EINVAL, "detect-zeroes=unmap needs discard=unmap");
    }
    return block_throttle_check(&disk->throttle, err);
}

static int disk_key(struct boot_disk *disk, const char *key, const char *value, struct error *err)
{
    static const char words[] =
        "format|readonly|bus|serial|aio|cache|backing|backing-format|data-file|snapshot|werror|rerror|"
        "detect-zeroes|discard|copy-on-read|bps|bps-rd|bps-wr|iops|iops-rd|iops-wr|bps-max|iops-max|"
        "iops-size|group|key-file|key-env|key-ring|reconnect|id|slot|index";
    const char *text = value != NULL ? value : "";
    if (strcmp(key, "readonly") == 0 && (value == NULL || strcmp(value, "on") == 0)) {
        disk->is_readonly = true;
    } else if (strcmp(key, "format") == 0) {
        disk->is_raw_for_sure = strcmp(text, "raw") == 0;
        disk->has_format = true;
        return take_format(text, &disk->format, err);
    } else if (strcmp(key, "backing") == 0 && text[0] != '\0') {
        if (disk->layer_count == BOOT_MAX_LAYERS) {
            return error_set(err, E2BIG, "too many backing files: at most %d", BOOT_MAX_LAYERS);
        }
        disk->layer[disk->layer_count++] = (struct boot_layer){.path = text};
    } else if (strcmp(key, "backing-format") == 0 && disk->layer_count > 0) {
        return take_format(text, &disk->layer[disk->layer_count - 1].format, err);
    } else if (strcmp(key, "data-file") == 0 && text[0] != '\0') {
        disk->data_path = text;
    } else if (strcmp(key, "bus") == 0) {
        if (strcmp(text, "virtio") != 0) {
            return error_set(err, EOPNOTSUPP,
                             "bus %s is not supported yet by this version: supported: virtio",
                             text);
        }
    } else if (strcmp(key, "serial") == 0 && value != NULL) {
        if (strlen(value) >= sizeof(disk->serial)) {
            return error_set(err, EINVAL, "serial '%s' is too long: at most 20 characters", value);
        }
        memcpy(disk->serial, value, strlen(value) + 1);
    } else if (strcmp(key, "aio") == 0) {
        static const char *const kinds[] = {"auto", "io_uring", "threads"};
        for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
            if (strcmp(text, kinds[i]) == 0) {
                disk->aio = kinds[i];
                return 0;
            }
        }
        return error_set(err, EINVAL, "aio '%s' is unknown: auto, io_uring or threads", text);
    } else if (strcmp(key, "reconnect") == 0) {
        uint64_t seconds;
        int rc = number_parse(text, 0, 86400, &seconds, err);
        if (rc < 0) {
            return error_prefix(err, rc, "reconnect");
        }
        disk->has_reconnect = true;
        disk->reconnect_s = (unsigned)seconds;
    } else {
        int rc = boot_place_key(&disk->place, key, value, BOOT_MAX_DISKS, err);
        rc = rc == -ENOENT ? policy_key(disk, key, value, err) : rc;
        return rc == -ENOENT ? boot_unknown_key(key, words, err) : rc;
    }
    return 0;
}

int boot_parse_disk(void *into, const char *value, struct error *err)
{
    struct boot_options *options = into;
    if (options->disk_count == BOOT_MAX_DISKS) {
        return error_set(err, E2BIG, "too many disks: at most %d", BOOT_MAX_DISKS);
    }
    AUTO_FREE char *text = strdup(value);
    if (text == NULL) {
        return error_set_errno(err, ENOMEM, "reading the option");
    }
    char *rest = text;
    char *path = strsep(&rest, ",");
    if (path[0] == '\0') {
        return error_set(err, EINVAL, "no file is named: FILE[,KEY=VALUE]...");
    }
    struct boot_disk disk = {.aio = "auto",
                             .format = "raw",
                             .cache = "writeback",
                             .on_read_error = "report",
                             .on_write_error = "enospc",
                             .detect_zeroes = "off",
                             .discard = "unmap"};
    char *key;
    char *key_value;
    while (boot_next_key(&rest, &key, &key_value)) {
        int rc = disk_key(&disk, key, key_value, err);
        if (rc < 0) {
            return rc;
        }
    }
    int rc = check_layers(&disk, err);
    rc = rc == 0 ? check_policies(&disk, err) : rc;
    rc = rc == 0 ? check_place(&disk, path, err) : rc;
    if (rc < 0) {
        return rc;
    }
    disk.path = TAKE_PTR(text); /* the path is its first word */
    options->disk[options->disk_count++] = disk;
    return 0;
}
