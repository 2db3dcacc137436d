/* Covers src/manager/pool: disks, what they stand on, snapshots, clones and their contents; what a killed worker leaves
 * behind; pools that are missing, full or in use. Where HULL_TEST_POOL names a folder on another file system the same is done
 * there, by the driver that HULL_TEST_POOL_DRIVER names. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/host/file.h"
#include "base/host/image_lock.h"
#include "block/block.h"
#include "manager/pool/folder.h"
#include "system/layers/layers.h"

#define MIB      (1u << 20)
#define DISK     "instances/web1/root"
#define SIZE     ((uint64_t)8 * MIB)
#define ok(call) check_rc((call), &err, __LINE__)

static char box[PATH_MAX];
static json_t *pool;
static const struct pool_driver *driver;

static void check_rc(int rc, const struct error *err, int line)
{
    if (rc != 0) {
        fail_msg("line %d: %d: %s", line, rc, err->text);
    }
}

static int set_up(void **state)
{
    const char *chosen = getenv("HULL_TEST_POOL");
    struct error err = {0};
    snprintf(box, sizeof(box), "%s/hull-pool-XXXXXX", chosen != NULL ? chosen : "/tmp");
    assert_non_null(mkdtemp(box));
    char path[PATH_MAX + 8];
    snprintf(path, sizeof(path), "%s/pool", box);
    pool =
        json_pack("{s:s,s:s,s:{s:s}}", "name", "p1", "driver",
                  getenv("HULL_TEST_POOL_DRIVER") != NULL ? getenv("HULL_TEST_POOL_DRIVER") : "dir",
                  "config", "path", path);
    ok(pool_driver_find(pool, &driver, &err));
    ok(driver->create(pool, &err));
    return 0;
}

static int tear_down(void **state)
{
    json_decref(pool);
    return layers_remove(box, NULL);
}

static void make_base(char fill, struct pool_disk *out_base)
{
    struct error err = {0};
    snprintf(out_base->path, sizeof(out_base->path), "%.1000s/base.img", box);
    strcpy(out_base->format, "raw");
    AUTO_CLOSE int fd = open(out_base->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    AUTO_FREE char *data = malloc(MIB);
    assert_non_null(data);
    memset(data, fill, MIB);
    ok(file_write_at(fd, data, MIB, 0, "base", &err));
    assert_int_equal(ftruncate(fd, (off_t)SIZE), 0);
}

/* The disk as a VM has it: its file over the layers that the pool names. */
static struct block *open_disk(const char *name, struct event_loop *loop)
{
    struct error err = {0};
    struct pool_disk disk;
    json_t *layers;
    struct block *block = NULL;
    ok(driver->disk_find(pool, name, &disk, &err));
    ok(driver->disk_layers(pool, name, &layers, &err));
    for (size_t i = json_array_size(layers) + 1; i-- > 0;) {
        const json_t *layer = i > 0 ? json_array_get(layers, i - 1) : NULL;
        const char *path = i > 0 ? json_string_value(json_object_get(layer, "path")) : disk.path;
        const struct block_options options = {
            .format = i > 0 ? json_string_value(json_object_get(layer, "format")) : disk.format,
            .is_readonly = i > 0,
            .aio = BLOCK_AIO_THREADS,
            .backing = block};
        int fd = open(path, (i > 0 ? O_RDONLY : O_RDWR) | O_CLOEXEC);
        assert_true(fd >= 0);
        ok(block_open(fd, path, &options, loop, &block, &err));
    }
    json_decref(layers);
    return block;
}

/* One byte all over the megabyte 'at'. */
static void put(const char *name, unsigned at, char fill)
{
    struct error err = {0};
    struct event_loop *loop;
    AUTO_FREE char *data = malloc(MIB);
    assert_non_null(data);
    memset(data, fill, MIB);
    ok(event_loop_create(&loop, &err));
    struct block *block = open_disk(name, loop);
    assert_int_equal(block_write(block, (uint64_t)at * MIB, data, MIB), 0);
    ok(block_finish(block, &err));
    event_loop_destroy(loop);
}

/* The first letters of the disk's megabytes, '.' for zeros: "aB......". */
static const char *letters(const char *name)
{
    static char text[64];
    struct error err = {0};
    struct event_loop *loop;
    struct block_info info;
    AUTO_FREE char *data = malloc(MIB);
    assert_non_null(data);
    ok(event_loop_create(&loop, &err));
    struct block *block = open_disk(name, loop);
    block_get_info(block, &info);
    memset(text, 0, sizeof(text));
    for (unsigned i = 0; i < info.size_bytes / MIB && i < sizeof(text) - 1; i++) {
        assert_int_equal(block_read(block, (uint64_t)i * MIB, data, MIB), 0);
        for (unsigned k = 0; k < MIB; k++) {
            assert_int_equal(data[k], data[0]);
        }
        text[i] = data[0] == '\0' ? '.' : data[0];
    }
    ok(block_finish(block, &err));
    event_loop_destroy(loop);
    return text;
}

static size_t depth(const char *name)
{
    struct error err = {0};
    json_t *layers;
    ok(driver->disk_layers(pool, name, &layers, &err));
    size_t count = json_array_size(layers);
    json_decref(layers);
    return count;
}

static unsigned count_files(const char *folder)
{
    char path[PATH_MAX + 32];
    unsigned count = 0;
    snprintf(path, sizeof(path), "%s/pool/%s", box, folder);
    DIR *stream = opendir(path);
    assert_non_null(stream);
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;) {
        count += entry->d_name[0] != '.';
    }
    closedir(stream);
    return count;
}

static bool can_reflink(void)
{
    struct error err = {0};
    struct pool_disk base, disk;
    make_base('x', &base);
    ok(driver->disk_create(pool, "volumes/try", 0, &base, &disk, &err));
    bool can = strcmp(disk.format, "raw") == 0;
    ok(driver->disk_remove(pool, "volumes/try", &err));
    return can;
}

static void empty_disks(void **state)
{
    struct error err = {0};
    struct pool_disk disk, found;
    ok(driver->disk_create(pool, DISK, SIZE, NULL, &disk, &err));
    assert_string_equal(disk.format, "raw");
    assert_string_equal(letters(DISK), "........");
    put(DISK, 2, 'c');
    assert_string_equal(letters(DISK), "..c.....");
    ok(driver->disk_find(pool, DISK, &found, &err));
    assert_string_equal(found.path, disk.path);
    assert_int_equal(driver->disk_create(pool, DISK, SIZE, NULL, &disk, &err), -EEXIST);
    assert_int_equal(driver->disk_create(pool, "volumes/odd", 1000, NULL, &disk, &err), -EINVAL);
    assert_int_equal(driver->disk_create(pool, "volumes/none", 0, NULL, &disk, &err), -EINVAL);
    assert_int_equal(driver->disk_find(pool, "volumes/none", &disk, &err), -ENOENT);
    ok(driver->disk_resize(pool, DISK, SIZE + 2 * MIB, &err));
    assert_string_equal(letters(DISK), "..c.......");
    assert_int_equal(driver->disk_resize(pool, DISK, SIZE, &err), -EINVAL);
    ok(driver->disk_remove(pool, DISK, &err));
    ok(driver->disk_remove(pool, DISK, &err));
    assert_int_equal(count_files("layers"), 0);
    assert_int_equal(count_files("disks"), 0);
}

static void names(void **state)
{
    static const char *const good[] = {"instances/x", "volumes/x/y", "volumes/a.b_c-d"};
    static const char *const bad[] = {"",     "root", "../x/root", "a/../b", "a/b/c/d", "/a/b",
                                      "a//b", "a/b/", "a/.hidden", "a/b\n",  "a/b c",   "a/ä"};
    struct pool_disk disk;
    struct error err = {0};
    for (unsigned i = 0; i < ARRAY_COUNT(good); i++) {
        ok(driver->disk_create(pool, good[i], MIB, NULL, &disk, &err));
    }
    for (unsigned i = 0; i < ARRAY_COUNT(bad); i++) {
        assert_int_equal(driver->disk_create(pool, bad[i], MIB, NULL, &disk, &err), -EINVAL);
        assert_int_equal(driver->disk_find(pool, bad[i], &disk, &err), -EINVAL);
        assert_int_equal(driver->disk_remove(pool, bad[i], &err), -EINVAL);
    }
}

static void on_images(void **state)
{
    struct error err = {0};
    struct pool_disk base, disk;
    make_base('a', &base);
    bool has_reflink = can_reflink();
    make_base('a', &base);
    ok(driver->disk_create(pool, DISK, 0, &base, &disk, &err));
    assert_string_equal(letters(DISK), "a.......");
    put(DISK, 1, 'B');
    assert_string_equal(letters(DISK), "aB......");
    assert_int_equal(depth(DISK), has_reflink ? 0 : 1);
    ok(driver->disk_create(pool, "instances/web2/root", 12 * MIB, &base, &disk, &err));
    assert_string_equal(letters("instances/web2/root"), "a...........");
    assert_int_equal(driver->disk_create(pool, "volumes/small", MIB, &base, &disk, &err), -EINVAL);
    ok(driver->disk_resize(pool, DISK, 10 * MIB, &err));
    assert_string_equal(letters(DISK), "aB........");
    if (!has_reflink) {
        /* The image is gone: that is said, and does not end in zeros. */
        json_t *layers;
        assert_int_equal(unlink(base.path), 0);
        assert_int_equal(driver->disk_layers(pool, DISK, &layers, &err), -ENOENT);
        assert_non_null(strstr(err.text, base.path));
        ok(driver->disk_remove(pool, DISK, &err));
    }
}

static void snapshots(void **state)
{
    struct error err = {0};
    struct pool_disk base, disk;
    make_base('a', &base);
    ok(driver->disk_create(pool, DISK, 0, &base, &disk, &err));
    put(DISK, 1, 'B');
    ok(driver->disk_snapshot(pool, DISK, "s1", &err));
    put(DISK, 2, 'C');
    put(DISK, 0, 'A');
    ok(driver->disk_snapshot(pool, DISK, "s2", &err));
    put(DISK, 3, 'D');
    assert_int_equal(driver->disk_snapshot(pool, DISK, "s2", &err), -EEXIST);
    assert_int_equal(driver->disk_snapshot(pool, DISK, "../s", &err), -EINVAL);
    assert_string_equal(letters(DISK), "ABCD....");
    ok(driver->disk_restore(pool, DISK, "s1", &err));
    assert_string_equal(letters(DISK), "aB......");
    put(DISK, 7, 'H');
    ok(driver->disk_restore(pool, DISK, "s2", &err));
    assert_string_equal(letters(DISK), "ABC.....");
    ok(driver->disk_restore(pool, DISK, "s2", &err));
    assert_int_equal(driver->disk_restore(pool, DISK, "s3", &err), -ENOENT);
    /* In the middle: what stands on it stays. */
    ok(driver->disk_forget(pool, DISK, "s1", &err));
    ok(driver->disk_forget(pool, DISK, "s1", &err));
    assert_string_equal(letters(DISK), "ABC.....");
    assert_int_equal(driver->disk_restore(pool, DISK, "s1", &err), -ENOENT);
    put(DISK, 4, 'E');
    ok(driver->disk_restore(pool, DISK, "s2", &err));
    assert_string_equal(letters(DISK), "ABC.....");
    ok(driver->disk_remove(pool, DISK, &err));
    assert_int_equal(count_files("layers"), 0);
}

/* However many come and go, few files stand on each other. */
static void many_snapshots(void **state)
{
    struct error err = {0};
    struct pool_disk base, disk;
    make_base('a', &base);
    ok(driver->disk_create(pool, DISK, 0, &base, &disk, &err));
    char name[16];
    for (unsigned i = 0; i < 20; i++) {
        put(DISK, i % 8, (char)('A' + i));
        snprintf(name, sizeof(name), "s%u", i);
        ok(driver->disk_snapshot(pool, DISK, name, &err));
        if (i >= 3) {
            snprintf(name, sizeof(name), "s%u", i - 3);
            ok(driver->disk_forget(pool, DISK, name, &err));
        }
        assert_true(depth(DISK) <= 6);
    }
    assert_string_equal(letters(DISK), "QRSTMNOP");
    ok(driver->disk_restore(pool, DISK, "s17", &err));
    assert_string_equal(letters(DISK), "QRKLMNOP"); /* as s17 was: without S and T */
    assert_true(count_files("layers") <= 10);
}

static void clones(void **state)
{
    struct error err = {0};
    struct pool_disk base, disk;
    static const char two[] = "instances/web2/root", three[] = "instances/web3/root";
    make_base('a', &base);
    ok(driver->disk_create(pool, DISK, 0, &base, &disk, &err));
    put(DISK, 1, 'B');
    ok(driver->disk_snapshot(pool, DISK, "s1", &err));
    put(DISK, 2, 'C');
    ok(driver->disk_clone(pool, DISK, "s1", two, &err));
    ok(driver->disk_clone(pool, DISK, NULL, three, &err));
    assert_int_equal(driver->disk_clone(pool, DISK, NULL, three, &err), -EEXIST);
    assert_int_equal(driver->disk_clone(pool, DISK, "s9", "volumes/x", &err), -ENOENT);
    assert_int_equal(driver->disk_clone(pool, "volumes/x", NULL, "volumes/y", &err), -ENOENT);
    put(DISK, 3, 'D');
    put(two, 3, '2');
    put(three, 3, '3');
    assert_string_equal(letters(DISK), "aBCD....");
    assert_string_equal(letters(two), "aB.2....");
    assert_string_equal(letters(three), "aBC3....");
    /* The clones go on without what they were made of, in whatever order. */
    ok(driver->disk_remove(pool, DISK, &err));
    assert_string_equal(letters(two), "aB.2....");
    assert_string_equal(letters(three), "aBC3....");
    ok(driver->disk_clone(pool, three, NULL, DISK, &err));
    ok(driver->disk_remove(pool, three, &err));
    assert_string_equal(letters(DISK), "aBC3....");
    ok(driver->disk_remove(pool, two, &err));
    json_t *found;
    ok(driver->sweep(pool, &found, &err));
    json_decref(found);
    assert_string_equal(letters(DISK), "aBC3....");
    assert_true(depth(DISK) <= 2);
    ok(driver->disk_remove(pool, DISK, &err));
    assert_int_equal(count_files("layers"), 0);
}

static void disks_in_use(void **state)
{
    struct error err = {0};
    struct event_loop *loop;
    struct pool_disk base, disk;
    make_base('a', &base);
    ok(driver->disk_create(pool, DISK, 0, &base, &disk, &err));
    ok(driver->disk_snapshot(pool, DISK, "s1", &err));
    put(DISK, 1, 'B');
    ok(driver->disk_snapshot(pool, DISK, "s2", &err));
    put(DISK, 2, 'C');
    ok(event_loop_create(&loop, &err));
    struct block *block = open_disk(DISK, loop);
    assert_int_equal(driver->disk_remove(pool, DISK, &err), -EBUSY);
    assert_int_equal(driver->disk_restore(pool, DISK, "s1", &err), -EBUSY);
    assert_int_equal(driver->disk_resize(pool, DISK, 2 * SIZE, &err), -EBUSY);
    size_t before = depth(DISK);
    ok(driver->disk_forget(pool, DISK, "s1", &err)); /* and stays below, unseen */
    ok(driver->disk_forget(pool, DISK, "s2", &err));
    assert_int_equal(depth(DISK), before);
    AUTO_FREE char *data = malloc(MIB);
    assert_int_equal(block_read(block, MIB, data, MIB), 0);
    assert_int_equal(data[5], 'B');
    ok(block_finish(block, &err));
    event_loop_destroy(loop);
    json_t *found;
    ok(driver->sweep(pool, &found, &err));
    json_decref(found);
    assert_true(depth(DISK) <= 1);
    assert_string_equal(letters(DISK), "aBC.....");
}

static void write_file(const char *name, const char *text)
{
    char path[PATH_MAX + 64];
    struct error err = {0};
    snprintf(path, sizeof(path), "%s/pool/%s", box, name);
    ok(file_replace(path, text, 0600, false, &err));
}

static void what_a_kill_leaves(void **state)
{
    struct error err = {0};
    struct pool_disk disk;
    ok(driver->disk_create(pool, DISK, SIZE, NULL, &disk, &err));
    put(DISK, 1, 'B');
    write_file("layers/web9-root-1.qcow2", "half an image");
    write_file("layers/web9-root-2.json", "{\"file\":\"web9-root-2.raw\",\"format\":\"raw\"}");
    write_file("layers/web9-root-2.raw", "");
    write_file("layers/web9-root-3.json.new", "{");
    json_t *found;
    ok(driver->sweep(pool, &found, &err));
    assert_int_equal(json_array_size(found), 4);
    json_decref(found);
    assert_int_equal(count_files("layers"), 2);
    assert_string_equal(letters(DISK), ".B......");
    /* What cannot be read may refer to anything: nothing is removed. */
    write_file("layers/web9-root-1.raw", "");
    ok(file_make_folders(box, 0700, 0700, &err));
    write_file("disks/instances/web1/data.json", "{\"top\":");
    assert_int_equal(driver->sweep(pool, &found, &err), -EPROTO);
    assert_non_null(strstr(err.text, "data.json"));
    assert_int_equal(count_files("layers"), 3);
    /* Names in them lead nowhere else. */
    write_file("disks/instances/web1/data.json", "{\"top\":\"../../x\",\"snapshots\":{}}");
    assert_int_equal(driver->disk_find(pool, "instances/web1/data", &disk, &err), -EPROTO);
    write_file("layers/evil.json", "{\"file\":\"../../base.img\",\"format\":\"raw\"}");
    write_file("disks/instances/web1/data.json", "{\"top\":\"evil\",\"snapshots\":{}}");
    assert_int_equal(driver->disk_find(pool, "instances/web1/data", &disk, &err), -EPROTO);
    write_file("layers/evil.json",
               "{\"file\":\"evil.qcow2\",\"format\":\"qcow2\",\"parent\":\"evil\"}");
    write_file("layers/evil.qcow2", "");
    json_t *layers;
    assert_int_equal(driver->disk_layers(pool, "instances/web1/data", &layers, &err), -ELOOP);
}

/* A worker that is killed at any moment: the disk is as before or as after, never something else. */
static void killed_workers(void **state)
{
    struct error err = {0};
    struct pool_disk base, disk;
    make_base('a', &base);
    ok(driver->disk_create(pool, DISK, 0, &base, &disk, &err));
    put(DISK, 1, 'B');
    ok(driver->disk_snapshot(pool, DISK, "s0", &err));
    put(DISK, 2, 'C');
    for (unsigned i = 0; i < 60; i++) {
        pid_t child = fork();
        if (child == 0) {
            for (unsigned k = 0; k < 1000; k++) {
                if (driver->disk_snapshot(pool, DISK, "s1", NULL) < 0 ||
                    driver->disk_clone(pool, DISK, "s1", "volumes/c", NULL) < 0 ||
                    driver->disk_forget(pool, DISK, "s1", NULL) < 0 ||
                    driver->disk_remove(pool, "volumes/c", NULL) < 0) {
                    _exit(1);
                }
            }
            _exit(0);
        }
        assert_true(child > 0);
        usleep(200 * (i + 1) + 1000);
        assert_int_equal(kill(child, SIGKILL), 0);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        assert_string_equal(letters(DISK), "aBC.....");
        struct pool_disk clone;
        if (driver->disk_find(pool, "volumes/c", &clone, &err) == 0) {
            assert_string_equal(letters("volumes/c"), "aBC.....");
            ok(driver->disk_remove(pool, "volumes/c", &err));
        }
        ok(driver->disk_forget(pool, DISK, "s1", &err));
    }
    json_t *found;
    ok(driver->sweep(pool, &found, &err));
    json_decref(found);
    assert_true(count_files("layers") <= 6);
    ok(driver->disk_restore(pool, DISK, "s0", &err));
    assert_string_equal(letters(DISK), "aB......");
}

/* The host's disk is full: an error, and nothing is left. */
static void full_disks(void **state)
{
    struct error err = {0};
    struct pool_disk base, disk;
    make_base('a', &base);
    ok(driver->disk_create(pool, DISK, 0, &base, &disk, &err));
    unsigned before = count_files("layers");
    struct rlimit limit, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    (void)signal(SIGXFSZ, SIG_IGN);
    small = limit;
    small.rlim_cur = 16;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int created = driver->disk_create(pool, "volumes/a", SIZE, NULL, &disk, NULL);
    int on_image = driver->disk_create(pool, "volumes/b", SIZE, &base, &disk, NULL);
    int snapshot = driver->disk_snapshot(pool, DISK, "s1", NULL);
    int clone = driver->disk_clone(pool, DISK, NULL, "volumes/c", NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_true(created < 0 && on_image < 0 && snapshot < 0 && clone < 0);
    assert_int_equal(count_files("layers"), before);
    assert_int_equal(driver->disk_find(pool, "volumes/a", &disk, &err), -ENOENT);
    assert_int_equal(driver->disk_restore(pool, DISK, "s1", &err), -ENOENT);
    assert_string_equal(letters(DISK), "a.......");
}

static void pools(void **state)
{
    struct error err = {0};
    struct pool_disk disk;
    uint64_t total, available;
    ok(driver->create(pool, &err)); /* again */
    ok(driver->space(pool, &total, &available, &err));
    assert_true(total >= available && available > 0);
    ok(driver->disk_create(pool, DISK, SIZE, NULL, &disk, &err));
    assert_int_equal(driver->remove(pool, &err), -EBUSY);
    ok(driver->disk_resize(pool, DISK, 2 * SIZE, &err));
    /* Another pool in its folder, or a pool where other things are. */
    json_t *other = json_deep_copy(pool);
    json_object_set_new(other, "name", json_string("p2"));
    assert_int_equal(driver->create(other, &err), -EEXIST);
    json_object_set_new(json_object_get(other, "config"), "path", json_string(box));
    assert_int_equal(driver->create(other, &err), -EEXIST);
    json_object_set_new(json_object_get(other, "config"), "path", json_string("relative"));
    assert_int_equal(driver->create(other, &err), -EINVAL);
    json_object_set_new(other, "driver", json_string("tape"));
    const struct pool_driver *none;
    assert_int_equal(pool_driver_find(other, &none, &err), -EINVAL);
    json_decref(other);
    /* Its file system is not mounted. */
    char path[PATH_MAX + 8], away[PATH_MAX + 8];
    snprintf(path, sizeof(path), "%s/pool", box);
    snprintf(away, sizeof(away), "%s/away", box);
    assert_int_equal(rename(path, away), 0);
    assert_int_equal(driver->disk_find(pool, DISK, &disk, &err), -ENOENT);
    assert_non_null(strstr(err.text, "is not there"));
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(driver->disk_create(pool, DISK, SIZE, NULL, &disk, &err), -ENOENT);
    assert_non_null(strstr(err.text, "mounted"));
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rename(away, path), 0);
    ok(driver->disk_remove(pool, DISK, &err));
    ok(driver->remove(pool, &err));
    assert_int_equal(access(path, F_OK), -1);
}

static void the_default(void **state)
{
    struct error err = {0};
    struct place place = {0};
    struct pool_disk disk;
    snprintf(place.state, sizeof(place.state), "%.900s/state", box);
    json_t *document = pool_default(&place);
    ok(driver->disk_create(document, DISK, MIB, NULL, &disk, &err));
    ok(driver->disk_remove(document, DISK, &err));
    json_decref(document);
}

static void trees(void **state)
{
    struct error err = {0};
    char path[PATH_MAX], found[PATH_MAX], file[PATH_MAX + 8];
    struct pool_disk disk;
    ok(driver->tree_create(pool, "volumes/data", 0, path, &err));
    snprintf(file, sizeof(file), "%s/file", path);
    ok(file_replace(file, "x", 0600, false, &err));
    ok(driver->tree_find(pool, "volumes/data", found, &err));
    assert_string_equal(found, path);
    assert_int_equal(driver->tree_create(pool, "volumes/data", 0, path, &err), -EEXIST);
    assert_int_equal(driver->tree_create(pool, "volumes/more", MIB, path, &err), -EOPNOTSUPP);
    assert_int_equal(driver->tree_create(pool, "volumes/..", 0, path, &err), -EINVAL);
    assert_int_equal(driver->remove(pool, &err), -EBUSY);
    ok(pool_volume_folder(pool, "data", found, &err));
    assert_string_equal(found, path);
    ok(driver->disk_create(pool, "volumes/block", MIB, NULL, &disk, &err));
    assert_int_equal(pool_volume_folder(pool, "block", found, &err), -EINVAL);
    assert_non_null(strstr(err.text, "is a disk"));
    assert_int_equal(pool_volume_folder(pool, "nothing", found, &err), -ENOENT);
    assert_int_equal(pool_volume_folder(pool, "../volumes/data", found, &err), -EINVAL);
    ok(driver->disk_remove(pool, "volumes/block", &err));

    ok(driver->tree_remove(pool, "volumes/data", &err));
    ok(driver->tree_remove(pool, "volumes/data", &err));
    assert_int_equal(driver->tree_find(pool, "volumes/data", path, &err), -ENOENT);
    ok(driver->remove(pool, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(empty_disks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(names, set_up, tear_down),
        cmocka_unit_test_setup_teardown(on_images, set_up, tear_down),
        cmocka_unit_test_setup_teardown(snapshots, set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_snapshots, set_up, tear_down),
        cmocka_unit_test_setup_teardown(clones, set_up, tear_down),
        cmocka_unit_test_setup_teardown(disks_in_use, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_a_kill_leaves, set_up, tear_down),
        cmocka_unit_test_setup_teardown(killed_workers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(full_disks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(pools, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_default, set_up, tear_down),
        cmocka_unit_test_setup_teardown(trees, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
