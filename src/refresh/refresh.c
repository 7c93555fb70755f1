/*
 * A refresh is one READ COMMITTED transaction:
 *
 *     begin
 *     1  the target's lock, alone                       pg_advisory_xact_lock
 *     2  claim: the consumer's row, and a window        tailwater.claim_pending
 *     3  the window's keys into a temporary table       tailwater.keys_<fact>
 *     4  the query for these keys into another          one statement, one snapshot S
 *     5  how that differs, into a third; written        delete, update, insert
 *     6  ack                                            tailwater.ack
 *     7  keys of facts over the derived table           onward.h; takes the clock
 *     commit
 *
 * Why what the derived table has for key K is in the end what the query gives for K:
 *
 * - S is taken after the claim.  Numbers of batches are in the order of commits (0002_ledger.sql), so
 *   S sees every batch up to the window's last.  It may see later ones: these have higher numbers,
 *   their keys come in a later window, and computing a key again is harmless.  Under an older
 *   snapshot (REPEATABLE READ from the begin on) the window could be newer than what is read: hence
 *   READ COMMITTED, which the functions insist on, and hence one statement for step 4.
 * - Two recomputations of K never overlap.  A window's holds the target's lock alone; a backfill's
 *   chunk shares it with other chunks of the same backfill, whose keys are others; another backfill
 *   begins only when none is in flight (backfill.c).  Each takes its snapshot after the lock and
 *   commits before it gives the lock back: so their snapshots are in the order of their commits,
 *   and what stands for K is from the newest.
 * - Whatever changes the truth about K after that snapshot has put K into the ledger, in its own
 *   transaction.  That entry's window comes later.  Nothing is acknowledged but with the rows that
 *   were computed for it, or with a note of the failure (settle.h), or with the backfill planned
 *   that will do it ("everything", below): these are one transaction.
 *
 * A crash at any point leaves what was there: transaction, locks and temporary rows go with the
 * connection, and the same window comes again.  When the process dies while the server computes, the
 * server notices by itself (client_connection_check_interval, tcp_keepalives).  A process that stops
 * in the middle and comes back later finds its transaction gone (idle_in_transaction_session_timeout).
 *
 * "Everything" becomes a backfill over all keys of the query and the derived table, planned in the
 * transaction that acknowledges it.  So a rebuild of hours is many short transactions, fresh keys
 * overtake it, and a crash costs a chunk.  Keys that appear while it runs come through the ledger:
 * the window that was acknowledged ends before it was planned.
 *
 * Waiting.  The order of locks is: a backfill's slot, the target, the consumer's row or the chunk's,
 * the clock.  The applier takes none but the clock and mirror rows, and a refresh takes neither: it
 * reads through views, under ACCESS SHARE, and the applier removes rows (a truncate too) by DELETE,
 * so neither ever waits for the other, however long a query takes.  What wants ACCESS EXCLUSIVE on a
 * mirror table, DDL, has a lock_timeout and comes again.  A refresh waits for the target's lock as
 * long as the chunks in flight take, for any other lock at most LOCK_TIMEOUT.
 *
 * Not here: when, and what next; that is the caller's (src/engine/refresher.c, the verbs).
 */
#include "refresh/refresh.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/memory.h"
#include "mirror/control.h"
#include "refresh/onward.h"
#include "refresh/settle.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_KEYS     100000 /* of a window, where the declaration says nothing */
#define RETRY_KEYS   "1000"
#define LOCK_TIMEOUT "30s"

struct refresh {
    const struct refresh_options *options;
    struct pg *mirror;
    struct arena arena; /* of the targets */
    int ntargets;
    struct target **targets;
};

/*
 * The server's defaults are for many small queries on slow disks; here are few, and large ones:
 * keys that do not fit into 4 MB are sorted and hashed by way of files.  What somebody has set for the
 * server, the database or the role stands.
 *
 * No commit waits for the disk: keys, rows and acknowledgement are one transaction, and WAL is
 * written in order, so after a crash of the server either all of it is there or the window comes
 * again.  Whoever saw it and depends on it writes something itself, and waits for both.
 */
static const char session_sql[] =
    "set search_path = " TARGET_SEARCH_PATH "; set idle_in_transaction_session_timeout = '60s'; "
    "select set_config(s.name, v.value, false) from pg_settings s join (values "
    "('client_connection_check_interval', '5s'), ('work_mem', '64MB'), ('temp_buffers', '64MB'), "
    "('random_page_cost', '1.5')) v(name, value) on v.name = s.name where s.source = 'default'";

bool refresh_new(const struct refresh_options *options, struct refresh **ret_refresh,
                 struct error *err)
{
    struct refresh *refresh;
    struct pg *mirror;

    if (!pg_connect(&(struct pg_options){.side = PG_MIRROR,
                                         .conninfo = options->config->mirror.conninfo,
                                         .application = options->application,
                                         .settings = "-c synchronous_commit=off"},
                    &mirror, err))
        return false;
    if (!control_require(mirror, err) || !pg_exec(mirror, session_sql, err)) {
        pg_free(mirror);
        return false;
    }
    pg_limit(mirror, -1, options->wake_fd);
    refresh = memory_new(struct refresh);
    refresh->options = options;
    refresh->mirror = mirror;
    *ret_refresh = refresh;
    return true;
}

void refresh_free(struct refresh *refresh)
{
    if (refresh == NULL)
        return;
    pg_free(refresh->mirror);
    arena_release(&refresh->arena);
    free(refresh->targets);
    free(refresh);
}

struct pg *refresh_connection(struct refresh *refresh)
{
    return refresh->mirror;
}

bool refresh_flush(struct refresh *refresh, struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL;

    /* A commit that waits has all earlier ones on the disk.  It has to write something, and should
     * wait for nobody's row. */
    return pg_exec(refresh->mirror, "set synchronous_commit = on", err) &&
           pg_query(refresh->mirror,
                    "select pg_catalog.pg_logical_emit_message(true, 'tailwater_flush', '')", 0,
                    NULL, &done, err);
}

bool refresh_open(struct refresh *refresh, const struct config_fact *fact, struct notes *notes,
                  struct target **ret_target, struct error *err)
{
    struct target *target;

    for (int i = 0; i < refresh->ntargets; i++)
        if (refresh->targets[i]->fact == fact) {
            *ret_target = refresh->targets[i];
            return true;
        }
    if (!target_open(refresh->mirror, refresh->options->config, fact, &refresh->arena, notes,
                     &target, err))
        return false;
    refresh->targets = memory_resize(refresh->targets,
                                     sizeof(struct target *) * (size_t) (refresh->ntargets + 1));
    refresh->targets[refresh->ntargets++] = target;
    *ret_target = target;
    return true;
}

/* ---- a transaction ---- */

static bool begin(struct refresh *refresh, const struct target *target, struct error *err)
{
    _cleanup_result_ struct pg_result *locked = NULL;

    return pg_exec(refresh->mirror, "begin", err) &&
           pg_query(refresh->mirror,
                    "select pg_advisory_xact_lock(" TARGET_LOCK ", $1::oid::integer)", 1,
                    &target->oid, &locked, err) &&
           pg_exec(refresh->mirror, "set local lock_timeout = '" LOCK_TIMEOUT "'", err);
}

static bool abandon(struct refresh *refresh, const struct target *target, struct error *err)
{
    struct error ignored;

    if (!pg_is_broken(refresh->mirror))
        (void) pg_exec(refresh->mirror, "rollback", &ignored);
    return error_wrap(err, "refreshing %s for fact %s", target->into, target->fact->name);
}

/* Without any lock: an idle refresher waits for nobody. */
static bool is_idle(struct refresh *refresh, const struct target *target, bool *ret_is_idle,
                    struct error *err)
{
    const char *params[] = {TARGET_CONSUMER, target->fact->name};
    _cleanup_result_ struct pg_result *row = NULL;

    if (!pg_query_row(refresh->mirror,
                      "select tailwater.is_idle($1, f) from tailwater.fact f where f.name = $2", 2,
                      params, &row, err))
        return error_wrap(err, "fact %s", target->fact->name);
    *ret_is_idle = pg_bool(row, 0, 0);
    return true;
}

struct window {
    char claim[40];
    bool is_open, is_everything;
};

static bool claim(struct refresh *refresh, const struct target *target, struct window *window,
                  struct refresh_outcome *outcome, struct error *err)
{
    const int64_t wanted = target->fact->refresh.max_keys;
    char max_keys[24];
    const char *params[] = {TARGET_CONSUMER, target->fact->name, max_keys};
    _cleanup_result_ struct pg_result *row = NULL;

    snprintf(max_keys, sizeof(max_keys), "%" PRId64, wanted > 0 ? wanted : MAX_KEYS);
    if (!pg_query(refresh->mirror,
                  "select claim_id, everything, lane, from_batch, to_batch from "
                  "tailwater.claim_pending($1, $2, $3::bigint)",
                  3, params, &row, err))
        return false;
    window->is_open = pg_rows(row) > 0;
    if (!window->is_open)
        return true;
    snprintf(window->claim, sizeof(window->claim), "%s", pg_text(row, 0, 0));
    window->is_everything = pg_bool(row, 0, 1);
    outcome->lane = (int) pg_int(row, 0, 2);
    outcome->from_batch = pg_int(row, 0, 3);
    outcome->to_batch = pg_int(row, 0, 4);
    return FAULT(refresh_after_claim, err);
}

static bool count(struct refresh *refresh, const struct target *target,
                  const struct refresh_outcome *outcome, struct error *err)
{
    const struct recompute_counts *counts = &outcome->counts;
    const int64_t values[] = {counts->keys, counts->inserted, counts->updated, counts->deleted};
    char texts[4][24];
    const char *params[5] = {target->fact->name};
    _cleanup_result_ struct pg_result *done = NULL;

    for (int i = 0; i < 4; i++) {
        snprintf(texts[i], sizeof(texts[i]), "%" PRId64, values[i]);
        params[i + 1] = texts[i];
    }
    return pg_query(refresh->mirror,
                    "update tailwater.refresh set refreshed_at = clock_timestamp(), windows = "
                    "windows + 1, keys = keys + $2::bigint, rows_inserted = rows_inserted + "
                    "$3::bigint, rows_updated = rows_updated + $4::bigint, rows_deleted = "
                    "rows_deleted + $5::bigint, failing_since = null, failures = 0, error = null, "
                    "sqlstate = null where fact = $1",
                    5, params, &done, err);
}

static bool plan_everything(struct refresh *refresh, const struct target *target,
                            struct refresh_outcome *outcome, struct error *err)
{
    const int workers = refresh->options->config->refresh.workers;
    const struct backfill_request request = {.kind = "everything",
                                             .reason = "everything was owed",
                                             .parallel = workers > 0 ? workers : 1,
                                             .share = 100};
    const char *params[] = {target->fact->name, NULL};
    char id[24];
    _cleanup_result_ struct pg_result *done = NULL;

    outcome->step = REFRESH_EVERYTHING;
    if (!backfill_plan(refresh->mirror, target, &request, &outcome->backfill, err))
        return false;
    snprintf(id, sizeof(id), "%" PRId64, outcome->backfill);
    params[1] = id;
    return pg_query(refresh->mirror,
                    "update tailwater.refresh set current_backfill = $2::bigint where fact = $1", 2,
                    params, &done, err);
}

static bool recompute_window(struct refresh *refresh, const struct target *target,
                             struct refresh_outcome *outcome, struct error *err)
{
    _cleanup_buf_ struct buf keys = {0};
    struct settle_options options = {
        .param = TARGET_CONSUMER, .max_attempts = refresh->options->config->refresh.max_attempts};

    buf_printf(&keys, "tailwater.keys_%s($1)", target->fact->name);
    options.keys = buf_text(&keys);
    outcome->step = REFRESH_KEYS;
    return settle_keys(refresh->mirror, target, &options, &outcome->counts, &outcome->failed, err);
}

static bool acknowledge(struct refresh *refresh, const struct target *target,
                        const struct window *window, struct error *err)
{
    const char *params[] = {TARGET_CONSUMER, target->fact->name, window->claim};
    _cleanup_result_ struct pg_result *done = NULL;

    return pg_query(refresh->mirror, "select tailwater.ack($1, $2, $3::uuid)", 3, params, &done,
                    err);
}

static bool do_window(struct refresh *refresh, const struct target *target,
                      struct refresh_outcome *outcome, struct error *err)
{
    struct window window = {0};

    if (!begin(refresh, target, err) || !claim(refresh, target, &window, outcome, err))
        return false;
    if (!window.is_open)
        return pg_exec(refresh->mirror, "commit", err);
    if (window.is_everything ? !plan_everything(refresh, target, outcome, err)
                             : !recompute_window(refresh, target, outcome, err))
        return false;
    return count(refresh, target, outcome, err) && acknowledge(refresh, target, &window, err) &&
           onward_write(refresh->mirror, refresh->options->config->pipeline, target, err) &&
           FAULT(refresh_before_commit, err) && pg_exec(refresh->mirror, "commit", err) &&
           FAULT(refresh_after_commit, err);
}

bool refresh_window(struct refresh *refresh, struct target *target,
                    struct refresh_outcome *ret_outcome, struct error *err)
{
    struct refresh_outcome outcome = {.step = REFRESH_NOTHING};
    const int64_t began_us = clock_tick_us();
    bool idle = true;

    if (!is_idle(refresh, target, &idle, err))
        return false;
    if (!idle && !do_window(refresh, target, &outcome, err))
        return abandon(refresh, target, err);
    outcome.took_us = clock_tick_us() - began_us;
    *ret_outcome = outcome;
    return true;
}

/* ---- retries ---- */

static bool has_due(struct refresh *refresh, const struct target *target, bool *ret_has,
                    struct error *err)
{
    const char *params[] = {target->fact->name};
    _cleanup_result_ struct pg_result *row = NULL;

    if (!pg_query_row(refresh->mirror,
                      "select exists (select from tailwater.refresh_failure where fact = $1 and "
                      "next_at <= clock_timestamp())",
                      1, params, &row, err))
        return false;
    *ret_has = pg_bool(row, 0, 0);
    return true;
}

static bool retry_due(struct refresh *refresh, const struct target *target,
                      struct refresh_outcome *outcome, struct error *err)
{
    _cleanup_buf_ struct buf due = {0};
    struct settle_options options = {
        .param = target->fact->name,
        .is_retry = true,
        .max_attempts = refresh->options->config->refresh.max_attempts};

    buf_add(&due, "(select ");
    for (int i = 0; i < target->nkeys; i++)
        buf_printf(&due, "%sf.key[%d]::%s", i > 0 ? ", " : "", i + 1, target->keys[i].type);
    buf_add(&due, " from tailwater.refresh_failure f where f.fact = $1 and f.next_at <= now() "
                  "order by f.next_at, f.key limit " RETRY_KEYS ")");
    options.keys = buf_text(&due);
    outcome->step = REFRESH_RETRY;
    return begin(refresh, target, err) &&
           settle_keys(refresh->mirror, target, &options, &outcome->counts, &outcome->failed,
                       err) &&
           count(refresh, target, outcome, err) &&
           onward_write(refresh->mirror, refresh->options->config->pipeline, target, err) &&
           pg_exec(refresh->mirror, "commit", err);
}

bool refresh_retry(struct refresh *refresh, struct target *target,
                   struct refresh_outcome *ret_outcome, struct error *err)
{
    struct refresh_outcome outcome = {.step = REFRESH_NOTHING};
    const int64_t began_us = clock_tick_us();
    bool has = false;

    if (!has_due(refresh, target, &has, err) || (has && !retry_due(refresh, target, &outcome, err)))
        return abandon(refresh, target, err);
    outcome.took_us = clock_tick_us() - began_us;
    *ret_outcome = outcome;
    return true;
}

/* ---- backfills ---- */

bool refresh_chunk(struct refresh *refresh, struct target *target, int64_t backfill,
                   struct backfill_outcome *ret_outcome, struct error *err)
{
    return backfill_step(refresh->mirror, refresh->options->config, target, backfill, ret_outcome,
                         err);
}

bool refresh_plan(struct refresh *refresh, struct target *target,
                  const struct backfill_request *request, int64_t *ret_id, struct error *err)
{
    if (pg_exec(refresh->mirror, "begin", err) &&
        backfill_plan(refresh->mirror, target, request, ret_id, err) &&
        pg_exec(refresh->mirror, "commit", err))
        return true;
    return abandon(refresh, target, err);
}

bool refresh_say_failure(struct refresh *refresh, const char *fact, const struct error *failure,
                         struct error *err)
{
    const char *params[] = {fact, failure ? failure->sqlstate : NULL,
                            failure ? failure->message : NULL};
    _cleanup_result_ struct pg_result *done = NULL;

    return pg_query(refresh->mirror,
                    "update tailwater.refresh set failing_since = case when $3::text is not null "
                    "then coalesce(failing_since, clock_timestamp()) end, failures = case when "
                    "$3::text is not null then failures + 1 else 0 end, sqlstate = $2, error = "
                    "$3::text where fact = $1",
                    3, params, &done, err);
}
