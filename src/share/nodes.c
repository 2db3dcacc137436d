#include "share/nodes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/core/bits.h"
#include "base/core/invariant.h"

#define FIRST_HASH_SIZE 1024u

static uint32_t hash_of(const struct nodes *nodes, dev_t dev, ino_t ino)
{
    uint64_t key = (uint64_t)ino * 0x9e3779b97f4a7c15ull ^ (uint64_t)dev * 0xc2b2ae3d27d4eb4full;
    return (uint32_t)(key >> 32) & (nodes->hash_size - 1);
}

static struct node *find(const struct nodes *nodes, dev_t dev, ino_t ino)
{
    struct node *node = nodes->hash[hash_of(nodes, dev, ino)];
    while (node != NULL && (node->dev != dev || node->ino != ino)) {
        node = node->next_same_hash;
    }
    return node;
}

/* The order of use: of files with a descriptor. */

static bool is_listed(const struct nodes *nodes, const struct node *node)
{
    return node->newer != NULL || node->older != NULL || nodes->newest == node;
}

static void unlist(struct nodes *nodes, struct node *node)
{
    if (!is_listed(nodes, node)) {
        return;
    }
    *(node->newer != NULL ? &node->newer->older : &nodes->newest) = node->older;
    *(node->older != NULL ? &node->older->newer : &nodes->oldest) = node->newer;
    node->newer = NULL;
    node->older = NULL;
}

static void list_newest(struct nodes *nodes, struct node *node)
{
    unlist(nodes, node);
    node->older = nodes->newest;
    *(nodes->newest != NULL ? &nodes->newest->newer : &nodes->oldest) = node;
    nodes->newest = node;
}

static void forget_place(struct nodes *nodes, struct node *node);

static void free_node(struct nodes *nodes, struct node *node)
{
    struct node **link = &nodes->hash[hash_of(nodes, node->dev, node->ino)];
    while (*link != NULL && *link != node) {
        link = &(*link)->next_same_hash;
    }
    if (*link == node) {
        *link = node->next_same_hash;
    }
    unlist(nodes, node);
    forget_place(nodes, node);
    if (node->fd >= 0) {
        close(node->fd);
        nodes->open_count--;
    } else {
        nodes->evicted--;
    }
    nodes->by_id[node->id - 1] = NULL;
    nodes->free_ids[nodes->free_count++] = (uint32_t)(node->id - 1);
    free(node);
}

static void free_if_unused(struct nodes *nodes, struct node *node)
{
    if (node->lookups == 0 && node->files == 0 && node != nodes->root) {
        free_node(nodes, node);
    }
}

static void forget_place(struct nodes *nodes, struct node *node)
{
    struct node *folder = node->folder;
    free(node->name);
    node->name = NULL;
    node->folder = NULL;
    if (folder != NULL) {
        folder->files--;
        free_if_unused(nodes, folder);
    }
}

static void set_place(struct nodes *nodes, struct node *node, struct node *folder, const char *name)
{
    if (S_ISDIR(node->type) ||
        (node->folder == folder && node->name != NULL && strcmp(node->name, name) == 0)) {
        return;
    }
    folder->files++; /* first: it may be the old one */
    forget_place(nodes, node);
    node->name = strdup(name);
    if (node->name == NULL) {
        folder->files--; /* it has lookups, or this name could not have been asked for */
        return;
    }
    node->folder = folder;
}

/* Is the file still where it was seen last? */
static bool is_at_place(const struct node *node)
{
    struct stat status;
    return node->folder != NULL && node->folder->fd >= 0 &&
           fstatat(node->folder->fd, node->name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
           status.st_dev == node->dev && status.st_ino == node->ino;
}

/* Closes the descriptor of the file that was not used for longest. False: there is none that can be had again. */
static bool evict(struct nodes *nodes)
{
    struct node *node = nodes->oldest;
    for (unsigned tries = 0; node != NULL && tries < 64; tries++, node = nodes->oldest) {
        unlist(nodes, node);
        if (is_at_place(node)) {
            close(node->fd);
            node->fd = -1;
            nodes->open_count--;
            nodes->evicted++;
            return true;
        } /* else it keeps its descriptor until it is used again */
    }
    return false;
}

static int make_room(struct nodes *nodes)
{
    while (nodes->open_count >= nodes->open_max) {
        if (!evict(nodes)) {
            return -ENFILE;
        }
    }
    return 0;
}

static int open_name(const struct node *folder, const char *name)
{
    return openat(folder->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

/* 0 or -errno. */
static int open_again(struct nodes *nodes, struct node *node)
{
    if (node->folder == NULL || node->folder->fd < 0) {
        return -ESTALE;
    }
    int rc = make_room(nodes);
    if (rc < 0) {
        return rc;
    }
    struct stat status;
    int fd = open_name(node->folder, node->name);
    if (fd < 0) {
        return -ESTALE;
    }
    if (fstat(fd, &status) < 0 || status.st_dev != node->dev || status.st_ino != node->ino ||
        (status.st_mode & S_IFMT) != node->type) {
        close(fd);
        return -ESTALE;
    }
    node->fd = fd;
    nodes->open_count++;
    nodes->evicted--;
    return 0;
}

struct node *nodes_get(struct nodes *nodes, uint64_t id)
{
    struct node *node = id >= 1 && id <= nodes->used ? nodes->by_id[id - 1] : NULL;
    int rc = node == NULL ? -ESTALE : node->fd < 0 ? open_again(nodes, node) : 0;
    if (rc < 0) {
        errno = -rc;
        return NULL;
    }
    if (!S_ISDIR(node->type)) {
        list_newest(nodes, node);
    }
    return node;
}

static int grow_ids(struct nodes *nodes)
{
    if (nodes->used < nodes->capacity) {
        return 0;
    }
    uint32_t capacity = MIN(MAX(nodes->capacity * 2, FIRST_HASH_SIZE), NODES_MAX);
    if (capacity == nodes->capacity) {
        return -ENFILE;
    }
    struct node **by_id = realloc(nodes->by_id, capacity * sizeof(struct node *));
    if (by_id == NULL) {
        return -ENOMEM;
    }
    nodes->by_id = by_id;
    uint32_t *free_ids = realloc(nodes->free_ids, capacity * sizeof(uint32_t));
    if (free_ids == NULL) {
        return -ENOMEM;
    }
    nodes->free_ids = free_ids;
    nodes->capacity = capacity;
    return 0;
}

/* More room in the hash; without memory for that it only gets slower. */
static void grow_hash(struct nodes *nodes)
{
    uint32_t old_size = nodes->hash_size;
    struct node **old = nodes->hash;
    struct node **hash = nodes->used - nodes->free_count > old_size
                             ? calloc(2ul * old_size, sizeof(struct node *))
                             : NULL;
    if (hash == NULL) {
        return;
    }
    nodes->hash = hash;
    nodes->hash_size = 2 * old_size;
    for (uint32_t i = 0; i < old_size; i++) {
        for (struct node *node = old[i], *next; node != NULL; node = next) {
            next = node->next_same_hash;
            uint32_t at = hash_of(nodes, node->dev, node->ino);
            node->next_same_hash = hash[at];
            hash[at] = node;
        }
    }
    free(old);
}

static void enter(struct nodes *nodes, struct node *node)
{
    nodes->by_id[node->id - 1] = node;
    grow_hash(nodes);
    uint32_t at = hash_of(nodes, node->dev, node->ino);
    node->next_same_hash = nodes->hash[at];
    nodes->hash[at] = node;
}

static int add(struct nodes *nodes, int fd, const struct stat *status, struct node **out_node)
{
    int rc = nodes->free_count > 0 ? 0 : grow_ids(nodes);
    struct node *node = rc == 0 ? calloc(1, sizeof(*node)) : NULL;
    if (node == NULL) {
        return rc < 0 ? rc : -ENOMEM;
    }
    uint32_t index = nodes->free_count > 0 ? nodes->free_ids[--nodes->free_count] : nodes->used++;
    *node = (struct node){.id = index + 1u,
                          .generation = ++nodes->generation,
                          .dev = status->st_dev,
                          .ino = status->st_ino,
                          .type = status->st_mode & S_IFMT,
                          .fd = fd};
    nodes->open_count++;
    enter(nodes, node);
    *out_node = node;
    return 0;
}

int nodes_adopt(struct nodes *nodes, struct node *folder, const char *name, int fd,
                struct node **out_node, struct stat *out_status)
{
    if (fstat(fd, out_status) < 0) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    struct node *node = find(nodes, out_status->st_dev, out_status->st_ino);
    if (node != NULL && node->type != (out_status->st_mode & S_IFMT)) {
        node =
            NULL; /* the number of a file that has gone: its node keeps that one as long as it can */
    }
    if (node == NULL) {
        folder->files++; /* so that it stays, whatever goes for this one's descriptor */
        int rc = make_room(nodes);
        rc = rc == 0 ? add(nodes, fd, out_status, &node) : rc;
        folder->files--;
        if (rc < 0) {
            close(fd);
            return rc;
        }
    } else if (node->fd < 0) {
        node->fd = fd;
        nodes->open_count++;
        nodes->evicted--;
    } else {
        close(fd);
    }
    node->lookups++;
    set_place(nodes, node, folder, name);
    if (!S_ISDIR(node->type)) {
        list_newest(nodes, node);
    }
    *out_node = node;
    return 0;
}

int nodes_look_up(struct nodes *nodes, struct node *folder, const char *name,
                  struct node **out_node, struct stat *out_status)
{
    int fd = open_name(folder, name);
    return fd < 0 ? -errno : nodes_adopt(nodes, folder, name, fd, out_node, out_status);
}

void nodes_forget(struct nodes *nodes, uint64_t id, uint64_t count)
{
    struct node *node = id >= 1 && id <= nodes->used ? nodes->by_id[id - 1] : NULL;
    if (node == NULL || node == nodes->root) {
        return;
    }
    node->lookups -= MIN(count, node->lookups);
    free_if_unused(nodes, node);
}

void nodes_leave_name(struct nodes *nodes, const struct node *folder, const char *name)
{
    struct stat status;
    if (nodes->evicted == 0 || fstatat(folder->fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0) {
        return;
    }
    struct node *node = find(nodes, status.st_dev, status.st_ino);
    if (node != NULL && node->fd < 0) {
        (void)open_again(nodes, node); /* if it cannot be, it is stale as it would be then */
    }
}

struct node *nodes_restore(struct nodes *nodes, const struct node *what, int fd)
{
    if (what->id < 2 || what->id > NODES_MAX) {
        return NULL;
    }
    while (nodes->used < what->id) { /* those between come later, or are free */
        if (grow_ids(nodes) < 0) {
            return NULL;
        }
        nodes->by_id[nodes->used++] = NULL;
    }
    struct node *node = nodes->by_id[what->id - 1] == NULL ? calloc(1, sizeof(*node)) : NULL;
    if (node == NULL) {
        return NULL;
    }
    *node = *what;
    node->fd = fd;
    *(fd >= 0 ? &nodes->open_count : &nodes->evicted) += 1;
    nodes->generation = MAX(nodes->generation, what->generation);
    enter(nodes, node);
    return node;
}

int nodes_init(struct nodes *nodes, int root_fd, unsigned max_open, struct error *err)
{
    struct stat status;
    *nodes = (struct nodes){.open_max = max_open, .hash_size = FIRST_HASH_SIZE};
    nodes->hash = calloc(nodes->hash_size, sizeof(struct node *));
    if (nodes->hash == NULL) {
        return error_set_errno(err, ENOMEM, "the table of files");
    }
    int rc = fstat(root_fd, &status) < 0 ? -errno : add(nodes, root_fd, &status, &nodes->root);
    if (rc < 0) {
        free(nodes->hash);
        nodes->hash = NULL;
        return error_set_errno(err, -rc, "the folder");
    }
    invariant(nodes->root->id == NODES_ROOT_ID);
    return 0;
}

void nodes_clear(struct nodes *nodes)
{
    for (uint32_t i = 1; i < nodes->used; i++) {
        if (nodes->by_id[i] != NULL) {
            nodes->by_id[i]->lookups = 0;
        }
    }
    /* Files first: they hold their folders. */
    for (unsigned round = 0; round < 2; round++) {
        for (uint32_t i = 1; i < nodes->used; i++) {
            struct node *node = nodes->by_id[i];
            if (node != NULL) {
                free_if_unused(nodes, node);
            }
        }
    }
    nodes->used = 1;
    nodes->free_count = 0;
}

void nodes_fini(struct nodes *nodes)
{
    if (nodes->root != NULL) {
        nodes_clear(nodes);
        free_node(nodes, nodes->root);
    }
    free(nodes->by_id);
    free(nodes->free_ids);
    free(nodes->hash);
    *nodes = (struct nodes){0};
}
