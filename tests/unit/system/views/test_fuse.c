/* Covers src/system/views/fuse.c with requests as the kernel makes them, and others. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "system/views/fuse.h"
#include "system/views/views.h"

static struct fuse_server server;
static struct fuse_reply reply;
static unsigned rendered;          /* how often */
static size_t rendered_size = 100; /* of each text */

static void render(void *ctx, unsigned file, pid_t reader, struct text *text)
{
    char block[1000];
    memset(block, 'a' + (int)(rendered++ % 26), sizeof(block));
    for (size_t size = rendered_size; size > 0; size -= MIN(size, sizeof(block))) {
        text_append(text, block, MIN(size, sizeof(block)));
    }
}

static int setup(void **state)
{
    rendered = 0;
    rendered_size = 100;
    fuse_server_init(&server, render, NULL, 1795317280);
    return 0;
}

static int teardown(void **state)
{
    fuse_server_fini(&server);
    return 0;
}

/* In memory of just that size. Returns the error. */
static int ask(uint32_t opcode, uint64_t node, const void *in, size_t size)
{
    struct fuse_in_header header = {
        .len = (uint32_t)(sizeof(header) + size),
        .opcode = opcode,
        .unique = 77,
        .nodeid = node,
    };
    char *request = malloc(sizeof(header) + size);
    assert_non_null(request);
    memcpy(request, &header, sizeof(header));
    if (size > 0) {
        memcpy(request + sizeof(header), in, size);
    }
    fuse_server_answer(&server, request, sizeof(header) + size, &reply);
    free(request);
    if (!reply.is_none) {
        assert_int_equal(reply.header.unique, 77);
        assert_true(reply.header.len >= sizeof(reply.header));
        assert_true(reply.header.error == 0 || reply.header.len == sizeof(reply.header));
    }
    return reply.header.error;
}

static uint64_t lookup(uint64_t folder, const char *name)
{
    return ask(FUSE_LOOKUP, folder, name, strlen(name) + 1) < 0 ? 0 : reply.body.entry.nodeid;
}

static uint64_t open_node(uint64_t node)
{
    struct fuse_open_in in = {.flags = O_RDONLY | O_LARGEFILE};
    assert_int_equal(ask(FUSE_OPEN, node, &in, sizeof(in)), 0);
    assert_int_equal(reply.body.open.open_flags, FOPEN_DIRECT_IO | FOPEN_NOFLUSH);
    return reply.body.open.fh;
}

/* The size that came. */
static size_t read_node(uint64_t node, uint64_t handle, uint64_t offset, uint32_t size)
{
    struct fuse_read_in in = {.fh = handle, .offset = offset, .size = size};
    assert_int_equal(ask(FUSE_READ, node, &in, sizeof(in)), 0);
    return reply.header.len - sizeof(reply.header);
}

static void init(void **state)
{
    struct fuse_init_in in = {.major = 7, .minor = 45, .flags = UINT32_MAX};
    assert_int_equal(ask(FUSE_INIT, 0, &in, sizeof(in)), 0);
    assert_int_equal(reply.header.len, sizeof(reply.header) + sizeof(struct fuse_init_out));
    assert_int_equal(reply.body.init.major, 7);
    assert_int_equal(reply.body.init.minor, FUSE_KERNEL_MINOR_VERSION);
    /* No flag that would have us know more than we do. */
    assert_int_equal(reply.body.init.flags & ~(uint32_t)FUSE_PARALLEL_DIROPS, 0);
    assert_int_equal(reply.body.init.flags2, 0);
    /* Of a kernel before the second flags. */
    assert_int_equal(ask(FUSE_INIT, 0, &in, offsetof(struct fuse_init_in, flags2)), 0);
    in.major = 8;
    assert_int_equal(ask(FUSE_INIT, 0, &in, sizeof(in)), 0);
    assert_int_equal(reply.body.init.major, 7);
    in.major = 6;
    assert_int_equal(ask(FUSE_INIT, 0, &in, sizeof(in)), -EPROTO);
    in = (struct fuse_init_in){.major = 7, .minor = 8};
    assert_int_equal(ask(FUSE_INIT, 0, &in, sizeof(in)), -EPROTO);
}

static void names(void **state)
{
    uint64_t pressure = lookup(FUSE_ROOT_ID, "pressure");
    assert_int_not_equal(pressure, 0);
    assert_int_equal(reply.body.entry.attr.mode, S_IFDIR | 0555);
    for (size_t i = 0; views_files[i].name != NULL; i++) {
        const char *slash = strchr(views_files[i].name, '/');
        uint64_t node =
            slash != NULL ? lookup(pressure, slash + 1) : lookup(FUSE_ROOT_ID, views_files[i].name);
        assert_int_not_equal(node, 0);
        assert_int_equal(reply.body.entry.attr.mode, S_IFREG | 0444);
        assert_int_equal(ask(FUSE_GETATTR, node, NULL, 0), 0);
        assert_int_equal(reply.body.attr.attr.ino, node);
        assert_int_equal(reply.body.attr.attr.size, 0);
        assert_int_equal(ask(FUSE_LOOKUP, node, "x", 2), -ENOTDIR);
    }
    static const char *const others[] = {"",    ".",      "..", "pressure/cpu",
                                         "cpu", "meminf", "x",  "meminfo2"};
    for (size_t i = 0; i < ARRAY_COUNT(others); i++) {
        assert_int_equal(ask(FUSE_LOOKUP, FUSE_ROOT_ID, others[i], strlen(others[i]) + 1), -ENOENT);
    }
    assert_int_equal(lookup(pressure, "meminfo"), 0);
    assert_int_equal(ask(FUSE_LOOKUP, FUSE_ROOT_ID, "meminfo", 7), -EINVAL); /* no NUL */
    assert_int_equal(ask(FUSE_LOOKUP, FUSE_ROOT_ID, "", 0), -EINVAL);
    assert_int_equal(ask(FUSE_LOOKUP, UINT64_MAX, "x", 2), -ENOTDIR);
    assert_int_equal(ask(FUSE_GETATTR, UINT64_MAX, NULL, 0), -ENOENT);
    assert_int_equal(ask(FUSE_GETATTR, 0, NULL, 0), -ENOENT);
}

static void reads_fit_together(void **state)
{
    uint64_t node = lookup(FUSE_ROOT_ID, "stat");
    uint64_t handle = open_node(node), other = open_node(node);
    assert_int_not_equal(handle, other);
    for (uint64_t offset = 0; offset < 100; offset += 7) {
        size_t size = read_node(node, handle, offset, 7);
        assert_int_equal(size, MIN(7, 100 - offset));
        for (size_t i = 0; i < size; i++) {
            assert_int_equal(((const char *)reply.data)[i], 'a');
        }
        if (offset == 0) {
            assert_int_equal(read_node(node, other, 0, 200), 100);
            assert_int_equal(*(const char *)reply.data, 'b');
        }
    }
    assert_int_equal(read_node(node, handle, 100, 7), 0);
    assert_int_equal(read_node(node, handle, UINT64_MAX, UINT32_MAX), 0);
    assert_int_equal(rendered, 2);
    /* From the beginning: what is now. */
    assert_int_equal(read_node(node, handle, 0, 1), 1);
    assert_int_equal(*(const char *)reply.data, 'c');
    struct fuse_release_in release = {.fh = handle};
    assert_int_equal(ask(FUSE_RELEASE, node, &release, sizeof(release)), 0);
    assert_int_equal(ask(FUSE_RELEASE, node, &release, sizeof(release)), 0);
    assert_int_equal(read_node(node, other, 99, 7), 1);
    assert_int_equal(*(const char *)reply.data, 'b');
    /* In the middle first. */
    handle = open_node(node);
    assert_int_equal(read_node(node, handle, 50, 100), 50);
    assert_int_equal(*(const char *)reply.data, 'd');
}

static size_t kept_size(void)
{
    size_t sum = 0;
    for (size_t i = 0; i < FUSE_MAX_SNAPSHOTS; i++) {
        sum += server.snapshot[i].text.capacity;
    }
    return sum;
}

static void thousands_of_open_files(void **state)
{
    uint64_t node = lookup(FUSE_ROOT_ID, "stat");
    uint64_t first = open_node(node), last = first;
    assert_int_equal(read_node(node, first, 0, 1), 1);
    rendered_size = 100000;
    for (unsigned i = 0; i < 5000; i++) {
        last = open_node(node);
        assert_int_equal(read_node(node, last, 0, 1), 1);
        assert_true(kept_size() <= FUSE_MAX_SNAPSHOT_SIZE);
    }
    /* The oldest is read anew, and the latest is still there. */
    unsigned before = rendered;
    assert_int_equal(read_node(node, last, 99999, 2), 1);
    assert_int_equal(rendered, before);
    assert_int_equal(read_node(node, first, 99999, 2), 1);
    assert_int_equal(rendered, before + 1);
    /* One that does not fit at all. */
    rendered_size = TEXT_MAX_SIZE + 1;
    struct fuse_read_in in = {.fh = first, .size = 1};
    assert_int_equal(ask(FUSE_READ, node, &in, sizeof(in)), -ENOMEM);
    rendered_size = 100;
    assert_int_equal(read_node(node, first, 0, 200), 100);
}

static void folders(void **state)
{
    char all[2048] = "";
    uint64_t offset = 0;
    unsigned count = 0;
    /* In pieces that hold one or two entries. */
    for (;;) {
        struct fuse_read_in in = {.offset = offset, .size = 72};
        assert_int_equal(ask(FUSE_READDIR, FUSE_ROOT_ID, &in, sizeof(in)), 0);
        size_t size = reply.header.len - sizeof(reply.header);
        assert_true(size <= 72);
        if (size == 0) {
            break;
        }
        for (size_t at = 0; at < size;) {
            struct fuse_dirent entry;
            memcpy(&entry, (const char *)reply.data + at, FUSE_NAME_OFFSET);
            (void)snprintf(all + strlen(all), sizeof(all) - strlen(all), "%.*s ",
                           (int)entry.namelen, (const char *)reply.data + at + FUSE_NAME_OFFSET);
            offset = entry.off;
            at += FUSE_DIRENT_SIZE(&entry);
            count++;
        }
    }
    assert_string_equal(all, ". .. pressure meminfo cpuinfo stat uptime loadavg swaps diskstats "
                             "cpu_online cpu_possible cpu_present ");
    assert_int_equal(count, 13);
    struct fuse_read_in in = {.offset = UINT64_MAX, .size = UINT32_MAX};
    assert_int_equal(ask(FUSE_READDIR, FUSE_ROOT_ID, &in, sizeof(in)), 0);
    assert_int_equal(reply.header.len, sizeof(reply.header));
    in.offset = 0;
    assert_int_equal(ask(FUSE_READDIR, FUSE_ROOT_ID, &in, sizeof(in)), 0);
    assert_true(reply.header.len > sizeof(reply.header) + 400); /* all in one piece */
    assert_int_equal(ask(FUSE_READDIR, lookup(FUSE_ROOT_ID, "stat"), &in, sizeof(in)), -ENOTDIR);
}

static void refusals(void **state)
{
    uint64_t node = lookup(FUSE_ROOT_ID, "stat");
    static const uint32_t flags[] = {O_WRONLY, O_RDWR, O_ACCMODE};
    for (size_t i = 0; i < ARRAY_COUNT(flags); i++) {
        struct fuse_open_in in = {.flags = flags[i]};
        assert_int_equal(ask(FUSE_OPEN, node, &in, sizeof(in)), -EACCES);
    }
    struct fuse_open_in in = {0};
    assert_int_equal(ask(FUSE_OPEN, FUSE_ROOT_ID, &in, sizeof(in)), -EISDIR);
    assert_int_equal(ask(FUSE_OPEN, 4711, &in, sizeof(in)), -ENOENT);
    struct fuse_read_in read = {.fh = 1, .size = 10};
    assert_int_equal(ask(FUSE_READ, node, &read, sizeof(read)), -EBADF); /* nothing is open */
    read.fh = open_node(node);
    assert_int_equal(ask(FUSE_READ, FUSE_ROOT_ID, &read, sizeof(read)), -EBADF);
    read.fh = 0;
    assert_int_equal(ask(FUSE_READ, node, &read, sizeof(read)), -EBADF);
    struct fuse_access_in access = {.mask = 2};
    assert_int_equal(ask(FUSE_ACCESS, node, &access, sizeof(access)), -EACCES);
    access.mask = 4;
    assert_int_equal(ask(FUSE_ACCESS, node, &access, sizeof(access)), 0);
    assert_int_equal(ask(FUSE_STATFS, FUSE_ROOT_ID, NULL, 0), 0);
    assert_int_equal(ask(FUSE_DESTROY, 0, NULL, 0), 0);
}

static void other_requests(void **state)
{
    static const bool known[64] = {
        [FUSE_LOOKUP] = true,       [FUSE_FORGET] = true,  [FUSE_GETATTR] = true,
        [FUSE_OPEN] = true,         [FUSE_READ] = true,    [FUSE_STATFS] = true,
        [FUSE_RELEASE] = true,      [FUSE_INIT] = true,    [FUSE_READDIR] = true,
        [FUSE_ACCESS] = true,       [FUSE_DESTROY] = true, [FUSE_INTERRUPT] = true,
        [FUSE_BATCH_FORGET] = true,
    };
    static const char zeros[256];
    for (uint32_t opcode = 0; opcode < 64; opcode++) {
        if (!known[opcode]) {
            assert_int_equal(ask(opcode, FUSE_ROOT_ID, zeros, sizeof(zeros)), -ENOSYS);
            assert_int_equal(ask(opcode, FUSE_ROOT_ID, NULL, 0), -ENOSYS);
        }
    }
    assert_int_equal(ask(CUSE_INIT, 0, zeros, sizeof(zeros)), -ENOSYS);
    assert_int_equal(ask(UINT32_MAX, 0, NULL, 0), -ENOSYS);
    /* Too short. */
    static const uint32_t with_body[] = {FUSE_INIT,    FUSE_LOOKUP,  FUSE_OPEN,  FUSE_READ,
                                         FUSE_RELEASE, FUSE_READDIR, FUSE_ACCESS};
    for (size_t i = 0; i < ARRAY_COUNT(with_body); i++) {
        assert_int_equal(ask(with_body[i], FUSE_ROOT_ID, NULL, 0), -EINVAL);
    }
    static const uint32_t without_reply[] = {FUSE_FORGET, FUSE_BATCH_FORGET, FUSE_INTERRUPT};
    for (size_t i = 0; i < ARRAY_COUNT(without_reply); i++) {
        (void)ask(without_reply[i], FUSE_ROOT_ID, zeros, 16);
        assert_true(reply.is_none);
    }
    const struct fuse_in_header cut = {.opcode = FUSE_GETATTR};
    fuse_server_answer(&server, &cut, sizeof(cut) - 1, &reply);
    assert_true(reply.is_none);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(init),    TEST(names),    TEST(reads_fit_together), TEST(thousands_of_open_files),
        TEST(folders), TEST(refusals), TEST(other_requests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
