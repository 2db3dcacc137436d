/* The verbs of the control connection that work on disks in use, and the jobs that they start. */
#ifndef VMM_DISK_VERBS_H
#define VMM_DISK_VERBS_H

#include "vmm/vmm.h"

struct control_verb {
    const char *name;
    int (*run)(struct vmm *vmm, struct control_client *client, struct control_request *request,
               json_t **out_answer, struct error *err);
};

extern const struct control_verb vmm_disk_verbs[];
extern const size_t vmm_disk_verb_count;
extern const struct control_verb vmm_job_verbs[];
extern const size_t vmm_job_verb_count;
extern const struct control_verb vmm_plug_verbs[];
extern const size_t vmm_plug_verb_count;
extern const struct control_verb vmm_bitmap_verbs[];
extern const size_t vmm_bitmap_verb_count;

/* Disks and cards with their places, as "devices" shows them. */
json_t *vmm_list_parts(const struct vmm *vmm);

/* Of block_jobs_create, with a struct vmm as context. */
void vmm_job_event(void *ctx, const struct block_job_info *job, enum block_job_event event);

#endif
