/*
 * A feed: the documents of a fact's changed keys, sent to a receiver.  feed.c has why nothing is lost
 * and nothing overtakes.
 *
 * A struct feed is one connection to the mirror and one destination, used by one thread.  Whoever
 * owns it calls feed_step() again and again, and waits where that says so; after an error it frees
 * it and opens another one: there is no state but what is in the mirror database.
 */
#ifndef TAILWATER_FEED_H
#define TAILWATER_FEED_H

#include "base/buf.h"
#include "config/config.h"
#include "pg/pg.h"

#include <stdatomic.h>
#include <stdint.h>

struct feed;

struct feed_options {
    const struct config *config;
    const struct config_feed *feed;
    const atomic_bool *stop;
    int wake_fd; /* readable once stop is raised: long statements and requests end */
};

enum feed_state {
    FEED_WORKED,  /* there may be more: go on at once */
    FEED_IDLE,    /* nothing to do */
    FEED_BLOCKED, /* the receiver takes nothing; why is in text */
    FEED_PAUSED   /* somebody, or the number of dead letters, has paused it; why is in text */
};

struct feed_outcome {
    enum feed_state state;
    int wait_ms;          /* before the next step, unless there is news */
    int64_t sent;         /* documents accepted in this step */
    int64_t unchanged;    /* keys whose documents are as they were */
    int64_t refused;      /* documents refused */
    int64_t lag_us;       /* age of the oldest change that was looked at; 0: there was none */
    bool has_been_paused; /* by this step */
    bool is_lingering;    /* idle, but a window may be waiting for linger's end */
    char text[1024];      /* for the log: without the receiver's words, but for log.values */
};

/* Connects, makes what is missing in the control schema, takes the feed's lock (ERROR_BUSY where
 * another process has it), opens the destination.  *ret_note: what a person should know of the
 * start, from the feed; NULL where there is nothing. */
bool feed_open(const struct feed_options *options, struct feed **ret_feed, const char **ret_note,
               struct error *err);
void feed_free(struct feed *feed); /* NULL is fine */

/* One window or less. */
bool feed_step(struct feed *feed, struct feed_outcome *ret_outcome, struct error *err);

/*
 * After a step that was not FEED_WORKED: until its wait_ms have passed, there may be something new
 * (only where it was idle or paused: news do not change what a receiver wants), somebody has resumed
 * this feed or asked it to try again, or it is told to stop.
 */
bool feed_wait(struct feed *feed, const struct feed_outcome *outcome, struct error *err);

/* The feed of that name in the configuration, ERROR_CONFIG with the nearest right one otherwise. */
bool feed_find(const struct config *config, const char *name, const struct config_feed **ret_feed,
               struct error *err);

/* A key of the command line ("42", "7,2026-11-22", "{7,2026-11-22}") as feeds have it, from arena;
 * ERROR_CONFIG where it has not as many parts as the fact's key. */
bool feed_parse_key(const char *text, int nkeys, struct arena *arena, const char **ret_key,
                    struct error *err);

/* How many parts that is, from the mirror. */
bool feed_count_key(struct pg *mirror, const struct config *config, const struct config_feed *feed,
                    int *ret_nkeys, struct error *err);

/* For check: the feed's query tried on the mirror, which is used as feeds use it.  The fields of its
 * documents, and a large table that it would read whole for a few keys (NULL: none), from arena. */
bool feed_try(struct pg *mirror, const struct config *config, const struct config_feed *feed,
              struct arena *arena, const char **ret_fields, const char **ret_scanned,
              struct error *err);

/* Connects as feeds do. */
bool feed_connect(const struct config *config, const char *application, int wake_fd,
                  struct pg **ret_mirror, struct error *err);

/* Adds a remedy where a role or a control schema is not what feeds need.  Returns false. */
bool feed_explain(struct error *err);

/* The documents that these keys would give now, a line each; sends nothing and changes nothing. */
bool feed_preview(const struct config *config, const struct config_feed *feed,
                  const char *const *keys, int count, struct buf *out, struct error *err);

#endif
