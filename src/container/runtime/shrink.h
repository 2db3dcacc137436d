/* A process that waits for long gives back what it does not need for that. */
#ifndef CONTAINER_RUNTIME_SHRINK_H
#define CONTAINER_RUNTIME_SHRINK_H

/* The heap's free pages, and the program's own code and constants, which the page cache has again when they are needed. */
void shrink_memory(void);

#endif
