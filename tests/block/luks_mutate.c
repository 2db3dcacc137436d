/* LUKS headers with some bytes changed at random: every operation may fail, none may crash, hang or take much memory. Checksums of
 * version 2 are put right, so that what lies behind them is met. Usage: luks_mutate VERSION [FIRST_SEED [COUNT]] */
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/core/endian.h"
#include "tests/block/exercise.h"
#include "tests/block/recorder.h"

#define DISK_SIZE     (256u << 10)
#define LUKS1_SIZE    592u
#define LUKS1_PAYLOAD 104u /* places in headers of version 1 */
#define LUKS1_DIGEST  164u
#define LUKS1_SLOT    208u
#define LUKS1_SLOTS   8u
#define SLOT_SIZE     48u
#define LUKS2_SUM     448u /* in those of version 2 */
#define LUKS2_BINARY  4096u
#define SLOW_ROUNDS   (1u << 14)
#define MAX_ROUNDS    (1u << 28) /* more is refused */

struct image {
    unsigned version;
    uint8_t *bytes;
    size_t size;
    size_t header_size; /* of version 2: of each of the two headers, with its JSON */
};

static void put_sum(uint8_t *header, size_t size)
{
    struct sha256_ctx sha;
    uint8_t sum[SHA256_DIGEST_SIZE];
    memset(header + LUKS2_SUM, 0, 64);
    sha256_init(&sha);
    sha256_update(&sha, size, header);
    sha256_digest(&sha, sizeof(sum), sum);
    memcpy(header + LUKS2_SUM, sum, sizeof(sum));
}

static void put_sums(const struct image *image, uint8_t *bytes)
{
    if (image->version == 2) {
        put_sum(bytes, image->header_size);
        put_sum(bytes + image->header_size, image->header_size);
    }
}

/* Another text of the same length in both headers. */
static void replace(const struct image *image, const char *from, const char *to)
{
    for (size_t at = 0; at + strlen(from) < 2 * image->header_size; at++) {
        if (memcmp(image->bytes + at, from, strlen(from)) == 0) {
            memcpy(image->bytes + at, to, strlen(to));
        }
    }
}

/* The usual 16 MiB before the data take too long to be read so often. */
static void make_small(struct image *image, uint64_t payload)
{
    image->header_size = (size_t)be64_get(image->bytes + 8);
    replace(image, "\"offset\":\"16777216\"", "\"offset\":\"1048576\" ");
    replace(image, "\"keyslots_size\":\"16744448\"", "\"keyslots_size\":\"1015808\" ");
    put_sums(image, image->bytes);
    if (payload == 16u << 20) {
        image->size = (1u << 20) + DISK_SIZE;
    }
}

/* False: there is no libcryptsetup. */
static bool make_image(struct image *image, struct event_loop *loop)
{
    struct block *file;
    struct block_crypt *crypt = block_crypt_new();
    struct block_crypt_creation creation = {.version = image->version, .iter_ms = 1};
    struct error err = {0};
    if (block_open_memory(0, "new", loop, &file, NULL) < 0) {
        exit(1);
    }
    int rc = block_crypt_format(file, &creation, EXERCISE_PASSPHRASE, strlen(EXERCISE_PASSPHRASE),
                                crypt, &err);
    if (rc < 0) {
        printf("%s\n", err.text);
        block_close(file);
        block_crypt_free(crypt);
        return false;
    }
    uint64_t payload = crypt->payload_offset;
    image->size = (size_t)payload + DISK_SIZE;
    image->bytes = calloc(1, image->size);
    if (block_read(file, 0, image->bytes, (size_t)payload) < 0) {
        exit(1);
    }
    if (image->version == 2) {
        make_small(image, payload);
    }
    block_close(file);
    block_crypt_free(crypt);
    return true;
}

static uint32_t pick_number(uint32_t old, uint64_t *random)
{
    static const uint32_t odd[] = {
        0,          1,          2,   7,       0x7f,     0xff,           0x200,  4000,
        0x7fffffff, 0x80000000, ~0u, ~0u - 7, 1u << 20, MAX_ROUNDS + 1, 0xdead, 0xac71f3,
    };
    switch (recorder_random(random, 4)) {
    case 0:
        return old ^ 1u << recorder_random(random, 32);
    case 1:
        return old + (uint32_t)recorder_random(random, 9) - 4;
    default:
        return odd[recorder_random(random, ARRAY_COUNT(odd))];
    }
}

/* Rounds that are allowed but take seconds are no news. */
static void limit_rounds(uint8_t *number)
{
    uint32_t rounds = be32_get(number);
    if (rounds > SLOW_ROUNDS && rounds <= MAX_ROUNDS) {
        be32_put(number, rounds % SLOW_ROUNDS);
    }
}

static void mutate_version_1(uint8_t *bytes, uint64_t *random)
{
    size_t at = 0;
    switch (recorder_random(random, 4)) {
    case 0:
        at = LUKS1_PAYLOAD + recorder_random(random, 2) * 4;
        break;
    case 1:
        at = LUKS1_SLOT + recorder_random(random, LUKS1_SLOTS * SLOT_SIZE / 4) * 4;
        break;
    default:
        at = 8 + recorder_random(random, (LUKS1_SIZE - 8) / 4) * 4;
        break;
    }
    if (recorder_random(random, 3) == 0) {
        bytes[at] = (uint8_t)recorder_random(random, 256);
    } else {
        be32_put(bytes + at, pick_number(be32_get(bytes + at), random));
    }
}

/* A number of the JSON text becomes another one of as many digits or fewer, which spaces follow. */
static void mutate_digits(char *text, uint64_t *random)
{
    size_t length = strspn(text, "0123456789");
    char number[24];
    int used = snprintf(number, sizeof(number), "%u",
                        pick_number((uint32_t)strtoul(text, NULL, 10), random));
    for (size_t i = 0; i < length; i++) {
        text[i] = (size_t)used <= length && i < (size_t)used ? number[i] : '9';
    }
}

static void mutate_version_2(uint8_t *bytes, const struct image *image, uint64_t *random)
{
    char *json = (char *)bytes + LUKS2_BINARY;
    size_t length = strnlen(json, image->header_size - LUKS2_BINARY);
    size_t at = recorder_random(random, length);
    uint64_t kind = recorder_random(random, 8);
    if (kind == 0) {
        at = recorder_random(random, 512);
        bytes[at] = (uint8_t)recorder_random(random, 256);
    } else if (kind == 1) {
        json[at] = (char)recorder_random(random, 256);
    } else if (kind == 2) {
        json[at] = "{}[]\",:0-"[recorder_random(random, 9)];
    } else if (kind == 3) {
        size_t part = recorder_random(random, MIN(length - at, 40)) + 1;
        memmove(json + at, json + at + part, length - at - part + 1);
    } else {
        while (json[at] != '\0' && strchr("0123456789", json[at]) == NULL) {
            at++;
        }
        if (json[at] != '\0') {
            mutate_digits(json + at, random);
        }
    }
}

static void mutate(const struct image *image, uint8_t *bytes, uint64_t *random)
{
    unsigned count = 1 + (unsigned)recorder_random(random, 3);
    for (unsigned i = 0; i < count; i++) {
        if (image->version == 1) {
            mutate_version_1(bytes, random);
        } else {
            mutate_version_2(bytes, image, random);
        }
    }
    if (image->version == 1) {
        limit_rounds(bytes + LUKS1_DIGEST);
        for (unsigned i = 0; i < LUKS1_SLOTS; i++) {
            limit_rounds(bytes + LUKS1_SLOT + (size_t)i * SLOT_SIZE + 4);
        }
        memcpy(bytes, "LUKS\xba\xbe\0\1", 8);
    } else if (recorder_random(random, 8) != 0) {
        /* The second header would be taken in place of a damaged one. */
        memcpy(bytes + image->header_size + LUKS2_BINARY, bytes + LUKS2_BINARY,
               image->header_size - LUKS2_BINARY);
        put_sums(image, bytes);
    }
}

int main(int argc, char **argv)
{
    struct image image = {.version = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 1};
    uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    uint64_t count = argc > 3 ? strtoull(argv[3], NULL, 10) : 1000;
    struct event_loop *loop;
    if (event_loop_create(&loop, NULL) < 0) {
        return 1;
    }
    if (!make_image(&image, loop)) {
        event_loop_destroy(loop);
        return 77;
    }
    unsigned opened = exercise_image(image.bytes, image.size, "luks", loop, 1);
    if (opened != 3) {
        printf("the image as it is opens %u times\n", opened);
        return 1;
    }
    uint8_t *bytes = malloc(image.size);
    for (uint64_t seed = first; seed < first + count; seed++) {
        uint64_t random = seed * 0x9e3779b97f4a7c15u + 7;
        for (int i = 0; i < 5; i++) {
            (void)recorder_random(&random, 2);
        }
        memcpy(bytes, image.bytes, image.size);
        mutate(&image, bytes, &random);
        if (getenv("VERBOSE") != NULL) {
            printf("seed %llu\n", (unsigned long long)seed);
            fflush(stdout);
        }
        (void)alarm(60); /* a hang is a failure */
        opened += exercise_image(bytes, image.size, "luks", loop, seed) > 0;
    }
    struct rusage usage;
    (void)getrusage(RUSAGE_SELF, &usage);
    free(bytes);
    free(image.bytes);
    event_loop_destroy(loop);
    printf("%llu headers of version %u, %u of them open, at most %ld MiB of memory\n",
           (unsigned long long)count, image.version, opened - 3, usage.ru_maxrss >> 10);
#ifndef HULL_SANITIZED
    if (usage.ru_maxrss > 256l << 10) {
        printf("that is too much: up to 256 MiB are accepted\n");
        return 1;
    }
#endif
    return 0;
}
