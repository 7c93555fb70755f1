/*
 * An entry, in the order of the functions: it is begun, which ends merging into it; its first hop
 * is found and sorted by the key of the table hopped to, behind the saved position; page by page
 * the rows' links lead on, depth first, one cursor per table of the path; keys are written; after
 * each page of the first hop its position is saved, and with each page of keys that its rows lead
 * to directly; at the end the entry goes.
 *
 * After a crash the entry goes on behind its position, which only ever covers keys that are
 * written.  Rows that came to lie before the position meanwhile have keys or entries of their own.
 *
 * The last hop's keys are written where they are found (key_arrays.h).  Where that is not possible, or one
 * link alone reaches too many, they go through the client, by COPY: that costs the server half of what
 * INSERT … SELECT of as many rows does, and 2.5 times less WAL, which is what a batch's commit has to
 * flush.
 */
#include "ledger/expansion.h"

#include "base/fault.h"
#include "base/map.h"
#include "base/memory.h"
#include "ledger/fan_out_page.h"
#include "ledger/key_arrays.h"
#include "ledger/links.h"
#include "ledger/position.h"
#include "ledger/reach.h"
#include "ledger/store.h"
#include "pg/codec.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_BYTES (1 << 20) /* about what is fetched at once, at most */
#define FIRST_ROWS 1000
#define LEAST_ROWS 100

#define MOST_KEYS 8000 /* fetched at once: a page of keys is a transaction */

/* Links fetched at once: where each time the table that they lead to may be read as a whole; … */
#define MOST_LINKS   64000
#define MOST_REACHED 1000000 /* what they reach lies in a file of the server for a while */
#define MOST_GROWTH  16

/* … where they are looked up by index: no longer than one of those statements takes, but for a page worth
 * its transaction, and then a millisecond. */
#define FEW_LINKS  1000
#define WORTH_KEYS 10000
#define MORE_LINKS 4000

/* Opening a cursor finds all of its rows.  An expansion that rests between its statements rests meanwhile too,
 * a millisecond for each few thousand rows; not for longer than this, since whoever wants the table for
 * himself, for a new column, waits. */
#define REST_NOW_AND_THEN                                                                          \
    " and (random() >= 0.0004 or clock_timestamp() > now() + '1 s' "                               \
    "or pg_sleep(0.001) is not null)"

struct expansion {
    const struct expansion_options *options;
    struct pg *mirror;
    int64_t nfetched; /* rows of any hop so far */
    char suspended[80];
};

/* The entry in work. */
struct entry {
    const struct fact *fact;
    int node;
    const char *id;
    const struct table *first; /* hopped to first: positions are of its key */
    bool is_unique;            /* no two rows of the fact's table have one key */
    struct key_arrays arrays;
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
    if (!fan_out_page_withdraw(mirror, options->pipeline, err)) {
        expansion_free(expansion);
        return error_wrap(err, "taking back what an earlier expander announced");
    }
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

static struct fan_out_page new_page(struct expansion *expansion, const struct entry *entry)
{
    return (struct fan_out_page){.mirror = expansion->mirror,
                                 .pipeline = expansion->options->pipeline,
                                 .fact = entry->fact,
                                 .node = entry->node,
                                 .entry = entry->id,
                                 .settings = ""};
}

/* Fetched rows of the fact's table: the columns of the key begin at column. */
struct fetched {
    const struct entry *entry;
    const struct pg_result *rows;
    int column;
};

/* Distinct keys as COPY has them. */
static void add_lines(const struct fetched *fetched, struct fan_out_page *page, struct buf *lines)
{
    const struct pg_result *rows = fetched->rows;
    struct map seen = {0};
    char head[64];

    snprintf(head, sizeof(head), "%" PRId64 "\t1\t%d", page->number, page->node);
    for (int row = 0; row < pg_rows(rows); row++) {
        const size_t begin = lines->len;

        if (pg_any_null(rows, row, fetched->column, page->fact->nkeys)) {
            page->nulls++;
            continue;
        }
        buf_add(lines, head);
        for (int i = 0; i < page->fact->nkeys; i++) {
            buf_add_char(lines, '\t');
            codec_copy_add(lines, pg_text(rows, row, fetched->column + i),
                           (uint32_t) pg_text_len(rows, row, fetched->column + i));
        }
        buf_add_char(lines, '\n');
        if (!fetched->entry->is_unique) {
            if (map_get(&seen, lines->data + begin, lines->len - begin) != NULL) {
                lines->len = begin;
                continue;
            }
            map_put(&seen, lines->data + begin, lines->len - begin, &seen);
        }
        page->keys++;
    }
    map_release(&seen);
}

static bool copy_fetched(void *context, struct fan_out_page *page, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0}, lines = {0};
    int64_t copied;

    add_lines(context, page, &lines);
    reach_add_copy(&sql, page->fact);
    return pg_copy_in_begin(page->mirror, buf_text(&sql), err) &&
           pg_copy_in_put(page->mirror, lines.data, lines.len, err) &&
           pg_copy_in_end(page->mirror, &copied, err);
}

static bool write_fetched(struct expansion *expansion, const struct entry *entry,
                          const struct pg_result *rows, int column, const char *position,
                          struct error *err)
{
    struct fetched fetched = {entry, rows, column};
    struct fan_out_page page = new_page(expansion, entry);

    page.write = copy_fetched;
    page.context = &fetched;
    page.position = position;
    return fan_out_page_write(&page, err);
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
            buf_printf(sql, "%sk.tailwater_k%d", comma, i);
            comma = ", ";
        }
    }
    buf_add(sql, " from (select m.*");
    for (int i = 0; i < table->nkeys; i++) {
        buf_add(sql, ", m.");
        pg_add_ident(sql, table->columns[table->keys[i]].name);
        buf_printf(sql, " as tailwater_p%d", i);
    }
    buf_add(sql, " from ");
    reach_add(sql, fact, node);
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
    if (entry->arrays.is_possible)
        buf_add(sql, REST_NOW_AND_THEN);
    buf_add(sql, ") h");
    if (parent == 0)
        reach_add_keys(sql, fact);
    for (int i = 0; is_first && i < table->nkeys; i++)
        buf_printf(sql, "%sh.tailwater_p%d", i ? ", " : " order by ", i);
}

static bool open_cursor(struct expansion *expansion, const struct entry *entry, int node,
                        bool is_first, int nparams, const char *const *params, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *result = NULL;

    add_cursor(&sql, entry, node, is_first, nparams > entry->fact->nodes[node].nlinks);
    if (pg_exec(expansion->mirror, "begin", err) &&
        pg_query(expansion->mirror, buf_text(&sql), nparams, params, &result, err) &&
        pg_exec(expansion->mirror, "commit", err))
        return true;
    fan_out_page_roll_back(expansion->mirror);
    return false;
}

static bool fetch(struct expansion *expansion, int node, int nrows, struct pg_result **ret_result,
                  struct error *err)
{
    char sql[80];

    snprintf(sql, sizeof(sql), "fetch %d from tailwater_hop_%d", nrows, node);
    return pg_query(expansion->mirror, sql, 0, NULL, ret_result, err);
}

static size_t page_bytes(const struct pg_result *result, int ncolumns)
{
    size_t bytes = 1;

    for (int row = 0; row < pg_rows(result); row++)
        for (int i = 0; i < ncolumns; i++)
            bytes += (size_t) pg_text_len(result, row, i);
    return bytes;
}

static int limited(int64_t nrows, int least, int most)
{
    return nrows > most ? most : nrows < least ? least : (int) nrows;
}

/* How many keys to fetch next, after such a page. */
static int next_keys(const struct pg_result *result, int nrows, int ncolumns)
{
    const size_t bytes = page_bytes(result, ncolumns);

    if (bytes > PAGE_BYTES)
        nrows /= 2;
    else if (bytes <= PAGE_BYTES / 2)
        nrows *= 2;
    return limited(nrows, LEAST_ROWS, MOST_KEYS);
}

/*
 * And how many rows with links, when such a page has reached so many rows.  Few links are looked up
 * in an index; many are compared with each row of the table, and then one reading should serve as many
 * of them as it can.
 */
static int next_links(const struct pg_result *result, int nrows, int ncolumns, int64_t nreached,
                      int least, int most)
{
    const int64_t bytes = (int64_t) page_bytes(result, ncolumns);
    int64_t growth = MOST_REACHED / (nreached > 0 ? nreached : 1);

    if (growth > PAGE_BYTES / bytes)
        growth = PAGE_BYTES / bytes;
    if (growth > MOST_GROWTH)
        growth = MOST_GROWTH;
    return limited(growth > 0 ? nrows * growth : nrows / 2, least, most);
}

/* How many links at most, where they are looked up by index and so many have reached so many rows. */
static int most_looked_up(int nrows, int64_t nreached)
{
    return limited(nrows * (int64_t) WORTH_KEYS / (nreached > 0 ? nreached : 1), FEW_LINKS,
                   MORE_LINKS);
}

static bool save_position(struct expansion *expansion, const struct entry *entry,
                          const char *position, struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL;
    const char *params[] = {entry->id, position};

    return pg_query(expansion->mirror,
                    "update tailwater.fan_out set position = $2::text[] where id = $1::bigint", 2,
                    params, &done, err);
}

static bool follow(struct expansion *expansion, struct entry *entry, int node, bool is_first,
                   int nparams, const char *const *params, struct error *err);

/* Rows of node, whose links begin at column, on to its parent. */
static bool follow_rows(struct expansion *expansion, struct entry *entry, int node,
                        const struct pg_result *rows, int column, int begin, int end,
                        struct error *err)
{
    _cleanup_links_ struct links links = {0};

    links_take(&links, entry->fact->nodes[node].nlinks, rows, column, begin, end);
    return links.count == 0 ||
           follow(expansion, entry, node, false, links.nlinks, links.params, err);
}

/* The same where the parent is the fact's table and keys can be written as arrays: all but of the
 * rows that alone reach too many. */
static bool write_arrays(struct expansion *expansion, struct entry *entry, int node,
                         const struct pg_result *rows, int column, struct error *err)
{
    int row = 0;

    while (row < pg_rows(rows) && !is_stopped(expansion)) {
        struct fan_out_page page = new_page(expansion, entry);
        bool is_large;

        if (!key_arrays_write(&entry->arrays, &page, rows, column, expansion->options->stop, &row,
                              &is_large, err))
            return false;
        expansion->nfetched += page.keys;
        if (!is_large)
            continue;
        if (!follow_rows(expansion, entry, node, rows, column, row, row + 1, err))
            return false;
        row++;
    }
    return true;
}

/*
 * From link values of node, in params, on to the fact.  The first hop's rows carry their table's
 * key in front, and save it: with the keys themselves where it is the fact's table, or the one before it
 * and keys are written as arrays.  Otherwise the first page is a single row: one country may have all the
 * orders, and nothing is saved in its midst.  Unless rows lead to the same, which is found once in a page.
 */
static bool follow(struct expansion *expansion, struct entry *entry, int node, bool is_first,
                   int nparams, const char *const *params, struct error *err)
{
    const struct fact *fact = entry->fact;
    const int parent = fact->nodes[node].parent;
    const int from = is_first ? entry->first->nkeys : 0;
    const int ncolumns = from + (parent > 0 ? fact->nodes[parent].nlinks : fact->nkeys);
    const bool as_arrays = parent > 0 && fact->nodes[parent].parent == 0 &&
                           entry->arrays.is_possible;
    const bool is_by_row = is_first && parent > 0 && !as_arrays &&
                           fact_links_have_key(fact, parent);
    int nrows = is_by_row ? 1 : FIRST_ROWS, found;

    if (!open_cursor(expansion, entry, node, is_first, nparams, params, err))
        return false;
    do {
        _cleanup_result_ struct pg_result *result = NULL;
        _cleanup_buf_ struct buf position = {0};
        const int asked = nrows;
        int64_t before, reached;

        if (!fetch(expansion, node, asked, &result, err))
            return false;
        found = pg_rows(result);
        expansion->nfetched += found;
        before = expansion->nfetched;
        if (found == 0)
            break;
        if (is_first)
            position_add(&position, entry->first, result, found - 1);
        if (parent > 0) {
            if (!(as_arrays ? write_arrays(expansion, entry, parent, result, from, err)
                            : follow_rows(expansion, entry, parent, result, from, 0, found, err)) ||
                (is_first && !is_stopped(expansion) &&
                 !save_position(expansion, entry, buf_text(&position), err)))
                return false;
            reached = expansion->nfetched - before;
            nrows = next_links(result, found, ncolumns, reached, is_by_row ? 1 : LEAST_ROWS,
                               as_arrays ? most_looked_up(found, reached) : MOST_LINKS);
        } else {
            if (!write_fetched(expansion, entry, result, from,
                               is_first ? buf_text(&position) : NULL, err))
                return false;
            nrows = next_keys(result, found, ncolumns);
        }
        if (found < asked)
            break;
    } while (!is_stopped(expansion));
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
    const int nlinks = entry->fact->nodes[entry->node].nlinks;
    const char *params[2 * LINKS_MAX];
    int nparams = 0;

    if (!read_array(expansion, entry->id, "links", &links, err) ||
        !read_array(expansion, entry->id, "position", &position, err) ||
        !key_arrays_prepare(&entry->arrays, expansion->mirror, entry->fact, entry->node,
                            entry->is_unique, err))
        return false;
    if (pg_rows(links) != nlinks)
        return error_set(err, ERROR_BUG, "the fan-out %s does not fit its fact", entry->id);
    for (int i = 0; i < pg_rows(links); i++)
        params[nparams++] = pg_text(links, i, 0);
    if (position_fits(entry->first, position))
        for (int i = 1; i < pg_rows(position); i++)
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

/* What an entry that failed may have left: cursors, and an announcement. */
static void tidy(struct expansion *expansion)
{
    struct error ignored;

    if (!pg_is_broken(expansion->mirror) && pg_exec(expansion->mirror, "close all", &ignored))
        (void) fan_out_page_withdraw(expansion->mirror, expansion->options->pipeline, &ignored);
}

/* Is the whole key of the fact's table part of the fact's? */
static bool is_key_unique(const struct fact *fact)
{
    const struct table *table = fact->nodes[0].table;

    for (int i = 0; i < table->nkeys; i++) {
        bool is_read = false;

        for (int j = 0; j < fact->nreads; j++)
            is_read |= fact->reads[j] == table->keys[i];
        if (!is_read)
            return false;
    }
    return !fact->has_expression;
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
    entry.first = entry.fact->nodes[entry.fact->nodes[entry.node].parent].table;
    entry.is_unique = is_key_unique(entry.fact);
    if (begin_entry(expansion, entry.id, &failure) && expand_entry(expansion, &entry, &failure))
        return true;
    tidy(expansion);
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
