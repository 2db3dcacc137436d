/* What the archive's writer and reader share. */
#ifndef MANAGER_TRANSFER_TAR_FORMAT_H
#define MANAGER_TRANSFER_TAR_FORMAT_H

#include <nettle/sha2.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define TAR_BLOCK     512u
#define TAR_SPARSE    "GNUSparseFile.0"
#define TAR_MAX_PAX   4096u
#define BUNDLE_FORMAT 1 /* of the manifest, and of a header without memory */
#define BUNDLE_NEWEST 2 /* of headers */

struct tar_header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
    char magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155], padding[12];
};
_Static_assert(sizeof(struct tar_header) == TAR_BLOCK, "a header is a block");

/* The sum of a header's bytes, with blanks in the place of its checksum. */
static inline unsigned tar_checksum(const struct tar_header *header)
{
    const unsigned char *bytes = (const unsigned char *)header;
    unsigned sum = 0;
    for (unsigned i = 0; i < TAR_BLOCK; i++) {
        bool is_checksum = i >= offsetof(struct tar_header, checksum) &&
                           i < offsetof(struct tar_header, checksum) + sizeof(header->checksum);
        sum += is_checksum ? ' ' : bytes[i];
    }
    return sum;
}

#define SHA256_HEX_SIZE (2 * SHA256_DIGEST_SIZE + 1)

static inline void sha256_hex(struct sha256_ctx *sha, char out_hex[SHA256_HEX_SIZE])
{
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_digest(sha, sizeof(digest), digest);
    for (unsigned i = 0; i < sizeof(digest); i++) {
        (void)snprintf(out_hex + 2 * (size_t)i, 3, "%02x", digest[i]);
    }
}

#endif
