/*
 * One statement gives the documents of many keys.  The keys are a common table expression over one
 * array parameter, typed as the ledger's: {keys} in a query is its name.  The query's rows are
 * joined to them by its key columns, so that a query without {keys} is asked for these keys as well,
 * where the planner can push the join into it (check shows the plan).
 *
 * The plan is made for the keys at hand (an unnamed statement): the array's length is known to the
 * planner.
 *
 * Not here: which of the documents are sent (feed.c), and how (destination_*.c).
 */
#include "feed/document.h"

#include "base/memory.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEYS      "tailwater_keys"
#define MANY_ROWS "10000" /* below that a scan is as good as an index */

void document_digest(const void *data, size_t len, char *ret_hex, size_t size)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned digest_len = 0;

    if (EVP_Digest(data, len, digest, &digest_len, EVP_sha256(), NULL) != 1)
        abort(); /* libcrypto without SHA-256 */
    for (size_t i = 0; 2 * i + 2 < size && i < digest_len; i++)
        snprintf(ret_hex + 2 * i, 3, "%02x", digest[i]);
}

void document_add_array(struct buf *buf, const char *const *texts, int count)
{
    buf_add_char(buf, '{');
    for (int i = 0; i < count; i++) {
        buf_add(buf, i > 0 ? "," : "");
        if (texts[i] == NULL) {
            buf_add(buf, "NULL");
            continue;
        }
        buf_add_char(buf, '"');
        for (const char *p = texts[i]; *p != '\0'; p++) {
            if (*p == '"' || *p == '\\')
                buf_add_char(buf, '\\');
            buf_add_char(buf, *p);
        }
        buf_add_char(buf, '"');
    }
    buf_add_char(buf, '}');
}

/* ---- the statements ---- */

/* The keys with their numbers, then whatever query says of them, as JSON. */
static const char *make_statement(const struct document_query *q, const char *query,
                                  struct arena *arena)
{
    _cleanup_buf_ struct buf sql = {0};

    buf_add(&sql, "with tailwater_numbered as (select u.n");
    for (int i = 0; i < q->nkeys; i++) {
        buf_printf(&sql, ", (u.t::pg_catalog.text[])[%d]::%s as ", i + 1, q->types[i]);
        pg_add_ident(&sql, q->names[i]);
    }
    buf_add(&sql, " from pg_catalog.unnest($1::pg_catalog.text[]) with ordinality u(t, n)), " KEYS
                  " as (select ");
    for (int i = 0; i < q->nkeys; i++) {
        buf_add(&sql, i > 0 ? ", k." : "k.");
        pg_add_ident(&sql, q->names[i]);
    }
    /* An inner join: under an outer one the planner may compute the query's expressions for rows that
     * nobody asks for, and fail on one of them.  So the clock is a row of its own. */
    buf_add(&sql, " from tailwater_numbered k) select tailwater.feed_clock($2), 0, null union all "
                  "select null, k.n, pg_catalog.row_to_json(q) from tailwater_numbered k join (\n");
    buf_add_replaced(&sql, query, "{keys}", KEYS);
    buf_add(&sql, "\n) q on ");
    for (int i = 0; i < q->nkeys; i++) {
        buf_add(&sql, i > 0 ? " and q." : "q.");
        pg_add_ident(&sql, q->columns[i]);
        buf_add(&sql, " = k.");
        pg_add_ident(&sql, q->names[i]);
    }
    return arena_strdup(arena, buf_text(&sql));
}

/* "select k."id" as "CustomerId", true as _deleted from {keys} k" */
static const char *make_delete(const struct document_query *q, struct arena *arena)
{
    _cleanup_buf_ struct buf sql = {0};

    buf_add(&sql, "select ");
    for (int i = 0; i < q->nkeys; i++) {
        buf_add(&sql, "k.");
        pg_add_ident(&sql, q->names[i]);
        buf_add(&sql, " as ");
        pg_add_ident(&sql, q->columns[i]);
        buf_add(&sql, ", ");
    }
    buf_add(&sql, "true as _deleted from {keys} k");
    return arena_strdup(arena, buf_text(&sql));
}

const char *document_definition_hash(const struct config_feed *feed, struct arena *arena)
{
    _cleanup_buf_ struct buf text = {0};
    char hash[DOCUMENT_HASH_SIZE];

    buf_printf(&text, "%s\n%d %s\n", feed->query, (int) feed->vanished,
               feed->vanished_query != NULL ? feed->vanished_query : "");
    for (int i = 0; i < feed->nkeys; i++)
        buf_printf(&text, "%s=%s\n", feed->keys[i].name, feed->keys[i].column);
    document_digest(buf_text(&text), text.len, hash, sizeof(hash));
    return arena_strdup(arena, hash);
}

bool document_query_make(const struct config *config, const struct config_feed *feed, int nkeys,
                         const char **names, const char **types, struct arena *arena,
                         struct document_query *ret_query, struct error *err)
{
    struct document_query query = {.nkeys = nkeys, .names = names, .types = types};

    query.columns = arena_new(arena, const char *, nkeys);
    for (int i = 0; i < nkeys; i++)
        query.columns[i] = names[i];
    for (int i = 0; i < feed->nkeys; i++) {
        int at = 0;

        while (at < nkeys && strcmp(names[at], feed->keys[i].name) != 0)
            at++;
        if (at == nkeys)
            return config_error_at(config, feed->keys[i].place, err,
                                   "feeds{}.key: \"%s\" is not part of the key of fact %s",
                                   feed->keys[i].name, feed->fact);
        query.columns[at] = feed->keys[i].column;
    }
    query.read = make_statement(&query, feed->query, arena);
    switch (feed->vanished) {
    case VANISHED_NOTHING:
        break;
    case VANISHED_DELETE:
        query.vanished = make_statement(&query, make_delete(&query, arena), arena);
        break;
    case VANISHED_QUERY:
        query.vanished = make_statement(&query, feed->vanished_query, arena);
        break;
    }
    query.definition_hash = document_definition_hash(feed, arena);
    *ret_query = query;
    return true;
}

/* ---- reading ---- */

struct reading {
    struct pg *mirror;
    const char *pipeline;
    struct arena *arena;
    const char *sql;
    bool
        is_state; /* it says what is so, and its snapshot is the documents'; not: what is to be said */
};

/* A column of type json keeps the line ends it was written with; inside of its strings there are
 * none. */
static char *take_json(struct arena *arena, const char *text, size_t len)
{
    char *json = arena_strndup(arena, text, len);

    for (char *p = json; *p != '\0'; p++)
        if (*p == '\n' || *p == '\r')
            *p = ' ';
    return json;
}

static void take_document(struct document *document, struct arena *arena, const char *text,
                          size_t len)
{
    if (document->json != NULL) {
        document->json = NULL;
        document->fault = "the query has several rows for this key";
        return;
    }
    document->json = take_json(arena, text, len);
    document->len = len;
    document_digest(document->json, len, document->hash, sizeof(document->hash));
}

/* One statement for all of them. */
static bool ask(const struct reading *reading, struct document **documents, int count,
                struct error *err)
{
    _cleanup_buf_ struct buf keys = {0};
    _cleanup_free_ const char **texts = memory_alloc(sizeof(*texts) * (size_t) count);
    _cleanup_result_ struct pg_result *rows = NULL;
    const char *params[2] = {NULL, reading->pipeline};
    int64_t version = 0;

    for (int i = 0; i < count; i++)
        texts[i] = documents[i]->key;
    document_add_array(&keys, texts, count);
    params[0] = buf_text(&keys);
    if (!pg_query(reading->mirror, reading->sql, 2, params, &rows, err))
        return false;
    for (int row = 0; row < pg_rows(rows); row++) {
        const int64_t n = pg_int(rows, row, 1);

        if (n == 0)
            version = pg_int(rows, row, 0);
        else if (n >= 1 && n <= count && documents[n - 1]->fault == NULL)
            take_document(documents[n - 1], reading->arena, pg_text(rows, row, 2),
                          (size_t) pg_text_len(rows, row, 2));
    }
    for (int i = 0; i < count && reading->is_state; i++)
        documents[i]->version = version;
    return true;
}

/* Does the error come from a row's data rather than from the query itself? */
static bool is_of_data(const struct error *err)
{
    static const char *const classes[] = {"21", "22", "P0", "54"};

    for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++)
        if (strncmp(err->sqlstate, classes[i], 2) == 0)
            return true;
    return false;
}

/* Asks for all, and where data are in the way for each half, until the keys at fault are alone. */
static bool ask_halving(const struct reading *reading, struct document **documents, int count,
                        struct error *err)
{
    struct error failure;

    if (count == 0)
        return true;
    if (!pg_exec(reading->mirror, "savepoint tailwater_read", err))
        return false;
    if (ask(reading, documents, count, &failure))
        return pg_exec(reading->mirror, "release savepoint tailwater_read", err);
    if (!is_of_data(&failure)) {
        *err = failure;
        return error_wrap(err, "asking for documents");
    }
    if (!pg_exec(reading->mirror,
                 "rollback to savepoint tailwater_read; release savepoint tailwater_read", err))
        return false;
    if (count == 1) {
        documents[0]->fault = arena_printf(reading->arena, "the query failed: %s (SQLSTATE %s)",
                                           failure.message, failure.sqlstate);
        return true;
    }
    return ask_halving(reading, documents, count / 2, err) &&
           ask_halving(reading, documents + count / 2, count - count / 2, err);
}

bool document_read(struct pg *mirror, const struct document_query *query, const char *pipeline,
                   const char *const *keys, int count, struct arena *arena,
                   struct document *ret_documents, struct error *err)
{
    const struct reading reading = {mirror, pipeline, arena, query->read, true};
    const struct reading vanished = {mirror, pipeline, arena, query->vanished, false};
    _cleanup_free_ struct document **asked = memory_alloc(sizeof(*asked) * (size_t) (count + 1));
    int nvanished = 0;

    for (int i = 0; i < count; i++) {
        ret_documents[i] = (struct document){.key = keys[i]};
        asked[i] = &ret_documents[i];
    }
    if (!ask_halving(&reading, asked, count, err))
        return false;
    for (int i = 0; i < count; i++) {
        struct document *document = &ret_documents[i];

        document->is_vanished = document->json == NULL && document->fault == NULL;
        if (document->is_vanished)
            asked[nvanished++] = document;
    }
    return query->vanished == NULL || ask_halving(&vanished, asked, nvanished, err);
}

/* "  ->  Seq Scan on mirror_public.orders o": a table, as the verbose plan names it. */
static bool is_large_scan(struct pg *mirror, const char *line, struct arena *arena,
                          const char **ret_table, struct error *err)
{
    const char *at = strstr(line, "Seq Scan on "), *name;
    _cleanup_result_ struct pg_result *rows = NULL;

    if (at == NULL)
        return true;
    at += strlen("Seq Scan on ");
    name = arena_strndup(arena, at, strcspn(at, " "));
    if (!pg_query(mirror,
                  "select from pg_catalog.pg_class where oid = pg_catalog.to_regclass($1) and "
                  "reltuples > " MANY_ROWS,
                  1, &name, &rows, err))
        return false;
    if (pg_rows(rows) > 0)
        *ret_table = name;
    return true;
}

bool document_find_scan(struct pg *mirror, const struct document_query *query, const char *pipeline,
                        struct arena *arena, const char **ret_table, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *plan = NULL;
    const char *params[] = {"{}", pipeline}, *table = NULL;

    buf_printf(&sql, "explain (verbose, costs off) %s", query->read);
    if (!pg_query(mirror, buf_text(&sql), 2, params, &plan, err))
        return error_wrap(err, "explaining the query");
    for (int row = 0; row < pg_rows(plan) && table == NULL; row++)
        if (!is_large_scan(mirror, pg_text(plan, row, 0), arena, &table, err))
            return false;
    *ret_table = table;
    return true;
}

/* The names of the result's columns. */
bool document_fields(struct pg *mirror, const struct document_query *query,
                     const struct config_feed *feed, struct arena *arena, const char **ret_fields,
                     struct error *err)
{
    _cleanup_buf_ struct buf sql = {0}, fields = {0};
    _cleanup_result_ struct pg_result *rows = NULL;

    buf_add(&sql, "with " KEYS " as (select ");
    for (int i = 0; i < query->nkeys; i++) {
        buf_printf(&sql, "%snull::%s as ", i > 0 ? ", " : "", query->types[i]);
        pg_add_ident(&sql, query->names[i]);
    }
    buf_add(&sql, ") select * from (\n");
    buf_add_replaced(&sql, feed->query, "{keys}", KEYS);
    buf_add(&sql, "\n) q limit 0");
    if (!pg_query(mirror, buf_text(&sql), 0, NULL, &rows, err))
        return error_wrap(err, "the query");
    for (int i = 0; i < pg_columns(rows); i++)
        buf_printf(&fields, "%s%s", i > 0 ? ", " : "", pg_column(rows, i));
    *ret_fields = arena_strdup(arena, buf_text(&fields));
    return true;
}
