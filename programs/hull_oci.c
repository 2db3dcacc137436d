/* hull-oci: the OCI runtime. */
#include "container/command/command.h"

int main(int argc, char **argv)
{
    return oci_main(argc, argv);
}
