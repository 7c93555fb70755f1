/*
 * A command, run once for each parcel: its documents as lines of JSON on standard input, the exit
 * code decides.  0 is ACCEPTED; 75 (EX_TEMPFAIL, "try again") AWAY; any other REFUSED; a signal, or
 * no end within the time, DOUBTFUL.  What it writes to standard output and standard error is its
 * answer, the end of it.
 *
 * The command runs in a process group of its own, which is killed when the time is up or the feed
 * is told to stop.
 */
#include "feed/destination.h"

#include "base/clock.h"
#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRY_AGAIN 75  /* sysexits.h */
#define NOT_FOUND 127 /* posix_spawn's own, where exec failed */
#define TURN_MS   50
#define ENDING_MS 2 /* its pipes are closed: it is about to end */
#define NVALUES   6

struct command {
    const struct config_feed *feed;
    const atomic_bool *stop;
};

/* One run. */
struct child {
    pid_t pid;
    int in, out; /* ours: to its standard input; from its output; -1 when closed */
    char tail[DESTINATION_ANSWER_SIZE];
    size_t tail_len;
    bool is_killed;
};

static bool open_command(const struct destination_options *options, void **ret_self,
                         struct error *err)
{
    struct command *command = memory_new(struct command);

    (void) err;
    command->feed = options->feed;
    command->stop = options->stop;
    *ret_self = command;
    return true;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* ---- starting it ---- */

static char *entry(const char *name, const char *value)
{
    struct buf text = {0};

    buf_printf(&text, "TAILWATER_%s=%s", name, value);
    return text.data;
}

static char *number_entry(const char *name, int64_t number)
{
    char text[24];

    snprintf(text, sizeof(text), "%lld", (long long) number);
    return entry(name, text);
}

/* What the command may want to know of the parcel, and our own environment; freed by
 * free_environment(). */
static char **make_environment(const struct destination_parcel *parcel)
{
    size_t count = 0;
    char **all;

    while (environ[count] != NULL)
        count++;
    all = memory_alloc(sizeof(*all) * (count + NVALUES + 1));
    all[0] = entry("FEED", parcel->feed);
    all[1] = entry("EPOCH", parcel->epoch);
    all[2] = entry("IDEMPOTENCY_KEY", parcel->key);
    all[3] = number_entry("BATCH", parcel->batch);
    all[4] = number_entry("VERSION", parcel->version);
    all[5] = number_entry("DOCUMENTS", parcel->count);
    memcpy(all + NVALUES, environ, sizeof(*all) * count);
    return all;
}

static void free_environment(char **all)
{
    for (size_t i = 0; i < NVALUES; i++)
        free(all[i]);
    free(all);
}

static bool spawn(const struct command *command, const struct destination_parcel *parcel,
                  const int in[2], const int out[2], pid_t *ret_pid, struct error *err)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, defaults;
    char **environment = make_environment(parcel);
    int failed;

    sigemptyset(&none);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE); /* ignored by us: a command expects otherwise */
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDERR_FILENO);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
                                              POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    failed = posix_spawnp(ret_pid, command->feed->destination.command[0], &actions, &attributes,
                          (char *const *) command->feed->destination.command, environment);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    free_environment(environment);
    return failed == 0 || error_set(err, ERROR_FAILED, "%s: %s",
                                    command->feed->destination.command[0], strerror(failed));
}

static bool start(const struct command *command, const struct destination_parcel *parcel,
                  struct child *child, struct error *err)
{
    int in[2], out[2] = {-1, -1};
    bool is_ok;

    if (pipe2(in, O_CLOEXEC) < 0)
        return error_set(err, ERROR_FAILED, "pipe: %s", strerror(errno));
    is_ok = pipe2(out, O_CLOEXEC) == 0 || error_set(err, ERROR_FAILED, "pipe: %s", strerror(errno));
    is_ok = is_ok && spawn(command, parcel, in, out, &child->pid, err);
    close_fd(&in[0]);
    close_fd(&out[1]);
    child->in = in[1];
    child->out = out[0];
    if (!is_ok) {
        close_fd(&child->in);
        close_fd(&child->out);
        return false;
    }
    fcntl(child->in, F_SETFL, O_NONBLOCK);
    return true;
}

/* ---- while it runs ---- */

static void kill_child(struct child *child)
{
    if (!child->is_killed)
        kill(-child->pid, SIGKILL);
    child->is_killed = true;
}

/* The end of what it says. */
static void read_output(struct child *child)
{
    char piece[sizeof(child->tail)];
    const ssize_t n = read(child->out, piece, sizeof(piece));

    if (n < 0 && errno == EINTR)
        return;
    if (n <= 0) {
        close_fd(&child->out);
        return;
    }
    if (child->tail_len + (size_t) n > sizeof(child->tail)) {
        const size_t kept = sizeof(child->tail) - (size_t) n;

        memmove(child->tail, child->tail + child->tail_len - kept, kept);
        child->tail_len = kept;
    }
    memcpy(child->tail + child->tail_len, piece, (size_t) n);
    child->tail_len += (size_t) n;
}

/* It need not read all of it: what counts is its exit code. */
static void write_input(struct child *child, const struct buf *input, size_t *done)
{
    const ssize_t n = write(child->in, input->data + *done, input->len - *done);

    if (n > 0)
        *done += (size_t) n;
    if ((n < 0 && errno != EAGAIN && errno != EINTR) || *done == input->len)
        close_fd(&child->in);
}

/*
 * Until it has ended.  A grandchild that holds the output open is not waited for: the pipe is read
 * once more when the command itself is gone.
 */
static int attend(const struct command *command, struct child *child, const struct buf *input)
{
    const int64_t deadline_us = clock_tick_us() + command->feed->destination.timeout_us;
    size_t done = 0;
    int status = 0;

    if (input->len == 0)
        close_fd(&child->in);
    while (waitpid(child->pid, &status, WNOHANG) == 0) {
        struct pollfd fds[2] = {{.fd = child->in, .events = POLLOUT},
                                {.fd = child->out, .events = POLLIN}};
        const int turn_ms = child->in < 0 && child->out < 0 ? ENDING_MS : TURN_MS;

        if (clock_tick_us() > deadline_us || *command->stop)
            kill_child(child);
        poll(fds, 2, turn_ms);
        if (child->out >= 0 && fds[1].revents != 0)
            read_output(child);
        if (child->in >= 0 && fds[0].revents != 0)
            write_input(child, input, &done);
    }
    if (child->out >= 0) {
        fcntl(child->out, F_SETFL, O_NONBLOCK);
        read_output(child);
    }
    close_fd(&child->in);
    close_fd(&child->out);
    return status;
}

static void judge(const struct command *command, const struct child *child, int status,
                  struct destination_answer *answer)
{
    const char *name = command->feed->destination.command[0];
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;

    if (code == 0)
        destination_answer_set(answer, DESTINATION_ACCEPTED, NULL, 0, "exit 0");
    else if (code == NOT_FOUND && child->tail_len == 0)
        destination_answer_set(answer, DESTINATION_AWAY, NULL, 0, "%s cannot be run", name);
    else if (code > 0)
        destination_answer_set(answer, code == TRY_AGAIN ? DESTINATION_AWAY : DESTINATION_REFUSED,
                               child->tail, child->tail_len, "exit %d", code);
    else if (child->is_killed)
        destination_answer_set(answer, DESTINATION_DOUBTFUL, NULL, 0, "%s did not end in time",
                               name);
    else
        destination_answer_set(answer, DESTINATION_DOUBTFUL, NULL, 0, "%s: ended by signal %d",
                               name, WTERMSIG(status));
}

static bool run_command(void *self, const struct destination_parcel *parcel,
                        struct destination_answer *ret_answer, struct error *err)
{
    const struct command *command = self;
    struct child child = {.in = -1, .out = -1};
    _cleanup_buf_ struct buf input = {0};
    struct error failure;
    int status;

    (void) err;
    for (int i = 0; i < parcel->count; i++) {
        buf_add_bytes(&input, parcel->documents[i]->json, parcel->documents[i]->len);
        buf_add_char(&input, '\n');
    }
    if (!start(command, parcel, &child, &failure)) {
        destination_answer_set(ret_answer, DESTINATION_AWAY, NULL, 0, "%s", failure.message);
        return true;
    }
    status = attend(command, &child, &input);
    judge(command, &child, status, ret_answer);
    return true;
}

const struct destination_ops destination_command = {
    .kind = "command",
    .open = open_command,
    .close = free,
    .send = run_command,
};
