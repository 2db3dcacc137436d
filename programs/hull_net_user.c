/* hull-net-user: the network of guests without privileges. */
#include "net/user/user.h"

int main(int argc, char **argv)
{
    return net_user_main(argc, argv);
}
