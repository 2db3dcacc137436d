#include "agent/user.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"

static bool read_id(const char *text, uint32_t *out_id)
{
    char *end;
    errno = 0;
    unsigned long long id = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || id >= UINT32_MAX) {
        return false; /* UINT32_MAX would mean "stays as it is" to the kernel */
    }
    *out_id = (uint32_t)id;
    return true;
}

/* Splits a line in place. Returns how many fields it has; 'field' has room for 'most'. */
static size_t split(char *line, char **field, size_t most)
{
    line[strcspn(line, "\n")] = '\0';
    size_t count = 0;
    for (char *rest = line; rest != NULL && count < most;) {
        field[count++] = strsep(&rest, ":");
    }
    return count;
}

static bool keep(char *to, size_t size, const char *text)
{
    if (strlen(text) >= size) {
        return false;
    }
    memcpy(to, text, strlen(text) + 1);
    return true;
}

/* 'name' NULL: by 'uid'. */
static bool find_entry(FILE *passwd, const char *name, uint32_t uid, struct user *user)
{
    AUTO_FREE char *line = NULL;
    size_t size = 0;
    rewind(passwd);
    while (getline(&line, &size, passwd) > 0) {
        char *field[7];
        uint32_t entry_uid, entry_gid;
        if (split(line, field, 7) != 7 || !read_id(field[2], &entry_uid) ||
            !read_id(field[3], &entry_gid) || field[0][0] == '\0') {
            continue;
        }
        if (name != NULL ? strcmp(field[0], name) != 0 : entry_uid != uid) {
            continue;
        }
        if (!keep(user->name, sizeof(user->name), field[0]) ||
            !keep(user->home, sizeof(user->home), field[5][0] == '/' ? field[5] : "/") ||
            !keep(user->shell, sizeof(user->shell), field[6][0] == '/' ? field[6] : "/bin/sh")) {
            continue;
        }
        user->uid = entry_uid;
        user->gid = entry_gid;
        return true;
    }
    return false;
}

static bool has_member(char *members, const char *name)
{
    for (char *rest = members, *member; (member = strsep(&rest, ",")) != NULL;) {
        if (strcmp(member, name) == 0) {
            return true;
        }
    }
    return false;
}

/* Groups that name the user; with 'wanted' the id of that one into 'gid' instead. False: there is no such group. */
static bool find_groups(FILE *group, const char *wanted, struct user *user)
{
    AUTO_FREE char *line = NULL;
    size_t size = 0;
    rewind(group);
    while (getline(&line, &size, group) > 0) {
        char *field[4];
        uint32_t gid;
        size_t count = split(line, field, 4);
        if (count < 3 || !read_id(field[2], &gid)) {
            continue;
        }
        if (wanted != NULL) {
            if (strcmp(field[0], wanted) == 0) {
                user->gid = gid;
                return true;
            }
        } else if (count == 4 && gid != user->gid && user->group_count < USER_MAX_GROUPS &&
                   has_member(field[3], user->name)) {
            user->groups[user->group_count++] = gid;
        }
    }
    return wanted == NULL;
}

int user_find_in(FILE *passwd, FILE *group, const char *wanted, struct user *out_user,
                 struct error *err)
{
    char name[256];
    struct user user = {.home = "/", .shell = "/bin/sh"};
    const char *colon = strchr(wanted, ':');
    size_t length = colon != NULL ? (size_t)(colon - wanted) : strlen(wanted);
    if (length == 0 || length >= sizeof(name) || (colon != NULL && colon[1] == '\0')) {
        return error_set(err, EINVAL, "user '%.60s': NAME or UID, and perhaps :GROUP or :GID",
                         wanted);
    }
    memcpy(name, wanted, length);
    name[length] = '\0';
    uint32_t uid = 0, gid = 0;
    bool is_number = read_id(name, &uid);
    bool is_found = passwd != NULL && (find_entry(passwd, name, 0, &user) ||
                                       (is_number && find_entry(passwd, NULL, uid, &user)));
    if (!is_found && is_number) {
        user.uid = uid;
        user.gid = uid == 0 ? 0 : uid;
        (void)snprintf(user.name, sizeof(user.name), "%u", uid);
    } else if (!is_found && strcmp(name, "root") == 0) {
        (void)snprintf(user.name, sizeof(user.name), "root"); /* a system without /etc/passwd */
    } else if (!is_found) {
        return error_set(err, ENOENT, "user %.60s: /etc/passwd has none of that name", name);
    }
    if (colon != NULL && read_id(colon + 1, &gid)) {
        user.gid = gid;
    } else if (colon != NULL && (group == NULL || !find_groups(group, colon + 1, &user))) {
        return error_set(err, ENOENT, "group %.60s: /etc/group has none of that name", colon + 1);
    }
    if (colon == NULL && group != NULL) {
        (void)find_groups(group, NULL, &user); /* having none is fine */
    }
    *out_user = user;
    return 0;
}

int user_find(const char *wanted, struct user *out_user, struct error *err)
{
    FILE *passwd = fopen("/etc/passwd", "re"), *group = fopen("/etc/group", "re");
    int rc = user_find_in(passwd, group, wanted, out_user, err);
    if (passwd != NULL) {
        (void)fclose(passwd);
    }
    if (group != NULL) {
        (void)fclose(group);
    }
    return rc;
}
