/* Pieces of statistics, of v1 and v2. Values that cannot be read are 0 or left out: the container may be ending. */
#ifndef CONTAINER_CGROUP_STATS_H
#define CONTAINER_CGROUP_STATS_H

#include "container/cgroup/internal.h"

json_t *stats_number(uint64_t value);
void stats_add(json_t *object, const char *name, uint64_t value);
void stats_add_some(json_t *object, const char *name, uint64_t value); /* not if it is 0 */
uint64_t stats_read(int group_fd, const char *file);
void stats_each_line(int group_fd, const char *file, void (*fn)(const char *line, void *ctx),
                     void *ctx);
/* A file of lines "NAME NUMBER" as an object. */
json_t *stats_key_values(int group_fd, const char *file);
uint64_t stats_value(const json_t *values, const char *name); /* 0: it is not there */
void stats_add_pressure(json_t *object, int group_fd, const char *file);
void stats_add_list(json_t *object, const char *name, int group_fd, const char *file);
void stats_add_hugetlb(json_t *data, int group_fd, bool is_unified);
void stats_add_pids(json_t *data, int group_fd);

/* What one group says, into the members of 'data', which are all there. */
void stats_add_v1(json_t *data, const struct cgroup_place *place, int group_fd);
void stats_add_v2(json_t *data, const struct cgroup *cgroup, int group_fd);

#endif
