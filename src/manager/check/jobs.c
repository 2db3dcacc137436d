#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/core/compiler.h"
#include "manager/check/check.h"
#include "manager/operation/reserve.h"

void check_found(struct check *check, bool is_repaired, const char *kind, const char *name,
                 const char *what)
{
    char about[256];
    snprintf(about, sizeof(about), "%s%s%s", kind, name[0] != '\0' ? " " : "", name);
    /* Without memory the list is short, and the check fails for that below. */
    (void)json_array_append_new(check->problems,
                                json_pack("{s:s#,s:s,s:b}", "about", about, (int)strlen(about),
                                          "what", what, "repaired", (int)is_repaired));
}

static int open_documents(const struct job *job, struct documents **out_documents,
                          struct error *err)
{
    char path[PATH_MAX];
    place_state_path(&job->place, "hull.db", NULL, NULL, path);
    return documents_open_read(path, out_documents, err);
}

static int system_check(struct job *job, json_t **out_result, struct error *err)
{
    static int (*const parts[])(struct check *, struct error *) = {check_instances, check_images,
                                                                   check_containers};
    struct check check = {.job = job,
                          .problems = json_array(),
                          .repairs = json_is_true(json_object_get(job->request, "repair"))};
    int rc = open_documents(job, &check.documents, err);
    for (unsigned i = 0; rc == 0 && i < ARRAY_COUNT(parts); i++) {
        rc = parts[i](&check, err);
    }
    documents_close(check.documents);
    if (rc < 0) {
        json_decref(check.problems);
        return rc;
    }
    *out_result = json_pack("{s:o}", "problems", check.problems);
    return *out_result != NULL ? 0 : error_set_errno(err, ENOMEM, "system check");
}

static int system_df(struct job *job, json_t **out_result, struct error *err)
{
    static const struct {
        const char *member, *area;
    } rows[] = {{"images", "images"},       {"templates", "templates"},
                {"instances", "instances"}, {"containers", "containers"},
                {"pools", "pools"},         {"operations", "operations"},
                {"reserve", RESERVE_FILE}};
    struct statvfs disk = {0};
    uint64_t total = 0, bytes;
    json_auto_t *result = json_object();
    char path[PATH_MAX];
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < ARRAY_COUNT(rows) + 1; i++) {
        bool is_cache = i == ARRAY_COUNT(rows);
        place_state_path(&job->place, is_cache ? "" : rows[i].area, NULL, NULL, path);
        rc = check_space(is_cache ? job->place.cache : path, &bytes, err);
        total += rc == 0 ? bytes : 0;
        if (rc == 0 && json_object_set_new(result, is_cache ? "cache" : rows[i].member,
                                           json_integer((json_int_t)bytes)) < 0) {
            rc = error_set_errno(err, ENOMEM, "system df");
        }
    }
    if (rc == 0 && statvfs(job->place.state, &disk) < 0) {
        rc = error_set_errno(err, errno, "file system of %s", job->place.state);
    }
    if (rc == 0) {
        *out_result =
            json_pack("{s:O,s:I,s:I,s:I}", "bytes", result, "total_bytes", (json_int_t)total,
                      "free_bytes", (json_int_t)disk.f_bavail * (json_int_t)disk.f_frsize,
                      "disk_bytes", (json_int_t)disk.f_blocks * (json_int_t)disk.f_frsize);
        rc = *out_result != NULL ? 0 : error_set_errno(err, ENOMEM, "system df");
    }
    return rc;
}

/* Both look for themselves what is done already. */
const struct job_kind check_jobs[] = {
    {"system-check", system_check, NULL},
    {"system-df", system_df, NULL},
    {0},
};
