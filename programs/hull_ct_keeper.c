/* hull-ct-keeper: the process beside a running system container. */
#include "system/life/keeper.h"

int main(int argc, char **argv)
{
    return keeper_main(argc, argv);
}
