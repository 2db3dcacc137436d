/* Inside of crypt: one sector at a time. */
#ifndef BLOCK_CRYPT_CIPHER_H
#define BLOCK_CRYPT_CIPHER_H

#include "block/crypt.h"

struct sector_keys;

/* May 'crypt' be? */
bool sector_keys_fit(const struct block_crypt *crypt);
/* In locked memory. NULL: there is none. */
struct sector_keys *sector_keys_new(const struct block_crypt *crypt);
void sector_keys_free(struct sector_keys *keys);
/* In place. 'number' counts units of 512 bytes, however large sectors are. */
void sector_encrypt(struct sector_keys *keys, uint64_t number, uint8_t *data, size_t size);
void sector_decrypt(struct sector_keys *keys, uint64_t number, uint8_t *data, size_t size);

#endif
