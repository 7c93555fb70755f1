/*
 * The row is found by its remembered address: under an old snapshot of somebody's the versions of a
 * hot row cannot be pruned, and a look-up by key walks them all.  Others number batches too (the
 * expander of fan-outs), and then the row has moved: the same statement falls back to the key.
 * Neither way trusts what it finds: the writer's token and the cursor are compared.
 *
 * The statement is prepared: it runs with every batch, and planning it would cost as much as a
 * small batch.  It puts the number into the transaction as a setting, so that the statements behind
 * it can say it without a round trip.
 */
#include "mirror/cursor.h"

#include "base/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* How long a transaction that has the row is waited for: that of an instance whose machine is gone
 * may stay for as long as the mirror's tcp_keepalives let it.  Then the session starts again. */
#define TAKE_TIMEOUT "10s"

#define MOVED                                                                                      \
    "batch_id = batch_id + $5, cursor = $4, commit_time = coalesce($6, commit_time), "             \
    "applied_at = clock_timestamp()"
#define BELIEVED "pipeline = $1 and cursor = $2 and writer = $3"

bool cursor_read(struct cursor *cursor, struct pg *mirror, const char *pipeline, struct error *err)
{
    static const char prepare[] =
        "prepare tailwater_clock (text, pg_lsn, uuid, pg_lsn, bigint, timestamptz, tid) as "
        "with a as (update tailwater.clock set " MOVED " where ctid = $7 and " BELIEVED
        " returning batch_id, ctid::text as tid), "
        "k as (update tailwater.clock set " MOVED " where " BELIEVED
        " and not exists (select from a) returning batch_id, ctid::text as tid) "
        "select coalesce(n.batch_id, tailwater.refuse('" CURSOR_FENCED "', "
        "'the clock of pipeline ' || $1 || ' is not at ' || $2 || ' as this writer left it: "
        "another instance has taken over')), n.tid, "
        "set_config('" CURSOR_BATCH_SETTING "', n.batch_id::text, true), "
        "case when $5 > 0 then set_config('" CURSOR_KEYS_SETTING "', '0', true) end "
        "from (select) o left join (select * from a union all select * from k) n on true";
    _cleanup_result_ struct pg_result *result = NULL;

    if (!pg_exec(mirror, "set lock_timeout = '" TAKE_TIMEOUT "'", err) ||
        !pg_query_row(mirror,
                      "update tailwater.clock set writer = gen_random_uuid() where pipeline = $1 "
                      "returning cursor, batch_id, ctid::text, writer",
                      1, &pipeline, &result, err) ||
        !pg_exec(mirror, "reset lock_timeout", err))
        return error_wrap(err, "taking the clock of pipeline %s", pipeline);
    *cursor = (struct cursor){.pipeline = pipeline};
    cursor->lsn = pg_lsn(result, 0, 0);
    cursor->batch_id = pg_int(result, 0, 1);
    snprintf(cursor->tid, sizeof(cursor->tid), "%s", pg_text(result, 0, 2));
    snprintf(cursor->writer, sizeof(cursor->writer), "%s", pg_text(result, 0, 3));
    return pg_exec(mirror, prepare, err);
}

static bool send_update(struct cursor *cursor, struct pg *mirror, const char *tid, lsn_t expected,
                        int64_t step, lsn_t lsn, int64_t commit_time_us, struct error *err)
{
    char from[LSN_TEXT_SIZE], to[LSN_TEXT_SIZE], one[24];
    const uint64_t time = __builtin_bswap64((uint64_t) (commit_time_us - CLOCK_POSTGRES_EPOCH_US));
    struct pg_param params[7] = {{0}};
    const char *texts[7] = {cursor->pipeline,
                            lsn_text(expected, from),
                            cursor->writer,
                            lsn_text(lsn, to),
                            one,
                            NULL,
                            tid};

    snprintf(one, sizeof(one), "%" PRId64, step);
    for (int i = 0; i < 7; i++)
        params[i] = (struct pg_param){.data = texts[i], .len = texts[i] ? strlen(texts[i]) : 0};
    if (commit_time_us != 0)
        params[5] = (struct pg_param){
            .data = (const char *) &time, .len = sizeof(time), .is_binary = true};
    cursor->next_lsn = lsn;
    return pg_send_prepared(mirror, "tailwater_clock", 7, params, err);
}

bool cursor_send_move(struct cursor *cursor, struct pg *mirror, lsn_t lsn, int64_t commit_time_us,
                      struct error *err)
{
    return send_update(cursor, mirror, cursor->tid, cursor->lsn, 1, lsn, commit_time_us, err);
}

bool cursor_send_finish(struct cursor *cursor, struct pg *mirror, lsn_t lsn, int64_t commit_time_us,
                        struct error *err)
{
    return send_update(cursor, mirror, cursor->next_tid, cursor->next_lsn, 0, lsn, commit_time_us,
                       err);
}

bool cursor_take(struct cursor *cursor, const struct pg_result *result, struct error *err)
{
    if (pg_rows(result) != 1 || pg_is_null(result, 0, 1))
        return error_set(err, ERROR_BUG, "the clock did not say where it is");
    cursor->next_batch_id = pg_int(result, 0, 0);
    snprintf(cursor->next_tid, sizeof(cursor->next_tid), "%s", pg_text(result, 0, 1));
    return true;
}

void cursor_committed(struct cursor *cursor)
{
    cursor->lsn = cursor->next_lsn;
    cursor->batch_id = cursor->next_batch_id;
    memcpy(cursor->tid, cursor->next_tid, sizeof(cursor->tid));
}
