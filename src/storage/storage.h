/* The helper process that brings a remote disk to a VM. */
#ifndef STORAGE_STORAGE_H
#define STORAGE_STORAGE_H

/* main() of hull-storage; returns the exit status. */
int storage_main(int argc, char **argv);

#endif
