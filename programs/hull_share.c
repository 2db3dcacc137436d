/* hull-share: a folder of the host, for a VM. */
#include "share/share.h"

int main(int argc, char **argv)
{
    return share_main(argc, argv);
}
