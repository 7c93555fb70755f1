/*
 * A chunk's transaction: a slot of the backfill (so many at once, among all processes), the target's
 * lock, shared with the other chunks, then the chunk's row.  A crash gives all three back and leaves
 * the chunk waiting.  A refresh wants the target's lock alone, and the queue for it is fair: fresh
 * keys wait for the chunks in flight, not for the next ones.
 *
 * Chunks of one backfill are disjoint; those of two are not.  So one backfill of a fact is the
 * current one, and only its chunks are worked on; another one becomes it under the target's lock
 * alone, when no chunk is in flight.
 *
 * The boundaries are made of the keys that are there when it is planned: they only have to divide
 * the key space, not to name every key.
 */
#include "refresh/backfill.h"

#include "base/clock.h"
#include "base/fault.h"
#include "refresh/onward.h"
#include "refresh/settle.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MAX_CHUNKS 100000

/* A range of keys is read by an index.  A query with {keys} has a list of them instead, for which the
 * planner soon reads the tables whole: the fewer times the better, but fresh keys wait for a chunk. */
#define RANGE_KEYS 50000
#define NAMED_KEYS 200000

/* ---- planning ---- */

static bool is_kind(const char *kind, const char *name)
{
    return strcmp(kind, name) == 0;
}

/* Keys of the fact's own rows, and of the derived table unless there is a predicate: "s". */
static void add_all_keys(struct buf *sql, const struct target *target, const char *predicate)
{
    buf_add(sql, "(select ");
    for (int i = 0; i < target->nkeys; i++)
        buf_printf(sql, "%sa.k%d::%s", i > 0 ? ", " : "", i, target->keys[i].type);
    buf_printf(sql, " from (select %s from %s", target->source_keys, target->source);
    if (predicate != NULL)
        buf_printf(sql, " where (%s)", predicate);
    buf_add(sql, ") a(");
    for (int i = 0; i < target->nkeys; i++)
        buf_printf(sql, "%sk%d", i > 0 ? ", " : "", i);
    buf_add(sql, ")");
    if (predicate == NULL && target->into != NULL) {
        buf_add(sql, " union select ");
        for (int i = 0; i < target->nkeys; i++) {
            buf_add(sql, i > 0 ? ", d." : "d.");
            pg_add_ident(sql, target->keys[i].column);
            buf_printf(sql, "::%s", target->keys[i].type);
        }
        buf_printf(sql, " from %s d", target->into);
    } else {
        buf_add(sql, " group by ");
        for (int i = 0; i < target->nkeys; i++)
            buf_printf(sql, "%s%d", i > 0 ? ", " : "", i + 1);
    }
    buf_add(sql, ") s(");
    for (int i = 0; i < target->nkeys; i++) {
        buf_add(sql, i > 0 ? ", " : "");
        pg_add_ident(sql, target->keys[i].name);
    }
    buf_add(sql, ")");
}

static void add_key_list(struct buf *sql, const struct target *target, const char *after)
{
    for (int i = 0; i < target->nkeys; i++) {
        buf_add(sql, i > 0 ? ", s." : "s.");
        pg_add_ident(sql, target->keys[i].name);
        buf_printf(sql, "%s%s", after[0] == ' ' ? target->keys[i].collation : "", after);
    }
}

static void add_not_null(struct buf *sql, const struct target *target)
{
    buf_add(sql, " where true");
    for (int i = 0; i < target->nkeys; i++) {
        buf_add(sql, " and s.");
        pg_add_ident(sql, target->keys[i].name);
        buf_add(sql, " is not null");
    }
}

/* "n, bound" of every place where a chunk begins, but for the first. */
static void add_bounds(struct buf *sql, const struct target *target,
                       const struct backfill_request *request, const struct recompute_range *range)
{
    const char *type = target->keys[0].type;
    const int64_t keys = request->chunk_keys > 0 ? request->chunk_keys
                         : target->has_keys      ? NAMED_KEYS
                                                 : RANGE_KEYS;

    if (request->chunk_step == NULL) {
        buf_add(sql, "select n, bound from (select row_number() over (order by ");
        add_key_list(sql, target, " ");
        buf_add(sql, ") as n, array[");
        add_key_list(sql, target, "::text");
        buf_add(sql, "] as bound from ");
        add_all_keys(sql, target, request->predicate);
        add_not_null(sql, target);
        recompute_add_range(sql, target, "s", true, range);
        buf_printf(sql, ") b where n > 1 and (n - 1) %% %" PRId64 " = 0", keys);
        return;
    }
    buf_printf(sql,
               "select g.n, array[g.at::%s::text] as bound from (select "
               "greatest($2::text::%s, min(s.",
               type, type);
    pg_add_ident(sql, target->keys[0].name);
    buf_printf(sql, ")) as low, least($3::text::%s, max(s.", type);
    pg_add_ident(sql, target->keys[0].name);
    buf_add(sql, ")) as high from ");
    add_all_keys(sql, target, request->predicate);
    add_not_null(sql, target);
    recompute_add_range(sql, target, "s", true, range);
    buf_printf(sql,
               ") r cross join lateral generate_series(r.low, r.high, $4::interval) with "
               "ordinality g(at, n) where g.n > 1 and ($3::text is null or g.at::%s < "
               "$3::text::%s) limit %d",
               type, type, MAX_CHUNKS + 1);
}

static bool plan_chunks(struct pg *mirror, const struct target *target,
                        const struct backfill_request *request, const char *id, struct error *err)
{
    const struct recompute_range range = {request->from != NULL, request->to != NULL,
                                          &request->from, &request->to};
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *done = NULL;
    const char *params[] = {id, request->from, request->to, request->chunk_step};

    buf_add(&sql, "with e as (select 0::bigint as n, case when $2::text is not null then "
                  "array[$2::text] end as bound union all ");
    add_bounds(&sql, target, request, &range);
    buf_add(&sql, ") insert into tailwater.backfill_chunk (backfill, nr, low, high) select "
                  "$1::bigint, row_number() over (order by n), bound, coalesce(lead(bound) over "
                  "(order by n), case when $3::text is not null then array[$3::text] end) from e");
    /* The form without a step has no fourth parameter. */
    if (!pg_query(mirror, buf_text(&sql), request->chunk_step != NULL ? 4 : 3, params, &done, err))
        return error_wrap(err, "dividing the keys of fact %s", target->fact->name);
    if (pg_affected(done) <= MAX_CHUNKS)
        return true;
    error_set(err, ERROR_CONFIG, "more than %d chunks", MAX_CHUNKS);
    return error_hint(err, "make them larger: --chunk");
}

bool backfill_plan(struct pg *mirror, const struct target *target,
                   const struct backfill_request *request, int64_t *ret_id, struct error *err)
{
    char parallel[16], share[16];
    const char *params[] = {target->fact->name, request->kind, request->reason,
                            request->predicate, parallel,      share};
    _cleanup_result_ struct pg_result *row = NULL, *ended = NULL;

    snprintf(parallel, sizeof(parallel), "%d", request->parallel);
    snprintf(share, sizeof(share), "%d", request->share);
    if (is_kind(request->kind, "everything") &&
        !pg_query(mirror,
                  "update tailwater.backfill set state = 'cancelled', ended_at = clock_timestamp() "
                  "where fact = $1 and kind <> 'keys' and state in ('running', 'paused')",
                  1, params, &ended, err))
        return false;
    if (!pg_query_row(mirror,
                      "insert into tailwater.backfill (fact, generation, kind, reason, predicate, "
                      "parallel, share) select f.name, f.generation, $2, $3, $4, $5::integer, "
                      "$6::integer from tailwater.fact f where f.name = $1 returning id",
                      6, params, &row, err) ||
        !plan_chunks(mirror, target, request, pg_text(row, 0, 0), err))
        return false;
    *ret_id = pg_int(row, 0, 0);
    return true;
}

/* ---- a chunk ---- */

struct step {
    struct pg *mirror;
    const struct config *config;
    const struct target *target;
    struct backfill_outcome *outcome;
    char id[24], nr[16];
    char *predicate; /* NULL: none */
    bool is_current;
    bool is_built; /* all rows of the target are there, and that is to be said: end_build() */
    int parallel;
    struct recompute_range range;
    const char *low[16], *high[16];
    int64_t drift, pending; /* -1: not asked for */
    char sample[200];
};

/* Whose last chunk is done has ended; wanted 0: any of the fact's, after a crash in between.  Of two
 * that end one together one is told. */
static bool end_backfills(struct step *step, int64_t wanted, bool *ret_is_ended, struct error *err)
{
    char id[24];
    const char *params[] = {step->target->fact->name, id};
    _cleanup_result_ struct pg_result *row = NULL;

    snprintf(id, sizeof(id), "%" PRId64, wanted);
    if (!pg_query(step->mirror,
                  "update tailwater.backfill b set ended_at = clock_timestamp(), state = case when "
                  "exists (select from tailwater.backfill_chunk c where c.backfill = b.id and "
                  "c.state = 'failed') then 'failed' else 'done' end where b.fact = $1 and "
                  "($2::bigint = 0 or b.id = $2::bigint) and b.state = 'running' and not exists "
                  "(select from tailwater.backfill_chunk c where c.backfill = b.id and c.state = "
                  "'waiting') returning b.state, b.kind",
                  2, params, &row, err))
        return false;
    *ret_is_ended = pg_rows(row) > 0;
    for (int i = 0; i < pg_rows(row); i++) {
        const bool is_done = strcmp(pg_text(row, i, 0), "done") == 0;

        step->outcome->state = is_done ? "done" : "failed";
        step->is_built |= is_done && is_kind(pg_text(row, i, 1), "everything");
    }
    return true;
}

/* The rows are there whatever becomes of it, so that is no failure of theirs. */
static void end_build(struct step *step)
{
    struct error failure;

    if (step->is_built && !target_end_build(step->mirror, step->target, &failure))
        step->outcome->unsettled = failure;
    step->is_built = false;
}

/* The backfill whose turn it is: the current one as long as it has chunks. */
static bool find_backfill(struct step *step, int64_t wanted, struct error *err)
{
    char text[24];
    const char *params[] = {step->target->fact->name, text};
    _cleanup_result_ struct pg_result *row = NULL;
    bool is_ended;

    snprintf(text, sizeof(text), "%" PRId64, wanted);
    if (!end_backfills(step, 0, &is_ended, err) ||
        !pg_query(step->mirror,
                  "with b as (select b.id, b.kind, b.predicate, b.parallel, b.share, b.kind = "
                  "'keys' or b.id = r.current_backfill as is_current, f.generation = b.generation "
                  "as is_valid from tailwater.backfill b join tailwater.fact f on f.name = b.fact "
                  "left join tailwater.refresh r on r.fact = b.fact where b.fact = $1 and b.state "
                  "= 'running' and exists (select from tailwater.backfill_chunk c where c.backfill "
                  "= b.id and c.state = 'waiting')) "
                  "select b.id, b.kind, b.predicate, b.parallel, b.share, coalesce(is_current, "
                  "false), is_valid from b where ($2::bigint = 0 or b.id = $2::bigint) and "
                  "(is_current or kind = 'keys' or not exists (select from b x where x.is_current "
                  "and x.kind <> 'keys')) order by is_current desc nulls last, id limit 1",
                  2, params, &row, err))
        return false;
    if (pg_rows(row) == 0)
        return true;
    step->outcome->id = pg_int(row, 0, 0);
    snprintf(step->id, sizeof(step->id), "%s", pg_text(row, 0, 0));
    snprintf(step->outcome->kind, sizeof(step->outcome->kind), "%s", pg_text(row, 0, 1));
    if (!pg_is_null(row, 0, 2))
        step->predicate = strdup(pg_text(row, 0, 2));
    step->parallel = (int) pg_int(row, 0, 3);
    step->outcome->share = (int) pg_int(row, 0, 4);
    step->is_current = pg_bool(row, 0, 5);
    if (pg_bool(row, 0, 6))
        return true;
    /* Its fact was declared anew since: everything is owed then, and that is more. */
    step->outcome->id = 0;
    return backfill_set(step->mirror, step->config->pipeline, pg_int(row, 0, 0), "cancelled", err);
}

/* With the target's lock alone no chunk is in flight. */
static bool make_current(struct step *step, struct error *err)
{
    const char *params[] = {step->target->fact->name, step->id};
    _cleanup_result_ struct pg_result *locked = NULL, *done = NULL;

    return pg_exec(step->mirror, "begin", err) &&
           pg_query(step->mirror, "select pg_advisory_xact_lock(" TARGET_LOCK ", $1::oid::integer)",
                    1, &step->target->oid, &locked, err) &&
           pg_query(step->mirror,
                    "update tailwater.refresh r set current_backfill = $2::bigint where fact = $1 "
                    "and not exists (select from tailwater.backfill b where b.id = "
                    "r.current_backfill and b.state = 'running' and exists (select from "
                    "tailwater.backfill_chunk c where c.backfill = b.id and c.state = 'waiting'))",
                    2, params, &done, err) &&
           pg_exec(step->mirror, "commit", err);
}

/* The next chunk, its row locked; *ret_row has its bounds as long as it lives. */
static bool take_chunk(struct step *step, struct pg_result **ret_row, struct error *err)
{
    const bool has_target = !is_kind(step->outcome->kind, "keys");
    char parallel[16];
    const char *params[] = {step->id, parallel};
    _cleanup_result_ struct pg_result *slot = NULL, *locked = NULL;
    struct pg_result *row;

    snprintf(parallel, sizeof(parallel), "%d", step->parallel);
    if (!pg_query_row(step->mirror,
                      "select tailwater.take_backfill_slot($1::bigint, $2::integer) is not null", 2,
                      params, &slot, err))
        return false;
    if (!pg_bool(slot, 0, 0))
        return true;
    if (has_target &&
        !pg_query(step->mirror,
                  "select pg_advisory_xact_lock_shared(" TARGET_LOCK ", $1::oid::integer)", 1,
                  &step->target->oid, &locked, err))
        return false;
    if (!pg_query(step->mirror,
                  "select c.nr, cardinality(c.low), cardinality(c.high), c.low, c.high from "
                  "tailwater.backfill_chunk c join tailwater.backfill b on b.id = c.backfill left "
                  "join tailwater.refresh r on r.fact = b.fact where b.id = $1::bigint and b.state "
                  "= 'running' and (b.kind = 'keys' or r.current_backfill = b.id) and c.state = "
                  "'waiting' and (c.next_at is null or c.next_at <= clock_timestamp()) order by "
                  "c.nr limit 1 for update of c skip locked",
                  1, params, &row, err))
        return false;
    *ret_row = row;
    return true;
}

/* Arrays come apart on the server. */
static bool read_range(struct step *step, struct pg_result *chunk, struct pg_result **ret_bounds,
                       struct error *err)
{
    const int nlow = (int) pg_int(chunk, 0, 1), nhigh = (int) pg_int(chunk, 0, 2);
    const char *params[] = {pg_is_null(chunk, 0, 3) ? NULL : pg_text(chunk, 0, 3),
                            pg_is_null(chunk, 0, 4) ? NULL : pg_text(chunk, 0, 4)};
    struct pg_result *row;

    if (!pg_query(step->mirror,
                  "select u.v from unnest($1::text[]) u(v) union all select u.v from "
                  "unnest($2::text[]) u(v)",
                  2, params, &row, err))
        return false;
    for (int i = 0; i < nlow && i < 16; i++)
        step->low[i] = pg_text(row, i, 0);
    for (int i = 0; i < nhigh && i < 16; i++)
        step->high[i] = pg_text(row, nlow + i, 0);
    step->range = (struct recompute_range){nlow, nhigh, step->low, step->high};
    *ret_bounds = row;
    return true;
}

/* ---- what is done to a chunk ---- */

/* The chunk's keys by name, in target->window, or as rows of the ledger. */
static void add_chunk_keys(struct buf *sql, const struct step *step)
{
    add_all_keys(sql, step->target, step->predicate);
    add_not_null(sql, step->target);
    recompute_add_range(sql, step->target, "s", true, &step->range);
}

static bool by_name(struct step *step, struct error *err)
{
    _cleanup_buf_ struct buf keys = {0};
    struct settle_options options = {.max_attempts = step->config->refresh.max_attempts};

    buf_add(&keys, "(select ");
    add_key_list(&keys, step->target, "");
    buf_add(&keys, " from ");
    add_chunk_keys(&keys, step);
    buf_add(&keys, ")");
    options.keys = buf_text(&keys);
    return settle_keys(step->mirror, step->target, &options, &step->outcome->counts,
                       &step->outcome->failed, err);
}

static bool forget_failures(struct step *step, struct error *err)
{
    const struct target *target = step->target;
    const char *params[] = {target->fact->name};
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *done = NULL;

    buf_add(&sql, "delete from tailwater.refresh_failure x using (select f.key as tailwater_key");
    for (int i = 0; i < target->nkeys; i++) {
        buf_printf(&sql, ", f.key[%d]::%s as ", i + 1, target->keys[i].type);
        pg_add_ident(&sql, target->keys[i].name);
    }
    buf_add(&sql, " from tailwater.refresh_failure f where f.fact = $1) s where x.fact = $1 and "
                  "x.key = s.tailwater_key and x.failed_at < now()");
    recompute_add_range(&sql, target, "s", true, &step->range);
    return pg_query(step->mirror, buf_text(&sql), 1, params, &done, err);
}

/* Keys that differ; those that the ledger or a failure has pending are no drift. */
static bool count_drift(struct step *step, struct error *err)
{
    const struct target *target = step->target;
    const char *params[] = {target->fact->name, TARGET_CONSUMER};
    _cleanup_buf_ struct buf sql = {0}, same = {0}, failed = {0}, text = {0};
    _cleanup_result_ struct pg_result *row = NULL;

    for (int i = 0; i < target->nkeys; i++) {
        _cleanup_buf_ struct buf name = {0};

        pg_add_ident(&name, target->keys[i].name);
        buf_printf(&same, " and l.%s = x.%s", buf_text(&name), buf_text(&name));
        buf_printf(&failed, " and f.key[%d]::%s = x.%s", i + 1, target->keys[i].type,
                   buf_text(&name));
        buf_printf(&text, "%sx.%s::text", i > 0 ? " || ', ' || " : "", buf_text(&name));
    }
    buf_add(&sql, "with x(");
    for (int i = 0; i < target->nkeys; i++) {
        pg_add_ident(&sql, target->keys[i].name);
        buf_add(&sql, ", ");
    }
    buf_add(&sql, "tailwater_low, tailwater_high) as materialized (");
    recompute_add_differing(&sql, target);
    buf_printf(
        &sql,
        "), c as (select k.* from tailwater.consumer k where k.fact = $1 and k.name = $2), "
        "a as (select exists (select from c join tailwater.fact f on f.name = c.fact where "
        "c.stale_since is not null or c.everything_done is null or c.everything_done < (select "
        "max(e.batch_id) from tailwater.everything e where e.fact = f.name and e.generation = "
        "f.generation)) or exists (select from tailwater.fan_out o join tailwater.fact f on f.name "
        "= o.fact and f.generation = o.generation where o.fact = $1) or exists (select from "
        "tailwater.backfill b where b.fact = $1 and b.kind = 'everything' and b.state in "
        "('running', 'paused')) as pending), "
        "p as (select x.*, %s as tailwater_text, a.pending or exists (select from "
        "tailwater.refresh_failure f where f.fact = $1%s) or exists (select from "
        "tailwater.affected_%s l, c where l.batch_id > (select least(c.fresh_done, c.fan_out_done, "
        "c.backfill_done) from c) and (l.lane = 0 and l.batch_id > c.fresh_done or l.lane = 1 and "
        "l.batch_id > c.fan_out_done or l.lane = 2 and l.batch_id > c.backfill_done)%s) as "
        "tailwater_pending from x, a) "
        "select count(*) filter (where not tailwater_pending), count(*) filter (where "
        "tailwater_pending), count(*) filter (where tailwater_low = 1), count(*) filter (where "
        "tailwater_low < tailwater_high), count(*) filter (where tailwater_high = 0), "
        "left(min(tailwater_text) filter (where not tailwater_pending), 190) from p",
        buf_text(&text), buf_text(&failed), target->fact->name, buf_text(&same));
    if (!pg_query_row(step->mirror, buf_text(&sql), 2, params, &row, err))
        return error_wrap(err, "comparing %s", target->into);
    step->drift = pg_int(row, 0, 0);
    step->pending = pg_int(row, 0, 1);
    snprintf(step->sample, sizeof(step->sample), "%s", pg_text(row, 0, 5));
    if (is_kind(step->outcome->kind, "verify"))
        step->outcome->counts = (struct recompute_counts){.inserted = pg_int(row, 0, 2),
                                                          .updated = pg_int(row, 0, 3),
                                                          .deleted = pg_int(row, 0, 4)};
    return true;
}

/* Where the query takes no range, all of the chunk's keys by their names. */
static bool choose_all(struct step *step, int64_t *ret_count, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *done = NULL;

    buf_printf(&sql, "insert into %s select ", step->target->chosen);
    add_key_list(&sql, step->target, "");
    buf_add(&sql, " from ");
    add_chunk_keys(&sql, step);
    if (!pg_query(step->mirror, buf_text(&sql), 0, NULL, &done, err))
        return false;
    *ret_count = pg_affected(done);
    return true;
}

static bool in_one_go(struct step *step, struct error *err)
{
    const struct target *target = step->target;
    const bool by_keys = target->has_keys || step->predicate != NULL;
    const struct recompute_range *range = by_keys ? NULL : &step->range;
    const bool is_compared = is_kind(step->outcome->kind, "verify") ||
                             is_kind(step->outcome->kind, "full");
    struct recompute_counts *counts = &step->outcome->counts;
    struct recompute_found found;
    int64_t nkeys = 0;

    if (by_keys && !choose_all(step, &nkeys, err))
        return false;
    if (is_compared ? !recompute_rows(step->mirror, target, range, nkeys, &found, err) ||
                          !recompute_compare(step->mirror, target, range, &found, err) ||
                          !count_drift(step, err)
                    : !recompute_all(step->mirror, target, range, nkeys, counts, err))
        return false;
    if (is_kind(step->outcome->kind, "verify"))
        return true;
    return (!is_compared || recompute_write(step->mirror, target, counts, err)) &&
           (by_keys || forget_failures(step, err));
}

static bool recompute_chunk(struct step *step, struct error *err)
{
    const bool is_compared = is_kind(step->outcome->kind, "verify") ||
                             is_kind(step->outcome->kind, "full");
    struct error failure;

    if (!is_compared && (step->target->has_keys || step->predicate != NULL))
        return by_name(step, err);
    if (!pg_exec(step->mirror, "savepoint tailwater_chunk", err))
        return false;
    if (in_one_go(step, &failure))
        return true;
    /* Some key cannot be computed: which, is found out by their names. */
    if (pg_is_broken(step->mirror) || !settle_is_of_key(&failure) ||
        is_kind(step->outcome->kind, "verify")) {
        *err = failure;
        return false;
    }
    step->drift = step->pending = -1;
    step->outcome->counts = (struct recompute_counts){0};
    return pg_exec(step->mirror, "rollback to savepoint tailwater_chunk", err) &&
           by_name(step, err);
}

/* For all consumers of the fact: into the ledger, lane backfill.  The clock is taken last. */
static bool write_keys(struct step *step, struct error *err)
{
    const struct target *target = step->target;
    const char *params[] = {step->config->pipeline};
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *done = NULL, *made = NULL;

    buf_add(&sql, "with u as materialized (select ");
    add_key_list(&sql, target, "");
    buf_add(&sql, " from ");
    add_chunk_keys(&sql, step);
    buf_printf(&sql,
               "), n as materialized (select tailwater.next_batch($1) as number from (select "
               "count(*) from u) c where c.count > 0), l as (insert into tailwater.ledger_%s "
               "select n.number, 2::smallint, 0::smallint, u.* from n, u returning 1) "
               "insert into tailwater.batch (pipeline, batch_id, kind, lsn_from, lsn_to, changes, "
               "keys) select $1, n.number, 'backfill', c.cursor, c.cursor, 0, (select count(*) "
               "from l) from n, tailwater.clock c where c.pipeline = $1 returning keys",
               target->fact->name);
    if (!pg_query(step->mirror, "select tailwater.add_partitions($1)", 1, params, &made, err) ||
        !pg_query(step->mirror, buf_text(&sql), 1, params, &done, err))
        return false;
    step->outcome->counts.keys = pg_rows(done) > 0 ? pg_int(done, 0, 0) : 0;
    return true;
}

static bool end_chunk(struct step *step, struct error *err)
{
    const struct recompute_counts *counts = &step->outcome->counts;
    const int64_t values[] = {counts->keys,          counts->inserted, counts->updated,
                              counts->deleted,       step->drift,      step->pending,
                              step->outcome->took_us};
    char texts[7][24];
    const char *params[10] = {step->id, step->nr};
    _cleanup_result_ struct pg_result *done = NULL;

    for (int i = 0; i < 7; i++) {
        snprintf(texts[i], sizeof(texts[i]), "%" PRId64, values[i]);
        params[2 + i] = texts[i];
    }
    params[9] = step->sample[0] != '\0' ? step->sample : NULL;
    return pg_query(step->mirror,
                    "update tailwater.backfill_chunk set state = 'done', ended_at = "
                    "clock_timestamp(), started_at = clock_timestamp() - $9::bigint * interval '1 "
                    "us', keys = $3::bigint, inserted = $4::bigint, updated = $5::bigint, deleted "
                    "= $6::bigint, drift = case when $7::bigint >= 0 then $7::bigint end, pending "
                    "= case when $8::bigint >= 0 then $8::bigint end, sample = $10, sqlstate = "
                    "null, error = null where backfill = $1::bigint and nr = $2::integer",
                    10, params, &done, err);
}

static bool work_on(struct step *step, struct error *err)
{
    const int64_t began_us = clock_tick_us();

    if (is_kind(step->outcome->kind, "keys") ? !write_keys(step, err) : !recompute_chunk(step, err))
        return false;
    step->outcome->took_us = clock_tick_us() - began_us;
    return end_chunk(step, err) &&
           (is_kind(step->outcome->kind, "keys") ||
            onward_write(step->mirror, step->config->pipeline, step->target, err)) &&
           FAULT(backfill_before_commit, err) && pg_exec(step->mirror, "commit", err) &&
           FAULT(backfill_after_commit, err) &&
           end_backfills(step, step->outcome->id, &step->outcome->is_ended, err);
}

/* It comes again after a while, and not for ever. */
static bool note_failure(struct step *step, const struct error *failure, struct error *err)
{
    char attempts[16];
    const char *params[] = {step->id, step->nr, failure->sqlstate, failure->message, attempts};
    _cleanup_result_ struct pg_result *done = NULL;

    snprintf(attempts, sizeof(attempts), "%d", step->config->refresh.max_attempts);
    return pg_query(step->mirror,
                    "update tailwater.backfill_chunk set attempts = attempts + 1, sqlstate = $3, "
                    "error = $4, next_at = clock_timestamp() + least(interval '1 s' * power(4, "
                    "attempts), interval '10 min'), state = case when attempts + 1 >= $5::integer "
                    "then 'failed' else 'waiting' end where backfill = $1::bigint and nr = "
                    "$2::integer",
                    5, params, &done, err) &&
           end_backfills(step, step->outcome->id, &step->outcome->is_ended, err);
}

static bool in_transaction(struct step *step, struct error *err)
{
    _cleanup_result_ struct pg_result *chunk = NULL, *bounds = NULL;
    struct error failure;

    if (!pg_exec(step->mirror, "begin", err) || !take_chunk(step, &chunk, err))
        return false;
    if (chunk == NULL || pg_rows(chunk) == 0) {
        step->outcome->is_waiting = true;
        return pg_exec(step->mirror, "rollback", err);
    }
    step->outcome->is_found = true;
    step->outcome->nr = (int) pg_int(chunk, 0, 0);
    snprintf(step->nr, sizeof(step->nr), "%d", step->outcome->nr);
    if (!read_range(step, chunk, &bounds, err))
        return false;
    if (work_on(step, &failure))
        return true;
    *err = failure;
    if (pg_is_broken(step->mirror) || failure.kind == ERROR_RETRY || failure.kind == ERROR_MIRROR)
        return false;
    if (!pg_exec(step->mirror, "rollback", err) || !note_failure(step, &failure, err))
        return false;
    *err = failure;
    return false;
}

bool backfill_step(struct pg *mirror, const struct config *config, const struct target *target,
                   int64_t id, struct backfill_outcome *ret_outcome, struct error *err)
{
    struct backfill_outcome outcome = {.share = 100};
    struct step step = {.mirror = mirror,
                        .config = config,
                        .target = target,
                        .outcome = &outcome,
                        .drift = -1,
                        .pending = -1};
    struct error ignored;
    bool is_ok = find_backfill(&step, id, err);

    if (is_ok)
        end_build(&step);
    if (is_ok && outcome.id != 0 && !step.is_current)
        is_ok = make_current(&step, err);
    if (is_ok && outcome.id != 0)
        is_ok = in_transaction(&step, err);
    else if (is_ok)
        outcome.is_waiting = id != 0;
    free(step.predicate);
    if (is_ok) {
        end_build(&step);
        *ret_outcome = outcome;
        return true;
    }
    if (!pg_is_broken(mirror))
        (void) pg_exec(mirror, "rollback", &ignored);
    if (outcome.nr > 0)
        return error_wrap(err, "backfill %s of fact %s, chunk %s", step.id, target->fact->name,
                          step.nr);
    return error_wrap(err, "backfill of fact %s", target->fact->name);
}

/* ---- for whoever asks ---- */

bool backfill_look(struct pg *mirror, const char *pipeline, int64_t id,
                   struct backfill_state *ret_state, struct error *err)
{
    char text[24];
    const char *params[] = {pipeline, text};
    _cleanup_result_ struct pg_result *row = NULL;
    struct backfill_state state = {0};

    snprintf(text, sizeof(text), "%" PRId64, id);
    if (!pg_query(mirror,
                  "select b.kind, b.state, count(c), count(c) filter (where c.state = 'done'), "
                  "count(c) filter (where c.state = 'failed'), coalesce(sum(c.keys), 0), "
                  "coalesce(sum(c.inserted), 0), coalesce(sum(c.updated), 0), "
                  "coalesce(sum(c.deleted), 0), coalesce(sum(c.drift), 0), "
                  "coalesce(sum(c.pending), 0), (extract(epoch from coalesce(b.ended_at, "
                  "clock_timestamp()) - min(c.started_at)) * 1000000)::bigint, min(c.sample), "
                  "min(c.error) from tailwater.backfill b join tailwater.fact f on f.name = b.fact "
                  "left join tailwater.backfill_chunk c on c.backfill = b.id where f.pipeline = $1 "
                  "and b.id = $2::bigint group by b.id",
                  2, params, &row, err))
        return error_wrap(err, "looking at backfill %s", text);
    if (pg_rows(row) == 0) {
        error_set(err, ERROR_CONFIG, "there is no backfill %s of pipeline %s", text, pipeline);
        return error_hint(err, "tailwater ledger status shows those that are under way");
    }
    snprintf(state.kind, sizeof(state.kind), "%s", pg_text(row, 0, 0));
    snprintf(state.state, sizeof(state.state), "%s", pg_text(row, 0, 1));
    state.chunks = pg_int(row, 0, 2);
    state.done = pg_int(row, 0, 3);
    state.failed = pg_int(row, 0, 4);
    state.keys = pg_int(row, 0, 5);
    state.inserted = pg_int(row, 0, 6);
    state.updated = pg_int(row, 0, 7);
    state.deleted = pg_int(row, 0, 8);
    state.drift = pg_int(row, 0, 9);
    state.pending = pg_int(row, 0, 10);
    state.elapsed_us = pg_int(row, 0, 11);
    state.left_us = state.done > 0
                        ? state.elapsed_us / state.done * (state.chunks - state.done - state.failed)
                        : -1;
    snprintf(state.sample, sizeof(state.sample), "%s", pg_text(row, 0, 12));
    snprintf(state.error, sizeof(state.error), "%s", pg_text(row, 0, 13));
    *ret_state = state;
    return true;
}

bool backfill_set(struct pg *mirror, const char *pipeline, int64_t id, const char *state,
                  struct error *err)
{
    char text[24];
    const char *params[] = {pipeline, text, state};
    _cleanup_result_ struct pg_result *row = NULL;

    snprintf(text, sizeof(text), "%" PRId64, id);
    if (!pg_query(mirror,
                  "update tailwater.backfill b set state = $3, ended_at = case when $3 = "
                  "'cancelled' then clock_timestamp() end from tailwater.fact f where f.name = "
                  "b.fact and f.pipeline = $1 and b.id = $2::bigint and b.state in ('running', "
                  "'paused') returning b.id",
                  3, params, &row, err))
        return error_wrap(err, "backfill %s", text);
    if (pg_rows(row) > 0)
        return true;
    error_set(err, ERROR_CONFIG, "no backfill %s of pipeline %s is under way", text, pipeline);
    return error_hint(err, "tailwater ledger status shows those that are");
}
