/* Feeds share/ with what a guest might send: a run of requests to one session, then its state to another one. The folder lies in memory where there is
 * /dev/shm; it has a few files and a link that leads out, behind which nothing may change. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/bits.h"
#include "base/host/log.h"
#include "share/server.h"

#define MAX_REQUESTS 64

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int home_fd; /* where the fuzzer finds its corpus */
static char base[64], folder[80], secret[80];

static void put(const char *in, const char *name, const char *text)
{
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/%s", in, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) {
        abort();
    }
    close(fd);
}

static int remove_one(const char *path, const struct stat *status, int flag, struct FTW *ftw)
{
    if (!S_ISLNK(status->st_mode)) {
        (void)chmod(path, 0700);
    }
    (void)remove(path); /* what is left shows when the folder is made */
    return 0;
}

static void remove_base(void)
{
    (void)nftw(base, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    log_init(STDERR_FILENO, LOG_LEVEL_ERROR, "fuzz");
    (void)snprintf(base, sizeof(base), "%s/hull-fuzz-share-XXXXXX",
                   access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    home_fd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (home_fd < 0 || mkdtemp(base) == NULL) {
        abort();
    }
    (void)snprintf(folder, sizeof(folder), "%s/folder", base);
    (void)snprintf(secret, sizeof(secret), "%s/secret", base);
    put(base, "secret", "secret");
    (void)atexit(remove_base);
    return 0;
}

static void make_folder(void)
{
    char path[256];
    if (mkdir(folder, 0755) < 0) {
        abort();
    }
    put(folder, "a", "content");
    (void)snprintf(path, sizeof(path), "%s/d", folder);
    (void)!mkdir(path, 0755);
    put(folder, "d/b", "b");
    (void)snprintf(path, sizeof(path), "%s/l", folder);
    (void)!symlink("../secret", path);
}

static void check_outside(void)
{
    char text[16] = "";
    struct stat status;
    int fd = open(secret, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, text, sizeof(text)) != 6 || memcmp(text, "secret", 6) != 0 ||
        fstat(fd, &status) < 0 || status.st_nlink != 1 || (status.st_mode & 07777) != 0644) {
        abort();
    }
    close(fd);
}

static void start(struct share *share)
{
    int fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || chdir("/proc/self/fd") < 0 ||
        share_init(share, fd, folder, false, geteuid() == 0, NULL) < 0) {
        abort();
    }
    share->nodes.open_max = 6;
    share->handle_max = 32;
}

/* Opcode, node, room and size of what follows, each a byte or two; then the rest of the request. */
static size_t serve_one(struct share *share, const uint8_t *data, size_t size)
{
    static uint8_t reply[8192];
    if (size < 5) {
        return size;
    }
    size_t part = MIN((size_t)data[3] | (size_t)(data[4] & 3) << 8, size - 5);
    size_t total = sizeof(struct fuse_in_header) + part;
    const struct fuse_in_header head = {.len = (uint32_t)total,
                                        .opcode = data[0] % 56,
                                        .nodeid = data[1],
                                        .uid = geteuid(),
                                        .gid = getegid()};
    uint8_t *request = malloc(total);
    if (request == NULL) {
        abort();
    }
    memcpy(request, &head, sizeof(head));
    memcpy(request + sizeof(head), data + 5, part);
    size_t room = (size_t)data[2] * 32;
    size_t got = share_serve(share, request, total, reply, room);
    if (got > room) {
        abort();
    }
    free(request);
    return 5 + part;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct share share;
    if (size > 16384) {
        return 0;
    }
    make_folder();
    start(&share);
    if (size > 0 && data[0] == 0xff) {
        (void)!share_restore(&share, data + 1, size - 1); /* most cannot be */
        data += size;
        size = 0;
    }
    for (unsigned i = 0; i < MAX_REQUESTS && size > 0; i++) {
        size_t used = serve_one(&share, data, size);
        data += used;
        size -= used;
    }
    size_t state_size = 0;
    uint8_t *state = share_save(&share, &state_size);
    share_fini(&share);
    start(&share);
    if (state == NULL || share_restore(&share, state, state_size) < 0) {
        abort();
    }
    free(state);
    share_fini(&share);
    check_outside();
    if (fchdir(home_fd) < 0) {
        abort();
    }
    (void)nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return 0;
}
