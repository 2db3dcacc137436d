/* first [spin]: the first program of a container, as short as can be. It writes down when its first instruction ran, by the clock that
 * all containers share with the host, and waits or computes until it is killed. */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define WRITTEN "/first-instruction"

int main(int argc, char **argv)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    /* Renamed when whole: a reader never finds a part of it. */
    int fd = open(WRITTEN ".new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 ||
        dprintf(fd, "%lld\n", (long long)now.tv_sec * 1000000000 + (long long)now.tv_nsec) < 0 ||
        rename(WRITTEN ".new", WRITTEN) < 0) {
        return 1;
    }
    if (argc > 1) {
        for (volatile unsigned long turns = 0;; turns++) {
        }
    }
    for (;;) {
        (void)pause();
    }
}
