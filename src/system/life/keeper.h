/* The keeper: the process beside a running system container. It mounts the container's root in a mount namespace of its own (so
 * nothing of it is seen on the host, and all of it goes with the keeper), has the runtime make and start the container,
 * connects its network cards, serves its views, keeps its console, starts it again when it reboots, and removes what is left
 * when it ends.
 *
 * Its socket (KEEPER_SOCKET, SOCK_SEQPACKET) is for whoever may open it (root). A client's first packet is one byte,
 * KEEPER_WATCH or KEEPER_ATTACH; the end of the connection is the container's end, after everything is removed.
 *   of an attached client: 'd' and bytes for the console, 'w' and struct keeper_size; to it: 'd' and bytes. */
#ifndef SYSTEM_LIFE_KEEPER_H
#define SYSTEM_LIFE_KEEPER_H

#include <stdint.h>

#define KEEPER_WATCH      'q'
#define KEEPER_ATTACH     'c'
#define KEEPER_DATA       'd'
#define KEEPER_SIZE       'w'
#define KEEPER_MAX_PACKET 4096

/* In KEEPER_START: the folder of a checkpoint that the container goes on from, the first time that it runs. */
#define KEEPER_IMAGES "images"

struct keeper_size {
    uint16_t rows, columns;
};

/* main() of hull-ct-keeper: hull-ct-keeper RUN NAME, with a pipe as descriptor KEEPER_REPORT_FD, on which it says one line of
 * JSON: {"pid": N} once the container runs, or {"error": TEXT, "code": ERRNO}. */
#define KEEPER_REPORT_FD 3
/* And with the locked file KEEPER_LOCK (F_OFD_SETLK): the lock is held from before it is started until it ends, whoever has it
 * is the container's keeper. */
#define KEEPER_LOCK_FD 4
int keeper_main(int argc, char **argv);

#endif
