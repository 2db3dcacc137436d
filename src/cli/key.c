#include "cli/key.h"

#include <fcntl.h>
#include <linux/keyctl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/secret.h"

enum cli_key_kind cli_key_kind(const char *word)
{
    static const char *const words[] = {[CLI_KEY_NONE] = "",
                                        [CLI_KEY_FILE] = "key-file",
                                        [CLI_KEY_ENV] = "key-env",
                                        [CLI_KEY_RING] = "key-ring"};
    for (unsigned i = CLI_KEY_FILE; i < ARRAY_COUNT(words); i++) {
        if (strcmp(word, words[i]) == 0) {
            return (enum cli_key_kind)i;
        }
    }
    return CLI_KEY_NONE;
}

/* As much as there is room for: a key that fills it is too long. */
static ssize_t read_file(const char *path, char *bytes)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t size = 0;
    while (fd >= 0 && size < BLOCK_CRYPT_MAX_PASSPHRASE) {
        ssize_t got = read(fd, bytes + size, BLOCK_CRYPT_MAX_PASSPHRASE - size);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got < 0 ? -1 : (ssize_t)size;
        }
        size += (size_t)got;
    }
    return fd < 0 ? -1 : (ssize_t)size;
}

/* A key of the type "user" that the process can find by its keyrings (keyctl(2)). */
static ssize_t read_ring(const char *description, char *bytes)
{
    long id = syscall(SYS_request_key, "user", description, NULL, 0);
    return id < 0 ? -1 : syscall(SYS_keyctl, KEYCTL_READ, id, bytes, BLOCK_CRYPT_MAX_PASSPHRASE);
}

static ssize_t read_env(const char *name, char *bytes)
{
    const char *value = getenv(name);
    if (value == NULL) {
        errno = ENOENT;
        return -1;
    }
    size_t size = strnlen(value, BLOCK_CRYPT_MAX_PASSPHRASE);
    memcpy(bytes, value, size);
    return (ssize_t)size;
}

int cli_key_read(const struct cli_key *key, char **out_bytes, size_t *out_size, struct error *err)
{
    static const char *const words[] = {[CLI_KEY_NONE] = "",
                                        [CLI_KEY_FILE] = "key file",
                                        [CLI_KEY_ENV] = "key in the variable",
                                        [CLI_KEY_RING] = "key of the key ring"};
    if (key->kind == CLI_KEY_NONE) {
        return error_set(err, ENOKEY, "is encrypted: key-file, key-env or key-ring says the key");
    }
    char *bytes = secret_alloc(BLOCK_CRYPT_MAX_PASSPHRASE);
    if (bytes == NULL) {
        return error_set_errno(err, ENOMEM, "reading a key");
    }
    ssize_t size = key->kind == CLI_KEY_FILE  ? read_file(key->where, bytes)
                   : key->kind == CLI_KEY_ENV ? read_env(key->where, bytes)
                                              : read_ring(key->where, bytes);
    int rc = 0;
    if (size < 0) {
        rc = error_set_errno(err, errno, "%s %s", words[key->kind], key->where);
    } else if (size == 0 || size >= (ssize_t)BLOCK_CRYPT_MAX_PASSPHRASE) {
        rc = error_set(err, EINVAL, "%s %s: %s: 1 to %u bytes", words[key->kind], key->where,
                       size == 0 ? "is empty" : "is too long", BLOCK_CRYPT_MAX_PASSPHRASE - 1);
    }
    if (rc < 0) {
        secret_free(bytes, BLOCK_CRYPT_MAX_PASSPHRASE);
        return rc;
    }
    *out_bytes = bytes;
    *out_size = (size_t)size;
    return 0;
}

int cli_key_unlock(void *ctx, const struct block_crypt_header *header,
                   struct block_crypt *out_crypt, struct error *err)
{
    char *bytes;
    size_t size;
    int rc = cli_key_read(ctx, &bytes, &size, err);
    if (rc < 0) {
        return error_prefix(err, rc, "disk %s", block_name(header->file));
    }
    rc = block_crypt_unlock(header, bytes, size, out_crypt, err);
    secret_free(bytes, BLOCK_CRYPT_MAX_PASSPHRASE);
    return rc;
}
