/*
 * What depends on the servers' versions and on their history: failover slots, a promoted standby,
 * a mirror that is older than its source, what an older source does not send.  (Servers below the oldest supported version are refused
 * before anything is asked of them.)
 *
 * A standby's own settings cannot be seen from its primary.  Of these the remedy speaks where what
 * can be seen (physical slots, their feedback) says that something is missing.
 */
#include "engine/check_internal.h"
#include "engine/continuity.h"

#include <string.h>

/* ---- source.failover ---- */

#define STANDBY_SETTINGS                                                                           \
    "on each standby that may be promoted: primary_slot_name = '…' (SELECT "                     \
    "pg_create_physical_replication_slot('…') on the primary), dbname=… in primary_conninfo, " \
    "hot_standby_feedback = on, sync_replication_slots = on"

/* 0: physical slots that are read, 1: of these, without feedback; 2: synchronized_standby_slots; 3:
 * what it names and nobody reads. */
static const char failover_sql[] =
    "SELECT p.names, p.silent, coalesce(s.setting, ''),"
    "  (SELECT string_agg(w.name, ', ' ORDER BY w.name)"
    "     FROM unnest(string_to_array(nullif(s.setting, ''), ',')) u (name),"
    "          LATERAL (SELECT btrim(u.name, ' \"')) w (name)"
    "    WHERE NOT EXISTS (SELECT FROM pg_replication_slots r"
    "                       WHERE r.slot_name = w.name AND r.active))"
    " FROM (SELECT string_agg(slot_name, ', ' ORDER BY slot_name) AS names,"
    "              string_agg(slot_name, ', ' ORDER BY slot_name)"
    "                FILTER (WHERE xmin IS NULL AND catalog_xmin IS NULL) AS silent"
    "         FROM pg_replication_slots WHERE slot_type = 'physical' AND active) p,"
    "      (SELECT current_setting('synchronized_standby_slots', true)) s (setting)";

static void report_standbys(struct check *check, const struct pg_result *facts)
{
    struct finding *finding;

    if (pg_is_null(facts, 0, 0)) {
        finding = finding_add(&check->findings, "source_failover", FINDING_WARNING,
                              "no standby of the source reads through a physical slot");
        finding_why(&check->findings, finding,
                    "no standby keeps a copy of the failover slot, so that a promoted one will not "
                    "have it");
        finding_remedy(&check->findings, finding, STANDBY_SETTINGS);
    }
    if (!pg_is_null(facts, 0, 1)) {
        finding = finding_add(&check->findings, "source_failover", FINDING_WARNING,
                              "standbys of the source give no feedback: %s", pg_text(facts, 0, 1));
        finding_why(&check->findings, finding,
                    "hot_standby_feedback is off there; without it a standby does not keep copies "
                    "of failover slots");
        finding_remedy(&check->findings, finding, STANDBY_SETTINGS);
    }
    if (!pg_is_null(facts, 0, 3)) {
        finding = finding_add(&check->findings, "source_failover", FINDING_WARNING,
                              "synchronized_standby_slots names slots that nobody reads: %s",
                              pg_text(facts, 0, 3));
        finding_why(&check->findings, finding, "while that is so, nothing is sent to the mirror");
        finding_remedy(&check->findings, finding,
                       "start these standbys, or ALTER SYSTEM SET synchronized_standby_slots = "
                       "'%s'; SELECT pg_reload_conf();",
                       pg_text(facts, 0, 0));
    } else if (pg_text(facts, 0, 2)[0] == '\0' && !pg_is_null(facts, 0, 0)) {
        finding = finding_add(&check->findings, "source_failover", FINDING_WARNING,
                              "synchronized_standby_slots is empty on the source");
        finding_why(&check->findings, finding,
                    "the mirror may run ahead of a standby; one that is promoted behind the mirror "
                    "is refused, and the mirror has to be built anew");
        finding_remedy(&check->findings, finding,
                       "ALTER SYSTEM SET synchronized_standby_slots = '%s'; SELECT "
                       "pg_reload_conf();",
                       pg_text(facts, 0, 0));
    } else if (!pg_is_null(facts, 0, 0) && pg_is_null(facts, 0, 1)) {
        check_ok(check, "source_failover", "the slot is for failover; standbys: %s",
                 pg_text(facts, 0, 0));
    }
}

bool check_failover(struct check *check, struct error *err)
{
    _cleanup_result_ struct pg_result *facts = NULL;
    struct error wrong = {0};

    if (!check->config->source.failover || check->is_source_standby)
        return true;
    if (!continuity_check_failover(check->source, check->config, &wrong)) {
        check_failed(check, "source_failover", &wrong);
        return true;
    }
    if (!pg_query_row(check->source, failover_sql, 0, NULL, &facts, err))
        return error_wrap(err, "looking at the source's standbys");
    report_standbys(check, facts);
    return true;
}

/* ---- a promoted standby ---- */

bool check_timeline(struct check *check)
{
    const int stored = check->pipeline.identity.timeline;
    struct error wrong = {0};

    if (check->identity.timeline == stored || !check->has_slot)
        return true;
    if (continuity_check_timeline(check->replication, &check->identity, stored,
                                  check->pipeline.cursor, &wrong)) {
        check_ok(check, "source_timeline",
                 "timeline %d, and %d when the mirror last read: the standby that was promoted has "
                 "all that the mirror has",
                 check->identity.timeline, stored);
        return true;
    }
    check_failed(check, "source_timeline", &wrong);
    check->is_slot_wrong |= wrong.kind == ERROR_SLOT;
    return false;
}

/* ---- an older mirror ---- */

bool check_builtin_types(struct check *check, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    _cleanup_buf_ struct buf types = {0}, columns = {0};
    const char *params[2];

    /* A built-in type's name has no schema under the pinned search_path. */
    for (int i = 0; i < check->catalog.tables.count; i++) {
        const struct table *table = &check->catalog.tables.tables[i];

        for (int j = 0; j < table->ncolumns; j++) {
            if (strchr(table->columns[j].cast_type, '.') != NULL)
                continue;
            check_add_element(&types, table->columns[j].cast_type);
            check_add_element(&columns, arena_printf(check->arena, "%s.%s", table->label,
                                                     table->columns[j].name));
        }
    }
    params[0] = check_end_array(&types);
    params[1] = check_end_array(&columns);
    if (!pg_query(check->mirror,
                  "SELECT w.type, min(w.col), count(*) FROM unnest($1::text[], $2::text[])"
                  " w (type, col) WHERE to_regtype(w.type) IS NULL GROUP BY 1 ORDER BY 1",
                  2, params, &rows, err))
        return false;
    for (int i = 0; i < pg_rows(rows); i++) {
        struct finding *finding = finding_add(&check->findings, "mirror_type", FINDING_ERROR,
                                              "PostgreSQL %d on the mirror has no type %s",
                                              check->mirror_major, pg_text(rows, i, 0));

        finding_why(&check->findings, finding, "%s has it%s; the source runs PostgreSQL %d",
                    pg_text(rows, i, 1), pg_int(rows, i, 2) > 1 ? ", and others" : "",
                    check->source_major);
        finding_remedy(&check->findings, finding,
                       "upgrade the mirror, or exclude such columns in the configuration");
    }
    return true;
}

void check_mirror_age(struct check *check)
{
    struct finding *finding;

    if (check->mirror_major >= check->source_major)
        return;
    finding = finding_add(&check->findings, "mirror_version", FINDING_WARNING,
                          "the mirror runs PostgreSQL %d, the source %d", check->mirror_major,
                          check->source_major);
    finding_why(&check->findings, finding,
                "indexes and generated columns that use what %d does not have are left out, and "
                "queries that use it do not run there",
                check->mirror_major);
    finding_remedy(&check->findings, finding, "upgrade the mirror, if that matters");
}

/* ---- an older source ---- */

void check_attached(struct check *check)
{
    _cleanup_buf_ struct buf names = {0};
    struct finding *finding;
    int count = 0;

    if (pg_has(check->source, FEATURE_ATTACHED_PARTITIONS))
        return;
    for (int i = 0; i < check->catalog.tables.count; i++) {
        if (check->catalog.tables.tables[i].is_partitioned)
            check_add_listed(&names, count++, check->catalog.tables.tables[i].label);
    }
    if (count == 0)
        return;
    check_end_listed(&names, count);
    finding = finding_add(&check->findings, "source_partitions", FINDING_WARNING,
                          "an attached partition's changes may not be sent: %s", buf_text(&names));
    finding_why(&check->findings, finding,
                "before PostgreSQL %d pgoutput does not notice that a table which was written to "
                "since it connected became a partition",
                feature_first(FEATURE_ATTACHED_PARTITIONS));
    finding_remedy(&check->findings, finding,
                   "after ALTER TABLE … ATTACH PARTITION end and start tailwater run, then "
                   "tailwater resync TABLE; or plugin: wal2json");
}
