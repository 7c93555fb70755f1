/* No jitter: these threads' servers have one replicator each; run.c, whose peers come back at the
 * same time after a server's restart, has its own. */
#include "engine/pause.h"

#include <poll.h>

void pause_for(const struct pause *pause, int ms)
{
    struct pollfd fd = {.fd = pause->wake_fd, .events = POLLIN};

    poll(&fd, 1, ms);
}

void pause_after_failure(struct pause *pause)
{
    const int ms = pause->next_ms > 0 ? pause->next_ms : pause->first_ms;

    pause_for(pause, ms);
    pause->next_ms = ms * 2 > pause->longest_ms ? pause->longest_ms : ms * 2;
}

void pause_reset(struct pause *pause)
{
    pause->next_ms = 0;
}
