/* hull-worker. What it is to do it reads as one JSON object from its standard input:
 *
 *   hull-worker ID: runs the job of an operation
 *     {"place":{"state","run","cache"},"kind","request","recovery":bool,"cancelled":bool}
 *   hull-worker --session FD: serves a session of an instance (instance/instance.h) on a socket of packets
 *     {"place","document","request"} */
#ifndef MANAGER_OPERATION_WORKER_H
#define MANAGER_OPERATION_WORKER_H

/* Exit statuses. */
enum worker_end {
    WORKER_DONE = 0,     /* the journal (the session) says how it ended */
    WORKER_WRONG = 1,    /* called wrongly */
    WORKER_BUSY = 3,     /* another worker does it, or has done it */
    WORKER_NO_SPACE = 4, /* the disk is full: nothing was begun, or the end could not be written */
    WORKER_NO_JOURNAL = 5,
};

int worker_main(int argc, char **argv);

#endif
