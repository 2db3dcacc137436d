/* The ciphers of LUKS, as dm-crypt and QEMU name them: AES in XTS or CBC mode. What makes sectors differ is their number ("plain64",
 * "plain"), or that encrypted by a hash of the key ("essiv:sha256"). New images have xts-plain64; the others are what there was before. */
#include "block/crypt/cipher.h"

#include <nettle/aes.h>
#include <nettle/cbc.h>
#include <nettle/sha2.h>
#include <nettle/xts.h>
#include <string.h>

#include "base/core/endian.h"
#include "base/host/secret.h"

union aes_key {
    struct xts_aes128_key xts128;
    struct xts_aes256_key xts256;
    struct aes128_ctx cbc128;
    struct aes256_ctx cbc256;
};

struct sector_keys {
    enum block_crypt_mode mode;
    enum block_crypt_iv iv;
    bool is_aes256;
    union aes_key encrypt, decrypt;
    struct aes256_ctx essiv;
};

bool sector_keys_fit(const struct block_crypt *crypt)
{
    switch (crypt->mode) {
    case BLOCK_CRYPT_XTS: /* two keys */
        return (crypt->key_size == 32 || crypt->key_size == 64) && crypt->iv != BLOCK_CRYPT_ESSIV;
    case BLOCK_CRYPT_CBC:
        return crypt->key_size == 16 || crypt->key_size == 32;
    }
    return false;
}

static void set_essiv(struct sector_keys *keys, const struct block_crypt *crypt)
{
    struct sha256_ctx sha;
    uint8_t hash[SHA256_DIGEST_SIZE];
    sha256_init(&sha);
    sha256_update(&sha, crypt->key_size, crypt->key);
    sha256_digest(&sha, sizeof(hash), hash);
    aes256_set_encrypt_key(&keys->essiv, hash);
    explicit_bzero(hash, sizeof(hash));
    explicit_bzero(&sha, sizeof(sha));
}

struct sector_keys *sector_keys_new(const struct block_crypt *crypt)
{
    struct sector_keys *keys = secret_alloc(sizeof(*keys));
    if (keys == NULL) {
        return NULL;
    }
    keys->mode = crypt->mode;
    keys->iv = crypt->iv;
    keys->is_aes256 = crypt->key_size == (crypt->mode == BLOCK_CRYPT_XTS ? 64 : 32);
    if (keys->mode == BLOCK_CRYPT_XTS && keys->is_aes256) {
        xts_aes256_set_encrypt_key(&keys->encrypt.xts256, crypt->key);
        xts_aes256_set_decrypt_key(&keys->decrypt.xts256, crypt->key);
    } else if (keys->mode == BLOCK_CRYPT_XTS) {
        xts_aes128_set_encrypt_key(&keys->encrypt.xts128, crypt->key);
        xts_aes128_set_decrypt_key(&keys->decrypt.xts128, crypt->key);
    } else if (keys->is_aes256) {
        aes256_set_encrypt_key(&keys->encrypt.cbc256, crypt->key);
        aes256_set_decrypt_key(&keys->decrypt.cbc256, crypt->key);
    } else {
        aes128_set_encrypt_key(&keys->encrypt.cbc128, crypt->key);
        aes128_set_decrypt_key(&keys->decrypt.cbc128, crypt->key);
    }
    if (keys->iv == BLOCK_CRYPT_ESSIV) {
        set_essiv(keys, crypt);
    }
    return keys;
}

void sector_keys_free(struct sector_keys *keys)
{
    secret_free(keys, sizeof(*keys));
}

static void make_iv(const struct sector_keys *keys, uint64_t number, uint8_t *out_iv)
{
    memset(out_iv, 0, AES_BLOCK_SIZE);
    le64_put(out_iv, keys->iv == BLOCK_CRYPT_PLAIN ? number & UINT32_MAX : number);
    if (keys->iv == BLOCK_CRYPT_ESSIV) {
        aes256_encrypt(&keys->essiv, AES_BLOCK_SIZE, out_iv, out_iv);
    }
}

void sector_encrypt(struct sector_keys *keys, uint64_t number, uint8_t *data, size_t size)
{
    union aes_key *key = &keys->encrypt;
    uint8_t iv[AES_BLOCK_SIZE];
    make_iv(keys, number, iv);
    if (keys->mode == BLOCK_CRYPT_XTS && keys->is_aes256) {
        xts_aes256_encrypt_message(&key->xts256, iv, size, data, data);
    } else if (keys->mode == BLOCK_CRYPT_XTS) {
        xts_aes128_encrypt_message(&key->xts128, iv, size, data, data);
    } else if (keys->is_aes256) {
        cbc_encrypt(&key->cbc256, (nettle_cipher_func *)aes256_encrypt, AES_BLOCK_SIZE, iv, size,
                    data, data);
    } else {
        cbc_encrypt(&key->cbc128, (nettle_cipher_func *)aes128_encrypt, AES_BLOCK_SIZE, iv, size,
                    data, data);
    }
}

void sector_decrypt(struct sector_keys *keys, uint64_t number, uint8_t *data, size_t size)
{
    union aes_key *key = &keys->decrypt;
    uint8_t iv[AES_BLOCK_SIZE];
    make_iv(keys, number, iv);
    if (keys->mode == BLOCK_CRYPT_XTS && keys->is_aes256) {
        xts_aes256_decrypt_message(&key->xts256, iv, size, data, data);
    } else if (keys->mode == BLOCK_CRYPT_XTS) {
        xts_aes128_decrypt_message(&key->xts128, iv, size, data, data);
    } else if (keys->is_aes256) {
        cbc_decrypt(&key->cbc256, (nettle_cipher_func *)aes256_decrypt, AES_BLOCK_SIZE, iv, size,
                    data, data);
    } else {
        cbc_decrypt(&key->cbc128, (nettle_cipher_func *)aes128_decrypt, AES_BLOCK_SIZE, iv, size,
                    data, data);
    }
}
