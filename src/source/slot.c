/*
 * Everything about one replication slot but reading from it.
 *
 * Statements here are built with literals instead of parameters, so that they also run on
 * replication connections, which know the simple protocol only.  Columns that came with later
 * servers are read through to_jsonb(): absent ones are NULL, without a query per version.
 *
 * A refused replication command says little (55000 is four different things): slot_explain() looks
 * at the slot and the server's settings before it decides what the error is and what helps.
 */
#include "source/slot.h"

#include "base/buf.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define PROBE_TIMEOUT_MS 3000

static void copy_text(char *to, size_t size, const struct pg_result *result, int column)
{
    snprintf(to, size, "%s", pg_text(result, 0, column));
}

bool slot_identify(struct pg *replication, struct slot_identity *ret_identity, struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;
    struct slot_identity identity = {0};

    if (!pg_query_row(replication, "IDENTIFY_SYSTEM", 0, NULL, &result, err))
        return false;
    copy_text(identity.system_identifier, sizeof(identity.system_identifier), result, 0);
    identity.timeline = (int) pg_int(result, 0, 1);
    identity.flushed = pg_lsn(result, 0, 2);
    copy_text(identity.database, sizeof(identity.database), result, 3);
    *ret_identity = identity;
    return true;
}

bool slot_look(struct pg *pg, const char *slot, struct slot_status *ret_status, struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;
    _cleanup_buf_ struct buf sql = {0};
    struct slot_status status = {0};

    buf_add(&sql, "SELECT s.slot_type = 'logical', s.temporary, (j.j ->> 'failover')::bool,"
                  " s.plugin, s.database, s.active_pid, a.application_name, s.restart_lsn,"
                  " s.confirmed_flush_lsn, j.j ->> 'wal_status',"
                  " coalesce(j.j ->> 'invalidation_reason',"
                  "  CASE WHEN (j.j ->> 'conflicting')::bool THEN 'conflict with recovery' END),"
                  " pg_wal_lsn_diff(c.lsn, s.restart_lsn)::int8, j.j ->> 'safe_wal_size', c.lsn,"
                  " (j.j ->> 'synced')::bool, r.is_standby, s.slot_name IS NOT NULL"
                  " FROM (SELECT pg_is_in_recovery()) AS r(is_standby)"
                  " CROSS JOIN LATERAL (SELECT CASE WHEN r.is_standby THEN"
                  "  pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END) AS c(lsn)"
                  " LEFT JOIN pg_replication_slots s ON s.slot_name = ");
    pg_add_literal(&sql, slot);
    buf_add(&sql, " CROSS JOIN LATERAL to_jsonb(s) AS j(j)"
                  " LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid");
    if (!pg_query_row(pg, buf_text(&sql), 0, NULL, &result, err))
        return error_wrap(err, "looking at slot %s", slot);
    status.is_standby = pg_bool(result, 0, 15);
    status.exists = pg_bool(result, 0, 16);
    if (!status.exists) {
        *ret_status = status;
        return true;
    }
    status.is_synced = pg_bool(result, 0, 14);
    status.is_logical = pg_bool(result, 0, 0);
    status.is_temporary = pg_bool(result, 0, 1);
    status.is_failover = pg_bool(result, 0, 2);
    copy_text(status.plugin, sizeof(status.plugin), result, 3);
    copy_text(status.database, sizeof(status.database), result, 4);
    status.active_pid = (int) pg_int(result, 0, 5);
    copy_text(status.active_application, sizeof(status.active_application), result, 6);
    status.restart_lsn = pg_lsn(result, 0, 7);
    status.confirmed_flush = pg_lsn(result, 0, 8);
    copy_text(status.wal_status, sizeof(status.wal_status), result, 9);
    copy_text(status.lost_reason, sizeof(status.lost_reason), result, 10);
    status.retained_bytes = pg_int(result, 0, 11);
    status.safe_wal_bytes = pg_is_null(result, 0, 12) ? -1 : pg_int(result, 0, 12);
    status.current = pg_lsn(result, 0, 13);
    status.is_lost = strcmp(status.wal_status, "lost") == 0 || status.lost_reason[0] != '\0';
    *ret_status = status;
    return true;
}

/* ---- verdicts ---- */

enum wal_level slot_wal_level(const struct slot_status *status, int64_t warn_bytes,
                              int64_t critical_bytes)
{
    const int64_t kept = status->retained_bytes, left = status->safe_wal_bytes;
    const bool is_limited = left >= 0;

    if (kept >= critical_bytes || (is_limited && kept / 4 >= left))
        return WAL_CRITICAL;
    return kept >= warn_bytes || (is_limited && kept >= left) ? WAL_WARNING : WAL_FINE;
}

/* What helps wherever a slot cannot be used any more. */
static bool hint_new_slot(struct error *err)
{
    return error_hint(
        err, "changes are missing, so going on is not possible: tailwater resync --all --new-slot "
             "makes the slot anew, and finds and repairs what was missed; "
             "source.on_lost: resync does so by itself");
}

static bool busy(const struct slot_status *status, const char *slot, struct error *err)
{
    error_set(err, ERROR_BUSY, "source: slot %s is being read by PID %d%s%s%s", slot,
              status->active_pid, status->active_application[0] ? " (application " : "",
              status->active_application, status->active_application[0] ? ")" : "");
    return error_hint(err,
                      "another instance runs, or a lost connection has not been noticed yet: that "
                      "takes up to wal_sender_timeout on the source (SELECT * FROM "
                      "pg_stat_replication there says more)");
}

static bool is_on_standby(const struct slot_status *status, const char *slot, struct error *err)
{
    error_set(err, ERROR_RETRY, "source: the server is a standby %s slot %s",
              status->exists ? "that keeps a copy of" : "without", slot);
    return error_hint(err, "promote it, or have source.conninfo find the primary: several hosts, "
                           "and target_session_attrs=read-write");
}

bool slot_check(const struct slot_status *status, const char *slot, const char *plugin,
                const char *database, struct error *err)
{
    if (status->is_standby && (!status->exists || status->is_synced))
        return is_on_standby(status, slot, err);
    if (!status->exists) {
        error_set(err, ERROR_SLOT, "source: slot %s does not exist", slot);
        return hint_new_slot(err);
    }
    if (status->is_lost) {
        error_set(err, ERROR_SLOT, "source: slot %s is lost%s%s", slot,
                  status->lost_reason[0] ? ": " : " (WAL it needed was removed)",
                  status->lost_reason);
        return hint_new_slot(err);
    }
    if (!status->is_logical || strcmp(status->plugin, plugin) != 0 ||
        strcmp(status->database, database) != 0) {
        error_set(err, ERROR_SLOT,
                  "source: slot %s is not ours: it is a %s slot, plugin %s, database %s; wanted is "
                  "plugin %s, database %s",
                  slot, status->is_logical ? "logical" : "physical",
                  status->plugin[0] ? status->plugin : "none",
                  status->database[0] ? status->database : "none", plugin, database);
        return error_hint(err,
                          "name another slot in source.slot (or another pipeline), or drop that "
                          "one on the source");
    }
    return status->active_pid == 0 || busy(status, slot, err);
}

/* Turn err into another one about the same failure; the server's words stay in it. */
static bool restate(struct error *err, enum error_kind kind, const char *what)
{
    err->kind = kind;
    err->hint[0] = '\0';
    return error_wrap(err, "%s", what);
}

static bool plugin_not_allowed(const char *plugin, struct error *err)
{
    restate(err, ERROR_FINDINGS, "the source does not let the output plugin be used");
    return error_hint(
        err,
        "install it there (package postgresql-NN-%s) if it is not; then, as superuser: "
        "ALTER SYSTEM SET output_plugin_libraries = pgoutput, test_decoding, %s; (a list, not one "
        "string in quotes) SELECT pg_reload_conf();  — or set source.plugin: pgoutput",
        plugin, plugin);
}

static bool plugin_not_installed(const char *plugin, struct error *err)
{
    restate(err, ERROR_FINDINGS, "the output plugin is not installed on the source");
    return error_hint(err,
                      "install it there (package postgresql-NN-%s), or set source.plugin: "
                      "pgoutput, which every server has",
                      plugin);
}

/* Another plugin's slot refuses our options; 55000 is what several states of slot and server are
 * refused with. */
static bool wrong_state(struct pg *replication, const char *slot, const char *plugin,
                        struct error *err)
{
    _cleanup_result_ struct pg_result *settings = NULL;
    struct error looking = {0};
    struct slot_status status;

    if (!pg_query_row(
            replication,
            "SELECT current_setting('wal_level'), pg_is_in_recovery(), current_database()", 0, NULL,
            &settings, &looking))
        return false;
    if (strcmp(pg_text(settings, 0, 0), "logical") != 0) {
        restate(err, ERROR_FINDINGS, "the source does not write WAL for logical decoding");
        return error_hint(err,
                          "on the source, as superuser: ALTER SYSTEM SET wal_level = 'logical'; "
                          "and restart it (now it is %s)",
                          pg_text(settings, 0, 0));
    }
    if (!slot_look(replication, slot, &status, &looking) || !status.exists)
        return false;
    /* The state found is the better message; where it looks fine, the server's words stay. */
    if (!slot_check(&status, slot, plugin, pg_text(settings, 0, 2), &looking)) {
        char sqlstate[sizeof(err->sqlstate)];

        memcpy(sqlstate, err->sqlstate, sizeof(sqlstate));
        *err = looking;
        memcpy(err->sqlstate, sqlstate, sizeof(sqlstate));
    }
    return false;
}

/* The holder may be gone again by the time one looks; the server's message names the PID as well.
 */
static bool in_use(struct pg *replication, const char *slot, struct error *err)
{
    struct error looking = {0};
    struct slot_status status;

    err->kind = ERROR_BUSY;
    if (slot_look(replication, slot, &status, &looking) && status.exists && status.active_pid != 0)
        busy(&status, slot, err);
    else
        error_hint(err,
                   "another instance runs, or a lost connection has not been noticed yet: that "
                   "takes up to wal_sender_timeout on the source");
    snprintf(err->sqlstate, sizeof(err->sqlstate), "55006");
    return false;
}

bool slot_is_option_error(const struct error *err)
{
    static const char *const states[] = {"22023", "42601", "42602", "0A000", "XX000"};

    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
        if (strcmp(err->sqlstate, states[i]) == 0)
            return true;
    return false;
}

bool slot_explain(struct pg *replication, const char *slot, const char *plugin, struct error *err)
{
    const char *state = err->sqlstate;

    if (strcmp(state, "55006") == 0)
        return in_use(replication, slot, err);
    if (strcmp(state, "55000") == 0 || slot_is_option_error(err))
        return wrong_state(replication, slot, plugin, err);
    if (strcmp(state, "42501") == 0)
        return plugin_not_allowed(plugin, err);
    if (strcmp(state, "58P01") == 0) {
        struct slot_status status;
        struct error looking = {0};

        /* A missing file is the plugin's library, or WAL that a slot still needed. */
        if (slot_look(replication, slot, &status, &looking) && status.exists &&
            strstr(err->message, "WAL segment") != NULL) {
            restate(err, ERROR_SLOT, "the slot is lost");
            return hint_new_slot(err);
        }
        return plugin_not_installed(plugin, err);
    }
    if (strcmp(state, "42710") == 0) {
        restate(err, ERROR_SLOT, "the slot is there already and not this pipeline's");
        return error_hint(err,
                          "drop it on the source (SELECT pg_drop_replication_slot('%s')) if nobody "
                          "needs it, or name another in source.slot",
                          slot);
    }
    if (strcmp(state, "42704") == 0) {
        struct slot_status status;
        struct error looking = {0};

        if (slot_look(replication, slot, &status, &looking) && !status.exists) {
            restate(err, ERROR_SLOT, "the slot is gone");
            hint_new_slot(err);
        }
        return false;
    }
    if (strcmp(state, "53400") == 0) {
        restate(err, ERROR_FINDINGS, "the source has no free slot");
        return error_hint(err,
                          "drop slots that nobody reads (SELECT slot_name, active, wal_status FROM "
                          "pg_replication_slots), or raise max_replication_slots and restart it");
    }
    return false;
}

/* ---- making and dropping ---- */

/*
 * Who holds the transaction that slot creation waits for: the oldest one with an xid.  pg_locks
 * shows it to every role, pg_stat_activity does not.  Prepared transactions have no PID there.
 */
static void name_oldest_transaction(struct pg *replication, struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;
    struct error looking = {0};

    if (!pg_query(replication,
                  "SELECT l.pid, a.usename, a.application_name, a.state,"
                  " extract(epoch FROM now() - a.xact_start)::int8,"
                  " (SELECT p.gid FROM pg_prepared_xacts p WHERE p.transaction = l.transactionid)"
                  " FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid"
                  " WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted"
                  "  AND l.pid IS DISTINCT FROM pg_backend_pid()"
                  " ORDER BY age(l.transactionid) DESC LIMIT 1",
                  0, NULL, &result, &looking) ||
        pg_rows(result) == 0) {
        error_hint(err,
                   "long running transactions on the source: SELECT pid, xact_start, state FROM "
                   "pg_stat_activity ORDER BY xact_start");
        return;
    }
    if (pg_is_null(result, 0, 0)) {
        error_wrap(err, "waiting for the prepared transaction '%s'", pg_text(result, 0, 5));
        error_hint(
            err, "COMMIT PREPARED or ROLLBACK PREPARED it on the source, then run the same again");
        return;
    }
    error_wrap(err, "waiting for a transaction of PID %s (user %s, application %s, %s, for %s s)",
               pg_text(result, 0, 0), pg_text(result, 0, 1), pg_text(result, 0, 2),
               pg_is_null(result, 0, 3) ? "state not visible" : pg_text(result, 0, 3),
               pg_is_null(result, 0, 4) ? "?" : pg_text(result, 0, 4));
    error_hint(err,
               "end that transaction on the source (SELECT pg_terminate_backend(%s)) or wait for "
               "it, then run the same again",
               pg_text(result, 0, 0));
}

static void build_create(struct pg *replication, const struct slot_create_options *options,
                         struct buf *sql)
{
    buf_add(sql, "CREATE_REPLICATION_SLOT ");
    pg_add_ident(sql, options->slot);
    buf_printf(sql, "%s LOGICAL ", options->is_temporary ? " TEMPORARY" : "");
    pg_add_ident(sql, options->plugin);
    if (pg_has(replication, FEATURE_SLOT_OPTIONS))
        buf_printf(sql, " (SNAPSHOT '%s'%s)", options->exports_snapshot ? "export" : "nothing",
                   options->is_failover ? ", FAILOVER" : "");
    else
        buf_add(sql, options->exports_snapshot ? " EXPORT_SNAPSHOT" : " NOEXPORT_SNAPSHOT");
}

bool slot_temporary_name(const char *purpose, const char *pipeline,
                         char ret_name[static SLOT_NAME_SIZE], struct error *err)
{
    unsigned random;

    if (getrandom(&random, sizeof(random), 0) != (ssize_t) sizeof(random))
        return error_set(err, ERROR_FAILED, "getrandom: %s", strerror(errno));
    snprintf(ret_name, SLOT_NAME_SIZE, "tailwater_%s_%.24s_%d_%08x", purpose, pipeline,
             (int) getpid(), random);
    return true;
}

bool slot_create(struct pg *replication, const struct slot_create_options *options,
                 struct slot_created *ret_created, struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;
    _cleanup_buf_ struct buf sql = {0};
    struct slot_created created = {0};

    build_create(replication, options, &sql);
    if (!pg_query_wait(replication, buf_text(&sql), options->timeout_ms, options->wake_fd, &result,
                       err)) {
        if (strcmp(err->sqlstate, "57014") == 0)
            name_oldest_transaction(replication, err);
        else if (options->is_temporary && strcmp(err->sqlstate, "42710") == 0)
            err->kind = ERROR_RETRY;
        else
            slot_explain(replication, options->slot, options->plugin, err);
        return error_wrap(err, "creating slot %s", options->slot);
    }
    if (pg_rows(result) != 1)
        return error_set(err, ERROR_PROTOCOL, "creating slot %s: %d rows came back", options->slot,
                         pg_rows(result));
    created.consistent_point = pg_lsn(result, 0, 1);
    copy_text(created.snapshot, sizeof(created.snapshot), result, 2);
    *ret_created = created;
    return true;
}

bool slot_probe(struct pg *replication, const char *plugin, struct error *err)
{
    char name[SLOT_NAME_SIZE];
    struct slot_create_options options = {.slot = name,
                                          .plugin = plugin,
                                          .is_temporary = true,
                                          .timeout_ms = PROBE_TIMEOUT_MS,
                                          .wake_fd = -1};
    struct slot_created created;

    /* Of its own even where several hosts probe one source. */
    snprintf(name, sizeof(name), "tailwater_probe_%d_%lld", (int) getpid(),
             (long long) (clock_now_us() % 1000000000));
    if (slot_create(replication, &options, &created, err))
        return slot_drop(replication, name, err);
    return strcmp(err->sqlstate, "57014") == 0;
}

bool slot_set_failover(struct pg *replication, const char *slot, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};

    buf_add(&sql, "ALTER_REPLICATION_SLOT ");
    pg_add_ident(&sql, slot);
    buf_add(&sql, " (FAILOVER)");
    if (pg_exec(replication, buf_text(&sql), err))
        return true;
    if (strcmp(err->sqlstate, "55006") == 0)
        in_use(replication, slot, err);
    return error_wrap(err, "making slot %s a failover slot", slot);
}

bool slot_drop(struct pg *pg, const char *slot, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};

    buf_add(&sql, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                  " WHERE slot_name = ");
    pg_add_literal(&sql, slot);
    if (pg_exec(pg, buf_text(&sql), err))
        return true;
    if (strcmp(err->sqlstate, "55006") == 0)
        in_use(pg, slot, err);
    return error_wrap(err, "dropping slot %s", slot);
}
