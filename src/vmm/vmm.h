/* hull-vmm: one VM in one process. */
#ifndef VMM_VMM_H
#define VMM_VMM_H

#include "machine/machine.h"
#include "vmm/config.h"
#include "vmm/console.h"
#include "vmm/control.h"

struct vmm {
    struct config config;
    struct event_loop *loop;
    struct machine *machine;
    struct console *console;
    struct control *control;
    char engine_reason[ERROR_TEXT_SIZE];
    bool is_saving;
    bool has_ended;
    int exit_status;
};

/* main() of hull-vmm:
 *   --config-fd N   read the configuration and a byte of 0 from descriptor N, make the machine, and run it when
 *                   one more byte has come
 *   --probe         print what this host's engines can do, as JSON
 * Returns the exit status of cli.md. */
int vmm_main(int argc, char **argv);

/* Ends the run loop with this status; the first call counts. */
void vmm_end(struct vmm *vmm, int exit_status);

/* Prints the engines and their probes to stdout. Returns an exit status. */
int vmm_probe(void);

/* control_handle_fn with a struct vmm as context. */
int vmm_handle_request(void *ctx, struct control_client *client, struct control_request *request,
                       json_t **out_answer, struct error *err);

#endif
