/* Containers by src/system. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/program.h"
#include "manager/containers.h"
#include "manager/instance/container/container.h"
#include "manager/text.h"

static const char *name_of(const json_t *document)
{
    return text_of(document, "name");
}

int container_open(const struct place *place, char keeper[PATH_MAX], struct life *out_life,
                   struct error *err)
{
    /* Its folders are made once: lists ask for hundreds of containers. */
    static struct life opened;
    static char state[PLACE_MAX_PATH];
    int rc = keeper != NULL ? program_find("hull-ct-keeper", false, keeper, PATH_MAX, err) : 0;
    if (rc == 0 && strcmp(state, place->state) != 0) {
        rc = containers_open(place, NULL, &opened, err);
        (void)snprintf(state, sizeof(state), "%s", rc == 0 ? place->state : "");
    }
    if (rc < 0) {
        return rc;
    }
    *out_life = opened;
    out_life->runtime.root = out_life->oci;
    out_life->keeper = keeper;
    return 0;
}

/* Applies words, an array that is consumed. */
static int set(const struct life *life, const char *name, json_t *words, bool *out_waits,
               struct error *err)
{
    size_t i, count = json_array_size(words);
    const char **list = calloc(count + 1, sizeof(*list));
    json_t *word;
    json_array_foreach(words, i, word)
    {
        if (list != NULL) {
            list[i] = json_string_value(word);
        }
    }
    bool ignored;
    int rc = list == NULL ? error_set(err, ENOMEM, "no memory for a configuration")
             : count == 0
                 ? 0
                 : life_set(life, name, list, count, out_waits != NULL ? out_waits : &ignored, err);
    free(list);
    json_decref(words);
    return rc;
}

/* A document of `system` made of words, which are consumed. */
static int make_document(json_t *words, const char *digest, json_t **out_document,
                         struct error *err)
{
    json_t *document = json_pack("{s:s}", "template_name", digest), *word;
    size_t i;
    int rc = 0;
    json_array_foreach(words, i, word)
    {
        rc = rc < 0 ? rc : config_change(document, json_string_value(word), err);
    }
    json_decref(words);
    if (rc < 0) {
        json_decref(document);
        return rc;
    }
    *out_document = document;
    return 0;
}

static int create(struct job *job, const json_t *document, const json_t *image, struct error *err)
{
    struct life life;
    struct life_index *index;
    const char *digest = text_of(image, "name");
    int rc = container_open(&job->place, NULL, &life, err);
    if (rc < 0) {
        return rc;
    }
    if (digest == NULL) {
        return error_set(err, EINVAL, "image: a container is made of one");
    }
    json_t *settings = NULL, *made = NULL;
    rc = container_settings(job, document, &settings, err);
    rc = rc < 0 ? rc : make_document(container_words(settings, NULL), digest, &made, err);
    json_decref(settings);
    rc = rc < 0 ? rc : life_index_open(&life, &index, err);
    if (rc == 0) {
        rc = life_create(index, name_of(document), made, err);
        life_index_close(index);
    }
    json_decref(made);
    json_t *files = container_first_files(document);
    if (rc == 0 && json_array_size(files) != 0) {
        rc = life_give_files(&life, name_of(document), files, err);
    }
    json_decref(files);
    return rc;
}

static int remove_files(struct job *job, const json_t *document, struct error *err)
{
    struct life life;
    struct error ignored;
    int rc = container_open(&job->place, NULL, &life, err);
    const char *from = text_of(job->request, "name");
    if (rc == 0 && job->is_recovery && from != NULL) {
        error_ignore(life_release(&life, from, &ignored)); /* what was being cloned */
    }
    rc = rc < 0 ? rc : life_delete(&life, name_of(document), false, err);
    container_detach(job, document, true);
    return rc == -ENOENT ? 0 : rc;
}

/* From what it was told last; its network's part is that of its last start. */
static json_t *told(const struct life *life, const char *name)
{
    struct config *config;
    struct error ignored;
    json_t *settings = json_object();
    if (config_load(&life->store, name, &config, &ignored) < 0) {
        return settings;
    }
    const char *key;
    json_t *value;
    json_object_foreach(config->document, key, value)
    {
        (void)json_object_set_new(
            settings, key, json_is_array(value) ? json_incref(value) : json_pack("[O]", value));
    }
    config_destroy(config);
    return settings;
}

static int start_life(const struct life *life, const char *name, struct error *err)
{
    struct life_start starting;
    int rc = life_start_begin(life, name, &starting, err);
    return rc < 0 ? rc : life_start_end(&starting, err);
}

static int start(struct job *job, const json_t *document, struct error *err)
{
    char keeper[PATH_MAX];
    struct life life;
    const char *name = name_of(document);
    json_t *cards = NULL;
    int rc = container_open(&job->place, keeper, &life, err);
    rc = rc < 0 ? rc : container_attach(job, document, &cards, err);
    if (rc < 0) {
        return rc;
    }
    json_t *settings = NULL, *before = told(&life, name);
    rc = container_settings(job, document, &settings, err);
    if (rc == 0) {
        (void)json_object_update(settings, cards);
        rc = set(&life, name, container_words(settings, before), NULL, err);
    }
    rc = rc < 0 ? rc : start_life(&life, name, err);
    if (rc < 0) {
        container_detach(job, document, false);
    } else {
        rc = container_protect(job, &life, document, err);
        struct error ignored;
        if (rc < 0) { /* not without its rules */
            error_ignore(life_stop(&life, name, true, 0, &ignored));
            container_detach(job, document, false);
        }
    }
    json_decref(before);
    json_decref(settings);
    json_decref(cards);
    return rc;
}

static bool is_cancelled(void *job)
{
    return job_is_cancelled(job);
}

static int stop(struct job *job, const json_t *document, bool is_forced, int timeout_s,
                struct error *err)
{
    struct life life;
    int rc = container_open(&job->place, NULL, &life, err);
    life.is_cancelled = is_cancelled;
    life.cancel_ctx = job;
    rc = rc < 0 ? rc : life_stop(&life, name_of(document), is_forced, timeout_s, err);
    if (rc == 0 || rc == -ETIME) {
        container_detach(job, document, false);
    }
    return rc;
}

static int pause_life(struct job *job, const json_t *document, bool is_paused, struct error *err)
{
    struct life life;
    int rc = container_open(&job->place, NULL, &life, err);
    return rc < 0 ? rc : life_pause(&life, name_of(document), is_paused, err);
}

static bool is_running(const struct life *life, const char *name)
{
    enum life_status status = life_status(life, name);
    return status == LIFE_RUNNING || status == LIFE_PAUSED;
}

/* Devices that are made when it starts. */
static bool has_other_cards(const json_t *new, const json_t *old)
{
    json_t *devices = json_object_get(new, "devices"), *device;
    const json_t *before = json_object_get(old, "devices");
    const char *name;
    json_object_foreach(devices, name, device)
    {
        const json_t *same = json_object_get(before, name);
        if (same == NULL || !json_equal(same, device)) {
            return true;
        }
    }
    return json_object_size(before) != json_object_size(devices);
}

static int change(struct job *job, const json_t *document, const json_t *old, bool *out_waits,
                  struct error *err)
{
    struct life life;
    const char *name = name_of(document);
    int rc = container_open(&job->place, NULL, &life, err);
    if (rc < 0) {
        return rc;
    }
    json_t *settings = NULL, *before = told(&life, name);
    bool waits = false;
    rc = container_settings(job, document, &settings, err);
    rc = rc < 0 ? rc : set(&life, name, container_words(settings, before), &waits, err);
    if (rc == 0) {
        *out_waits = waits || (is_running(&life, name) && has_other_cards(document, old));
    }
    json_decref(settings);
    json_decref(before);
    return rc;
}

static int snapshot(struct job *job, const json_t *document, const char *name, bool has_memory,
                    struct error *err)
{
    struct life life;
    if (has_memory) {
        return error_set(err, EOPNOTSUPP,
                         "containers' memory cannot be saved yet: make a snapshot without it");
    }
    int rc = container_open(&job->place, NULL, &life, err);
    return rc < 0 ? rc : life_snapshot(&life, name_of(document), name, err);
}

/* One that runs is started again afterwards. Its configuration stays what it is now. */
static int restore(struct job *job, const json_t *document, const char *snapshot_name,
                   struct error *err)
{
    struct life life;
    const char *name = name_of(document);
    int rc = container_open(&job->place, NULL, &life, err);
    bool was_running = rc == 0 && is_running(&life, name);
    if (was_running) {
        rc = job_step(job, "was-running", NULL, err);
        rc = rc < 0 ? rc : stop(job, document, false, -1, err);
        rc = rc == -ETIME ? 0 : rc;
    }
    was_running = was_running || job_find_step(job, "was-running") != NULL;
    rc = rc < 0 ? rc : life_snapshot_restore(&life, name, snapshot_name, err);
    if (rc == 0) {
        json_t *now = told(&life, name), *settings = NULL;
        rc = container_settings(job, document, &settings, err);
        if (rc == 0) {
            /* What it stands on came with the snapshot. */
            (void)json_object_del(settings, "disk");
            (void)json_object_del(settings, "privileged");
            rc = set(&life, name, container_words(settings, now), NULL, err);
        }
        json_decref(now);
        json_decref(settings);
    }
    struct error late;
    int started = was_running ? start(job, document, &late) : 0;
    return rc == 0 && started < 0 ? error_set(err, late.code, "%s", late.text) : rc;
}

static int forget(struct job *job, const json_t *document, const char *snapshot_name,
                  struct error *err)
{
    struct life life;
    int rc = container_open(&job->place, NULL, &life, err);
    return rc < 0 ? rc : life_snapshot_delete(&life, name_of(document), snapshot_name, err);
}

static int clone(struct job *job, const json_t *document, const json_t *from,
                 const char *snapshot_name, bool is_live, struct error *err)
{
    struct life life;
    /* Its cards come when it starts. */
    static const char *const words[] = {"network=", "hostname="};
    int rc = container_open(&job->place, NULL, &life, err);
    rc = rc < 0 ? rc
                : life_clone(&life, name_of(from), snapshot_name, name_of(document), words,
                             ARRAY_COUNT(words), err);
    if (rc < 0) {
        return rc;
    }
    json_t *files = container_clone_files(), *first = container_first_files(document);
    (void)json_array_extend(files, first);
    rc = life_give_files(&life, name_of(document), files, err);
    json_decref(first);
    json_decref(files);
    return rc;
}

const struct instance_driver container_driver = {
    .kind = "container",
    .create = create,
    .remove = remove_files,
    .start = start,
    .stop = stop,
    .pause = pause_life,
    .change = change,
    .snapshot = snapshot,
    .restore = restore,
    .forget = forget,
    .clone = clone,
    .session = container_session,
    .status = container_status,
    .info = container_info,
};
