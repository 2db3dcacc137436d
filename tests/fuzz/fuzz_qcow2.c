/* Rubbish as a qcow2 image: opened in every way, read, written, checked, repaired. The first cluster is kept from being refused at
 * once: magic and version stand, and small cluster sizes make the most of few bytes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/block/exercise.h"

#define MAX_SIZE (1u << 18)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct event_loop *loop;
    static uint8_t bytes[MAX_SIZE];
    if (loop == NULL && event_loop_create(&loop, NULL) < 0) {
        abort();
    }
    if (size < 128 || size > MAX_SIZE) {
        return 0;
    }
    memcpy(bytes, data, size);
    memcpy(bytes, "QFI\xfb\0\0\0", 7);
    bytes[7] = (uint8_t)(2 + bytes[7] % 2);
    bytes[23] = (uint8_t)(bytes[23] >= 9 && bytes[23] <= 16 ? bytes[23] : 9 + bytes[23] % 8);
    (void)exercise_image(bytes, size, "qcow2", loop, size);
    return 0;
}
