#include "manager/instance/container/program.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "base/host/program.h"
#include "container/mount/beneath.h"
#include "container/runtime/loaded.h"
#include "container/runtime/terminal.h"
#include "session/frames.h"
#include "system/life/notify.h"

#define MAX_PASSWD       (1u << 20)
#define END_OF_INPUT     4 /* Ctrl-D */
#define MASTER_WAIT_MS   10000
#define UNOPENED_WAIT_MS 10
/* What a program whose client is gone may take to end. */
#define HANGUP_WAIT_MS 2000

int program_add_word(struct program *program, const char *word, struct error *err)
{
    if (program->word_count == PROGRAM_MAX_WORDS) {
        return error_set(err, E2BIG, "command: more than %d words", PROGRAM_MAX_WORDS);
    }
    program->words[program->word_count++] = word;
    return 0;
}

int program_add_variable(struct program *program, const char *name, const char *value,
                         struct error *err)
{
    char *word = NULL;
    if (program->variable_count == ARRAY_COUNT(program->variables)) {
        return error_set(err, E2BIG, "environment: more than %zu", ARRAY_COUNT(program->variables));
    }
    if (asprintf(&word, "--env=%s=%s", name, value) < 0) {
        return error_set(err, ENOMEM, "no memory for a variable");
    }
    program->variables[program->variable_count++] = word;
    return 0;
}

void program_fini(struct program *program)
{
    for (size_t i = 0; i < program->variable_count; i++) {
        free(program->variables[i]);
    }
}

/* /etc/passwd as the container has it. */
static int read_passwd(const struct program *program, void **out_text, struct error *err)
{
    struct loaded loaded;
    char root[64];
    int rc = loaded_open(&program->life->runtime, program->name, false, &loaded, err);
    if (rc < 0) {
        return rc;
    }
    (void)snprintf(root, sizeof(root), "/proc/%d/root", loaded.state.pid);
    AUTO_CLOSE int fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    loaded_close(&loaded);
    /* Not to be held up by a pipe that lies there. */
    int opened =
        fd >= 0 ? beneath_open(fd, "/etc/passwd", O_RDONLY | O_NONBLOCK | O_NOCTTY, 0) : -ENOENT;
    if (opened < 0) {
        return error_set_errno(err, -opened, "opening /etc/passwd of instance %s", program->name);
    }
    AUTO_CLOSE int file = opened;
    size_t size;
    return file_read_whole(file, MAX_PASSWD, "/etc/passwd", out_text, &size, err);
}

/* name:password:uid:gid:text:home:shell */
static bool parse_line(char *line, const char *user, unsigned *out_uid, unsigned *out_gid,
                       const char **out_name, const char **out_home)
{
    char *field[7], *rest = line, *end;
    for (size_t i = 0; i < ARRAY_COUNT(field); i++) {
        field[i] = strsep(&rest, ":");
        if (field[i] == NULL) {
            return false;
        }
    }
    if (strcmp(field[0], user) != 0 && strcmp(field[2], user) != 0) {
        return false;
    }
    errno = 0;
    *out_uid = (unsigned)strtoul(field[2], &end, 10);
    bool is_good = *end == '\0' && end != field[2];
    *out_gid = (unsigned)strtoul(field[3], &end, 10);
    *out_name = field[0];
    *out_home = field[5];
    return is_good && *end == '\0' && end != field[3] && errno == 0;
}

int program_set_user(struct program *program, const char *user, struct error *err)
{
    unsigned uid, gid;
    char more;
    if (user == NULL || *user == '\0') {
        return 0;
    }
    if (sscanf(user, "%u:%u%c", &uid, &gid, &more) == 2) {
        (void)snprintf(program->user, sizeof(program->user), "%u:%u", uid, gid);
        return 0;
    }
    AUTO_FREE void *text = NULL;
    int rc = read_passwd(program, &text, err);
    char *rest = text, *line;
    while (rc == 0 && (line = strsep(&rest, "\n")) != NULL) {
        const char *name, *home;
        if (parse_line(line, user, &uid, &gid, &name, &home)) {
            (void)snprintf(program->user, sizeof(program->user), "%u:%u", uid, gid);
            rc = program_add_variable(program, "HOME", home, err);
            return rc < 0 ? rc : program_add_variable(program, "USER", name, err);
        }
    }
    return rc < 0 ? rc
                  : error_set(err, ENOENT, "user '%.64s': instance %s has none of this name", user,
                              program->name);
}

/* What runs, and the ends of its streams that are ours; -1: none, or closed. */
struct run {
    const struct program *program;
    pid_t pid;
    int pidfd;
    int input, output, errors, master;
    uint8_t *data; /* SESSION_MAX_PAYLOAD bytes */
    uint8_t *pending;
    size_t pending_size, pending_done;
    bool ends_input, is_gone, has_ended;
    /* Nobody has the terminal's other end open: hull-oci opens and closes it before the program does. */
    bool is_unopened;
    char socket_path[PATH_MAX], pid_path[PATH_MAX];
};

static void close_end(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

/* In the child: only what is safe between fork and exec. */
noreturn_fn static void child_run(const char *path, char *const *argv, const int streams[3],
                                  pid_t parent)
{
    sigset_t none;
    sigemptyset(&none);
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) {
        _exit(127);
    }
    (void)setsid();
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    for (int number = 1; number < SIGRTMIN; number++) {
        (void)signal(number, SIG_DFL);
    }
    for (int i = 0; i < 3; i++) {
        if (dup2(streams[i], i) < 0) {
            _exit(127);
        }
    }
    (void)syscall(SYS_close_range, 3, ~0u, 0);
    (void)execv(path, argv);
    _exit(127);
}

static int spawn(struct run *run, const int streams[3], struct error *err)
{
    const struct program *program = run->program;
    char path[PATH_MAX], cwd[PATH_MAX], user[64], console[PATH_MAX + 32], pid_file[PATH_MAX + 16],
        console_size[32];
    const char *argv[PROGRAM_MAX_WORDS + ARRAY_COUNT(program->variables) + 16];
    size_t count = 0;
    int rc = program_find("hull-oci", false, path, sizeof(path), err);
    if (rc < 0) {
        return rc;
    }
    (void)snprintf(cwd, sizeof(cwd), "--cwd=%s", program->cwd != NULL ? program->cwd : "/");
    (void)snprintf(user, sizeof(user), "--user=%s", program->user);
    (void)snprintf(pid_file, sizeof(pid_file), "--pid-file=%s", run->pid_path);
    const char *first[] = {"hull-oci", "--root", program->life->oci, "exec", cwd, pid_file};
    for (size_t i = 0; i < ARRAY_COUNT(first); i++) {
        argv[count++] = first[i];
    }
    if (program->user[0] != '\0') {
        argv[count++] = user;
    }
    if (program->has_terminal) {
        (void)snprintf(console, sizeof(console), "--console-socket=%s", run->socket_path);
        argv[count++] = "--tty";
        argv[count++] = console;
        if (program->rows > 0 && program->rows <= UINT16_MAX && program->columns > 0 &&
            program->columns <= UINT16_MAX) {
            (void)snprintf(console_size, sizeof(console_size), "--console-size=%ux%u",
                           (unsigned)program->rows, (unsigned)program->columns);
            argv[count++] = console_size;
        }
    }
    for (size_t i = 0; i < program->variable_count; i++) {
        argv[count++] = program->variables[i];
    }
    argv[count++] = program->name;
    for (size_t i = 0; i < program->word_count; i++) {
        argv[count++] = program->words[i];
    }
    argv[count] = NULL;
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        child_run(path, (char *const *)argv, streams, parent);
    }
    if (pid < 0) {
        return error_set_errno(err, errno, "starting %s", path);
    }
    run->pid = pid;
    run->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    return run->pidfd >= 0 ? 0 : error_set_errno(err, errno, "watching %s", path);
}

static int start_plain(struct run *run, struct error *err)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1}, errors[2] = {-1, -1};
    int rc = 0;
    if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(errors, O_CLOEXEC) < 0) {
        rc = error_set_errno(err, errno, "making pipes");
    }
    const int streams[] = {in[0], out[1], errors[1]};
    run->input = in[1];
    run->output = out[0];
    run->errors = errors[0];
    rc = rc < 0 ? rc : file_set_nonblocking(run->input, err);
    rc = rc < 0 ? rc : spawn(run, streams, err);
    close_end(&in[0]);
    close_end(&out[1]);
    close_end(&errors[1]);
    return rc;
}

static int listen_for_master(struct run *run, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(run->socket_path) >= sizeof(address.sun_path)) {
        return error_set(err, ENAMETOOLONG, "%.100s...: a socket's path has at most %zu bytes",
                         run->socket_path, sizeof(address.sun_path) - 1);
    }
    strcpy(address.sun_path, run->socket_path);
    (void)unlink(run->socket_path);
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 1) < 0
               ? error_set_errno(err, errno, "listening at %s", run->socket_path)
               : TAKE_FD(fd);
}

static int take_master(struct run *run, int listener, struct error *err)
{
    struct pollfd polled[] = {{.fd = listener, .events = POLLIN},
                              {.fd = run->pidfd, .events = POLLIN}};
    if (poll(polled, ARRAY_COUNT(polled), MASTER_WAIT_MS) < 0 || polled[0].revents == 0) {
        return 0; /* it has ended already: its standard error says why */
    }
    AUTO_CLOSE int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    run->master = connection >= 0 ? notify_take_fd(connection) : -1;
    if (run->master < 0) {
        return error_set(err, EPROTO, "hull-oci has handed over no terminal");
    }
    return file_set_nonblocking(run->master, err);
}

/* Its standard error is for what hull-oci itself has to say. */
static int start_with_terminal(struct run *run, struct error *err)
{
    int errors[2];
    AUTO_CLOSE int listener = listen_for_master(run, err);
    AUTO_CLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (listener < 0) {
        return listener;
    }
    if (null < 0 || pipe2(errors, O_CLOEXEC) < 0) {
        return error_set_errno(err, errno, "making pipes");
    }
    const int streams[] = {null, null, errors[1]};
    run->errors = errors[0];
    int rc = spawn(run, streams, err);
    close(errors[1]);
    rc = rc < 0 ? rc : take_master(run, listener, err);
    (void)unlink(run->socket_path);
    return rc;
}

static void resize(const struct run *run, const json_t *size)
{
    struct error ignored;
    json_int_t columns = json_integer_value(json_array_get(size, 0));
    json_int_t rows = json_integer_value(json_array_get(size, 1));
    if (run->master >= 0 && columns > 0 && rows > 0 && columns <= UINT16_MAX &&
        rows <= UINT16_MAX) {
        error_ignore(terminal_set_size(run->master, (uint16_t)rows, (uint16_t)columns, &ignored));
    }
}

static void obey(struct run *run, size_t size)
{
    json_t *control = json_loadb((const char *)run->data, size, 0, NULL);
    const json_t *number = json_object_get(control, "signal");
    json_int_t signal_number = json_integer_value(number);
    resize(run, json_object_get(control, "resize"));
    if (json_is_integer(number) && signal_number > 0 && signal_number <= SIGRTMAX) {
        (void)syscall(SYS_pidfd_send_signal, run->pidfd, (int)signal_number, NULL, 0);
    }
    if (json_is_true(json_object_get(control, "eof"))) {
        run->ends_input = true;
    }
    json_decref(control);
}

/* One frame; standard input waits until the program takes it. */
static void from_client(struct run *run)
{
    enum session_frame type;
    size_t size;
    struct error ignored;
    if (session_receive(run->program->fd, &type, run->data, &size, &ignored) < 0) {
        run->is_gone = true;
    } else if (type == SESSION_CONTROL) {
        obey(run, size);
    } else if (type == SESSION_STDIN && (run->input >= 0 || run->master >= 0)) {
        memcpy(run->pending, run->data, size);
        run->pending_size = size;
        run->pending_done = 0;
    }
}

static void to_program(struct run *run)
{
    int fd = run->master >= 0 ? run->master : run->input;
    ssize_t size =
        fd >= 0 ? write(fd, run->pending + run->pending_done, run->pending_size - run->pending_done)
                : -1;
    if (size >= 0) {
        run->pending_done += (size_t)size;
    } else if (fd < 0 || (errno != EAGAIN && errno != EINTR)) {
        run->pending_done = run->pending_size; /* nobody reads it any more */
        close_end(&run->input);
    }
}

static void end_input(struct run *run)
{
    if (run->master >= 0) {
        run->pending[0] = END_OF_INPUT;
        run->pending_size = 1;
        run->pending_done = 0;
    }
    close_end(&run->input);
    run->ends_input = false;
}

/* What there is to read goes to the client; at its end the descriptor is closed. */
static int from_program(struct run *run, int *fd, enum session_frame type, struct error *err)
{
    ssize_t size = read(*fd, run->data, SESSION_MAX_PAYLOAD);
    if (size < 0 && (errno == EINTR || errno == EAGAIN)) {
        return 0;
    }
    if (size < 0 && errno == EIO && fd == &run->master && !run->has_ended) {
        run->is_unopened = true;
        return 0;
    }
    if (size <= 0) { /* a terminal's end is EIO, too */
        close_end(fd);
        return 0;
    }
    int rc = session_send(run->program->fd, type, run->data, (size_t)size, err);
    run->is_gone = run->is_gone || rc == -EPIPE || rc == -ECONNRESET;
    return run->is_gone ? 0 : rc;
}

static int pump(struct run *run, struct error *err)
{
    while (!run->is_gone) {
        bool is_pending = run->pending_done < run->pending_size;
        if (!is_pending && run->ends_input) {
            end_input(run);
            is_pending = run->pending_done < run->pending_size;
        }
        int target = run->master >= 0 ? run->master : run->input;
        struct pollfd polled[] = {
            {.fd = is_pending ? -1 : run->program->fd, .events = POLLIN},
            {.fd = is_pending ? target : -1, .events = POLLOUT},
            {.fd = run->output, .events = POLLIN},
            {.fd = run->errors, .events = POLLIN},
            {.fd = run->is_unopened && !run->has_ended ? -1 : run->master, .events = POLLIN},
            {.fd = run->has_ended ? -1 : run->pidfd, .events = POLLIN},
        };
        /* After its end only what is there already counts: others may have inherited its streams. */
        int ready = poll(polled, ARRAY_COUNT(polled),
                         run->has_ended     ? 0
                         : run->is_unopened ? UNOPENED_WAIT_MS
                                            : -1);
        run->is_unopened = false;
        if (ready < 0 && errno != EINTR) {
            return error_set_errno(err, errno, "waiting for the program");
        }
        if (run->has_ended && (polled[2].revents | polled[3].revents | polled[4].revents) == 0) {
            return 0;
        }
        int rc = 0;
        if (polled[0].revents != 0 && !run->has_ended) {
            from_client(run);
        }
        if (polled[1].revents != 0) {
            to_program(run);
        }
        if (polled[2].revents != 0) {
            rc = from_program(run, &run->output, SESSION_STDOUT, err);
        }
        if (rc == 0 && polled[3].revents != 0) {
            rc = from_program(run, &run->errors, SESSION_STDERR, err);
        }
        if (rc == 0 && polled[4].revents != 0) {
            rc = from_program(run, &run->master, SESSION_STDOUT, err);
        }
        run->has_ended = run->has_ended || polled[5].revents != 0;
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* The program itself, as hull-oci cannot pass SIGKILL on. It is there as long as hull-oci is, which has not reaped it. */
static void kill_program(const struct run *run)
{
    AUTO_CLOSE int fd = open(run->pid_path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    char text[32] = "";
    ssize_t size = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    long pid = size > 0 ? strtol(text, NULL, 10) : 0;
    if (pid > 1) {
        (void)kill((pid_t)pid, SIGKILL);
    }
}

static bool has_ended_within(const struct run *run, int timeout_ms)
{
    struct pollfd ended = {.fd = run->pidfd, .events = POLLIN};
    return poll(&ended, 1, timeout_ms) > 0;
}

/* Its client is gone, or it could not be served: it is told to end, and then ended. */
static void end_program(struct run *run)
{
    close_end(&run->input);
    close_end(&run->master);
    if (!has_ended_within(run, 0)) {
        (void)syscall(SYS_pidfd_send_signal, run->pidfd, SIGHUP, NULL, 0);
        (void)syscall(SYS_pidfd_send_signal, run->pidfd, SIGTERM, NULL, 0);
    }
    if (!has_ended_within(run, HANGUP_WAIT_MS)) {
        kill_program(run);
    }
    if (!has_ended_within(run, HANGUP_WAIT_MS)) {
        (void)syscall(SYS_pidfd_send_signal, run->pidfd, SIGKILL, NULL, 0);
    }
}

static int finish(struct run *run, int rc, struct error *err)
{
    int status = 0;
    if (run->pid <= 0) {
        return rc;
    }
    if (rc < 0 || run->is_gone) {
        end_program(run);
    }
    while (waitpid(run->pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (rc < 0 || run->is_gone) {
        return rc;
    }
    return session_send_control(run->program->fd,
                                WIFSIGNALED(status)
                                    ? json_pack("{s:i}", "signalled", WTERMSIG(status))
                                    : json_pack("{s:i}", "exit", WEXITSTATUS(status)),
                                err);
}

int program_run(struct program *program, struct error *err)
{
    struct run *run = calloc(1, sizeof(*run));
    uint8_t *buffers = malloc((size_t)2 * SESSION_MAX_PAYLOAD);
    if (run == NULL || buffers == NULL) {
        free(run);
        free(buffers);
        return error_set(err, ENOMEM, "no memory for a session");
    }
    run->program = program;
    run->pidfd = run->input = run->output = run->errors = run->master = -1;
    run->data = buffers;
    run->pending = buffers + SESSION_MAX_PAYLOAD;
    (void)snprintf(run->socket_path, sizeof(run->socket_path), "%s/session-%d.sock",
                   program->life->store.run, (int)getpid());
    (void)snprintf(run->pid_path, sizeof(run->pid_path), "%s/session-%d.pid",
                   program->life->store.run, (int)getpid());
    (void)signal(SIGPIPE, SIG_IGN);
    int rc = program->has_terminal ? start_with_terminal(run, err) : start_plain(run, err);
    rc = rc < 0 ? rc : session_send_control(program->fd, json_pack("{s:b}", "started", 1), err);
    rc = rc < 0 ? rc : pump(run, err);
    rc = finish(run, rc, err);
    (void)unlink(run->pid_path);
    int *ends[] = {&run->pidfd, &run->input, &run->output, &run->errors, &run->master};
    for (size_t i = 0; i < ARRAY_COUNT(ends); i++) {
        close_end(ends[i]);
    }
    free(run);
    free(buffers);
    return rc;
}
