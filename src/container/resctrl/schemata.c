/* Lines "RESOURCE:DOMAIN=VALUE;DOMAIN=VALUE", compared by their numbers: the kernel pads them. */
#include <stdlib.h>
#include <string.h>

#include "container/resctrl/resctrl.h"

/* The domains of a resource: what follows its name in the content. NULL: it has no such line. */
static const char *find_resource(const char *content, const char *name, size_t length)
{
    for (const char *line = content; line != NULL && *line != '\0';) {
        const char *begin = line + strspn(line, " \t");
        if (strncmp(begin, name, length) == 0 && begin[length] == ':') {
            return begin + length + 1;
        }
        line = strchr(line, '\n');
        line = line != NULL ? line + 1 : NULL;
    }
    return NULL;
}

/* One "DOMAIN=VALUE"; bit masks are hexadecimal, and decimal numbers are the same when they look the same. */
static bool read_value(const char **at, unsigned long *out_domain, unsigned long long *out_value)
{
    char *end;
    *out_domain = strtoul(*at, &end, 10);
    if (end == *at || *end != '=') {
        return false;
    }
    const char *value = end + 1;
    *out_value = strtoull(value, &end, 16);
    *at = *end == ';' ? end + 1 : end;
    return end != value;
}

static bool has_value(const char *domains, unsigned long domain, unsigned long long value)
{
    unsigned long other;
    unsigned long long there;
    while (*domains != '\0' && *domains != '\n' && read_value(&domains, &other, &there)) {
        if (other == domain) {
            return there == value;
        }
    }
    return false;
}

bool schemata_have(const char *content, const char *line)
{
    line += strspn(line, " \t");
    size_t length = strcspn(line, ":");
    if (line[length] == '\0') {
        return false;
    }
    const char *domains = find_resource(content, line, length), *at = line + length + 1;
    unsigned long domain;
    unsigned long long value;
    while (domains != NULL && *at != '\0') {
        if (!read_value(&at, &domain, &value) || !has_value(domains, domain, value)) {
            return false;
        }
    }
    return domains != NULL;
}
