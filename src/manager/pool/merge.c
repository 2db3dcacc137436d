/* Layers that nobody needs apart any more become one. */
#include <errno.h>
#include <string.h>

#include "manager/pool/dir.h"
#include "manager/pool/disk_file.h"
#include "manager/text.h"

#define MAX_MERGES 64 /* of one call */

/* A layer that is nobody's any more, with exactly one above it. */
static bool find_hidden(const struct pool_census *census, const json_t *passed,
                        const char **out_lower, const char **out_upper)
{
    const char *id;
    json_t *layer;
    json_object_foreach(census->layers, id, layer)
    {
        if (json_object_get(census->holders, id) == NULL &&
            json_integer_value(json_object_get(census->children, id)) == 1 &&
            json_object_get(passed, id) == NULL) {
            *out_lower = id;
            *out_upper = text_of(census->child, id);
            return true;
        }
    }
    return false;
}

/* The upper one takes the lower one's file and place. */
static int take_over(const struct pool_folder *layers, const char *lower_id, const char *upper_id,
                     struct error *err)
{
    json_auto_t *lower = NULL, *upper = NULL;
    int rc = pool_folder_read(layers, lower_id, &lower, err);
    if (rc == 0) {
        rc = pool_folder_read(layers, upper_id, &upper, err);
    }
    if (rc < 0) {
        return rc;
    }
    /* Meanwhile the disk may have been removed, or the lower one given to another. */
    const char *parent = text_of(upper, "parent");
    if (parent == NULL || strcmp(parent, lower_id) != 0) {
        return error_set(err, EAGAIN, "layer %s: has changed meanwhile", upper_id);
    }
    return pool_folder_write(layers, upper_id, lower, err);
}

/* One pair. The pool's lock is let go meanwhile, as this takes as long as there is to be copied: the locks of the two images
 * keep others from them, and what has no name nobody can begin to use. */
static int merge_pair(const json_t *pool, struct pool_folder *layers, const char *lower,
                      const char *upper, struct error *err)
{
    json_auto_t *chain = NULL;
    int rc = pool_folder_chain(layers, upper, &chain, err);
    if (rc < 0) {
        return rc;
    }
    pool_folder_close(layers);
    int merged = disk_file_merge(chain, err);
    rc = pool_folder_open(pool, POOL_FOLDER_CHANGE, layers, err);
    if (rc < 0 || merged < 0) {
        return rc < 0 ? rc : merged;
    }
    rc = take_over(layers, lower, upper, err);
    if (rc == 0) {
        rc = pool_folder_sweep(layers, NULL, err);
    }
    return rc;
}

/* Merges what is unseen. What cannot be merged now waits for the next time. */
int dir_merge_hidden(const json_t *pool, struct pool_folder *layers, struct error *err)
{
    json_auto_t *passed = json_object();
    int rc = 0;
    for (unsigned i = 0; i < MAX_MERGES && rc == 0 && layers->lock_fd >= 0; i++) {
        struct pool_census census;
        const char *lower, *upper;
        rc = pool_folder_census(layers, &census, err);
        if (rc < 0) {
            break;
        }
        bool found = find_hidden(&census, passed, &lower, &upper);
        if (found && json_object_set_new(passed, lower, json_true()) < 0) {
            rc = error_set_errno(err, ENOMEM, "merging layers");
        }
        if (found && rc == 0) {
            error_ignore(merge_pair(pool, layers, lower, upper, NULL)); /* it is tried again */
        }
        pool_census_free(&census);
        if (!found) {
            break;
        }
    }
    return rc;
}
