/* Files of the guest that hull-agent reads by itself: passwd, group, hosts, mountinfo. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include <cmocka.h>

#include "agent/hosts.h"
#include "agent/mounts.h"
#include "agent/user.h"

static const char passwd[] = "root:x:0:0:root:/root:/bin/bash\n"
                             "# a remark\n"
                             "\n"
                             "short:x:5\n"
                             "odd:x:4294967295:0::/:/bin/sh\n"
                             "word:x:twelve:0::/:/bin/sh\n"
                             "www:x:33:34:the web:/var/www:/usr/sbin/nologin\n"
                             "1000:x:77:77::/by-name:\n"
                             "me:x:1000:1000::relative:\n"
                             "me:x:2000:2000::/second:/bin/sh";
static const char group[] = "root:x:0:\n"
                            "www:x:34:me\n"
                            "adm:x:4:www,me\n"
                            "no:x:5:wwwx,xwww\n"
                            "own:x:1000:me\n"
                            "bad:x:x:me\n"
                            "sudo:x:27:other,me\n";

static int find(const char *wanted, struct user *user)
{
    struct error err = {0};
    FILE *a = fmemopen((char *)passwd, strlen(passwd), "r");
    FILE *b = fmemopen((char *)group, strlen(group), "r");
    int rc = user_find_in(a, b, wanted, user, &err);
    assert_true(rc == 0 || err.text[0] != '\0');
    (void)fclose(a);
    (void)fclose(b);
    return rc;
}

static void users_by_name_and_number(void **state)
{
    struct user u;
    assert_int_equal(find("root", &u), 0);
    assert_int_equal(u.uid, 0);
    assert_string_equal(u.home, "/root");
    assert_string_equal(u.shell, "/bin/bash");
    assert_int_equal(find("www", &u), 0);
    assert_int_equal(u.uid, 33);
    assert_int_equal(u.gid, 34);
    assert_int_equal(u.group_count, 1);
    assert_int_equal(u.groups[0], 4);
    assert_int_equal(find("33", &u), 0);
    assert_string_equal(u.name, "www");
    assert_int_equal(find("me", &u), 0); /* the first entry counts */
    assert_int_equal(u.uid, 1000);
    assert_string_equal(u.home, "/");
    assert_string_equal(u.shell, "/bin/sh");
    assert_int_equal(u.group_count, 3);
    assert_int_equal(find("1000", &u), 0); /* a name that looks like a number is a name */
    assert_int_equal(u.uid, 77);
    assert_int_equal(find("5000", &u), 0);
    assert_int_equal(u.uid, 5000);
    assert_int_equal(u.group_count, 0);
}

static void users_with_groups(void **state)
{
    struct user u;
    assert_int_equal(find("www:sudo", &u), 0);
    assert_int_equal(u.gid, 27);
    assert_int_equal(u.group_count, 0);
    assert_int_equal(find("5000:6000", &u), 0);
    assert_int_equal(u.uid, 5000);
    assert_int_equal(u.gid, 6000);
}

static void bad_users(void **state)
{
    struct user u;
    assert_int_equal(find("nobody", &u), -ENOENT);
    assert_int_equal(find("odd", &u), -ENOENT);
    assert_int_equal(find("word", &u), -ENOENT);
    assert_int_equal(find("short", &u), -ENOENT);
    assert_int_equal(find("#", &u), -ENOENT);
    assert_int_equal(find("4294967295", &u), -ENOENT);
    assert_int_equal(find("-1", &u), -ENOENT);
    assert_int_equal(find("www:none", &u), -ENOENT);
    assert_int_equal(find("www:bad", &u), -ENOENT);
    assert_int_equal(find("", &u), -EINVAL);
    assert_int_equal(find(":www", &u), -EINVAL);
    assert_int_equal(find("www:", &u), -EINVAL);
}

static void no_files_at_all(void **state)
{
    struct user u;
    struct error err = {0};
    assert_int_equal(user_find_in(NULL, NULL, "0", &u, &err), 0);
    assert_int_equal(user_find_in(NULL, NULL, "root", &u, &err), 0);
    assert_int_equal(u.uid, 0);
    assert_string_equal(u.home, "/");
    assert_int_equal(user_find_in(NULL, NULL, "me", &u, &err), -ENOENT);
}

static void check_hosts(const char *text, const char *old, const char *new, const char *expected)
{
    char *result = hosts_rename(text, old, new);
    assert_non_null(result);
    assert_string_equal(result, expected);
    free(result);
}

static void hosts_get_the_new_name(void **state)
{
    check_hosts("127.0.0.1 localhost old\n", "old", "new", "127.0.0.1 localhost new\n");
    check_hosts("127.0.1.1\told.example old\t# old one\n\n::1 localhost", "old", "new",
                "127.0.1.1\told.example new\t# old one\n\n::1 localhost\n");
    check_hosts("127.0.0.1 localhost\n", "old", "new", "127.0.0.1 localhost\n127.0.1.1\tnew\n");
    check_hosts("127.0.0.1 localhost  \n", "localhost", "new",
                "127.0.0.1 localhost  \n127.0.1.1\tnew\n");
    check_hosts("", "", "new", "127.0.1.1\tnew\n");
    check_hosts("1.2.3.4 older bold #\n", "old", "new", "1.2.3.4 older bold #\n127.0.1.1\tnew\n");
    check_hosts("1.2.3.4 x \n", "", "new", "1.2.3.4 x \n127.0.1.1\tnew\n");
    check_hosts("1.2.3.4 new\n", "old", "new", "1.2.3.4 new\n");
}

static void mounts_are_read(void **state)
{
    struct mount_entry e;
    char line[] = "36 35 98:5 /mnt1 /a\\040b\\134 rw,noatime master:1 shared:2 - ext3 /dev/root "
                  "rw,errors=continue\n";
    assert_true(mounts_parse_line(line, &e));
    assert_string_equal(e.place, "/a b\\");
    assert_string_equal(e.type, "ext3");
    assert_string_equal(e.source, "/dev/root");
    assert_true(e.device == makedev(98, 5));
    assert_false(e.is_readonly);
    char readonly[] = "36 35 0:40 / / rw - btrfs /dev/vda noatime,ro";
    assert_true(mounts_parse_line(readonly, &e));
    assert_true(e.is_readonly);
    char few[] = "36 35 98:0 / / rw - ext4 /dev/vda";
    assert_false(mounts_parse_line(few, &e));
    char no_end[] = "36 35 98:0 / / rw master:1 ext4 /dev/vda rw";
    assert_false(mounts_parse_line(no_end, &e));
    char empty[] = "";
    assert_false(mounts_parse_line(empty, &e));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(users_by_name_and_number),
        cmocka_unit_test(users_with_groups),
        cmocka_unit_test(bad_users),
        cmocka_unit_test(no_files_at_all),
        cmocka_unit_test(hosts_get_the_new_name),
        cmocka_unit_test(mounts_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
