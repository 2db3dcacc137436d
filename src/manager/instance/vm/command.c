#include "manager/instance/vm/command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/host/file.h"
#include "manager/instance/vm/limits.h"
#include "manager/network/network.h"

/* Takes the text over; NULL: there was no memory for it. */
static void add(struct vm_command *command, char *text)
{
    if (command->count + 2 > command->capacity) {
        size_t capacity = command->capacity * 2 + 32;
        char **larger = realloc(command->word, capacity * sizeof(*larger));
        if (larger == NULL) {
            free(text);
            command->is_short_of_memory = true;
            return;
        }
        command->word = larger;
        command->capacity = capacity;
    }
    command->is_short_of_memory = command->is_short_of_memory || text == NULL;
    command->word[command->count++] = text;
    command->word[command->count] = NULL;
}

static void add_option(struct vm_command *command, const char *option, const char *value)
{
    add(command, vm_text("%s", option));
    add(command, vm_text("%s", value));
}

void vm_command_fini(struct vm_command *command)
{
    for (size_t i = 0; i < command->count; i++) {
        free(command->word[i]);
    }
    free(command->word);
    *command = (struct vm_command){0};
}

static bool is_type(const json_t *device, const char *type)
{
    const char *own = vm_property(device, "type");
    return own != NULL && strcmp(own, type) == 0;
}

/* Does this forward lead to this NIC? One that names none leads to the first. */
static bool leads_to(const json_t *forward, const char *nic, bool is_first)
{
    const char *named = vm_property(forward, "nic");
    return named != NULL ? strcmp(named, nic) == 0 : is_first;
}

static json_t *forwards_of(const struct vm *vm, const char *nic, bool is_first)
{
    json_t *forwards = json_array();
    const char *name;
    json_t *device;
    json_object_foreach(json_object_get(vm->document, "devices"), name, device)
    {
        if (is_type(device, "forward") && leads_to(device, nic, is_first)) {
            json_array_append(forwards, device);
        }
    }
    return forwards;
}

/* "tcp:[::]:8080" and "tcp:80" as one rule. */
static int forward_rule(const json_t *forward, char **out_rule, struct error *err)
{
    const char *listen = vm_property(forward, "listen");
    const char *connect = vm_property(forward, "connect");
    if (listen == NULL || connect == NULL || strlen(listen) < 5 || strlen(connect) < 5) {
        return error_set(err, EINVAL, "forward: listen tcp:127.0.0.1:8080 and connect tcp:80");
    }
    bool has_address = strchr(listen + 4, ':') != NULL;
    *out_rule = vm_text("%.4s%s%s-:%s", listen, has_address ? "" : ":", listen + 4, connect + 4);
    return *out_rule != NULL ? 0 : error_set_errno(err, ENOMEM, "forward");
}

/* Adds ",key=value"; '*text' NULL stays that. */
static void add_key(char **text, const char *key, const char *value)
{
    if (value != NULL && *text != NULL) {
        char *longer = vm_text("%s,%s=%s", *text, key, value);
        free(*text);
        *text = longer;
    }
}

static int switch_words(const json_t *card, char **out_text, struct error *err)
{
    const char *path = vm_property(card, "switch"), *ipv4 = vm_property(card, "ipv4");
    char address[64];
    size_t index;
    json_t *forward;
    if (path == NULL || ipv4 == NULL || strchr(path, ',') != NULL) {
        return error_set(err, EINVAL, "switch '%s': a path without a comma",
                         path != NULL ? path : "");
    }
    (void)snprintf(address, sizeof(address), "%.*s", (int)strcspn(ipv4, "/"), ipv4);
    char *text = vm_text("switch=%s", path);
    add_key(&text, "name", vm_property(card, "name"));
    add_key(&text, "mac", vm_property(card, "mac"));
    add_key(&text, "ipv4", address);
    add_key(&text, "ipv6", vm_property(card, "ipv6"));
    add_key(&text, "spoofing", json_is_true(json_object_get(card, "spoofing")) ? "allow" : NULL);
    json_array_foreach(json_object_get(card, "forwards"), index, forward)
    {
        char *rule = NULL;
        int rc = forward_rule(forward, &rule, err);
        if (rc < 0) {
            free(text);
            return rc;
        }
        add_key(&text, "hostfwd", rule);
        free(rule);
    }
    *out_text = text;
    return text != NULL ? 0 : error_set_errno(err, ENOMEM, "network");
}

static int switch_option(const struct network_port *port, char **out_text, struct error *err)
{
    json_t *card;
    int rc = network_attach_switch(port, &card, err);
    if (rc == 0) {
        rc = switch_words(card, out_text, err);
        json_decref(card);
    }
    return rc;
}

static int tap_option(const struct network_port *port, const char *kind, char **out_text,
                      struct error *err)
{
    char interface[IFNAMSIZ];
    int rc = network_attach_tap(port, interface, err);
    if (rc < 0) {
        return rc;
    }
    *out_text = vm_text("%s=%s", kind, interface);
    add_key(out_text, "mac", vm_property(port->nic, "mac"));
    return *out_text != NULL ? 0 : error_set_errno(err, ENOMEM, "network");
}

static bool is_first_nic(const struct vm *vm, const char *nic)
{
    const char *name;
    json_t *device;
    json_object_foreach(json_object_get(vm->document, "devices"), name, device)
    {
        if (is_type(device, "nic")) {
            return strcmp(name, nic) == 0;
        }
    }
    return false;
}

int vm_nic_option(const struct vm *vm, const char *name, char **out_text, struct error *err)
{
    const json_t *nic = json_object_get(json_object_get(vm->document, "devices"), name);
    json_t *network = NULL;
    int rc = vm_find_network(vm, nic, &network, err);
    if (rc < 0) {
        return error_prefix(err, rc, "nic %s", name);
    }
    json_t *forwards = forwards_of(vm, name, is_first_nic(vm, name));
    const struct network_port port = {.place = vm->place,
                                      .network = network,
                                      .instance = vm->name,
                                      .device = name,
                                      .nic = nic,
                                      .forwards = forwards};
    if (is_type(network, "user")) {
        rc = switch_option(&port, out_text, err);
    } else if (is_type(network, "nat") || is_type(network, "bridge")) {
        rc = tap_option(&port, "tap", out_text, err);
    } else if (is_type(network, "macvlan")) {
        rc = tap_option(&port, "macvtap", out_text, err);
    } else {
        rc = error_set(err, EINVAL, "a network of type %s: nat, bridge, macvlan or user for VMs",
                       vm_property(network, "type"));
    }
    json_decref(forwards);
    json_decref(network);
    return rc < 0 ? error_prefix(err, rc, "nic %s", name) : 0;
}

void vm_nic_release(const struct vm *vm, const char *name, bool is_forgotten)
{
    const json_t *nic = json_object_get(json_object_get(vm->document, "devices"), name);
    json_t *network = NULL;
    if (!is_type(nic, "nic") || vm_find_network(vm, nic, &network, NULL) < 0) {
        return;
    }
    struct network_port port = {
        .place = vm->place, .network = network, .instance = vm->name, .device = name, .nic = nic};
    error_ignore(network_release(&port, is_forgotten, NULL));
    json_decref(network);
}

/* With the place that it has in the VM. Takes 'text' over. */
static void add_placed(struct vm_command *command, const char *option, char *text, char *words)
{
    add(command, vm_text("%s", option));
    add(command, text != NULL && words != NULL ? vm_text("%s%s", text, words) : NULL);
    free(text);
    free(words);
}

static int add_nics(const struct vm *vm, const struct vm_places *places, struct vm_command *command,
                    struct error *err)
{
    bool has_nic = false;
    const char *name;
    json_t *device;
    json_object_foreach(json_object_get(vm->document, "devices"), name, device)
    {
        char *text = NULL;
        if (!is_type(device, "nic")) {
            continue;
        }
        int rc = vm_nic_option(vm, name, &text, err);
        if (rc < 0) {
            return rc;
        }
        add_placed(command, "--net", text, vm_places_words(places, false, name));
        has_nic = true;
    }
    if (!has_nic) {
        add_option(command, "--net", "none");
    }
    return 0;
}

static int add_disks(const struct vm *vm, const struct vm_disks *disks,
                     const struct vm_places *places, struct vm_command *command, struct error *err)
{
    for (unsigned i = 0; i < disks->count; i++) {
        char *text;
        int rc = vm_disk_option(&disks->disk[i], &text, err);
        if (rc < 0) {
            return rc;
        }
        add_placed(command, "--disk", text, vm_places_words(places, true, disks->disk[i].device));
    }
    char seed[PATH_MAX];
    struct stat info;
    vm_state_path(vm, "seed.iso", seed);
    if (stat(seed, &info) == 0) {
        add_placed(command, "--disk", vm_text("%s,format=raw,readonly,serial=seed", seed),
                   vm_places_words(places, true, VM_SEED));
    }
    return 0;
}

static const char *tag_of(const char *name, const json_t *share)
{
    const char *tag = vm_property(share, "tag");
    return tag != NULL ? tag : name;
}

static int volume_folder(const struct vm *vm, const json_t *share, char out_path[PATH_MAX],
                         struct error *err)
{
    json_t *pool = NULL;
    int rc = vm_find_pool(vm, share, &pool, err);
    if (rc == 0) {
        rc = pool_volume_folder(pool, vm_property(share, "source"), out_path, err);
    }
    json_decref(pool);
    return rc;
}

/* The folder of the host. */
static int share_folder(const struct vm *vm, const json_t *share, char out_path[PATH_MAX],
                        struct error *err)
{
    const char *source = vm_property(share, "source");
    struct stat info;
    if (source != NULL && source[0] != '/') {
        return volume_folder(vm, share, out_path, err);
    }
    if (source == NULL || snprintf(out_path, PATH_MAX, "%s", source) >= PATH_MAX) {
        return error_set(err, EINVAL, "source: missing");
    }
    if (stat(out_path, &info) < 0 || !S_ISDIR(info.st_mode)) {
        return error_set(err, ENOENT, "%s: an existing folder", out_path);
    }
    return 0;
}

static int add_shares(const struct vm *vm, struct vm_command *command, struct error *err)
{
    const char *name;
    json_t *device;
    json_object_foreach(json_object_get(vm->document, "devices"), name, device)
    {
        char path[PATH_MAX];
        if (!is_type(device, "share")) {
            continue;
        }
        int rc = share_folder(vm, device, path, err);
        if (rc < 0) {
            return error_prefix(err, rc, "share %s", name);
        }
        add(command, vm_text("--share"));
        add(command, vm_text("%s:%s%s", path, tag_of(name, device),
                             vm_is_on(vm_property(device, "readonly")) ? ",readonly" : ""));
    }
    return 0;
}

/* Where hull-agent mounts the shares (agent/shares.h): words for the kernel, with a space in front of each. NULL: no memory. */
static char *share_words(const struct vm *vm)
{
    char *words = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&words, &size);
    const char *name;
    json_t *device;
    if (out == NULL) {
        return NULL;
    }
    json_object_foreach(json_object_get(vm->document, "devices"), name, device)
    {
        const char *path = vm_property(device, "path");
        if (!is_type(device, "share") || path == NULL) {
            continue;
        }
        (void)fprintf(out, " hull.share=%s:", tag_of(name, device));
        for (const char *c = path; *c != '\0'; c++) {
            bool is_plain = *c > ' ' && *c < 0x7f && *c != '%' && *c != '"';
            (void)fprintf(out, is_plain ? "%c" : "%%%02x", (unsigned char)*c);
        }
        (void)fputs(vm_is_on(vm_property(device, "readonly")) ? ":ro" : "", out);
    }
    return fclose(out) == 0 ? words : NULL; /* memory is out: so it is for the command */
}

/* Serial ports behind the console's, in the order of their devices. A pty is found as DEVICE.pty in the folder of the running VM. */
static void add_serials(const struct vm *vm, struct vm_command *command)
{
    const char *name;
    json_t *device;
    json_object_foreach(json_object_get(vm->document, "devices"), name, device)
    {
        if (is_type(device, "serial")) {
            const char *to = vm_property(device, "to");
            char link[PATH_MAX];
            if (to == NULL || strcmp(to, "pty") == 0) {
                char file[NAME_MAX + 8];
                (void)snprintf(file, sizeof(file), "%.100s.pty", name);
                vm_run_path(vm, file, link);
                add(command, vm_text("--serial"));
                add(command, vm_text("pty:%s", link));
            } else {
                add_option(command, "--serial", to);
            }
        }
    }
}

static void add_path(const struct vm *vm, struct vm_command *command, const char *option,
                     const char *prefix, const char *file)
{
    char path[PATH_MAX];
    vm_run_path(vm, file, path);
    add(command, vm_text("%s", option));
    add(command, vm_text("%s%s", prefix, path));
}

static void add_config(const struct vm *vm, struct vm_command *command, const char *key,
                       const char *option, const char *fallback)
{
    const char *value = vm_config(vm, key);
    value = value != NULL ? value : fallback;
    if (value != NULL) {
        add_option(command, option, value);
    }
}

static void add_limits(struct vm_command *command, const struct vm_limits *limits)
{
    add(command, vm_text("--cpus"));
    add(command, limits->cpus_max > 1 ? vm_text("%u,max=%u", limits->cpus, limits->cpus_max)
                                      : vm_text("%u", limits->cpus));
    add(command, vm_text("--memory"));
    add(command, limits->memory_max_bytes > limits->memory_bytes
                     ? vm_text("%lluK,max=%lluK", (unsigned long long)(limits->memory_bytes >> 10),
                               (unsigned long long)(limits->memory_max_bytes >> 10))
                     : vm_text("%lluK", (unsigned long long)(limits->memory_bytes >> 10)));
}

/* The name and the machine-id for a guest without cloud-init and hull-agent: systemd takes them from here. Memory that comes later
 * is used at once, and in a way in which it can go again. */
static void add_append(const struct vm *vm, struct vm_command *command, const struct vm_boot *boot,
                       bool gets_memory)
{
    const char *more = vm_config(vm, "append");
    AUTO_FREE char *shares = share_words(vm);
    add(command, vm_text("--append"));
    add(command, shares == NULL
                     ? NULL
                     : vm_text("%s%shostname=%s systemd.hostname=%s%s%s%s%s",
                               boot->append != NULL ? boot->append : "",
                               boot->append != NULL ? " " : "", vm_hostname(vm), vm_hostname(vm),
                               shares, gets_memory ? " memhp_default_state=online_movable" : "",
                               more != NULL ? " " : "", more != NULL ? more : ""));
}

int vm_command_make(const struct vm *vm, const struct vm_disks *disks,
                    const struct vm_places *places, const struct vm_boot *boot, const char *restore,
                    bool is_paused, struct vm_command *out_command, struct error *err)
{
    struct vm_command command = {0};
    struct vm_limits limits;
    char path[PATH_MAX];
    int rc = vm_limits_read(vm, &limits, err);
    if (rc < 0) {
        return rc;
    }
    add(&command, vm_text("hull"));
    add(&command, vm_text("boot"));
    add_option(&command, "--name", vm->name);
    add_config(vm, &command, "engine", "--engine", "auto");
    add_config(vm, &command, "cpu_model", "--cpu", NULL);
    if (vm_is_on(vm_config(vm, "huge_pages"))) {
        add(&command, vm_text("--huge-pages"));
    }
    if (restore != NULL) {
        add_option(&command, "--restore", restore); /* it knows CPUs and memory */
    } else {
        add_limits(&command, &limits);
    }
    if (is_paused) {
        add(&command, vm_text("--paused"));
    }
    add_config(vm, &command, "kernel", "--kernel", boot->kernel);
    add_config(vm, &command, "initrd", "--initrd", boot->initrd);
    add_append(vm, &command, boot, limits.memory_max_bytes > limits.memory_bytes);
    add_path(vm, &command, "--control", "", "control.sock");
    add_path(vm, &command, "--console", "unix:", "console.sock");
    add_path(vm, &command, "--pid-file", "", "pid");
    add_path(vm, &command, "--status-file", "", "status");
    vm_run_path(vm, "vsock", path);
    add(&command, vm_text("--vsock"));
    add(&command, vm_text("cid=%d,dir=%s", VM_GUEST_CID, path));
    vm_state_path(vm, "logs/vm.log", path);
    add_option(&command, "--log", path);
    vm_state_path(vm, "logs/console.log", path);
    add_option(&command, "--console-log", path);
    rc = add_disks(vm, disks, places, &command, err);
    if (rc == 0) {
        rc = add_nics(vm, places, &command, err);
    }
    if (rc == 0) {
        rc = add_shares(vm, &command, err);
    }
    add_serials(vm, &command);
    if (rc == 0 && command.is_short_of_memory) {
        rc = error_set_errno(err, ENOMEM, "vm %s: its command", vm->name);
    }
    if (rc < 0) {
        vm_command_fini(&command);
        return rc;
    }
    *out_command = command;
    return 0;
}
