/*
 * Commits do not wait for the disk: a crash of the server loses a page together with its position,
 * and any commit that somebody relies on comes behind it in the WAL.
 */
#include "ledger/fan_out_page.h"

#include "base/fault.h"
#include "mirror/apply.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

bool fan_out_page_withdraw(struct pg *mirror, const char *pipeline, struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL;

    return pg_query(mirror, "select tailwater.withdraw_page($1)", 1, &pipeline, &done, err);
}

void fan_out_page_roll_back(struct pg *mirror)
{
    struct error ignored;

    if (!pg_is_broken(mirror))
        (void) pg_exec(mirror, "rollback", &ignored);
}

static bool announce(struct fan_out_page *page, struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;

    if (!pg_query_row(page->mirror, "select tailwater.announce_page($1)", 1, &page->pipeline,
                      &result, err))
        return false;
    page->number = pg_int(result, 0, 0);
    return FAULT(fan_out_announced, err);
}

/* The announcement is taken back, the batch is there, and the entry is so far. */
static bool finish(const struct fan_out_page *page, struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL;
    char number[24], keys[24];
    const char *params[] = {page->pipeline, number, keys, page->entry, page->position};

    snprintf(number, sizeof(number), "%" PRId64, page->number);
    snprintf(keys, sizeof(keys), "%" PRId64, page->keys);
    return pg_query(page->mirror,
                    "with e as (update tailwater.fan_out set keys = keys + $3::bigint, "
                    "position = coalesce($5::text[], position) where id = $4::bigint) "
                    "select tailwater.finish_page($1, $2::bigint, $3::bigint)",
                    5, params, &done, err);
}

static bool write_once(struct fan_out_page *page, struct error *err)
{
    page->keys = page->nulls = 0;
    /* Whoever locks the ledger is waited for here, where a stop request cancels it, and not in COPY. */
    if (pg_execf(page->mirror, err,
                 "begin; %slock table only tailwater.\"ledger_%s\" in row exclusive mode",
                 page->settings, page->fact->name) &&
        page->write(page->context, page, err) && finish(page, err) &&
        pg_exec(page->mirror, "commit", err))
        return true;
    fan_out_page_roll_back(page->mirror);
    return false;
}

/* Where the ledger has no partition, it is made, once. */
bool fan_out_page_write(struct fan_out_page *page, struct error *err)
{
    if (!announce(page, err))
        return false;
    if (!write_once(page, err)) {
        _cleanup_result_ struct pg_result *made = NULL;

        if (strcmp(err->sqlstate, WRITER_NO_PARTITION) != 0 ||
            !pg_query(page->mirror, "select tailwater.add_partitions($1)", 1, &page->pipeline,
                      &made, err) ||
            !write_once(page, err))
            return false;
    }
    page->fact->nodes[page->node].counts->keys += page->keys;
    page->fact->nodes[page->node].counts->nulls += page->nulls;
    return FAULT(fan_out_after_page, err);
}
