/* hull-worker: one operation, or session, of the manager. */
#include "manager/operation/worker.h"

int main(int argc, char **argv)
{
    return worker_main(argc, argv);
}
