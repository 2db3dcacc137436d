/* What the files of the container driver share. */
#ifndef MANAGER_INSTANCE_CONTAINER_CONTAINER_H
#define MANAGER_INSTANCE_CONTAINER_CONTAINER_H

#include "manager/instance/instance.h"
#include "system/life/life.h"

/* 'keeper' gets the path of hull-ct-keeper, and may be NULL where nothing is started. Errors: -EPERM saying what works without
 * root. */
int must_check container_open(const struct place *place, char keeper[PATH_MAX],
                              struct life *out_life, struct error *err);

/* What `system` is to be told of an expanded document (config.h there): an object of keys and lists of texts, each key that is
 * not the network's or the template's business; empty lists where nothing is said. A new reference. Errors: a shared volume that
 * is none. */
int must_check container_settings(const struct job *job, const json_t *document,
                                  json_t **out_settings, struct error *err);
/* As words of config_change: all keys that differ from 'old' (NULL: from nothing). An array, a new reference. */
json_t *container_words(const json_t *settings, const json_t *old);

/* Cards and name servers, with everything around them made: an object of settings as above. */
int must_check container_attach(const struct job *job, const json_t *document,
                                json_t **out_settings, struct error *err);
/* Once it runs. */
int must_check container_protect(const struct job *job, const struct life *life,
                                 const json_t *document, struct error *err);
void container_detach(const struct job *job, const json_t *document, bool is_forgotten);

/* What cloud-init would do, as files for its first start: a new array. */
json_t *container_first_files(const json_t *document);
/* What makes a copy another machine. */
json_t *container_clone_files(void);

enum instance_status container_status(const struct place *place, const char *name, char *why,
                                      size_t why_size);
/* For hulld's lists: what was found before, as long as the runtime's state is the same, for at most some seconds. */
enum instance_status container_status_again(const struct place *place, const char *name, char *why,
                                            size_t why_size);
/* An event says that something was done to it. */
void container_status_forget(const char *name);
/* life_has_ended */
bool container_has_ended(const struct place *place, const char *name, bool *out_has_failed);
int container_info(const struct place *place, const json_t *document, json_t **out_info,
                   struct error *err);
int container_session(const struct place *place, const json_t *document, const json_t *request,
                      int fd, struct error *err);

#endif
