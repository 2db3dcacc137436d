/* Runs inside a Linux guest: vsock_tool connect PORT [CID], sends standard input to that port (of the host) and prints
 * what comes back; vsock_tool serve PORT, answers one connection from the host with what it sent, in capitals. */
#include <ctype.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int fail(const char *what)
{
    perror(what);
    return 1;
}

static void copy(int from, int to, int shout)
{
    char data[4096];
    ssize_t count;
    while ((count = read(from, data, sizeof(data))) > 0) {
        for (ssize_t i = 0; shout && i < count; i++) {
            data[i] = (char)toupper((unsigned char)data[i]);
        }
        if (write(to, data, (size_t)count) != count) {
            return;
        }
    }
}

int main(int argc, char **argv)
{
    if (argc != 3 && argc != 4) {
        (void)fprintf(stderr, "usage: vsock_tool connect|serve PORT [CID]\n");
        return 2;
    }
    struct sockaddr_vm address = {.svm_family = AF_VSOCK,
                                  .svm_port = (unsigned)strtoul(argv[2], NULL, 10)};
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0) {
        return fail("socket");
    }
    if (strcmp(argv[1], "connect") == 0) {
        address.svm_cid = argc == 4 ? (unsigned)strtoul(argv[3], NULL, 10) : VMADDR_CID_HOST;
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
            return fail("connect");
        }
        copy(0, fd, 0);
        (void)shutdown(fd, SHUT_WR);
        copy(fd, 1, 0);
    } else {
        address.svm_cid = VMADDR_CID_ANY;
        if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 1) < 0) {
            return fail("listen");
        }
        (void)puts("serving");
        (void)fflush(stdout);
        int client = accept(fd, NULL, NULL);
        if (client < 0) {
            return fail("accept");
        }
        copy(client, client, 1);
        (void)close(client);
    }
    return 0;
}
