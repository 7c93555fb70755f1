/*
 * The log: one line per event on standard error, as text or JSON.  Only the engine and the verbs
 * call this.  Every line carries a stable event name ("copy_done"): scripts and alerts match on it,
 * docs/operations.md explains it. Row values and passwords never go here.  Thread-safe.
 */
#ifndef TAILWATER_LOG_H
#define TAILWATER_LOG_H

#include "tailwater/error.h"

#include <stdbool.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };
enum log_format { LOG_TEXT, LOG_JSON };

/* Set once, before the threads start.  pipeline and file, the configuration's, may be NULL; commands in
 * what is logged name the file (human_commands()). */
void log_configure(enum log_format format, enum log_level level, const char *pipeline,
                   const char *file);

bool log_is_on(enum log_level level);

void log_event(enum log_level level, const char *event, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The whole of an error, its SQLSTATE and hint included, as one line. */
void log_error(enum log_level level, const char *event, const struct error *err);

/* The newest lines of level info and above, whatever is written, as a JSON array, newest first: for
 * the status page.  LOG_RECENT of them at most. */
struct buf;
void log_add_recent(struct buf *json);

#define LOG_RECENT 50

#endif
