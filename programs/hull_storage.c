/* hull-storage: a remote disk of a VM. */
#include "storage/storage.h"

int main(int argc, char **argv)
{
    return storage_main(argc, argv);
}
