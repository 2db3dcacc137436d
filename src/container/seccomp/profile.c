/* The profile: all names that libseccomp has for the host's architectures, less those of the table. */
#include "container/seccomp/profile.h"

#include <errno.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/compiler.h"
#include "base/host/file.h"

#define NUMBERS_END 1024 /* beyond all calls of these architectures */

/* EPERM: the host's administrator's. ENOSYS: programs have another way, or the call is one of the past. */
static const struct {
    const char *name;
    int error;
    bool is_for_nesting; /* allowed there */
} refused[] = {
    /* kernel and modules */
    {"init_module", EPERM},
    {"finit_module", EPERM},
    {"delete_module", EPERM},
    {"kexec_load", EPERM},
    {"kexec_file_load", EPERM},
    {"bpf", EPERM, true},
    {"perf_event_open", EPERM},
    {"lookup_dcookie", EPERM},
    /* hardware */
    {"iopl", EPERM},
    {"ioperm", EPERM},
    {"pciconfig_iobase", EPERM},
    {"pciconfig_read", EPERM},
    {"pciconfig_write", EPERM},
    /* files without a path to them, swap, accounting, quotas: of the file system as a whole */
    {"open_by_handle_at", EPERM},
    {"swapon", EPERM},
    {"swapoff", EPERM},
    {"acct", EPERM},
    {"quotactl", EPERM},
    {"quotactl_fd", EPERM},
    /* the host's clock */
    {"settimeofday", EPERM},
    {"stime", EPERM},
    {"clock_settime", EPERM},
    {"clock_settime64", EPERM},
    {"clock_adjtime", EPERM},
    {"clock_adjtime64", EPERM},
    {"adjtimex", EPERM},
    /* much code of the kernel that programs can do without */
    {"io_uring_setup", ENOSYS},
    {"io_uring_enter", ENOSYS},
    {"io_uring_register", ENOSYS},
    {"userfaultfd", ENOSYS},
    /* keys are not divided by namespaces */
    {"add_key", ENOSYS, true},
    {"keyctl", ENOSYS, true},
    {"request_key", ENOSYS, true},
    /* the past */
    {"nfsservctl", ENOSYS},
    {"vm86", ENOSYS},
    {"vm86old", ENOSYS},
    {"uselib", ENOSYS},
    {"ustat", ENOSYS},
    {"sysfs", ENOSYS},
    {"_sysctl", ENOSYS},
    {"create_module", ENOSYS},
    {"get_kernel_syms", ENOSYS},
    {"query_module", ENOSYS},
};

static const struct {
    uint32_t native, with; /* whose programs it runs as well */
    const char *names[2];
} families[] = {
    {SCMP_ARCH_X86_64, SCMP_ARCH_X86, {"SCMP_ARCH_X86_64", "SCMP_ARCH_X86"}},
    {SCMP_ARCH_AARCH64, SCMP_ARCH_ARM, {"SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"}},
};

static bool is_refused(const char *name, bool may_nest)
{
    for (size_t i = 0; i < ARRAY_COUNT(refused); i++) {
        if (strcmp(refused[i].name, name) == 0) {
            return !(may_nest && refused[i].is_for_nesting);
        }
    }
    return false;
}

/* Each name once: 'names' is an object that is used as a set. */
static void add_names(json_t *names, uint32_t token, const struct seccomp_profile_options *options)
{
    for (int number = 0; number < NUMBERS_END; number++) {
        AUTO_FREE char *name = seccomp_syscall_resolve_num_arch(token, number);
        bool is_notified =
            name != NULL && options->sysinfo_listener != NULL && strcmp(name, "sysinfo") == 0;
        if (name != NULL && !is_notified && !is_refused(name, options->may_nest)) {
            (void)json_object_set_new(names, name, json_null());
        }
    }
}

static json_t *refusal(int error, bool may_nest)
{
    json_t *names = json_array();
    for (size_t i = 0; i < ARRAY_COUNT(refused); i++) {
        if (refused[i].error == error && is_refused(refused[i].name, may_nest)) {
            (void)json_array_append_new(names, json_string(refused[i].name));
        }
    }
    return json_pack("{s:o, s:s, s:i}", "names", names, "action", "SCMP_ACT_ERRNO", "errnoRet",
                     error);
}

json_t *seccomp_default_profile(const struct seccomp_profile_options *options)
{
    json_t *architectures = json_array(), *set = json_object(), *names = json_array();
    uint32_t native = seccomp_arch_native();
    add_names(set, native, options);
    for (size_t i = 0; i < ARRAY_COUNT(families); i++) {
        if (families[i].native == native) {
            add_names(set, families[i].with, options);
            (void)json_array_append_new(architectures, json_string(families[i].names[0]));
            (void)json_array_append_new(architectures, json_string(families[i].names[1]));
        }
    }
    const char *name;
    json_t *unused;
    json_object_foreach(set, name, unused)
    {
        (void)json_array_append_new(names, json_string(name));
    }
    json_decref(set);
    json_t *rules =
        json_pack("[{s:o, s:s}, o, o]", "names", names, "action", "SCMP_ACT_ALLOW",
                  refusal(EPERM, options->may_nest), refusal(ENOSYS, options->may_nest));
    json_t *profile =
        json_pack("{s:s, s:i, s:o, s:o}", "defaultAction", "SCMP_ACT_ERRNO", "defaultErrnoRet",
                  ENOSYS, "architectures", architectures, "syscalls", rules);
    if (options->sysinfo_listener != NULL && profile != NULL) {
        (void)json_array_append_new(
            rules, json_pack("{s:[s], s:s}", "names", "sysinfo", "action", "SCMP_ACT_NOTIFY"));
        (void)json_object_set_new(profile, "listenerPath", json_string(options->sysinfo_listener));
    }
    return profile;
}
