/* The program hull-dial. */
#ifndef CLIENT_DIAL_H
#define CLIENT_DIAL_H

/* Returns the exit status. */
int dial_main(int argc, char **argv);

#endif
