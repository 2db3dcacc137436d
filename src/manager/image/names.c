#include "manager/image/names.h"

#include <stdio.h>
#include <string.h>

#include "base/core/compiler.h"

#define DIGEST_PREFIX "sha256-"
#define MIN_PREFIX    4 /* digits of a digest that may stand for it */
#define HEX           "0123456789abcdef"

#define DEBIAN_KEYS "/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"
#define UBUNTU_KEYS "/usr/share/keyrings/ubuntu-archive-keyring.gpg", "ubuntu-keyring"

static const struct distribution distributions[] = {
    {"debian/11", "bullseye", "debian", "11", DEBIAN_KEYS, "udev kmod"},
    {"debian/12", "bookworm", "debian", "12", DEBIAN_KEYS, "udev kmod"},
    {"debian/13", "trixie", "debian", "13", DEBIAN_KEYS, "udev kmod"},
    {"debian/sid", "sid", "debian", "sid", DEBIAN_KEYS, "udev kmod"},
    {"ubuntu/22.04", "jammy", "ubuntu", "22.04", UBUNTU_KEYS, "udev kmod"},
    {"ubuntu/24.04", "noble", "ubuntu", "24.04", UBUNTU_KEYS, "udev kmod"},
};

bool image_is_digest(const char *text)
{
    size_t prefix = strlen(DIGEST_PREFIX);
    return strncmp(text, DIGEST_PREFIX, prefix) == 0 && strlen(text) == prefix + 64 &&
           strspn(text + prefix, HEX) == 64;
}

int image_check_alias(const char *alias, struct error *err)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    bool is_good = strlen(alias) < IMAGE_ALIAS_SIZE &&
                   strncmp(alias, DIGEST_PREFIX, strlen(DIGEST_PREFIX)) != 0;
    for (const char *word = alias; is_good;) {
        size_t length = strspn(word, letters);
        is_good = length > 0 && word[0] != '.' && word[0] != '-' &&
                  (word[length] == '\0' || word[length] == '/');
        if (word[length] == '\0') {
            break;
        }
        word += length + 1;
    }
    return is_good
               ? 0
               : error_set(
                     err, EINVAL,
                     "alias '%.*s' of an image: words of letters, digits, '-', '_' and '.', divided "
                     "by '/', at most %d characters; 'sha256-' begins digests",
                     (int)MIN(strcspn(alias, "\n\r\t\033"), 64u), alias, IMAGE_ALIAS_SIZE - 1);
}

void image_template_name(const char *digest, char out_name[65])
{
    (void)snprintf(out_name, 65, "image-%.40s", digest + strlen(DIGEST_PREFIX));
}

static int not_found(const char *name, const json_t *aliases, struct error *err)
{
    char list[120] = "";
    size_t used = 0, i;
    const json_t *alias;
    json_array_foreach(aliases, i, alias)
    {
        int length = snprintf(list + used, sizeof(list) - used, "%s%s", used > 0 ? ", " : "",
                              json_string_value(json_object_get(alias, "name")));
        if (length < 0 || (size_t)length >= sizeof(list) - used) {
            (void)snprintf(list + used, sizeof(list) - used, "...");
            break;
        }
        used += (size_t)length;
    }
    const struct distribution *known;
    bool is_known = distribution_find(name, &known, NULL) == 0;
    return error_set(
        err, ENOENT, "image %.64s: there is none: %s%s; `hull image build %s` makes one", name,
        used > 0 ? "there are " : "there are none yet", list, is_known ? known->name : "debian/12");
}

static const json_t *by_digest(const json_t *images, const char *digest)
{
    const json_t *image;
    size_t i;
    json_array_foreach(images, i, image)
    {
        const char *name = json_string_value(json_object_get(image, "name"));
        if (name != NULL && strcmp(name, digest) == 0) {
            return image;
        }
    }
    return NULL;
}

static const json_t *by_alias(const json_t *images, const json_t *aliases, const char *name)
{
    const json_t *alias;
    size_t i;
    json_array_foreach(aliases, i, alias)
    {
        const char *own = json_string_value(json_object_get(alias, "name"));
        const char *digest = json_string_value(json_object_get(alias, "digest"));
        if (own != NULL && digest != NULL && strcmp(own, name) == 0) {
            return by_digest(images, digest);
        }
    }
    return NULL;
}

int image_pick(const json_t *images, const json_t *aliases, const char *name,
               const json_t **out_image, struct error *err)
{
    size_t prefix = strlen(DIGEST_PREFIX);
    const json_t *found = by_alias(images, aliases, name);
    const char *digits = strncmp(name, DIGEST_PREFIX, prefix) == 0 ? name + prefix : name;
    size_t length = strlen(digits), count = 0, i;
    if (found == NULL && length >= MIN_PREFIX && strspn(digits, HEX) == length) {
        const json_t *image;
        json_array_foreach(images, i, image)
        {
            const char *digest = json_string_value(json_object_get(image, "name"));
            if (digest != NULL && image_is_digest(digest) &&
                strncmp(digest + prefix, digits, length) == 0) {
                found = image;
                count++;
            }
        }
    }
    if (count > 1) {
        return error_set(err, EINVAL, "image %.64s: %zu digests begin so: give more of it", name,
                         count);
    }
    if (found == NULL) {
        return not_found(name, aliases, err);
    }
    *out_image = found;
    return 0;
}

int distribution_find(const char *name, const struct distribution **out_distribution,
                      struct error *err)
{
    char list[120] = "";
    size_t used = 0;
    for (size_t i = 0; i < ARRAY_COUNT(distributions); i++) {
        const struct distribution *d = &distributions[i];
        if (strcmp(d->name, name) == 0 || strcmp(d->suite, name) == 0) {
            *out_distribution = d;
            return 0;
        }
        int length = snprintf(list + used, sizeof(list) - used, "%s%s", i > 0 ? ", " : "", d->name);
        used = length > 0 ? MIN(used + (size_t)length, sizeof(list) - 1) : used;
    }
    return error_set(err, EINVAL, "distribution '%.*s': is unknown: %s",
                     (int)MIN(strcspn(name, "\n\r\t\033"), 64u), name, list);
}

void image_list_users(const json_t *users, char out_list[IMAGE_USERS_SIZE])
{
    size_t used = 0, i;
    const json_t *user;
    out_list[0] = '\0';
    json_array_foreach(users, i, user)
    {
        int length = snprintf(out_list + used, IMAGE_USERS_SIZE - used, "%s%s", i > 0 ? ", " : "",
                              json_string_value(user));
        if (length < 0 || (size_t)length >= IMAGE_USERS_SIZE - used) {
            (void)snprintf(out_list + used, IMAGE_USERS_SIZE - used, "...");
            break;
        }
        used += (size_t)length;
    }
}
