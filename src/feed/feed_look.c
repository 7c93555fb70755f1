/*
 * Looking at feeds without running them: by name, by key, for check and for --dry-run; and the
 * connection that all of it needs.
 */
#include "feed/feed_internal.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

#define SEARCH_PATH   "public"
#define MAX_KEY_PARTS 32

bool feed_find(const struct config *config, const char *name, const struct config_feed **ret_feed,
               struct error *err)
{
    const char *names[64] = {NULL}, *near;
    int count = 0;

    for (int i = 0; i < config->nfeeds; i++) {
        if (strcmp(config->feeds[i].name, name) == 0) {
            *ret_feed = &config->feeds[i];
            return true;
        }
        if (count < 64)
            names[count++] = config->feeds[i].name;
    }
    near = config_nearest(name, names, count);
    error_set(err, ERROR_CONFIG, "%s has no feed \"%s\"", config->file, name);
    if (count == 0)
        return error_hint(err, "declare one under feeds:");
    return error_hint(err, "did you mean %s?", near != NULL ? near : names[0]);
}

/* A role that was granted nothing, or a control schema that is not there yet. */
bool feed_explain(struct error *err)
{
    if (strcmp(err->sqlstate, "3F000") == 0 || strcmp(err->sqlstate, "42883") == 0)
        return error_hint(err, "the mirror's control schema is made, and brought up to date, by: "
                               "tailwater run");
    if (strcmp(err->sqlstate, "55006") == 0)
        return error_hint(err, "end what runs it first; a replicator ends what its configuration "
                               "names no more, at a SIGHUP");
    if (strcmp(err->sqlstate, "42501") == 0)
        return error_hint(err, "as the role that tailwater run has on the mirror: select "
                               "tailwater.grant_feed('ROLE'); and grant select on the live views "
                               "that the query reads");
    return false;
}

bool feed_connect(const struct config *config, const char *application, int wake_fd,
                  struct pg **ret_mirror, struct error *err)
{
    _cleanup_pg_ struct pg *mirror = NULL;

    if (!pg_connect(&(struct pg_options){.side = PG_MIRROR,
                                         .conninfo = config->mirror.conninfo,
                                         .application = application},
                    &mirror, err))
        return false;
    pg_limit(mirror, -1, wake_fd);
    if (!pg_exec(mirror, "set search_path = " SEARCH_PATH, err))
        return false;
    *ret_mirror = mirror;
    mirror = NULL;
    return true;
}

const char **feed_look_list(const struct pg_result *rows, int column, struct arena *arena)
{
    const char **list = arena_new(arena, const char *, pg_rows(rows) + 1);

    for (int i = 0; i < pg_rows(rows); i++)
        list[i] = arena_strdup(arena, pg_text(rows, i, column));
    return list;
}

bool feed_look_query(struct pg *mirror, const struct config *config, const struct config_feed *feed,
                     struct arena *arena, struct document_query *ret_query, struct error *err)
{
    const char *params[] = {config->pipeline, feed->fact};
    _cleanup_result_ struct pg_result *rows = NULL;

    if (!pg_query(mirror, "select name, type from tailwater.feed_key($1, $2)", 2, params, &rows,
                  err))
        return feed_explain(err);
    if (pg_rows(rows) == 0) {
        error_set(err, ERROR_CONFIG, "pipeline %s has no fact %s in the mirror database",
                  config->pipeline, feed->fact);
        return error_hint(err, "tailwater run makes what is declared under facts:");
    }
    return document_query_make(config, feed, pg_rows(rows), feed_look_list(rows, 0, arena),
                               feed_look_list(rows, 1, arena), arena, ret_query, err);
}

bool feed_try(struct pg *mirror, const struct config *config, const struct config_feed *feed,
              struct arena *arena, const char **ret_fields, const char **ret_scanned,
              struct error *err)
{
    struct document_query query;

    return feed_look_query(mirror, config, feed, arena, &query, err) &&
           document_fields(mirror, &query, feed, arena, ret_fields, err) &&
           document_find_scan(mirror, &query, config->pipeline, arena, ret_scanned, err);
}

bool feed_count_key(struct pg *mirror, const struct config *config, const struct config_feed *feed,
                    int *ret_nkeys, struct error *err)
{
    _cleanup_(arena_release) struct arena arena = {0};
    struct document_query query;

    if (!feed_look_query(mirror, config, feed, &arena, &query, err))
        return false;
    *ret_nkeys = query.nkeys;
    return true;
}

bool feed_parse_key(const char *text, int nkeys, struct arena *arena, const char **ret_key,
                    struct error *err)
{
    _cleanup_buf_ struct buf key = {0};
    const char *parts[MAX_KEY_PARTS], *p = text;
    int count = 0;

    if (text[0] == '{' && nkeys > 1) {
        *ret_key = text;
        return true;
    }
    if (nkeys == 1) {
        parts[count++] = text;
    } else {
        for (;; p++) {
            const size_t len = strcspn(p, ",");

            if (count == MAX_KEY_PARTS)
                break;
            parts[count++] = arena_strndup(arena, p, len);
            p += len;
            if (*p == '\0')
                break;
        }
    }
    if (count != nkeys) {
        error_set(err, ERROR_CONFIG, "the key has %d part%s, and here are %d", nkeys,
                  nkeys == 1 ? "" : "s", count);
        return error_hint(err, "separate the parts with commas: 7,2026-11-22");
    }
    document_add_array(&key, parts, count);
    *ret_key = arena_strdup(arena, buf_text(&key));
    return true;
}

static bool preview(struct pg *mirror, const struct config *config, const struct config_feed *feed,
                    const char *const *keys, int count, struct arena *arena, struct buf *out,
                    struct error *err)
{
    struct document *documents = arena_new(arena, struct document, count);
    struct document_query query;

    if (!feed_look_query(mirror, config, feed, arena, &query, err) ||
        !pg_exec(mirror, "begin read only", err) ||
        !document_read(mirror, &query, config->pipeline, keys, count, arena, documents, err))
        return feed_explain(err);
    for (int i = 0; i < count; i++)
        if (documents[i].fault != NULL)
            return error_set(err, ERROR_DATA, "key %s: %s", keys[i], documents[i].fault);
        else if (documents[i].json != NULL)
            buf_printf(out, "%s\n", documents[i].json);
    return pg_exec(mirror, "rollback", err);
}

bool feed_preview(const struct config *config, const struct config_feed *feed,
                  const char *const *keys, int count, struct buf *out, struct error *err)
{
    _cleanup_(arena_release) struct arena arena = {0};
    _cleanup_pg_ struct pg *mirror = NULL;

    return (feed_connect(config, "tailwater feed", -1, &mirror, err) &&
            preview(mirror, config, feed, keys, count, &arena, out, err)) ||
           error_wrap(err, "feed %s", feed->name);
}
