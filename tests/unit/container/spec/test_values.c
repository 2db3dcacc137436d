/* Covers src/container/spec: what comes out of a document, field by field. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <linux/mount.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/resource.h>

#include "container/spec/spec.h"

#define HEAD "{\"ociVersion\": \"1.3.0\", \"root\": {\"path\": \"rootfs\", \"readonly\": true}, "

static struct spec *parse(const char *text)
{
    struct spec *spec = NULL;
    struct error err = {0};
    if (spec_parse(text, strlen(text), &spec, &err) < 0) {
        fail_msg("%s", err.text);
    }
    return spec;
}

static void processes(void **state)
{
    static const char text[] = HEAD
        "\"process\": {\"cwd\": \"/w\", \"args\": [\"a\", \"b \\u00e4\\ud83d\\ude00\\n\"], \"env\": [], "
        "\"terminal\": true, \"consoleSize\": {\"width\": 80, \"height\": 25}, "
        "\"user\": {\"uid\": 1, \"gid\": 4294967294, \"umask\": 18, \"additionalGids\": [5, 6]}, "
        "\"capabilities\": {\"bounding\": [\"CAP_CHOWN\", \"checkpoint_restore\"], \"ambient\": "
        "[\"CAP_X\", \"CAP_X\", \"CAP_Y\"]}, \"rlimits\": [{\"type\": \"RLIMIT_NOFILE\", \"soft\": 5, "
        "\"hard\": 18446744073709551615}], \"noNewPrivileges\": true, \"oomScoreAdj\": -7, "
        "\"ioPriority\": {\"class\": \"IOPRIO_CLASS_IDLE\", \"priority\": 4}, \"scheduler\": "
        "{\"policy\": \"SCHED_FIFO\", \"priority\": 9, \"flags\": [\"SCHED_FLAG_RESET_ON_FORK\", "
        "\"SCHED_FLAG_UTIL_CLAMP_MAX\"]}, \"execCPUAffinity\": {\"initial\": \"7\", \"final\": "
        "\"\"}}}";
    struct spec *spec = parse(text);
    const struct spec_process *process = &spec->process;
    assert_true(spec->has_process && spec->is_root_readonly);
    assert_string_equal(spec->root_path, "rootfs");
    assert_string_equal(process->cwd, "/w");
    assert_int_equal(process->args.count, 2);
    assert_string_equal(process->args.item[1], "b \xc3\xa4\xf0\x9f\x98\x80\n");
    assert_null(process->args.item[2]);
    assert_non_null(process->env.item);
    assert_null(process->env.item[0]);
    assert_int_equal(process->console_rows, 25);
    assert_int_equal(process->console_columns, 80);
    assert_int_equal(process->uid, 1);
    assert_int_equal(process->gid, 4294967294);
    assert_true(process->umask.has && process->umask.value == 022);
    assert_int_equal(process->additional_gid_count, 2);
    assert_int_equal(process->additional_gids[1], 6);
    assert_true(process->has_capabilities);
    assert_true(process->bounding == (UINT64_C(1) | UINT64_C(1) << 40));
    assert_true(process->ambient == 0 && process->effective == 0);
    assert_int_equal(process->unknown_capabilities.count, 2);
    assert_string_equal(process->unknown_capabilities.item[1], "CAP_Y");
    assert_null(process->unknown_capabilities.item[2]);
    assert_int_equal(process->rlimits[0].resource, RLIMIT_NOFILE);
    assert_true(process->rlimits[0].hard == UINT64_MAX && process->rlimits[0].soft == 5);
    assert_true(process->no_new_privileges);
    assert_true(process->oom_score_adj.has && process->oom_score_adj.value == -7);
    assert_int_equal(process->io_priority.value, 3 << 13 | 4);
    assert_int_equal(process->scheduler.policy, SCHED_FIFO);
    assert_int_equal(process->scheduler.priority, 9);
    assert_true(process->scheduler.flags == 0x41);
    assert_string_equal(process->cpu_affinity_initial, "7");
    assert_null(process->cpu_affinity_final);
    spec_destroy(spec);
}

static const struct spec_mount *mount_with(const char *options, struct spec **out_spec)
{
    char *text;
    assert_true(asprintf(&text,
                         HEAD "\"linux\": {\"namespaces\": [{\"type\": \"user\"}]}, "
                              "\"mounts\": [{\"destination\": \"d\", \"source\": \"s\", "
                              "\"type\": \"tmpfs\", \"options\": [%s]}]}",
                         options) > 0);
    *out_spec = parse(text);
    free(text);
    return (*out_spec)->mounts;
}

static void mounts(void **state)
{
    static const uint64_t time = MOUNT_ATTR__ATIME;
    static const struct {
        const char *options;
        struct spec_mount expected;
    } cases[] = {
        {"\"ro\"", {.attributes_set = MOUNT_ATTR_RDONLY, .superblock_flags = MS_RDONLY}},
        {"\"ro\", \"rw\"",
         {.attributes_cleared = MOUNT_ATTR_RDONLY, .superblock_cleared = MS_RDONLY}},
        {"\"nosuid\", \"dev\", \"sync\"",
         {.attributes_set = MOUNT_ATTR_NOSUID,
          .attributes_cleared = MOUNT_ATTR_NODEV,
          .superblock_flags = MS_SYNCHRONOUS}},
        {"\"noatime\", \"strictatime\"",
         {.attributes_set = MOUNT_ATTR_STRICTATIME, .attributes_cleared = time}},
        {"\"noatime\", \"atime\"", {.attributes_cleared = time}},
        {"\"noatime\", \"nostrictatime\"",
         {.attributes_set = MOUNT_ATTR_NOATIME, .attributes_cleared = time}},
        {"\"relatime\"", {.attributes_cleared = time}},
        {"\"norelatime\"", {.attributes_set = 0}},
        {"\"nodiratime\", \"nosymfollow\"",
         {.attributes_set = MOUNT_ATTR_NODIRATIME | MOUNT_ATTR_NOSYMFOLLOW}},
        {"\"rro\", \"rnoatime\", \"rsuid\"",
         {.recursive_attributes_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME,
          .recursive_attributes_cleared = MOUNT_ATTR_NOSUID | MOUNT_ATTR__ATIME}},
        {"\"rbind\", \"rslave\"",
         {.is_bind = true, .is_recursive_bind = true, .propagation = MS_SLAVE | MS_REC}},
        {"\"bind\", \"private\", \"ridmap\", \"remount\"",
         {.is_bind = true,
          .propagation = MS_PRIVATE,
          .has_idmap = true,
          .is_recursive_idmap = true,
          .is_remount = true}},
        {"\"tmpcopyup\", \"defaults\", \"mode=755\", \"X-mount.mkdir\", \"size=5k\", \"\"",
         {.copies_up = true, .data = "mode=755,size=5k"}},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct spec *spec;
        const struct spec_mount *got = mount_with(cases[i].options, &spec);
        struct spec_mount expected = cases[i].expected;
        assert_string_equal(got->destination, "/d");
        assert_string_equal(got->type, expected.is_bind ? "bind" : "tmpfs");
        assert_string_equal(got->data, expected.data != NULL ? expected.data : "");
        expected.destination = got->destination;
        expected.type = got->type;
        expected.source = got->source;
        expected.data = got->data;
        if (got->attributes_set != expected.attributes_set ||
            got->attributes_cleared != expected.attributes_cleared ||
            got->recursive_attributes_set != expected.recursive_attributes_set ||
            got->recursive_attributes_cleared != expected.recursive_attributes_cleared ||
            got->superblock_flags != expected.superblock_flags ||
            got->superblock_cleared != expected.superblock_cleared ||
            got->propagation != expected.propagation || got->is_bind != expected.is_bind ||
            got->is_recursive_bind != expected.is_recursive_bind ||
            got->has_idmap != expected.has_idmap ||
            got->is_recursive_idmap != expected.is_recursive_idmap ||
            got->is_remount != expected.is_remount || got->copies_up != expected.copies_up) {
            fail_msg("%s", cases[i].options);
        }
        spec_destroy(spec);
    }
}

/* The way of crun. */
static void mappings_as_options(void **state)
{
    struct spec *spec;
    const struct spec_mount *mount =
        mount_with("\"bind\", \"ridmap=uids=0-1000-10#10-20-5;gids=7-8-4294967286\"", &spec);
    assert_true(mount->has_idmap && mount->is_recursive_idmap);
    assert_int_equal(mount->uid_mappings.count, 2);
    assert_int_equal(mount->uid_mappings.item[1].container_id, 10);
    assert_int_equal(mount->uid_mappings.item[1].host_id, 20);
    assert_int_equal(mount->uid_mappings.item[1].size, 5);
    assert_int_equal(mount->gid_mappings.count, 1);
    assert_true(mount->gid_mappings.item[0].size == 4294967286);
    assert_string_equal(mount->data, "");
    spec_destroy(spec);
}

static void resources(void **state)
{
    static const char text[] =
        "{\"devices\": [{\"allow\": true, \"type\": \"c\", \"major\": 10, \"access\": \"rm\"}, {\"allow\": false}, {\"allow\": true, \"access\": \"\"}], "
        "\"memory\": {\"limit\": 5, \"swap\": -1, \"disableOOMKiller\": true}, \"cpu\": {\"shares\": 3, "
        "\"quota\": -1, \"cpus\": \"0-1\"}, \"pids\": {\"limit\": 0}, \"blockIO\": "
        "{\"weightDevice\": [{\"major\": 8, \"minor\": 1, \"leafWeight\": 9}], "
        "\"throttleWriteIOPSDevice\": [{\"major\": 8, \"minor\": 2, \"rate\": 7}]}, "
        "\"hugepageLimits\": [{\"pageSize\": \"2MB\", \"limit\": 18446744073709551615}], "
        "\"network\": {\"classID\": 6, \"priorities\": [{\"name\": \"lo\", \"priority\": 4}]}, "
        "\"rdma\": {\"m\": {\"hcaObjects\": 2}}, \"unified\": {\"io.max\": \"1\"}}";
    struct spec *spec = NULL;
    assert_int_equal(spec_parse_resources(text, strlen(text), &spec, NULL), 0);
    const struct spec_resources *r = &spec->linux_.resources;
    assert_false(spec->has_process);
    assert_int_equal(r->device_count, 3);
    assert_true(r->devices[1].can_read && r->devices[1].can_write && r->devices[1].can_mknod &&
                r->devices[1].type == 'a');
    assert_false(r->devices[2].can_read || r->devices[2].can_write || r->devices[2].can_mknod);
    assert_true(r->devices[0].is_allowed && r->devices[0].can_read && !r->devices[0].can_write &&
                r->devices[0].can_mknod);
    assert_true(r->devices[0].type == 'c' && r->devices[0].major == 10 &&
                r->devices[0].minor == -1);
    assert_true(r->memory.limit.value == 5 && r->memory.swap.value == -1);
    assert_true(r->memory.disables_oom_killer.value && !r->memory.uses_hierarchy.has);
    assert_true(!r->memory.reservation.has && r->cpu.shares.value == 3);
    assert_true(r->cpu.quota_us.has && r->cpu.quota_us.value == -1);
    assert_string_equal(r->cpu.cpus, "0-1");
    assert_null(r->cpu.mems);
    assert_true(r->pids_limit.has && r->pids_limit.value == 0);
    assert_true(r->block_io.weights.item[0].leaf_weight == 9);
    assert_true(r->block_io.write_iops.item[0].minor == 2 &&
                r->block_io.write_iops.item[0].value == 7);
    assert_true(r->hugepages[0].limit_bytes == UINT64_MAX);
    assert_true(r->network.class_id.value == 6 && r->network.priorities[0].priority == 4);
    assert_string_equal(r->rdma[0].device, "m");
    assert_true(r->rdma[0].objects.value == 2 && !r->rdma[0].handles.has);
    assert_string_equal(r->unified.item[0].name, "io.max");
    spec_destroy(spec);
}

static void linux_section(void **state)
{
    static const char text[] = HEAD
        "\"hooks\": {\"poststop\": [{\"path\": \"/h\", \"timeout\": 5}]}, \"annotations\": {\"a.b\": "
        "\"c\"}, \"linux\": {\"namespaces\": [{\"type\": \"mount\"}, {\"type\": \"time\"}, {\"type\": \"ipc\", \"path\": "
        "\"/n\"}, {\"type\": \"network\"}], \"timeOffsets\": {\"boottime\": {\"secs\": -5}}, "
        "\"devices\": [{\"path\": \"/d\", \"type\": \"u\", \"major\": 1, \"minor\": 2, "
        "\"fileMode\": 8630}], \"netDevices\": {\"eth0\": {\"name\": \"e1\"}, \"eth1\": {}}, "
        "\"personality\": {\"domain\": \"LINUX32\"}, \"rootfsPropagation\": \"slave\", "
        "\"memoryPolicy\": {\"mode\": \"MPOL_BIND\", \"nodes\": \"0\", \"flags\": "
        "[\"MPOL_F_STATIC_NODES\"]}, \"seccomp\" : { \"defaultAction\": \"SCMP_ACT_ERRNO\" , "
        "\"architectures\":[\"SCMP_ARCH_X86\"], \"listenerMetadata\": \"a \\\" b\", "
        "\"listenerPath\": \"/s\", \"flags\": [\"SECCOMP_FILTER_FLAG_LOG\"], \"syscalls\": "
        "[{\"names\": [\"read\"], \"action\": \"SCMP_ACT_TRACE\", \"errnoRet\": 7, \"args\": "
        "[{\"index\": 5, \"value\": 18446744073709551615, \"op\": \"SCMP_CMP_GE\"}]}]}}}";
    struct spec *spec = parse(text);
    const struct spec_linux *l = &spec->linux_;
    assert_null(spec_find_namespace(spec, CLONE_NEWUSER));
    assert_null(spec_find_namespace(spec, CLONE_NEWNS)->path);
    assert_string_equal(spec_find_namespace(spec, CLONE_NEWIPC)->path, "/n");
    assert_true(l->boottime.is_set && l->boottime.seconds == -5 && !l->monotonic.is_set);
    assert_true(l->devices[0].type == 'c' && l->devices[0].file_mode.value == 0666);
    assert_string_equal(l->net_devices[0].new_name, "e1");
    assert_null(l->net_devices[1].new_name);
    assert_true(l->has_personality && l->personality == 8);
    assert_true(l->rootfs_propagation == MS_SLAVE);
    assert_int_equal(l->memory_policy.mode, 2 | 1 << 15);
    assert_string_equal(spec->hooks.poststop.item[0].path, "/h");
    assert_int_equal(spec->hooks.poststop.item[0].timeout.value, 5);
    assert_string_equal(spec->annotations.item[0].name, "a.b");
    assert_true(l->seccomp.default_action == SCMP_ACT_ERRNO(EPERM));
    assert_true(l->seccomp.architectures[0] == SCMP_ARCH_X86);
    assert_int_equal(l->seccomp.flags, 2);
    assert_true(l->seccomp.rules[0].action == SCMP_ACT_TRACE(7));
    assert_true(l->seccomp.rules[0].args[0].value == UINT64_MAX &&
                l->seccomp.rules[0].args[0].op == SCMP_CMP_GE);
    assert_string_equal(l->seccomp.listener_metadata, "a \" b");
    /* The filter does not depend on whom it notifies: containers share it. */
    static const char source[] =
        "{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"architectures\":[\"SCMP_ARCH_X86\""
        "],\"listenerMetadata\":,\"listenerPath\":,\"flags\":[";
    assert_memory_equal(l->seccomp.source, source, strlen(source));
    spec_destroy(spec);
}

static void versions(void **state)
{
    static const struct {
        const char *version;
        bool is_right;
    } cases[] = {
        {"1.0.0", true},   {"1.0.2-dev", true},   {"1.2.0+build.5", true}, {"1.9.0-rc.1+x", true},
        {"1.0", false},    {"0.9.0", false},      {"2.0.0", false},        {"01.0.0", false},
        {"1.0.0-", false}, {"1.0.0-a..b", false}, {"1.0.0 ", false},       {"1.0.0+", false},
        {"v1.0.0", false}, {"", false},           {"10.0.0", false},       {"1.0.0-a.", false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char text[256];
        struct spec *spec = NULL;
        (void)snprintf(text, sizeof(text), "{\"ociVersion\": \"%s\", \"root\": {\"path\": \"r\"}}",
                       cases[i].version);
        int rc = spec_parse(text, strlen(text), &spec, NULL);
        if (rc != (cases[i].is_right ? 0 : -EINVAL)) {
            fail_msg("%s gives %d", cases[i].version, rc);
        }
        spec_destroy(spec);
    }
}

static void malformed_text(void **state)
{
    static const struct {
        const char *text, *error;
    } cases[] = {
        {"", "line 1, column 1: the text ends too early"},
        {"{\"a\": 1,\n  \"b\" 2}", "line 2, column 7: a colon must follow the key"},
        {"{\"a\": 1,\n  \"ä\": 2,}", "line 2, column 10: a key in quotes must stand here"},
        {"[1 2]", "line 1, column 4: a comma or ] must stand here"},
        {"{\"a\": 01}", "line 1, column 7: a number must not begin with 0"},
        {"{\"a\": 1.}", "line 1, column 9: a digit must follow the point"},
        {"{\"a\": tru}", "line 1, column 7: a value must stand here"},
        {"{\"a\": \"x\ny\"}", "line 1, column 9: the string has no end in its line"},
        {"{\"a\": \"\\x\"}",
         "line 1, column 9: no such escape: \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX are there"},
        {"{\"a\": \"\\ud800\"}", "line 1, column 10: half a surrogate pair"},
        {"{\"a\": \"\xff\"}", "line 1, column 8: this is not UTF-8"},
        {"{\"a\": \"\xc0\x80\"}", "line 1, column 8: this is not UTF-8"},
        {"{} x", "line 1, column 4: something stands behind the document's end"},
        {"{\"a\": \"abc", "line 1, column 11: the text ends too early"},
        {"{\"b\": {\"a\": 1, \"a\": 2}}", "line 1, column 17: key 'a' stands twice in its object"},
        {"[]", "must be an object, not a list"},
        {"{}", "ociVersion: is required, but not given"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct spec *spec = NULL;
        struct error err = {0};
        assert_int_equal(spec_parse(cases[i].text, strlen(cases[i].text), &spec, &err), -EINVAL);
        assert_string_equal(err.text, cases[i].error);
    }
}

/* Objects of many keys are looked at in another way. */
static void many_keys(void **state)
{
    for (unsigned twice = 0; twice < 2; twice++) {
        size_t size = 0, room = 64u << 10;
        char *text = malloc(room);
        size += (size_t)snprintf(text + size, room - size, HEAD "\"annotations\": {");
        for (unsigned i = 0; i < 1000; i++) {
            size += (size_t)snprintf(text + size, room - size, "\"k%u\": \"\", ", i);
        }
        size +=
            (size_t)snprintf(text + size, room - size, "\"%s\": \"\"}}", twice ? "k500" : "k5000");
        struct spec *spec = NULL;
        struct error err = {0};
        assert_int_equal(spec_parse(text, size, &spec, &err), twice ? -EINVAL : 0);
        assert_true(twice ? strstr(err.text, "key 'k500' stands twice") != NULL
                          : spec->annotations.count == 1001);
        spec_destroy(spec);
        free(text);
    }
}

static void too_much(void **state)
{
    size_t size = (16u << 20) + 1;
    char *text = malloc(size);
    struct spec *spec = NULL;
    struct error err = {0};
    memset(text, '[', 65);
    assert_int_equal(spec_parse(text, 65, &spec, &err), -E2BIG);
    assert_string_equal(err.text, "line 1, column 66: more than 64 levels of brackets");
    assert_int_equal(spec_parse(text, 64, &spec, &err), -EINVAL);
    memset(text, ' ', size);
    assert_int_equal(spec_parse(text, size, &spec, &err), -E2BIG);
    for (size_t i = 0; i < size; i++) {
        text[i] = i % 2 == 0 ? ',' : '1';
    }
    text[0] = '[';
    assert_int_equal(spec_parse(text, size - 1, &spec, &err), -E2BIG);
    assert_non_null(strstr(err.text, "the document takes too much memory"));
    free(text);
}

static void names(void **state)
{
    static const struct {
        const char *name;
        int signal;
    } signals[] = {
        {"TERM", 15},     {"SIGTERM", 15},    {"sigkill", 9}, {"15", 15},       {"RTMIN+3", 37},
        {"SIGRTMIN", 34}, {"SIGRTMAX-1", 63}, {"64", 64},     {"0", 0},         {"65", -1},
        {"RTMIN+31", -1}, {"RTMIN+", -1},     {"FOO", -1},    {"", -1},         {"-1", -1},
        {"RTMAX-31", -1}, {"SIGSIGTERM", -1}, {"SIG15", -1},  {"RTMIN+30", 64}, {"1 ", -1},
    };
    for (size_t i = 0; i < ARRAY_COUNT(signals); i++) {
        int signal = -1;
        int rc = spec_parse_signal(signals[i].name, &signal, NULL);
        if (signal != signals[i].signal || (rc < 0) != (signals[i].signal < 0)) {
            fail_msg("%s is %d", signals[i].name, signal);
        }
    }
    uint8_t number = 0;
    struct error err = {0};
    assert_int_equal(spec_parse_capability("sys_admin", &number, NULL), 0);
    assert_int_equal(number, 21);
    assert_int_equal(spec_parse_capability("CAP_BPF", &number, NULL), 0);
    assert_int_equal(number, 39);
    assert_int_equal(spec_parse_capability("CAP_", &number, &err), -EINVAL);
    assert_int_equal(spec_parse_capability("CAP_CAP_BPF", &number, &err), -EINVAL);
    assert_non_null(strstr(err.text, "'CAP_CAP_BPF' is no capability"));
}

static void files(void **state)
{
    struct spec *spec = NULL;
    struct error err = {0};
    assert_int_equal(spec_load("/nowhere/config.json", &spec, &err), -ENOENT);
    assert_string_equal(err.text, "opening /nowhere/config.json: No such file or directory");
    assert_true(spec_load("/", &spec, &err) < 0);
    spec_destroy(NULL);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(processes),
        cmocka_unit_test(mounts),
        cmocka_unit_test(mappings_as_options),
        cmocka_unit_test(resources),
        cmocka_unit_test(linux_section),
        cmocka_unit_test(versions),
        cmocka_unit_test(malformed_text),
        cmocka_unit_test(many_keys),
        cmocka_unit_test(too_much),
        cmocka_unit_test(names),
        cmocka_unit_test(files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
