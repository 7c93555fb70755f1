/*
 * How the ledger is: per fact whether keys can be given, through which batch and position they are
 * complete, fan-outs included, what is kept, and how far each consumer is.  Counts of pending keys stop at LEDGER_STATUS_MAX_KEYS.  Reads only; locks nothing.
 */
#ifndef TAILWATER_LEDGER_STATUS_H
#define TAILWATER_LEDGER_STATUS_H

#include "mirror/notes.h"
#include "pg/pg.h"

#define LEDGER_STATUS_MAX_KEYS 100000

/* One JSON object {"batch": …, "facts": […]}, without a newline at the end. */
bool ledger_status_json(struct pg *mirror, const char *pipeline, struct buf *json,
                        struct error *err);

/* The same for people. */
bool ledger_status_text(struct pg *mirror, const char *pipeline, struct buf *text,
                        struct error *err);

/* One line a fact: "order: ready; 2 consumers, 1234 keys pending, the oldest for 3 s". */
bool ledger_status_summary(struct pg *mirror, const char *pipeline, struct notes *lines,
                           struct error *err);

#endif
