/* {"do":"info"}: what this system is. */
#ifndef AGENT_INFO_H
#define AGENT_INFO_H

#include <jansson.h>

/* NULL: no memory for it. */
json_t *info_make(void);

#endif
