/* LUKS: what encrypted images need besides their format. The header is libcryptsetup's business, which reads it from a copy in
 * memory; the data is AES.
 *
 * Threads: the loop's, but unlocking and making headers, which take their time, may be anywhere. */
#ifndef BLOCK_CRYPT_H
#define BLOCK_CRYPT_H

#include "block/block.h"

#define BLOCK_CRYPT_MAX_KEY        64u
#define BLOCK_CRYPT_MAX_PASSPHRASE 4096u

/* The words of LUKS headers for them: "xts", "cbc". */
enum block_crypt_mode {
    BLOCK_CRYPT_XTS,
    BLOCK_CRYPT_CBC,
};

enum block_crypt_iv {
    BLOCK_CRYPT_PLAIN64,
    BLOCK_CRYPT_PLAIN, /* 32 bits of the sector's number */
    BLOCK_CRYPT_ESSIV, /* "essiv:sha256" */
};

/* What an unlocked header says. Made by block_crypt_new: in locked memory. */
struct block_crypt {
    uint64_t payload_offset; /* bytes from the start of the header to the data */
    uint32_t sector_size;    /* 512 to 4096 */
    enum block_crypt_mode mode;
    enum block_crypt_iv iv;
    uint32_t key_size; /* AES-128 or AES-256: of XTS 32 or 64, of CBC 16 or 32 */
    uint8_t key[BLOCK_CRYPT_MAX_KEY];
};

struct block_crypt *block_crypt_new(void);
void block_crypt_free(struct block_crypt *crypt);

/* Where a header is. */
struct block_crypt_header {
    struct block *file;
    uint64_t offset;
    uint64_t size_bytes; /* 0: up to the end of the file */
};

/* Opens the header with a passphrase. May be inside of a coroutine. -EKEYREJECTED: no key slot takes it; -EOPNOTSUPP: not
 * built with libcryptsetup, or another cipher. */
int must_check block_crypt_unlock(const struct block_crypt_header *header, const void *passphrase,
                                  size_t passphrase_size, struct block_crypt *out_crypt,
                                  struct error *err);
/* Asks 'unlock' (block_options.unlock) for the key of the image of that format in 'file'. -EINVAL: it is not encrypted. */
int must_check block_unlock_image(struct block *file, const char *format,
                                  int (*unlock)(void *ctx, const struct block_crypt_header *header,
                                                struct block_crypt *out_crypt, struct error *err),
                                  void *ctx, struct block_crypt *out_crypt, struct error *err);

#define BLOCK_CRYPT_MAX_ITER_MS 20000u

/* A header to be made. */
struct block_crypt_creation {
    unsigned version;     /* 1 or 2 */
    uint32_t iter_ms;     /* what trying a passphrase shall cost on this machine; 0: 1000 */
    uint32_t sector_size; /* 512 to 4096, of version 2; 0: 512 */
};

/* Writes a new header, with a new key, to the start of 'file'. */
int must_check block_crypt_format(struct block *file, const struct block_crypt_creation *creation,
                                  const void *passphrase, size_t passphrase_size,
                                  struct block_crypt *out_crypt, struct error *err);

/* The disk in 'file', whose data begins at crypt->payload_offset. 'file' is the new block's on success. 'crypt' is copied. */
int must_check block_crypt_open(struct block *file, const struct block_crypt *crypt,
                                struct block **out_block, struct error *err);
/* For a format that encrypts its data alone: the bytes of 'file' at their own offsets. The file stays the caller's, who flushes
 * and closes it, after this. */
int must_check block_crypt_open_inner(struct block *file, const struct block_crypt *crypt,
                                      struct block **out_block, struct error *err);

#endif
