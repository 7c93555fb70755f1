/*
 * NOTIFY tailwater_<fact>, with the batch number as payload, to whoever listens: there may be
 * something to claim.  A hint, said after the commit and lost with the connection; a consumer looks
 * by itself now and then.
 */
#ifndef TAILWATER_NOTIFY_H
#define TAILWATER_NOTIFY_H

#include "pg/pg.h"

/*
 * Notify for every fact that has something new after batch *seen, which becomes the newest batch
 * looked at.  Begin with -1: everything is new then.
 */
bool notify_news(struct pg *mirror, const char *pipeline, int64_t *seen, struct error *err);

#endif
