/* Device rules in the kernel. */
#include "container/cgroup/devices.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/host/file.h"
#include "container/cgroup/device_program.h"
#include "container/cgroup/tree.h"

#define FIELD        "linux.resources.devices"
#define PROGRAM_NAME "hull_devices" /* 15 characters at most */
#define MAX_PROGRAMS 64             /* of one group: the kernel's own limit */

static int bpf(enum bpf_cmd command, union bpf_attr *attr)
{
    long rc = syscall(SYS_bpf, command, attr, sizeof(*attr));
    return rc < 0 ? -errno : (int)rc;
}

static int load_program(const struct bpf_insn *program, size_t count)
{
    union bpf_attr attr = {0};
    attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    attr.insns = (uintptr_t)program;
    attr.insn_cnt = (uint32_t)count;
    attr.license = (uintptr_t) "Apache-2.0";
    memcpy(attr.prog_name, PROGRAM_NAME, sizeof(PROGRAM_NAME));
    return bpf(BPF_PROG_LOAD, &attr);
}

/* The filter that an earlier call has put there; others may have theirs as well. -ENOENT: there is none. */
static int find_program(int group_fd)
{
    uint32_t ids[MAX_PROGRAMS];
    union bpf_attr attr = {0};
    attr.query.target_fd = (uint32_t)group_fd;
    attr.query.attach_type = BPF_CGROUP_DEVICE;
    attr.query.prog_ids = (uintptr_t)ids;
    attr.query.prog_cnt = MAX_PROGRAMS;
    int rc = bpf(BPF_PROG_QUERY, &attr);
    if (rc < 0) {
        return rc;
    }
    uint32_t count = attr.query.prog_cnt;
    for (uint32_t i = 0; i < count && i < MAX_PROGRAMS; i++) {
        union bpf_attr by_id = {0};
        by_id.prog_id = ids[i];
        AUTO_HANDLE int fd = bpf(BPF_PROG_GET_FD_BY_ID, &by_id);
        if (fd < 0) {
            continue;
        }
        struct bpf_prog_info info = {0};
        union bpf_attr ask = {0};
        ask.info.bpf_fd = (uint32_t)fd;
        ask.info.info_len = sizeof(info);
        ask.info.info = (uintptr_t)&info;
        if (bpf(BPF_OBJ_GET_INFO_BY_FD, &ask) == 0 &&
            strncmp(info.name, PROGRAM_NAME, sizeof(info.name)) == 0) {
            return TAKE_FD(fd);
        }
    }
    return -ENOENT;
}

/* Filters of groups above, and of others here, go on to count: all have to agree. */
static int attach_program(int group_fd, int program_fd, bool is_new)
{
    AUTO_HANDLE int old_fd = -1;
    if (!is_new) {
        int found = find_program(group_fd);
        if (found < 0 && found != -ENOENT) {
            return found;
        }
        old_fd = found;
    }
    union bpf_attr attr = {0};
    attr.target_fd = (uint32_t)group_fd;
    attr.attach_bpf_fd = (uint32_t)program_fd;
    attr.attach_type = BPF_CGROUP_DEVICE;
    attr.attach_flags = BPF_F_ALLOW_MULTI;
    if (old_fd < 0) {
        return bpf(BPF_PROG_ATTACH, &attr);
    }
    attr.attach_flags |= BPF_F_REPLACE;
    attr.replace_bpf_fd = (uint32_t)old_fd;
    int rc = bpf(BPF_PROG_ATTACH, &attr);
    if (rc != -EINVAL) {
        return rc;
    }
    /* Before Linux 5.6: both count for a moment, so that nothing is allowed that neither does. */
    attr.attach_flags = BPF_F_ALLOW_MULTI;
    attr.replace_bpf_fd = 0;
    rc = bpf(BPF_PROG_ATTACH, &attr);
    if (rc == 0) {
        attr.attach_bpf_fd = (uint32_t)old_fd;
        attr.attach_flags = 0;
        rc = bpf(BPF_PROG_DETACH, &attr);
    }
    return rc;
}

/* Positive: this kernel, or these rights, have no filters. */
static int set_filter(const struct cgroup_place *place, const struct spec_resources *resources,
                      bool is_new, struct error *err)
{
    AUTO_FREE struct bpf_insn *program = NULL;
    size_t count;
    int rc =
        device_program_create(resources->devices, resources->device_count, &program, &count, err);
    if (rc < 0) {
        return rc;
    }
    AUTO_HANDLE int program_fd = load_program(program, count);
    if (program_fd < 0) {
        return program_fd == -EPERM || program_fd == -ENOSYS || program_fd == -EINVAL
                   ? -program_fd
                   : error_set_errno(err, -program_fd, FIELD ": loading the filter");
    }
    AUTO_HANDLE int group_fd = place_open_group(place);
    rc = group_fd < 0 ? group_fd : attach_program(group_fd, program_fd, is_new);
    if (rc == -EPERM || rc == -EACCES) {
        return -rc;
    }
    return rc < 0
               ? error_set_errno(err, -rc, FIELD ": attaching the filter to group /%s", place->path)
               : 0;
}

/* "c 1:3 rwm" as devices.allow and devices.deny take it. */
#define RULE_SIZE 64
static void print_rule(const struct spec_device_rule *rule, char out_text[RULE_SIZE])
{
    char major[24] = "*", minor[24] = "*";
    if (rule->major >= 0) {
        (void)snprintf(major, sizeof(major), "%lld", (long long)rule->major);
    }
    if (rule->minor >= 0) {
        (void)snprintf(minor, sizeof(minor), "%lld", (long long)rule->minor);
    }
    (void)snprintf(out_text, RULE_SIZE, "%c %s:%s %s%s%s", rule->type, major, minor,
                   rule->can_read ? "r" : "", rule->can_write ? "w" : "",
                   rule->can_mknod ? "m" : "");
}

static int write_rule(int group_fd, const struct spec_device_rule *rule, struct error *err)
{
    char text[RULE_SIZE] = "a";
    bool is_all = rule->type == 'a' || rule->type == '\0';
    bool has_all_rights = rule->can_read && rule->can_write && rule->can_mknod;
    /* For v1 "a" is everything with all rights. What is less is said of both types. */
    for (int i = 0; i < (is_all && !has_all_rights ? 2 : 1); i++) {
        struct spec_device_rule one = *rule;
        if (is_all && !has_all_rights) {
            one.type = "cb"[i];
            one.major = one.minor = -1;
        }
        if (!is_all || !has_all_rights) {
            print_rule(&one, text);
        }
        int rc = control_write(group_fd, rule->is_allowed ? "devices.allow" : "devices.deny", text);
        if (rc < 0) {
            return error_set_errno(err, -rc, FIELD ": writing \"%s\" to devices.%s", text,
                                   rule->is_allowed ? "allow" : "deny");
        }
    }
    return 0;
}

static int set_controller(const struct cgroup_place *place, const struct spec_resources *resources,
                          struct error *err)
{
    static const struct spec_device_rule deny_all = {.type = 'a',
                                                     .major = -1,
                                                     .minor = -1,
                                                     .can_read = true,
                                                     .can_write = true,
                                                     .can_mknod = true};
    AUTO_HANDLE int group_fd = place_open_group(place);
    if (group_fd < 0) {
        return error_set_errno(err, -group_fd, FIELD ": opening group /%s", place->path);
    }
    int rc = write_rule(group_fd, &deny_all, err);
    for (size_t i = 0; rc == 0 && i < resources->device_count; i++) {
        rc = write_rule(group_fd, &resources->devices[i], err);
    }
    for (size_t i = 0; rc == 0 && i < device_default_rule_count; i++) {
        rc = write_rule(group_fd, &device_default_rules[i], err);
    }
    return rc;
}

int cgroup_set_devices(const struct cgroup *cgroup, const struct spec_resources *resources,
                       bool is_new, struct degrade *degrade, struct error *err)
{
    const struct cgroup_place *unified = cgroup_find_unified(cgroup);
    const struct cgroup_place *v1 = cgroup_find_v1(cgroup, CGROUP_DEVICES);
    int refused = ENOENT;
    if (unified != NULL) {
        refused = set_filter(unified, resources, is_new, err);
        if (refused <= 0) {
            return refused;
        }
    }
    if (v1 != NULL && !cgroup->is_rootless) {
        return set_controller(v1, resources, err);
    }
    if (cgroup->is_rootless || cgroup->count == 0) {
        if (resources->device_count > 0) {
            degrade_add(degrade, FIELD, "a device filter: %s", strerror(refused));
        }
        return 0;
    }
    return error_set_errno(err, refused, FIELD ": loading the filter");
}
