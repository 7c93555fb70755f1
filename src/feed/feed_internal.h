/* What the files of a feed share: feed.c has the rules, feed_slice.c reads and records, feed_deliver.c
 * sends. Nobody else includes it. */
#ifndef TAILWATER_FEED_INTERNAL_H
#define TAILWATER_FEED_INTERNAL_H

#include "feed/destination.h"
#include "feed/document.h"
#include "feed/feed.h"

#define FEED_NLATENCIES 1000

enum fate {
    FATE_UNCHANGED, /* as it was, or nothing that the receiver knows */
    FATE_WANTED,    /* to be sent; at the end of a slice: it was not its turn */
    FATE_ACCEPTED,
    FATE_GONE,     /* vanished, and nobody is told */
    FATE_FAILED,   /* refused, or there is no document */
    FATE_POSTPONED /* in doubt, and so is the receiver: an attempt that does not count */
};

/* One slice: keys that are read, sent and recorded together. */
struct slice {
    const char *const *keys;
    int count;
    bool is_todo;         /* from feed_todo … */
    bool is_again;        /* … and each of them was at fault before */
    int64_t batch;        /* the window's last; 0: none */
    int64_t committed_us; /* of the oldest change on the source; 0: not known */
    const char *claim_id; /* of the window; NULL: from feed_todo */
    int nrest;            /* keys of the window that stand behind these in keys */
    bool has_failed;      /* a document of the window, of this slice or of one before it */
    const char *const *tried, *const *told; /* feed_todo: attempts and answers so far, by key */

    struct document *documents; /* and as many of the next two */
    enum fate *fates;
    const char **answers; /* of those that failed */

    struct document **wanted; /* to be sent, by version */
    int nwanted;
    int64_t read_us; /* when they were read; clock_tick_us() */
    int64_t requests;

    struct destination_answer answer; /* the last one */
    bool is_thorough;                 /* what is left is asked for, whatever was refused */
    bool is_halving;                  /* for a document that may be at fault */
    bool has_news;                    /* something has become of a document */
    bool is_blocked;                  /* the receiver takes nothing now; why is in answer */
    bool is_cut;                      /* what is left is to be read anew */
};

/* The same parcel in doubt again and again?  It is told by the key of its first document. */
struct doubt {
    char *key;
    int count;
};

/* Documents that were refused alone, in a row, with answers that are alike. */
struct streak {
    char answer[DESTINATION_ANSWER_SIZE];
    int count;
};

struct feed {
    const struct feed_options *options;
    const struct config_feed *config;
    struct feed_options own_options;
    struct pg *mirror;
    struct arena arena; /* as long as the feed … */
    struct arena step;  /* … as the step: keys … */
    struct arena slice; /* … and as one slice: documents, however large */
    const char *id, *epoch, *consumer;
    struct document_query query;
    const struct destination_ops *ops;
    void *destination;
    bool is_todo_next;        /* windows and feed_todo take turns */
    int64_t next_request_us;  /* max_rate; clock_tick_us() */
    int64_t next_window_us;   /* linger */
    int idle_ms;              /* the next pause when there is nothing */
    int64_t retry_us;         /* the next pause when blocked */
    struct doubt doubts[2];   /* of windows, of feed_todo */
    int nblamed;              /* documents without an answer in a row */
    struct streak streaks[2]; /* of documents that are sent as others, of those at fault before */
    int nthorough;            /* so many more are asked for alone before everything is suspected */
    int narrow;               /* documents of the next parcel at most; 0: as declared */
    int64_t woken_us;         /* by somebody, the last time; clock_tick_us() */
    double latencies[FEED_NLATENCIES];
    int nlatencies, next_latency;
    int64_t said_us;
};

/* ---- feed_slice.c ---- */

/* Reads the slice's documents and notes what is to be sent, inside of a transaction. */
bool feed_slice_read(struct feed *feed, struct slice *slice, struct error *err);

/* Says what became of it, inside of a transaction. */
bool feed_slice_record(struct feed *feed, struct slice *slice, struct feed_outcome *outcome,
                       struct error *err);

/* A parameter, from the step's arena. */
const char *feed_slice_number(struct feed *feed, int64_t number);

/* ---- feed_deliver.c ---- */

/* max_rate: waits until a request may leave, or it is told to stop. */
bool feed_deliver_wait(struct feed *feed, struct error *err);

/* Sends what is wanted; what became of it is in fates, is_blocked and is_cut. */
bool feed_deliver_slice(struct feed *feed, struct slice *slice, struct error *err);

/* ---- feed_look.c ---- */

/* What the fact's key is, and so the statements. */
bool feed_look_query(struct pg *mirror, const struct config *config, const struct config_feed *feed,
                     struct arena *arena, struct document_query *ret_query, struct error *err);

/* A column of a result, from arena. */
const char **feed_look_list(const struct pg_result *rows, int column, struct arena *arena);

#endif
