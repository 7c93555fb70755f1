/*
 * A session: one stream, one applier, one watcher, from the committed cursor until something ends
 * it.  Whatever that is, everything is torn down together, and the next session starts from the
 * cursor again: there is no half-state.
 */
#ifndef TAILWATER_SESSION_H
#define TAILWATER_SESSION_H

#include "config/config.h"
#include "engine/prepare.h"
#include "engine/reload.h"
#include "mirror/quarantine.h"
#include "pg/pg.h"

#include <stdatomic.h>

struct session_options {
    const struct config *config;
    const char *version;
    bool *is_guarded; /* key expressions are evaluated one by one (resolve.h); the session sets it
                         for the next one */
    struct prepared_pipeline *prepared; /* a promotion of the source is noted in it */
    struct pg *lock;
    const atomic_bool *stop;
    struct reload *reload; /* ends the session, between transactions; its helpers may ask for it */
    lsn_t until;           /* 0: none */
    lsn_t
        careful_until; /* up to the transaction of this final_lsn each is a batch alone; 0: none */
    int64_t job;       /* ends once this job is done; 0: none */
    int64_t started_at_us;
    int64_t reconnects;
    const char *last_hint;  /* of last_error; NULL: none */
    const char *last_state; /* watcher.h */
    const char *last_error;
    int64_t last_error_at_us;
};

struct session_outcome {
    bool has_streamed;      /* the stream was open */
    lsn_t cursor;           /* the mirror's, at the end; 0: not known */
    struct culprit culprit; /* whose data made it fail; last_lsn 0: nobody's */
};

/* *ret_outcome is set in any case.  True: told to stop, until reached, or the job done. */
bool session_run(const struct session_options *options, struct session_outcome *ret_outcome,
                 struct error *err);

#endif
