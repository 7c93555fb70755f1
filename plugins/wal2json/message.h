/*
 * What the handlers of wal2json's messages share: the decoder, the message on its way, and how one
 * is refused.  A handler returns true with the change whole, or sets m->err, as every refusal here
 * does; it changes the decoder only once nothing can be refused any more.
 */
#ifndef TAILWATER_WAL2JSON_MESSAGE_H
#define TAILWATER_WAL2JSON_MESSAGE_H

#include "json.h"
#include "shapes.h"
#include "tailwater/decoder.h"

struct decoder {
    struct arena arena; /* holds this struct and the shapes */
    const char *prefix; /* of the messages to pass on, or NULL */
    struct shapes shapes;
    struct shaped_table *last; /* the table of the last row, or NULL */

    bool in_transaction;
    uint32_t xid;
    lsn_t final_lsn;
    lsn_t end_lsn;
    char lead[128]; /* ,"xid":1,"timestamp":"…" as every row of this transaction repeats it */
    size_t lead_len;
};

/* One message on its way through its handler. */
struct message {
    struct decoder *decoder;
    struct json json;
    struct arena *scratch;
    char action;
    struct json_text schema, table; /* once they were read: for what is said of a refusal */
    struct change change;
    struct error *err;
};

/* Refuse, with a reason of one's own; never with a value of a row. */
bool message_refuse(const struct message *m, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Refuse, because of what m->json missed. */
bool message_refuse_json(const struct message *m);

/* The brace that ends the object, and nothing behind it. */
bool message_is_whole(struct message *m);

bool message_in_transaction(const struct message *m);

bool message_read_xid(struct message *m, uint32_t *ret_xid);

/* Pass xid and timestamp, which every message of a transaction repeats; nothing of them is needed.
 */
bool message_skip_lead(struct message *m);

/* Pass a change's own LSN, which is never a position (P27). */
bool message_skip_lsn(struct message *m);

/* I, U and D; T. */
bool row_decode(struct message *m);
bool row_decode_truncate(struct message *m);

#endif
