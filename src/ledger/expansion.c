/*
 * An entry, in the order of the functions: it is begun, which ends merging into it; its first hop
 * is found and sorted by the key of the table hopped to, behind the saved position; page by page
 * the rows' links lead on, depth first, one cursor per table of the path; keys are written; after
 * each page of the first hop its position is saved; at the end the entry goes.
 *
 * After a crash the entry goes on behind its position, which only ever covers keys that are
 * written.  Rows that came to lie before the position meanwhile have keys or entries of their own.
 *
 * A page of keys takes the clock last and holds it for as long as a thousand rows take to insert:
 * that, and nothing else, is what a batch may wait for.  Its commit does not wait for the disk: a
 * crash of the server loses it together with the position, and any commit that somebody relies on
 * comes behind it in the WAL.
 */
#include "ledger/expansion.h"

#include "base/fault.h"
#include "base/memory.h"
#include "ledger/resolve.h"
#include "ledger/store.h"
#include "mirror/apply.h"
#include "pg/codec.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_ROWS 1000
#define MAX_WIDTH 34 /* key of the first hop's table, then links or key parts */

struct expansion {
    const struct expansion_options *options;
    struct pg *mirror;
    char suspended[80];
};

/* The entry in work. */
struct entry {
    const struct fact *fact;
    int node;
    const char *id;
    int nposition; /* values of a position: the key of the first hop's table */
};

static bool is_stopped(const struct expansion *expansion)
{
    return atomic_load(expansion->options->stop);
}

bool expansion_new(const struct expansion_options *options, struct expansion **ret_expansion,
                   struct error *err)
{
    struct pg *mirror;
    struct expansion *expansion;

    if (!pg_connect(&(struct pg_options){.side = PG_MIRROR,
                                         .conninfo = options->conninfo,
                                         .application = "tailwater expander",
                                         .settings = "-c synchronous_commit=off -c jit=off"},
                    &mirror, err))
        return false;
    pg_limit(mirror, -1, options->wake_fd);
    expansion = memory_new(struct expansion);
    expansion->options = options;
    expansion->mirror = mirror;
    *ret_expansion = expansion;
    return true;
}

void expansion_free(struct expansion *expansion)
{
    if (expansion == NULL)
        return;
    pg_free(expansion->mirror);
    free(expansion);
}

/* ---- writing keys ---- */

/* Keys on their way into the ledger: per part a text array. */
struct page {
    int nrows, nparts;
    struct buf parts[MAX_WIDTH];
};

static void page_begin(struct page *page, int nparts)
{
    page->nrows = 0;
    page->nparts = nparts;
    for (int i = 0; i < nparts; i++) {
        buf_clear(&page->parts[i]);
        codec_text_array_begin(&page->parts[i]);
    }
}

/* Columns from … of the result's row; one with a NULL is left out. */
static bool page_add(struct page *page, const struct pg_result *result, int row, int from)
{
    for (int i = 0; i < page->nparts; i++)
        if (pg_is_null(result, row, from + i))
            return false;
    for (int i = 0; i < page->nparts; i++)
        codec_text_array_add(&page->parts[i], pg_text(result, row, from + i),
                             (uint32_t) pg_text_len(result, row, from + i));
    page->nrows++;
    return true;
}

static void page_end(struct page *page)
{
    for (int i = 0; i < page->nparts; i++)
        codec_text_array_end(&page->parts[i]);
}

static void page_cleanup(struct page *page)
{
    for (int i = 0; i < MAX_WIDTH; i++)
        buf_release(&page->parts[i]);
}
#define _cleanup_page_ _cleanup_(page_cleanup)

static void add_insert(struct buf *sql, const struct fact *fact)
{
    buf_add(sql, "with u as materialized (select distinct * from unnest(");
    for (int i = 0; i < fact->nkeys; i++)
        buf_printf(sql, "%s$%d::%s[]", i ? ", " : "", i + 4, fact->keys[i].type);
    buf_add(sql, ") as u(");
    for (int i = 0; i < fact->nkeys; i++)
        buf_printf(sql, "%sk%d", i ? ", " : "", i);
    /* The number comes after the keys are made: the clock is taken last. */
    buf_add(sql, ")), n as materialized (select tailwater.next_batch($1) as number from "
                 "(select count(*) from u) c), l as (insert into ");
    resolve_add_ledger(sql, fact);
    buf_add(sql,
            " select n.number, 1::smallint, $2::smallint, u.* from n, u returning 1), "
            "e as (update tailwater.fan_out set keys = keys + (select count(*) from u) "
            "where id = $3::bigint) "
            "insert into tailwater.batch (pipeline, batch_id, kind, lsn_from, lsn_to, changes, "
            "keys) select $1, n.number, 'fan-out', c.cursor, c.cursor, 0, "
            "(select count(*) from l) from n, tailwater.clock c where c.pipeline = $1 "
            "returning keys");
}

static bool write_once(struct expansion *expansion, const struct entry *entry,
                       const struct page *page, int64_t *ret_keys, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *result = NULL;
    const char *params[MAX_WIDTH + 3];
    char node[16];

    snprintf(node, sizeof(node), "%d", entry->node);
    params[0] = expansion->options->pipeline;
    params[1] = node;
    params[2] = entry->id;
    for (int i = 0; i < page->nparts; i++)
        params[3 + i] = buf_text(&page->parts[i]);
    add_insert(&sql, entry->fact);
    if (!pg_query_row(expansion->mirror, buf_text(&sql), 3 + page->nparts, params, &result, err))
        return false;
    *ret_keys = pg_int(result, 0, 0);
    return true;
}

/* Where the ledger has no partition, it is made, once. */
static bool write_page(struct expansion *expansion, const struct entry *entry,
                       const struct page *page, struct error *err)
{
    int64_t keys = 0;

    if (page->nrows == 0)
        return true;
    if (!write_once(expansion, entry, page, &keys, err)) {
        _cleanup_result_ struct pg_result *made = NULL;

        if (strcmp(err->sqlstate, WRITER_NO_PARTITION) != 0 ||
            !pg_query(expansion->mirror, "select tailwater.add_partitions($1)", 1,
                      &expansion->options->pipeline, &made, err) ||
            !write_once(expansion, entry, page, &keys, err))
            return false;
    }
    entry->fact->nodes[entry->node].counts->keys += keys;
    return FAULT(fan_out_after_page, err);
}

/* ---- hops ---- */

/* A cursor over what values of node's links reach: rows of its parent, by what they give. */
static void add_cursor(struct buf *sql, const struct entry *entry, int node, bool is_first,
                       bool has_position)
{
    const struct fact *fact = entry->fact;
    const int parent = fact->nodes[node].parent, nlinks = fact->nodes[node].nlinks;
    const struct table *table = fact->nodes[parent].table;
    const char *comma = "";

    buf_printf(sql, "declare tailwater_hop_%d no scroll cursor with hold for select ", node);
    for (int i = 0; is_first && i < table->nkeys; i++) {
        buf_printf(sql, "%sh.tailwater_p%d", comma, i);
        comma = ", ";
    }
    if (parent > 0) {
        for (int i = 0; i < fact->nodes[parent].nlinks; i++) {
            buf_printf(sql, "%sh.", comma);
            pg_add_ident(sql, table->columns[fact->nodes[parent].links[i].column].name);
            comma = ", ";
        }
    } else {
        for (int i = 0; i < fact->nkeys; i++) {
            buf_printf(sql, "%s(select ", comma);
            comma = ", ";
            buf_printf(sql, "%s from (select ", fact->keys[i].sql);
            for (int j = 0; j < fact->nreads; j++) {
                buf_add(sql, j ? ", h." : "h.");
                pg_add_ident(sql, table->columns[fact->reads[j]].name);
            }
            buf_add(sql, ") as ");
            pg_add_ident(sql, fact->nodes[0].name);
            buf_add_char(sql, ')');
        }
    }
    buf_add(sql, " from (select m.*");
    for (int i = 0; i < table->nkeys; i++) {
        buf_add(sql, ", m.");
        pg_add_ident(sql, table->columns[table->keys[i]].name);
        buf_printf(sql, " as tailwater_p%d", i);
    }
    buf_add(sql, " from ");
    resolve_add_reach(sql, fact, node, true);
    if (has_position) {
        buf_add(sql, " and (");
        for (int i = 0; i < table->nkeys; i++) {
            buf_add(sql, i ? ", m." : "m.");
            pg_add_ident(sql, table->columns[table->keys[i]].name);
        }
        buf_add(sql, ") > (");
        for (int i = 0; i < table->nkeys; i++)
            buf_printf(sql, "%s$%d::%s", i ? ", " : "", nlinks + i + 1,
                       table->columns[table->keys[i]].cast_type);
        buf_add(sql, ")");
    }
    buf_add(sql, ") h");
    for (int i = 0; is_first && i < table->nkeys; i++)
        buf_printf(sql, "%sh.tailwater_p%d", i ? ", " : " order by ", i);
}

static bool open_cursor(struct expansion *expansion, const struct entry *entry, int node,
                        bool is_first, int nparams, const char *const *params, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *result = NULL;
    struct error ignored;

    add_cursor(&sql, entry, node, is_first, nparams > entry->fact->nodes[node].nlinks);
    if (pg_exec(expansion->mirror, "begin", err) &&
        pg_query(expansion->mirror, buf_text(&sql), nparams, params, &result, err) &&
        pg_exec(expansion->mirror, "commit", err))
        return true;
    if (!pg_is_broken(expansion->mirror))
        (void) pg_exec(expansion->mirror, "rollback", &ignored);
    return false;
}

static bool fetch(struct expansion *expansion, int node, struct pg_result **ret_result,
                  struct error *err)
{
    char sql[80];

    snprintf(sql, sizeof(sql), "fetch %d from tailwater_hop_%d", PAGE_ROWS, node);
    return pg_query(expansion->mirror, sql, 0, NULL, ret_result, err);
}

static bool save_position(struct expansion *expansion, const struct entry *entry,
                          const struct pg_result *result, int row, struct error *err)
{
    _cleanup_buf_ struct buf position = {0};
    _cleanup_result_ struct pg_result *done = NULL;
    const char *params[] = {entry->id, NULL};

    codec_text_array_begin(&position);
    for (int i = 0; i < entry->nposition; i++)
        codec_text_array_add(&position, pg_text(result, row, i),
                             (uint32_t) pg_text_len(result, row, i));
    codec_text_array_end(&position);
    params[1] = buf_text(&position);
    return pg_query(expansion->mirror,
                    "update tailwater.fan_out set position = $2::text[] where id = $1::bigint", 2,
                    params, &done, err);
}

/*
 * From link values of node, in params, on to the fact.  The first hop's rows carry their table's
 * key in front, and save it.
 */
static bool follow(struct expansion *expansion, const struct entry *entry, int node, bool is_first,
                   int nparams, const char *const *params, struct error *err)
{
    const struct fact *fact = entry->fact;
    const int parent = fact->nodes[node].parent;
    const int from = is_first ? entry->nposition : 0;
    int nrows = PAGE_ROWS;

    if (!open_cursor(expansion, entry, node, is_first, nparams, params, err))
        return false;
    while (nrows == PAGE_ROWS && !is_stopped(expansion)) {
        _cleanup_result_ struct pg_result *result = NULL;
        _cleanup_page_ struct page page = {0};
        const char *links[MAX_WIDTH];

        if (!fetch(expansion, node, &result, err))
            return false;
        nrows = pg_rows(result);
        page_begin(&page, parent > 0 ? fact->nodes[parent].nlinks : fact->nkeys);
        for (int row = 0; row < nrows; row++)
            if (!page_add(&page, result, row, from) && parent == 0)
                fact->nodes[entry->node].counts->nulls++;
        page_end(&page);
        for (int i = 0; i < page.nparts; i++)
            links[i] = buf_text(&page.parts[i]);
        if (parent > 0 ? page.nrows > 0 &&
                             !follow(expansion, entry, parent, false, page.nparts, links, err)
                       : !write_page(expansion, entry, &page, err))
            return false;
        if (is_first && nrows > 0 && !is_stopped(expansion) &&
            !save_position(expansion, entry, result, nrows - 1, err))
            return false;
    }
    return pg_execf(expansion->mirror, err, "close tailwater_hop_%d", node);
}

/* ---- entries ---- */

static const struct fact *find_fact(const struct expansion *expansion, const char *name,
                                    int64_t generation)
{
    const struct fact_list *facts = expansion->options->facts;

    for (int i = 0; i < facts->count; i++)
        if (strcmp(facts->facts[i].name, name) == 0 && facts->facts[i].generation == generation)
            return &facts->facts[i];
    return NULL;
}

/* Elements of an array column of a one-row result: its text is asked of the server, element by
 * element. */
static bool read_array(struct expansion *expansion, const char *id, const char *column,
                       struct pg_result **ret_elements, struct error *err)
{
    char sql[160];

    snprintf(sql, sizeof(sql),
             "select u.x from tailwater.fan_out e, unnest(e.%s) with ordinality u(x, n) "
             "where e.id = $1::bigint order by u.n",
             column);
    return pg_query(expansion->mirror, sql, 1, &id, ret_elements, err);
}

static bool expand_entry(struct expansion *expansion, struct entry *entry, struct error *err)
{
    _cleanup_result_ struct pg_result *links = NULL, *position = NULL, *gone = NULL;
    const struct fact_node *node = &entry->fact->nodes[entry->node];
    const char *params[2 * MAX_WIDTH];
    int nparams = 0;

    if (!read_array(expansion, entry->id, "links", &links, err) ||
        !read_array(expansion, entry->id, "position", &position, err))
        return false;
    entry->nposition = entry->fact->nodes[node->parent].table->nkeys;
    if (pg_rows(links) != node->nlinks ||
        (pg_rows(position) > 0 && pg_rows(position) != entry->nposition))
        return error_set(err, ERROR_BUG, "the fan-out %s does not fit its fact", entry->id);
    for (int i = 0; i < pg_rows(links); i++)
        params[nparams++] = pg_text(links, i, 0);
    for (int i = 0; i < pg_rows(position); i++)
        params[nparams++] = pg_text(position, i, 0);
    if (!follow(expansion, entry, entry->node, true, nparams, params, err))
        return false;
    if (is_stopped(expansion) || !FAULT(fan_out_before_end, err))
        return is_stopped(expansion);
    return pg_query(expansion->mirror, "delete from tailwater.fan_out where id = $1::bigint", 1,
                    &entry->id, &gone, err);
}

/* From here on no batch merges into it; one that did has committed before we read. */
static bool begin_entry(struct expansion *expansion, const char *id, struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL;

    return pg_query(expansion->mirror,
                    "update tailwater.fan_out set begun_at = clock_timestamp() "
                    "where id = $1::bigint and begun_at is null",
                    1, &id, &done, err) &&
           FAULT(fan_out_after_begin, err);
}

static void close_cursors(struct expansion *expansion)
{
    struct error ignored;

    if (!pg_is_broken(expansion->mirror))
        (void) pg_exec(expansion->mirror, "close all", &ignored);
}

bool expansion_next(struct expansion *expansion, bool *ret_found, const char **ret_suspended,
                    struct error *err)
{
    _cleanup_result_ struct pg_result *row = NULL;
    struct entry entry;
    struct error failure;

    *ret_suspended = NULL;
    if (!pg_query(expansion->mirror,
                  "select e.id, e.fact, e.generation, e.node from tailwater.fan_out e "
                  "join tailwater.fact f on f.name = e.fact and f.generation = e.generation "
                  "where f.pipeline = $1 and f.suspended is null order by e.id limit 1",
                  1, &expansion->options->pipeline, &row, err))
        return error_wrap(err, "looking for fan-outs");
    *ret_found = pg_rows(row) == 1;
    if (!*ret_found)
        return true;
    entry = (struct entry){.fact = find_fact(expansion, pg_text(row, 0, 1), pg_int(row, 0, 2)),
                           .node = (int) pg_int(row, 0, 3),
                           .id = pg_text(row, 0, 0)};
    if (entry.fact == NULL || entry.node < 1 || entry.node >= entry.fact->nnodes)
        return error_set(err, ERROR_BUG, "a fan-out of fact %s that nobody declared",
                         pg_text(row, 0, 1));
    if (begin_entry(expansion, entry.id, &failure) && expand_entry(expansion, &entry, &failure))
        return true;
    close_cursors(expansion);
    if (is_stopped(expansion))
        return true;
    *err = failure;
    error_wrap(err, "expanding keys of fact %s by way of %s", entry.fact->name,
               entry.fact->nodes[entry.node].name);
    if (failure.kind != ERROR_DATA || !entry.fact->has_expression)
        return false;
    if (!store_suspend(expansion->mirror, entry.fact->name, failure.message, &failure)) {
        *err = failure;
        return false;
    }
    snprintf(expansion->suspended, sizeof(expansion->suspended), "%s", entry.fact->name);
    *ret_suspended = expansion->suspended;
    return true;
}
