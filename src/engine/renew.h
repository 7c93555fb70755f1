/*
 * The slot is made anew under a pipeline that has lost its thread: the slot is gone or lost, the mirror
 * or the source was restored, or the source is another one.  Nothing of the mirror is emptied: every
 * table is left out of the stream until its resync begins, and stays readable as it is.
 */
#ifndef TAILWATER_RENEW_H
#define TAILWATER_RENEW_H

#include "config/config.h"
#include "mirror/control.h"
#include "pg/pg.h"
#include "tailwater/error.h"

enum renewal {
    RENEW_NOT,
    RENEW_LOST, /* source.on_lost: resync.  Another source is refused: it may be a mistake */
    RENEW_ASKED /* resync --all --new-slot: whatever the source is now */
};

struct renew_options {
    const struct config *config;
    struct pg *lock; /* the connection that holds the pipeline's lock */
    int stop_fd;     /* readable once the program is to stop */
    enum renewal renewal;
    int64_t job; /* a job that resyncs all tables exists; 0: one is made */
};

/*
 * stored is the pipeline as it was, actual what the source is now.  Once this has committed a session
 * streams from the new slot, and its resyncer does the job.  After a crash before that the same again
 * works.  The publication is the caller's, and comes first (P44).
 *
 * Errors: ERROR_SLOT where a slot of the name is somebody else's, or the source is another one and
 * nobody asked; ERROR_CONFIG where the pipeline has not been copied yet, or is configured otherwise
 * than it was made.
 */
bool renew_slot(const struct renew_options *options, const struct control_pipeline *stored,
                const struct control_identity *actual, struct error *err);

#endif
