/*
 * Forward only, all that is missing in one transaction, under an advisory lock: a second process
 * that starts at the same time waits and then finds everything done.
 *
 * tailwater.migration holds what was applied, with the hash of its text.  A hash that differs means
 * that the database was built by a program that this one cannot speak for; a version above ours,
 * that a newer program was here.  Both are refused before anything is read from the other tables.
 *
 * Not here: going back, and repairing by hand.
 */
#include "mirror/control.h"
#include "mirror/migrations.h"

#include <stdio.h>

/* Of the advisory lock: "tailwate". */
#define MIGRATION_LOCK "8386099895720834149"

static bool rollback(struct pg *mirror)
{
    struct error ignored;

    if (!pg_is_broken(mirror))
        pg_exec(mirror, "ROLLBACK", &ignored);
    return false;
}

static const char schema_exists[] = "SELECT to_regnamespace('tailwater') IS NOT NULL, "
                                    "to_regclass('tailwater.migration') IS NOT NULL, "
                                    "quote_ident(current_database()), quote_ident(current_user)";

/* The schema and its first table, without IF NOT EXISTS: that asks for the privilege even where
 * nothing is to do. */
static bool bootstrap(struct pg *mirror, struct error *err)
{
    _cleanup_result_ struct pg_result *is = NULL;

    if (!pg_query_row(mirror, schema_exists, 0, NULL, &is, err))
        return false;
    if (!pg_bool(is, 0, 0) && !pg_exec(mirror, "CREATE SCHEMA tailwater", err)) {
        if (strcmp(err->sqlstate, "42501") == 0)
            error_hint(err, "on the mirror, as its owner: GRANT CREATE ON DATABASE %s TO %s",
                       pg_text(is, 0, 2), pg_text(is, 0, 3));
        return false;
    }
    if (pg_bool(is, 0, 1))
        return true;
    if (!pg_exec(mirror,
                 "CREATE TABLE tailwater.migration (version integer PRIMARY KEY, "
                 "name text NOT NULL, hash text NOT NULL, "
                 "applied_at timestamptz NOT NULL DEFAULT now())",
                 err)) {
        if (strcmp(err->sqlstate, "42501") == 0)
            error_hint(
                err,
                "the schema tailwater belongs to another role: connect as that one, or have it "
                "run ALTER SCHEMA tailwater OWNER TO %s",
                pg_text(is, 0, 3));
        return false;
    }
    return true;
}

/* Refuse what this program cannot speak for; *ret_version is the newest that was applied. */
static bool compare(struct pg *mirror, int *ret_version, struct error *err)
{
    _cleanup_result_ struct pg_result *applied = NULL;

    if (!pg_query(mirror, "SELECT version, name, hash FROM tailwater.migration ORDER BY version", 0,
                  NULL, &applied, err))
        return false;
    for (int row = 0; row < pg_rows(applied); row++) {
        int version = (int) pg_int(applied, row, 0);

        if (version > migrations_count) {
            error_set(err, ERROR_CONFIG,
                      "the control schema on the mirror is at version %d, this program knows %d",
                      (int) pg_int(applied, pg_rows(applied) - 1, 0), migrations_count);
            return error_hint(err, "use the newer tailwater that was here before");
        }
        if (version != row + 1 || strcmp(pg_text(applied, row, 2), migrations[row].hash) != 0) {
            error_set(err, ERROR_CONFIG,
                      "migration %04d_%s of the control schema on the mirror is not the one that "
                      "this program has (hash %.12s, ours of %04d_%s is %.12s)",
                      version, pg_text(applied, row, 1), pg_text(applied, row, 2),
                      migrations[row].version, migrations[row].name, migrations[row].hash);
            return error_hint(err, "use the tailwater that made it, or destroy its pipelines with "
                                   "that one and run this one afterwards");
        }
    }
    *ret_version = pg_rows(applied);
    return true;
}

static bool apply(struct pg *mirror, const struct migration *migration, struct error *err)
{
    char version[16];
    const char *params[] = {version, migration->name, migration->hash};
    _cleanup_result_ struct pg_result *done = NULL;

    snprintf(version, sizeof(version), "%d", migration->version);
    return pg_exec(mirror, migration->sql, err) &&
           pg_query(mirror,
                    "INSERT INTO tailwater.migration (version, name, hash) VALUES ($1, $2, $3)", 3,
                    params, &done, err);
}

bool control_migrate(struct pg *mirror, struct error *err)
{
    int version = 0;

    if (!pg_exec(mirror,
                 "BEGIN; SET LOCAL lock_timeout = '30s'; "
                 "SELECT pg_advisory_xact_lock(" MIGRATION_LOCK ")",
                 err) ||
        !bootstrap(mirror, err) || !compare(mirror, &version, err)) {
        rollback(mirror);
        return error_wrap(err, "control schema");
    }
    for (; version < migrations_count; version++)
        if (!apply(mirror, &migrations[version], err)) {
            rollback(mirror);
            return error_wrap(err, "control schema, migration %04d_%s", migrations[version].version,
                              migrations[version].name);
        }
    if (!pg_exec(mirror, "COMMIT", err)) {
        rollback(mirror);
        return error_wrap(err, "control schema");
    }
    return true;
}

bool control_version(struct pg *mirror, int *ret_version, int *ret_known, struct error *err)
{
    _cleanup_result_ struct pg_result *is = NULL;
    _cleanup_result_ struct pg_result *newest = NULL;

    if (!pg_query_row(mirror, schema_exists, 0, NULL, &is, err))
        return false;
    if (pg_bool(is, 0, 1) &&
        !pg_query_row(mirror, "SELECT coalesce(max(version), 0) FROM tailwater.migration", 0, NULL,
                      &newest, err))
        return false;
    *ret_version = newest ? (int) pg_int(newest, 0, 0) : 0;
    *ret_known = migrations_count;
    return true;
}

bool control_require(struct pg *mirror, struct error *err)
{
    int version, known;

    if (!control_version(mirror, &version, &known, err))
        return false;
    if (version == 0) {
        error_set(err, ERROR_CONFIG,
                  "the mirror database has no control schema: no pipeline was ever run into it");
        return error_hint(err, "check mirror.conninfo, or start with: tailwater run");
    }
    if (version < known) {
        error_set(err, ERROR_CONFIG,
                  "the control schema on the mirror is at version %d, this program reads %d",
                  version, known);
        return error_hint(err,
                          "tailwater run brings it up to date; until then use the older tailwater");
    }
    return compare(mirror, &version, err);
}

/* ---- the end ---- */

/* All functions of the schema in one statement, then all tables, then all row types, so that those
 * that refer to each other go together; functions first, since some take tables' rows. */
static bool drop_objects(struct pg *mirror, struct error *err)
{
    _cleanup_result_ struct pg_result *names = NULL;

    if (!pg_query_row(mirror,
                      "SELECT (SELECT string_agg(format('tailwater.%I', relname), ', ') "
                      "FROM pg_class WHERE relnamespace = 'tailwater'::regnamespace "
                      "AND relkind IN ('r', 'p') AND pg_has_role(relowner, 'USAGE')), "
                      "(SELECT string_agg(oid::regprocedure::text, ', ') FROM pg_proc "
                      "WHERE pronamespace = 'tailwater'::regnamespace "
                      "AND pg_has_role(proowner, 'USAGE')), "
                      "(SELECT string_agg(format('tailwater.%I', relname), ', ') "
                      "FROM pg_class WHERE relnamespace = 'tailwater'::regnamespace "
                      "AND relkind = 'c' AND pg_has_role(relowner, 'USAGE'))",
                      0, NULL, &names, err))
        return false;
    return pg_execf(mirror, err, "DROP FUNCTION %s", pg_text(names, 0, 1)) &&
           pg_execf(mirror, err, "DROP TABLE %s", pg_text(names, 0, 0)) &&
           pg_execf(mirror, err, "DROP TYPE %s", pg_text(names, 0, 2)) &&
           pg_exec(mirror, "DROP SCHEMA tailwater", err);
}

bool control_drop(struct pg *mirror, bool *ret_dropped, struct error *err)
{
    _cleanup_result_ struct pg_result *left = NULL;
    bool is_last;

    if (!pg_exec(mirror,
                 "BEGIN; SET LOCAL lock_timeout = '30s'; "
                 "SELECT pg_advisory_xact_lock(" MIGRATION_LOCK ")",
                 err) ||
        !pg_query_row(mirror, "SELECT NOT EXISTS (SELECT FROM tailwater.pipeline)", 0, NULL, &left,
                      err)) {
        rollback(mirror);
        return error_wrap(err, "control schema");
    }
    is_last = pg_bool(left, 0, 0);
    if ((is_last && !drop_objects(mirror, err)) || !pg_exec(mirror, "COMMIT", err)) {
        rollback(mirror);
        return error_wrap(err, "removing the control schema");
    }
    *ret_dropped = is_last;
    return true;
}
