/* Everything that can be done to an image, done to bytes that may be anything. */
#ifndef TESTS_BLOCK_EXERCISE_H
#define TESTS_BLOCK_EXERCISE_H

#include "block/crypt.h"
#include "block/provider.h"

#define EXERCISE_PASSPHRASE "horse" /* of images of the format "luks" */

/* The key of encrypted qcow2 images, whose LUKS header is not looked at: block_options.unlock. */
int exercise_unlock(void *ctx, const struct block_crypt_header *header,
                    struct block_crypt *out_crypt, struct error *err);

/* Opens the bytes as 'format' in every way, reads, writes, checks, repairs. Errors are fine. 'seed' chooses places. Returns how
 * many times it could be opened. */
unsigned exercise_image(const uint8_t *bytes, size_t size, const char *format,
                        struct event_loop *loop, uint64_t seed);

#endif
