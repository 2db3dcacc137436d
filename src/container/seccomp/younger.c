/* Calls that are younger than a profile.
 *
 * A profile that refuses what it does not name with EPERM also refuses calls that were not there when it was written, and C libraries
 * fall back to older ones on ENOSYS only. So, as in runc, calls with higher numbers than all that the profile names are ENOSYS. It is
 * said by instructions in front of libseccomp's, which begin with a load of their own and so do not see what these have loaded. */
#include <errno.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stddef.h>
#include <string.h>

#include "base/core/compiler.h"
#include "container/seccomp/program.h"

#define X32_BIT    0x40000000u
#define PER_TOKEN  4 /* instructions */
#define MAX_TOKENS ((SECCOMP_YOUNGER_MAX - 3) / PER_TOKEN)

#define LOAD(member)         BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, member))
#define JUMP(how, k, jt, jf) BPF_JUMP(BPF_JMP | (how) | BPF_K, (k), (uint8_t)(jt), (uint8_t)(jf))

/* The highest number that a rule names, -1: none. */
static int highest_call(const struct spec_seccomp *seccomp, uint32_t token)
{
    int highest = -1;
    for (size_t i = 0; i < seccomp->rule_count; i++) {
        for (size_t j = 0; j < seccomp->rules[i].names.count; j++) {
            int number = seccomp_syscall_resolve_name_arch(token, seccomp->rules[i].names.item[j]);
            highest = MAX(highest, number); /* those that the architecture lacks are negative */
        }
    }
    return highest;
}

static size_t list_tokens(const struct spec_seccomp *seccomp, scmp_filter_ctx context,
                          uint32_t *tokens)
{
    size_t count = 0;
    tokens[count++] = seccomp_arch_native();
    for (size_t i = 0; i < seccomp->architecture_count && count < MAX_TOKENS; i++) {
        uint32_t token = seccomp->architectures[i];
        /* The kernel tells x32 by the number, not by the architecture: its calls are left to libseccomp. */
        if (token != SCMP_ARCH_NATIVE && token != tokens[0] && token != SCMP_ARCH_X32 &&
            seccomp_arch_exist(context, token) == 0) {
            tokens[count++] = token;
        }
    }
    return count;
}

size_t seccomp_younger_prefix(const struct spec_seccomp *seccomp, void *context,
                              struct sock_filter out[static SECCOMP_YOUNGER_MAX])
{
    uint32_t action = seccomp->default_action;
    if ((action & SECCOMP_RET_ACTION_FULL) != SECCOMP_RET_ERRNO ||
        action == SCMP_ACT_ERRNO(ENOSYS)) {
        return 0;
    }
    uint32_t tokens[MAX_TOKENS];
    int highest[MAX_TOKENS];
    size_t count = list_tokens(seccomp, context, tokens), used = 0;
    for (size_t i = 0; i < count; i++) {
        tokens[used] = tokens[i];
        highest[used] = highest_call(seccomp, tokens[i]);
        used += highest[used] >= 0;
    }
    if (used == 0) {
        return 0;
    }
    size_t end = 1 + PER_TOKEN * used; /* goes on in the filter; behind it is the answer */
    out[0] = (struct sock_filter)LOAD(arch);
    for (size_t i = 0; i < used; i++) {
        size_t at = 1 + PER_TOKEN * i;
        const struct sock_filter block[PER_TOKEN] = {
            JUMP(BPF_JEQ, tokens[i], 0, PER_TOKEN - 1),
            LOAD(nr),
            JUMP(BPF_JGE, X32_BIT, end - (at + 3), 0),
            JUMP(BPF_JGT, (uint32_t)highest[i], end + 1 - (at + 4), end - (at + 4)),
        };
        memcpy(out + at, block, sizeof(block));
    }
    out[end] = (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, 1);
    out[end + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS);
    return end + 2;
}
