#include "system/template/host_apt.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/host/file.h"
#include "system/template/copy.h"

#define MAX_FILE (1u << 20)

int host_apt_suite(char *out_suite, size_t size, struct error *err)
{
    static const char key[] = "VERSION_CODENAME=";
    char line[256];
    char suite[64] = "";
    FILE *file = fopen("/etc/os-release", "re");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, key, strlen(key)) == 0) {
            const char *value = line + strlen(key) + (line[strlen(key)] == '"');
            (void)snprintf(suite, sizeof(suite), "%.*s", (int)MIN(strcspn(value, "\"\n"), 60u),
                           value);
        }
    }
    if (file != NULL) {
        (void)fclose(file); /* it was read only */
    }
    if (suite[0] == '\0') {
        return error_set(err, ENOENT,
                         "the host's suite is not known (/etc/os-release): give --suite");
    }
    (void)snprintf(out_suite, size, "%s", suite);
    return 0;
}

struct sources {
    const char *suite;
    bool is_public;
    FILE *out;
    unsigned count;
};

/* One of 'words' (separated by blanks) is the text, or (is_start) begins with it and '-'. */
static bool has_word(const char *words, const char *text, size_t *out_at, size_t *out_length,
                     bool is_start)
{
    size_t length = strlen(text);
    for (size_t at = 0; words[at] != '\0';) {
        size_t word = strcspn(words + at, " \t\n");
        if (word >= length && strncmp(words + at, text, length) == 0 &&
            (word == length || (is_start && words[at + length] == '-'))) {
            *out_at = at;
            *out_length = word;
            return true;
        }
        at += word;
        at += strspn(words + at, " \t\n");
    }
    return false;
}

/* A URI, without "user:password@" if others are to see it. */
static void put_uri(struct sources *s, const char *uri, size_t length)
{
    const char *scheme = memmem(uri, length, "://", 3);
    if (scheme != NULL && s->is_public) {
        size_t start = (size_t)(scheme - uri) + 3;
        size_t host = start + strcspn(uri + start, "/ \t\n");
        const char *at = memrchr(uri + start, '@', MIN(host, length) - start);
        if (at != NULL) {
            (void)fprintf(s->out, "%.*s%.*s", (int)start, uri, (int)(uri + length - at - 1),
                          at + 1);
            return;
        }
    }
    (void)fprintf(s->out, "%.*s", (int)length, uri);
}

/* Each URI with each suite that is wanted, a line each. */
static void put_sources(struct sources *s, const char *uris, const char *suites,
                        const char *components, const char *signed_by)
{
    size_t at, length;
    if (!has_word(components, "main", &at, &length, false)) {
        return;
    }
    while (has_word(suites, s->suite, &at, &length, true)) {
        for (size_t uri = strspn(uris, " \t"); uris[uri] != '\0' && uris[uri] != '\n';) {
            size_t uri_length = strcspn(uris + uri, " \t\n");
            (void)fputs("deb ", s->out);
            if (signed_by[0] == '/') {
                (void)fprintf(s->out, "[signed-by=%.*s] ", (int)strcspn(signed_by, " \t\n"),
                              signed_by);
            }
            put_uri(s, uris + uri, uri_length);
            (void)fprintf(s->out, " %.*s %.*s\n", (int)length, suites + at,
                          (int)strcspn(components, "\n"), components);
            s->count++;
            uri += uri_length;
            uri += strspn(uris + uri, " \t");
        }
        suites += at + length;
    }
}

/* "deb [options] URI SUITE COMPONENT..." */
static void take_line(struct sources *s, char *line)
{
    char *hash = strchr(line, '#');
    if (hash != NULL) {
        *hash = '\0';
    }
    line += strspn(line, " \t");
    if (strncmp(line, "deb", 3) != 0 || (line[3] != ' ' && line[3] != '\t')) {
        return;
    }
    char *at = line + 3 + strspn(line + 3, " \t");
    const char *signed_by = "";
    if (*at == '[') {
        char *end = strchr(at, ']');
        if (end == NULL) {
            return;
        }
        *end = '\0';
        const char *found = strstr(at, "signed-by=");
        signed_by = found != NULL ? found + strlen("signed-by=") : "";
        at = end + 1 + strspn(end + 1, " \t");
    }
    char *save;
    char *uri = strtok_r(at, " \t", &save);
    char *suite = strtok_r(NULL, " \t", &save);
    char *components = strtok_r(NULL, "", &save);
    if (uri != NULL && suite != NULL && components != NULL) {
        put_sources(s, uri, suite, components + strspn(components, " \t"), signed_by);
    }
}

/* The value of a field in a paragraph of a .sources file, lines that go on included (joined by blanks by the caller); "" if it
 * is not there. */
static const char *field(const char *paragraph, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = paragraph; line != NULL && *line != '\0';) {
        if (strncasecmp(line, name, length) == 0 && line[length] == ':') {
            return line + length + 1 + strspn(line + length + 1, " \t");
        }
        line = strchr(line, '\n');
        line = line != NULL ? line + 1 : NULL;
    }
    return "";
}

static void take_paragraph(struct sources *s, char *text)
{
    size_t at, length;
    /* A line that begins with a blank goes on the one before. */
    for (char *c = text; *c != '\0'; c++) {
        if (*c == '\n' && (c[1] == ' ' || c[1] == '\t')) {
            *c = ' ';
        }
    }
    char suites[512], types[64];
    const char *value = field(text, "Suites");
    (void)snprintf(suites, sizeof(suites), "%.*s", (int)MIN(strcspn(value, "\n"), 500u), value);
    value = field(text, "Types");
    (void)snprintf(types, sizeof(types), "%.*s", (int)MIN(strcspn(value, "\n"), 60u), value);
    if (has_word(types, "deb", &at, &length, false) &&
        strncasecmp(field(text, "Enabled"), "no", 2) != 0) {
        put_sources(s, field(text, "URIs"), suites, field(text, "Components"),
                    field(text, "Signed-By"));
    }
}

static void take_file(struct sources *s, const char *path)
{
    void *data;
    size_t size;
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || file_read_whole(fd, MAX_FILE, path, &data, &size, NULL) < 0) {
        return; /* apt itself would say so */
    }
    size_t length = strlen(path);
    bool is_deb822 = length > 8 && strcmp(path + length - 8, ".sources") == 0;
    char *text = data;
    if (is_deb822) {
        /* Comments go first: they may stand within a field. */
        char *to = text;
        for (char *line = text; *line != '\0';) {
            size_t line_length = strcspn(line, "\n");
            line_length += line[line_length] == '\n';
            if (*line != '#') {
                memmove(to, line, line_length);
                to += line_length;
            }
            line += line_length;
        }
        *to = '\0';
    }
    while (text != NULL && *text != '\0') {
        char *end = strstr(text, is_deb822 ? "\n\n" : "\n");
        if (end != NULL) {
            *end = '\0';
        }
        if (is_deb822) {
            take_paragraph(s, text);
        } else {
            take_line(s, text);
        }
        text = end != NULL ? end + 1 + is_deb822 : NULL;
    }
    free(data);
}

int host_apt_sources(const char *suite, const char *path, bool is_public, unsigned *out_count,
                     struct error *err)
{
    static const char *const patterns[] = {"/etc/apt/sources.list",
                                           "/etc/apt/sources.list.d/*.list",
                                           "/etc/apt/sources.list.d/*.sources"};
    struct sources s = {.suite = suite, .is_public = is_public};
    /* Passwords may be in it. */
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, is_public ? 0644 : 0600);
    s.out = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (s.out == NULL) {
        return error_set_errno(err, errno, "writing %s", path);
    }
    for (size_t i = 0; i < ARRAY_COUNT(patterns); i++) {
        glob_t found;
        if (glob(patterns[i], 0, NULL, &found) == 0) {
            for (size_t j = 0; j < found.gl_pathc; j++) {
                take_file(&s, found.gl_pathv[j]);
            }
            globfree(&found);
        }
    }
    if (fclose(s.out) != 0) {
        return error_set_errno(err, errno, "writing %s", path);
    }
    *out_count = s.count;
    return 0;
}

static void take_setting(void *ctx, const char *line)
{
    static const char *const wanted[] = {"Acquire::http", "Acquire::ftp",     "Acquire::Check-",
                                         "Acquire::Max-", "Acquire::Retries", "Acquire::ForceIPv"};
    for (size_t i = 0; i < ARRAY_COUNT(wanted); i++) {
        /* A program that finds the proxy is the host's. */
        if (strncmp(line, wanted[i], strlen(wanted[i])) == 0 &&
            strcasestr(line, "detect") == NULL) {
            (void)fprintf(ctx, "%s\n", line);
        }
    }
}

int host_apt_settings(FILE *out, struct error *err)
{
    static const char *const argv[] = {"apt-config", "dump", "Acquire", NULL};
    const struct boxed program = {.what = "apt-config",
                                  .argv = argv,
                                  .missing_package = "apt",
                                  .line = take_setting,
                                  .ctx = out};
    return boxed_run(&program, err);
}

int host_apt_copy(const char *from, const char *to, struct error *err)
{
    AUTO_CLOSE int fd = open(from, O_PATH | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT ? 0 : error_set_errno(err, errno, "reading %s", from);
    }
    return copy_in(fd, to, err);
}

static int lend_files(const char *folder, struct error *err)
{
    static const struct {
        const char *from, *to;
    } files[] = {{"/etc/apt/auth.conf", "auth.conf"},
                 {"/etc/apt/auth.conf.d", "auth.conf.d"},
                 {"/etc/ssl/certs/ca-certificates.crt", "ca.crt"}};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(files); i++) {
        char path[PATH_MAX];
        (void)snprintf(path, sizeof(path), "%.4000s/%s", folder, files[i].to);
        rc = host_apt_copy(files[i].from, path, err);
    }
    return rc;
}

int host_apt_lend(struct build *build, struct error *err)
{
    static const char fixed[] = "Dir::State::lists \"/run/hull/lists\";\n"
                                "Dir::Cache \"/run/hull/cache\";\n"
                                "Dir::Log \"/run/hull/log\";\n"
                                "Dir::Etc::netrc \"/run/hull/auth.conf\";\n"
                                "Dir::Etc::netrcparts \"/run/hull/auth.conf.d\";\n"
                                /* Its folders are not in the tree, and nothing of its own is. */
                                "APT::Sandbox::User \"root\";\n";
    char folder[PATH_MAX], path[PATH_MAX];
    unsigned count = 0;
    build_path(build, "scratch/run/hull", folder);
    int rc = lend_files(folder, err);
    build_path(build, "scratch/run/hull/sources.list", path);
    if (rc == 0 && build->suite[0] != '\0') {
        rc = host_apt_sources(build->suite, path, false, &count, err);
    }
    if (rc < 0) {
        return rc;
    }
    build_path(build, "scratch/run/hull/apt.conf", path);
    FILE *out = fopen(path, "we");
    if (out == NULL) {
        return error_set_errno(err, errno, "writing %s", path);
    }
    build_path(build, "scratch/run/hull/ca.crt", path);
    if (access(path, F_OK) == 0) {
        (void)fputs("Acquire::https::CAInfo \"/run/hull/ca.crt\";\n", out); /* fclose tells */
    }
    rc = host_apt_settings(out, err);
    (void)fputs(fixed, out); /* the same */
    if (count > 0) {
        (void)fputs("Dir::Etc::sourcelist \"/run/hull/sources.list\";\n"
                    "Dir::Etc::sourceparts \"/run/hull/none\";\n",
                    out); /* the same */
    }
    if (fclose(out) != 0 && rc == 0) {
        rc = error_set_errno(err, errno, "writing apt.conf for the build");
    }
    return rc;
}
