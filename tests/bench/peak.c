/* peak PROGRAM [ARGUMENT]...: runs a program and prints the most memory that it had resident, in KiB, on standard error. A caller with
 * much memory of its own cannot find out: until its child executes something, the child's memory is the caller's. */
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    pid_t pid = argc > 1 ? fork() : -1;
    if (pid == 0) {
        execvp(argv[1], argv + 1);
        _exit(127);
    }
    struct rusage usage;
    int status;
    if (pid < 0 || wait4(pid, &status, 0, &usage) != pid) {
        return 2;
    }
    (void)fprintf(stderr, "%ld\n", usage.ru_maxrss);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
