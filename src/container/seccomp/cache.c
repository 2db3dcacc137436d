/* Compiled filters in files, named by a hash of their text and beside the text itself.
 *
 * A file holds: header, filter, text. It counts only if all of it is as it should be: owner, mode, sizes, what it was made by, checksum,
 * text. Folder and files must be the caller's own, so that nobody else decides what a container may call. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "container/seccomp/program.h"

#define CACHE_MAGIC  UINT64_C(0x3150434c4c554802) /* with the layout's version in the lowest byte */
#define MAX_SOURCE   (1u << 20)                   /* larger ones are not worth the disk */
#define MAX_ENTRIES  64
#define NAME_SIZE    32
#define MAKER_SIZE   96
#define OTHERS_WRITE 022

struct cache_header {
    uint64_t magic, checksum; /* the latter of the filter */
    uint32_t source_size, instruction_count;
    char maker[MAKER_SIZE]; /* library and kernel: both decide what comes out */
};

/* FNV-1a, by words of eight bytes. */
static uint64_t hash(const void *data, size_t size)
{
    const char *bytes = data;
    uint64_t value = UINT64_C(0xcbf29ce484222325) ^ size;
    while (size > 0) {
        uint64_t word = 0;
        size_t taken = MIN(size, sizeof(word));
        memcpy(&word, bytes, taken);
        value = (value ^ word) * UINT64_C(0x100000001b3);
        value ^= value >> 32;
        bytes += taken;
        size -= taken;
    }
    return value;
}

static void fill_maker(char *maker)
{
    struct utsname system;
    const struct scmp_version *library = seccomp_version();
    if (uname(&system) < 0) {
        system.release[0] = '\0';
    }
    memset(maker, 0, MAKER_SIZE);
    (void)snprintf(maker, MAKER_SIZE, "libseccomp %u.%u.%u, kernel %s", library->major,
                   library->minor, library->micro, system.release);
}

static bool is_own(int fd, mode_t kind, struct stat *out_status)
{
    return fstat(fd, out_status) == 0 && (out_status->st_mode & S_IFMT) == kind &&
           out_status->st_uid == geteuid() && (out_status->st_mode & OTHERS_WRITE) == 0;
}

static int open_folder(const char *folder)
{
    struct stat status;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && !is_own(fd, S_IFDIR, &status)) {
        (void)close(fd); /* nothing was written */
        fd = -1;
    }
    return fd;
}

static void name_of(const char *source, size_t size, char *name)
{
    (void)snprintf(name, NAME_SIZE, "%016llx", (unsigned long long)hash(source, size));
}

static bool is_header_right(const struct cache_header *header, size_t source_size, off_t file_size)
{
    char maker[MAKER_SIZE];
    fill_maker(maker);
    size_t count = header->instruction_count;
    return header->magic == CACHE_MAGIC && header->source_size == source_size && count > 0 &&
           count <= SECCOMP_MAX_INSTRUCTIONS &&
           file_size ==
               (off_t)(sizeof(*header) + count * sizeof(struct sock_filter) + source_size) &&
           memcmp(header->maker, maker, MAKER_SIZE) == 0;
}

struct seccomp_program *seccomp_cache_read(int fd, const char *source)
{
    struct cache_header header;
    struct stat status;
    size_t source_size = strlen(source);
    if (fstat(fd, &status) < 0 || file_read_at(fd, &header, sizeof(header), 0, "", NULL) < 0 ||
        !is_header_right(&header, source_size, status.st_size)) {
        return NULL;
    }
    struct seccomp_program *program = seccomp_program_alloc(header.instruction_count);
    AUTO_FREE char *text = malloc(source_size);
    size_t filter_size = header.instruction_count * sizeof(struct sock_filter);
    struct iovec parts[] = {
        {.iov_base = program != NULL ? program->filter : NULL, .iov_len = filter_size},
        {.iov_base = text, .iov_len = source_size},
    };
    bool is_right = program != NULL && text != NULL &&
                    preadv(fd, parts, ARRAY_COUNT(parts), sizeof(header)) ==
                        (ssize_t)(filter_size + source_size) &&
                    memcmp(text, source, source_size) == 0 &&
                    hash(program->filter, filter_size) == header.checksum;
    if (!is_right) {
        seccomp_program_free(program);
        return NULL;
    }
    return program;
}

struct seccomp_program *seccomp_cache_find(const char *folder, const char *source)
{
    size_t size = strlen(source);
    char name[NAME_SIZE];
    AUTO_CLOSE int folder_fd = open_folder(folder);
    if (folder_fd < 0 || size > MAX_SOURCE) {
        return NULL;
    }
    name_of(source, size, name);
    struct stat status;
    AUTO_CLOSE int fd = openat(folder_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    return fd >= 0 && is_own(fd, S_IFREG, &status) ? seccomp_cache_read(fd, source) : NULL;
}

/* Full: all go, rather than a book of who was used when. */
static void make_room(int folder_fd)
{
    int copy = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = copy < 0 ? NULL : fdopendir(copy);
    if (entries == NULL) {
        if (copy >= 0) {
            (void)close(copy); /* nothing was written */
        }
        return;
    }
    unsigned count = 0;
    while (readdir(entries) != NULL) {
        count++;
    }
    rewinddir(entries);
    for (struct dirent *entry = readdir(entries); count >= MAX_ENTRIES && entry != NULL;
         entry = readdir(entries)) {
        if (entry->d_name[0] != '.') {
            (void)unlinkat(folder_fd, entry->d_name, 0); /* another one may have been faster */
        }
    }
    (void)closedir(entries);
}

bool seccomp_cache_write(int fd, const char *source, const struct seccomp_program *program)
{
    size_t source_size = strlen(source);
    size_t filter_size = program->count * sizeof(program->filter[0]);
    struct cache_header header = {.magic = CACHE_MAGIC,
                                  .checksum = hash(program->filter, filter_size),
                                  .source_size = (uint32_t)source_size,
                                  .instruction_count = program->count};
    fill_maker(header.maker);
    return file_write_all(fd, &header, sizeof(header), "", NULL) == 0 &&
           file_write_all(fd, program->filter, filter_size, "", NULL) == 0 &&
           file_write_all(fd, source, source_size, "", NULL) == 0;
}

/* A new file that takes the place of an old one at once: readers see one or the other. */
void seccomp_cache_keep(const char *folder, const char *source,
                        const struct seccomp_program *program)
{
    size_t size = strlen(source);
    char name[NAME_SIZE], draft[NAME_SIZE];
    (void)mkdir(folder, 0700); /* it is there, or there is no cache */
    AUTO_CLOSE int folder_fd = open_folder(folder);
    if (folder_fd < 0 || size > MAX_SOURCE) {
        return;
    }
    make_room(folder_fd);
    name_of(source, size, name);
    (void)snprintf(draft, sizeof(draft), "new-%d", (int)getpid());
    (void)unlinkat(folder_fd, draft, 0); /* of a process of that number that was killed */
    AUTO_CLOSE int fd = openat(folder_fd, draft, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        return;
    }
    if (!seccomp_cache_write(fd, source, program) ||
        renameat(folder_fd, draft, folder_fd, name) < 0) {
        (void)unlinkat(folder_fd, draft, 0); /* it is of no use to anybody */
    }
}
