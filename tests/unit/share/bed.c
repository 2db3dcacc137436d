#include "bed.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void start(struct bed *bed, bool is_readonly)
{
    int fd = open(bed->folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(share_init(&bed->share, fd, bed->folder, is_readonly, geteuid() == 0, NULL),
                     0);
}

void bed_create(struct bed *bed, bool is_readonly)
{
    (void)snprintf(bed->folder, sizeof(bed->folder), "/tmp/hull-test-share-XXXXXX");
    assert_non_null(mkdtemp(bed->folder));
    assert_int_equal(chdir("/proc/self/fd"), 0);
    start(bed, is_readonly);
}

void bed_restart(struct bed *bed)
{
    bool is_readonly = bed->share.is_readonly;
    share_fini(&bed->share);
    start(bed, is_readonly);
}

static int remove_one(const char *path, const struct stat *status, int flag, struct FTW *ftw)
{
    return remove(path);
}

void bed_destroy(struct bed *bed)
{
    share_fini(&bed->share);
    assert_int_equal(nftw(bed->folder, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

int bed_call(struct bed *bed, uint32_t opcode, uint64_t nodeid, ...)
{
    struct fuse_in_header head = {
        .opcode = opcode, .unique = 7, .nodeid = nodeid, .uid = geteuid(), .gid = getegid()};
    va_list parts;
    size_t size = sizeof(head);
    va_start(parts, nodeid);
    for (const void *data; (data = va_arg(parts, const void *)) != NULL;) {
        size_t part = va_arg(parts, size_t);
        memcpy(bed->request + size, data, part);
        size += part;
    }
    va_end(parts);
    head.len = (uint32_t)size;
    memcpy(bed->request, &head, sizeof(head));
    bed->request_size = size;
    struct fuse_out_header out;
    size_t got = share_serve(&bed->share, bed->request, size, bed->reply, sizeof(bed->reply));
    assert_true(got >= sizeof(out));
    memcpy(&out, bed->reply, sizeof(out));
    assert_int_equal(out.len, got);
    assert_int_equal(out.unique, 7);
    assert_true(out.error <= 0 && (out.error == 0 || got == sizeof(out)));
    bed->reply_size = got - sizeof(out);
    return out.error;
}

const void *bed_reply(const struct bed *bed)
{
    return bed->reply + sizeof(struct fuse_out_header);
}

uint64_t bed_look_up(struct bed *bed, uint64_t folder, const char *name)
{
    struct fuse_entry_out entry;
    if (bed_call(bed, FUSE_LOOKUP, folder, name, strlen(name) + 1, NULL) < 0) {
        return 0;
    }
    assert_int_equal(bed->reply_size, sizeof(entry));
    memcpy(&entry, bed_reply(bed), sizeof(entry));
    assert_int_not_equal(entry.nodeid, 0);
    return entry.nodeid;
}

void bed_forget(struct bed *bed, uint64_t node, uint64_t count)
{
    const struct fuse_in_header head = {
        .len = sizeof(head) + sizeof(struct fuse_forget_in), .opcode = FUSE_FORGET, .nodeid = node};
    const struct fuse_forget_in forget = {.nlookup = count};
    memcpy(bed->request, &head, sizeof(head));
    memcpy(bed->request + sizeof(head), &forget, sizeof(forget));
    assert_int_equal(share_serve(&bed->share, bed->request, head.len, bed->reply, 0), 0);
}

int64_t bed_open(struct bed *bed, uint64_t node, uint32_t flags)
{
    const struct fuse_open_in in = {.flags = flags};
    struct fuse_open_out out;
    int rc = bed_call(bed, FUSE_OPEN, node, &in, sizeof(in), NULL);
    if (rc < 0) {
        return rc;
    }
    memcpy(&out, bed_reply(bed), sizeof(out));
    return (int64_t)out.fh;
}

int bed_read(struct bed *bed, uint64_t node, int64_t fh, char *out_text)
{
    const struct fuse_read_in in = {.fh = (uint64_t)fh, .size = 64};
    int rc = bed_call(bed, FUSE_READ, node, &in, sizeof(in), NULL);
    if (rc < 0) {
        return rc;
    }
    memcpy(out_text, bed_reply(bed), bed->reply_size);
    out_text[bed->reply_size] = '\0';
    return (int)bed->reply_size;
}

void bed_host_file(struct bed *bed, const char *name, const char *text)
{
    char path[160];
    (void)snprintf(path, sizeof(path), "%s/%s", bed->folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}
