/* Who the process is when the program begins: labels, groups, ids, capabilities. */
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "container/process/label.h"
#include "container/process/process.h"

#define ADMIN_BIT (UINT64_C(1) << CAP_SYS_ADMIN)

struct sets {
    uint64_t effective, permitted, inheritable;
};

static int get_sets(struct sets *out)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) < 0) {
        return -errno;
    }
    *out = (struct sets){
        .effective = data[0].effective | (uint64_t)data[1].effective << 32,
        .permitted = data[0].permitted | (uint64_t)data[1].permitted << 32,
        .inheritable = data[0].inheritable | (uint64_t)data[1].inheritable << 32,
    };
    return 0;
}

static int put_sets(const struct sets *sets)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {
        {(uint32_t)sets->effective, (uint32_t)sets->permitted, (uint32_t)sets->inheritable},
        {(uint32_t)(sets->effective >> 32), (uint32_t)(sets->permitted >> 32),
         (uint32_t)(sets->inheritable >> 32)},
    };
    return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

static void tell_missing(struct degrade *degrade, const char *field, uint64_t missing)
{
    if (missing == 0) {
        return;
    }
    char text[256];
    size_t used = 0;
    for (int i = 0; i < 64 && used < sizeof(text) - 8; i++) {
        if (missing & UINT64_C(1) << i) {
            used += (size_t)snprintf(text + used, sizeof(text) - used, " %d", i);
        }
    }
    degrade_add(degrade, field, "the host does not grant capabilities of number%s", text);
}

/* Takes from the bounding set all that is not wanted; returns what is left of it, or -errno. */
static int drop_bounding(uint64_t wanted, uint64_t *out_left)
{
    uint64_t left = 0;
    for (int i = 0; i < 64; i++) {
        int is_there = prctl(PR_CAPBSET_READ, i, 0, 0, 0);
        if (is_there < 0) {
            break; /* beyond the last one that the kernel knows */
        }
        if (is_there && (wanted & UINT64_C(1) << i)) {
            left |= UINT64_C(1) << i;
        } else if (is_there && prctl(PR_CAPBSET_DROP, i, 0, 0, 0) < 0) {
            return -errno;
        }
    }
    *out_left = left;
    return 0;
}

static int set_groups(const struct spec_process *process, struct degrade *degrade,
                      struct error *err)
{
    if (setgroups(process->additional_gid_count, process->additional_gids) == 0) {
        return 0;
    }
    if (errno == EPERM) { /* a user namespace of somebody who may not leave his groups */
        if (process->additional_gid_count > 0) {
            degrade_add(degrade, "process.user.additionalGids",
                        "setgroups is denied in this user namespace");
        }
        return 0;
    }
    return error_set_errno(err, errno, "process.user.additionalGids");
}

static int set_ids(const struct spec_process *process, struct error *err)
{
    if (setresgid(process->gid, process->gid, process->gid) < 0) {
        return error_set_errno(err, errno, "process.user.gid: becoming %u%s", process->gid,
                               errno == EINVAL ? " (is it mapped?)" : "");
    }
    if (setresuid(process->uid, process->uid, process->uid) < 0) {
        return error_set_errno(err, errno, "process.user.uid: becoming %u%s", process->uid,
                               errno == EINVAL ? " (is it mapped?)" : "");
    }
    return 0;
}

/* What is wanted and may be had. */
static struct sets limit_sets(const struct spec_process *process, const struct sets *now)
{
    uint64_t permitted = process->permitted & now->permitted;
    return (struct sets){
        .permitted = permitted,
        .effective = process->effective & permitted,
        .inheritable = process->inheritable & (now->permitted | now->inheritable),
    };
}

static int set_ambient(const struct spec_process *process, const struct sets *sets,
                       struct degrade *degrade, struct error *err)
{
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0) {
        return error_set_errno(err, errno, "process.capabilities.ambient: clearing");
    }
    uint64_t possible = process->ambient & sets->permitted & sets->inheritable;
    tell_missing(degrade, "process.capabilities.ambient", process->ambient & ~possible);
    for (int i = 0; i < 64 && possible >> i != 0; i++) {
        if ((possible & UINT64_C(1) << i) &&
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0) < 0) {
            return error_set_errno(err, errno, "process.capabilities.ambient: number %d", i);
        }
    }
    return 0;
}

static int set_capabilities(const struct spec_process *process, bool keeps_admin,
                            const struct sets *before, struct degrade *degrade, struct error *err)
{
    struct sets sets = limit_sets(process, before);
    tell_missing(degrade, "process.capabilities.permitted", process->permitted & ~sets.permitted);
    tell_missing(degrade, "process.capabilities.inheritable",
                 process->inheritable & ~sets.inheritable);
    for (size_t i = 0; i < process->unknown_capabilities.count; i++) {
        degrade_add(degrade, "process.capabilities", "%s is not known here",
                    process->unknown_capabilities.item[i]);
    }
    struct sets kept = sets;
    if (keeps_admin) {
        kept.permitted |= before->permitted & ADMIN_BIT;
        kept.effective |= before->permitted & ADMIN_BIT;
    }
    int rc = put_sets(&kept);
    return rc < 0 ? error_set_errno(err, -rc, "process.capabilities")
                  : set_ambient(process, &sets, degrade, err);
}

int process_set_identity(const struct spec_process *process, bool keeps_seccomp_right,
                         struct degrade *degrade, struct error *err)
{
    int rc = label_set_exec(process, degrade, err);
    rc = rc < 0 ? rc : set_groups(process, degrade, err);
    if (rc < 0) {
        return rc;
    }
    struct sets before = {0};
    if (process->has_capabilities) {
        uint64_t bounding = 0;
        rc = get_sets(&before);
        rc = rc < 0 ? rc : drop_bounding(process->bounding, &bounding);
        if (rc < 0) {
            return error_set_errno(err, -rc, "process.capabilities.bounding");
        }
        tell_missing(degrade, "process.capabilities.bounding", process->bounding & ~bounding);
    }
    /* Without it a change from root to another id takes all permitted capabilities along. */
    bool keeps = process->has_capabilities || keeps_seccomp_right;
    if (keeps && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0) {
        return error_set_errno(err, errno, "keeping capabilities over the change of ids");
    }
    rc = set_ids(process, err);
    if (rc == 0 && process->has_capabilities) {
        rc = set_capabilities(process, keeps_seccomp_right, &before, degrade, err);
    } else if (rc == 0 && keeps_seccomp_right && process->uid != 0) {
        rc = get_sets(&before);
        before.effective = before.permitted & ADMIN_BIT;
        rc = rc < 0 ? rc : put_sets(&before);
        rc = rc < 0 ? error_set_errno(err, -rc, "process.capabilities") : 0;
    }
    if (rc == 0 && keeps && prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) < 0) {
        rc = error_set_errno(err, errno, "process.capabilities");
    }
    if (rc == 0 && process->no_new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        rc = error_set_errno(err, errno, "process.noNewPrivileges");
    }
    return rc;
}

int process_drop_rest(const struct spec_process *process, struct error *err)
{
    struct sets now, sets = {0};
    int rc = get_sets(&now);
    if (rc == 0) {
        if (process->has_capabilities) {
            sets = limit_sets(process, &now);
        } else if (process->uid == 0) {
            return 0;
        }
        rc = put_sets(&sets);
    }
    return rc < 0 ? error_set_errno(err, -rc, "process.capabilities") : 0;
}
