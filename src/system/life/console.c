/* A container's console. */
#include "system/life/console.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/host/file.h"
#include "system/life/keeper.h"

#define MAX_LOG (1u << 20) /* then it becomes .1, and a new one is begun */

int console_open(struct console *console, const char *socket_path, const char *log_path,
                 struct error *err)
{
    *console = (struct console){
        .listener = -1, .master = -1, .slave = -1, .log = -1, .log_path = log_path};
    for (size_t i = 0; i < CONSOLE_MAX_CLIENTS; i++) {
        console->client[i].fd = -1;
    }
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(socket_path) >= sizeof(address.sun_path)) {
        return error_set(err, ENAMETOOLONG, "%.100s...: a socket's path has at most %zu bytes",
                         socket_path, sizeof(address.sun_path) - 1);
    }
    memcpy(address.sun_path, socket_path, strlen(socket_path));
    (void)unlink(socket_path); /* of a keeper that was killed; this one has the lock */
    AUTO_CLOSE int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(listener, CONSOLE_MAX_CLIENTS) < 0) {
        return error_set_errno(err, errno, "listening at %s", socket_path);
    }
    console->log = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct stat st;
    if (console->log < 0 || fstat(console->log, &st) < 0) {
        return error_set_errno(err, errno, "opening %s", log_path);
    }
    console->log_size = (size_t)st.st_size;
    console->listener = TAKE_FD(listener);
    return 0;
}

int console_make_terminal(uint32_t owner, int *out_slave, struct error *err)
{
    int unlocked = 0;
    AUTO_CLOSE int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    AUTO_CLOSE int slave = master >= 0 && ioctl(master, TIOCSPTLCK, &unlocked) == 0
                               ? ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)
                               : -1;
    if (slave < 0 || fchown(slave, owner, (gid_t)-1) < 0 || fchmod(slave, 0620) < 0) {
        return error_set_errno(err, errno, "making a terminal");
    }
    *out_slave = TAKE_FD(slave);
    return TAKE_FD(master);
}

void console_set_master(struct console *console, int master)
{
    if (console->master >= 0) {
        close(console->master);
    }
    if (console->slave >= 0) {
        close(console->slave);
    }
    console->master = master;
    console->slave = -1;
    if (master >= 0) {
        (void)fcntl(master, F_SETFL, O_NONBLOCK);
        console->slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    }
}

static void drop(struct console_client *client)
{
    close(client->fd);
    *client = (struct console_client){.fd = -1};
}

static void write_log(struct console *console, const char *data, size_t size)
{
    if (console->log_size + size > MAX_LOG) {
        char old[4096 + 2];
        (void)snprintf(old, sizeof(old), "%s.1", console->log_path);
        int log = rename(console->log_path, old) == 0
                      ? open(console->log_path,
                             O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600)
                      : -1;
        if (log >= 0) {
            close(console->log);
            console->log = log;
            console->log_size = 0;
        }
    }
    if (console->log_size + size <= MAX_LOG && write(console->log, data, size) > 0) {
        console->log_size += size;
    }
}

/* From the terminal to the log and all who look; one that does not read loses its place. False: there is nothing (now). */
static bool read_master(struct console *console)
{
    char packet[KEEPER_MAX_PACKET];
    packet[0] = KEEPER_DATA;
    ssize_t n = read(console->master, packet + 1, sizeof(packet) - 1);
    if (n <= 0) {
        return false; /* EIO: nobody has the other end open; that may change */
    }
    write_log(console, packet + 1, (size_t)n);
    for (size_t i = 0; i < CONSOLE_MAX_CLIENTS; i++) {
        struct console_client *client = &console->client[i];
        if (client->fd >= 0 && client->is_attached &&
            send(client->fd, packet, (size_t)n + 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
            drop(client);
        }
    }
    return true;
}

static void accept_client(struct console *console)
{
    AUTO_CLOSE int fd = accept4(console->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    for (size_t i = 0; fd >= 0 && i < CONSOLE_MAX_CLIENTS; i++) {
        if (console->client[i].fd < 0) {
            console->client[i] = (struct console_client){.fd = TAKE_FD(fd)};
        }
    }
}

static void serve_client(struct console *console, struct console_client *client)
{
    char packet[KEEPER_MAX_PACKET];
    ssize_t n = recv(client->fd, packet, sizeof(packet), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        drop(client);
        return;
    }
    if (packet[0] == KEEPER_ATTACH) {
        client->is_attached = true;
    } else if (packet[0] == KEEPER_DATA && console->master >= 0) {
        /* A terminal whose reader has stopped takes no more: what is typed then is lost. */
        (void)!write(console->master, packet + 1, (size_t)n - 1);
    } else if (packet[0] == KEEPER_SIZE && n == 1 + (ssize_t)sizeof(struct keeper_size)) {
        struct keeper_size size;
        memcpy(&size, packet + 1, sizeof(size));
        struct winsize window = {.ws_row = size.rows, .ws_col = size.columns};
        (void)ioctl(console->master, TIOCSWINSZ, &window);
    }
}

void console_poll(const struct console *console, struct pollfd out[CONSOLE_POLL])
{
    out[0] = (struct pollfd){.fd = console->listener, .events = POLLIN};
    out[1] = (struct pollfd){.fd = console->master, .events = POLLIN};
    for (size_t i = 0; i < CONSOLE_MAX_CLIENTS; i++) {
        out[2 + i] = (struct pollfd){.fd = console->client[i].fd, .events = POLLIN};
    }
}

void console_serve(struct console *console, const struct pollfd polled[CONSOLE_POLL])
{
    if ((polled[1].revents & (POLLIN | POLLHUP)) != 0 && polled[1].fd == console->master) {
        (void)read_master(console);
    }
    for (size_t i = 0; i < CONSOLE_MAX_CLIENTS; i++) {
        if (polled[2 + i].revents != 0 && console->client[i].fd == polled[2 + i].fd) {
            serve_client(console, &console->client[i]);
        }
    }
    if (polled[0].revents != 0) {
        accept_client(console);
    }
}

void console_drain(struct console *console)
{
    for (unsigned i = 0; console->master >= 0 && i < MAX_LOG / KEEPER_MAX_PACKET; i++) {
        if (!read_master(console)) {
            break;
        }
    }
}

void console_close(struct console *console)
{
    for (size_t i = 0; i < CONSOLE_MAX_CLIENTS; i++) {
        if (console->client[i].fd >= 0) {
            drop(&console->client[i]);
        }
    }
    int fds[] = {console->listener, console->master, console->slave, console->log};
    for (size_t i = 0; i < ARRAY_COUNT(fds); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
}
