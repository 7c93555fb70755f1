/*
 * A session ends between two transactions because something is to be prepared anew: definitions have
 * changed on the source, or the configuration has.  Written by a signal handler and by the session's
 * helpers, done by run.c between two sessions.
 */
#ifndef TAILWATER_RELOAD_H
#define TAILWATER_RELOAD_H

#include <stdatomic.h>
#include <stdint.h>

struct reload {
    atomic_bool is_due;       /* what was prepared is to be prepared anew … */
    atomic_bool is_from_file; /* … with the configuration as its file has it now */
    _Atomic int64_t job;      /* the newest job that asked for that, and had it; 0: none */
    char failure[3200]; /* why the file could not be followed the last time; "".  Written between
                                 sessions only */
};

#endif
