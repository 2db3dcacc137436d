/* hull-vmm: the process of one VM. */
#include "vmm/vmm.h"

int main(int argc, char **argv)
{
    return vmm_main(argc, argv);
}
