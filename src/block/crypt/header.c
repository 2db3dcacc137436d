/* LUKS headers by libcryptsetup, which works on a copy in memory: the image itself is only touched by blocks. */
#include <fcntl.h>
#include <libcryptsetup.h>
#include <nettle/pbkdf2.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/core/bits.h"
#include "base/core/endian.h"
#include "base/host/file.h"
#include "base/host/library.h"
#include "block/copy.h"
#include "block/crypt/cipher.h"
#include "block/provider.h"

#define MAX_HEADER          (64u << 20) /* what of a file may be header and key slots */
#define MAX_KDF_KIB         (1u << 20) /* memory that a header may make us take to try a passphrase */
#define MAX_KDF_ROUNDS      (1u << 28)  /* of PBKDF2, for all key slots: a minute or two */
#define MAX_KDF_WORK_KIB    (64u << 20) /* memory times passes of Argon2: the same */
#define LUKS1_DIGEST_ROUNDS 164         /* where the header has them */
#define NEW_KDF_KIB         (256u << 10)
#define NEW_KDF_MS          1000u
#define MEASURED_KDF_MS     500u /* from here on libcryptsetup measures */
#define TRIAL_ROUNDS        4096u
#define MIN_ROUNDS          1000u /* of PBKDF2: what the LUKS specification asks for at least */
#define ARGON2_PASSES       4u
#define ARGON2_KIB_PER_MS   256u /* with that many passes, on a CPU of today */
#define COPY_SIZE           (1u << 20)
#define FILE_SLACK_SIZE     (16u << 20) /* a file is to be longer than its header */

#define CALLS(X)                                                                                   \
    X(crypt_init)                                                                                  \
    X(crypt_free)                                                                                  \
    X(crypt_load)                                                                                  \
    X(crypt_format)                                                                                \
    X(crypt_metadata_locking)                                                                      \
    X(crypt_set_log_callback)                                                                      \
    X(crypt_set_pbkdf_type)                                                                        \
    X(crypt_keyslot_max)                                                                           \
    X(crypt_keyslot_get_pbkdf)                                                                     \
    X(crypt_keyslot_status)                                                                        \
    X(crypt_keyslot_add_by_volume_key)                                                             \
    X(crypt_volume_key_get)                                                                        \
    X(crypt_dump_json)                                                                             \
    X(crypt_get_type)                                                                              \
    X(crypt_get_cipher)                                                                            \
    X(crypt_get_cipher_mode)                                                                       \
    X(crypt_get_volume_key_size)                                                                   \
    X(crypt_get_data_offset)                                                                       \
    X(crypt_get_iv_offset)                                                                         \
    X(crypt_get_sector_size)

static struct {
#define DECLARE(name) __typeof__(name) *name;
    CALLS(DECLARE)
} lib;

static const struct library_symbol symbols[] = {
#define ROW(name) {#name, &lib.name},
    CALLS(ROW)};

static const struct library library = {"libcryptsetup.so.12", "libcryptsetup12", symbols,
                                       ARRAY_COUNT(symbols)};

static void ignore_log(int level, const char *message, void *ctx)
{
}

/* A device of libcryptsetup on a file in memory. */
struct device {
    int fd;
    struct crypt_device *crypt;
};

static int device_open(struct device *device, uint64_t size, const char *name, struct error *err)
{
    int rc = library_load(&library, "LUKS", err);
    if (rc < 0) {
        return rc;
    }
    device->fd = memfd_create("luks", MFD_CLOEXEC);
    if (device->fd < 0 || ftruncate(device->fd, (off_t)size) < 0) {
        return error_set_errno(err, errno, "disk %s: a place for its LUKS header", name);
    }
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", device->fd);
    lib.crypt_set_log_callback(NULL, ignore_log, NULL);
    (void)lib.crypt_metadata_locking(NULL, 0); /* nobody else has it */
    rc = lib.crypt_init(&device->crypt, path);
    return rc < 0 ? error_set_errno(err, -rc, "disk %s: libcryptsetup", name) : 0;
}

static void device_close(struct device *device)
{
    if (device->crypt != NULL) {
        lib.crypt_free(device->crypt);
    }
    if (device->fd >= 0) {
        close(device->fd);
    }
}

/* From the block to the file, or back. */
static int copy(struct block *block, uint64_t offset, int fd, uint64_t size, bool is_to_block,
                struct error *err)
{
    AUTO_FREE uint8_t *data = malloc(COPY_SIZE);
    int rc = data != NULL ? 0 : -ENOMEM;
    for (uint64_t done = 0; done < size && rc == 0; done += COPY_SIZE) {
        size_t part = (size_t)MIN(size - done, COPY_SIZE);
        if (is_to_block) {
            rc = pread(fd, data, part, (off_t)done) == (ssize_t)part
                     ? block_write(block, offset + done, data, part)
                     : -EIO;
        } else {
            rc = block_read(block, offset + done, data, part);
            if (rc == 0 && !block_is_zero(data, part) &&
                pwrite(fd, data, part, (off_t)done) != (ssize_t)part) {
                rc = -errno;
            }
        }
    }
    return rc < 0 ? error_set_errno(err, -rc, "disk %s: its LUKS header", block_name(block)) : 0;
}

/* Rounds of PBKDF2 that finding out takes whether what a key slot gave is the key. */
static uint64_t count_digest_rounds(const struct device *device, uint64_t slot_rounds)
{
    uint8_t count[4];
    if (strcmp(lib.crypt_get_type(device->crypt), CRYPT_LUKS1) == 0) {
        return pread(device->fd, count, sizeof(count), LUKS1_DIGEST_ROUNDS) == sizeof(count)
                   ? be32_get(count)
                   : UINT64_MAX;
    }
    static const char key[] = "\"iterations\":";
    const char *json = NULL;
    uint64_t rounds = 0;
    if (lib.crypt_dump_json(device->crypt, &json, 0) < 0) {
        return UINT64_MAX;
    }
    for (const char *at = json; (at = strstr(at, key)) != NULL;) {
        at += sizeof(key) - 1;
        rounds += MIN(strtoull(at, NULL, 10), UINT32_MAX);
    }
    return rounds - MIN(rounds, slot_rounds); /* those of the slots are there too */
}

/* What trying a passphrase costs is written in the header, which is not to be trusted. */
static int check_cost(const struct device *device, const char *name, struct error *err)
{
    struct crypt_device *crypt = device->crypt;
    int count = lib.crypt_keyslot_max(lib.crypt_get_type(crypt));
    uint64_t rounds = 0, work_kib = 0, slots = 0;
    for (int i = 0; i < count; i++) {
        struct crypt_pbkdf_type pbkdf = {0};
        if (lib.crypt_keyslot_status(crypt, i) < CRYPT_SLOT_ACTIVE ||
            lib.crypt_keyslot_get_pbkdf(crypt, i, &pbkdf) != 0) {
            continue;
        }
        if (pbkdf.max_memory_kb > MAX_KDF_KIB) {
            return error_set(err, EFBIG,
                             "disk %s: LUKS key slot %d wants %u MiB of memory: %u are accepted",
                             name, i, pbkdf.max_memory_kb >> 10, MAX_KDF_KIB >> 10);
        }
        slots++;
        if (pbkdf.max_memory_kb == 0) {
            rounds += pbkdf.iterations;
        } else {
            work_kib += (uint64_t)pbkdf.iterations * pbkdf.max_memory_kb;
        }
    }
    uint64_t digest_rounds = MIN(count_digest_rounds(device, rounds), UINT32_MAX);
    uint64_t total = rounds + slots * digest_rounds;
    if (total > MAX_KDF_ROUNDS || work_kib > MAX_KDF_WORK_KIB) {
        return error_set(err, EFBIG,
                         "disk %s: its LUKS header wants %llu rounds of PBKDF2 and %llu MiB of "
                         "Argon2: %u and %u are accepted",
                         name, (unsigned long long)total, (unsigned long long)(work_kib >> 10),
                         MAX_KDF_ROUNDS, MAX_KDF_WORK_KIB >> 10);
    }
    return 0;
}

/* The cipher that a header names. False: it is none that is known here. */
static bool parse_cipher(const char *cipher, const char *mode, struct block_crypt *out_crypt)
{
    static const struct {
        const char *name;
        enum block_crypt_mode mode;
        enum block_crypt_iv iv;
    } modes[] = {
        {"xts-plain64", BLOCK_CRYPT_XTS, BLOCK_CRYPT_PLAIN64},
        {"xts-plain", BLOCK_CRYPT_XTS, BLOCK_CRYPT_PLAIN},
        {"cbc-essiv:sha256", BLOCK_CRYPT_CBC, BLOCK_CRYPT_ESSIV},
        {"cbc-plain64", BLOCK_CRYPT_CBC, BLOCK_CRYPT_PLAIN64},
        {"cbc-plain", BLOCK_CRYPT_CBC, BLOCK_CRYPT_PLAIN},
    };
    for (size_t i = 0; i < ARRAY_COUNT(modes); i++) {
        if (strcmp(cipher, "aes") == 0 && strcmp(mode, modes[i].name) == 0) {
            out_crypt->mode = modes[i].mode;
            out_crypt->iv = modes[i].iv;
            return sector_keys_fit(out_crypt);
        }
    }
    return false;
}

/* What is encrypted, and how. */
static int read_layout(struct crypt_device *crypt, const char *name, struct block_crypt *out_crypt,
                       struct error *err)
{
    const char *cipher = lib.crypt_get_cipher(crypt), *mode = lib.crypt_get_cipher_mode(crypt);
    int key_size = lib.crypt_get_volume_key_size(crypt);
    cipher = cipher != NULL ? cipher : "?";
    mode = mode != NULL ? mode : "?";
    out_crypt->key_size = key_size > 0 ? (uint32_t)key_size : 0;
    if (!parse_cipher(cipher, mode, out_crypt) || lib.crypt_get_iv_offset(crypt) != 0) {
        char cipher_text[21], mode_text[21];
        return error_set(
            err, EOPNOTSUPP,
            "disk %s: is encrypted by %s-%s, %d bits: aes-xts-plain64, aes-cbc-essiv:sha256 "
            "and aes-cbc-plain64 of 128 or 256 bits are accepted",
            name, block_printable(cipher, cipher_text, sizeof(cipher_text)),
            block_printable(mode, mode_text, sizeof(mode_text)), key_size * 8);
    }
    int sector_size = lib.crypt_get_sector_size(crypt);
    out_crypt->payload_offset = lib.crypt_get_data_offset(crypt) * 512;
    out_crypt->sector_size = sector_size > 0 ? (uint32_t)sector_size : 512;
    return 0;
}

static int unlock(const struct device *device, const void *passphrase, size_t passphrase_size,
                  const char *name, struct block_crypt *out_crypt, struct error *err)
{
    int rc = read_layout(device->crypt, name, out_crypt, err);
    if (rc == 0) {
        rc = check_cost(device, name, err);
    }
    if (rc < 0) {
        return rc;
    }
    size_t size = sizeof(out_crypt->key);
    rc = lib.crypt_volume_key_get(device->crypt, CRYPT_ANY_SLOT, (char *)out_crypt->key, &size,
                                  passphrase, passphrase_size);
    if (rc < 0) {
        return rc == -EPERM || rc == -ENOENT
                   ? error_set(err, EKEYREJECTED, "disk %s: the key does not fit", name)
                   : error_set_errno(err, -rc, "disk %s: unlocking", name);
    }
    return 0;
}

/* Rounds of PBKDF2 in so much time, seen from a short run of it. */
static uint32_t count_rounds(uint32_t time_ms)
{
    uint8_t key[BLOCK_CRYPT_MAX_KEY], salt[32] = {0};
    uint64_t start_ns = clock_monotonic_ns();
    pbkdf2_hmac_sha256(sizeof(salt), salt, TRIAL_ROUNDS, sizeof(salt), salt, sizeof(key), key);
    uint64_t trial_ns = MAX(clock_monotonic_ns() - start_ns, 1);
    uint64_t rounds = time_ms * UINT64_C(1000000) * TRIAL_ROUNDS / trial_ns;
    return (uint32_t)MIN(MAX(rounds, MIN_ROUNDS), UINT32_MAX);
}

/* libcryptsetup measures for a second or two what a passphrase costs. For short times an estimate has to do. */
static void plan_cost(unsigned version, uint32_t iter_ms, struct crypt_pbkdf_type *out_pbkdf)
{
    bool is_estimate = iter_ms != 0 && iter_ms < MEASURED_KDF_MS;
    *out_pbkdf = (struct crypt_pbkdf_type){
        .type = version == 1 ? CRYPT_KDF_PBKDF2 : CRYPT_KDF_ARGON2ID,
        .hash = "sha256",
        /* Of an estimate it only says how many rounds the key's digest of version 1 gets. */
        .time_ms = iter_ms != 0 && !is_estimate ? iter_ms : NEW_KDF_MS,
        .max_memory_kb = version == 1 ? 0 : NEW_KDF_KIB,
        .parallel_threads = version == 1 ? 0 : 1,
        .flags = is_estimate ? CRYPT_PBKDF_NO_BENCHMARK : 0,
    };
    if (is_estimate && version == 1) {
        out_pbkdf->iterations = count_rounds(iter_ms);
    } else if (is_estimate) {
        out_pbkdf->iterations = ARGON2_PASSES;
        out_pbkdf->max_memory_kb = MIN(iter_ms * ARGON2_KIB_PER_MS, NEW_KDF_KIB);
    }
}

static int format(struct crypt_device *crypt, const struct block_crypt_creation *creation,
                  const void *passphrase, size_t passphrase_size, struct block_crypt *out_crypt)
{
    struct crypt_pbkdf_type pbkdf;
    plan_cost(creation->version, creation->iter_ms, &pbkdf);
    struct crypt_params_luks1 luks1 = {.hash = "sha256"};
    struct crypt_params_luks2 luks2 = {
        .pbkdf = &pbkdf, .sector_size = creation->sector_size != 0 ? creation->sector_size : 512};
    char *key = (char *)out_crypt->key;
    /* A key of our own making: otherwise it would have to be unlocked to know it. */
    if (getrandom(key, BLOCK_CRYPT_MAX_KEY, 0) != BLOCK_CRYPT_MAX_KEY) {
        return -EIO;
    }
    int rc = lib.crypt_set_pbkdf_type(crypt, &pbkdf);
    if (rc == 0) {
        rc = lib.crypt_format(crypt, creation->version == 1 ? CRYPT_LUKS1 : CRYPT_LUKS2, "aes",
                              "xts-plain64", NULL, key, BLOCK_CRYPT_MAX_KEY,
                              creation->version == 1 ? (void *)&luks1 : (void *)&luks2);
    }
    if (rc == 0) {
        rc = lib.crypt_keyslot_add_by_volume_key(crypt, CRYPT_ANY_SLOT, key, BLOCK_CRYPT_MAX_KEY,
                                                 passphrase, passphrase_size);
    }
    return rc < 0 ? rc : 0;
}

/* libcryptsetup wants more stack than a coroutine has. */
struct errand {
    const struct device *device;
    const struct block_crypt_creation *creation; /* of a header to be made; NULL: none */
    const void *passphrase;
    size_t passphrase_size;
    const char *name;
    struct block_crypt *out_crypt;
    struct error *err;
    int rc;
};

static void *run_errand(void *ctx)
{
    struct errand *errand = ctx;
    int rc;
    if (errand->creation != NULL) {
        rc = format(errand->device->crypt, errand->creation, errand->passphrase,
                    errand->passphrase_size, errand->out_crypt);
        rc = rc < 0
                 ? error_set_errno(errand->err, -rc, "disk %s: making a LUKS header", errand->name)
                 : read_layout(errand->device->crypt, errand->name, errand->out_crypt, errand->err);
    } else if (lib.crypt_load(errand->device->crypt, CRYPT_LUKS, NULL) < 0) {
        rc = error_set(errand->err, EINVAL, "disk %s: has no LUKS header that can be read",
                       errand->name);
    } else {
        rc = unlock(errand->device, errand->passphrase, errand->passphrase_size, errand->name,
                    errand->out_crypt, errand->err);
    }
    errand->rc = rc;
    return NULL;
}

static int send_errand(struct errand *errand)
{
    pthread_t thread;
    int code = pthread_create(&thread, NULL, run_errand, errand);
    if (code != 0) {
        return error_set_errno(errand->err, code, "disk %s: unlocking", errand->name);
    }
    pthread_join(thread, NULL);
    return errand->rc;
}

int block_crypt_unlock(const struct block_crypt_header *header, const void *passphrase,
                       size_t passphrase_size, struct block_crypt *out_crypt, struct error *err)
{
    struct device device = {.fd = -1};
    const char *name = block_name(header->file);
    uint64_t end = header->file->info.size_bytes;
    if (header->offset > end ||
        (header->size_bytes != 0 && header->size_bytes > end - header->offset)) {
        return error_set(err, EINVAL, "disk %s: its LUKS header is not in the file", name);
    }
    uint64_t size = header->size_bytes != 0 ? header->size_bytes : end - header->offset;
    uint64_t part = align_down(MIN(size, MAX_HEADER), header->file->info.logical_block_size);
    int rc = device_open(&device, size + FILE_SLACK_SIZE, name, err);
    if (rc == 0) {
        rc = copy(header->file, header->offset, device.fd, part, false, err);
    }
    if (rc == 0) {
        rc = send_errand(
            &(struct errand){&device, NULL, passphrase, passphrase_size, name, out_crypt, err});
    }
    device_close(&device);
    return rc;
}

int block_crypt_format(struct block *file, const struct block_crypt_creation *creation,
                       const void *passphrase, size_t passphrase_size,
                       struct block_crypt *out_crypt, struct error *err)
{
    struct device device = {.fd = -1};
    const char *name = block_name(file);
    int rc = device_open(&device, 2ull * FILE_SLACK_SIZE, name, err);
    if (rc == 0) {
        rc = send_errand(
            &(struct errand){&device, creation, passphrase, passphrase_size, name, out_crypt, err});
    }
    if (rc == 0) {
        rc = copy(file, 0, device.fd, out_crypt->payload_offset, true, err);
    }
    device_close(&device);
    return rc;
}
