/*
 * A session: one stream, one applier, one watcher, from the committed cursor until something ends
 * it.  Whatever that is, everything is torn down together, and the next session starts from the
 * cursor again: there is no half-state.
 */
#ifndef TAILWATER_SESSION_H
#define TAILWATER_SESSION_H

#include "config/config.h"
#include "engine/prepare.h"
#include "pg/pg.h"

#include <stdatomic.h>

struct session_options {
    const struct config *config;
    const char *version;
    const struct prepared_pipeline *prepared;
    struct pg *lock;
    const atomic_bool *stop;
    lsn_t until; /* 0: none */
    int64_t started_at_us;
    int64_t reconnects;
    const char *last_error;
    int64_t last_error_at_us;
};

/* *ret_has_streamed is set as soon as the stream is open, whatever happens then.  True: told to
 * stop, or until reached. */
bool session_run(const struct session_options *options, bool *ret_has_streamed, struct error *err);

#endif
