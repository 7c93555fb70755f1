/* The descriptor is there for whoever waits in poll(): a flag alone would be seen too late. */
#include "engine/stop.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static atomic_bool is_raised;
static int fd = -1;

void stop_raise(void)
{
    const uint64_t one = 1;
    const int saved_errno = errno;

    is_raised = true;
    if (write(fd, &one, sizeof(one)) < 0)
        is_raised = true; /* the counter is full: readable already */
    errno = saved_errno;
}

static void on_signal(int number)
{
    (void) number;
    stop_raise();
}

bool stop_catch(struct error *err)
{
    struct sigaction action = {.sa_handler = on_signal};

    fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return error_set(err, ERROR_FAILED, "eventfd: %s", strerror(errno));
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    return true;
}

bool stop_is_raised(void)
{
    return is_raised;
}

const atomic_bool *stop_flag(void)
{
    return &is_raised;
}

int stop_fd(void)
{
    return fd;
}
