/* hull ctl PATH plug and unplug: disks and network cards of a running VM. What `hull boot` opens and starts for them is opened and
 * started here, and passed on. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "cli/boot_files.h"
#include "cli/ctl.h"
#include "cli/verbs.h"

#define STATUS_ID  2
#define DEVICES_ID 3
#define ANSWER_ID  1
#define MAX_FILES  20

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

static int ask(struct control_client *client, int id, const char *verb, json_t **out_answer,
               struct error *err)
{
    json_t *request = json_pack("{s:i, s:s}", "id", id, "do", verb);
    int rc = control_client_send(client, request, -1, err);
    json_decref(request);
    return rc == 0 ? control_client_await(client, id, NULL, NULL, out_answer, err) : rc;
}

/* Descriptors on their way: an entry names them by their numbers in the message. */
struct passing {
    int fd[MAX_FILES];
    size_t count;
};

static void pass(struct passing *passing, json_t *object, const char *key)
{
    const json_t *fd = json_object_get(object, key);
    if (fd != NULL && passing->count < MAX_FILES) {
        passing->fd[passing->count] = (int)json_integer_value(fd);
        json_object_set_new(object, key, json_integer((json_int_t)passing->count++));
    }
}

static void pass_all(struct passing *passing, json_t *entry)
{
    size_t index;
    json_t *layer;
    pass(passing, entry, "fd");
    pass(passing, entry, "crypt_fd");
    pass(passing, entry, "overlay_fd");
    pass(passing, json_object_get(entry, "data"), "fd");
    json_array_foreach(json_object_get(entry, "backing"), index, layer)
    {
        pass(passing, layer, "fd");
    }
}

static int send_plug(struct control_client *client, const char *kind, json_t *entry,
                     enum output_format format, struct error *err)
{
    struct passing passing = {.count = 0};
    pass_all(&passing, entry);
    json_t *request = json_pack("{s:i, s:s, s:O}", "id", ANSWER_ID, "do", "plug", kind, entry);
    json_t *answer = NULL;
    int rc = control_client_send_many(client, request, passing.fd, passing.count, err);
    json_decref(request);
    if (rc == 0) {
        rc = control_client_await(client, ANSWER_ID, NULL, NULL, &answer, err);
    }
    if (rc == 0) {
        output_object(format, answer);
    }
    json_decref(answer);
    return rc;
}

static int plug_disk(struct control_client *client, struct boot_options *options,
                     struct boot_files *files, const char *value, enum output_format format,
                     struct error *err)
{
    int rc = boot_parse_disk(options, value, err);
    if (rc == 0) {
        rc = boot_open_chain(&options->disk[0], files, 0, err);
    }
    if (rc < 0) {
        return rc;
    }
    json_t *entry = boot_config_disk(&options->disk[0], files, 0);
    rc = send_plug(client, "disk", entry, format, err);
    json_decref(entry);
    return rc;
}

/* The number that the card will have decides its address, as at a start: the lowest that no card has. */
static int choose_net(struct control_client *client, struct boot_place *place, struct error *err)
{
    json_t *devices = NULL;
    size_t index;
    json_t *part;
    bool is_taken[BOOT_MAX_NETS] = {false};
    if (place->has_index) {
        return 0;
    }
    int rc = ask(client, DEVICES_ID, "devices", &devices, err);
    json_array_foreach(json_object_get(devices, "parts"), index, part)
    {
        json_int_t number = json_integer_value(json_object_get(part, "index"));
        if (strncmp(text_of(part, "device"), "net", 3) == 0 && number >= 0 &&
            number < BOOT_MAX_NETS) {
            is_taken[number] = true;
        }
    }
    json_decref(devices);
    while (rc == 0 && place->index < BOOT_MAX_NETS && is_taken[place->index]) {
        place->index++;
    }
    place->has_index = place->index < BOOT_MAX_NETS; /* else the VM says that it is full */
    return rc;
}

static int plug_net(struct control_client *client, struct boot_options *options,
                    struct boot_files *files, const char *value, enum output_format format,
                    struct error *err)
{
    json_t *status = NULL;
    int rc = boot_parse_net(options, value, err);
    if (rc == 0 && options->net_count == 0) {
        rc = error_set(err, EINVAL, "plug: net=none is no card: user, passt or tap=IFNAME");
    }
    if (rc == 0) {
        rc = ask(client, STATUS_ID, "status", &status, err);
    }
    struct boot_net *net = &options->net[0];
    if (rc == 0) {
        rc = choose_net(client, &net->place, err);
    }
    if (rc == 0) {
        boot_settle_mac(net, text_of(status, "name"), 0);
        net->outlives_us = true;
        rc = boot_open_net(net, text_of(status, "name"), &files->net[0], &files->helper[0],
                           &files->helper_ready[0], err);
    }
    if (rc == 0) {
        rc = boot_files_await_helpers(files, options, err);
    }
    if (rc == 0) {
        json_t *entry = boot_config_net(net, files->net[0]);
        rc = send_plug(client, "net", entry, format, err);
        json_decref(entry);
    }
    if (rc == 0) {
        files->helper[0] = 0; /* it ends with the card */
    }
    json_decref(status);
    return rc;
}

static int check_words(const json_t *request, const char *const *words, struct error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)request, key, value)
    {
        bool is_known = strcmp(key, "id") == 0 || strcmp(key, "do") == 0;
        for (size_t i = 0; words[i] != NULL; i++) {
            is_known = is_known || strcmp(key, words[i]) == 0;
        }
        if (!is_known) {
            return error_set(err, EINVAL, "plug: %s=: disk=FILE,... or net=KIND,...", key);
        }
    }
    return 0;
}

int ctl_plug(struct control_client *client, const json_t *request, enum output_format format)
{
    static const char *const words[] = {"disk", "net", NULL};
    const char *disk = json_string_value(json_object_get(request, "disk"));
    const char *net = json_string_value(json_object_get(request, "net"));
    struct boot_options options;
    struct boot_files *files = malloc(sizeof(*files));
    struct error err;
    if (files == NULL) {
        (void)error_set_errno(&err, ENOMEM, "plug");
        return cli_fail(&err);
    }
    boot_options_init(&options);
    boot_files_init(files);
    files->is_for_running_vm = true;
    int rc = check_words(request, words, &err);
    if (rc == 0 && (disk != NULL) == (net != NULL)) {
        rc = error_set(&err, EINVAL, "plug: one of disk=FILE,... and net=KIND,... is needed");
    }
    if (rc == 0) {
        rc = disk != NULL ? plug_disk(client, &options, files, disk, format, &err)
                          : plug_net(client, &options, files, net, format, &err);
    }
    boot_files_fini(files, &options);
    boot_options_fini(&options);
    free(files);
    return rc < 0 ? cli_fail(&err) : CLI_OK;
}

/* Until the VM says that it has left, or ends. */
static int await_removal(struct control_client *client, const char *device, struct error *err)
{
    bool is_gone = false;
    int rc = 0;
    while (rc == 0 && !is_gone) {
        json_t *line;
        rc = control_client_receive(client, &line, err);
        if (rc == 0) {
            is_gone = strcmp(text_of(line, "event"), "device-removed") == 0 &&
                      strcmp(text_of(line, "device"), device) == 0;
            json_decref(line);
        }
    }
    return rc;
}

static void note_removal(void *ctx, const json_t *line)
{
    json_t *removed = ctx;
    if (strcmp(text_of(line, "event"), "device-removed") == 0) {
        json_object_set_new(removed, text_of(line, "device"), json_true());
    }
}

int ctl_unplug(struct control_client *client, json_t *request, enum output_format format)
{
    struct error err;
    json_t *answer = NULL;
    json_t *removed = json_object(); /* before the answer came */
    bool wants_wait = ctl_job_take_wait(request);
    int rc = wants_wait ? ctl_job_follow(client, &err) : 0;
    if (rc == 0) {
        rc = control_client_send(client, request, -1, &err);
    }
    if (rc == 0) {
        rc = control_client_await(client, ANSWER_ID, note_removal, removed, &answer, &err);
    }
    const char *device = text_of(answer, "device");
    if (rc == 0 && wants_wait) {
        rc = json_object_get(removed, device) != NULL ? 0 : await_removal(client, device, &err);
        if (rc == 0) {
            json_object_set_new(answer, "leaving", json_false());
        }
    }
    if (rc == 0) {
        output_object(format, answer);
    }
    json_decref(answer);
    json_decref(removed);
    return rc < 0 ? cli_fail(&err) : CLI_OK;
}
