/* What workers do with networks. */
#include <errno.h>
#include <string.h>

#include "manager/network/state.h"
#include "system/network/link.h"

static const json_t *document_of(const struct job *job, const char **out_name, struct error *err)
{
    const json_t *document = json_object_get(job->request, "document");
    *out_name = json_string_value(json_object_get(document, "name"));
    if (*out_name == NULL) {
        error_set(err, EINVAL, "request without a network's document");
        return NULL;
    }
    return document;
}

/* Is the device that the network is about there? */
static int check_device(const struct plan *plan, struct error *err)
{
    struct network_address ignored[NETWORK_MAX_ADDRESSES];
    size_t count;
    const char *name = plan->bridge;
    if (plan->type == PLAN_MACVLAN) {
        int rc = net_macvlan_check(plan->parent, err);
        return rc == 0 ? 0 : error_prefix(err, rc, "network %s", plan->name);
    }
    if (plan->type != PLAN_BRIDGE) {
        return 0;
    }
    int rc = network_device_addresses(name, ignored, &count, err);
    return rc == 0 ? 0 : error_prefix(err, rc, "network %s", plan->name);
}

/* A bridge that somebody else has made is not ours to remove later. */
static int check_bridge_is_new(const struct job *job, const json_t *document, struct error *err)
{
    struct plan plan;
    struct network_address ignored[NETWORK_MAX_ADDRESSES];
    size_t count;
    if (job->is_recovery || plan_read(document, &plan, NULL) < 0 || plan.type != PLAN_NAT ||
        network_device_addresses(plan.bridge, ignored, &count, NULL) == -ENODEV) {
        return 0;
    }
    return error_set(err, EEXIST,
                     "network %s: the host has an interface %s already: config.bridge, or type "
                     "bridge",
                     plan.name, plan.bridge);
}

/* The document with the addresses that were chosen. */
static int complete(const struct job *job, json_t *document, const struct plan *plan,
                    struct error *err)
{
    char ipv4[NETWORK_TEXT_SIZE];
    if (plan->type != PLAN_NAT) {
        return 0;
    }
    json_t *config = json_object_get(document, "config");
    if (config == NULL) {
        config = json_object();
        json_object_set_new(document, "config", config);
    }
    net_state_chosen(&job->place, plan->name, ipv4);
    int failed = ipv4[0] != '\0' ? json_object_set_new(config, "ipv4", json_string(ipv4)) : 0;
    return failed == 0 ? 0 : error_set_errno(err, ENOMEM, "network %s", plan->name);
}

/* "auto" becomes an address; the same again when another worker goes on. */
static int choose_ipv6(struct job *job, json_t *document, struct error *err)
{
    json_t *config = json_object_get(document, "config");
    const char *wanted = json_string_value(json_object_get(config, "ipv6"));
    struct network_address address;
    char text[NETWORK_TEXT_SIZE];
    if (wanted == NULL || strcmp(wanted, "auto") != 0) {
        return 0;
    }
    const char *before = json_string_value(json_object_get(job_find_step(job, "ipv6"), "ipv6"));
    int rc = before != NULL ? network_parse(before, 64, true, &address, err)
                            : plan_choose_ipv6(&address, err);
    if (rc == 0) {
        network_format(&address, true, text);
        rc = job_step(job, "ipv6", json_pack("{s:s}", "ipv6", text), err);
    }
    if (rc == 0) {
        rc = json_object_set_new(config, "ipv6", json_string(text)) < 0
                 ? error_set_errno(err, ENOMEM, "choosing an IPv6 network")
                 : 0;
    }
    return rc;
}

static int put_up(struct job *job, json_t *document, const char *name, struct error *err)
{
    struct plan plan;
    int rc = choose_ipv6(job, document, err);
    if (rc == 0) {
        rc = plan_read(document, &plan, err);
    }
    if (rc == 0) {
        rc = check_device(&plan, err);
    }
    if (rc == 0 && plan.type != PLAN_USER) {
        rc = network_up(&job->place, document, err);
    }
    if (rc == 0) {
        rc = complete(job, document, &plan, err);
    }
    return rc < 0 ? rc : job_put(job, "network", name, json_incref(document), err);
}

static int create(struct job *job, json_t **out_result, struct error *err)
{
    const char *name;
    const json_t *asked = document_of(job, &name, err);
    if (asked == NULL) {
        return -EINVAL;
    }
    json_auto_t *document = json_deep_copy(asked);
    int rc = check_bridge_is_new(job, document, err);
    if (rc < 0) {
        return rc;
    }
    rc = put_up(job, document, name, err);
    if (rc < 0) {
        error_ignore(network_down(&job->place, document, NULL)); /* what went wrong first is told */
    }
    return rc;
}

static int change(struct job *job, json_t **out_result, struct error *err)
{
    const char *name;
    const json_t *asked = document_of(job, &name, err);
    const json_t *old = json_object_get(job->request, "old");
    if (asked == NULL) {
        return -EINVAL;
    }
    json_auto_t *document = json_deep_copy(asked);
    /* Nobody is on it, says the route, if more than the description changes. */
    bool is_other = !json_equal(json_object_get(asked, "config"), json_object_get(old, "config"));
    int rc = is_other ? network_down(&job->place, old, err) : 0;
    if (rc == 0) {
        rc = put_up(job, document, name, err);
    }
    if (rc < 0 && is_other) {
        error_ignore(network_up(&job->place, old, NULL)); /* as it was */
    }
    return rc;
}

static int delete (struct job *job, json_t **out_result, struct error *err)
{
    const char *name;
    const json_t *document = document_of(job, &name, err);
    if (document == NULL) {
        return -EINVAL;
    }
    int rc = network_down(&job->place, document, err);
    return rc < 0 ? rc : job_drop(job, "network", name, err);
}

static int bring_up(struct job *job, json_t **out_result, struct error *err)
{
    const char *name;
    const json_t *document = document_of(job, &name, err);
    return document == NULL ? -EINVAL : network_up(&job->place, document, err);
}

const struct job_kind network_jobs[] = {
    {"network-create", create, NULL},
    {"network-change", change, NULL},
    {"network-delete", delete, NULL},
    {"network-up", bring_up, NULL},
    {0},
};
