/* dnsmasq: DHCP and DNS of one network. It runs as a user of its own and outlives who started it, in a mount namespace where
 * its folder is /tmp, as nobody but root may enter the one above. It reads again at SIGHUP what changes. */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/program.h"
#include "manager/network/state.h"
#include "manager/text.h"

#define LEASES_MAX_SIZE (4u << 20)
#define TITLE           "hull-dnsmasq:" /* argv[0], with the folder behind it: by that it is known again */

static void dns_path(const struct place *place, const char *network, const char *file,
                     char out_path[PATH_MAX])
{
    char name[128];
    snprintf(name, sizeof(name), "dns%s%s", file != NULL ? "/" : "", file != NULL ? file : "");
    place_run_path(place, "networks", network, name, out_path);
}

/* The user that the distribution made for it, or the one that has nothing. */
static const char *user(void)
{
    static const char *const users[] = {"hull-dnsmasq", "dnsmasq", "nobody"};
    unsigned i = 0;
    while (i + 1 < ARRAY_COUNT(users) && getpwnam(users[i]) == NULL) {
        i++;
    }
    return users[i];
}

char *net_dns_config(const struct net_state *state)
{
    const struct plan *plan = &state->plan;
    char own[NETWORK_TEXT_SIZE], first[NETWORK_TEXT_SIZE], last[NETWORK_TEXT_SIZE];
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL) {
        return NULL;
    }
    struct network_address mask = {.family = AF_INET};
    for (unsigned i = 0; i < plan->ipv4.prefix; i++) {
        mask.bytes[i / 8] |= (uint8_t)(0x80 >> (i % 8));
    }
    char mask_text[NETWORK_TEXT_SIZE];
    network_format(&mask, false, mask_text);
    network_format(&plan->ipv4, false, own);
    network_format(&plan->first, false, first);
    network_format(&plan->last, false, last);
    fprintf(out,
            "user=%s\n"
            "pid-file=/tmp/dnsmasq.pid\n"
            "interface=%s\n"
            "except-interface=lo\n"
            "bind-interfaces\n"
            "no-hosts\n"
            "addn-hosts=/tmp/hosts\n"
            "domain-needed\n"
            "bogus-priv\n"
            "domain=hull\n"
            "local=/hull/\n"
            "expand-hosts\n"
            "dhcp-authoritative\n"
            "dhcp-leasefile=/tmp/leases\n"
            "dhcp-lease-max=65535\n"
            "dhcp-hostsfile=/tmp/dhcp-hosts\n"
            "dhcp-range=%s,%s,%s,1h\n"
            "dhcp-option=option:router,%s\n"
            "dhcp-option=option:dns-server,%s\n"
            "quiet-dhcp\nquiet-dhcp6\nquiet-ra\n",
            user(), plan->bridge, first, last, mask_text, own, own);
    if (plan->ipv6.family != 0) {
        fprintf(out,
                "enable-ra\n"
                "dhcp-range=::,constructor:%s,ra-names,slaac,64,1h\n",
                plan->bridge);
    }
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

/* The name in "web1/eth0". */
static int instance_length(const char *id)
{
    return (int)strcspn(id, "/");
}

char *net_dns_leases(const struct net_state *state)
{
    char *text = NULL;
    size_t size;
    const char *id;
    json_t *entry;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL) {
        return NULL;
    }
    json_object_foreach(state->addresses, id, entry)
    {
        const char *mac = text_of(entry, "mac"), *ipv4 = text_of(entry, "ipv4");
        if (mac != NULL && ipv4 != NULL) {
            fprintf(out, "%s,%s,%.*s\n", mac, ipv4, instance_length(id), id);
        }
    }
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

char *net_dns_names(const struct net_state *state)
{
    static const char *const keys[] = {"ipv4", "ipv6"};
    char *text = NULL;
    size_t size;
    const char *id;
    json_t *port;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL) {
        return NULL;
    }
    json_object_foreach(state->ports, id, port)
    {
        for (unsigned i = 0; i < ARRAY_COUNT(keys); i++) {
            const char *address = text_of(port, keys[i]);
            if (address != NULL) {
                fprintf(out, "%s %.*s\n", address, instance_length(id), id);
            }
        }
    }
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

static pid_t read_pid(const char *path)
{
    char text[32] = "";
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t size = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    long pid = size > 0 ? strtol(text, NULL, 10) : 0;
    return pid > 1 && pid < INT32_MAX ? (pid_t)pid : 0;
}

/* The network's dnsmasq, if it runs: a number alone may be another's by now. 0: it does not. */
static pid_t find_process(const struct net_state *state)
{
    char path[PATH_MAX], folder[PATH_MAX], title[PATH_MAX + sizeof(TITLE)] = "";
    dns_path(state->place, state->plan.name, "dnsmasq.pid", path);
    dns_path(state->place, state->plan.name, NULL, folder);
    pid_t pid = read_pid(path);
    if (pid == 0) {
        return 0;
    }
    snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read(fd, title, sizeof(title) - 1) : -1;
    size_t length = strlen(TITLE);
    return size > 0 && strncmp(title, TITLE, length) == 0 && strcmp(title + length, folder) == 0
               ? pid
               : 0;
}

static bool is_same(const char *path, const char *text)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    AUTO_FREE void *data = NULL;
    size_t size;
    return fd >= 0 && file_read_whole(fd, LEASES_MAX_SIZE, path, &data, &size, NULL) == 0 &&
           size == strlen(text) && memcmp(data, text, size) == 0;
}

/* 'out_changed' stays as it is where the file was that already. */
static int write_text(const struct net_state *state, const char *file, char *text,
                      bool *out_changed, struct error *err)
{
    char path[PATH_MAX];
    AUTO_FREE char *owned = text;
    if (owned == NULL) {
        return error_set_errno(err, ENOMEM, "network %s", state->plan.name);
    }
    dns_path(state->place, state->plan.name, file, path);
    if (is_same(path, owned)) {
        return 0;
    }
    *out_changed = true;
    /* dnsmasq's user reads it, whatever the umask is. */
    int rc = file_replace(path, owned, 0644, false, err);
    if (rc == 0 && chmod(path, 0644) < 0) {
        rc = error_set_errno(err, errno, "writing %s", path);
    }
    return rc;
}

/* Between fork and exec. */
noreturn_fn static void run(const char *program, const char *folder, const char *title, int output)
{
    char *const argv[] = {(char *)title, (char *)"--conf-file=/tmp/dnsmasq.conf", NULL};
    sigset_t none;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    for (int number = 1; number < SIGRTMIN; number++) {
        (void)signal(number, SIG_DFL); /* SIGKILL and SIGSTOP refuse, rightly */
    }
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    const char *failed = "its folder";
    if (unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
        mount(folder, "/tmp", NULL, MS_BIND, NULL) == 0 && chdir("/") == 0 && null_fd >= 0 &&
        dup2(null_fd, 0) >= 0 && dup2(null_fd, 1) >= 0 && dup2(output, 2) >= 0) {
        failed = "starting it";
        execv(program, argv);
    }
    char text[128];
    int size = snprintf(text, sizeof(text), "%s: %s", failed, strerror(errno));
    (void)!write(output, text, (size_t)size);
    _exit(127);
}

/* It says on standard error what is wrong, and is in the background when the first process ends well. */
static int wait_until_up(pid_t pid, int output, struct error *err)
{
    char text[ERROR_TEXT_SIZE - 60] = "";
    size_t used = 0;
    for (ssize_t size = 1; size > 0 && used < sizeof(text) - 1;) {
        size = read(output, text + used, sizeof(text) - 1 - used);
        used += size > 0 ? (size_t)size : 0;
    }
    text[strcspn(text + 1, "\n") + (text[0] != '\0')] = '\0';
    int status;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            return error_set_errno(err, errno, "dnsmasq");
        }
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        return 0;
    }
    const char *said = text + strspn(text, "\n ");
    return error_set(err, EIO, "dnsmasq: %s", said[0] != '\0' ? said : "it ended at once");
}

static int start(const struct net_state *state, struct error *err)
{
    char program[PATH_MAX], folder[PATH_MAX], title[PATH_MAX + sizeof(TITLE)];
    int output[2];
    if (program_find("dnsmasq", true, program, sizeof(program), NULL) < 0) {
        return error_set(err, ENOENT,
                         "program dnsmasq: not found: networks need it (dnsmasq-base)");
    }
    dns_path(state->place, state->plan.name, NULL, folder);
    snprintf(title, sizeof(title), TITLE "%s", folder);
    if (pipe2(output, O_CLOEXEC) < 0) {
        return error_set_errno(err, errno, "dnsmasq");
    }
    pid_t pid = fork();
    if (pid == 0) {
        run(program, folder, title, output[1]);
    }
    int rc = pid < 0 ? error_set_errno(err, errno, "dnsmasq") : 0;
    close(output[1]);
    if (rc == 0) {
        rc = wait_until_up(pid, output[0], err);
    }
    close(output[0]);
    return rc;
}

static void stop(const struct net_state *state)
{
    /* SIGTERM ends it within microseconds as a rule. */
    pid_t pid = find_process(state);
    for (unsigned i = 0; i < 200 && pid != 0; i++) {
        (void)kill(pid, i < 100 ? SIGTERM : SIGKILL);
        const struct timespec moment = {.tv_nsec = i == 0 ? 1000000 : 10000000};
        (void)nanosleep(&moment, NULL);
        pid = find_process(state);
    }
}

int net_dns_up(const struct net_state *state, struct error *err)
{
    char path[PATH_MAX];
    bool is_new = false, has_news = false;
    dns_path(state->place, state->plan.name, NULL, path);
    int rc = file_make_folders(path, 0755, 0700, err);
    if (rc == 0 && chmod(path, 0755) < 0) {
        rc = error_set_errno(err, errno, "folder %s", path);
    }
    if (rc == 0) {
        rc = write_text(state, "dnsmasq.conf", net_dns_config(state), &is_new, err);
    }
    if (rc == 0) {
        rc = write_text(state, "dhcp-hosts", net_dns_leases(state), &has_news, err);
    }
    if (rc == 0) {
        rc = write_text(state, "hosts", net_dns_names(state), &has_news, err);
    }
    pid_t pid = rc == 0 ? find_process(state) : 0;
    if (pid != 0 && is_new) {
        stop(state);
        pid = 0;
    }
    if (rc == 0 && pid == 0) {
        rc = start(state, err);
    } else if (rc == 0 && has_news) {
        (void)kill(pid, SIGHUP); /* it was there a moment ago; else the next call starts it */
    }
    return rc == 0 ? 0 : error_prefix(err, rc, "network %s", state->plan.name);
}

void net_dns_down(const struct net_state *state)
{
    stop(state);
}

/* "1700003600 52:54:00:12:34:56 10.1.2.3 name id": one row, cut in place. False: it is another kind of line. */
struct lease {
    long long ends_at;
    char mac[PLAN_MAC_SIZE], address[NETWORK_TEXT_SIZE], name[80];
};

static bool read_lease(const char *line, struct lease *out)
{
    struct network_address address;
    char mac[32];
    return sscanf(line, "%lld %31s %63s %79s", &out->ends_at, mac, out->address, out->name) == 4 &&
           plan_read_mac(mac, out->mac, NULL) == 0 &&
           network_parse(out->address, 0, false, &address, NULL) == 0;
}

/* Calls 'fn' for each lease that has not ended. */
static int each_lease(const struct place *place, const char *network,
                      int (*fn)(void *ctx, const struct lease *lease), void *ctx, struct error *err)
{
    char path[PATH_MAX], line[512];
    dns_path(place, network, "leases", path);
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return errno == ENOENT || errno == ENOTDIR
                   ? 0
                   : error_set_errno(err, errno, "network %s: reading its leases", network);
    }
    int rc = 0;
    time_t now = time(NULL);
    while (rc == 0 && fgets(line, sizeof(line), file) != NULL) {
        struct lease lease;
        if (read_lease(line, &lease) && (lease.ends_at == 0 || lease.ends_at > now)) {
            rc = fn(ctx, &lease);
        }
    }
    fclose(file);
    return rc < 0 ? error_set_errno(err, -rc, "network %s: reading its leases", network) : 0;
}

struct wanted {
    const char *mac;
    json_t *addresses;
};

static int add_address(void *ctx, const struct lease *lease)
{
    const struct wanted *wanted = ctx;
    size_t i;
    json_t *value;
    if (strcasecmp(wanted->mac, lease->mac) != 0) {
        return 0;
    }
    json_array_foreach(wanted->addresses, i, value)
    {
        if (strcmp(json_string_value(value), lease->address) == 0) {
            return 0;
        }
    }
    return json_array_append_new(wanted->addresses, json_string(lease->address)) < 0 ? -ENOMEM : 0;
}

int net_dns_add_leases(const struct place *place, const char *network, const char *mac,
                       json_t *addresses, struct error *err)
{
    struct wanted wanted = {mac, addresses};
    return each_lease(place, network, add_address, &wanted, err);
}

static int add_lease(void *ctx, const struct lease *lease)
{
    json_t *row = json_pack("{s:s,s:s,s:s,s:I}", "mac", lease->mac, "ipv4", lease->address, "name",
                            strcmp(lease->name, "*") == 0 ? "" : lease->name, "ends_at",
                            (json_int_t)lease->ends_at);
    return json_array_append_new(ctx, row) < 0 ? -ENOMEM : 0;
}

int net_dns_list_leases(const struct place *place, const char *network, json_t **out_leases,
                        struct error *err)
{
    json_auto_t *list = json_array();
    int rc = each_lease(place, network, add_lease, list, err);
    if (rc == 0) {
        *out_leases = TAKE_PTR(list);
    }
    return rc;
}
