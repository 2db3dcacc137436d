/* Who uses a network, a pool or a volume. In hulld. */
#ifndef MANAGER_USERS_H
#define MANAGER_USERS_H

#include <jansson.h>
#include <stdbool.h>

#include "base/core/error.h"
#include "manager/store/store.h"

/* Which devices it is about: those of 'type' with 'value' as property 'key' and, where 'key2' is not NULL, 'value2' as that.
 * With 'has_shares' also shared folders that are volumes. */
struct users_query {
    const char *type, *key, *value, *key2, *value2;
    bool has_shares;
};

/* Names of instances with such a device, their profiles' devices included, and "profile NAME" for profiles: a new array. */
int must_check users_find(struct documents *documents, const struct users_query *query,
                          json_t **out_names, struct error *err);
/* -EBUSY: "network lab: is used by web1, profile default" if there are some. */
int must_check users_refuse(struct documents *documents, const struct users_query *query,
                            const char *what, const char *name, struct error *err);

#endif
