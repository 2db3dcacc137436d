/* hull ctl: a control verb of a running VM. `save` has its own file, ctl_save.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/ctl.h"
#include "cli/output.h"
#include "cli/size.h"
#include "cli/verbs.h"

#define REQUEST_ID 1

const char ctl_verb_words[] =
    "status|pause|resume|poweroff|reset|quit|save|stats|devices|balloon|events";

struct ctl_options {
    enum output_format format;
};

static int parse_json(void *into, const char *value, struct error *err)
{
    ((struct ctl_options *)into)->format = OUTPUT_JSON;
    return 0;
}

static int parse_format(void *into, const char *value, struct error *err)
{
    return output_parse_format(value, &((struct ctl_options *)into)->format, err);
}

static const struct option_spec ctl_option_table[] = {
    OUTPUT_OPTION_JSON(parse_json), OUTPUT_OPTION_FORMAT(parse_format), {0}};

/* Numbers and truth values are sent as such, everything else as text; "bytes" takes sizes. */
static json_t *value_of(const char *key, const char *text, struct error *err)
{
    uint64_t number;
    if (strcmp(key, "bytes") == 0) {
        if (size_parse(text, 1, &number, err) < 0 || number > INT64_MAX) {
            return NULL;
        }
        return json_integer((json_int_t)number);
    }
    if (number_parse(text, 0, INT64_MAX, &number, NULL) == 0) {
        return json_integer((json_int_t)number);
    }
    if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0) {
        return json_boolean(text[0] == 't');
    }
    json_t *value = json_string(text);
    if (value == NULL) {
        (void)error_set(err, EINVAL, "its value is not UTF-8: UTF-8 text");
    }
    return value;
}

int ctl_request_make(const char *verb, int count, char **words, json_t **out_request,
                     struct error *err)
{
    json_t *request = json_pack("{s:i, s:s}", "id", REQUEST_ID, "do", verb);
    if (request == NULL) {
        return error_set(err, EINVAL, "ctl: the verb is not UTF-8: %s", ctl_verb_words);
    }
    for (int i = 0; i < count; i++) {
        char *equals = strchr(words[i], '=');
        if (equals == NULL || equals == words[i]) {
            json_decref(request);
            return error_set(err, EINVAL, "ctl: argument %s: no value: KEY=VALUE", words[i]);
        }
        char key[64];
        (void)snprintf(key, sizeof(key), "%.*s", (int)(equals - words[i]), words[i]);
        if (strcmp(key, "id") == 0 || strcmp(key, "do") == 0) {
            json_decref(request);
            return error_set(err, EINVAL,
                             "ctl: argument %s: not a key for arguments: another KEY=VALUE", key);
        }
        json_t *value = value_of(key, equals + 1, err);
        if (value == NULL || json_object_set_new(request, key, value) < 0) {
            json_decref(request);
            return error_prefix(err, -EINVAL, "ctl: argument %s", key);
        }
    }
    *out_request = request;
    return 0;
}

/* Prints events, one JSON object a line, until the VM ends. */
static int follow_events(struct control_client *client)
{
    struct error err;
    json_t *line;
    while (control_client_receive(client, &line, &err) == 0) {
        if (json_object_get(line, "event") != NULL) {
            (void)json_dumpf(line, stdout, JSON_COMPACT);
            (void)putchar('\n');
            (void)fflush(stdout);
        }
        json_decref(line);
    }
    return CLI_OK;
}

static int talk(struct control_client *client, const char *verb, const json_t *request,
                enum output_format format)
{
    struct error err;
    json_t *answer;
    if (control_client_send(client, request, -1, &err) < 0 ||
        control_client_await(client, REQUEST_ID, NULL, NULL, &answer, &err) < 0) {
        return cli_fail(&err);
    }
    if (strcmp(verb, "events") == 0) {
        json_decref(answer);
        return follow_events(client);
    }
    output_object(format, answer);
    json_decref(answer);
    return CLI_OK;
}

static int ctl_run(int argc, char **argv)
{
    struct ctl_options options = {0};
    int count = 0;
    int status = cli_options(&ctl_verb, false, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    struct error err;
    if (count < 2) {
        (void)error_set(&err, EINVAL,
                        "ctl: %s missing: hull ctl PATH VERB [KEY=VALUE]..., with the verbs %s",
                        count == 0 ? "path is" : "verb is", ctl_verb_words);
        return cli_fail(&err);
    }
    json_t *request;
    struct control_client client;
    if (ctl_request_make(argv[1], count - 2, argv + 2, &request, &err) < 0) {
        return cli_fail(&err);
    }
    status = CLI_FAILURE;
    if (control_client_open(argv[0], &client, &err) < 0) {
        (void)cli_fail(&err);
    } else if (strcmp(argv[1], "save") == 0) {
        status = ctl_save(&client, request, options.format);
    } else {
        status = talk(&client, argv[1], request, options.format);
    }
    control_client_close(&client);
    json_decref(request);
    return status;
}

const struct verb ctl_verb = {
    .name = "ctl",
    .arguments = "PATH VERB [KEY=VALUE]...",
    .summary = "Control a running VM through the socket of `hull boot --control PATH`",
    .description =
        "Verbs:\n"
        "  status             name, state, engine, size\n"
        "  pause, resume      stop the vCPUs between two instructions, and go on\n"
        "  poweroff           press the power button\n"
        "  reset              as the reset button\n"
        "  quit               end the VM at once; its hull boot ends with status 0\n"
        "  save file=F        write the state to F, completely or not at all; the VM stays paused,\n"
        "                     or with then=resume goes on, or with then=quit ends\n"
        "  stats              counters of vCPUs and devices\n"
        "  devices            what is plugged\n"
        "  balloon bytes=N    the memory that the guest should keep\n"
        "  events             print events as they come, until the VM ends\n",
    .examples = "  hull ctl /run/vm.sock status\n"
                "  hull ctl /run/vm.sock save file=vm.state then=quit\n"
                "  hull ctl /run/vm.sock balloon bytes=256M\n"
                "  hull ctl /run/vm.sock stats --json\n",
    .options = ctl_option_table,
    .complete = "FILE",
    .run = ctl_run,
};
