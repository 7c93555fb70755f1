/*
 * The captures of a table are, in the order of facts and their nodes, those of the nodes that are
 * this table; beside each stands its origin.  Returned link values are kept per node as the inside
 * of array literals, the server's own text: they go back as parameters without being taken apart.
 *
 * Keys of the fact's own rows go in with the write statement; of many rows they come back as lines,
 * and are copied in when the batch's writes are through, piece by piece.
 *
 * A hop counts the rows it finds before it makes them distinct, and finds at most limit + 1 of
 * them; then nothing of it is used, and the origin's values are deferred.  In a transaction written
 * in pieces, values that memory does not hold are deferred as well.
 *
 * Nothing here reads the source, and nothing here waits for a consumer.
 */
#include "ledger/resolve.h"

#include "base/clock.h"
#include "base/memory.h"
#include "ledger/own_keys.h"
#include "ledger/reach.h"
#include "mirror/writer.h"
#include "pg/codec.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_HELD_BYTES ((size_t) 4 << 20)
#define MAX_LINKS      16
#define KEPT_BYTES     ((size_t) 64 << 10)

/* Who a capture is for, and what of it waits to be followed. */
struct origin {
    const struct fact *fact;
    int node;
    int64_t rows;      /* that brought the values */
    int64_t count;     /* of values held */
    struct buf *links; /* per link "1,2,3" */
    struct buf lines;  /* of node 0: keys that are to be copied … */
    int64_t nlines;    /* … and how many the server says they are */
    bool is_prepared;  /* the hop from this node */
};

struct resolve {
    const char *pipeline;
    const struct table_list *tables;
    const struct fact_list *facts;
    bool is_guarded;
    struct arena arena;
    struct capture_list *lists; /* by table->index … */
    struct origin ***origins;   /* … and, capture by capture, who it is for */
    struct origin *all;         /* every node of every fact */
    int nall;
    struct capture_sink sink;
    struct buf sql;

    /* of the mirror transaction */
    size_t held_bytes;
    const struct table **everything; /* by fact: the truncated table */
    bool is_said;                    /* a deferred entry was written */

    bool is_batch_prepared, is_defer_prepared;
};

/* ---- captures ---- */

static const char *ident(struct arena *arena, const char *name)
{
    _cleanup_buf_ struct buf text = {0};

    pg_add_ident(&text, name);
    return arena_strdup(arena, buf_text(&text));
}

#define NUMBER "(select current_setting('" CURSOR_BATCH_SETTING "')::bigint)"

/* tailwater.guard_key('day', 'select (…)::text from (select $1[1]::date as "d") as "t"', array["d"::text])::date */
static const char *guarded(struct arena *arena, const struct fact *fact, const struct fact_key *key)
{
    const struct fact_node *node = &fact->nodes[0];
    _cleanup_buf_ struct buf query = {0}, sql = {0};

    buf_printf(&query, "select (%s)::text from (select ", key->sql);
    for (int i = 0; i < fact->nreads; i++) {
        const struct table_column *column = &node->table->columns[fact->reads[i]];

        buf_printf(&query, "%s$1[%d]::%s as ", i ? ", " : "", i + 1, column->cast_type);
        pg_add_ident(&query, column->name);
    }
    buf_add(&query, ") as ");
    pg_add_ident(&query, node->name);
    buf_add(&sql, "tailwater.guard_key(");
    pg_add_literal(&sql, fact->name);
    buf_add(&sql, ", ");
    pg_add_literal(&sql, buf_text(&query));
    buf_add(&sql, ", array[");
    for (int i = 0; i < fact->nreads; i++) {
        buf_add(&sql, i ? ", " : "");
        pg_add_ident(&sql, node->table->columns[fact->reads[i]].name);
        buf_add(&sql, "::text");
    }
    buf_printf(&sql, "])::%s", key->type);
    return arena_strdup(arena, buf_text(&sql));
}

/* The SQL of the key's values over a whole row. */
static const char **key_values(struct arena *arena, const struct fact *fact, bool is_guarded)
{
    const char **values = arena_new(arena, const char *, fact->nkeys);

    for (int i = 0; i < fact->nkeys; i++)
        values[i] = is_guarded && fact->keys[i].sql[0] == '(' ? guarded(arena, fact, &fact->keys[i])
                                                              : fact->keys[i].sql;
    return values;
}

static void capture_own(struct resolve *resolve, const struct fact *fact, struct capture *capture)
{
    _cleanup_buf_ struct buf insert = {0};
    bool *is_nullable = arena_new(&resolve->arena, bool, fact->nkeys);

    buf_add(&insert, "insert into ");
    reach_add_ledger(&insert, fact);
    for (int i = 0; i < fact->nkeys; i++)
        is_nullable[i] = fact->keys[i].is_nullable;
    capture->nreads = fact->nreads;
    capture->reads = fact->reads;
    capture->nvalues = fact->nkeys;
    capture->values = key_values(&resolve->arena, fact, resolve->is_guarded);
    capture->is_nullable = is_nullable;
    capture->are_columns = !fact->has_expression;
    capture->insert = arena_strdup(&resolve->arena, buf_text(&insert));
    capture->prefix = NUMBER ", 0::smallint, 0::smallint";
}

static void capture_links(struct resolve *resolve, const struct fact_node *node,
                          struct capture *capture)
{
    int *reads = arena_new(&resolve->arena, int, node->nlinks);
    const char **values = arena_new(&resolve->arena, const char *, node->nlinks);
    bool *is_nullable = arena_new(&resolve->arena, bool, node->nlinks);

    for (int i = 0; i < node->nlinks; i++) {
        const struct table_column *column = &node->table->columns[node->links[i].column];

        reads[i] = node->links[i].column;
        values[i] = ident(&resolve->arena, column->name);
        is_nullable[i] = !column->is_key;
    }
    capture->nreads = capture->nvalues = node->nlinks;
    capture->reads = reads;
    capture->values = values;
    capture->is_nullable = is_nullable;
    capture->are_columns = true;
}

/* A column that is there twice is read once. */
static void unique_reads(struct arena *arena, struct capture *capture)
{
    int *reads = arena_new(arena, int, capture->nreads), count = 0;

    for (int i = 0; i < capture->nreads; i++) {
        int at = 0;

        while (at < count && reads[at] != capture->reads[i])
            at++;
        if (at == count)
            reads[count++] = capture->reads[i];
    }
    capture->nreads = count;
    capture->reads = reads;
}

static void add_capture(struct resolve *resolve, struct origin *origin)
{
    const struct fact_node *node = &origin->fact->nodes[origin->node];
    struct capture_list *list = &resolve->lists[node->table->index];
    struct capture *capture = &list->captures[list->count];

    *capture = (struct capture){.nwatch = node->is_watch_all ? -1 : node->nwatch,
                                .watch = node->watch,
                                .row_name = node->name};
    if (origin->node == 0)
        capture_own(resolve, origin->fact, capture);
    else
        capture_links(resolve, node, capture);
    unique_reads(&resolve->arena, capture);
    list->returns |= origin->node > 0;
    list->copies |= capture_may_be_copied(node->table, capture);
    resolve->origins[node->table->index][list->count++] = origin;
}

/* Room for what each table will have. */
static void count_captures(struct resolve *resolve)
{
    int *counts = arena_new(&resolve->arena, int, resolve->tables->count);

    for (int i = 0; i < resolve->facts->count; i++) {
        const struct fact *fact = &resolve->facts->facts[i];

        if (fact->is_suspended)
            continue;
        resolve->nall += fact->nnodes;
        for (int j = 0; j < fact->nnodes; j++)
            if (!fact->nodes[j].table->is_derived)
                counts[fact->nodes[j].table->index]++;
    }
    for (int i = 0; i < resolve->tables->count; i++) {
        resolve->lists[i].captures = arena_new(&resolve->arena, struct capture, counts[i]);
        resolve->origins[i] = arena_new(&resolve->arena, struct origin *, counts[i]);
    }
    resolve->all = arena_new(&resolve->arena, struct origin, resolve->nall);
}

static void add_captures(struct resolve *resolve)
{
    int count = 0;

    for (int i = 0; i < resolve->facts->count; i++) {
        const struct fact *fact = &resolve->facts->facts[i];

        for (int j = 0; !fact->is_suspended && j < fact->nnodes; j++) {
            struct origin *origin = &resolve->all[count++];

            *origin = (struct origin){
                .fact = fact,
                .node = j,
                .links = arena_new(&resolve->arena, struct buf, fact->nodes[j].nlinks)};
            /* Who keeps a derived table gives its keys (src/refresh/onward.h). */
            if (!fact->nodes[j].table->is_derived)
                add_capture(resolve, origin);
        }
    }
}

/* ---- taking results ---- */

static void count_keys(const struct fact *fact, int node, int64_t keys, int64_t nulls)
{
    struct fact_counts *counts = fact->nodes[node].counts;

    counts->keys += keys;
    counts->nulls += nulls;
    if (keys > 0)
        fact->nodes[0].counts->news++;
}

static void forget_lines(struct origin *origin)
{
    if (origin->lines.size > KEPT_BYTES)
        buf_release(&origin->lines);
    buf_clear(&origin->lines);
    origin->nlines = 0;
}

static void forget(struct resolve *resolve, struct origin *origin)
{
    for (int i = 0; i < origin->fact->nodes[origin->node].nlinks; i++) {
        resolve->held_bytes -= origin->links[i].len;
        if (origin->links[i].size > KEPT_BYTES)
            buf_release(&origin->links[i]);
        buf_clear(&origin->links[i]);
    }
    forget_lines(origin);
    origin->count = origin->rows = 0;
}

static void begin(void *context)
{
    struct resolve *resolve = context;

    for (int i = 0; i < resolve->nall; i++)
        forget(resolve, &resolve->all[i]);
    memset(resolve->everything, 0, sizeof(*resolve->everything) * (size_t) resolve->facts->count);
    resolve->is_said = false;
}

/* "{1,2}" without its braces, behind what is there. */
static bool add_values(struct buf *values, const struct pg_result *result, int column,
                       struct error *err)
{
    const char *text = pg_text(result, 0, column);
    const size_t len = pg_text_len(result, 0, column);

    if (len < 2 || text[0] != '{' || text[len - 1] != '}')
        return error_set(err, ERROR_BUG, "link values that are no plain array");
    if (values->len > 0)
        buf_add_char(values, ',');
    buf_add_bytes(values, text + 1, len - 2);
    return true;
}

static bool take_links(struct resolve *resolve, struct origin *origin,
                       const struct pg_result *result, int column, struct error *err)
{
    origin->rows += pg_int(result, 0, column);
    if (pg_int(result, 0, column + 1) == 0)
        return true;
    origin->count += pg_int(result, 0, column + 1);
    for (int i = 0; i < origin->fact->nodes[origin->node].nlinks; i++) {
        const size_t before = origin->links[i].len;

        if (!add_values(&origin->links[i], result, column + 2 + i, err))
            return false;
        resolve->held_bytes += origin->links[i].len - before;
    }
    return true;
}

/* Keys that wait to be copied: their lines stand behind what is said of all captures, from column
 * lines on. */
static bool take_lines(struct resolve *resolve, const struct table *table,
                       const struct pg_result *result, int column, int lines, struct error *err)
{
    const struct capture_list *list = &resolve->lists[table->index];

    for (int i = 0; i < list->count && lines < pg_columns(result);
         column += capture_width(&list->captures[i++])) {
        struct origin *origin = resolve->origins[table->index][i];

        if (!capture_may_be_copied(table, &list->captures[i]))
            continue;
        if (!pg_is_null(result, 0, lines)) {
            buf_add_bytes(&origin->lines, pg_text(result, 0, lines), pg_text_len(result, 0, lines));
            buf_add_char(&origin->lines, '\n');
            origin->nlines += pg_int(result, 0, column + 1);
        }
        lines++;
    }
    return lines == pg_columns(result) ||
           error_set(err, ERROR_BUG, "%d columns of captures, not %d", pg_columns(result), lines);
}

static bool take(void *context, const struct table *table, const struct pg_result *result,
                 int column, struct error *err)
{
    struct resolve *resolve = context;
    const struct capture_list *list = &resolve->lists[table->index];
    const int first = column;

    for (int i = 0; i < list->count; i++) {
        struct origin *origin = resolve->origins[table->index][i];

        origin->fact->nodes[origin->node].counts->rows += pg_int(result, 0, column);
        if (origin->node == 0) {
            count_keys(origin->fact, 0, pg_int(result, 0, column + 1),
                       pg_int(result, 0, column + 2));
        } else if (!take_links(resolve, origin, result, column, err)) {
            return false;
        }
        column += capture_width(&list->captures[i]);
    }
    return !list->copies || take_lines(resolve, table, result, first, column + 1, err);
}

static void truncate(void *context, const struct table *table)
{
    struct resolve *resolve = context;

    for (int i = 0; i < resolve->facts->count; i++)
        for (int j = 0; j < resolve->facts->facts[i].nnodes; j++)
            if (resolve->facts->facts[i].nodes[j].table == table)
                resolve->everything[i] = table;
}

/* ---- hops ---- */

/* with h as (rows of the parent, one more than the limit at most), n as (how many) */
static void add_found(struct buf *sql, const struct fact *fact, int node, int nreads,
                      const int *reads, int limit_param)
{
    const struct table *parent = fact->nodes[fact->nodes[node].parent].table;

    buf_add(sql, "with h as materialized (select ");
    for (int i = 0; i < nreads; i++) {
        buf_add(sql, i ? ", m." : "m.");
        pg_add_ident(sql, parent->columns[reads[i]].name);
    }
    buf_add(sql, " from ");
    reach_add(sql, fact, node);
    buf_printf(sql, " limit $%d::bigint + 1), n as materialized (select count(*) as c from h)",
               limit_param);
}

/* The last hop: rows of the fact's table, whose keys go into the ledger.  Result: rows found, keys
 * written, keys left out. */
static void make_last_hop(struct resolve *resolve, const struct fact *fact, int node)
{
    const int nlinks = fact->nodes[node].nlinks;
    const char **values = key_values(&resolve->arena, fact, resolve->is_guarded);
    struct buf *sql = &resolve->sql;

    add_found(sql, fact, node, fact->nreads, fact->reads, nlinks + 1);
    buf_add(sql, ", k as (select distinct ");
    for (int i = 0; i < fact->nkeys; i++)
        buf_printf(sql, "%s%s as k%d", i ? ", " : "", values[i], i);
    buf_add(sql, " from h as ");
    pg_add_ident(sql, fact->nodes[0].name);
    buf_printf(sql, " where (select c from n) <= $%d::bigint), l as (insert into ", nlinks + 1);
    reach_add_ledger(sql, fact);
    buf_printf(sql, " select " NUMBER ", 0::smallint, $%d::smallint", nlinks + 2);
    for (int i = 0; i < fact->nkeys; i++)
        buf_printf(sql, ", v.k%d", i);
    buf_add(sql, " from k v");
    reach_add_key_test(sql, fact, " where ", "is not null", " and ");
    buf_add(sql, " returning 1) select (select c from n), (select count(*) from l), "
                 "(select count(*) from k v");
    if (!reach_add_key_test(sql, fact, " where ", "is null", " or "))
        buf_add(sql, " where false");
    buf_add(sql, "), set_config('" CURSOR_KEYS_SETTING "', (current_setting('" CURSOR_KEYS_SETTING
                 "')::bigint + (select count(*) from l))::text, true)");
}

/* A hop to another dimension, whose own link values are returned.  Result: rows found, values, the
 * arrays. */
static void make_hop(struct resolve *resolve, const struct fact *fact, int node)
{
    const struct fact_node *parent = &fact->nodes[fact->nodes[node].parent];
    int *reads = arena_new(&resolve->arena, int, parent->nlinks);
    struct buf *sql = &resolve->sql;
    struct capture links = {0};

    capture_links(resolve, parent, &links);
    unique_reads(&resolve->arena, &links);
    memcpy(reads, links.reads, sizeof(int) * (size_t) links.nreads);
    add_found(sql, fact, node, links.nreads, reads, fact->nodes[node].nlinks + 1);
    buf_add(sql, ", v as (select distinct ");
    for (int i = 0; i < links.nvalues; i++)
        buf_printf(sql, "%sh.%s as k%d", i ? ", " : "", links.values[i], i);
    buf_printf(sql, " from h where (select c from n) <= $%d::bigint", fact->nodes[node].nlinks + 1);
    for (int i = 0; i < links.nvalues; i++)
        buf_printf(sql, " and h.%s is not null", links.values[i]);
    buf_add(sql, ") select (select c from n), r.* from (select count(*)");
    for (int i = 0; i < links.nvalues; i++)
        buf_printf(sql, ", array_agg(v.k%d)", i);
    buf_add(sql, " from v) r");
}

static struct origin *origin_of(struct resolve *resolve, const struct fact *fact, int node)
{
    for (int i = 0; i < resolve->nall; i++)
        if (resolve->all[i].fact == fact && resolve->all[i].node == node)
            return &resolve->all[i];
    return NULL;
}

static void skip(struct pg_result **result)
{
    pg_result_free(*result);
    *result = NULL;
}

/* Prepare (once) and run a statement; *ret_result is its result. */
static bool run(struct pg *pg, bool *is_prepared, const char *name, const char *sql, int nparams,
                const struct pg_param *params, struct pg_result **ret_result, struct error *err)
{
    struct pg_result *result = NULL, *other = NULL;

    if ((!*is_prepared && !pg_send_prepare(pg, name, sql, err)) ||
        !pg_send_prepared(pg, name, nparams, params, err) || !pg_pipeline_sync(pg, err))
        return false;
    if (!*is_prepared) {
        if (!pg_pipeline_next(pg, &other, err))
            return false;
        skip(&other);
        *is_prepared = true;
    }
    if (!pg_pipeline_next(pg, &result, err))
        return false;
    if (!pg_pipeline_next(pg, &other, err)) {
        pg_result_free(result);
        return false;
    }
    skip(&other);
    *ret_result = result;
    return true;
}

/* Link values on their way: "{1,2,3}" each. */
struct values {
    int count;
    struct buf arrays[MAX_LINKS];
};

static void values_cleanup(struct values *values)
{
    for (int i = 0; i < values->count; i++)
        buf_release(&values->arrays[i]);
}

static void values_take_held(struct values *values, const struct origin *origin)
{
    values->count = origin->fact->nodes[origin->node].nlinks;
    for (int i = 0; i < values->count; i++) {
        buf_add_char(&values->arrays[i], '{');
        buf_add_bytes(&values->arrays[i], origin->links[i].data, origin->links[i].len);
        buf_add_char(&values->arrays[i], '}');
    }
}

static void values_take_result(struct values *values, const struct pg_result *result, int column,
                               int count)
{
    values_cleanup(values);
    *values = (struct values){.count = count};
    for (int i = 0; i < count; i++)
        buf_add_bytes(&values->arrays[i], pg_text(result, 0, column + i),
                      pg_text_len(result, 0, column + i));
}

/* ---- deferring ---- */

/*
 * An equal entry that has not begun stands for this one too: its row is locked by this update until
 * the batch commits, and the expander begins an entry by an update of its own before it reads.
 */
static const char defer_sql[] =
    "with v as (select $1::text as fact, $2::bigint as generation, $3::smallint as node, "
    "$4::text[] as links, md5($4::text[]::text) as digest), "
    "e as (update tailwater.fan_out f set asked = f.asked + 1 from v where f.fact = v.fact and "
    "f.node = v.node and f.digest = v.digest and f.begun_at is null and "
    "f.generation = v.generation and f.links = v.links returning 1) "
    "insert into tailwater.fan_out (fact, generation, node, batch_id, lsn, links, digest) "
    "select v.fact, v.generation, v.node, " NUMBER ", $5::pg_lsn, v.links, v.digest from v "
    "where not exists (select from e)";

static bool defer(struct resolve *resolve, struct pg *pg, struct origin *origin,
                  const struct capture_scope *scope, struct error *err)
{
    _cleanup_(values_cleanup) struct values values = {0};
    _cleanup_result_ struct pg_result *result = NULL;
    _cleanup_buf_ struct buf links = {0};
    char generation[24], node[16], lsn[LSN_TEXT_SIZE];
    const char *texts[5] = {origin->fact->name, generation, node, NULL, lsn_text(scope->from, lsn)};
    struct pg_param params[5];

    values_take_held(&values, origin);
    codec_text_array_begin(&links);
    for (int i = 0; i < values.count; i++)
        codec_text_array_add(&links, values.arrays[i].data, (uint32_t) values.arrays[i].len);
    codec_text_array_end(&links);
    texts[3] = buf_text(&links);
    snprintf(generation, sizeof(generation), "%" PRId64, origin->fact->generation);
    snprintf(node, sizeof(node), "%d", origin->node);
    for (int i = 0; i < 5; i++)
        params[i] = (struct pg_param){.data = texts[i], .len = strlen(texts[i])};
    if (!run(pg, &resolve->is_defer_prepared, "tailwater_defer", defer_sql, 5, params, &result,
             err))
        return error_wrap(err, "deferring keys of fact %s", origin->fact->name);
    origin->fact->nodes[origin->node].counts->deferred += origin->rows;
    origin->fact->nodes[origin->node].counts->entries++;
    resolve->is_said = true;
    forget(resolve, origin);
    return true;
}

/* ---- following ---- */

/* One hop from node; *ret_found is how many rows it met. */
static bool hop(struct resolve *resolve, struct pg *pg, const struct origin *origin, int node,
                struct values *values, struct pg_result **ret_result, struct error *err)
{
    const struct fact *fact = origin->fact;
    struct origin *from = origin_of(resolve, fact, node);
    struct pg_param params[MAX_LINKS + 2];
    char name[64], limit[24], number[16];
    int count = 0;

    snprintf(name, sizeof(name), "tailwater_hop_%d_%d", (int) (fact - resolve->facts->facts), node);
    snprintf(limit, sizeof(limit), "%" PRId64, fact->nodes[origin->node].limit);
    snprintf(number, sizeof(number), "%d", origin->node);
    for (int i = 0; i < values->count; i++)
        params[count++] = (struct pg_param){.data = buf_text(&values->arrays[i]),
                                            .len = values->arrays[i].len};
    params[count++] = (struct pg_param){.data = limit, .len = strlen(limit)};
    buf_clear(&resolve->sql);
    if (fact->nodes[node].parent == 0) {
        params[count++] = (struct pg_param){.data = number, .len = strlen(number)};
        if (!from->is_prepared)
            make_last_hop(resolve, fact, node);
    } else if (!from->is_prepared) {
        make_hop(resolve, fact, node);
    }
    if (run(pg, &from->is_prepared, name, buf_text(&resolve->sql), count, params, ret_result, err))
        return true;
    /* Nothing else in it can meet bad data. */
    if (!writer_explain_ledger(err) && err->kind == ERROR_DATA && fact->has_expression &&
        fact->nodes[node].parent == 0) {
        error_wrap(err, "fact %s", fact->name);
        snprintf(err->sqlstate, sizeof(err->sqlstate), "%s", RESOLVE_KEY_FAILED);
    }
    return error_wrap(err, "keys of fact %s by way of %s", fact->name,
                      fact->nodes[origin->node].name);
}

static bool follow_origin(struct resolve *resolve, struct pg *pg, struct origin *origin,
                          const struct capture_scope *scope, struct error *err)
{
    _cleanup_(values_cleanup) struct values values = {0};
    const struct fact_node *nodes = origin->fact->nodes;

    values_take_held(&values, origin);
    for (int node = origin->node; node > 0; node = nodes[node].parent) {
        _cleanup_result_ struct pg_result *result = NULL;

        if (!hop(resolve, pg, origin, node, &values, &result, err))
            return false;
        if (pg_int(result, 0, 0) > nodes[origin->node].limit)
            return defer(resolve, pg, origin, scope, err);
        if (nodes[node].parent == 0) {
            count_keys(origin->fact, origin->node, pg_int(result, 0, 1), pg_int(result, 0, 2));
            break;
        }
        if (pg_int(result, 0, 1) == 0)
            break;
        values_take_result(&values, result, 2, nodes[nodes[node].parent].nlinks);
    }
    forget(resolve, origin);
    return true;
}

static bool copy_keys(struct resolve *resolve, struct pg *pg, const struct capture_scope *scope,
                      struct error *err)
{
    for (int i = 0; i < resolve->nall; i++) {
        struct origin *origin = &resolve->all[i];

        if (origin->nlines == 0)
            continue;
        if (!own_keys_copy(pg, origin->fact, scope->number, &origin->lines, origin->nlines, err)) {
            (void) writer_explain_ledger(err);
            return false;
        }
        forget_lines(origin);
    }
    return true;
}

static bool follow_links(struct resolve *resolve, struct pg *pg, const struct capture_scope *scope,
                         struct error *err)
{
    if (!scope->is_last && resolve->held_bytes <= MAX_HELD_BYTES)
        return true;
    for (int i = 0; i < resolve->nall; i++) {
        struct origin *origin = &resolve->all[i];
        const bool is_left = !scope->is_last || origin->fact->nodes[origin->node].is_deferred;

        if (origin->count > 0 && !(is_left ? defer(resolve, pg, origin, scope, err)
                                           : follow_origin(resolve, pg, origin, scope, err)))
            return false;
    }
    return true;
}

static bool follow(void *context, struct pg *pg, const struct capture_scope *scope,
                   struct error *err)
{
    return copy_keys(context, pg, scope, err) && follow_links(context, pg, scope, err);
}

/* ---- the end of the transaction ---- */

static bool send_everything(struct resolve *resolve, struct pg *pg, int i, struct error *err)
{
    const char *texts[2] = {resolve->facts->facts[i].name, NULL};
    char reason[300];
    struct pg_param params[2];

    snprintf(reason, sizeof(reason), "%s was truncated", resolve->everything[i]->label);
    texts[1] = reason;
    for (int j = 0; j < 2; j++)
        params[j] = (struct pg_param){.data = texts[j], .len = strlen(texts[j])};
    return pg_send_query(pg,
                         "insert into tailwater.everything (fact, generation, batch_id, reason) "
                         "select name, generation, " NUMBER ", $2 from tailwater.fact "
                         "where name = $1",
                         2, params, err);
}

/* A row for the batch, unless it wrote nothing. */
static const char batch_sql[] =
    "insert into tailwater.batch (pipeline, batch_id, kind, lsn_from, lsn_to, commit_time, "
    "changes, keys) select $1, " NUMBER ", $2, $3::pg_lsn, $4::pg_lsn, $5::timestamptz, "
    "$6::bigint, k.keys from (select current_setting('" CURSOR_KEYS_SETTING "')::bigint as keys) k "
    "where k.keys > 0 or $7::boolean";

static bool send_batch(struct resolve *resolve, struct pg *pg, const struct capture_scope *scope,
                       bool is_certain, int *queued, struct error *err)
{
    char from[LSN_TEXT_SIZE], to[LSN_TEXT_SIZE], changes[24];
    const uint64_t time = __builtin_bswap64(
        (uint64_t) (scope->commit_time_us - CLOCK_POSTGRES_EPOCH_US));
    const char *texts[7] = {resolve->pipeline,
                            scope->kind,
                            lsn_text(scope->from, from),
                            lsn_text(scope->to, to),
                            NULL,
                            changes,
                            is_certain ? "true" : "false"};
    struct pg_param params[7] = {{0}};

    snprintf(changes, sizeof(changes), "%" PRId64, scope->changes);
    for (int i = 0; i < 7; i++)
        if (texts[i] != NULL)
            params[i] = (struct pg_param){.data = texts[i], .len = strlen(texts[i])};
    if (scope->commit_time_us != 0)
        params[4] = (struct pg_param){
            .data = (const char *) &time, .len = sizeof(time), .is_binary = true};
    if (!resolve->is_batch_prepared) {
        if (!pg_send_prepare(pg, "tailwater_batch", batch_sql, err))
            return false;
        resolve->is_batch_prepared = true;
        (*queued)++;
    }
    (*queued)++;
    return pg_send_prepared(pg, "tailwater_batch", 7, params, err);
}

static bool finish(void *context, struct pg *pg, const struct capture_scope *scope, int *ret_queued,
                   struct error *err)
{
    struct resolve *resolve = context;
    bool is_certain = resolve->is_said;
    int queued = 0;

    for (int i = 0; i < resolve->facts->count; i++) {
        if (resolve->everything[i] == NULL)
            continue;
        if (!send_everything(resolve, pg, i, err))
            return false;
        resolve->facts->facts[i].nodes[0].counts->news++;
        queued++;
        is_certain = true;
    }
    if (!send_batch(resolve, pg, scope, is_certain, &queued, err))
        return false;
    *ret_queued = queued;
    return true;
}

/* ---- the whole ---- */

struct resolve *resolve_new(const char *pipeline, const struct table_list *tables,
                            const struct fact_list *facts, bool is_guarded)
{
    struct resolve *resolve = memory_new(struct resolve);

    resolve->pipeline = pipeline;
    resolve->tables = tables;
    resolve->facts = facts;
    resolve->is_guarded = is_guarded;
    resolve->lists = arena_new(&resolve->arena, struct capture_list, tables->count + 1);
    resolve->origins = arena_new(&resolve->arena, struct origin **, tables->count + 1);
    resolve->everything = arena_new(&resolve->arena, const struct table *, facts->count + 1);
    count_captures(resolve);
    add_captures(resolve);
    resolve->sink = (struct capture_sink){resolve,  resolve->lists, begin, take,
                                          truncate, follow,         finish};
    return resolve;
}

void resolve_free(struct resolve *resolve)
{
    if (resolve == NULL)
        return;
    for (int i = 0; i < resolve->nall; i++)
        for (int j = 0; j < resolve->all[i].fact->nodes[resolve->all[i].node].nlinks; j++)
            buf_release(&resolve->all[i].links[j]);
    for (int i = 0; i < resolve->nall; i++)
        buf_release(&resolve->all[i].lines);
    buf_release(&resolve->sql);
    arena_release(&resolve->arena);
    free(resolve);
}

const struct capture_sink *resolve_sink(const struct resolve *resolve)
{
    return resolve->nall > 0 ? &resolve->sink : NULL;
}

bool resolve_has_expressions(const struct fact_list *facts)
{
    for (int i = 0; i < facts->count; i++)
        if (facts->facts[i].has_expression && !facts->facts[i].is_suspended)
            return true;
    return false;
}

struct fact *resolve_failed_fact(const struct fact_list *facts, const struct error *err)
{
    if (strcmp(err->sqlstate, RESOLVE_KEY_FAILED) != 0)
        return NULL;
    for (int i = 0; i < facts->count; i++) {
        char mark[80];

        snprintf(mark, sizeof(mark), "fact %s: ", facts->facts[i].name);
        if (strstr(err->message, mark) != NULL)
            return &facts->facts[i];
    }
    return NULL;
}
