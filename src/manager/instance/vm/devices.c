#include "manager/instance/vm/devices.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "base/host/program.h"
#include "manager/instance/vm/command.h"
#include "manager/network/network.h"

#define ASK_TIMEOUT_MS    5000
#define UNPLUG_TIMEOUT_MS 10000 /* a guest that listens answers in a part of a second */
#define UNPLUG_POLL_MS    20

/* The last line of what it said. */
static int why(int words, int status, struct error *err)
{
    char text[1024] = "";
    off_t size = lseek(words, 0, SEEK_END);
    off_t from = MAX(size - (off_t)sizeof(text) + 1, (off_t)0);
    ssize_t count = pread(words, text, sizeof(text) - 1, from);
    while (count > 0 && text[count - 1] == '\n') {
        text[--count] = '\0';
    }
    const char *line = strrchr(text, '\n');
    line = line != NULL ? line + 1 : text;
    line += strncmp(line, "hull: ", 6) == 0 ? 6 : 0;
    int code = strstr(line, "locked") != NULL ? EBUSY : EIO;
    return line[0] != '\0' ? error_set(err, code, "%s", line)
                           : error_set(err, EIO, "hull ctl ended with status %d", status);
}

/* `hull ctl` opens the file, or starts the network's helper, and gives the VM what that needs. */
static int plug(const struct vm *vm, const char *kind, const char *option, bool *out_waits,
                struct error *err)
{
    char socket[PATH_MAX];
    vm_run_path(vm, "control.sock", socket);
    AUTO_FREE char *word = vm_text("%s=%s", kind, option);
    AUTO_CLOSE int words = memfd_create("hull-ctl", MFD_CLOEXEC);
    AUTO_CLOSE int answer = memfd_create("hull-ctl", MFD_CLOEXEC);
    if (word == NULL || words < 0 || answer < 0) {
        return error_set_errno(err, ENOMEM, "plug");
    }
    const char *argv[] = {"hull", "ctl", socket, "plug", word, "--json", NULL};
    struct process_spec spec = {.program = "hull",
                                .argv = argv,
                                .stdout_fd = answer,
                                .stderr_fd = words,
                                .outlives_us = true};
    pid_t pid;
    int status = 0;
    int rc = process_spawn(&spec, false, &pid, err);
    if (rc < 0) {
        return rc;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (code != 0) {
        return why(words, code, err);
    }
    json_t *part = lseek(answer, 0, SEEK_SET) == 0 ? json_loadfd(answer, 0, NULL) : NULL;
    *out_waits = *out_waits || json_is_false(json_object_get(part, "guest_listens"));
    json_decref(part);
    return 0;
}

static int plug_in_place(const struct vm *vm, struct vm_places *places, bool is_disk,
                         const char *name, const char *option, bool *out_waits, struct error *err)
{
    int rc = vm_places_add(places, is_disk, name, err);
    if (rc < 0) {
        return rc;
    }
    AUTO_FREE char *words = vm_places_words(places, is_disk, name);
    AUTO_FREE char *all = words != NULL ? vm_text("%s%s", option, words) : NULL;
    rc = all == NULL ? error_set_errno(err, ENOMEM, "plug")
                     : plug(vm, is_disk ? "disk" : "net", all, out_waits, err);
    if (rc < 0) {
        vm_places_remove(places, is_disk, name);
    }
    return rc;
}

int vm_plug_disk(const struct vm *vm, struct vm_places *places, const struct vm_disk *disk,
                 bool *out_waits, struct error *err)
{
    char *option = NULL;
    int rc = vm_disk_option(disk, &option, err);
    if (rc == 0) {
        rc = plug_in_place(vm, places, true, disk->device, option, out_waits, err);
    }
    free(option);
    return rc < 0 ? error_prefix(err, rc, "disk %s", disk->device) : 0;
}

int vm_plug_nic(const struct vm *vm, struct vm_places *places, const char *name, bool *out_waits,
                struct error *err)
{
    char *option = NULL;
    int rc = vm_nic_option(vm, name, &option, err);
    if (rc < 0) {
        return rc;
    }
    rc = plug_in_place(vm, places, false, name, option, out_waits, err);
    free(option);
    if (rc < 0) {
        vm_nic_release(vm, name, false);
        return error_prefix(err, rc, "nic %s", name);
    }
    return 0;
}

/* Of "devices"; NULL: no answer. */
static json_t *ask_parts(struct control_client *client)
{
    json_t *answer = NULL;
    if (vm_control_ask(client, json_pack("{s:s}", "do", "devices"), -1, &answer, NULL) < 0) {
        return NULL;
    }
    json_t *parts = json_incref(json_object_get(answer, "parts"));
    json_decref(answer);
    return parts;
}

static bool is_there(struct control_client *client, const char *device)
{
    size_t at;
    json_t *part;
    json_t *parts = ask_parts(client);
    bool found = parts == NULL;
    json_array_foreach(parts, at, part)
    {
        const char *own = vm_property(part, "device");
        found = found || (own != NULL && strcmp(own, device) == 0);
    }
    json_decref(parts);
    return found;
}

static int await_removal(struct control_client *client, const char *device, struct error *err)
{
    int64_t deadline_ms = clock_monotonic_ms() + UNPLUG_TIMEOUT_MS;
    while (is_there(client, device)) {
        if (clock_monotonic_ms() >= deadline_ms) {
            return error_set(err, EBUSY, "the guest does not let go of it");
        }
        struct timespec pause = {.tv_nsec = UNPLUG_POLL_MS * 1000000l};
        (void)nanosleep(&pause, NULL);
    }
    return 0;
}

static int unplug(struct control_client *client, const char *device, struct error *err)
{
    json_t *answer = NULL;
    int rc = vm_control_ask(client, json_pack("{s:s, s:s}", "do", "unplug", "device", device), -1,
                            &answer, err);
    if (rc == 0 && json_is_false(json_object_get(answer, "guest_listens"))) {
        rc = error_set(err, EBUSY, "the guest does not listen to devices that go");
    } else if (rc == 0) {
        rc = await_removal(client, device, err);
    }
    json_decref(answer);
    return rc;
}

int vm_unplug(const struct vm *vm, struct vm_places *places, bool is_disk, const char *name,
              struct error *err)
{
    struct control_client client;
    char device[16];
    vm_places_name(places, is_disk, name, device);
    int rc = vm_control_open(vm->place, vm->name, ASK_TIMEOUT_MS, &client, err);
    if (rc < 0) {
        return rc;
    }
    rc = unplug(&client, device, err);
    control_client_close(&client);
    if (rc < 0) {
        return error_prefix(err, rc, "%s %s", is_disk ? "disk" : "nic", name);
    }
    vm_places_remove(places, is_disk, name);
    if (!is_disk) {
        vm_nic_release(vm, name, true);
    }
    return 0;
}

void vm_unplug_strangers(const struct vm *vm, const struct vm_places *places)
{
    struct control_client client;
    size_t at;
    json_t *part;
    if (vm_control_open(vm->place, vm->name, ASK_TIMEOUT_MS, &client, NULL) < 0) {
        return;
    }
    json_t *parts = ask_parts(&client);
    json_array_foreach(parts, at, part)
    {
        const char *device = vm_property(part, "device");
        const char *id =
            vm_property(part, "id"); /* without one it was there before there were any */
        if (device != NULL && id != NULL &&
            json_object_get(device[0] == 'd' ? places->disks : places->nets, id) == NULL) {
            error_ignore(unplug(&client, device, NULL));
        }
    }
    json_decref(parts);
    control_client_close(&client);
}
