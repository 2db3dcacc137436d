/* Writing limits: what is common to v1 and v2. */
#ifndef CONTAINER_CGROUP_LIMITS_H
#define CONTAINER_CGROUP_LIMITS_H

#include "container/cgroup/internal.h"

struct limit_journal;

/* One group that limits go to, for one controller. */
struct limits {
    const struct cgroup *cgroup;
    const struct spec_resources *resources;
    enum cgroup_controller controller;
    bool is_unified;
    int fd; /* of the group; -1: the host has no such controller for this container */
    const char *path;
    struct limit_journal *journal; /* NULL: nothing needs to be undone */
    struct degrade *degrade;
    struct error *err;
};

#define LIMIT_FIELD(name) "linux.resources." name

/* Writes one value. What the host has not, or does not permit without root, is told; -errno: anything else. */
int must_check limit_write(struct limits *limits, const char *field, const char *file,
                           const char *format, ...) printf_like(4, 5);
bool limit_has_file(const struct limits *limits, const char *file);

/* Values that depend on each other, so that the kernel takes them in one order only, which depends on what is set already. */
#define LIMIT_MAX_TOGETHER 6
struct limit_value {
    const char *field, *file;
    char text[48];
};
struct limit_values {
    size_t count;
    struct limit_value value[LIMIT_MAX_TOGETHER];
};
void limit_values_add(struct limit_values *values, const char *field, const char *file,
                      const char *format, ...) printf_like(4, 5);
int must_check limit_write_together(struct limits *limits, struct limit_values *values);

/* A value that is neither left away nor 0, which callers give for "none given". */
static inline bool is_given_i64(struct spec_i64 value)
{
    return value.has && value.value != 0;
}
static inline bool is_given_u64(struct spec_u64 value)
{
    return value.has && value.value != 0;
}

/* "-1" or "max" for none, else the number. */
#define LIMIT_NUMBER_SIZE 24
const char *limit_number(const struct limits *limits, int64_t value,
                         char out_text[LIMIT_NUMBER_SIZE]);

/* One function for each controller, of v1 or v2 as 'limits' says. */
int must_check limit_memory_v1(struct limits *limits);
int must_check limit_memory_v2(struct limits *limits);
int must_check limit_cpu_v1(struct limits *limits);
int must_check limit_cpu_v2(struct limits *limits);
int must_check limit_cpuset(struct limits *limits);
int must_check limit_pids(struct limits *limits);
int must_check limit_block_io_v1(struct limits *limits);
int must_check limit_block_io_v2(struct limits *limits);
int must_check limit_hugetlb(struct limits *limits);
int must_check limit_rdma(struct limits *limits);
int must_check limit_net_cls(struct limits *limits);
int must_check limit_net_prio(struct limits *limits);
/* The files of v2 as the configuration names them. */
int must_check limit_unified(struct limits *limits);

/* cpu.weight of v2 for cpu.shares of v1: least, default and most of both meet (2, 1024, 262144 and 1, 100, 10000). */
uint64_t limit_cpu_weight(uint64_t shares);
/* io.weight (1 to 10000) for blkio.weight (10 to 1000). */
uint64_t limit_io_weight(uint64_t weight);

#endif
