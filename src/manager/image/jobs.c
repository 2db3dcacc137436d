#include "manager/operation/job.h"

#include "manager/image/work.h"

/* Each finds by itself what a dead worker has done: what is half done lies aside, and is made anew. */
const struct job_kind image_jobs[] = {
    {"image-build", image_build, NULL},
    {"image-import", image_import, NULL},
    {"image-export", image_export, NULL},
    {"image-delete", image_delete, NULL},
    {"image-prune", image_prune, NULL},
    {"image-check", image_check, NULL},
    {0},
};
