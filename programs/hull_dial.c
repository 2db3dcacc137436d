/* hull-dial: a connection to another host's hulld over TLS. */
#include "client/dial.h"

int main(int argc, char **argv)
{
    return dial_main(argc, argv);
}
