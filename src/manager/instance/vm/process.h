/* The process of a VM: is it there, what does it say, how did it end. */
#ifndef MANAGER_INSTANCE_VM_PROCESS_H
#define MANAGER_INSTANCE_VM_PROCESS_H

#include "control/client.h"
#include "manager/instance/vm/vm.h"

/* 0: it does not run. By the lock of its pid file, so never another process that has its number now. */
pid_t vm_process_find(const struct place *place, const char *name);
/* How it ended: the exit status of `hull boot`; -1: without a word (killed, or the host lost power), or it runs, or was
 * never started. */
int vm_process_status(const struct place *place, const char *name);

/* Starts `hull boot` with these words and waits until the VM answers. A start that fails says why in the words of `hull
 * boot`. */
int must_check vm_process_start(const struct vm *vm, const char *const *argv, struct error *err);
/* Waits for its end. -ETIMEDOUT; -ECANCELED: 'job' (may be NULL) was cancelled. 'timeout_ms' -1: for ever. */
int must_check vm_process_await_end(const struct vm *vm, const struct job *job, int timeout_ms,
                                    struct error *err);
/* The end of all patience: SIGKILL, to `hull boot`, with which all else goes. */
void vm_process_kill(const struct vm *vm);

/* A connection whose answers come within 'timeout_ms' or fail (-EAGAIN). -ESRCH: it does not run. */
int must_check vm_control_open(const struct place *place, const char *name, int timeout_ms,
                               struct control_client *out_client, struct error *err);
/* One request: takes 'request' over, adds its id. 'fd' -1: none. 'out_answer' may be NULL. */
int must_check vm_control_ask(struct control_client *client, json_t *request, int fd,
                              json_t **out_answer, struct error *err);
/* Both, for a verb without arguments. */
int must_check vm_control(const struct vm *vm, const char *verb, json_t **out_answer,
                          struct error *err);

#endif
