/* What the driver asks a VM's guest for, where that has hull-agent (agent.h). */
#ifndef MANAGER_INSTANCE_VM_GUEST_H
#define MANAGER_INSTANCE_VM_GUEST_H

#include "manager/instance/vm/vm.h"

/* One request, taken over, and its answer: 'out_answer' may be NULL. */
int must_check guest_ask(const struct vm *vm, json_t *request, int timeout_ms, json_t **out_answer,
                         struct error *err);
bool guest_has_agent(const struct vm *vm); /* one that answers now */
/* Freezes the guest's file systems. -1: there is no agent, or it cannot; then the guest's disks are as after a power cut,
 * which its file systems are made for. */
int guest_freeze(const struct vm *vm);
void guest_thaw(const struct vm *vm, int fd); /* -1 is fine */
/* A guest that was saved takes its clock from the host again. Without an agent it does so by itself, or not. */
void guest_set_time(const struct vm *vm);
/* A clone of 'old' becomes somebody else: another name, machine-id, keys, and addresses of its cards. Waits a little for the
 * agent. */
int must_check guest_give_identity(const struct vm *vm, const struct vm *old, struct error *err);
/* Only its cards' addresses, where they are others than in the document 'before'. */
int must_check guest_give_cards(const struct vm *vm, const json_t *before, struct error *err);
/* The same at its next start, which its disk shall not begin as the machine that it was: a file in its folder says so. */
#define VM_RENEW "renew-identity"
int must_check guest_renew_later(const struct vm *vm, struct error *err);
bool guest_is_to_renew(const struct vm *vm);
/* After that start. Waits for an agent, though not for ever. */
void guest_renew(const struct vm *vm, struct job *job);
/* At its next start root gets its ssh_keys by the agent: there is no cloud-init that would take them from the seed. */
#define VM_KEYS "give-keys"
int must_check guest_give_keys_later(const struct vm *vm, struct error *err);
/* After that start. Waits for an agent, though not for ever. */
void guest_give_keys(const struct vm *vm, struct job *job);
/* Waits a little for so many CPUs, and brings them online. -EIO: it does not come to that. */
int must_check guest_online_cpus(const struct vm *vm, uint32_t count);

#endif
