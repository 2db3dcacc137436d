/* A process that waits for long gives back what it does not need for that. */
#ifndef CONTAINER_RUNTIME_SHRINK_H
#define CONTAINER_RUNTIME_SHRINK_H

/* Gives back the heap's free pages and takes the program's own code and constants out of this process: the page cache has them
 * when they are needed again. */
void shrink(void);

/* accept4 with SOCK_CLOEXEC, repeated over interruptions, while neither the heap's free pages nor the program's own code and
 * constants are in memory on behalf of this process: the page cache has the latter when they are needed again. Returns a
 * descriptor or -errno. */
int shrink_and_accept(int socket);

#endif
