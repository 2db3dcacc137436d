#include "agent/program.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/user.h"
#include "base/host/event_loop.h"
#include "base/host/file.h"

#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define KIND_KILL_MS 1000

extern char **environ;

/* What the new process reports when it fails before it is the program. */
struct report {
    int code;
    char text[ERROR_TEXT_SIZE];
};

/* The three streams of the program, and ours. */
struct streams {
    int theirs[3], ours[3];
};

static void streams_close(struct streams *s)
{
    for (int i = 0; i < 3; i++) {
        if (s->theirs[i] >= 0) {
            close(s->theirs[i]);
        }
        if (s->ours[i] >= 0) {
            close(s->ours[i]);
        }
    }
}

static int open_terminal(const struct request *r, struct streams *s, struct error *err)
{
    struct winsize size = {.ws_row = r->rows, .ws_col = r->columns};
    char path[32];
    unsigned number;
    int unlock = 0;
    s->ours[0] = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (s->ours[0] < 0 || ioctl(s->ours[0], TIOCSPTLCK, &unlock) < 0 ||
        ioctl(s->ours[0], TIOCGPTN, &number) < 0) {
        return error_set_errno(err, errno, "opening a terminal");
    }
    (void)snprintf(path, sizeof(path), "/dev/pts/%u", number);
    s->theirs[0] = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (s->theirs[0] < 0 || ioctl(s->ours[0], TIOCSWINSZ, &size) < 0) {
        return error_set_errno(err, errno, "opening a terminal");
    }
    return 0;
}

static int open_pipes(struct streams *s, struct error *err)
{
    for (int i = 0; i < 3; i++) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) < 0) {
            return error_set_errno(err, errno, "making pipes");
        }
        s->theirs[i] = ends[i == 0 ? 0 : 1];
        s->ours[i] = ends[i == 0 ? 1 : 0];
        int rc = file_set_nonblocking(s->ours[i], err);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static void set_environment(const struct request *r, const struct user *user)
{
    (void)clearenv();
    (void)setenv("PATH", PATH_DEFAULT, 1);
    (void)setenv("HOME", user->home, 1);
    (void)setenv("USER", user->name, 1);
    (void)setenv("LOGNAME", user->name, 1);
    (void)setenv("SHELL", user->shell, 1);
    if (r->has_terminal) {
        (void)setenv("TERM", "xterm", 1);
    }
    for (size_t i = 0; r->environment[i] != NULL; i += 2) {
        (void)setenv(r->environment[i], r->environment[i + 1], 1);
    }
}

static int become_user(const struct user *user, struct error *err)
{
    if (geteuid() != 0 && user->uid == geteuid()) {
        return 0; /* without rights, and none are needed */
    }
    if (setgroups(user->group_count, user->groups) < 0 ||
        setresgid(user->gid, user->gid, user->gid) < 0 ||
        setresuid(user->uid, user->uid, user->uid) < 0) {
        return error_set_errno(err, errno, "becoming the user %s", user->name);
    }
    return 0;
}

static int enter_folder(const struct request *r, const struct user *user, struct error *err)
{
    if (r->cwd != NULL) {
        return chdir(r->cwd) < 0 ? error_set_errno(err, errno, "entering %s", r->cwd) : 0;
    }
    return chdir(user->home) < 0 && chdir("/") < 0 ? error_set_errno(err, errno, "entering /") : 0;
}

static int take_streams(const struct request *r, const struct streams *s, struct error *err)
{
    if (setsid() < 0 || (r->has_terminal && ioctl(s->theirs[0], TIOCSCTTY, 0) < 0)) {
        return error_set_errno(err, errno, "beginning a session");
    }
    for (int i = 0; i < 3; i++) {
        if (dup2(s->theirs[r->has_terminal ? 0 : i], i) < 0) {
            return error_set_errno(err, errno, "taking the streams");
        }
    }
    return 0;
}

/* What the agent is itself, what it starts is not: deaf to signals, and the last to be killed where memory is short. */
static void be_like_others(void)
{
    sigset_t none;
    sigemptyset(&none);
    for (int number = 1; number < SIGRTMIN; number++) {
        (void)signal(number, SIG_DFL); /* SIGKILL and SIGSTOP refuse, rightly */
    }
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)umask(022);
    AUTO_CLOSE int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        error_ignore(file_write_all(fd, "0", 1, "oom_score_adj", NULL));
    }
}

/* In the new process; returns only if it failed. */
static int become_program(const struct request *r, const struct user *user, struct streams *s,
                          struct error *err)
{
    be_like_others();
    if (r->has_terminal && fchown(s->theirs[0], user->uid, (gid_t)-1) < 0) {
        /* The program has it open in any case. */
    }
    int rc = take_streams(r, s, err);
    rc = rc < 0 ? rc : become_user(user, err);
    rc = rc < 0 ? rc : enter_folder(r, user, err);
    if (rc < 0) {
        return rc;
    }
    set_environment(r, user);
    if (r->command[0] != NULL) {
        (void)execvp(r->command[0], (char *const *)r->command);
        return error_set_errno(err, errno, "%s", r->command[0]);
    }
    char name[64]; /* a login shell is one whose name begins with "-" */
    const char *slash = strrchr(user->shell, '/');
    (void)snprintf(name, sizeof(name), "-%s", slash + 1);
    (void)execv(user->shell, (char *const[]){name, NULL});
    return error_set_errno(err, errno, "%s", user->shell);
}

static int await_start(int reports, struct error *err)
{
    struct report report;
    ssize_t got;
    do {
        got = read(reports, &report, sizeof(report));
    } while (got < 0 && errno == EINTR);
    if (got == 0) {
        return 0; /* closed by the execution of the program */
    }
    if (got != sizeof(report)) {
        return error_set(err, EIO, "starting the program: its process said nothing");
    }
    return error_set(err, report.code, "%s", report.text);
}

/* Not a pidfd, which kernels before 5.3 do not have. */
static int watch_children(void)
{
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    return sigprocmask(SIG_BLOCK, &child, NULL) < 0
               ? -1
               : signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int start(const struct request *r, const struct user *user, struct streams *s,
                 struct program *out_program, struct error *err)
{
    int reports[2];
    if (pipe2(reports, O_CLOEXEC) < 0) {
        return error_set_errno(err, errno, "making pipes");
    }
    AUTO_CLOSE int from = reports[0];
    AUTO_CLOSE int to = reports[1];
    AUTO_CLOSE int ended = watch_children();
    pid_t pid = ended < 0 ? -1 : fork();
    if (pid < 0) {
        return error_set_errno(err, errno, "starting a process");
    }
    if (pid == 0) {
        struct error problem = {0};
        struct report report = {.code = -become_program(r, user, s, &problem)};
        memcpy(report.text, problem.text, sizeof(report.text));
        error_ignore(file_write_all(to, &report, sizeof(report), "report", NULL));
        _exit(127);
    }
    close(TAKE_FD(to));
    int rc = await_start(from, err);
    if (rc < 0) {
        (void)waitpid(pid, NULL, 0);
        return rc;
    }
    *out_program = (struct program){.pid = pid, .ended = TAKE_FD(ended)};
    return 0;
}

int program_start(const struct request *request, struct program *out_program, struct error *err)
{
    struct user user;
    struct streams s = {.theirs = {-1, -1, -1}, .ours = {-1, -1, -1}};
    int rc = user_find(request->user != NULL ? request->user : "0", &user, err);
    if (rc == 0) {
        rc = request->has_terminal ? open_terminal(request, &s, err) : open_pipes(&s, err);
    }
    rc = rc < 0 ? rc : start(request, &user, &s, out_program, err);
    if (rc == 0 && request->has_terminal) {
        out_program->input = s.ours[0];
        out_program->output = dup(s.ours[0]);
        fcntl(out_program->output, F_SETFD, FD_CLOEXEC);
        out_program->errors = -1;
        s.ours[0] = -1;
    } else if (rc == 0) {
        out_program->input = TAKE_FD(s.ours[0]);
        out_program->output = TAKE_FD(s.ours[1]);
        out_program->errors = TAKE_FD(s.ours[2]);
    }
    streams_close(&s);
    return rc;
}

/* The session of a process is the fourth word behind its name, which may have spaces and brackets. */
static bool is_of_session(const char *pid, pid_t session)
{
    char path[64], text[512];
    (void)snprintf(path, sizeof(path), "/proc/%.20s/stat", pid);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    text[MAX(size, 0)] = '\0';
    const char *rest = strrchr(text, ')');
    int found;
    return rest != NULL && sscanf(rest + 1, " %*c %*d %*d %d", &found) == 1 && found == session;
}

/* Groups of background jobs are others than the leader's. */
static void kill_session(pid_t session)
{
    DIR *all = opendir("/proc");
    struct dirent *entry;
    while (all != NULL && (entry = readdir(all)) != NULL) {
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' &&
            is_of_session(entry->d_name, session)) {
            (void)kill((pid_t)atoi(entry->d_name), SIGKILL);
        }
    }
    if (all != NULL) {
        closedir(all);
    }
}

void program_kill(struct program *program)
{
    struct pollfd wait = {.fd = program->ended, .events = POLLIN};
    (void)kill(-program->pid, SIGHUP);
    (void)kill(-program->pid, SIGCONT);
    (void)poll(&wait, 1, KIND_KILL_MS);
    (void)kill(-program->pid, SIGKILL);
    kill_session(program->pid);
    (void)waitpid(program->pid, NULL, 0);
}

void program_close(struct program *program)
{
    int fds[] = {program->input, program->output, program->errors, program->ended};
    for (size_t i = 0; i < ARRAY_COUNT(fds); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
}

noreturn_fn static void become_silent(const char *const *argv)
{
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3; fd++) {
        (void)dup2(null_fd, fd);
    }
    (void)setenv("PATH", PATH_DEFAULT, 1);
    (void)execv(argv[0], (char *const *)argv);
    _exit(127);
}

int program_run(const char *const *argv, struct error *err)
{
    pid_t pid = fork();
    if (pid < 0) {
        return error_set_errno(err, errno, "starting %s", argv[0]);
    }
    if (pid == 0) {
        become_silent(argv);
    }
    int status;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            return error_set_errno(err, errno, "waiting for %s", argv[0]);
        }
    }
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

void program_run_behind(const char *const *argv)
{
    pid_t pid = fork();
    if (pid == 0) { /* whose child is the first process' at once */
        if (setsid() < 0 || fork() != 0) {
            _exit(0);
        }
        be_like_others();
        become_silent(argv);
    }
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
}
