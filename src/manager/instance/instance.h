/* Instances: VMs and containers in one model.
 *
 * An instance's document, in the store and as STATE/instances/NAME/instance.yaml:
 *
 *   name: web1
 *   kind: container                    # or vm
 *   uuid: 6f1c...
 *   description: ""
 *   image: debian/12                   # what it was made of
 *   image_digest: sha256-...
 *   profiles: [default]
 *   config: {memory: 512M, cpus: "2"}  # its own; profiles give what it does not say. Keys: keys.h
 *   devices:                           # likewise, by name; a device has also what profiles say of the one of its name
 *     root: {type: disk, pool: default, size: 10G}
 *     eth0: {type: nic, network: default, mac: ..., ipv4: ...}
 *   created_at: 2026-01-01T12:00:00Z
 *   snapshots:                         # a tree; 'parent' is missing for what was made of nothing
 *     - {name: before, created_at: ..., memory: false, parent: first}
 *   snapshot: before                   # the one that it was made or restored last
 *   incomplete: true                   # only while it is being made
 *
 * Values of config and devices are texts (lists of texts where the key's row says so). A device {type: none} takes away what a
 * profile gives. What it is at the moment is asked when needed: status and info of the drivers.
 *
 * Jobs (instance_jobs) and their requests; each also has "profiles", "networks" and "pools": objects of all documents by name,
 * from which jobs and drivers take what they need (instance_related), as only hulld has the database; and, where they have a
 * name, "document": what hulld knows of it, should its folder have none:
 *   instance-create   {document, image: DOCUMENT of the image, start: bool}
 *   instance-action   {name, action: start|stop|restart|pause|resume, force, timeout_s}
 *   instance-delete   {name, force}
 *   instance-change   {name, replacement or patch}: see instance_change; what is live is applied
 *   instance-snapshot {name, snapshot, do: create|restore|delete, memory: bool, automatic: bool}
 *   instance-clone    {name, snapshot, new_name, live: bool}
 *
 * Threads: none. */
#ifndef MANAGER_INSTANCE_INSTANCE_H
#define MANAGER_INSTANCE_INSTANCE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/core/error.h"
#include "manager/operation/job.h"
#include "manager/place.h"

enum instance_status {
    INSTANCE_STOPPED,
    INSTANCE_STARTING,
    INSTANCE_RUNNING,
    INSTANCE_PAUSED,
    INSTANCE_ERROR, /* 'why' says it */
};
const char *instance_status_name(enum instance_status status); /* "stopped" ... */

/* The document with its profiles folded in: "config" and "devices" complete, checked. 'profiles': the profiles' documents by name,
 * folded in the order of its list. A new reference. Errors: -EINVAL naming the key; -ENOENT naming the profile. */
int must_check instance_expand(const json_t *document, const json_t *profiles,
                               json_t **out_expanded, struct error *err);
/* The document itself: names, types, keys. */
int must_check instance_check(const json_t *document, struct error *err);
/* A profile's: name, description, config, devices, created_at. */
int must_check instance_check_profile(const json_t *profile, struct error *err);
/* Changes what of a document may be changed (description, profiles, config, devices): by those of another document, or by a patch
 * (RFC 7396: null takes away). Either may be NULL. */
void instance_change(json_t *document, const json_t *replacement, const json_t *patch);
/* That nothing differs between two expanded documents which is only set when an instance is made. */
int must_check instance_check_change(const json_t *old, const json_t *new, struct error *err);
/* Numbers and truth values of "config" and "devices" become texts, as which documents have them. */
void instance_normalize(json_t *document);
/* instance.yaml, whole or not at all; and back. */
int must_check instance_save(const struct place *place, const json_t *document, struct error *err);
int must_check instance_load(const struct place *place, const char *name, json_t **out_document,
                             struct error *err);

/* Of expanded documents. The value of a key, or the one that holds when it is not said; NULL: nothing. Borrowed. */
const char *instance_value(const json_t *document, const char *key);
bool instance_is_set(const json_t *document, const char *key); /* "true" */
/* In bytes; 0: not said. */
uint64_t instance_bytes(const json_t *document, const char *key, uint64_t bare_unit);
/* Of a key that is a list: a new array of texts. */
json_t *instance_values(const json_t *document, const char *key);
/* The same of a device's property. */
const char *instance_property(const json_t *device, const char *name);
bool instance_is_device(const json_t *device, const char *type);
/* A shared folder that is a volume of its pool, and no folder of the host. */
bool instance_is_volume_share(const json_t *device);
/* A document of the request's "networks", "pools" or "profiles", borrowed. -ENOENT naming those that there are. */
int must_check instance_related(const json_t *request, const char *kind, const char *name,
                                const json_t **out_document, struct error *err);
/* The instance's forwards that lead to a card: a new array. */
json_t *instance_forwards(const json_t *document, const char *nic);

#define INSTANCE_UUID_SIZE 37
#define INSTANCE_MAC_SIZE  18
int must_check instance_make_uuid(char out_uuid[INSTANCE_UUID_SIZE], struct error *err);
/* 52:54:00 and three random bytes for each card of the expanded document that has none, put into 'document'. */
int must_check instance_add_macs(json_t *document, const json_t *expanded, struct error *err);
void instance_format_time(char out_text[32]); /* now, RFC 3339 */

/* What a kind of instance does. All but 'status' and 'info' run in workers. Documents are expanded ones. What fails has undone what it did. */
struct instance_driver {
    const char *kind; /* "container", "vm" */
    int (*create)(struct job *job, const json_t *document, const json_t *image, struct error *err);
    int (*remove)(struct job *job, const json_t *document, struct error *err);
    int (*start)(struct job *job, const json_t *document, struct error *err);
    /* Its init or power button; after 'timeout_s' (-1: its own) or with 'is_forced' at once. */
    int (*stop)(struct job *job, const json_t *document, bool is_forced, int timeout_s,
                struct error *err);
    int (*pause)(struct job *job, const json_t *document, bool is_paused, struct error *err);
    /* 'document' is the new one, 'old' what it was. 'out_waits': something waits for the next start. */
    int (*change)(struct job *job, const json_t *document, const json_t *old, bool *out_waits,
                  struct error *err);
    /* Of one that runs: with 'has_memory' also its memory. Snapshots' documents are the job's caller's. */
    int (*snapshot)(struct job *job, const json_t *document, const char *snapshot, bool has_memory,
                    struct error *err);
    int (*restore)(struct job *job, const json_t *document, const char *snapshot,
                   struct error *err);
    int (*forget)(struct job *job, const json_t *document, const char *snapshot, struct error *err);
    /* 'document' is the new one's, with a new name, uuid and MACs; 'from' the old. 'snapshot' NULL: as it is. */
    int (*clone)(struct job *job, const json_t *document, const json_t *from, const char *snapshot,
                 bool is_live, struct error *err);
    /* A session (session/frames.h) on 'fd', until its end. 'request': {"do":"exec","command":[..],"environment":{..},"cwd","user","terminal","columns","rows"},
     * {"do":"console","device"}, {"do":"push","path"}, {"do":"pull","path"}, {"do":"logs","follow":bool}. */
    int (*session)(const struct place *place, const json_t *document, const json_t *request, int fd,
                   struct error *err);

    /* These two run in hulld, too, and take well under a millisecond. 'why' is for INSTANCE_ERROR. */
    enum instance_status (*status)(const struct place *place, const char *name, char *why,
                                   size_t why_size);
    /* What it is and uses now: {"pid", "ipv4":[..], "ipv6":[..], "memory_used_bytes", "cpu_time_ns", "disk_used_bytes", "processes", "started_at",
     * "network":[{"name","received_bytes","sent_bytes"}], "disk":[{"name","read_bytes","written_bytes"}], "counters":{..}}, as far as it is known. */
    int (*info)(const struct place *place, const json_t *document, json_t **out_info,
                struct error *err);
};
extern const struct instance_driver container_driver, vm_driver;
/* By the document's kind; it is checked. */
const struct instance_driver *instance_driver(const json_t *document);

struct manager;
struct lifetime;
/* In hulld. When it starts: documents that only their files have are taken up; those with autostart are started, once after each
 * boot of the host, in their order and with their delays; then restarts and schedules are followed. */
int must_check instance_begin(struct manager *manager, struct lifetime **out_lifetime,
                              struct error *err);
/* Instances or profiles may have changed, as any event may tell. NULL is fine. */
void instance_changed(struct lifetime *lifetime, const json_t *event);
/* Before the loop goes away. NULL is fine. */
void instance_end(struct lifetime *lifetime);

#endif
