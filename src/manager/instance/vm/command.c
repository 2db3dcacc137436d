#include "manager/instance/vm/command.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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

int vm_forward_rule(const json_t *forward, char **out_rule, struct error *err)
{
    const char *listen = vm_property(forward, "listen");
    const char *connect = vm_property(forward, "connect");
    if (listen == NULL || connect == NULL || strlen(listen) < 5 || strlen(connect) < 5 ||
        strncmp(listen, connect, 4) != 0 ||
        (strncmp(listen, "tcp:", 4) != 0 && strncmp(listen, "udp:", 4) != 0)) {
        return error_set(err, EINVAL,
                         "forward: listen tcp:127.0.0.1:8080 and connect tcp:80, or both with udp");
    }
    const char *to = connect + 4;
    /* A port alone leads to the guest's own address. */
    *out_rule = vm_text("%s-%s%s", listen, strchr(to, ':') != NULL ? "" : ":", to);
    return *out_rule != NULL ? 0 : error_set_errno(err, ENOMEM, "forward");
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

static int user_option(const json_t *nic, const json_t *forwards, char **out_text,
                       struct error *err)
{
    const char *mac = vm_property(nic, "mac");
    char *text = mac != NULL ? vm_text("user,mac=%s", mac) : vm_text("user");
    size_t index;
    json_t *forward;
    json_array_foreach((json_t *)forwards, index, forward)
    {
        char *rule;
        int rc = vm_forward_rule(forward, &rule, err);
        if (rc < 0) {
            free(text);
            return rc;
        }
        char *longer = text != NULL ? vm_text("%s,hostfwd=%s", text, rule) : NULL;
        free(rule);
        free(text);
        text = longer;
    }
    *out_text = text;
    return text != NULL ? 0 : error_set_errno(err, ENOMEM, "network");
}

static int tap_option(const struct network_port *port, char **out_text, struct error *err)
{
    char interface[IFNAMSIZ];
    const char *mac = vm_property(port->nic, "mac");
    int rc = network_attach_tap(port, interface, err);
    if (rc < 0) {
        return rc;
    }
    *out_text =
        vm_text("tap=%s%s%s", interface, mac != NULL ? ",mac=" : "", mac != NULL ? mac : "");
    return *out_text != NULL ? 0 : error_set_errno(err, ENOMEM, "network");
}

static int add_nic(const struct vm *vm, struct vm_command *command, const char *name,
                   const json_t *nic, bool is_first, struct error *err)
{
    json_t *network = NULL;
    char *text = NULL;
    int rc = vm_find_network(vm, nic, &network, err);
    if (rc < 0) {
        return error_prefix(err, rc, "nic %s", name);
    }
    json_t *forwards = forwards_of(vm, name, is_first);
    if (is_type(network, "user")) {
        rc = user_option(nic, forwards, &text, err);
    } else if (is_type(network, "nat") || is_type(network, "bridge")) {
        struct network_port port = {.place = vm->place,
                                    .network = network,
                                    .instance = vm->name,
                                    .device = name,
                                    .nic = nic,
                                    .forwards = forwards};
        rc = tap_option(&port, &text, err);
    } else {
        rc = error_set(err, EINVAL, "a network of type %s: nat, bridge or user for VMs",
                       vm_property(network, "type"));
    }
    json_decref(forwards);
    json_decref(network);
    if (rc < 0) {
        return error_prefix(err, rc, "nic %s", name);
    }
    add(command, vm_text("--net"));
    add(command, text);
    return 0;
}

static int add_nics(const struct vm *vm, struct vm_command *command, struct error *err)
{
    bool is_first = true;
    const char *name;
    json_t *device;
    json_object_foreach(json_object_get(vm->document, "devices"), name, device)
    {
        if (is_type(device, "nic")) {
            int rc = add_nic(vm, command, name, device, is_first, err);
            if (rc < 0) {
                return rc;
            }
            is_first = false;
        }
    }
    if (is_first) {
        add_option(command, "--net", "none");
    }
    return 0;
}

static int add_disks(const struct vm *vm, const struct vm_disks *disks, struct vm_command *command,
                     struct error *err)
{
    for (unsigned i = 0; i < disks->count; i++) {
        char *text;
        int rc = vm_disk_option(&disks->disk[i], &text, err);
        if (rc < 0) {
            return rc;
        }
        add(command, vm_text("--disk"));
        add(command, text);
    }
    char seed[PATH_MAX];
    struct stat info;
    vm_state_path(vm, "seed.iso", seed);
    if (stat(seed, &info) == 0) {
        add(command, vm_text("--disk"));
        add(command, vm_text("%s,format=raw,readonly,serial=seed", seed));
    }
    return 0;
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
    add(command, vm_text("--append"));
    add(command, vm_text("%s%shostname=%s systemd.hostname=%s%s%s%s",
                         boot->append != NULL ? boot->append : "", boot->append != NULL ? " " : "",
                         vm_hostname(vm), vm_hostname(vm),
                         gets_memory ? " memhp_default_state=online_movable" : "",
                         more != NULL ? " " : "", more != NULL ? more : ""));
}

int vm_command_make(const struct vm *vm, const struct vm_disks *disks, const struct vm_boot *boot,
                    const char *restore, bool is_paused, struct vm_command *out_command,
                    struct error *err)
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
    rc = add_disks(vm, disks, &command, err);
    if (rc == 0) {
        rc = add_nics(vm, &command, err);
    }
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
