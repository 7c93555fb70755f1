/*
 * Short statements with rests between them.  What else the processors have to do waits for as long as
 * one of them computes, not for a page; and what is written this way takes a quarter of a processor,
 * however much it is, so that single transactions hardly notice it (docs/design.md has the
 * measurements).
 *
 * The plan is made once, and goes by the index: of the arrays' lengths it knows nothing.
 */
#include "ledger/key_arrays.h"

#include "base/clock.h"
#include "base/fault.h"
#include "ledger/links.h"
#include "ledger/position.h"
#include "ledger/reach.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#define FEW_KEYS        250 /* of a statement: with fewer than that it has more links the next time … */
#define MANY_KEYS       500 /* … and fewer with more than that; about so many … */
#define ENOUGH_KEYS     400
#define MOST_KEYS       2000 /* more than that it does not write */
#define MOST_LINKS      1000
#define PAGE_KEYS       16000
#define KEYS_PER_SECOND 222000 /* on average: of what held it up, … */
#define BEHIND_US       10000  /* … it makes up so much */
#define REST_US         10000  /* the longest; work that takes longer is not all computing */

#define SETTINGS                                                                                   \
    PG_BY_KEY_LOCAL                                                                                \
    "SET LOCAL enable_memoize = off; SET LOCAL plan_cache_mode = force_generic_plan; "

/* ---- the statement ---- */

/* One aggregate over the look-up, and no more: with a count beside it, it took half as long again. */
static void add_write(struct buf *sql, const struct fact *fact, int node, int origin)
{
    buf_add(sql, "prepare tailwater_write_arrays as insert into ");
    reach_add_ledger_arrays(sql, fact);
    buf_printf(sql, " select $%d::bigint, 1, %d", fact->nodes[node].nlinks + 1, origin);
    for (int i = 0; i < fact->nkeys; i++)
        buf_printf(sql, ", array_agg(f.tailwater_k%d)", i);
    buf_add(sql, " from (select k.* from (select m.* from ");
    reach_add(sql, fact, node);
    buf_add(sql, ") h");
    reach_add_keys(sql, fact);
    buf_printf(sql,
               " limit %d) f having count(*) between 1 and %d returning cardinality(\"keys$1\")",
               MOST_KEYS + 1, MOST_KEYS);
}

/*
 * Where nothing was written: is there nothing, or too much?  Not, how much: a batch may have been committed
 * between the two statements, and taken so many rows away that the rest would have fitted.
 */
static void add_look(struct buf *sql, const struct fact *fact, int node)
{
    buf_add(sql, "prepare tailwater_look_for_keys as select exists (select from ");
    reach_add(sql, fact, node);
    buf_add(sql, ")");
}

/* Can no key be NULL, no two rows of the fact's table have the same, and no two rows of the node lead
 * to one of these rows?  For what comes twice would be in two statements. */
static bool is_plain(const struct fact *fact, int node, bool is_unique)
{
    for (int i = 0; i < fact->nkeys; i++)
        is_unique &= !fact->keys[i].is_nullable;
    return is_unique && fact_links_have_key(fact, node);
}

/* Arrays have columns in the ledger where they are possible (tailwater.add_key_arrays).  Somebody may have
 * taken away the right to sleep in the server, as the look-up of links does (expansion.c). */
static bool takes_arrays(struct pg *mirror, const struct fact *fact, bool *ret_takes,
                         struct error *err)
{
    _cleanup_result_ struct pg_result *found = NULL;

    if (!pg_query_row(mirror,
                      "select exists (select from pg_attribute a where a.attname = 'keys$1' and "
                      "a.attrelid = to_regclass(format('tailwater.%I', 'ledger_' || $1))) "
                      "and has_function_privilege('pg_catalog.pg_sleep(float8)', 'execute')",
                      1, &fact->name, &found, err))
        return false;
    *ret_takes = pg_bool(found, 0, 0);
    return true;
}

/* The node by which origin's way comes to the fact. */
static int last_hop(const struct fact *fact, int origin)
{
    int node = origin;

    while (fact->nodes[node].parent > 0)
        node = fact->nodes[node].parent;
    return node;
}

bool key_arrays_prepare(struct key_arrays *arrays, struct pg *mirror, const struct fact *fact,
                        int origin, bool is_unique, struct error *err)
{
    const int node = last_hop(fact, origin);
    bool has_index, takes;
    _cleanup_buf_ struct buf write = {0}, look = {0};

    *arrays = (struct key_arrays){.node = node, .per_statement = 1};
    arrays->due_us = arrays->rested_us = clock_tick_us();
    if (node == origin || !is_plain(fact, node, is_unique))
        return true;
    if (!takes_arrays(mirror, fact, &takes, err) ||
        !fact_has_index(mirror, fact, node, &has_index, err))
        return false;
    arrays->is_possible = takes && has_index;
    if (!arrays->is_possible)
        return true;
    add_write(&write, fact, node, origin);
    add_look(&look, fact, node);
    return pg_exec(mirror, "deallocate all", err) && pg_exec(mirror, buf_text(&write), err) &&
           pg_exec(mirror, buf_text(&look), err);
}

/* ---- a page ---- */

/* The rows of a page. */
struct work {
    struct key_arrays *arrays;
    const struct pg_result *rows;
    int column, begin, end; /* end: behind what the page has */
    const atomic_bool *stop;
    bool is_large;
    struct buf position; /* of the row before end */
};

/* Until more keys are due, and at least for as long as was worked since the last rest; up to REST_US. */
static void rest(struct key_arrays *arrays)
{
    const int64_t now_us = clock_tick_us();
    int64_t rest_us = now_us - arrays->rested_us;

    if (rest_us < arrays->due_us - now_us)
        rest_us = arrays->due_us - now_us;
    if (rest_us > REST_US)
        rest_us = REST_US;
    (void) nanosleep(&(struct timespec){.tv_nsec = rest_us * 1000}, NULL);
    arrays->rested_us = clock_tick_us();
}

/* When more keys are due, after so many. */
static void add_due(struct key_arrays *arrays, int64_t keys)
{
    const int64_t least_us = clock_tick_us() - BEHIND_US;

    arrays->due_us += keys * 1000000 / KEYS_PER_SECOND;
    if (arrays->due_us < least_us)
        arrays->due_us = least_us;
}

static int limited(int64_t nlinks)
{
    return nlinks < 1 ? 1 : nlinks > MOST_LINKS ? MOST_LINKS : (int) nlinks;
}

/* How many links next, when so many reached so many rows. */
static int next_links(int nlinks, int64_t found)
{
    const int64_t fitting = nlinks * (int64_t) ENOUGH_KEYS / (found > 0 ? found : 1);

    if (found >= FEW_KEYS && found <= MANY_KEYS)
        return nlinks;
    return limited(fitting < 4 * (int64_t) nlinks ? fitting : 4 * (int64_t) nlinks);
}

/* Keys of so many links; *ret_found is above MOST_KEYS, and nothing written, where there may be too many. */
static bool write_links(const struct work *work, struct fan_out_page *page, int nlinks,
                        int64_t *ret_found, struct error *err)
{
    _cleanup_links_ struct links links = {0};
    _cleanup_result_ struct pg_result *written = NULL, *seen = NULL;
    char number[24];

    links_take(&links, page->fact->nodes[work->arrays->node].nlinks, work->rows, work->column,
               work->end, work->end + nlinks);
    *ret_found = 0;
    if (links.count == 0)
        return true;
    snprintf(number, sizeof(number), "%" PRId64, page->number);
    links.params[links.nlinks] = number;
    if (!pg_query_prepared(page->mirror, "tailwater_write_arrays", links.nlinks + 1, links.params,
                           &written, err))
        return false;
    if (pg_rows(written) > 0) {
        *ret_found = pg_int(written, 0, 0);
        page->keys += *ret_found;
        return true;
    }
    if (!FAULT(fan_out_before_look, err) ||
        !pg_query_prepared(page->mirror, "tailwater_look_for_keys", links.nlinks, links.params,
                           &seen, err))
        return false;
    *ret_found = pg_bool(seen, 0, 0) ? MOST_KEYS + 1 : 0;
    return true;
}

/* Of rows of the first hop: those before end are done, and are not looked at again. */
static void save_position(struct work *work, struct fan_out_page *page)
{
    if (work->column == 0 || work->end == work->begin)
        return;
    buf_clear(&work->position);
    position_add(&work->position, page->fact->nodes[work->arrays->node].table, work->rows,
                 work->end - 1);
    page->position = buf_text(&work->position);
}

static bool write_rows(void *context, struct fan_out_page *page, struct error *err)
{
    struct work *work = context;

    work->end = work->begin;
    work->is_large = false;
    page->position = NULL;
    while (!work->is_large && work->end < pg_rows(work->rows) && page->keys < PAGE_KEYS &&
           !atomic_load(work->stop)) {
        const int left = pg_rows(work->rows) - work->end;
        const int nlinks = left < work->arrays->per_statement ? left : work->arrays->per_statement;
        int64_t found;

        rest(work->arrays);
        if (!write_links(work, page, nlinks, &found, err))
            return false;
        work->is_large = nlinks == 1 && found > MOST_KEYS;
        if (found <= MOST_KEYS) {
            work->end += nlinks;
            add_due(work->arrays, found);
        }
        work->arrays->per_statement = next_links(nlinks, found);
    }
    save_position(work, page);
    return true;
}

bool key_arrays_write(struct key_arrays *arrays, struct fan_out_page *page,
                      const struct pg_result *rows, int column, const atomic_bool *stop, int *row,
                      bool *ret_is_large, struct error *err)
{
    struct work work = {
        .arrays = arrays, .rows = rows, .column = column, .begin = *row, .stop = stop};
    bool is_done;

    page->settings = SETTINGS;
    page->write = write_rows;
    page->context = &work;
    is_done = fan_out_page_write(page, err);
    page->position = NULL;
    buf_release(&work.position);
    if (!is_done)
        return false;
    rest(arrays);
    *row = work.end;
    *ret_is_large = work.is_large;
    return true;
}
