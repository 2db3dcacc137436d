#include "manager/transfer/transfer.h"

const struct job_kind transfer_jobs[] = {
    {"instance-export", transfer_export, transfer_export_recover},
    {"instance-import", transfer_import, transfer_import_recover},
    {"template-create", transfer_template, transfer_template_recover},
    {"template-delete", transfer_template_delete, NULL},
    {0},
};
