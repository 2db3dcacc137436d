/* JSON that a guest wrote. */
#ifndef MANAGER_INSTANCE_VM_AGENT_TEXT_H
#define MANAGER_INSTANCE_VM_AGENT_TEXT_H

#include <jansson.h>
#include <stdbool.h>

#include "base/core/error.h"

/* An object of little depth, in whose strings and names no control characters are left: '?' stands for them. -EPROTO. */
int must_check agent_text_parse(const char *text, size_t size, json_t **out_object,
                                struct error *err);
/* What {"code","message"} says, as an error. Never 0. */
int agent_text_error(const json_t *problem, struct error *err);
/* A control frame of a session that comes from its program, with what session/frames.h knows and nothing else.
 * 'out_is_last': it ends the session. -EPROTO. */
int must_check agent_text_control(const char *text, size_t size, json_t **out_control,
                                  bool *out_is_last, struct error *err);

#endif
