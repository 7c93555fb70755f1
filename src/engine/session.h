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
    bool *is_guarded; /* key expressions are evaluated one by one (resolve.h); the session sets it
                         for the next one */
    struct pg *lock;
    const atomic_bool *stop;
    lsn_t until; /* 0: none */
    int64_t started_at_us;
    int64_t reconnects;
    const char *last_error;
    int64_t last_error_at_us;
};

struct session_outcome {
    bool has_streamed; /* the stream was open */
    lsn_t cursor;      /* the mirror's, at the end; 0: not known */
};

/* *ret_outcome is set in any case.  True: told to stop, or until reached. */
bool session_run(const struct session_options *options, struct session_outcome *ret_outcome,
                 struct error *err);

#endif
