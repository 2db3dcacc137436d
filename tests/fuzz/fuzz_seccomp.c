/* Rubbish as the seccomp section of a document, compiled into a filter; and as an entry of the cache, which must not be believed. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/core/invariant.h"
#include "container/seccomp/program.h"

#define MAX_TEXT   4096u /* compiling takes long enough */
#define ENTRY_SIZE 1024u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct spec *profile(const uint8_t *data, size_t size)
{
    static const char begin[] = "{\"ociVersion\":\"1.3.0\",\"root\":{\"path\":\"r\"},\"linux\":{"
                                "\"seccomp\":";
    char text[MAX_TEXT + sizeof(begin) + 2];
    memcpy(text, begin, sizeof(begin) - 1);
    memcpy(text + sizeof(begin) - 1, data, size);
    memcpy(text + sizeof(begin) - 1 + size, "}}", 2);
    struct spec *spec = NULL;
    return spec_parse(text, sizeof(begin) + 1 + size, &spec, NULL) == 0 ? spec : NULL;
}

static void try_profile(const uint8_t *data, size_t size)
{
    struct spec *spec = profile(data, size);
    if (spec == NULL || !spec->linux_.seccomp.is_set) {
        spec_destroy(spec);
        return;
    }
    struct seccomp_program *program = NULL;
    struct degrade degrade = {0};
    if (seccomp_program_create(&spec->linux_.seccomp, NULL, &program, &degrade, NULL) == 0) {
        invariant(program->count > 0 && program->count <= SECCOMP_MAX_INSTRUCTIONS);
        (void)seccomp_program_notifies(program);
    }
    seccomp_program_free(program);
    spec_destroy(spec);
}

/* The bytes change an entry that is right, from the place on that the first two say. */
static void try_entry(const uint8_t *data, size_t size)
{
    static const char source[] = "{\"defaultAction\":\"SCMP_ACT_ALLOW\"}";
    static uint8_t right[ENTRY_SIZE];
    static size_t right_size;
    int fd = memfd_create("entry", MFD_CLOEXEC);
    invariant(fd >= 0);
    if (right_size == 0) {
        struct seccomp_program *program = seccomp_program_alloc(2);
        invariant(program != NULL);
        memset(program->filter, 7, 2 * sizeof(program->filter[0]));
        invariant(seccomp_cache_write(fd, source, program));
        seccomp_program_free(program);
        ssize_t length = pread(fd, right, sizeof(right), 0);
        invariant(length > 0 && (size_t)length < sizeof(right) && ftruncate(fd, 0) == 0);
        right_size = (size_t)length;
    }
    uint8_t changed[ENTRY_SIZE];
    memcpy(changed, right, sizeof(changed));
    for (size_t i = 2; i < size; i++) {
        changed[((size_t)data[0] << 8 | data[1]) + i < right_size
                    ? ((size_t)data[0] << 8 | data[1]) + i
                    : i % right_size] ^= data[i];
    }
    invariant(pwrite(fd, changed, right_size, 0) == (ssize_t)right_size);
    struct seccomp_program *found = seccomp_cache_read(fd, source);
    invariant((found != NULL) == (memcmp(changed, right, right_size) == 0));
    seccomp_program_free(found);
    (void)close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0 && size <= MAX_TEXT) {
        data[0] == 'c' && size > 2 ? try_entry(data + 1, size - 1) : try_profile(data, size);
    }
    return 0;
}
