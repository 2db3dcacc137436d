/* What the managed verbs of `hull` share: those that hulld does. */
#ifndef CLI_MANAGED_MANAGED_H
#define CLI_MANAGED_MANAGED_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>

#include "base/command/options.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "client/client.h"

/* The options that these verbs begin their own struct with. */
struct managed_options {
    enum output_format output;
    bool is_quiet, is_forced, is_all;
    int timeout_s; /* 0: not given */
};

int managed_parse_quiet(void *into, const char *value, struct error *err);
int managed_parse_force(void *into, const char *value, struct error *err);
int managed_parse_all(void *into, const char *value, struct error *err);
int managed_parse_json(void *into, const char *value, struct error *err);
int managed_parse_output(void *into, const char *value, struct error *err);
int managed_parse_timeout(void *into, const char *value, struct error *err);

#define MANAGED_OPTION_QUIET                                                                       \
    {                                                                                              \
        "quiet", 'q', NULL, "print no progress", NULL, managed_parse_quiet                         \
    }
#define MANAGED_OPTION_FORCE(help)                                                                 \
    {                                                                                              \
        "force", 'f', NULL, help, NULL, managed_parse_force                                        \
    }
#define MANAGED_OPTION_ALL(help)                                                                   \
    {                                                                                              \
        "all", 'a', NULL, help, NULL, managed_parse_all                                            \
    }

/* The manager: where it listens. Starts one where an ordinary user has none. */
int must_check managed_open(struct client *out_client, struct error *err);
/* Only finds it, without starting one: for completion. */
int must_check managed_find(struct client *out_client, struct error *err);

/* Operations that were begun, to be waited for together. */
struct batch {
    struct client *client;
    const char *label; /* "starting": for more than one */
    bool is_quiet;
    bool has_failed; /* one has, which was told */
    struct batch_row *rows;
    size_t count;
};
void batch_begin(struct batch *batch, struct client *client, const char *label, bool is_quiet);
/* Makes a request. Where an operation is the answer it is added, else there is nothing to wait for. 'out_answer' (may be NULL): an answer
 * that is no operation, a new reference, or NULL. Errors: nothing was added. */
int must_check batch_call(struct batch *batch, const char *method, const char *path,
                          const json_t *body, json_t **out_answer, struct error *err);
/* The path of the only operation that was added, for the caller to free; NULL: there is none. */
char *batch_path(const struct batch *batch);
/* The same as batch_call; tells of the error. */
void batch_try(struct batch *batch, const char *method, const char *path, const json_t *body);
/* Waits until all have ended, with a progress bar, and tells of each that failed. Ctrl-C cancels them; again, it leaves them. Frees the
 * batch; the exit status. 'out_result' (may be NULL): of the only one, a new reference, or NULL. */
int must_check batch_end(struct batch *batch, json_t **out_result);
/* For one request: the exit status. */
int must_check managed_do(struct client *client, const char *method, const char *path,
                          const json_t *body, bool is_quiet, json_t **out_result);
/* Has images that nobody needs removed, and shows what went: the exit status. */
int must_check managed_prune(struct client *client, bool is_quiet);

/* Adds "KEY=VALUE" to an object, in which "DEVICE.PROPERTY=VALUE" belongs to "devices" and all else to "config". */
int must_check managed_set(json_t *document, const char *word, struct error *err);
/* The members of 'after' that differ from those of 'before', null for those it lacks (a JSON merge patch). A new reference. */
json_t *managed_difference(const json_t *before, const json_t *after);
/* Has the user edit 'value' as YAML. 'out_patch': what was changed as a merge patch, a new reference; NULL: nothing was. */
int must_check managed_edit(const char *what, const json_t *value, json_t **out_patch,
                            struct error *err);
/* The text that a table shows for a size or a time, as a member of the row: "-" where there is none. */
void managed_add_size(json_t *row, const char *key, const char *text_key);
void managed_add_time(json_t *row, const char *key, const char *text_key);
void managed_add_words(json_t *row, const char *key, const char *text_key); /* of an array: "a b" */
void managed_add_first(json_t *row, const char *key, const char *text_key);

/* Asks for a list and shows it. 'add_texts' (NULL: none) gives a row what its columns show where it is a table. Returns the exit status. */
int managed_list(struct client *client, const char *path, enum output_format format,
                 const struct output_column *columns, void (*add_texts)(json_t *row));

/* A path as hulld can use it. -ENAMETOOLONG */
int must_check managed_absolute(const char *path, char out_path[PATH_MAX], struct error *err);

/* A session (session/frames.h): with a program, or a console. */
struct session_terminal {
    bool is_raw;     /* the terminal's keys go through */
    bool is_console; /* Ctrl-] is kept; its end is no failure */
};
/* 'verb' of the route ("exec", "logs/follow"); 'request' is taken over. */
int must_check managed_session_open(const struct client *client, const char *name, const char *verb,
                                    json_t *request, struct client_socket **out_socket,
                                    struct error *err);
int must_check session_run(struct client_socket *socket, const struct session_terminal *how,
                           struct error *err); /* the exit status */

extern const struct verb launch_verb, create_verb;
extern const struct verb start_verb, stop_verb, restart_verb, pause_verb, resume_verb, delete_verb;
extern const struct verb list_verb, info_verb, config_verb, logs_verb, top_verb, events_verb;
extern const struct verb exec_verb, shell_verb, console_verb, push_verb, pull_verb;
extern const struct verb snapshot_verb, clone_verb, export_verb, import_verb, template_verb;
extern const struct verb template_list_verb, template_create_verb, template_info_verb,
    template_delete_verb;
extern const struct verb snapshot_create_verb, snapshot_list_verb, snapshot_restore_verb,
    snapshot_delete_verb;
extern const struct verb image_list_verb, image_build_verb, image_import_verb, image_export_verb,
    image_info_verb, image_delete_verb, image_prune_verb;
extern const struct verb image_alias_verb, image_alias_list_verb, image_alias_set_verb,
    image_alias_delete_verb;
extern const struct verb network_list_verb, network_create_verb, network_info_verb,
    network_edit_verb, network_set_verb, network_delete_verb;
extern const struct verb profile_list_verb, profile_create_verb, profile_info_verb,
    profile_edit_verb, profile_set_verb, profile_delete_verb;
extern const struct verb pool_list_verb, pool_create_verb, pool_info_verb, pool_delete_verb;
extern const struct verb volume_list_verb, volume_create_verb, volume_info_verb, volume_resize_verb,
    volume_move_verb, volume_delete_verb;
extern const struct verb system_info_verb, system_df_verb, system_prune_verb, system_check_verb;
extern const struct verb image_verb, network_verb, pool_verb, volume_verb, profile_verb;
extern const struct verb system_verb;
extern const struct verb names_verb, dial_verb;

#endif
