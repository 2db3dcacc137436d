/* hull ctl: a control verb of a running VM. `save` has its own file, ctl_save.c, and so have those for disks that need a file,
 * ctl_disk.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/size.h"
#include "block/filter.h"
#include "cli/ctl.h"
#include "cli/output.h"
#include "cli/verbs.h"

#define REQUEST_ID 1

const char ctl_verb_words[] =
    "status|pause|resume|poweroff|reset|quit|save|stats|devices|plug|unplug|balloon|memory|cpus|events|disk-list|disk-snapshot|"
    "disk-stream|disk-commit|disk-mirror|disk-mirror-complete|disk-resize|disk-throttle|"
    "disk-backup|disk-bitmap-list|disk-bitmap-add|disk-bitmap-remove|disk-bitmap-clear|"
    "disk-bitmap-merge|disk-bitmap-enable|disk-bitmap-disable|"
    "jobs|job-pause|job-resume|job-cancel|job-speed";

#define TARGET "file=|format=|existing=true|reconnect=|log="
#define JOB    "disk=|speed=|wait=true|"

const struct ctl_keys ctl_keys[] = {
    {"save", "file=|then=resume|then=quit"},
    {"plug", "disk=|net="},
    {"unplug", "device=|wait=true"},
    {"balloon", "bytes="},
    {"memory", "size="},
    {"cpus", "count="},
    {"disk-snapshot", "disk=|file=|plain=true|reconnect=|log="},
    {"disk-stream", JOB "base=|file="},
    {"disk-commit", JOB "file=|from="},
    {"disk-mirror", JOB TARGET "|sync=full|sync=top|sync=none|sync=incremental|bitmap=|plain=true"},
    {"disk-mirror-complete", "disk=|job=|pivot=false"},
    {"disk-backup",
     JOB TARGET "|bitmap=|mode=full|mode=incremental|backing=|backing-format=|plain=true"},
    {"disk-resize", "disk=|bytes=|shrink=true"},
    {"disk-throttle", "disk=|bps=|bps-rd=|bps-wr=|iops=|iops-rd=|iops-wr=|iops-size="},
    {"disk-bitmap-list", "disk="},
    {"disk-bitmap-add", "disk=|bitmap=|granularity=|persistent=true|enabled=false"},
    {"disk-bitmap-remove", "disk=|bitmap="},
    {"disk-bitmap-clear", "disk=|bitmap="},
    {"disk-bitmap-enable", "disk=|bitmap="},
    {"disk-bitmap-disable", "disk=|bitmap="},
    {"disk-bitmap-merge", "disk=|bitmap=|source="},
    {"job-pause", "job="},
    {"job-resume", "job="},
    {"job-cancel", "job="},
    {"job-speed", "job=|speed="},
    {0},
};

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

/* Numbers and truth values are sent as such, everything else as text; sizes may have units, and names may look like numbers. */
static bool is_one_of(const char *key, const char *const *words, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(key, words[i]) == 0) {
            return true;
        }
    }
    return false;
}

static json_t *value_of(const char *key, const char *text, struct error *err)
{
    static const char *const sizes[] = {"bytes", "size", "speed", "granularity"};
    static const char *const names[] = {"disk",   "net",    "device", "file",    "job",
                                        "bitmap", "source", "format", "backing", "backing-format",
                                        "log"};
    uint64_t number;
    struct block_throttle_limits limits;
    bool is_size = is_one_of(key, sizes, ARRAY_COUNT(sizes));
    if (is_size || (block_throttle_set_key(&limits, key, 0, &is_size) && is_size)) {
        if (size_parse(text, 1, &number, err) < 0 || number > INT64_MAX) {
            return NULL;
        }
        return json_integer((json_int_t)number);
    }
    bool is_name = is_one_of(key, names, ARRAY_COUNT(names));
    if (!is_name && number_parse(text, 0, INT64_MAX, &number, NULL) == 0) {
        return json_integer((json_int_t)number);
    }
    if (!is_name && (strcmp(text, "true") == 0 || strcmp(text, "false") == 0)) {
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

static int talk(struct control_client *client, const char *verb, json_t *request,
                enum output_format format)
{
    struct error err;
    json_t *answer = NULL;
    bool wants_wait = ctl_job_take_wait(request);
    int rc = wants_wait ? ctl_job_follow(client, &err) : 0;
    if (rc == 0) {
        rc = control_client_send(client, request, -1, &err);
    }
    if (rc == 0) {
        rc = control_client_await(client, REQUEST_ID, NULL, NULL, &answer, &err);
    }
    if (rc == 0 && strcmp(verb, "events") == 0) {
        json_decref(answer);
        return follow_events(client);
    }
    if (rc == 0 && wants_wait && json_object_get(answer, "job") != NULL) {
        rc = ctl_job_await(client, answer, format, &err);
    } else if (rc == 0) {
        output_object(format, answer);
    }
    json_decref(answer);
    return rc < 0 ? cli_fail(&err) : CLI_OK;
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
    } else if (strcmp(argv[1], "plug") == 0) {
        status = ctl_plug(&client, request, options.format);
    } else if (strcmp(argv[1], "unplug") == 0) {
        status = ctl_unplug(&client, request, options.format);
    } else if (ctl_disk_has(argv[1], request)) {
        status = ctl_disk(&client, argv[1], request, options.format);
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
        "  devices            what is plugged, and the slots of disks and cards\n"
        "  plug disk=FILE[,KEY=VALUE]...\n"
        "  plug net=KIND[,KEY=VALUE]...\n"
        "                     add a disk or a network card, with the keys of --disk and --net of hull boot\n"
        "  unplug device=D [wait=true]\n"
        "                     ask the guest to let go of disk or card D, a name as disk1 or net0, or its id;\n"
        "                     wait=true: stay until it has\n"
        "  balloon bytes=N    the memory that the guest should keep\n"
        "  memory size=N      the memory that the guest should have, up to the max of --memory;\n"
        "                     it takes a moment: `status` shows what it has\n"
        "  cpus count=N       so many virtual CPUs, up to the max of --cpus; the guest lets go those\n"
        "                     that are too many\n"
        "  events             print events as they come, until the VM ends\n"
        "Disks and jobs, as docs/disks.md describes them:\n"
        "  disk-list          disks, and the images that they stand on\n"
        "  disk-snapshot disk=D file=F\n"
        "                     make F, a qcow2 image on top of what there is: writes go there from now on\n"
        "  disk-stream disk=D [base=N] [file=F]\n"
        "                     pull what lies below the top, or F (down to image N of disk-list) into it\n"
        "  disk-commit disk=D file=F [from=N]\n"
        "                     write what lies above F into F, on which the disk goes on; from=N: only from image\n"
        "                     N of disk-list on, and the one above that stands on F afterwards\n"
        "  disk-mirror disk=D file=F [format=raw|qcow2] [sync=full|top|none] [bitmap=B]\n"
        "                     make F the same as the disk, and keep it so, until the next verb; of the top\n"
        "                     image alone, of what changes from now on, or of what B has (existing=true)\n"
        "  disk-mirror-complete disk=D [pivot=false]\n"
        "                     have the guest go on with F; pivot=false: F is finished as it is now\n"
        "  disk-backup disk=D file=F [format=raw|qcow2] [bitmap=B] [mode=full|incremental] [backing=G]\n"
        "                     copy the disk as it is at this moment to F; with bitmap=B only what has changed,\n"
        "                     to be read on top of an earlier backup G\n"
        "  disk-bitmap-add disk=D bitmap=B [granularity=N] [persistent=true] [enabled=false]\n"
        "  disk-bitmap-remove, -clear, -enable, -disable disk=D bitmap=B\n"
        "  disk-bitmap-merge disk=D bitmap=B source=C\n"
        "  disk-bitmap-list disk=D\n"
        "                     bitmaps of what the guest changes\n"
        "  disk-resize disk=D bytes=N [shrink=true]\n"
        "                     give the disk another size; the guest is told\n"
        "  disk-throttle disk=D [bps=N] [iops=N] [bps-rd=N]...\n"
        "                     limit it, as the options of --disk do; 0: no limit\n"
        "                     F is a new file, a block device, or a URI as --disk of hull boot takes it, with\n"
        "                     reconnect=SECONDS and log=FILE for its hull-storage; existing=true\n"
        "                     permits mirrors and backups to write into an image that is there.\n"
        "                     Those that start a job stay until it is ready or over with wait=true.\n"
        "  jobs               running jobs, and those that ended of late\n"
        "  job-pause, job-resume, job-cancel job=J\n"
        "  job-speed job=J speed=N\n"
        "                     at most N bytes a second; 0: no limit\n",
    .examples = "  hull ctl /run/vm.sock status\n"
                "  hull ctl /run/vm.sock save file=vm.state then=quit\n"
                "  hull ctl /run/vm.sock balloon bytes=256M\n"
                "  hull ctl /run/vm.sock stats --json\n"
                "  hull ctl /run/vm.sock plug disk=data.qcow2,format=qcow2,id=data\n"
                "  hull ctl /run/vm.sock unplug device=data wait=true\n"
                "  hull ctl /run/vm.sock disk-snapshot disk=disk0 file=monday.qcow2\n"
                "  hull ctl /run/vm.sock disk-stream disk=disk0 speed=50M\n"
                "  hull ctl /run/vm.sock disk-mirror disk=disk0 file=nbd://server/vm1 wait=true\n",
    .options = ctl_option_table,
    .complete = "FILE",
    .run = ctl_run,
};
