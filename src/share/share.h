/* hull-share, the program. */
#ifndef SHARE_SHARE_H
#define SHARE_SHARE_H

/* Returns the exit status. */
int share_main(int argc, char **argv);

#endif
