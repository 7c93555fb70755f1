/*
 * One instance per pipeline: a session-level advisory lock on the mirror.  Advisory locks are per
 * database, so the pipeline's name alone is hashed.  The lock is the polite half of invariant 10;
 * the clock's conditional update, which no paused or cut-off instance gets past, is the other.
 */
#include "mirror/control.h"

#include "base/clock.h"

#include <stdio.h>

/* FNV-1a: the same in every program that ever opens the pipeline. */
static uint64_t lock_key(const char *pipeline)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    const char *parts[] = {"tailwater/", pipeline};

    for (int i = 0; i < 2; i++)
        for (const char *p = parts[i]; *p != '\0'; p++)
            hash = (hash ^ (unsigned char) *p) * UINT64_C(0x100000001b3);
    return hash;
}

bool control_find_holder(struct pg *mirror, const char *pipeline, struct arena *arena,
                         struct control_holder *ret_holder, struct error *err)
{
    uint64_t key = lock_key(pipeline);
    char high[16], low[16];
    const char *params[] = {high, low};
    _cleanup_result_ struct pg_result *holder = NULL;

    snprintf(high, sizeof(high), "%u", (unsigned) (key >> 32));
    snprintf(low, sizeof(low), "%u", (unsigned) key);
    if (!pg_query(mirror,
                  "SELECT l.pid, a.application_name, coalesce(host(a.client_addr), 'local'), "
                  "(extract(epoch FROM a.backend_start) * 1000000)::bigint "
                  "FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid "
                  "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
                  "AND l.classid = $1::oid AND l.objid = $2::oid AND l.database = "
                  "(SELECT oid FROM pg_database WHERE datname = current_database())",
                  2, params, &holder, err))
        return error_wrap(err, "looking for the holder of pipeline %s's lock", pipeline);
    if (pg_rows(holder) == 0) {
        *ret_holder = (struct control_holder){.application = "", .client = ""};
        return true;
    }
    *ret_holder = (struct control_holder){
        .pid = (int) pg_int(holder, 0, 0),
        .application = arena_strdup(arena, pg_text(holder, 0, 1)),
        .client = arena_strdup(arena, pg_is_null(holder, 0, 1) ? "" : pg_text(holder, 0, 2)),
        .since_us = pg_int(holder, 0, 3),
    };
    return true;
}

/* Host and process, if the holder has said them: what an operator looks for.  "" otherwise. */
static void describe_heartbeat(struct pg *mirror, const char *pipeline, struct buf *text)
{
    _cleanup_result_ struct pg_result *heartbeat = NULL;
    _cleanup_result_ struct pg_result *is = NULL;
    struct error ignored;

    if (!pg_query_row(mirror, "SELECT to_regclass('tailwater.heartbeat') IS NOT NULL", 0, NULL, &is,
                      &ignored) ||
        !pg_bool(is, 0, 0) ||
        !pg_query(mirror, "SELECT host, pid FROM tailwater.heartbeat WHERE pipeline = $1", 1,
                  &pipeline, &heartbeat, &ignored) ||
        pg_rows(heartbeat) == 0)
        return;
    buf_printf(text, "; it last said that it is process %s on %s", pg_text(heartbeat, 0, 1),
               pg_text(heartbeat, 0, 0));
}

static bool set_busy(struct pg *mirror, const char *pipeline, struct error *err)
{
    _cleanup_(arena_release) struct arena arena = {0};
    _cleanup_buf_ struct buf who = {0};
    struct control_holder holder;
    char since[CLOCK_TEXT_SIZE];

    if (!control_find_holder(mirror, pipeline, &arena, &holder, err))
        return false;
    if (holder.pid != 0) {
        buf_printf(&who, " (backend %d", holder.pid);
        if (holder.application[0] != '\0')
            buf_printf(&who, ", application %s, client %s, since %s", holder.application,
                       holder.client, clock_text(holder.since_us, since));
        buf_add_char(&who, ')');
    }
    describe_heartbeat(mirror, pipeline, &who);
    error_set(err, ERROR_BUSY, "another instance holds pipeline %s's lock on the mirror%s",
              pipeline, buf_text(&who));
    return error_hint(
        err,
        "stop that instance first; if its machine is gone, its lock ends with its connection, at "
        "the latest after the mirror's tcp_keepalives");
}

bool control_lock(const char *conninfo, const char *pipeline, struct pg **ret_lock,
                  struct error *err)
{
    _cleanup_buf_ struct buf application = {0};
    _cleanup_pg_ struct pg *mirror = NULL;
    _cleanup_result_ struct pg_result *got = NULL;
    char key[24];
    const char *params[] = {key};

    buf_printf(&application, "tailwater %s lock", pipeline);
    snprintf(key, sizeof(key), "%lld", (long long) lock_key(pipeline));
    if (!pg_connect(&(struct pg_options){.side = PG_MIRROR,
                                         .conninfo = conninfo,
                                         .application = buf_text(&application)},
                    &mirror, err))
        return false;
    if (!pg_query_row(mirror, "SELECT pg_try_advisory_lock($1::bigint)", 1, params, &got, err))
        return error_wrap(err, "pipeline %s's lock", pipeline);
    if (!pg_bool(got, 0, 0))
        return set_busy(mirror, pipeline, err);
    *ret_lock = mirror;
    mirror = NULL;
    return true;
}
