/* hulld: the manager. */
#include "manager/manager.h"

int main(int argc, char **argv)
{
    return manager_main(argc, argv);
}
