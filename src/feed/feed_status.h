/* How feeds are: for the feed command.  Reads only; each appends text that ends with a newline. */
#ifndef TAILWATER_FEED_STATUS_H
#define TAILWATER_FEED_STATUS_H

#include "pg/pg.h"

bool feed_status_text(struct pg *mirror, const char *pipeline, struct buf *out, struct error *err);
bool feed_status_json(struct pg *mirror, const char *pipeline, struct buf *out, struct error *err);

/* The documents of a feed that were refused: dead letters first, then those that are tried again. */
bool feed_status_dead(struct pg *mirror, const char *feed, bool is_json, struct buf *out,
                      struct error *err);

#endif
