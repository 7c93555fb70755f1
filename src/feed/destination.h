/*
 * Where documents go: one const struct of functions per kind (destination_*.c).
 *
 * send() gives the receiver a parcel and says what became of it:
 *
 *   ACCEPTED  all of its documents are the receiver's now
 *   REFUSED   the receiver has seen them and does not want them (HTTP 4xx, a command that fails, a
 *             row that the table does not take): one of them, or all, is at fault
 *   DOUBTFUL  it was there and no answer came, or one that says that it failed (a time-out, a cut
 *             connection, HTTP 500): it may have taken them, the fault may be a document's or its own
 *   AWAY      it cannot be reached, or asks to be left alone for a while (connection refused, 429,
 *             502, 503, 504, wrong credentials): no document is to blame
 *
 * It is asked by one thread at a time.  false is for what is our own trouble (no memory for a
 * process, a broken connection to the mirror): nothing is known of the parcel then.
 *
 * Nothing that is private (headers, credentials, secrets) may get into an answer or an error.
 */
#ifndef TAILWATER_DESTINATION_H
#define TAILWATER_DESTINATION_H

#include "feed/document.h"

#include <stdatomic.h>

#define DESTINATION_KEY_SIZE    128
#define DESTINATION_ANSWER_SIZE 512

struct destination_parcel {
    const char *feed, *epoch;
    int64_t batch;   /* of the ledger: the window's last, which is the same after a crash; 0: keys
                        that are sent outside of windows */
    int64_t version; /* … and as of the snapshot of all its documents: a higher one is newer */
    int count;
    struct document *const *documents;
    char key[DESTINATION_KEY_SIZE]; /* idempotency: from epoch, batch, the keys and what is sent */
};

enum destination_verdict {
    DESTINATION_ACCEPTED,
    DESTINATION_REFUSED,
    DESTINATION_DOUBTFUL,
    DESTINATION_AWAY
};

struct destination_answer {
    enum destination_verdict verdict;
    int64_t retry_after_us; /* asked for by the receiver; 0: not */
    char text
        [DESTINATION_ANSWER_SIZE]; /* for people: "HTTP 422: name is missing"; one line, UTF-8 */
    int own_len;                   /* so much of it are our words; the rest is the receiver's */
};

struct destination_options {
    const struct config_feed *feed;
    struct pg *mirror; /* the table is there; in a transaction while sending */
    const atomic_bool *stop;
    int wake_fd; /* readable once stop is raised: nothing is waited for any more */
};

struct destination_ops {
    const char *kind;
    bool is_in_mirror; /* sends in the transaction that records it: exactly once */
    bool (*open)(const struct destination_options *options, void **ret_self, struct error *err);
    void (*close)(void *self);
    bool (*send)(void *self, const struct destination_parcel *parcel,
                 struct destination_answer *ret_answer, struct error *err);
};

/* The kind that a configuration asks for. */
const struct destination_ops *destination_find(const struct config_destination *to);

/* How many documents one parcel may have. */
int destination_max_documents(const struct config_feed *feed);

/* Where to, for people and without anything private: "POST https://crm.example/api". */
const char *destination_describe(const struct config_destination *to, struct arena *arena);

/* What tells a document from all others that are sent, the batch aside. */
void destination_add_identity(const struct destination_parcel *parcel,
                              const struct document *document, struct buf *text);

/* The idempotency key of one document of a parcel. */
void destination_document_key(const struct destination_parcel *parcel,
                              const struct document *document,
                              char ret_key[static DESTINATION_KEY_SIZE]);

/* An answer: our words by format, and what the receiver said, len bytes of anything (may be NULL).
 * Control characters become spaces, what is not UTF-8 question marks, and it is cut to its size. */
void destination_answer_set(struct destination_answer *answer, enum destination_verdict verdict,
                            const char *said, size_t len, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

extern const struct destination_ops destination_http;
extern const struct destination_ops destination_command;
extern const struct destination_ops destination_table;
extern const struct destination_ops destination_stdout;

#endif
