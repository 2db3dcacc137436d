#include "manager/instance/vm/restart.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/log.h"
#include "manager/instance/requests.h"

#define SECOND_NS     1000000000ull
#define MAX_DELAY_S   60
#define LONG_LIFE_NS  (300 * SECOND_NS)
#define RESOURCE_SIZE 80

struct restart {
    struct vm_restarts *restarts;
    struct restart *next;
    char name[64];
    struct event_timer *timer;
    uint64_t started_ns;
    unsigned tries;
    bool has_failed;
};

struct vm_restarts {
    struct manager *manager;
    struct restart *first;
};

bool vm_restart_is_wanted(const char *policy, bool has_failed)
{
    return policy != NULL &&
           (strcmp(policy, "always") == 0 || (has_failed && strcmp(policy, "on-failure") == 0));
}

uint64_t vm_restart_delay_ns(unsigned tries)
{
    return (tries < 6 ? 1ull << tries : MAX_DELAY_S) * SECOND_NS;
}

/* NULL: none is known, or what it says cannot be. */
static json_t *expand(struct manager *manager, const char *name)
{
    json_t *document = NULL;
    json_t *profiles = NULL;
    json_t *expanded = NULL;
    if (documents_get(manager->documents, "instance", name, &document, NULL) < 0 ||
        request_related(manager->documents, "profile", &profiles, NULL) < 0 ||
        instance_expand(document, profiles, &expanded, NULL) < 0) {
        expanded = NULL;
    }
    json_decref(document);
    json_decref(profiles);
    return expanded;
}

static bool is_worked_on(struct manager *manager, const char *name)
{
    char resource[RESOURCE_SIZE];
    (void)snprintf(resource, sizeof(resource), "instance/%.63s", name);
    return operations_on(manager->operations, resource) != NULL;
}

/* The time has come: if nobody was quicker, and it is still wanted. */
static void begin(void *ctx)
{
    struct restart *restart = ctx;
    struct manager *manager = restart->restarts->manager;
    char id[OPERATION_ID_SIZE];
    char why[ERROR_TEXT_SIZE];
    struct error err = {0};
    json_t *document = NULL;
    json_t *expanded = expand(manager, restart->name);
    bool is_wanted = expanded != NULL && !is_worked_on(manager, restart->name) &&
                     vm_restart_is_wanted(instance_value(expanded, "restart"), restart->has_failed);
    json_decref(expanded);
    if (!is_wanted ||
        documents_get(manager->documents, "instance", restart->name, &document, NULL) < 0) {
        return;
    }
    enum instance_status status =
        vm_driver.status(&manager->place, restart->name, why, sizeof(why));
    if (status == INSTANCE_STOPPED || status == INSTANCE_ERROR) {
        restart->tries++;
        json_t *request = json_pack("{s:s, s:s, s:O}", "name", restart->name, "action", "start",
                                    "document", document);
        if (request_start(manager, "instance-action", "starting again", restart->name, NULL,
                          document, request, id, &err) < 0) {
            log_warning("vm %s: starting it again: %s", restart->name, err.text);
        }
    }
    json_decref(document);
}

static struct restart *find(const struct vm_restarts *restarts, const char *name)
{
    for (struct restart *at = restarts->first; at != NULL; at = at->next) {
        if (strcmp(at->name, name) == 0) {
            return at;
        }
    }
    return NULL;
}

static struct restart *find_or_add(struct vm_restarts *restarts, const char *name)
{
    struct restart *restart = find(restarts, name);
    if (restart != NULL) {
        return restart;
    }
    restart = calloc(1, sizeof(*restart));
    if (restart == NULL ||
        event_timer_create(restarts->manager->loop, begin, restart, &restart->timer, NULL) < 0) {
        free(restart);
        return NULL;
    }
    restart->restarts = restarts;
    (void)snprintf(restart->name, sizeof(restart->name), "%s", name);
    restart->next = restarts->first;
    restarts->first = restart;
    return restart;
}

int vm_restarts_create(struct manager *manager, struct vm_restarts **out_restarts,
                       struct error *err)
{
    struct vm_restarts *restarts = calloc(1, sizeof(*restarts));
    if (restarts == NULL) {
        return error_set_errno(err, ENOMEM, "restarts of VMs");
    }
    restarts->manager = manager;
    *out_restarts = restarts;
    return 0;
}

void vm_restarts_destroy(struct vm_restarts *restarts)
{
    while (restarts != NULL && restarts->first != NULL) {
        struct restart *restart = restarts->first;
        restarts->first = restart->next;
        event_timer_destroy(restart->timer);
        free(restart);
    }
    free(restarts);
}

void vm_restarts_started(struct vm_restarts *restarts, const char *name)
{
    struct restart *restart = find_or_add(restarts, name);
    if (restart != NULL) {
        restart->started_ns = clock_monotonic_ns();
        event_timer_disarm(restart->timer);
    }
}

void vm_restarts_ended(struct vm_restarts *restarts, const char *name, bool has_failed)
{
    struct restart *restart = find_or_add(restarts, name);
    if (restart == NULL || is_worked_on(restarts->manager, name)) {
        return;
    }
    json_t *expanded = expand(restarts->manager, name);
    bool is_wanted =
        expanded != NULL && vm_restart_is_wanted(instance_value(expanded, "restart"), has_failed);
    json_decref(expanded);
    uint64_t now_ns = clock_monotonic_ns();
    if (now_ns - restart->started_ns >= LONG_LIFE_NS) {
        restart->tries = 0;
    }
    if (is_wanted) {
        restart->has_failed = has_failed;
        event_timer_arm(restart->timer, now_ns + vm_restart_delay_ns(restart->tries));
    }
}

void vm_restarts_forget(struct vm_restarts *restarts, const char *name)
{
    for (struct restart **at = &restarts->first; *at != NULL; at = &(*at)->next) {
        struct restart *restart = *at;
        if (strcmp(restart->name, name) == 0) {
            *at = restart->next;
            event_timer_destroy(restart->timer);
            free(restart);
            return;
        }
    }
}
