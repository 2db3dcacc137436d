/* A process that waits for long gives back what it does not need for that. */
#ifndef CONTAINER_RUNTIME_SHRINK_H
#define CONTAINER_RUNTIME_SHRINK_H

/* accept4 with SOCK_CLOEXEC, repeated over interruptions, while neither the heap's free pages nor the program's own code and constants
 * are in memory on behalf of this process: the page cache has the latter when they are needed again. Returns a descriptor or -errno. */
int shrink_and_accept(int socket);

#endif
