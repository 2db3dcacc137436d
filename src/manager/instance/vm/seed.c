#include "manager/instance/vm/seed.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/endian.h"
#include "base/host/file.h"

#define SECTOR 2048u
/* ECMA-119: 16 sectors of the system, then volume descriptors; behind them, twice each (primary and Joliet), path tables in
 * both byte orders and the root folder. */
#define PRIMARY_SECTOR    16u
#define JOLIET_SECTOR     17u
#define TERMINATOR_SECTOR 18u
#define FIRST_TABLE       19u /* four of them */
#define FIRST_FOLDER      23u /* two of them */
#define FIRST_FILE        25u
#define PATH_TABLE_SIZE   10u
#define MAX_SIZE          (64u << 20)

/* Numbers in both byte orders, 7.2.3 and 7.3.3. */
static void put_both16(uint8_t *at, uint16_t value)
{
    le16_put(at, value);
    be16_put(at + 2, value);
}

static void put_both32(uint8_t *at, uint32_t value)
{
    le32_put(at, value);
    be32_put(at + 4, value);
}

/* Texts of descriptors are padded with spaces; Joliet's are UCS-2, most significant byte first. */
static void put_text(uint8_t *at, size_t size, const char *text, bool is_joliet)
{
    size_t length = strlen(text);
    for (size_t i = 0; i + (is_joliet ? 1 : 0) < size; i += is_joliet ? 2 : 1) {
        size_t index = is_joliet ? i / 2 : i;
        char letter = ' ';
        if (index < length) {
            letter = is_joliet ? text[index] : (char)toupper((unsigned char)text[index]);
        }
        if (is_joliet) {
            be16_put(at + i, (uint8_t)letter);
        } else {
            at[i] = (uint8_t)letter;
        }
    }
}

/* 9.1; returns its length. 'name' NULL: the folder itself, "" its parent. */
static size_t put_record(uint8_t *at, const char *name, bool is_joliet, uint32_t sector,
                         uint32_t size)
{
    uint8_t identifier[128] = {0};
    size_t name_size = 1;
    if (name != NULL && name[0] != '\0') {
        char full[40];
        (void)snprintf(full, sizeof(full), "%s%s", name, is_joliet ? "" : ";1");
        name_size = strlen(full) * (is_joliet ? 2 : 1);
        put_text(identifier, name_size, full, is_joliet);
    } else {
        identifier[0] = name != NULL ? 1 : 0;
    }
    size_t length = 33 + name_size + (name_size % 2 == 0 ? 1 : 0);
    bool is_folder = name == NULL || name[0] == '\0';
    at[0] = (uint8_t)length;
    put_both32(at + 2, sector);
    put_both32(at + 10, size);
    at[18] = 100; /* the year 2000: the same input gives the same image */
    at[19] = 1;
    at[20] = 1;
    at[25] = is_folder ? 2 : 0;
    put_both16(at + 28, 1);
    at[32] = (uint8_t)name_size;
    memcpy(at + 33, identifier, name_size);
    return length;
}

/* 8.4 and 8.5. */
static void put_descriptor(uint8_t *at, const char *label, bool is_joliet, uint32_t sectors)
{
    uint32_t table = FIRST_TABLE + (is_joliet ? 2 : 0);
    at[0] = is_joliet ? 2 : 1;
    memcpy(at + 1, "CD001\x01", 6);
    put_text(at + 8, 32, "", is_joliet);
    put_text(at + 40, 32, label, is_joliet);
    if (!is_joliet) {
        memset(at + 40, ' ', 32);
        memcpy(at + 40, label, MIN(strlen(label), (size_t)32)); /* cloud-init asks for lower case */
    } else {
        memcpy(at + 88, "%/E", 3); /* UCS-2 level 3 */
    }
    put_both32(at + 80, sectors);
    put_both16(at + 120, 1);
    put_both16(at + 124, 1);
    put_both16(at + 128, SECTOR);
    put_both32(at + 132, PATH_TABLE_SIZE);
    le32_put(at + 140, table);
    be32_put(at + 148, table + 1);
    (void)put_record(at + 156, NULL, is_joliet, FIRST_FOLDER + (is_joliet ? 1 : 0), SECTOR);
    put_text(at + 190, 128, "", is_joliet);
    put_text(at + 318, 128, "", is_joliet);
    put_text(at + 446, 128, "", is_joliet);
    put_text(at + 574, 128, "", is_joliet);
    put_text(at + 702, 37 * 3, "", is_joliet);
    for (size_t i = 0; i < 4; i++) {
        memset(at + 813 + 17 * i, '0', 16); /* a date that is not said, 8.4.26.1 */
    }
    at[881] = 1;
}

static void put_tables(uint8_t *image, bool is_joliet)
{
    uint32_t table = FIRST_TABLE + (is_joliet ? 2 : 0);
    uint32_t folder = FIRST_FOLDER + (is_joliet ? 1 : 0);
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *at = image + (size_t)(table + i) * SECTOR;
        at[0] = 1;
        if (i == 0) {
            le32_put(at + 2, folder);
            le16_put(at + 6, 1);
        } else {
            be32_put(at + 2, folder);
            be16_put(at + 6, 1);
        }
    }
}

static uint32_t sectors_of(size_t size)
{
    return (uint32_t)((size + SECTOR - 1) / SECTOR);
}

static void put_folder(uint8_t *image, const struct seed_file *files, size_t count, bool is_joliet)
{
    uint32_t own = FIRST_FOLDER + (is_joliet ? 1 : 0);
    uint8_t *at = image + (size_t)own * SECTOR;
    at += put_record(at, NULL, is_joliet, own, SECTOR);
    at += put_record(at, "", is_joliet, own, SECTOR);
    uint32_t sector = FIRST_FILE;
    for (size_t i = 0; i < count; i++) {
        at += put_record(at, files[i].name, is_joliet, sector, (uint32_t)files[i].size);
        sector += sectors_of(files[i].size);
    }
}

static int check(const struct seed_file *files, size_t count, size_t *out_sectors,
                 struct error *err)
{
    *out_sectors = FIRST_FILE;
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(files[i].name);
        if (length == 0 || length > 30 ||
            strspn(files[i].name, "abcdefghijklmnopqrstuvwxyz0123456789-._") != length ||
            (i > 0 && strcmp(files[i - 1].name, files[i].name) >= 0)) {
            return error_set(err, EINVAL, "seed: file %s: no name, or not in their order",
                             files[i].name);
        }
        if (files[i].size > MAX_SIZE / SEED_MAX_FILES) {
            return error_set(err, EFBIG, "seed: %s: at most %u MiB", files[i].name,
                             MAX_SIZE / SEED_MAX_FILES >> 20);
        }
        *out_sectors += sectors_of(files[i].size);
    }
    return count <= SEED_MAX_FILES
               ? 0
               : error_set(err, E2BIG, "seed: at most %d files", SEED_MAX_FILES);
}

int seed_image_make(const char *label, const struct seed_file *files, size_t count,
                    uint8_t **out_image, size_t *out_size, struct error *err)
{
    size_t sectors;
    int rc = check(files, count, &sectors, err);
    uint8_t *image = rc == 0 ? calloc(sectors, SECTOR) : NULL;
    if (image == NULL) {
        return rc < 0 ? rc : error_set_errno(err, ENOMEM, "seed");
    }
    put_descriptor(image + (size_t)PRIMARY_SECTOR * SECTOR, label, false, (uint32_t)sectors);
    put_descriptor(image + (size_t)JOLIET_SECTOR * SECTOR, label, true, (uint32_t)sectors);
    uint8_t *terminator = image + (size_t)TERMINATOR_SECTOR * SECTOR;
    terminator[0] = 255;
    memcpy(terminator + 1, "CD001\x01", 6);
    uint8_t *at = image + (size_t)FIRST_FILE * SECTOR;
    for (unsigned joliet = 0; joliet < 2; joliet++) {
        put_tables(image, joliet == 1);
        put_folder(image, files, count, joliet == 1);
    }
    for (size_t i = 0; i < count; i++) {
        if (files[i].size != 0) {
            memcpy(at, files[i].data, files[i].size);
        }
        at += (size_t)sectors_of(files[i].size) * SECTOR;
    }
    *out_image = image;
    *out_size = sectors * SECTOR;
    return 0;
}

/* A list, or a text with one on each line, as in authorized_keys. A new reference; NULL: none are said. */
static json_t *find_keys(const struct vm *vm)
{
    json_t *value = json_object_get(json_object_get(vm->document, "config"), "ssh_keys");
    const char *text = json_string_value(value);
    json_t *array = json_is_array(value) ? json_incref(value) : json_array();
    for (size_t length; text != NULL && *text != '\0'; text += length + (text[length] == '\n')) {
        length = strcspn(text, "\n");
        if (length != 0) {
            json_array_append_new(array, json_stringn(text, length));
        }
    }
    if (json_array_size(array) == 0) {
        json_decref(array);
        return NULL;
    }
    return array;
}

/* JSON, which is YAML as well. */
static char *make_meta_data(const struct vm *vm, json_t *keys)
{
    const char *uuid = json_string_value(json_object_get(vm->document, "uuid"));
    json_t *meta = json_pack("{s:s, s:s}", "instance-id", uuid != NULL ? uuid : vm->name,
                             "local-hostname", vm_hostname(vm));
    if (keys != NULL) {
        json_object_set(meta, "public-keys", keys);
    }
    char *text = json_dumps(meta, JSON_COMPACT);
    json_decref(meta);
    return text;
}

static int write_image(const char *path, const uint8_t *image, size_t size, struct error *err)
{
    AUTO_FREE char *beside = vm_text("%s.new", path);
    AUTO_CLOSE int fd = -1;
    if (beside != NULL) {
        fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    }
    int rc = fd < 0 ? error_set_errno(err, errno, "seed %s", path)
                    : file_write_all(fd, image, size, path, err);
    return rc == 0 && rename(beside, path) < 0 ? error_set_errno(err, errno, "seed %s", path) : rc;
}

static int write_seed(const struct vm *vm, const char *path, const char *user, json_t *keys,
                      struct error *err)
{
    /* What user data may overrule: distributions' cloud-init keeps root from logging in by the keys. */
    static const char vendor[] = "#cloud-config\ndisable_root: false\n";
    AUTO_FREE char *meta = make_meta_data(vm, keys);
    if (meta == NULL) {
        return error_set(err, EINVAL, "seed of %s: ssh_keys are no text", vm->name);
    }
    user = user != NULL ? user : "#cloud-config\n{}\n";
    const struct seed_file files[] = {{"meta-data", meta, strlen(meta)},
                                      {"user-data", user, strlen(user)},
                                      {"vendor-data", vendor, sizeof(vendor) - 1}};
    AUTO_FREE uint8_t *image = NULL;
    size_t size;
    int rc = seed_image_make("cidata", files, ARRAY_COUNT(files), &image, &size, err);
    return rc < 0 ? rc : write_image(path, image, size, err);
}

int vm_seed_write(const struct vm *vm, bool is_wanted, struct error *err)
{
    char path[PATH_MAX];
    const char *user = vm_config(vm, "user_data");
    json_t *keys = find_keys(vm);
    int rc = 0;
    vm_state_path(vm, "seed.iso", path);
    if (user != NULL || keys != NULL || is_wanted) {
        rc = write_seed(vm, path, user, keys, err);
    } else if (unlink(path) < 0 && errno != ENOENT) {
        rc = error_set_errno(err, errno, "seed %s", path);
    }
    json_decref(keys);
    return rc;
}
