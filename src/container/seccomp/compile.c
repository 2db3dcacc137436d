/* From rules to a filter, by libseccomp: number of each call on each architecture, and a binary tree of comparisons. */
#include <errno.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/core/cleanup.h"
#include "base/core/compiler.h"
#include "base/host/file.h"
#include "container/seccomp/program.h"

#define TREE_OF_COMPARISONS 2 /* SCMP_FLTATR_CTL_OPTIMIZE: a call costs log(n) instead of n */
#define MAX_ARGS            6

CLEANUP_DEFINE(release_context, scmp_filter_ctx, seccomp_release, NULL)
#define AUTO_CONTEXT __attribute__((cleanup(release_context)))

struct compiler {
    scmp_filter_ctx context;
    const struct spec_seccomp *seccomp;
    struct degrade *degrade;
    struct error *err;
};

static bool is_available(uint32_t action)
{
    uint32_t kind = action & SECCOMP_RET_ACTION_FULL;
    return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &kind) == 0;
}

/* What stands in for an action that came later than the first ones: never one that allows what was to be stopped. */
static uint32_t usable_action(struct compiler *compiler, uint32_t action)
{
    static const struct {
        uint32_t wanted, instead;
        const char *name;
    } younger[] = {
        {SCMP_ACT_LOG, SCMP_ACT_ALLOW, "SCMP_ACT_LOG: allowed without a log"},
        {SCMP_ACT_KILL_PROCESS, SCMP_ACT_KILL_THREAD,
         "SCMP_ACT_KILL_PROCESS: the thread is killed"},
        {SCMP_ACT_NOTIFY, SCMP_ACT_ERRNO(ENOSYS), "SCMP_ACT_NOTIFY: refused with ENOSYS"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(younger); i++) {
        if (action == younger[i].wanted && !is_available(action)) {
            degrade_add(compiler->degrade, "linux.seccomp", "the kernel has no %s",
                        younger[i].name);
            return younger[i].instead;
        }
    }
    return action;
}

static int fail(const struct compiler *compiler, int rc, size_t rule, const char *name)
{
    return error_set_errno(compiler->err, -rc, "linux.seccomp.syscalls[%zu]: %s", rule, name);
}

/* Of conditions on the same argument each is a rule of its own (so any of them is enough), as in runc and crun. */
static bool has_argument_twice(const struct spec_seccomp_rule *rule)
{
    unsigned seen = 0;
    bool is_twice = false;
    for (size_t i = 0; i < rule->arg_count; i++) {
        is_twice |= (seen >> rule->args[i].index & 1) != 0;
        seen |= 1u << rule->args[i].index;
    }
    return is_twice;
}

static struct scmp_arg_cmp condition(const struct spec_seccomp_arg *arg)
{
    return (struct scmp_arg_cmp){.arg = arg->index,
                                 .op = (enum scmp_compare)arg->op,
                                 .datum_a = arg->value,
                                 .datum_b = arg->value_two};
}

static int add_call(struct compiler *compiler, const struct spec_seccomp_rule *rule, int number,
                    uint32_t action)
{
    struct scmp_arg_cmp conditions[MAX_ARGS];
    if (!has_argument_twice(rule)) {
        for (size_t i = 0; i < rule->arg_count; i++) {
            conditions[i] = condition(&rule->args[i]);
        }
        return seccomp_rule_add_array(compiler->context, action, number, (unsigned)rule->arg_count,
                                      conditions);
    }
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < rule->arg_count; i++) {
        conditions[0] = condition(&rule->args[i]);
        rc = seccomp_rule_add_array(compiler->context, action, number, 1, conditions);
    }
    return rc;
}

static int add_rule(struct compiler *compiler, size_t index, uint32_t default_action)
{
    const struct spec_seccomp_rule *rule = &compiler->seccomp->rules[index];
    uint32_t action = usable_action(compiler, rule->action);
    if (action == default_action) {
        return 0; /* libseccomp refuses rules that say nothing */
    }
    for (size_t i = 0; i < rule->names.count; i++) {
        int number = seccomp_syscall_resolve_name(rule->names.item[i]);
        if (number == __NR_SCMP_ERROR) {
            continue; /* a profile names calls of younger kernels too */
        }
        int rc = add_call(compiler, rule, number, action);
        if (rc < 0) {
            return fail(compiler, rc, index, rule->names.item[i]);
        }
    }
    return 0;
}

static int add_architectures(struct compiler *compiler)
{
    const struct spec_seccomp *seccomp = compiler->seccomp;
    for (size_t i = 0; i < seccomp->architecture_count; i++) {
        int rc = seccomp_arch_add(compiler->context, seccomp->architectures[i]);
        if (rc == -EINVAL || rc == -EDOM) {
            degrade_add(compiler->degrade, "linux.seccomp.architectures",
                        "[%zu] is unknown to libseccomp or of another byte order: its calls are "
                        "not allowed",
                        i);
        } else if (rc < 0 && rc != -EEXIST) {
            return error_set_errno(compiler->err, -rc, "linux.seccomp.architectures[%zu]", i);
        }
    }
    return 0;
}

static int set_up(struct compiler *compiler)
{
    static const struct {
        enum scmp_filter_attr attribute;
        uint32_t value;
    } attributes[] = {
        {SCMP_FLTATR_API_SYSRAWRC, 1}, /* errors of the system as they are */
        {SCMP_FLTATR_CTL_OPTIMIZE, TREE_OF_COMPARISONS},
    };
    for (size_t i = 0; i < ARRAY_COUNT(attributes); i++) {
        int rc = seccomp_attr_set(compiler->context, attributes[i].attribute, attributes[i].value);
        if (rc < 0 && rc != -EOPNOTSUPP) {
            return error_set_errno(compiler->err, -rc, "setting up a seccomp filter");
        }
    }
    return add_architectures(compiler);
}

/* libseccomp writes to a descriptor only. */
static int export_filter(struct compiler *compiler, struct seccomp_program **out_program)
{
    AUTO_CLOSE int fd = memfd_create("seccomp", MFD_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(compiler->err, errno, "making room for a seccomp filter");
    }
    int rc = seccomp_export_bpf(compiler->context, fd);
    if (rc < 0) {
        return error_set_errno(compiler->err, -rc, "linux.seccomp: making a filter");
    }
    struct stat status;
    if (fstat(fd, &status) < 0) {
        return error_set_errno(compiler->err, errno, "measuring a seccomp filter");
    }
    struct sock_filter prefix[SECCOMP_YOUNGER_MAX];
    size_t prefix_count = seccomp_younger_prefix(compiler->seccomp, compiler->context, prefix);
    size_t own_count = (size_t)status.st_size / sizeof(struct sock_filter);
    size_t count = prefix_count + own_count;
    if (count > SECCOMP_MAX_INSTRUCTIONS) {
        return error_set(compiler->err, EINVAL,
                         "linux.seccomp: the filter has %zu instructions, the kernel takes %d",
                         count, SECCOMP_MAX_INSTRUCTIONS);
    }
    struct seccomp_program *program = seccomp_program_alloc(count);
    if (program == NULL) {
        return error_set_errno(compiler->err, ENOMEM, "a seccomp filter");
    }
    memcpy(program->filter, prefix, prefix_count * sizeof(prefix[0]));
    rc = file_read_at(fd, program->filter + prefix_count, own_count * sizeof(prefix[0]), 0,
                      "seccomp filter", compiler->err);
    if (rc < 0) {
        seccomp_program_free(program);
        return rc;
    }
    *out_program = program;
    return 0;
}

int seccomp_compile(const struct spec_seccomp *seccomp, struct seccomp_program **out_program,
                    struct degrade *degrade, struct error *err)
{
    struct compiler compiler = {.seccomp = seccomp, .degrade = degrade, .err = err};
    uint32_t default_action = usable_action(&compiler, seccomp->default_action);
    AUTO_CONTEXT scmp_filter_ctx context = seccomp_init(default_action);
    if (context == NULL) {
        return error_set(err, EINVAL, "linux.seccomp.defaultAction: libseccomp does not take it");
    }
    compiler.context = context;
    int rc = set_up(&compiler);
    for (size_t i = 0; rc == 0 && i < seccomp->rule_count; i++) {
        rc = add_rule(&compiler, i, default_action);
    }
    return rc < 0 ? rc : export_filter(&compiler, out_program);
}
