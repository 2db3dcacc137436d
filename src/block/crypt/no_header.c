/* Built without libcryptsetup: data of an unlocked image can be read and written, but nothing be unlocked. */
#include "block/crypt.h"

static int lacks(struct error *err)
{
    return error_set(err, EOPNOTSUPP, "LUKS: this build has no libcryptsetup");
}

int block_crypt_unlock(const struct block_crypt_header *header, const void *passphrase,
                       size_t passphrase_size, struct block_crypt *out_crypt, struct error *err)
{
    return lacks(err);
}

int block_crypt_format(struct block *file, const struct block_crypt_creation *creation,
                       const void *passphrase, size_t passphrase_size,
                       struct block_crypt *out_crypt, struct error *err)
{
    return lacks(err);
}
