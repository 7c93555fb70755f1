/*
 * Removing a partition has three states, each of which a crash may leave behind, and each of which
 * the next round finds in the catalog: attached; detaching (marked, but those who may still read
 * it were not waited for to the end); detached, a table by itself.  So nothing is remembered here.
 */
#include "ledger/partitions.h"

#include "base/fault.h"

#include <string.h>

bool partitions_add(struct pg *mirror, const char *pipeline, int *ret_made, struct error *err)
{
    _cleanup_result_ struct pg_result *made = NULL;

    if (!pg_query_row(mirror, "select tailwater.add_partitions($1)", 1, &pipeline, &made, err))
        return error_wrap(err, "adding partitions to the ledger");
    *ret_made = (int) pg_int(made, 0, 0);
    return true;
}

/* Somebody is in the way for longer than we wait: the next round comes by again. */
static bool is_passing(const struct error *err)
{
    return strcmp(err->sqlstate, "55P03") == 0 /* lock_not_available */ ||
           strcmp(err->sqlstate, "55000") == 0 /* another of the same table is detaching */ ||
           strcmp(err->sqlstate, "40P01") == 0 /* deadlock_detected */;
}

struct partition {
    const char *fact, *name;
    bool is_attached, is_detaching;
};

static bool detach(struct pg *mirror, const struct partition *partition, struct error *err)
{
    _cleanup_buf_ struct buf ledger = {0}, name = {0}, parent = {0};

    buf_printf(&parent, "ledger_%s", partition->fact);
    pg_add_qualified(&ledger, "tailwater", buf_text(&parent));
    pg_add_qualified(&name, "tailwater", partition->name);
    return pg_execf(mirror, err, "alter table %s detach partition %s %s", buf_text(&ledger),
                    buf_text(&name), partition->is_detaching ? "finalize" : "concurrently") &&
           FAULT(retention_after_detach, err);
}

static bool drop(struct pg *mirror, const struct partition *partition, struct error *err)
{
    _cleanup_buf_ struct buf name = {0};

    pg_add_qualified(&name, "tailwater", partition->name);
    return pg_execf(mirror, err, "drop table %s", buf_text(&name));
}

bool partitions_remove(struct pg *mirror, const char *pipeline, int *ret_removed, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    int removed = 0;

    if (!pg_query(mirror,
                  "select f.name, p.name, p.is_attached, p.is_pending from tailwater.fact f "
                  "join tailwater.ledger_floor l on l.fact = f.name "
                  "cross join lateral tailwater.ledger_partitions(f.name) p "
                  "where f.pipeline = $1 "
                  "and (not p.is_attached or p.is_pending or p.upper <= l.kept_from) "
                  "order by f.name, p.is_attached, p.lower",
                  1, &pipeline, &rows, err))
        return error_wrap(err, "looking for partitions of the ledger to remove");
    for (int row = 0; row < pg_rows(rows); row++) {
        const struct partition partition = {.fact = pg_text(rows, row, 0),
                                            .name = pg_text(rows, row, 1),
                                            .is_attached = pg_bool(rows, row, 2),
                                            .is_detaching = pg_bool(rows, row, 3)};

        if ((partition.is_attached && !detach(mirror, &partition, err)) ||
            !drop(mirror, &partition, err)) {
            if (!is_passing(err))
                return error_wrap(err, "removing partition tailwater.%s", partition.name);
            continue;
        }
        removed++;
    }
    *ret_removed = removed;
    return true;
}
