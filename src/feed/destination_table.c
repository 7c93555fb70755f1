/*
 * A table of the mirror database: an outbox, to which every document is appended, with a number,
 * its key and what tells it from others of its key.  It is written in the transaction that records
 * that it was sent: exactly once.  Whoever reads it deletes what is done, in the order of id.
 *
 * The table is made where it is missing.  A row that it does not take (a trigger, a constraint of
 * somebody's) is REFUSED.  Anything else that is in the way (the table is gone, a right, a lock, a full
 * disk) is no document's fault: the step fails as a whole, and the feed is opened anew.
 */
#include "feed/destination.h"

#include "base/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct outbox {
    struct pg *mirror;
    struct buf insert;
};

static void close_table(void *self)
{
    struct outbox *outbox = self;

    buf_release(&outbox->insert);
    free(outbox);
}

static bool open_table(const struct destination_options *options, void **ret_self,
                       struct error *err)
{
    const struct config_table_name *to = &options->feed->destination.table;
    _cleanup_buf_ struct buf name = {0};
    _cleanup_result_ struct pg_result *there = NULL;
    const char *text;
    struct outbox *outbox;

    pg_add_qualified(&name, to->schema, to->name);
    text = buf_text(&name);
    if (!pg_query_row(options->mirror, "select to_regclass($1) is not null", 1, &text, &there, err))
        return false;
    if (!pg_bool(there, 0, 0) &&
        !pg_execf(options->mirror, err,
                  "create table %s (id bigint generated always as identity primary key, "
                  "feed text not null, key text[] not null, is_vanished boolean not null, "
                  "version bigint not null, idempotency_key text not null, "
                  "document jsonb not null, sent_at timestamptz not null default now())",
                  text))
        return error_wrap(err, "making the table of feed %s", options->feed->name);
    outbox = memory_new(struct outbox);
    outbox->mirror = options->mirror;
    buf_printf(&outbox->insert,
               "insert into %s (feed, key, is_vanished, version, idempotency_key, document) "
               "select $1, u.key::text[], u.is_vanished, $2::bigint, u.idempotency_key, "
               "u.document::jsonb from unnest($3::text[], $4::boolean[], $5::text[], $6::text[]) "
               "u(key, is_vanished, idempotency_key, document)",
               text);
    *ret_self = outbox;
    return true;
}

static bool insert_rows(struct outbox *outbox, const struct destination_parcel *parcel,
                        struct error *err)
{
    const size_t n = (size_t) parcel->count;
    _cleanup_free_ const char **lists = memory_alloc(4 * n * sizeof(*lists));
    _cleanup_free_ char *ids = memory_alloc(n * DESTINATION_KEY_SIZE);
    struct buf arrays[4] = {{0}};
    const char *params[6] = {parcel->feed};
    _cleanup_result_ struct pg_result *done = NULL;
    char version[24];
    bool is_ok;

    snprintf(version, sizeof(version), "%" PRId64, parcel->version);
    params[1] = version;
    for (size_t i = 0; i < n; i++) {
        char *id = ids + i * DESTINATION_KEY_SIZE;

        destination_document_key(parcel, parcel->documents[i], id);
        lists[i] = parcel->documents[i]->key;
        lists[n + i] = parcel->documents[i]->is_vanished ? "t" : "f";
        lists[2 * n + i] = id;
        lists[3 * n + i] = parcel->documents[i]->json;
    }
    for (size_t i = 0; i < 4; i++) {
        document_add_array(&arrays[i], lists + i * n, parcel->count);
        params[2 + i] = buf_text(&arrays[i]);
    }
    is_ok = pg_query(outbox->mirror, buf_text(&outbox->insert), 6, params, &done, err);
    for (size_t i = 0; i < 4; i++)
        buf_release(&arrays[i]);
    return is_ok;
}

/* A value, a constraint, or what a trigger raises. */
static bool is_of_row(const struct error *failure)
{
    return failure->kind == ERROR_DATA || strncmp(failure->sqlstate, "P0", 2) == 0;
}

static bool send_rows(void *self, const struct destination_parcel *parcel,
                      struct destination_answer *ret_answer, struct error *err)
{
    struct outbox *outbox = self;
    struct error failure;

    if (!pg_exec(outbox->mirror, "savepoint tailwater_send", err))
        return false;
    if (insert_rows(outbox, parcel, &failure)) {
        destination_answer_set(ret_answer, DESTINATION_ACCEPTED, NULL, 0, "inserted");
        return pg_exec(outbox->mirror, "release savepoint tailwater_send", err);
    }
    if (pg_is_broken(outbox->mirror) || !is_of_row(&failure)) {
        *err = failure;
        return error_wrap(err, "writing to the table of feed %s", parcel->feed);
    }
    destination_answer_set(ret_answer, DESTINATION_REFUSED, failure.message,
                           strlen(failure.message), "SQLSTATE %s", failure.sqlstate);
    return pg_exec(outbox->mirror,
                   "rollback to savepoint tailwater_send; release savepoint tailwater_send", err);
}

const struct destination_ops destination_table = {
    .kind = "table",
    .is_in_mirror = true,
    .open = open_table,
    .close = close_table,
    .send = send_rows,
};
