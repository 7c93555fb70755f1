/*
 * What the running replicator says of itself, its counters, and the size of the repair list.
 *
 * The heartbeat's numbers are one jsonb column: only people and status read them, and a new one
 * needs no migration. Both directions are driven by one table of fields.
 */
#include "mirror/control.h"

#include "base/clock.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Fields of struct control_heartbeat in the column detail, all int64_t or lsn_t. */
static const struct {
    const char *name;
    size_t offset;
    bool is_lsn;
} fields[] = {
    {"started_at_us", offsetof(struct control_heartbeat, started_at_us)},
    {"streaming_since_us", offsetof(struct control_heartbeat, streaming_since_us)},
    {"received_lsn", offsetof(struct control_heartbeat, received_lsn), true},
    {"confirmed_lsn", offsetof(struct control_heartbeat, confirmed_lsn), true},
    {"lag_us", offsetof(struct control_heartbeat, lag_us)},
    {"changes", offsetof(struct control_heartbeat, changes)},
    {"transactions", offsetof(struct control_heartbeat, transactions)},
    {"batches", offsetof(struct control_heartbeat, batches)},
    {"copy_tables_done", offsetof(struct control_heartbeat, copy_tables_done)},
    {"copy_tables", offsetof(struct control_heartbeat, copy_tables)},
    {"copy_bytes_done", offsetof(struct control_heartbeat, copy_bytes_done)},
    {"copy_bytes", offsetof(struct control_heartbeat, copy_bytes)},
    {"reconnects", offsetof(struct control_heartbeat, reconnects)},
    {"last_error_at_us", offsetof(struct control_heartbeat, last_error_at_us)},
    {"exit_code", offsetof(struct control_heartbeat, exit_code)},
    {"source_ahead_us", offsetof(struct control_heartbeat, source_ahead_us)},
    {"mirror_ahead_us", offsetof(struct control_heartbeat, mirror_ahead_us)},
};
#define NFIELDS (sizeof(fields) / sizeof(fields[0]))

static const char *read_text(const struct pg_result *row, int column, struct arena *arena)
{
    return pg_is_null(row, 0, column) ? NULL : arena_strdup(arena, pg_text(row, 0, column));
}

static void build_detail(const struct control_heartbeat *heartbeat, struct buf *detail)
{
    char lsn[LSN_TEXT_SIZE];

    buf_add_char(detail, '{');
    for (size_t i = 0; i < NFIELDS; i++) {
        const char *at = (const char *) heartbeat + fields[i].offset;

        if (fields[i].is_lsn)
            buf_printf(detail, "\"%s\": \"%s\", ", fields[i].name,
                       lsn_text(*(const lsn_t *) (const void *) at, lsn));
        else
            buf_printf(detail, "\"%s\": %lld, ", fields[i].name,
                       (long long) *(const int64_t *) (const void *) at);
    }
    buf_add_json_member(detail, "last_error", heartbeat->last_error);
    buf_add(detail, ", ");
    buf_add_json_member(detail, "last_hint", heartbeat->last_hint);
    buf_add(detail, ", ");
    buf_add_json_member(detail, "plugin", heartbeat->plugin);
    buf_add_char(detail, '}');
}

/* Who we are. */
struct self {
    char pid[16], host[256];
};

static struct self find_self(void)
{
    struct self self = {0};

    snprintf(self.pid, sizeof(self.pid), "%d", (int) getpid());
    if (gethostname(self.host, sizeof(self.host) - 1) != 0)
        snprintf(self.host, sizeof(self.host), "unknown");
    return self;
}

bool control_heartbeat(struct pg *lock, const char *pipeline,
                       const struct control_heartbeat *heartbeat, int64_t *ret_now_us,
                       struct error *err)
{
    const struct self self = find_self();
    _cleanup_buf_ struct buf detail = {0};
    _cleanup_result_ struct pg_result *said = NULL;
    const char *params[] = {pipeline,           self.pid,         self.host,
                            heartbeat->version, heartbeat->state, NULL};

    build_detail(heartbeat, &detail);
    params[5] = buf_text(&detail);
    if (!pg_query_row(
            lock,
            "INSERT INTO tailwater.heartbeat (pipeline, pid, host, version, state, detail) "
            "VALUES ($1, $2::integer, $3, $4, $5, $6::jsonb) "
            "ON CONFLICT (pipeline) DO UPDATE SET said_at = now(), pid = excluded.pid, "
            "host = excluded.host, version = excluded.version, state = excluded.state, "
            "detail = excluded.detail, "
            /* Of two instances one has been ended: this is another one than the rival was told of. */
            "rival_at = CASE WHEN (heartbeat.pid, heartbeat.host) = (excluded.pid, excluded.host) "
            "THEN heartbeat.rival_at END "
            "RETURNING (extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
            6, params, &said, err))
        return error_wrap(err, "pipeline %s, heartbeat", pipeline);
    if (ret_now_us != NULL)
        *ret_now_us = pg_int(said, 0, 0);
    return true;
}

/* ---- what is said without the lock ---- */

/* One statement, which finds nothing to do where there is no pipeline. */
static bool note(const char *conninfo, const char *sql, int nparams, const char *const *params,
                 struct error *err)
{
    const struct pg_options options = {.side = PG_MIRROR,
                                       .conninfo = conninfo,
                                       .application = "tailwater note",
                                       .settings = "-c statement_timeout=2s",
                                       .connect_timeout_s = 2};
    _cleanup_result_ struct pg_result *done = NULL;
    _cleanup_pg_ struct pg *mirror = NULL;

    if (!pg_connect(&options, &mirror, err))
        return false;
    return pg_query(mirror, sql, nparams, params, &done, err) ||
           strcmp(err->sqlstate, "42P01") == 0; /* there is no control schema yet */
}

bool control_note_failure(const char *conninfo, const char *pipeline, const char *version,
                          const char *state, const struct error *failure, int exit_code,
                          struct error *err)
{
    const struct self self = find_self();
    _cleanup_buf_ struct buf detail = {0};
    const char *params[] = {pipeline, self.pid, self.host, version, state, NULL};

    buf_add_char(&detail, '{');
    buf_add_json_member(&detail, "last_error", failure->message);
    buf_add(&detail, ", ");
    buf_add_json_member(&detail, "last_hint", failure->hint[0] ? failure->hint : NULL);
    buf_printf(&detail, ", \"last_error_at_us\": %lld, \"exit_code\": %d}",
               (long long) clock_now_us(), exit_code);
    params[5] = buf_text(&detail);
    return note(
        conninfo,
        "INSERT INTO tailwater.heartbeat AS h (pipeline, pid, host, version, state, detail) "
        "SELECT name, $2::integer, $3, $4, $5, $6::jsonb FROM tailwater.pipeline "
        "WHERE name = $1 "
        "ON CONFLICT (pipeline) DO UPDATE SET said_at = now(), pid = excluded.pid, "
        "host = excluded.host, version = excluded.version, state = excluded.state, "
        "detail = h.detail || excluded.detail",
        6, params, err);
}

bool control_note_rival(const char *conninfo, const char *pipeline, struct error *err)
{
    const struct self self = find_self();

    return note(conninfo,
                "UPDATE tailwater.heartbeat SET rival = format('process %s on host %s', $2::text, "
                "$3::text), rival_at = clock_timestamp() WHERE pipeline = $1",
                3, (const char *[]){pipeline, self.pid, self.host}, err);
}

bool control_list_troubles(struct pg *mirror, const char *pipeline, struct arena *arena,
                           int *ret_count, const struct control_trouble **ret_troubles,
                           struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    struct control_trouble *troubles;

    if (!pg_query(mirror, "SELECT event, subject, words, next FROM tailwater.troubles($1)", 1,
                  &pipeline, &rows, err))
        return error_wrap(err, "reading the troubles of pipeline %s", pipeline);
    troubles = arena_new(arena, struct control_trouble, pg_rows(rows));
    for (int i = 0; i < pg_rows(rows); i++)
        troubles[i] = (struct control_trouble){.event = arena_strdup(arena, pg_text(rows, i, 0)),
                                               .subject = arena_strdup(arena, pg_text(rows, i, 1)),
                                               .words = arena_strdup(arena, pg_text(rows, i, 2)),
                                               .next = arena_strdup(arena, pg_text(rows, i, 3))};
    *ret_count = pg_rows(rows);
    *ret_troubles = troubles;
    return true;
}

bool control_read_heartbeat(struct pg *mirror, const char *pipeline, struct arena *arena,
                            bool *ret_found, struct control_heartbeat *ret_heartbeat,
                            struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *row = NULL;
    enum { AGE = 5, LAST_ERROR, LAST_HINT, PLUGIN, FIRST_FIELD };

    buf_add(&sql,
            "SELECT version, state, host, pid, (extract(epoch FROM said_at) * 1000000)::bigint, "
            "(extract(epoch FROM clock_timestamp() - said_at) * 1000000)::bigint, "
            "detail ->> 'last_error', detail ->> 'last_hint', detail ->> 'plugin'");
    for (size_t i = 0; i < NFIELDS; i++)
        buf_printf(&sql, ", detail ->> '%s'", fields[i].name);
    buf_add(&sql, " FROM tailwater.heartbeat WHERE pipeline = $1");
    if (!pg_query(mirror, buf_text(&sql), 1, &pipeline, &row, err))
        return error_wrap(err, "reading pipeline %s's heartbeat", pipeline);
    *ret_found = pg_rows(row) == 1;
    if (!*ret_found)
        return true;
    *ret_heartbeat = (struct control_heartbeat){
        .version = arena_strdup(arena, pg_text(row, 0, 0)),
        .state = arena_strdup(arena, pg_text(row, 0, 1)),
        .host = arena_strdup(arena, pg_text(row, 0, 2)),
        .pid = (int) pg_int(row, 0, 3),
        .said_at_us = pg_int(row, 0, 4),
        .age_us = pg_int(row, 0, AGE),
        .last_error = read_text(row, LAST_ERROR, arena),
        .last_hint = read_text(row, LAST_HINT, arena),
        .plugin = read_text(row, PLUGIN, arena),
    };
    for (size_t i = 0; i < NFIELDS; i++) {
        char *at = (char *) ret_heartbeat + fields[i].offset;
        int column = FIRST_FIELD + (int) i;

        if (fields[i].is_lsn)
            *(lsn_t *) (void *) at = pg_lsn(row, 0, column);
        else
            *(int64_t *) (void *) at = pg_int(row, 0, column);
    }
    return true;
}

bool control_count(struct pg *mirror, const char *pipeline, const char *name, int64_t delta,
                   struct error *err)
{
    char text[24];
    const char *params[] = {pipeline, name, text};
    _cleanup_result_ struct pg_result *done = NULL;

    snprintf(text, sizeof(text), "%lld", (long long) delta);
    if (!pg_query(
            mirror,
            "INSERT INTO tailwater.counter (pipeline, name, value) VALUES ($1, $2, $3::bigint) "
            "ON CONFLICT (pipeline, name) DO UPDATE SET value = counter.value + excluded.value",
            3, params, &done, err))
        return error_wrap(err, "pipeline %s, counter %s", pipeline, name);
    return true;
}

bool control_read_counters(struct pg *mirror, const char *pipeline, struct arena *arena,
                           int *ret_count, struct control_counter **ret_counters, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    struct control_counter *counters;

    if (!pg_query(mirror,
                  "SELECT name, value FROM tailwater.counter WHERE pipeline = $1 ORDER BY name", 1,
                  &pipeline, &rows, err))
        return error_wrap(err, "reading pipeline %s's counters", pipeline);
    counters = arena_new(arena, struct control_counter, pg_rows(rows));
    for (int i = 0; i < pg_rows(rows); i++)
        counters[i] = (struct control_counter){.name = arena_strdup(arena, pg_text(rows, i, 0)),
                                               .value = pg_int(rows, i, 1)};
    *ret_count = pg_rows(rows);
    *ret_counters = counters;
    return true;
}

bool control_doubts(struct pg *mirror, const char *pipeline, int64_t *ret_rows,
                    int64_t *ret_oldest_us, struct error *err)
{
    _cleanup_result_ struct pg_result *row = NULL;

    if (!pg_query_row(
            mirror,
            "SELECT coalesce(sum(n), 0), coalesce((extract(epoch FROM clock_timestamp() - "
            "min(asked_at)) * 1000000)::bigint, 0) FROM tailwater.doubt WHERE pipeline = $1",
            1, &pipeline, &row, err))
        return error_wrap(err, "reading pipeline %s's rows in doubt", pipeline);
    *ret_rows = pg_int(row, 0, 0);
    *ret_oldest_us = pg_int(row, 0, 1);
    return true;
}

bool control_repairs(struct pg *mirror, const char *pipeline, int64_t *ret_keys,
                     int64_t *ret_oldest_us, struct error *err)
{
    _cleanup_result_ struct pg_result *row = NULL;

    if (!pg_query_row(
            mirror,
            "SELECT count(*), coalesce((extract(epoch FROM clock_timestamp() - "
            "min(asked_at)) * 1000000)::bigint, 0) FROM tailwater.repair WHERE pipeline = $1",
            1, &pipeline, &row, err))
        return error_wrap(err, "reading pipeline %s's repair list", pipeline);
    *ret_keys = pg_int(row, 0, 0);
    *ret_oldest_us = pg_int(row, 0, 1);
    return true;
}
