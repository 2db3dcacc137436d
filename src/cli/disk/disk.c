/* hull disk: its verbs, and the options that they share. */
#include "cli/disk/disk.h"

#include <string.h>
#include <sys/stat.h>

#include "base/core/size.h"

static const struct verb *const disk_verbs[] = {
    &disk_create_verb,  &disk_info_verb,     &disk_map_verb,
    &disk_check_verb,   &disk_convert_verb,  &disk_resize_verb,
    &disk_compare_verb, &disk_snapshot_verb, &disk_bitmap_verb,
    &disk_rebase_verb,  &disk_commit_verb,   &disk_measure_verb,
    &disk_serve_verb,   &disk_bench_verb,    NULL,
};

static bool is_image_format(const char *word)
{
    static const char *const words[] = {"raw",  "qcow2", "luks", "vmdk",
                                        "vhdx", "vhd",   "vpc",  "vdi"};
    for (size_t i = 0; i < ARRAY_COUNT(words); i++) {
        if (strcmp(word, words[i]) == 0) {
            return true;
        }
    }
    return false;
}

static int parse_format_word(const char *value, const char **out_format, struct error *err)
{
    if (!is_image_format(value)) {
        return error_set(err, EINVAL,
                         "'%s' is no image format: raw, qcow2, luks, vmdk, vhdx, vhd or vdi",
                         value);
    }
    *out_format = value;
    return 0;
}

int disk_parse_image_format(void *into, const char *value, struct error *err)
{
    return parse_format_word(value, &((struct disk_options *)into)->image.format, err);
}

int disk_parse_backing(void *into, const char *value, struct error *err)
{
    ((struct disk_options *)into)->image.backing = value;
    return 0;
}

int disk_parse_backing_format(void *into, const char *value, struct error *err)
{
    return parse_format_word(value, &((struct disk_options *)into)->image.backing_format, err);
}

int disk_parse_allow(void *into, const char *value, struct error *err)
{
    struct disk_image *image = &((struct disk_options *)into)->image;
    if (image->allowed_count == DISK_MAX_ALLOWED) {
        return error_set(err, E2BIG, "too many: at most %d", DISK_MAX_ALLOWED);
    }
    image->allowed[image->allowed_count++] = value;
    return 0;
}

static int parse_key(void *into, enum cli_key_kind kind, const char *value)
{
    ((struct disk_options *)into)->image.key = (struct cli_key){kind, value};
    return 0;
}

int disk_parse_cache(void *into, const char *value, struct error *err)
{
    return disk_cache_parse(value, &((struct disk_options *)into)->image.cache, err);
}

int disk_parse_key_file(void *into, const char *value, struct error *err)
{
    return parse_key(into, CLI_KEY_FILE, value);
}

int disk_parse_key_env(void *into, const char *value, struct error *err)
{
    return parse_key(into, CLI_KEY_ENV, value);
}

int disk_parse_key_ring(void *into, const char *value, struct error *err)
{
    return parse_key(into, CLI_KEY_RING, value);
}

int disk_parse_reconnect(void *into, const char *value, struct error *err)
{
    struct disk_image *image = &((struct disk_options *)into)->image;
    uint64_t seconds;
    int rc = number_parse(value, 0, 86400, &seconds, err);
    if (rc == 0) {
        image->has_reconnect = true;
        image->reconnect_ns = seconds * 1000000000;
    }
    return rc;
}

int disk_parse_json(void *into, const char *value, struct error *err)
{
    ((struct disk_options *)into)->output = OUTPUT_JSON;
    return 0;
}

int disk_parse_output(void *into, const char *value, struct error *err)
{
    if (is_image_format(value)) {
        return error_set(
            err, EINVAL,
            "'%s' is a format of images: --image-format says what FILE is; here table, "
            "json, yaml or csv",
            value);
    }
    return output_parse_format(value, &((struct disk_options *)into)->output, err);
}

int disk_parse_quiet(void *into, const char *value, struct error *err)
{
    ((struct disk_options *)into)->is_quiet = true;
    return 0;
}

bool disk_check_count(const struct verb *verb, int count, int min, int max)
{
    if (count >= min && count <= max) {
        return true;
    }
    struct error err;
    (void)error_set(&err, EINVAL, "%s: %s: hull %s %s", verb->name,
                    count < min ? "something is missing" : "too many words", verb->name,
                    verb->arguments);
    (void)cli_fail(&err);
    return false;
}

int disk_words(const struct verb *verb, int count, int argc, char **argv, void *into)
{
    int words = 0;
    int status = cli_options(verb, false, argc, argv, into, &words);
    return status < 0 && !disk_check_count(verb, words, count, count) ? CLI_FAILURE : status;
}

uint64_t disk_allocated_bytes(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

const char *disk_size_text(uint64_t bytes, char *out_text, size_t size)
{
    char number[32];
    (void)snprintf(out_text, size, "%s (%llu bytes)", size_format(bytes, number, sizeof(number)),
                   (unsigned long long)bytes);
    return out_text;
}

json_t *disk_text(const char *text)
{
    char plain[2048];
    size_t length = strnlen(text, sizeof(plain) - 1);
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        bool is_control = c < 0x20 || c == 0x7f || (c == 0xc2 && (unsigned char)text[i + 1] < 0xa0);
        plain[i] = (char)(is_control ? '?' : c);
    }
    plain[length] = '\0';
    json_t *value = json_string(plain);
    for (size_t i = 0; value == NULL && i < length; i++) {
        plain[i] = (char)((unsigned char)plain[i] < 0x80 ? plain[i] : '?');
    }
    return value != NULL ? value : json_string(plain);
}

const struct verb disk_verb = {
    .name = "disk",
    .arguments = "VERB FILE...",
    .summary = "Create, look at, convert and check disk images",
    .description =
        "Images are raw, qcow2, VMDK, VHDX, VHD or VDI files. A format that is not given is found out\n"
        "from the content for reading; for writing it comes from the name's ending (.raw, .qcow2) or\n"
        "from --image-format. A file that an image names (a backing file, an extent) is only opened if\n"
        "--allow permits the name. FILE may be a URI, as in nbd://server/export: see docs/disks.md.\n",
    .examples = "  hull disk create vm.qcow2 20G\n"
                "  hull disk info vm.vmdk\n"
                "  hull disk convert vm.vmdk vm.qcow2\n",
    .verbs = disk_verbs,
};
