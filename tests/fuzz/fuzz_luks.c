/* Rubbish as a LUKS header: the first byte says which version, then come the fields of version 1 and its key slots, or those of
 * version 2 and its JSON text, with the checksum put right. What takes long by right is made quick. */
#include <nettle/sha2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/endian.h"
#include "block/crypt.h"
#include "tests/block/exercise.h"

#define FILE_SIZE   (192u << 10)
#define LUKS1_SIZE  592u
#define LUKS2_SIZE  16384u
#define LUKS2_JSON  4096u
#define LUKS2_FIELD 512u /* as much of the binary part has a meaning */
#define LUKS2_SUM   448u
#define MAX_DIGITS  3u /* of a number of rounds */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void limit_rounds(uint8_t *number)
{
    be32_put(number, be32_get(number) % 1024);
}

static void make_version_1(uint8_t *bytes, const uint8_t *data, size_t size)
{
    memcpy(bytes, data, MIN(size, LUKS1_SIZE));
    memcpy(bytes, "LUKS\xba\xbe\0\1", 8);
    limit_rounds(bytes + 164);
    for (unsigned i = 0; i < 8; i++) {
        limit_rounds(bytes + 208 + i * 48 + 4);
    }
}

/* Numbers of rounds lose all digits but the last ones. */
static void limit_text(char *text, const char *key)
{
    for (char *at = text; (at = strstr(at, key)) != NULL;) {
        at += strlen(key);
        at += strspn(at, " \t\r\n\":");
        size_t digits = strspn(at, "-+.eE0123456789");
        for (size_t i = 0; i + MAX_DIGITS < digits; i++) {
            at[i] = ' ';
        }
    }
}

static void make_version_2(uint8_t *bytes, const uint8_t *data, size_t size)
{
    size_t fields = MIN(size, LUKS2_FIELD);
    memcpy(bytes, data, fields);
    memcpy(bytes + LUKS2_JSON, data + fields, MIN(size - fields, LUKS2_SIZE - LUKS2_JSON - 1));
    memcpy(bytes, "LUKS\xba\xbe\0\2", 8);
    be64_put(bytes + 8, LUKS2_SIZE);
    memset(bytes + 72, 0, 32);
    memcpy(bytes + 72, "sha256", 6);
    be64_put(bytes + 256, 0);
    char *json = (char *)bytes + LUKS2_JSON;
    limit_text(json, "iterations");
    limit_text(json, "time");
    limit_text(json, "memory");
    struct sha256_ctx sha;
    uint8_t sum[SHA256_DIGEST_SIZE];
    memset(bytes + LUKS2_SUM, 0, 64);
    sha256_init(&sha);
    sha256_update(&sha, LUKS2_SIZE, bytes);
    sha256_digest(&sha, sizeof(sum), sum);
    memcpy(bytes + LUKS2_SUM, sum, sizeof(sum));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct event_loop *loop;
    static uint8_t bytes[FILE_SIZE];
    if (loop == NULL && event_loop_create(&loop, NULL) < 0) {
        abort();
    }
    if (size < 2) {
        return 0;
    }
    memset(bytes, 0, sizeof(bytes));
    if (data[0] % 2 == 0) {
        make_version_1(bytes, data + 1, size - 1);
    } else {
        make_version_2(bytes, data + 1, size - 1);
    }
    (void)exercise_image(bytes, sizeof(bytes), "luks", loop, size);
    return 0;
}
