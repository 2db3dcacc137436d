/* Keys of encrypted images: from a file, a variable of the environment or the kernel's key ring, never from a command line. */
#ifndef CLI_KEY_H
#define CLI_KEY_H

#include "base/core/error.h"
#include "block/crypt.h"

enum cli_key_kind {
    CLI_KEY_NONE,
    CLI_KEY_FILE,
    CLI_KEY_ENV,
    CLI_KEY_RING,
};

struct cli_key {
    enum cli_key_kind kind;
    const char *where; /* path, name of the variable, description of the key */
};

/* "key-file", "key-env", "key-ring": NONE if it is none of these. */
enum cli_key_kind cli_key_kind(const char *word);
/* The key's bytes, as they are, in memory for secret_free(, BLOCK_CRYPT_MAX_PASSPHRASE). */
int must_check cli_key_read(const struct cli_key *key, char **out_bytes, size_t *out_size,
                            struct error *err);
/* block_options.unlock, with a struct cli_key as context. */
int cli_key_unlock(void *ctx, const struct block_crypt_header *header,
                   struct block_crypt *out_crypt, struct error *err);

#endif
