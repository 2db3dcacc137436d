/* Everything that can be done to an image, done to bytes that may be anything. */
#ifndef TESTS_BLOCK_EXERCISE_H
#define TESTS_BLOCK_EXERCISE_H

#include "block/provider.h"

/* Opens the bytes as 'format' in every way, reads, writes, checks, repairs. Errors are fine. 'seed' chooses places. Returns how
 * many times it could be opened. */
unsigned exercise_image(const uint8_t *bytes, size_t size, const char *format,
                        struct event_loop *loop, uint64_t seed);

#endif
