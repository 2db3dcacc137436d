/* The reserve for deletions: which operations may have it, and how it goes and comes. */
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "manager/operation/job.h"
#include "manager/operation/reserve.h"

static struct place place;
static char path[PATH_MAX];

static int setup(void **state)
{
    strcpy(place.state, "/tmp/hull-reserve-XXXXXX");
    if (mkdtemp(place.state) == NULL) {
        return -1;
    }
    place_state_path(&place, RESERVE_FILE, NULL, NULL, path);
    return 0;
}

static int teardown(void **state)
{
    (void)unlink(path);
    return rmdir(place.state);
}

static off_t size(void)
{
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    return info.st_size;
}

/* Each kind of operation that deletes, and none besides. */
static void deletions_are_served(void **state)
{
    static const struct job_kind *const tables[] = {instance_jobs, image_jobs, network_jobs,
                                                    pool_jobs,     check_jobs, transfer_jobs};
    json_auto_t *nothing = json_object();
    unsigned served = 0;
    for (size_t i = 0; i < ARRAY_COUNT(tables); i++) {
        for (const struct job_kind *kind = tables[i]; kind->name != NULL; kind++) {
            bool deletes =
                strstr(kind->name, "-delete") != NULL || strstr(kind->name, "-prune") != NULL;
            assert_int_equal(reserve_serves(kind->name, nothing), deletes);
            served += deletes;
        }
    }
    assert_true(served > 0);
    json_auto_t *create = json_pack("{s:s}", "do", "create");
    json_auto_t *delete = json_pack("{s:s}", "do", "delete");
    assert_false(reserve_serves("instance-snapshot", create));
    assert_true(reserve_serves("instance-snapshot", delete));
    assert_false(reserve_serves("instance-create", delete));
    assert_false(reserve_serves(NULL, delete));
}

static void it_goes_in_pieces(void **state)
{
    assert_false(reserve_give(&place, -ENOSPC)); /* there is none */
    assert_true(reserve_take(&place));
    assert_int_equal(size(), RESERVE_SIZE);
    assert_false(reserve_give(&place, -EIO)); /* it would not help */
    assert_int_equal(size(), RESERVE_SIZE);
    for (unsigned left = RESERVE_SIZE / RESERVE_PIECE; left > 0; left--) {
        assert_true(reserve_give(&place, left % 2 == 0 ? -ENOSPC : -EDQUOT));
        assert_int_equal(size(), (left - 1) * RESERVE_PIECE);
    }
    assert_false(reserve_give(&place, -ENOSPC));
    assert_true(reserve_take(&place));
    assert_int_equal(size(), RESERVE_SIZE);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_true((uint64_t)info.st_blocks * 512 >= RESERVE_SIZE); /* room, not a hole */
}

/* Somebody else's file is not made longer or shorter. */
static void a_link_is_not_followed(void **state)
{
    char target[] = "/tmp/hull-reserve-target-XXXXXX";
    int fd = mkstemp(target);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, RESERVE_SIZE), 0);
    (void)unlink(path);
    assert_int_equal(symlink(target, path), 0);
    assert_false(reserve_give(&place, -ENOSPC));
    assert_false(reserve_take(&place));
    assert_int_equal(size(), RESERVE_SIZE);
    close(fd);
    assert_int_equal(unlink(target), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deletions_are_served),
        cmocka_unit_test(it_goes_in_pieces),
        cmocka_unit_test(a_link_is_not_followed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
