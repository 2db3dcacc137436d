#include "manager/network/state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/host/file.h"
#include "system/layers/layers.h"

void net_state_run_path(const struct net_state *state, const char *file, char out_path[PATH_MAX])
{
    place_run_path(state->place, "networks", state->plan.name, file, out_path);
}

static json_t *read_object(const char *path)
{
    json_error_t fault;
    json_t *value = json_load_file(path, 0, &fault);
    if (!json_is_object(value)) {
        json_decref(value);
        value = json_object();
    }
    return value;
}

static int write_object(const char *path, const json_t *value, bool is_synced, struct error *err)
{
    AUTO_FREE char *text = json_dumps(value, JSON_INDENT(1) | JSON_SORT_KEYS);
    return text != NULL ? file_replace(path, text, 0600, is_synced, err)
                        : error_set_errno(err, ENOMEM, "writing %s", path);
}

void net_state_chosen(const struct place *place, const char *network,
                      char out_text[NETWORK_TEXT_SIZE])
{
    char path[PATH_MAX];
    struct network_address address;
    place_state_path(place, "networks", network, "chosen.json", path);
    json_auto_t *chosen = read_object(path);
    const char *ipv4 = json_string_value(json_object_get(chosen, "ipv4"));
    bool is_good = ipv4 != NULL && network_parse(ipv4, 24, true, &address, NULL) == 0;
    out_text[0] = '\0';
    if (is_good) {
        network_format(&address, true, out_text);
    }
}

/* Addresses of all networks but that one. */
static json_t *others(const struct place *place, const char *network)
{
    char path[PATH_MAX], text[NETWORK_TEXT_SIZE];
    json_t *list = json_array();
    place_state_path(place, "networks", NULL, NULL, path);
    DIR *folder = opendir(path);
    for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, network) == 0) {
            continue;
        }
        net_state_chosen(place, entry->d_name, text);
        if (text[0] != '\0') {
            json_array_append_new(list, json_string(text));
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
    return list;
}

/* What the document says, or what was chosen before, or one that is free; remembered when it is new. One network at a time
 * does this. */
static int settle_ipv4(const struct place *place, struct plan *plan, struct error *err)
{
    char path[PATH_MAX], had[NETWORK_TEXT_SIZE], text[NETWORK_TEXT_SIZE];
    net_state_chosen(place, plan->name, had);
    if (plan->ipv4.family == 0 && had[0] != '\0') {
        return plan_set_ipv4(plan, had, err);
    }
    network_format(&plan->ipv4, true, text);
    if (plan->ipv4.family != 0 && strcmp(text, had) == 0) {
        return 0;
    }
    place_state_path(place, "networks", "lock", NULL, path);
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || flock(fd, LOCK_EX) < 0) {
        return error_set_errno(err, errno, "network %s: locking %s", plan->name, path);
    }
    json_auto_t *taken = others(place, plan->name);
    int rc = 0;
    if (plan->ipv4.family == 0) {
        unsigned seed;
        struct network_address address;
        rc = getrandom(&seed, sizeof(seed), 0) == (ssize_t)sizeof(seed)
                 ? plan_choose_ipv4(taken, seed, &address, err)
                 : error_set_errno(err, errno, "network %s", plan->name);
        if (rc == 0) {
            network_format(&address, true, text);
            rc = plan_set_ipv4(plan, text, err);
        }
    } else {
        rc = plan_check_free(&plan->ipv4, taken, plan->bridge, err);
    }
    if (rc < 0) {
        return rc == 0 ? 0 : error_prefix(err, rc, "network %s", plan->name);
    }
    json_auto_t *chosen = json_pack("{s:s}", "ipv4", text);
    place_state_path(place, "networks", plan->name, "chosen.json", path);
    return write_object(path, chosen, true, err);
}

int net_state_open(const struct place *place, const json_t *network, struct net_state *out_state,
                   struct error *err)
{
    struct net_state state = {.place = place};
    char path[PATH_MAX];
    int rc = plan_read(network, &state.plan, err);
    if (rc < 0) {
        return rc;
    }
    net_state_run_path(&state, NULL, path);
    rc = file_make_folders(path, 0700, 0700, err);
    if (rc == 0) {
        place_state_path(place, "networks", state.plan.name, NULL, path);
        rc = file_make_folders(path, 0700, 0700, err);
    }
    if (rc < 0) {
        return rc == 0 ? 0 : error_prefix(err, rc, "network %s", state.plan.name);
    }
    net_state_run_path(&state, "lock", path);
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    int locked = -1;
    while (fd >= 0 && (locked = flock(fd, LOCK_EX)) < 0 && errno == EINTR) {
    }
    if (locked < 0) {
        return error_set_errno(err, errno, "network %s: locking %s", state.plan.name, path);
    }
    rc = state.plan.type == PLAN_NAT ? settle_ipv4(place, &state.plan, err) : 0;
    if (rc < 0) {
        /* Of one that was never there nothing stays; folders with something in them do. */
        place_state_path(place, "networks", state.plan.name, NULL, path);
        if (rmdir(path) == 0) {
            net_state_run_path(&state, "lock", path);
            (void)unlink(path);
            net_state_run_path(&state, NULL, path);
            (void)rmdir(path);
        }
        return rc;
    }
    place_state_path(place, "networks", state.plan.name, "addresses.json", path);
    state.addresses = read_object(path);
    net_state_run_path(&state, "ports.json", path);
    state.ports = read_object(path);
    if (state.addresses == NULL || state.ports == NULL) {
        json_decref(state.addresses);
        json_decref(state.ports);
        return error_set_errno(err, ENOMEM, "network %s", state.plan.name);
    }
    state.lock_fd = TAKE_FD(fd);
    *out_state = state;
    return 0;
}

void net_state_close(struct net_state *state)
{
    json_decref(state->addresses);
    json_decref(state->ports);
    close(state->lock_fd);
}

int net_state_save_addresses(const struct net_state *state, struct error *err)
{
    char path[PATH_MAX];
    place_state_path(state->place, "networks", state->plan.name, "addresses.json", path);
    return write_object(path, state->addresses, true, err);
}

int net_state_save_ports(const struct net_state *state, struct error *err)
{
    char path[PATH_MAX];
    net_state_run_path(state, "ports.json", path);
    return write_object(path, state->ports, false, err);
}

void net_state_remove(const struct net_state *state)
{
    char path[PATH_MAX];
    /* What is left is overwritten, should there be a network of that name again. */
    place_state_path(state->place, "networks", state->plan.name, NULL, path);
    error_ignore(layers_remove(path, NULL));
    net_state_run_path(state, NULL, path);
    error_ignore(layers_remove(path, NULL));
}
