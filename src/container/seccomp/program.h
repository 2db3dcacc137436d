/* What the files of this folder share: a filter as the kernel takes it. */
#ifndef CONTAINER_SECCOMP_PROGRAM_H
#define CONTAINER_SECCOMP_PROGRAM_H

#include <linux/filter.h>

#include "container/seccomp/seccomp.h"

#define SECCOMP_MAX_INSTRUCTIONS BPF_MAXINSNS

struct seccomp_program {
    uint32_t flags; /* SECCOMP_FILTER_FLAG_* */
    bool notifies;
    uint16_t count;
    struct sock_filter filter[];
};

/* Memory for a program of 'count' instructions. NULL: there is none. */
struct seccomp_program *seccomp_program_alloc(size_t count);

/* By libseccomp. Flags are left to the caller. */
int must_check seccomp_compile(const struct spec_seccomp *seccomp,
                               struct seccomp_program **out_program, struct degrade *degrade,
                               struct error *err);

/* Instructions for in front of the filter that libseccomp makes of 'context' (scmp_filter_ctx), which answer ENOSYS for calls younger than
 * the profile where its default action is another errno. Returns how many. */
#define SECCOMP_YOUNGER_MAX 131
size_t seccomp_younger_prefix(const struct spec_seccomp *seccomp, void *context,
                              struct sock_filter out_filter[static SECCOMP_YOUNGER_MAX]);

/* The filter made of this very text, or NULL. */
struct seccomp_program *seccomp_cache_find(const char *folder, const char *source);
/* Keeps it if that can be done; a cache is no reason to fail. */
void seccomp_cache_keep(const char *folder, const char *source,
                        const struct seccomp_program *program);
/* One entry of it. NULL: it is not what was written for this text. */
struct seccomp_program *seccomp_cache_read(int fd, const char *source);
bool seccomp_cache_write(int fd, const char *source, const struct seccomp_program *program);

#endif
