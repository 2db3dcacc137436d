/* A container's cards on the manager's networks. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "manager/instance/container/container.h"
#include "manager/network/network.h"
#include "manager/text.h"
#include "system/life/document.h"

struct cards {
    const struct job *job;
    const json_t *document;
};

static int open_card(const struct cards *cards, const char *name, struct network_port *out,
                     struct error *err)
{
    const json_t *nic = json_object_get(json_object_get(cards->document, "devices"), name);
    *out = (struct network_port){
        .place = &cards->job->place,
        .instance = json_string_value(json_object_get(cards->document, "name")),
        .device = name,
        .nic = nic,
    };
    int rc = instance_related(cards->job->request, "networks", instance_property(nic, "network"),
                              &out->network, err);
    if (rc < 0) {
        return error_prefix(err, rc, "device %.64s", name);
    }
    out->forwards = instance_forwards(cards->document, name);
    return 0;
}

static void close_card(struct network_port *port)
{
    json_decref((json_t *)port->forwards);
}

/* Calls for each card in the order of their names, which is that of their numbers. */
static int each(const struct job *job, const json_t *document,
                int (*fn)(const struct network_port *port, size_t number, void *ctx,
                          struct error *err),
                void *ctx, struct error *err)
{
    const struct cards cards = {.job = job, .document = document};
    const char *names[CONFIG_MAX_CARDS], *name;
    size_t count = 0;
    json_t *device;
    json_object_foreach(json_object_get(document, "devices"), name, device)
    {
        if (!instance_is_device(device, "nic")) {
            continue;
        }
        if (count == CONFIG_MAX_CARDS) {
            return error_set(err, EINVAL, "devices: a container has at most %d cards",
                             CONFIG_MAX_CARDS);
        }
        size_t at = count++;
        for (; at > 0 && strcmp(names[at - 1], name) > 0; at--) {
            names[at] = names[at - 1];
        }
        names[at] = name;
    }
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < count; i++) {
        struct network_port port;
        rc = open_card(&cards, names[i], &port, err);
        if (rc == 0) {
            rc = fn(&port, i, ctx, err);
            close_card(&port);
        }
    }
    return rc;
}

static void add_part(json_t **word, const char *key, const char *value)
{
    if (value != NULL) {
        json_t *longer = json_sprintf("%s,%s=%s", json_string_value(*word), key, value);
        json_decref(*word);
        *word = longer;
    }
}

static void add_forward(json_t **word, const json_t *forward)
{
    char text[256];
    (void)snprintf(text, sizeof(text), "%s>%s", instance_property(forward, "listen"),
                   instance_property(forward, "connect"));
    add_part(word, "forward", text);
}

struct attached {
    json_t *cards, *dns;
};

static int attach(const struct network_port *port, size_t number, void *ctx, struct error *err)
{
    struct attached *all = ctx;
    const char *own_name = instance_property(port->nic, "name");
    json_t *card, *server, *forward;
    size_t i;
    int rc = network_up(port->place, port->network, err);
    rc = rc < 0 ? rc : network_attach_container(port, &card, err);
    if (rc < 0) {
        return error_prefix(err, rc, "device %.64s", port->device);
    }
    const char *kind = text_of(card, "switch") != NULL   ? "switch"
                       : text_of(card, "parent") != NULL ? "parent"
                                                         : "bridge";
    bool has_switch = strcmp(kind, "switch") == 0;
    json_t *word = json_sprintf("%s=%s,name=%s", kind, text_of(card, kind),
                                own_name != NULL ? own_name : port->device);
    json_array_foreach(has_switch ? port->forwards : NULL, i, forward)
    {
        add_forward(&word, forward);
    }
    add_part(&word, "spoofing",
             has_switch && json_is_true(json_object_get(card, "spoofing")) ? "allow" : NULL);
    add_part(&word, "mac", text_of(card, "mac"));
    add_part(&word, "ip", text_of(card, "ipv4"));
    add_part(&word, "gateway", text_of(card, "gateway"));
    add_part(&word, "ip", text_of(card, "ipv6"));
    add_part(&word, "gateway", text_of(card, "gateway6"));
    (void)json_array_append_new(all->cards, word);
    json_array_foreach(json_object_get(card, "dns"), i, server)
    {
        if (json_array_size(all->dns) < CONFIG_MAX_DNS) {
            (void)json_array_append(all->dns, server);
        }
    }
    json_decref(card);
    return 0;
}

int container_attach(const struct job *job, const json_t *document, json_t **out_settings,
                     struct error *err)
{
    struct attached all = {.cards = json_array(), .dns = json_array()};
    int rc = each(job, document, attach, &all, err);
    json_t *own = instance_values(document, "dns");
    json_t *dns = json_array_size(own) != 0 ? own : all.dns;
    json_t *settings = json_pack("{s:O, s:O}", "network", all.cards, "dns", dns);
    json_decref(own);
    json_decref(all.dns);
    json_decref(all.cards);
    if (rc < 0) {
        json_decref(settings);
        container_detach(job, document, false);
        return rc;
    }
    *out_settings = settings;
    return 0;
}

static int protect(const struct network_port *port, size_t number, void *ctx, struct error *err)
{
    char interface[IFNAMSIZ];
    document_host_name(ctx, port->instance, number, interface);
    return network_protect(port, interface, err);
}

int container_protect(const struct job *job, const struct life *life, const json_t *document,
                      struct error *err)
{
    return each(job, document, protect, (void *)&life->store, err);
}

static int detach(const struct network_port *port, size_t number, void *ctx, struct error *err)
{
    struct error ignored; /* the others are detached all the same */
    error_ignore(network_release(port, *(const bool *)ctx, &ignored));
    return 0;
}

void container_detach(const struct job *job, const json_t *document, bool is_forgotten)
{
    struct error ignored;
    error_ignore(each(job, document, detach, &is_forgotten, &ignored));
}
