#include "base/host/secret.h"
#include "block/crypt.h"

struct block_crypt *block_crypt_new(void)
{
    return secret_alloc(sizeof(struct block_crypt));
}

void block_crypt_free(struct block_crypt *crypt)
{
    secret_free(crypt, sizeof(*crypt));
}
