/*
 * How a thread beside the stream waits: for a moment between two looks, and longer and longer after
 * failures.  Both end at once when the session does.
 */
#ifndef TAILWATER_PAUSE_H
#define TAILWATER_PAUSE_H

struct pause {
    int wake_fd; /* readable once the session is over */
    int first_ms, longest_ms;
    int next_ms; /* the wait after the next failure; 0: the first */
};

void pause_for(const struct pause *pause, int ms);

/* After a failure: wait, twice as long as the last time, up to the longest. */
void pause_after_failure(struct pause *pause);

/* It went well: the next failure is a first one. */
void pause_reset(struct pause *pause);

#endif
