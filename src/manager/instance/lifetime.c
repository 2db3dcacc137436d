/* Instances as time passes, in hulld: those that start with the host, those that are started again when they end, snapshots that
 * are made by themselves; and documents that only their files still have. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/core/size.h"
#include "base/host/file.h"
#include "base/host/log.h"
#include "manager/instance/container/container.h"
#include "manager/instance/requests.h"
#include "manager/instance/schedule.h"
#include "manager/manager.h"
#include "manager/text.h"

#define MARKER  "autostarted" /* in RUN: which boot of the host has had its start */
#define BOOT_ID "/proc/sys/kernel/random/boot_id"
/* How often is looked for instances that have ended. */
#define LOOK_NS UINT64_C(1000000000)
/* One that ends again and again is started less and less often, up to a minute apart. */
#define MAX_PAUSE_S 60
#define LONG_LIFE_S 60

struct waiting {
    char name[64];
    int64_t order;
    uint64_t delay_s;
};

/* What is known of one that is to run. */
struct watched {
    struct watched *next;
    char name[64];
    bool was_seen; /* in this round */
    bool ran;      /* when it was seen last */
    uint64_t started_ns, next_try_ns;
    unsigned failures;
};

struct lifetime {
    struct manager *manager;
    struct event_timer *autostart, *look;
    struct waiting *queue; /* by their order */
    size_t count, next;
    struct watched *watched;
    json_t *interest;  /* expanded documents that are looked at; NULL: to be found anew */
    uint64_t armed_ns; /* when is looked next; 0: when something changes */
    time_t last_minute;
    bool has_looked; /* since hulld was started */
};

/* What cannot be begun now is told to those who listen. */
static void begin(struct lifetime *lifetime, const char *kind, const char *verb,
                  const json_t *document, json_t *request)
{
    struct error err = {0};
    char id[OPERATION_ID_SIZE];
    const char *name = text_of(document, "name");
    (void)json_object_set_new(request, "name", json_string(name));
    (void)json_object_set(request, "document", (json_t *)document);
    if (request_start(lifetime->manager, kind, verb, name, NULL, document, request, id, &err) < 0) {
        log_error("%s %s: %s", verb, name, err.text);
        manager_event(lifetime->manager,
                      json_pack("{s:s, s:s, s:s, s:s}", "type", "instance", "what", "not-begun",
                                "name", name, "message", err.text));
    }
}

static void start(struct lifetime *lifetime, const json_t *document)
{
    begin(lifetime, "instance-action", "starting", document,
          json_pack("{s:s, s:b}", "action", "start", "force", 0));
}

static enum instance_status status_of(const struct lifetime *lifetime, const json_t *document)
{
    char why[ERROR_TEXT_SIZE];
    return instance_driver(document)->status(&lifetime->manager->place, text_of(document, "name"),
                                             why, sizeof(why));
}

static bool is_worked_on(const struct lifetime *lifetime, const char *name)
{
    char resource[80];
    (void)snprintf(resource, sizeof(resource), "instance/%s", name);
    return operations_on(lifetime->manager->operations, resource) != NULL;
}

/* All expanded documents, without those that are no whole instances. */
static json_t *all_expanded(struct manager *manager)
{
    json_t *documents, *profiles, *document, *list = json_array();
    struct error err;
    size_t i;
    if (documents_list(manager->documents, "instance", &documents, &err) < 0) {
        return list;
    }
    if (request_related(manager->documents, "profile", &profiles, &err) == 0) {
        json_array_foreach(documents, i, document)
        {
            json_t *expanded;
            if (!json_is_true(json_object_get(document, "incomplete")) &&
                instance_expand(document, profiles, &expanded, &err) == 0) {
                (void)json_array_append_new(list, expanded);
            }
        }
        json_decref(profiles);
    }
    json_decref(documents);
    return list;
}

static uint64_t number_of(const json_t *document, const char *key)
{
    uint64_t number = 0;
    const char *text = instance_value(document, key);
    return text != NULL && number_parse(text, 0, UINT32_MAX, &number, NULL) == 0 ? number : 0;
}

static int compare(const void *a, const void *b)
{
    const struct waiting *first = a, *second = b;
    return first->order != second->order
               ? (first->order > second->order) - (first->order < second->order)
               : strverscmp(first->name, second->name);
}

/* The next ones of those that start with the host, until one says that others wait. */
static void start_next(void *ctx)
{
    struct lifetime *lifetime = ctx;
    while (lifetime->next < lifetime->count) {
        const struct waiting *waiting = &lifetime->queue[lifetime->next++];
        json_t *document;
        struct error err;
        if (documents_get(lifetime->manager->documents, "instance", waiting->name, &document,
                          &err) == 0) {
            if (status_of(lifetime, document) == INSTANCE_STOPPED &&
                !is_worked_on(lifetime, waiting->name)) {
                start(lifetime, document);
            }
            json_decref(document);
        }
        if (waiting->delay_s != 0) {
            event_timer_arm(lifetime->autostart,
                            clock_monotonic_ns() + waiting->delay_s * 1000000000);
            return;
        }
    }
}

/* Is this the first start since the host's? 'path' gets to say that it was. */
static bool is_first_start(const struct place *place)
{
    char path[PATH_MAX], boot[64] = "", before[64] = "";
    struct error err;
    (void)snprintf(path, sizeof(path), "%s/" MARKER, place->run);
    AUTO_CLOSE int boot_fd = open(BOOT_ID, O_RDONLY | O_CLOEXEC);
    AUTO_CLOSE int marker = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t size = boot_fd >= 0 ? read(boot_fd, boot, sizeof(boot) - 1) : -1;
    if (size <= 0) {
        return false;
    }
    if (marker >= 0 && read(marker, before, sizeof(before) - 1) > 0 && strcmp(boot, before) == 0) {
        return false;
    }
    if (file_replace(path, boot, 0600, false, &err) < 0) {
        log_error("%s", err.text);
    }
    return true;
}

static int plan_autostart(struct lifetime *lifetime, struct error *err)
{
    json_t *list = all_expanded(lifetime->manager), *document;
    size_t i;
    lifetime->queue = calloc(json_array_size(list) + 1, sizeof(*lifetime->queue));
    if (lifetime->queue == NULL) {
        json_decref(list);
        return error_set(err, ENOMEM, "no memory for starting instances");
    }
    json_array_foreach(list, i, document)
    {
        if (!instance_is_set(document, "autostart")) {
            continue;
        }
        struct waiting *waiting = &lifetime->queue[lifetime->count++];
        (void)snprintf(waiting->name, sizeof(waiting->name), "%s", text_of(document, "name"));
        waiting->order = (int64_t)number_of(document, "autostart_order");
        waiting->delay_s = number_of(document, "autostart_delay");
    }
    json_decref(list);
    qsort(lifetime->queue, lifetime->count, sizeof(*lifetime->queue), compare);
    event_timer_arm(lifetime->autostart, clock_monotonic_ns());
    return 0;
}

/* Not later than that. */
static void arm(struct lifetime *lifetime, unsigned seconds)
{
    uint64_t when_ns = clock_monotonic_ns() + seconds * LOOK_NS;
    if (lifetime->armed_ns == 0 || when_ns < lifetime->armed_ns) {
        event_timer_arm(lifetime->look, when_ns);
        lifetime->armed_ns = when_ns;
    }
}

static struct watched *find_watched(struct lifetime *lifetime, const char *name)
{
    struct watched *watched = lifetime->watched;
    while (watched != NULL && strcmp(watched->name, name) != 0) {
        watched = watched->next;
    }
    if (watched == NULL && (watched = calloc(1, sizeof(*watched))) != NULL) {
        (void)snprintf(watched->name, sizeof(watched->name), "%s", name);
        watched->next = lifetime->watched;
        lifetime->watched = watched;
    }
    return watched;
}

/* Those that nobody watches any more are forgotten. */
static void sweep(struct lifetime *lifetime)
{
    for (struct watched **at = &lifetime->watched; *at != NULL;) {
        struct watched *watched = *at;
        if (watched->was_seen) {
            watched->was_seen = false;
            at = &watched->next;
        } else {
            *at = watched->next;
            free(watched);
        }
    }
}

/* Is an end a reason to start it again? */
static bool is_failure(const struct lifetime *lifetime, const json_t *document,
                       enum instance_status status)
{
    const char *when = instance_value(document, "restart");
    bool has_failed = false;
    return strcmp(when, "always") == 0 || status == INSTANCE_ERROR ||
           (container_has_ended(&lifetime->manager->place, text_of(document, "name"),
                                &has_failed) &&
            has_failed);
}

/* It ended by itself, if it ran: what was asked to stop has told so (note_event). */
static void look_at(struct lifetime *lifetime, const json_t *document, uint64_t now_ns)
{
    const char *name = text_of(document, "name");
    struct watched *watched = find_watched(lifetime, name);
    if (watched == NULL) {
        return;
    }
    watched->was_seen = true;
    enum instance_status status = status_of(lifetime, document);
    if (is_worked_on(lifetime, name)) {
        return;
    }
    if (status == INSTANCE_RUNNING || status == INSTANCE_PAUSED || status == INSTANCE_STARTING) {
        watched->started_ns = watched->ran ? watched->started_ns : now_ns;
        watched->ran = true;
        if (now_ns - watched->started_ns > LONG_LIFE_S * UINT64_C(1000000000)) {
            watched->failures = 0;
        }
        return;
    }
    bool ignored;
    if (!lifetime->has_looked && !watched->ran) { /* while there was no hulld? */
        watched->ran = container_has_ended(&lifetime->manager->place, name, &ignored);
    }
    bool is_wanted = watched->ran || watched->next_try_ns != 0;
    if (watched->ran) {
        unsigned pause_s = watched->failures < 6 ? (1u << watched->failures) - 1 : MAX_PAUSE_S;
        watched->ran = false;
        watched->failures++;
        watched->next_try_ns =
            is_failure(lifetime, document, status) ? now_ns + pause_s * UINT64_C(1000000000) : 0;
        is_wanted = watched->next_try_ns != 0;
        manager_event(lifetime->manager,
                      json_pack("{s:s, s:s, s:s, s:s}", "type", "instance", "what", "ended", "name",
                                name, "status", instance_status_name(status)));
    }
    if (is_wanted && now_ns >= watched->next_try_ns) {
        watched->next_try_ns = 0;
        start(lifetime, document);
    }
}

static void begin_snapshot(struct lifetime *lifetime, const json_t *document, const char *what,
                           const char *name)
{
    begin(lifetime, "instance-snapshot",
          strcmp(what, "create") == 0 ? "making a snapshot of" : "deleting a snapshot of", document,
          json_pack("{s:s, s:s, s:b}", "snapshot", name, "do", what, "automatic", 1));
}

/* The oldest ones that were made by themselves go, but for as many as are to stay beside the new one. */
static void forget_old(struct lifetime *lifetime, const json_t *document)
{
    uint64_t keep = number_of(document, "snapshots_keep"), automatic = 0;
    json_t *list = json_object_get(document, "snapshots"), *item;
    size_t i;
    json_array_foreach(list, i, item)
    {
        automatic += json_is_true(json_object_get(item, "automatic"));
    }
    json_array_foreach(list, i, item)
    {
        if (keep != 0 && automatic + 1 > keep && json_is_true(json_object_get(item, "automatic"))) {
            automatic--;
            begin_snapshot(lifetime, document, "delete", text_of(item, "name"));
        }
    }
}

static void follow_schedule(struct lifetime *lifetime, const json_t *document, time_t minute)
{
    struct schedule schedule;
    struct tm parts;
    char name[32];
    const char *text = instance_value(document, "snapshots_schedule");
    if (text == NULL || schedule_parse(text, &schedule, NULL) < 0 ||
        localtime_r(&minute, &parts) == NULL || !schedule_matches(&schedule, &parts)) {
        return;
    }
    (void)gmtime_r(&minute, &parts);
    (void)strftime(name, sizeof(name), "auto-%Y%m%d-%H%M", &parts);
    begin_snapshot(lifetime, document, "create", name);
    forget_old(lifetime, document);
}

/* VMs are watched by vm/watch.h. */
static bool restarts(const json_t *document)
{
    return instance_driver(document) == &container_driver &&
           strcmp(instance_value(document, "restart"), "no") != 0;
}

static void find_interest(struct lifetime *lifetime)
{
    json_t *all = all_expanded(lifetime->manager), *document;
    size_t i;
    lifetime->interest = json_array();
    json_array_foreach(all, i, document)
    {
        if (restarts(document) || instance_value(document, "snapshots_schedule") != NULL) {
            (void)json_array_append(lifetime->interest, document);
        }
    }
    json_decref(all);
}

/* Where there is nothing to look at, it is looked again when something changes. */
static void look(void *ctx)
{
    struct lifetime *lifetime = ctx;
    time_t now = time(NULL), minute = now / 60 * 60;
    bool is_new_minute = minute != lifetime->last_minute, has_restarts = false;
    json_t *document;
    size_t i;
    lifetime->armed_ns = 0;
    lifetime->last_minute = minute;
    if (lifetime->interest == NULL) {
        find_interest(lifetime);
    }
    json_t *list = json_incref(lifetime->interest);
    json_array_foreach(list, i, document)
    {
        if (restarts(document)) {
            has_restarts = true;
            look_at(lifetime, document, clock_monotonic_ns());
        }
        if (is_new_minute) {
            follow_schedule(lifetime, document, minute);
        }
    }
    sweep(lifetime);
    lifetime->has_looked = true;
    if (json_array_size(list) != 0) {
        arm(lifetime, has_restarts ? 1 : (unsigned)(minute + 60 - now));
    }
    json_decref(list);
}

/* What a job says at its end: whether it runs is known from then on, also should it end at once. */
static void note_event(struct lifetime *lifetime, const json_t *event)
{
    const char *type = text_of(event, "type"), *name = text_of(event, "name");
    const char *status = text_of(event, "status"), *what = text_of(event, "what");
    if (what == NULL || strcmp(what, "ended") == 0) { /* by ourselves */
        return;
    }
    if (type == NULL || name == NULL || status == NULL || strcmp(type, "instance") != 0) {
        return;
    }
    struct watched *watched = find_watched(lifetime, name);
    if (watched != NULL) {
        watched->was_seen = true;
        watched->ran = strcmp(status, "running") == 0 || strcmp(status, "paused") == 0;
        watched->started_ns = clock_monotonic_ns();
        watched->next_try_ns = 0;
    }
}

void instance_changed(struct lifetime *lifetime, const json_t *event)
{
    const char *name = text_of(event, "name");
    if (name != NULL) {
        container_status_forget(name);
    }
    if (lifetime != NULL) {
        note_event(lifetime, event);
        json_decref(lifetime->interest);
        lifetime->interest = NULL;
        arm(lifetime, 1);
    }
}

/* A database that was made anew gets what the folders have. */
static void take_up_files(struct manager *manager)
{
    char path[PATH_MAX];
    place_state_path(&manager->place, "instances", NULL, NULL, path);
    DIR *folder = opendir(path);
    if (folder == NULL) {
        return;
    }
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        struct error err;
        json_t *document;
        char resource[300];
        (void)snprintf(resource, sizeof(resource), "instance/%s", entry->d_name);
        if (operations_on(manager->operations, resource) != NULL) {
            continue; /* whoever makes it tells of it */
        }
        if (place_check_instance_name(entry->d_name, &err) < 0 ||
            documents_has(manager->documents, "instance", entry->d_name)) {
            continue;
        }
        int rc = instance_load(&manager->place, entry->d_name, &document, &err);
        if (rc == 0) {
            rc = documents_put(manager->documents, "instance", entry->d_name, document, &err);
            json_decref(document);
        }
        if (rc < 0) {
            log_error("instance %s: %s", entry->d_name, err.text);
        } else {
            log_info("instance %s: taken up from its file", entry->d_name);
        }
    }
    (void)closedir(folder);
}

int instance_begin(struct manager *manager, struct lifetime **out_lifetime, struct error *err)
{
    struct lifetime *lifetime = calloc(1, sizeof(*lifetime));
    if (lifetime == NULL) {
        return error_set(err, ENOMEM, "no memory for instances");
    }
    lifetime->manager = manager;
    lifetime->last_minute = time(NULL) / 60 * 60;
    take_up_files(manager);
    int rc = event_timer_create(manager->loop, start_next, lifetime, &lifetime->autostart, err);
    rc = rc < 0 ? rc : event_timer_create(manager->loop, look, lifetime, &lifetime->look, err);
    if (rc == 0 && is_first_start(&manager->place)) {
        rc = plan_autostart(lifetime, err);
    }
    if (rc < 0) {
        instance_end(lifetime);
        return rc;
    }
    arm(lifetime, 1);
    *out_lifetime = lifetime;
    return 0;
}

void instance_end(struct lifetime *lifetime)
{
    if (lifetime == NULL) {
        return;
    }
    event_timer_destroy(lifetime->autostart);
    event_timer_destroy(lifetime->look);
    while (lifetime->watched != NULL) {
        struct watched *next = lifetime->watched->next;
        free(lifetime->watched);
        lifetime->watched = next;
    }
    json_decref(lifetime->interest);
    free(lifetime->queue);
    free(lifetime);
}
