/* What the keeper is told besides the runtime's configuration. */
#include "system/life/document.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/core/crc32c.h"
#include "base/host/file.h"
#include "system/life/internal.h"

#define MAX_GIVEN (1u << 20)

void document_host_name(const struct store *store, const char *name, size_t card,
                        char out_name[IFNAMSIZ])
{
    uint32_t sum = crc32c(0, store->state, strlen(store->state) + 1);
    sum = crc32c(sum, name, strlen(name));
    (void)snprintf(out_name, IFNAMSIZ, DOCUMENT_DEVICE_PREFIX "%08x.%u", sum, (unsigned)card % 100);
}

static json_t *file(const char *path, const char *text)
{
    return json_pack("{s:s, s:s}", "path", path, "text", text);
}

/* What a machine of that name has in /etc. */
static json_t *files(const struct config *config)
{
    json_t *list = json_array();
    char text[4096];
    (void)snprintf(text, sizeof(text), "%s\n", config->hostname);
    (void)json_array_append_new(list, file("/etc/hostname", text));
    (void)snprintf(text, sizeof(text),
                   "127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost ip6-localhost ip6-loopback\n",
                   config->hostname);
    (void)json_array_append_new(list, file("/etc/hosts", text));
    if (config->dns_count == 0 && config->search == NULL) {
        return list; /* what the template has */
    }
    size_t used = 0;
    text[0] = '\0';
    if (config->search != NULL) {
        used = (size_t)snprintf(text, sizeof(text), "search %.512s\n", config->search);
    }
    for (size_t i = 0; i < config->dns_count; i++) {
        used += (size_t)snprintf(text + used, sizeof(text) - used, "nameserver %.64s\n",
                                 config->dns[i]);
    }
    (void)json_array_append_new(list, file("/etc/resolv.conf", text));
    return list;
}

/* What life_give_files has left. */
static int read_given(const struct store *store, const char *name, json_t **out_files,
                      struct error *err)
{
    char path[PATH_MAX];
    store_container_path(store, name, CONTAINER_GIVEN, path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        *out_files = json_array();
        return errno == ENOENT ? 0 : error_set_errno(err, errno, "opening %s", path);
    }
    AUTO_FREE void *text = NULL;
    size_t size;
    int rc = file_read_whole(fd, MAX_GIVEN, path, &text, &size, err);
    json_t *files = rc == 0 ? json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL) : NULL;
    if (rc == 0 && !json_is_array(files)) {
        json_decref(files);
        rc = error_set(err, EINVAL, "%s: no list of files", path);
    }
    *out_files = files;
    return rc;
}

int life_give_files(const struct life *life, const char *name, const json_t *files,
                    struct error *err)
{
    AUTO_CLOSE int lock = life_lock(life, name, err);
    if (lock < 0) {
        return lock;
    }
    char path[PATH_MAX];
    store_container_path(&life->store, name, CONTAINER_GIVEN, path);
    AUTO_FREE char *text = json_dumps(files, JSON_COMPACT);
    if (text == NULL || strlen(text) > MAX_GIVEN) {
        return error_set(err, E2BIG, "files for container %s: more than %u bytes", name, MAX_GIVEN);
    }
    return file_replace(path, text, 0600, false, err);
}

int document_start(const struct store *store, const struct config *config,
                   const char *const *layers, size_t layer_count, json_t **out_start,
                   struct error *err)
{
    char folder[PATH_MAX], marker[PATH_MAX];
    store_container_path(store, config->name, NULL, folder);
    store_container_path(store, config->name, CONTAINER_WRITTEN, marker);
    json_t *given, *lower = json_array();
    int rc = read_given(store, config->name, &given, err);
    if (rc < 0) {
        json_decref(lower);
        return rc;
    }
    for (size_t i = 0; i < layer_count; i++) {
        (void)json_array_append_new(lower, json_string(layers[i]));
    }
    bool is_written = access(marker, F_OK) == 0;
    json_t *all = is_written ? json_array() : files(config);
    (void)json_array_extend(all, given);
    json_decref(given);
    json_t *start =
        json_pack("{s:s, s:s, s:o, s:b, s:b, s:o, s:O}", "state", store->state, "folder", folder,
                  "layers", lower, "hasDisk", config->limits.disk_bytes != 0, "isPrivileged",
                  config->is_privileged, "files", all, "config", config->document);
    *out_start = start;
    return start != NULL ? 0 : error_set(err, ENOMEM, "no memory for starting a container");
}
