/* A checkpoint as one file: a line that says what it is, a line of JSON with the files' names and sizes, and what is in them,
 * one behind the other. Whoever reads it knows its digest: it is as good as programs that root runs, so nobody else's is taken. */
#ifndef SYSTEM_LIFE_PACK_H
#define SYSTEM_LIFE_PACK_H

#include "base/core/error.h"

#define PACK_DIGEST_SIZE 65 /* of SHA-256, in hexadecimal digits, and NUL */

/* All files of a folder into a new file, on disk at the end, or none. Errors: -EEXIST. */
int must_check pack_write(const char *folder, const char *path, char out_digest[PACK_DIGEST_SIZE],
                          struct error *err);
/* Into a folder that is there, and empty. Errors: -EINVAL: the file is none of these, or is not that with the digest; what was
 * unpacked until then is the caller's to remove. */
int must_check pack_read(const char *path, const char *digest, const char *folder,
                         struct error *err);

#endif
