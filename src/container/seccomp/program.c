/* A program's life: made or found in the cache, installed, freed. */
#include "container/seccomp/program.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1u << 5)
#endif

struct seccomp_program *seccomp_program_alloc(size_t count)
{
    struct seccomp_program *program = malloc(sizeof(*program) + count * sizeof(program->filter[0]));
    if (program != NULL) {
        *program = (struct seccomp_program){.count = (uint16_t)count};
    }
    return program;
}

void seccomp_program_free(struct seccomp_program *program)
{
    free(program);
}

bool seccomp_program_notifies(const struct seccomp_program *program)
{
    return program->notifies;
}

/* The kernel looks at the flags before it looks at the filter. */
static bool is_flag_known(uint32_t flag)
{
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flag, NULL) < 0 && errno == EFAULT;
}

static uint32_t usable_flags(const struct spec_seccomp *seccomp, bool notifies,
                             struct degrade *degrade)
{
    static const struct {
        uint32_t flag, needs;
        const char *name;
    } known[] = {
        {SECCOMP_FILTER_FLAG_TSYNC, 0, "SECCOMP_FILTER_FLAG_TSYNC"},
        {SECCOMP_FILTER_FLAG_LOG, 0, "SECCOMP_FILTER_FLAG_LOG"},
        {SECCOMP_FILTER_FLAG_SPEC_ALLOW, 0, "SECCOMP_FILTER_FLAG_SPEC_ALLOW"},
        {SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, SECCOMP_FILTER_FLAG_NEW_LISTENER,
         "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"},
    };
    uint32_t flags = notifies ? SECCOMP_FILTER_FLAG_NEW_LISTENER : 0;
    for (size_t i = 0; i < ARRAY_COUNT(known); i++) {
        uint32_t flag = known[i].flag;
        bool is_wanted = (seccomp->flags & flag) != 0 && (known[i].needs & ~flags) == 0;
        if (is_wanted && !is_flag_known(flag | known[i].needs)) {
            degrade_add(degrade, "linux.seccomp.flags", "the kernel has no %s", known[i].name);
        } else if (is_wanted) {
            flags |= flag;
        }
    }
    /* Both answers of the call would be numbers else: a thread that cannot follow, and a descriptor. */
    if (notifies && (flags & SECCOMP_FILTER_FLAG_TSYNC) != 0) {
        flags |= SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
    }
    return flags;
}

static bool has_notify(const struct seccomp_program *program)
{
    for (size_t i = 0; i < program->count; i++) {
        if (program->filter[i].code == (BPF_RET | BPF_K) &&
            program->filter[i].k == SECCOMP_RET_USER_NOTIF) {
            return true;
        }
    }
    return false;
}

int seccomp_program_create(const struct spec_seccomp *seccomp, const char *cache,
                           struct seccomp_program **out_program, struct degrade *degrade,
                           struct error *err)
{
    struct seccomp_program *program =
        cache != NULL ? seccomp_cache_find(cache, seccomp->source) : NULL;
    if (program == NULL) {
        size_t degraded = degrade->size;
        int rc = seccomp_compile(seccomp, &program, degrade, err);
        if (rc < 0) {
            return rc;
        }
        if (cache != NULL && degrade->size == degraded && !degrade->is_cut) {
            seccomp_cache_keep(cache, seccomp->source,
                               program); /* what was left out is told anew each time */
        }
    }
    program->notifies = has_notify(program);
    program->flags = usable_flags(seccomp, program->notifies, degrade);
    *out_program = program;
    return 0;
}

int seccomp_program_install(const struct seccomp_program *program, int *out_listener,
                            struct error *err)
{
    struct sock_fprog filter = {.len = program->count,
                                .filter = (struct sock_filter *)(uintptr_t)program->filter};
    long rc = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, program->flags, &filter);
    if (rc < 0) {
        return error_set_errno(err, errno, "installing the seccomp filter of linux.seccomp");
    }
    if (rc > 0 && !program->notifies) { /* SECCOMP_FILTER_FLAG_TSYNC */
        return error_set(err, ESRCH, "thread %ld cannot take the seccomp filter", rc);
    }
    *out_listener = program->notifies ? (int)rc : -1;
    return 0;
}
