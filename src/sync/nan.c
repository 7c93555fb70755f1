/*
 * The list is worked off from its beginning, a group at a time: entries of one table, as many as make
 * some thousand keys.  Per group:
 *
 *   keys     out of the entries, each once, as one array per key column, and the transactions
 *   source   in one snapshot: are these visible?  Which keys' rows hold NaN or infinities, and where
 *   mirror   the same of the mirror's rows
 *   settle   keys whose answers differ go to the repair list, with the cursor for their position;
 *            the entries leave theirs
 *
 * A key must not come on the repair list behind the back of a batch that deletes it: a round of
 * repairs whose snapshot is older would bring the row back.  So the clock's row is taken for that, as
 * a batch does, and the position is the cursor then: only a later snapshot counts, and that one has
 * the delete; and deletes that come after it take the key off the list again (repair.h).
 *
 * Entries have ascending numbers and a single writer, so that none appears behind one that is
 * remembered.  That matters: many rows of this table die young, and a walk from its beginning would
 * meet them all for as long as anybody holds an old snapshot.
 *
 * Not here: what is done with nulls until then (statement.c), and when to run (the engine's).
 */
#include "sync/nan.h"

#include "base/buf.h"
#include "base/memory.h"
#include "mirror/ddl.h"
#include "mirror/statement.h"
#include "pg/pg.h"
#include "sync/rate.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define GROUP_ENTRIES 100
#define GROUP_KEYS    5000
/* For source.max_read_rate: what looking at a row by its key costs the source, in bytes. */
#define ASK_BYTES 1024

struct nan_check {
    struct nan_options options;
    struct pg *source, *mirror;
    struct rate *rate;
    int64_t next_id; /* entries below are settled */
};

/* Entries of one table, and what is asked about them. */
struct group {
    const struct table *table; /* NULL: no longer configured */
    struct buf ids;            /* a text array */
    int64_t last_id;
    int count; /* keys */
    struct pg_result *keys;
};

struct nan_check *nan_check_new(const struct nan_options *options)
{
    struct nan_check *check = memory_new(struct nan_check);

    check->options = *options;
    check->rate = rate_new(options->config->source.max_read_rate_bytes);
    return check;
}

static void hang_up(struct nan_check *check)
{
    pg_free(check->source);
    pg_free(check->mirror);
    check->source = check->mirror = NULL;
}

void nan_check_free(struct nan_check *check)
{
    if (check == NULL)
        return;
    hang_up(check);
    rate_free(check->rate);
    free(check);
}

/* By key and by nothing else; refused, not filtered, where row security is on. */
static bool connect_to(const struct nan_check *check, enum pg_side side, struct pg **connection,
                       struct error *err)
{
    const struct config *config = check->options.config;
    const struct pg_options options = {
        .side = side,
        .conninfo = side == PG_SOURCE ? config->source.conninfo : config->mirror.conninfo,
        .application = "tailwater nan check",
        .settings = PG_BY_KEY " -c row_security=off -c max_parallel_workers_per_gather=0"};

    if (*connection != NULL)
        return true;
    if (!pg_connect(&options, connection, err))
        return false;
    pg_limit(*connection, -1, check->options.wake_fd);
    return true;
}

/* ---- a group ---- */

/* *ret_any false: the list is empty.  Else the first entry's table, and its entries among the first
 * of the list. */
static bool read_entries(const struct nan_check *check, struct group *group, bool *ret_any,
                         struct error *err)
{
    _cleanup_result_ struct pg_result *entries = NULL;
    char sql[200], id[24];
    int64_t keys = 0;

    snprintf(
        sql, sizeof(sql),
        "SELECT id, schema, name, n FROM tailwater.doubt WHERE pipeline = $1 AND id >= $2::int8"
        " ORDER BY id LIMIT %d",
        GROUP_ENTRIES);
    snprintf(id, sizeof(id), "%" PRId64, check->next_id);
    if (!pg_query(check->mirror, sql, 2, (const char *[]){check->options.config->pipeline, id},
                  &entries, err))
        return false;
    *ret_any = pg_rows(entries) > 0;
    if (!*ret_any)
        return true;
    group->table = table_list_find(check->options.tables, pg_text(entries, 0, 1),
                                   pg_text(entries, 0, 2));
    for (int row = 0; row < pg_rows(entries); row++) {
        keys += pg_int(entries, row, 3);
        if (strcmp(pg_text(entries, row, 1), pg_text(entries, 0, 1)) != 0 ||
            strcmp(pg_text(entries, row, 2), pg_text(entries, 0, 2)) != 0 ||
            (row > 0 && keys > GROUP_KEYS))
            break;
        buf_printf(&group->ids, "%s%s", row > 0 ? "," : "{", pg_text(entries, row, 0));
        group->last_id = pg_int(entries, row, 0);
    }
    buf_add_char(&group->ids, '}');
    return true;
}

/* One row: per key column an array of its values, then the transactions, then how many keys. */
static bool read_keys(const struct nan_check *check, struct group *group, struct error *err)
{
    const int nkeys = group->table->nkeys;
    const char *ids = buf_text(&group->ids);
    _cleanup_buf_ struct buf names = {0}, sql = {0};

    for (int i = 0; i < nkeys; i++)
        buf_printf(&names, "%sk%d", i > 0 ? ", " : "", i);
    buf_printf(&sql, "WITH d AS MATERIALIZED (SELECT %s, x FROM tailwater.doubt, unnest(",
               buf_text(&names));
    for (int i = 0; i < nkeys; i++)
        buf_printf(&sql, "keys[%d * n + 1:%d * n], ", i, i + 1);
    buf_printf(&sql, "xids) AS u(%s, x) WHERE id = ANY ($1::int8[])) SELECT ", buf_text(&names));
    for (int i = 0; i < nkeys; i++)
        buf_printf(&sql, "array_agg(k%d), ", i);
    buf_printf(&sql,
               "(SELECT array_agg(DISTINCT x) FROM d), count(*) FROM (SELECT DISTINCT %s FROM d) k",
               buf_text(&names));
    if (!pg_query_row(check->mirror, buf_text(&sql), 1, &ids, &group->keys, err))
        return false;
    group->count = (int) pg_int(group->keys, 0, nkeys + 1);
    return true;
}

static void group_release(struct group *group)
{
    buf_release(&group->ids);
    pg_result_free(group->keys);
}

/* ---- the two questions ---- */

/*
 * Are the transactions visible in this snapshot?  The stream has the low half of their numbers; one
 * that is not below the snapshot's end is not.
 */
static bool are_visible(const struct nan_check *check, const struct group *group, bool *ret_visible,
                        struct error *err)
{
    const char *xids = pg_text(group->keys, 0, group->table->nkeys);
    _cleanup_result_ struct pg_result *hidden = NULL;

    if (!pg_query_row(
            check->source,
            "WITH s AS MATERIALIZED (SELECT s, pg_snapshot_xmax(s)::text::int8 AS xmax"
            " FROM pg_current_snapshot() s), x AS MATERIALIZED (SELECT xmax, s,"
            " ((xmax - x + 2147483648) & 4294967295) - 2147483648 AS age"
            " FROM unnest($1::int8[]) AS u(x), s) SELECT count(*) FROM x WHERE CASE WHEN age <= 0"
            " THEN true ELSE NOT pg_visible_in_snapshot((xmax - age)::text::xid8, s) END",
            1, &xids, &hidden, err))
        return false;
    *ret_visible = pg_int(hidden, 0, 0) == 0;
    return true;
}

/* The key columns' types, under the names that the side knows them by. */
static bool key_types(const struct nan_check *check, const struct table *table, enum pg_side side,
                      struct pg_result **ret_types, struct error *err)
{
    _cleanup_buf_ struct buf oids = {0};
    const char *params[1];

    if (side == PG_MIRROR)
        return true;
    for (int i = 0; i < table->nkeys; i++)
        buf_printf(&oids, "%s%" PRIu32, i > 0 ? "," : "{",
                   table->columns[table->keys[i]].source_type);
    buf_add_char(&oids, '}');
    params[0] = buf_text(&oids);
    return pg_query(check->source,
                    "SELECT format_type(o, -1) FROM unnest($1::oid[]) WITH ORDINALITY AS u(o, n) "
                    "ORDER BY n",
                    1, params, ret_types, err);
}

/* 'N', '+', '-' or ' ' for each column in doubt, in one text. */
static void add_classes(struct buf *sql, const struct table *table)
{
    buf_add(sql, "concat(''");
    for (int i = 0; i < table->ncolumns; i++) {
        const struct table_column *column = &table->columns[i];

        if (!table_column_is_doubtful(column))
            continue;
        buf_add(sql, ", CASE t.");
        pg_add_ident(sql, column->name);
        buf_add(sql, " WHEN 'NaN' THEN 'N' WHEN 'Infinity' THEN '+' WHEN '-Infinity' THEN '-'");
        buf_add(sql, " ELSE ' ' END");
    }
    buf_add_char(sql, ')');
}

/* Rows of (the key's number in the group, classes), by number: of those that hold any. */
static bool ask(const struct nan_check *check, const struct group *group, enum pg_side side,
                struct pg_result **ret_answer, struct error *err)
{
    const struct table *table = group->table;
    _cleanup_result_ struct pg_result *types = NULL;
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_free_ const char **params = memory_alloc((size_t) table->nkeys * sizeof(*params));
    bool any = false;

    if (!key_types(check, table, side, &types, err))
        return false;
    buf_add(&sql, "SELECT u.n, ");
    add_classes(&sql, table);
    buf_add(&sql, " FROM unnest(");
    for (int i = 0; i < table->nkeys; i++) {
        buf_printf(&sql, "%s$%d::text[]", i > 0 ? ", " : "", i + 1);
        params[i] = pg_text(group->keys, 0, i);
    }
    buf_add(&sql, ") WITH ORDINALITY AS u(");
    for (int i = 0; i < table->nkeys; i++)
        buf_printf(&sql, "k%d, ", i);
    buf_add(&sql, side == PG_MIRROR || table->is_partitioned ? "n) JOIN " : "n) JOIN ONLY ");
    if (side == PG_MIRROR)
        pg_add_qualified(&sql, table->mirror_schema, table->mirror_name);
    else
        pg_add_qualified(&sql, table->schema, table->name);
    buf_add(&sql, " AS t ON ");
    for (int i = 0; i < table->nkeys; i++) {
        const struct table_column *column = &table->columns[table->keys[i]];

        buf_add(&sql, i > 0 ? " AND t." : "t.");
        pg_add_ident(&sql, column->name);
        buf_printf(&sql, " %s u.k%d::%s", column->equality, i,
                   side == PG_MIRROR ? column->cast_type : pg_text(types, i, 0));
    }
    buf_add(&sql, side == PG_MIRROR ? " WHERE t." DDL_DELETED_COLUMN " IS NULL AND (" : " WHERE (");
    for (int i = 0; i < table->ncolumns; i++) {
        if (!table_column_is_doubtful(&table->columns[i]))
            continue;
        buf_add(&sql, any ? " OR " : "");
        statement_add_special(&sql, "t", &table->columns[i]);
        any = true;
    }
    buf_add(&sql, ") ORDER BY u.n");
    return pg_query(side == PG_MIRROR ? check->mirror : check->source, buf_text(&sql), table->nkeys,
                    params, ret_answer, err);
}

static bool ask_source(const struct nan_check *check, const struct group *group, bool *ret_visible,
                       struct pg_result **ret_answer, struct error *err)
{
    return pg_exec(check->source, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", err) &&
           are_visible(check, group, ret_visible, err) &&
           (!*ret_visible || ask(check, group, PG_SOURCE, ret_answer, err)) &&
           pg_exec(check->source, "COMMIT", err);
}

/* ---- settling ---- */

/* The numbers of keys about which the answers, both ascending, differ: an int8 array's text. */
static int compare(const struct pg_result *there, const struct pg_result *here,
                   struct buf *ret_differ)
{
    int i = 0, j = 0, count = 0;

    while (i < pg_rows(there) || j < pg_rows(here)) {
        const int64_t a = i < pg_rows(there) ? pg_int(there, i, 0) : INT64_MAX;
        const int64_t b = j < pg_rows(here) ? pg_int(here, j, 0) : INT64_MAX;

        if (a != b || strcmp(pg_text(there, i, 1), pg_text(here, j, 1)) != 0)
            buf_printf(ret_differ, "%s%" PRId64, count++ > 0 ? "," : "{", a < b ? a : b);
        i += a <= b;
        j += b <= a;
    }
    buf_add(ret_differ, count > 0 ? "}" : "{}");
    return count;
}

static bool list_repairs(const struct nan_check *check, const struct group *group,
                         const char *differ, struct error *err)
{
    const struct table *table = group->table;
    const char *const fixed[] = {check->options.config->pipeline, table->schema, table->name,
                                 differ};
    _cleanup_free_ const char **params = memory_alloc((size_t) (table->nkeys + 4) *
                                                      sizeof(*params));
    _cleanup_result_ struct pg_result *done = NULL;
    _cleanup_buf_ struct buf sql = {0};

    memcpy(params, fixed, sizeof(fixed));
    buf_add(&sql,
            "INSERT INTO tailwater.repair (pipeline, schema, name, key, lsn) SELECT $1, $2, $3,"
            " ARRAY[");
    for (int i = 0; i < table->nkeys; i++)
        buf_printf(&sql, "%su.k%d", i > 0 ? ", " : "", i);
    buf_add(&sql, "], (SELECT cursor FROM tailwater.clock WHERE pipeline = $1) FROM unnest(");
    for (int i = 0; i < table->nkeys; i++) {
        buf_printf(&sql, "%s$%d::text[]", i > 0 ? ", " : "", i + 5);
        params[i + 4] = pg_text(group->keys, 0, i);
    }
    buf_add(&sql, ") WITH ORDINALITY AS u(");
    for (int i = 0; i < table->nkeys; i++)
        buf_printf(&sql, "k%d, ", i);
    buf_add(&sql, "n) WHERE u.n = ANY ($4::int8[])");
    return pg_query(check->mirror, buf_text(&sql), table->nkeys + 4, params, &done, err);
}

static bool forget(const struct nan_check *check, const struct group *group, struct error *err)
{
    const char *ids = buf_text(&group->ids);
    _cleanup_result_ struct pg_result *done = NULL;

    return pg_query(check->mirror, "DELETE FROM tailwater.doubt WHERE id = ANY ($1::int8[])", 1,
                    &ids, &done, err);
}

static bool take_clock(const struct nan_check *check, struct error *err)
{
    _cleanup_result_ struct pg_result *row = NULL;

    return pg_exec(check->mirror, "BEGIN; SET LOCAL lock_timeout = '2s'", err) &&
           pg_query_row(check->mirror, "SELECT FROM tailwater.clock WHERE pipeline = $1 FOR UPDATE",
                        1, &check->options.config->pipeline, &row, err);
}

/* While a large transaction is being applied the clock is taken, for as long as that lasts. */
static bool settle(const struct nan_check *check, const struct group *group, const char *differ,
                   struct error *err)
{
    for (;;) {
        struct error failure = {0};

        if (take_clock(check, &failure))
            return list_repairs(check, group, differ, err) && forget(check, group, err) &&
                   pg_exec(check->mirror, "COMMIT", err);
        *err = failure;
        if (strcmp(failure.sqlstate, "55P03") != 0 || !pg_exec(check->mirror, "ROLLBACK", err))
            return false;
        if (*check->options.stop)
            return error_set(err, ERROR_RETRY, "stopped");
    }
}

static bool check_group(struct nan_check *check, struct group *group, struct nan_result *result,
                        struct error *err)
{
    _cleanup_result_ struct pg_result *there = NULL, *here = NULL;
    _cleanup_buf_ struct buf differ = {0};
    bool is_visible;
    int count;

    if (!connect_to(check, PG_SOURCE, &check->source, err) || !read_keys(check, group, err))
        return false;
    if (!rate_take(check->rate, (size_t) group->count * ASK_BYTES, check->options.stop))
        return error_set(err, ERROR_RETRY, "stopped");
    if (!ask_source(check, group, &is_visible, &there, err))
        return false;
    result->is_waiting = !is_visible;
    if (!is_visible)
        return true;
    if (!ask(check, group, PG_MIRROR, &here, err))
        return false;
    count = compare(there, here, &differ);
    if (!(count > 0 ? settle(check, group, buf_text(&differ), err) : forget(check, group, err)))
        return false;
    result->asked += group->count;
    result->found += count;
    return true;
}

static bool next_group(struct nan_check *check, struct nan_result *result, bool *ret_any,
                       struct error *err)
{
    _cleanup_(group_release) struct group group = {0};

    if (!read_entries(check, &group, ret_any, err))
        return false;
    if (!*ret_any)
        return true;
    /* Of a table that is no longer configured: nobody asks any more. */
    if (group.table == NULL
            ? !forget(check, &group, err)
            : !check_group(check, &group, result, err) &&
                  !error_wrap(err, "asking about numbers of %s", group.table->label))
        return false;
    if (!result->is_waiting)
        check->next_id = group.last_id + 1;
    return true;
}

bool nan_check_run(struct nan_check *check, struct nan_result *ret_result, struct error *err)
{
    struct nan_result result = {0};
    bool any = true, is_fine = connect_to(check, PG_MIRROR, &check->mirror, err);

    while (is_fine && any && !result.is_waiting && !*check->options.stop)
        is_fine = next_group(check, &result, &any, err);
    if (!is_fine)
        hang_up(check);
    *ret_result = result;
    return is_fine;
}
