/* hull-oci-systemd: asks systemd for a container's scope, for hull-oci. */
#include "container/systemd/systemd.h"

int main(void)
{
    return systemd_main();
}
