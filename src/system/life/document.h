/* What a container is started from, made of its configuration: for the runtime a config.json, for the keeper a start.json. */
#ifndef SYSTEM_LIFE_DOCUMENT_H
#define SYSTEM_LIFE_DOCUMENT_H

#include <jansson.h>

#include "container/spec/spec.h"
#include "system/config/config.h"
#include "system/pool.h"

/* Below the keeper's folder of the container. */
#define KEEPER_START    "start.json"
#define KEEPER_CONFIG   "config.json"
#define KEEPER_SOCKET   "keeper.sock"
#define KEEPER_CONSOLE  "console.sock"
#define KEEPER_LISTENER "seccomp.sock"
#define KEEPER_VIEWS    "views"
#define KEEPER_LOCK     "lock"
#define KEEPER_DISK     "disk"
#define KEEPER_LOG      "keeper.log"
#define KEEPER_STILL    "still"    /* life_still_begin */
#define KEEPER_STOPPING "stopping" /* it was asked to end: that is no end of its own */

/* Below the folder of the container. */
#define CONTAINER_UPPER      "upper"
#define CONTAINER_WORK       "work"
#define CONTAINER_DISK       "disk.img"
#define CONTAINER_CONSOLE    "console.log"
#define CONTAINER_WRITTEN    "files-written"
#define CONTAINER_GIVEN      "files-given" /* life_give_files */
#define CONTAINER_CHECKPOINT "checkpoint"  /* the digest of the one that fits to its files */
#define CONTAINER_IMAGES     "images"      /* criu's, while one is made or read */

/* The runtime's configuration (config.md). 'views' is the folder of the keeper's views, NULL: none; 'listener' its socket for
 * notified system calls. New references; errors name what the configuration asks for and cannot have. */
int must_check document_spec(const struct store *store, const struct config *config,
                             json_t **out_spec, struct error *err);
/* linux.resources. 'device' is the disk that the container's files lie on ("8:0"); "": not known. With 'is_update' limits that
 * are not given are set to none. */
json_t *document_resources(const struct config *config, const char *cpu_set, const char *device,
                           bool is_update);
/* Shares as a weight of v2, in proportion: the conversion of OCI runtimes makes 1:2.4 of 1:3. */
unsigned document_cpu_weight(uint64_t shares);
/* The whole disk with the file system of a folder, as "MAJOR:MINOR", or "" where there is none (network, overlay, tmpfs). */
void document_disk_of(const char *path, char out_device[32]);

/* What the keeper does besides: layers, cards, files. */
int must_check document_start(const struct store *store, const struct config *config,
                              const char *const *layers, size_t layer_count, json_t **out_start,
                              struct error *err);

/* Of all such names. */
#define DOCUMENT_DEVICE_PREFIX "hc"
/* The name of a card's other end on the host: from the container's place and the card's number, so that each has its own. */
void document_host_name(const struct store *store, const char *name, size_t card,
                        char out_name[IFNAMSIZ]);

#endif
