/* Guest registers that are in the vCPU, and what is still known of them in a scratch register: the next instruction as a rule goes on
 * with what the last one has made, and needs no load then. If it makes a new value of it, the old one need not have been stored. */
#include <stddef.h>
#include <string.h>

#include "engine/soft/translate/translate.h"

static int32_t place_of(uint8_t guest)
{
    return VCPU_FIELD(gpr) + 8 * guest;
}

/* The slow paths that come back behind the last store, from the last one on: the one before number *at, which becomes its number; or
 * NULL. */
static struct slow_path *find_return(struct translation *t, uint32_t *at)
{
    while (*at > 0 && t->slow[*at - 1].index >= t->held.index) {
        struct slow_path *slow = &t->slow[--*at];
        if (slow->after == t->held.from) {
            return slow;
        }
    }
    return NULL;
}

bool native_holds_any(const struct translation *t)
{
    return t->held.at == t->e.at;
}

bool native_holds(const struct translation *t, uint8_t guest)
{
    return native_holds_any(t) && t->held.guest == guest;
}

uint8_t native_use_held(struct translation *t)
{
    /* Who comes back behind the store from elsewhere has to bring it along. */
    struct slow_path *slow;
    for (uint32_t at = t->slow_count; (slow = find_return(t, &at)) != NULL;) {
        slow->is_held = true;
        slow->held_guest = t->held.guest;
        slow->held_host = t->held.host;
    }
    return t->held.host;
}

void native_go_on_holding(struct translation *t)
{
    t->held.at = t->e.at;
}

void native_load_gpr(struct translation *t, uint8_t reg, uint8_t guest)
{
    if (!native_holds(t, guest)) {
        emit_op_base(&t->e, HOST_OP_MOV_REG_RM, reg, HOST_RSP, place_of(guest));
        return;
    }
    uint8_t host = native_use_held(t);
    if (host != reg) {
        emit_op_reg(&t->e, HOST_OP_MOV_REG_RM, reg, host);
        native_go_on_holding(t);
    }
}

/* What was stored last is not wanted: the code behind it moves up. That is free of places that others know, but for where slow paths
 * come back. */
static void drop_last_store(struct translation *t)
{
    uint8_t *store = t->held.store, *from = t->held.from;
    memmove(store, from, (size_t)(t->e.at - from));
    t->e.at -= from - store;
    struct slow_path *slow;
    for (uint32_t at = t->slow_count; (slow = find_return(t, &at)) != NULL;) {
        slow->after = store;
    }
}

void native_store_gpr(struct translation *t, uint8_t reg, uint8_t guest)
{
    if (native_holds(t, guest)) {
        drop_last_store(t);
    }
    uint8_t *store = t->e.at;
    emit_op_base(&t->e, HOST_OP_MOV_RM_REG, reg, HOST_RSP, place_of(guest));
    bool is_scratch = reg == HOST_R14 || reg == HOST_R15;
    t->held = (struct held_register){.guest = guest,
                                     .host = reg,
                                     .index = t->index,
                                     .store = store,
                                     .from = t->e.at,
                                     .at = is_scratch ? t->e.at : NULL};
}
