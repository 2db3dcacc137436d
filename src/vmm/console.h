/* The VM's console: between the guest's serial port or virtio console and a stream, pty, socket or file.
 *
 * Threads: the backends' functions come from any vCPU; everything else belongs to the loop's thread. */
#ifndef VMM_CONSOLE_H
#define VMM_CONSOLE_H

#include "machine/machine.h"
#include "vmm/config.h"

struct console;

/* Owns 'fd' from then on, also on failure. */
int must_check console_create(enum config_console_kind kind, int fd, bool is_virtio,
                              struct event_loop *loop, struct console **out_console,
                              struct error *err);
/* The ends for machine_config. */
struct console_backend console_serial_backend(struct console *console);
struct console_backend console_virtio_backend(struct console *console);
/* Before the guest runs: its output goes to a log, too (console_log.h), which owns both descriptors. */
void console_set_log(struct console *console, int fd, int old_fd);
/* Its serial port is another one than the first: 1 to MACHINE_MAX_SERIALS. Before it is attached. */
void console_set_port(struct console *console, unsigned port);
/* From now on what is typed reaches this machine. */
void console_attach(struct console *console, struct machine *machine);
/* No more input; waits for the reader to take what the guest wrote, at most two seconds. */
void console_finish(struct console *console);
void console_destroy(struct console *console);

#endif
