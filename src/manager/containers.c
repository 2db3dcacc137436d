#include "manager/containers.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/host/program.h"
#include "manager/instance/instance.h"
#include "manager/text.h"
#include "system/rootless/rootless.h"

/* A user's running containers are forgotten at the next start of the host, as his other running things. */
static const char *run_of(const struct place *place, char path[PATH_MAX])
{
    (void)snprintf(path, PATH_MAX, "%s/ct", place->run);
    return place->is_root ? NULL : path;
}

int containers_store(const struct place *place, struct store *out_store, struct error *err)
{
    char run[PATH_MAX];
    return store_open(place->state, run_of(place, run), out_store, err);
}

int containers_open(const struct place *place, const char *keeper, struct life *out_life,
                    struct error *err)
{
    char run[PATH_MAX];
    return life_open(out_life, place->state, run_of(place, run), keeper, err);
}

static bool is_container(const json_t *document)
{
    return strcmp(text_or_empty(document, "kind"), "container") == 0;
}

bool containers_concern(const struct place *place, const char *job, const json_t *request)
{
    const json_t *known = json_object_get(request, "document");
    const char *name = text_of(request, "name");
    char folder[PATH_MAX];
    json_t *document;
    if (strcmp(job, "system-check") == 0) {
        place_state_path(place, "containers", NULL, NULL, folder);
        return access(folder, F_OK) == 0;
    }
    if (strncmp(job, "instance-", 9) != 0) {
        return strncmp(job, "image-", 6) == 0;
    }
    if (name == NULL || is_container(known) || instance_load(place, name, &document, NULL) < 0) {
        return is_container(known);
    }
    bool is_found = is_container(document);
    json_decref(document);
    return is_found;
}

int containers_enter(struct place *place, struct error *err)
{
    char run[PATH_MAX], keeper[PATH_MAX];
    if (place->has_owners) {
        return 0;
    }
    int rc = program_find("hull-ct-keeper", false, keeper, sizeof(keeper), err);
    rc = rc < 0 ? rc : rootless_enter(run_of(place, run), keeper, err);
    place->has_owners = rc == 0;
    return rc;
}
