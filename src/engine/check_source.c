/*
 * The source as a server: version, role, settings, the replication connection, the output plugin,
 * the slot.
 *
 * Whether a plugin may be used is found out by making a temporary slot with it: the setting that
 * says so (output_plugin_libraries, P46) is hidden from ordinary roles, and older servers lack it.
 * The library is loaded before the waiting for running transactions begins, so a time limit that
 * strikes is an answer too: it may be used.
 */
#include "engine/check_internal.h"
#include "engine/continuity.h"

#include <unistd.h>

#define PROBE_SQL_MS   "3000" /* for a new pipeline */
#define PROBE_AGAIN_MS "300"  /* where our slot shows that the plugin works */

static bool is_wal2json(const struct check *check)
{
    return strcmp(check->config->source.plugin, "wal2json") == 0;
}

/* ---- settings ---- */

static const char facts_sql[] =
    "SELECT current_setting('server_version'), pg_is_in_recovery(), r.rolname,"
    "  r.rolsuper OR r.rolreplication, current_database(), current_setting('wal_level'),"
    "  current_setting('max_replication_slots')::int8 - (SELECT count(*) FROM"
    "    pg_replication_slots),"
    "  current_setting('max_wal_senders')::int8 - (SELECT count(*) FROM pg_stat_replication),"
    "  current_setting('server_encoding'),"
    "  (SELECT setting::int8 * 1048576 FROM pg_settings WHERE name = 'max_slot_wal_keep_size'"
    "     AND setting::int8 >= 0),"
    "  current_setting('idle_replication_slot_timeout', true),"
    "  (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()),"
    "  d.datcollate || ' ' || d.datctype || ' ' || coalesce(j.v ->> 'datlocale',"
    "     j.v ->> 'daticulocale', '')"
    " FROM pg_roles r, pg_database d, LATERAL to_jsonb(d) j (v)"
    " WHERE r.rolname = current_user AND d.datname = current_database()";

static void check_standby(struct check *check)
{
    const bool may_decode = pg_has(check->source, FEATURE_STANDBY_DECODING);
    struct finding *finding;

    if (!check->is_source_standby)
        return;
    finding = finding_add(&check->findings, "source_standby",
                          may_decode ? FINDING_WARNING : FINDING_ERROR, "the source is a standby");
    if (!may_decode)
        finding_why(&check->findings, finding, "it cannot decode WAL before PostgreSQL %d",
                    feature_first(FEATURE_STANDBY_DECODING));
    else
        finding_why(&check->findings, finding,
                    "making a slot there waits for activity on the primary, and a heartbeat cannot "
                    "be written");
    finding_remedy(&check->findings, finding, "point source.conninfo at the primary");
}

static void check_encoding(struct check *check)
{
    struct finding *finding;
    bool is_ascii = strcmp(check->source_encoding, "SQL_ASCII") == 0;

    if (strcmp(check->source_encoding, "UTF8") == 0 || (!is_wal2json(check) && !is_ascii)) {
        check_ok(check, "source_encoding", "%s", check->source_encoding);
        return;
    }
    finding = finding_add(&check->findings, "source_encoding",
                          is_wal2json(check) ? FINDING_ERROR : FINDING_WARNING,
                          "the source database's encoding is %s", check->source_encoding);
    if (is_wal2json(check)) {
        finding_why(&check->findings, finding,
                    "wal2json sends bytes in the server's encoding, so its JSON is broken unless "
                    "that is UTF8");
        finding_remedy(&check->findings, finding, "source: {plugin: pgoutput}");
    } else {
        finding_why(&check->findings, finding,
                    "nobody knows what its bytes mean; what is not UTF-8 is refused by the mirror");
    }
}

static void check_wal_level(struct check *check, const char *level)
{
    struct finding *finding;

    if (check->is_wal_logical) {
        check_ok(check, "source_wal_level", "wal_level is logical");
        return;
    }
    finding = finding_add(&check->findings, "source_wal_level", FINDING_ERROR,
                          "wal_level on the source is %s", level);
    finding_why(&check->findings, finding, "changes can be decoded from WAL of level logical only");
    finding_remedy(&check->findings, finding,
                   "ALTER SYSTEM SET wal_level = 'logical';  then restart the source");
}

/* One for the stream, and one more now and then (a temporary slot with its connection). */
static void check_free(struct check *check, const char *name, int64_t have, const char *what,
                       const char *setting)
{
    struct finding *finding;

    if (have >= 2) {
        check_ok(check, name, "%lld %s free", (long long) have, what);
        return;
    }
    finding = finding_add(&check->findings, name, have < 1 ? FINDING_ERROR : FINDING_WARNING,
                          "the source has %s free %s", have < 1 ? "no" : "only one", what);
    finding_why(&check->findings, finding,
                "the pipeline holds one all the time, and another for a moment in a copy that is "
                "taken up again or a repair");
    finding_remedy(&check->findings, finding,
                   "ALTER SYSTEM SET %s = …;  then restart the source, or drop slots that nobody "
                   "reads: SELECT slot_name, active, wal_status FROM pg_replication_slots;",
                   setting);
}

static void check_wal_limit(struct check *check, bool has_limit, int64_t limit_bytes)
{
    const int64_t critical = check->config->source.wal_guard.critical_bytes;
    const long long megabytes = (long long) (critical / 1048576);
    struct finding *finding;

    if (has_limit && limit_bytes >= critical) {
        check_ok(check, "source_wal_limit", "max_slot_wal_keep_size is %lld MB",
                 (long long) (limit_bytes / 1048576));
        return;
    }
    if (!has_limit) {
        finding = finding_add(&check->findings, "source_wal_limit", FINDING_WARNING,
                              "the source keeps WAL for a slot without limit");
        finding_why(
            &check->findings, finding,
            "max_slot_wal_keep_size is -1: while nobody reads the slot, WAL grows until the "
            "source's disk is full");
        finding_remedy(&check->findings, finding,
                       "ALTER SYSTEM SET max_slot_wal_keep_size = '%lldMB'; SELECT "
                       "pg_reload_conf();  (twice source.wal_guard's critical, or what the disk "
                       "can spare)",
                       2 * megabytes);
        return;
    }
    finding = finding_add(&check->findings, "source_wal_limit", FINDING_WARNING,
                          "max_slot_wal_keep_size is %lld MB, below source.wal_guard's critical",
                          (long long) (limit_bytes / 1048576));
    finding_why(&check->findings, finding, "the slot would be lost before the guard says so");
    finding_remedy(&check->findings, finding,
                   "ALTER SYSTEM SET max_slot_wal_keep_size = '%lldMB'; SELECT pg_reload_conf();  "
                   "or lower source.wal_guard's warn and critical",
                   2 * megabytes);
}

static void check_slot_timeout(struct check *check, const char *timeout)
{
    struct finding *finding;

    if (timeout[0] == '\0' || strcmp(timeout, "0") == 0)
        return;
    finding = finding_add(&check->findings, "source_slot_timeout", FINDING_WARNING,
                          "idle_replication_slot_timeout on the source is %s", timeout);
    finding_why(&check->findings, finding,
                "after that long without the replicator the slot is lost, and the mirror has to be "
                "built anew");
    finding_remedy(&check->findings, finding,
                   "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();");
}

static void check_prepared(struct check *check)
{
    struct finding *finding;

    if (check->prepared == 0)
        return;
    finding = finding_add(&check->findings, "source_prepared", FINDING_WARNING,
                          "%lld prepared transaction%s in the source database",
                          (long long) check->prepared,
                          check->prepared == 1 ? " is open" : "s are open");
    finding_why(&check->findings, finding,
                "making a slot waits for them, and they hold WAL back while they stay");
    finding_remedy(&check->findings, finding,
                   "SELECT gid, prepared, owner FROM pg_prepared_xacts;  then COMMIT PREPARED or "
                   "ROLLBACK PREPARED");
}

bool check_source(struct check *check, struct error *err)
{
    _cleanup_result_ struct pg_result *facts = NULL;
    _cleanup_buf_ struct buf where = {0};

    if (!pg_query_row(check->source, facts_sql, 0, NULL, &facts, err))
        return error_wrap(err, "reading the source's settings");
    pg_describe(check->config->source.conninfo, &where);
    check_ok(check, "source_connect", "%s", buf_text(&where));
    check->source_major = pg_server_version(check->source) / 10000;
    check->is_source_standby = pg_bool(facts, 0, 1);
    check->source_user = arena_strdup(check->arena, pg_text(facts, 0, 2));
    check->is_role_replicating = pg_bool(facts, 0, 3);
    check->source_database = arena_strdup(check->arena, pg_text(facts, 0, 4));
    check->is_wal_logical = strcmp(pg_text(facts, 0, 5), "logical") == 0;
    check->free_slots = pg_int(facts, 0, 6);
    check->source_encoding = arena_strdup(check->arena, pg_text(facts, 0, 8));
    check->prepared = pg_int(facts, 0, 11);
    check->source_locale = arena_strdup(check->arena, pg_text(facts, 0, 12));

    if (!slot_look(check->source, check->config->source.slot, &check->slot, err))
        return false;
    check->has_slot = check->slot.exists;

    check_ok(check, "source_version", "PostgreSQL %s", pg_text(facts, 0, 0));
    check_standby(check);
    check_encoding(check);
    check_wal_level(check, pg_text(facts, 0, 5));
    /* Ours are in use already. */
    check_free(check, "source_slots", check->free_slots + check->has_slot, "replication slots",
               "max_replication_slots");
    check_free(check, "source_senders", pg_int(facts, 0, 7) + (check->slot.active_pid != 0),
               "WAL senders", "max_wal_senders");
    check_wal_limit(check, !pg_is_null(facts, 0, 9), pg_int(facts, 0, 9));
    check_slot_timeout(check, pg_text(facts, 0, 10));
    check_prepared(check);
    return check_failover(check, err);
}

/* ---- the replication connection ---- */

static void report_role(struct check *check)
{
    struct finding *finding = finding_add(&check->findings, "source_role", FINDING_ERROR,
                                          "the role %s may not replicate from the source",
                                          check->source_user);

    finding_why(&check->findings, finding, "it lacks the REPLICATION attribute");
    finding_remedy(&check->findings, finding,
                   "ALTER ROLE %s REPLICATION;  (managed services grant a role instead, for "
                   "example GRANT rds_replication TO %s)",
                   check_ident(check, check->source_user), check_ident(check, check->source_user));
}

static void report_connection(struct check *check, struct error *err)
{
    struct finding *finding;

    if (strcmp(err->sqlstate, "42501") == 0) {
        report_role(check);
        return;
    }
    finding = check_failed(check, "source_replication", err);
    finding_why(&check->findings, finding,
                "the plain connection works, the replication one does "
                "not");
    if (strncmp(err->sqlstate, "28", 2) == 0)
        finding_remedy(&check->findings, finding,
                       "a line in pg_hba.conf: host %s %s ADDRESS scram-sha-256  (for logical "
                       "replication it is the database's name that counts, not the word "
                       "replication)",
                       check->source_database, check->source_user);
    else if (strstr(err->message, "startup parameter") != NULL || !err->sqlstate[0])
        finding_remedy(&check->findings, finding,
                       "connect to the server directly: the replication protocol does not pass a "
                       "connection pooler");
    else if (strcmp(err->sqlstate, "53300") == 0)
        finding_remedy(&check->findings, finding,
                       "ALTER SYSTEM SET max_wal_senders = …;  then restart the source");
}

bool check_replication(struct check *check, struct error *err)
{
    const struct pg_options options = {.side = PG_SOURCE,
                                       .conninfo = check->config->source.conninfo,
                                       .application = "tailwater check",
                                       .is_replication = true};
    struct error refused = {0};

    (void) err;
    if (!pg_connect(&options, &check->replication, &refused) ||
        !slot_identify(check->replication, &check->identity, &refused)) {
        pg_free(check->replication);
        check->replication = NULL;
        report_connection(check, &refused);
        return true;
    }
    check_ok(check, "source_replication", "%s may replicate", check->source_user);
    return true;
}

/* ---- the plugin ---- */

static void report_plugin(struct check *check, const struct error *refused)
{
    const char *plugin = check->config->source.plugin;
    struct finding *finding = finding_add(&check->findings, "source_plugin", FINDING_ERROR,
                                          "the source does not let the output plugin %s be used",
                                          plugin);

    finding_why(&check->findings, finding, "%s", refused->message);
    if (strcmp(refused->sqlstate, "42501") == 0)
        finding_remedy(&check->findings, finding,
                       "apt-get install postgresql-%d-%s  if it is not installed; then, as "
                       "superuser, add it to what SHOW output_plugin_libraries gives: ALTER SYSTEM "
                       "SET output_plugin_libraries = pgoutput, test_decoding, %s;  (a list, not "
                       "one string in quotes)  SELECT pg_reload_conf();  or source: {plugin: "
                       "pgoutput}",
                       check->source_major, plugin, plugin);
    else
        finding_remedy(&check->findings, finding,
                       "apt-get install postgresql-%d-%s  on the source (no restart is needed), or "
                       "source: {plugin: pgoutput}",
                       check->source_major, plugin);
}

/* What "wal2json before 2.6" means for these tables: the version cannot be asked for. */
static void report_nan(struct check *check)
{
    const bool is_asked = check->config->source.nan_check != NAN_CHECK_OFF;
    _cleanup_buf_ struct buf columns = {0};
    struct finding *finding;
    int count = 0, nkeys = 0;

    for (int i = 0; check->has_catalog && i < check->catalog.tables.count; i++) {
        const struct table *table = &check->catalog.tables.tables[i];

        for (int j = 0; j < table->ncolumns; j++) {
            if (!table->columns[j].is_nan_capable || table->columns[j].mask != MASK_NONE)
                continue;
            nkeys += table->columns[j].is_key;
            check_add_listed(
                &columns, count++,
                arena_printf(check->arena, "%s.%s", table->label, table->columns[j].name));
        }
    }
    if (count == 0) {
        check_ok(check, "source_nan", "wal2json before 2.6; no column can hold NaN or infinities");
        return;
    }
    check_end_listed(&columns, count);
    finding = finding_add(&check->findings, "source_nan", FINDING_WARNING,
                          "wal2json before 2.6: NaN and infinities arrive as null in %d column%s",
                          count, count == 1 ? "" : "s");
    finding_why(
        &check->findings, finding, "it does not know numeric-data-types-as-string; %s: %s%s",
        is_asked ? "the source is asked about each null afterwards"
                 : "source.nan_check is off, so they stay null",
        buf_text(&columns), nkeys > 0 ? "; a change whose key has such a value is refused" : "");
    finding_remedy(&check->findings, finding,
                   "install wal2json 2.6 on the source, or source: {plugin: pgoutput}%s",
                   is_asked ? "" : ", or source: {nan_check: auto}");
}

/* Decodes nothing: reading ends where the slot begins.  22023 is the option refused. */
static bool probe_nan(struct check *check, const char *slot, struct error *err)
{
    const char *params[] = {slot};
    _cleanup_result_ struct pg_result *rows = NULL;

    if (pg_query(check->source,
                 "SELECT count(*) FROM pg_logical_slot_peek_changes($1, (SELECT"
                 " confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = $1), 1,"
                 " 'format-version', '2', 'numeric-data-types-as-string', '1')",
                 1, params, &rows, err)) {
        check_ok(check, "source_nan",
                 "wal2json 2.6 or later: NaN and infinities arrive as they are");
        return true;
    }
    if (strcmp(err->sqlstate, "22023") != 0)
        return error_wrap(err, "probing wal2json's options");
    report_nan(check);
    return true;
}

/*
 * The temporary slot itself, over the plain connection, where a statement_timeout counts.  Each attempt
 * has a name of its own: the server may not have noticed yet that an earlier one's connection is gone.
 */
static bool probe(struct check *check, struct error *err)
{
    static _Atomic int attempts;
    const char *slot = arena_printf(check->arena, "tailwater_check_%d_%d", (int) getpid(),
                                    ++attempts);
    const char *params[] = {slot, check->config->source.plugin};
    _cleanup_result_ struct pg_result *made = NULL;
    struct error refused = {0};
    struct finding *finding;

    if (pg_query(check->source, "SELECT pg_create_logical_replication_slot($1, $2, true)", 2,
                 params, &made, &refused)) {
        check_ok(check, "source_plugin", "%s is installed and may be used",
                 check->config->source.plugin);
        return !is_wal2json(check) || probe_nan(check, slot, err);
    }
    if (strcmp(refused.sqlstate, "57014") == 0) {
        check_ok(check, "source_plugin", "%s is installed and may be used",
                 check->config->source.plugin);
        if (check->has_slot)
            return true;
        finding = finding_add(&check->findings, "source_transactions", FINDING_WARNING,
                              "transactions on the source have been open for a while");
        finding_why(&check->findings, finding, "run makes its slot when they have ended");
        finding_remedy(&check->findings, finding,
                       "SELECT pid, xact_start, state, query FROM pg_stat_activity WHERE "
                       "backend_xid IS NOT NULL ORDER BY xact_start;");
        return true;
    }
    if (strcmp(refused.sqlstate, "58P01") == 0 || strcmp(refused.sqlstate, "42501") == 0) {
        report_plugin(check, &refused);
        return true;
    }
    *err = refused;
    return error_wrap(err, "probing the output plugin");
}

bool check_plugin(struct check *check, struct error *err)
{
    bool done;

    /* Without these the server refuses every slot, and they have their own findings. */
    if (!check->is_wal_logical || check->replication == NULL || check->free_slots < 1 ||
        (check->is_source_standby && !pg_has(check->source, FEATURE_STANDBY_DECODING)))
        return true;
    if (!pg_execf(check->source, err, "SET statement_timeout = %s",
                  check->has_slot ? PROBE_AGAIN_MS : PROBE_SQL_MS))
        return false;
    done = probe(check, err);
    /* A temporary slot lives as long as its session. */
    return done && pg_exec(check->source,
                           "RESET statement_timeout;"
                           "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                           " WHERE temporary AND active_pid = pg_backend_pid()",
                           err);
}

/* ---- the slot ---- */

static void slot_wrong(struct check *check, const char *name, const struct error *err)
{
    check_failed(check, name, err);
    check->is_slot_wrong = true;
}

/* Is the source the one that the mirror was made from? */
static bool check_identity(struct check *check)
{
    const struct control_identity actual = {
        .system_identifier = check->identity.system_identifier,
        .timeline = check->identity.timeline,
        .database = check->identity.database,
        .slot = check->config->source.slot,
        .plugin = check->config->source.plugin,
        .publication = is_wal2json(check) ? NULL : check->config->source.publication};
    struct error err = {0};

    if (control_check_identity(&check->pipeline.identity, &actual, &err))
        return true;
    if (err.kind == ERROR_SLOT)
        slot_wrong(check, "source_identity", &err);
    else
        check_failed(check, "source_identity", &err);
    return false;
}

static void check_foreign_slot(struct check *check)
{
    const char *slot = check->config->source.slot;
    struct finding *finding = finding_add(&check->findings, "source_slot", FINDING_ERROR,
                                          "the source has a replication slot %s already", slot);

    finding_why(&check->findings, finding, "the mirror knows of no pipeline %s that made it",
                check->config->pipeline);
    finding_remedy(&check->findings, finding,
                   "if nobody needs it: SELECT pg_drop_replication_slot('%s');  else name another "
                   "in source.slot",
                   slot);
    check->is_slot_wrong = true;
}

bool check_slot(struct check *check, struct error *err)
{
    const char *slot = check->config->source.slot;
    struct error wrong = {0};

    (void) err;
    if (check->mirror == NULL || check->replication == NULL)
        return true; /* whose the slot is, the mirror knows */
    if (!check->has_pipeline || check->pipeline.identity.slot_lsn == 0) {
        if (check->has_slot && !check->has_pipeline)
            check_foreign_slot(check);
        else
            check_ok(check, "source_slot", "%s will be made", slot);
        return true;
    }
    if (!check_identity(check) || !check_timeline(check))
        return true;
    if (slot_check(&check->slot, slot, check->config->source.plugin, check->identity.database,
                   &wrong))
        check_ok(check, "source_slot", "%s is there, and keeps %lld MB of WAL", slot,
                 (long long) (check->slot.retained_bytes / 1048576));
    else if (wrong.kind == ERROR_BUSY)
        check_ok(check, "source_slot", "%s is being read by PID %d", slot, check->slot.active_pid);
    else if (wrong.kind == ERROR_RETRY)
        check_failed(check, "source_slot", &wrong);
    else {
        if (!check->has_slot)
            continuity_explain_slot(&check->identity, check->pipeline.identity.timeline, &wrong);
        slot_wrong(check, "source_slot", &wrong);
    }
    return true;
}
