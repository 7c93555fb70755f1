/*
 * One fact after the other, then what is no longer declared, then the number: "everything" rows get
 * it, and the clock is taken last (tailwater.next_batch).  No lock is waited for longer than
 * LOCK_TIMEOUT: nothing streams meanwhile.
 */
#include "ledger/store.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct store {
    struct pg *mirror;
    const struct config *config; /* NULL where is_again */
    const char *pipeline;
    const char *file;
    struct notes *notes;
    bool is_again;             /* only facts that await their ledger */
    struct buf names, reasons; /* of the facts that owe everything: text arrays */
    int nowing;
};

static void owe(struct store *store, const char *fact, const char *reason)
{
    codec_text_array_add(&store->names, fact, (uint32_t) strlen(fact));
    codec_text_array_add(&store->reasons, reason, (uint32_t) strlen(reason));
    store->nowing++;
}

static void add_strings(struct buf *array, int count, const char *(*text)(const struct fact *, int),
                        const struct fact *fact)
{
    codec_text_array_begin(array);
    for (int i = 0; i < count; i++) {
        const char *item = text(fact, i);

        codec_text_array_add(array, item, (uint32_t) strlen(item));
    }
    codec_text_array_end(array);
}

static const char *key_name(const struct fact *fact, int i)
{
    return fact->keys[i].name;
}

static const char *key_type(const struct fact *fact, int i)
{
    return fact->keys[i].type;
}

/* The columns of a node's links, its own or its parent's. */
static void add_columns(struct buf *array, const struct fact *fact, int i, bool is_parent)
{
    const struct fact_node *node = &fact->nodes[i];

    codec_text_array_begin(array);
    for (int j = 0; j < node->nlinks; j++) {
        const struct table *table = is_parent ? fact->nodes[node->parent].table : node->table;
        const int column = is_parent ? node->links[j].parent_column : node->links[j].column;

        codec_text_array_add(array, table->columns[column].name,
                             (uint32_t) strlen(table->columns[column].name));
    }
    codec_text_array_end(array);
}

static bool store_nodes(struct store *store, const struct fact *fact, struct error *err)
{
    _cleanup_result_ struct pg_result *gone = NULL;

    if (!pg_query(store->mirror, "delete from tailwater.fact_node where fact = $1", 1, &fact->name,
                  &gone, err))
        return false;
    for (int i = 0; i < fact->nnodes; i++) {
        const struct fact_node *node = &fact->nodes[i];
        _cleanup_result_ struct pg_result *done = NULL;
        _cleanup_buf_ struct buf columns = {0}, parents = {0};
        char number[16], parent[16];
        const char *params[] = {fact->name,
                                number,
                                node->name,
                                node->table->schema,
                                node->table->name,
                                i > 0 ? parent : NULL,
                                node->path,
                                NULL,
                                NULL};

        snprintf(number, sizeof(number), "%d", i);
        snprintf(parent, sizeof(parent), "%d", node->parent);
        if (i > 0) {
            add_columns(&columns, fact, i, false);
            add_columns(&parents, fact, i, true);
            params[7] = buf_text(&columns);
            params[8] = buf_text(&parents);
        }
        if (!pg_query(store->mirror,
                      "insert into tailwater.fact_node (fact, node, name, schema, table_name, "
                      "parent, path, columns, parent_columns) values ($1, $2::smallint, $3, $4, "
                      "$5, $6::smallint, $7, $8::text[], $9::text[])",
                      9, params, &done, err))
            return false;
    }
    return true;
}

static bool write_fact(struct store *store, const struct fact *fact, const char *definition,
                       struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL, *made = NULL, *void_entries = NULL;
    _cleanup_buf_ struct buf names = {0}, types = {0};
    const char *params[8] = {fact->name, store->pipeline, fact->nodes[0].table->schema,
                             fact->nodes[0].table->name};

    add_strings(&names, fact->nkeys, key_name, fact);
    add_strings(&types, fact->nkeys, key_type, fact);
    params[4] = buf_text(&names);
    params[5] = buf_text(&types);
    params[6] = definition;
    return pg_query(store->mirror,
                    "insert into tailwater.fact as f (name, pipeline, schema, table_name, "
                    "key_names, key_types, definition, definition_hash) values ($1, $2, $3, $4, "
                    "$5::text[], $6::text[], $7::text::jsonb, md5($7::text)) on conflict (name) do "
                    "update set "
                    "schema = excluded.schema, table_name = excluded.table_name, key_names = "
                    "excluded.key_names, key_types = excluded.key_types, definition = "
                    "excluded.definition, definition_hash = excluded.definition_hash, generation = "
                    "f.generation + 1, suspended = null",
                    7, params, &done, err) &&
           store_nodes(store, fact, err) &&
           pg_query(store->mirror, "select tailwater.make_ledger($1)", 1, &fact->name, &made,
                    err) &&
           pg_query(store->mirror, "delete from tailwater.fan_out where fact = $1", 1, &fact->name,
                    &void_entries, err);
}

static bool resume_fact(struct store *store, const struct fact *fact, const char *why,
                        struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL;
    char reason[600];

    snprintf(reason, sizeof(reason), "it was suspended: %s", why);
    owe(store, fact->name, reason);
    notes_add(store->notes, "fact %s was suspended (%s); it resumes and begins with everything",
              fact->name, why);
    /* What was deferred is part of everything. */
    return pg_query(store->mirror,
                    "with e as (delete from tailwater.fan_out where fact = $1) "
                    "update tailwater.fact set suspended = null where name = $1",
                    1, &fact->name, &done, err);
}

#define LOCK_TIMEOUT "2s"
#define AWAITS       "its key changed, and somebody still reads its ledger of the former key"

/*
 * A ledger of another key: the former one is dropped, which waits for whoever reads it.  Not for
 * long: then the fact keeps its former definition, so that the next time finds it changed again, and
 * is suspended meanwhile.
 */
static bool change_fact(struct store *store, struct fact *fact, const char *definition,
                        struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL;

    if (!pg_exec(store->mirror, "savepoint tailwater_fact", err))
        return false;
    if (write_fact(store, fact, definition, err)) {
        owe(store, fact->name, "its definition changed");
        notes_add(store->notes, "the definition of fact %s changed; it begins with everything",
                  fact->name);
        return true;
    }
    if (strcmp(err->sqlstate, "55P03") != 0 /* lock_not_available */)
        return false;
    fact->is_suspended = fact->awaits_ledger = true;
    notes_add(store->notes,
              "fact %s: " AWAITS "; it gets no keys until that transaction ends, then it begins "
              "with everything",
              fact->name);
    return pg_exec(store->mirror, "rollback to savepoint tailwater_fact", err) &&
           pg_query(store->mirror,
                    "update tailwater.fact set suspended = '" AWAITS "' where name = $1", 1,
                    &fact->name, &done, err);
}

#define SOURCE_TIMEOUT "60s"

/*
 * A refresh that is under way does not know this fact, and gives it no keys: "everything" has to come
 * after it.  What it holds until it ends is the lock of its table.
 */
static bool wait_for_sources(struct store *store, const struct fact *fact, struct error *err)
{
    for (int i = 0; i < fact->nnodes; i++) {
        const struct table *table = fact->nodes[i].table;
        const char *params[] = {table->schema, table->name};
        _cleanup_result_ struct pg_result *locked = NULL;

        if (table->is_derived &&
            (!pg_exec(store->mirror, "set local lock_timeout = '" SOURCE_TIMEOUT "'", err) ||
             !pg_query(store->mirror,
                       "select pg_advisory_xact_lock(" CHAIN_TARGET_LOCK
                       ", to_regclass(format('%I.%I', $1::text, $2::text))::oid::integer)",
                       2, params, &locked, err) ||
             !pg_exec(store->mirror, "set local lock_timeout = '" LOCK_TIMEOUT "'", err)))
            return error_wrap(err, "waiting for a refresh of %s", table->label);
    }
    return true;
}

/* The fact is as it was.  Its ledger may be of an older program, and its columns for arrays wait for a moment
 * without readers; or it was dropped. */
static bool keep_ledger(struct store *store, const struct fact *fact, struct error *err)
{
    _cleanup_result_ struct pg_result *found = NULL, *done = NULL;
    bool is_there;

    if (!pg_query_row(store->mirror,
                      "select to_regclass(format('tailwater.%I', 'ledger_' || $1)) is not null", 1,
                      &fact->name, &found, err))
        return false;
    is_there = pg_bool(found, 0, 0);
    if (!is_there) {
        owe(store, fact->name, "its ledger was gone");
        notes_add(store->notes, "the ledger of fact %s was gone; it begins with everything",
                  fact->name);
    }
    return pg_query(store->mirror,
                    is_there ? "select tailwater.add_key_arrays($1)"
                             : "select tailwater.make_ledger($1)",
                    1, &fact->name, &done, err);
}

static bool store_fact(struct store *store, struct fact *fact, struct error *err)
{
    _cleanup_result_ struct pg_result *found = NULL;
    _cleanup_buf_ struct buf definition = {0};
    const char *params[] = {fact->name, NULL};

    fact->is_suspended = fact->awaits_ledger = false;
    fact_add_definition(fact, &definition);
    params[1] = buf_text(&definition);
    if (!pg_query(store->mirror,
                  "select pipeline, definition_hash = md5($2::text), suspended from tailwater.fact "
                  "where name = $1 for update",
                  2, params, &found, err))
        return false;
    if ((pg_rows(found) == 0 || !pg_bool(found, 0, 1) || !pg_is_null(found, 0, 2)) &&
        !wait_for_sources(store, fact, err))
        return false;
    if (pg_rows(found) == 0) {
        owe(store, fact->name, "the fact is new");
        notes_add(store->notes, "fact %s is new; it begins with everything", fact->name);
        return write_fact(store, fact, params[1], err);
    }
    if (strcmp(pg_text(found, 0, 0), store->pipeline) != 0) {
        error_set(err, ERROR_CONFIG, "%s:%d:%d: pipeline %s has a fact named %s already",
                  store->file, fact->place.line, fact->place.column, pg_text(found, 0, 0),
                  fact->name);
        return error_hint(err, "give it another name: they are unique in a mirror database");
    }
    if (!pg_bool(found, 0, 1))
        return change_fact(store, fact, params[1], err);
    if (!keep_ledger(store, fact, err))
        return false;
    return pg_is_null(found, 0, 2) || resume_fact(store, fact, pg_text(found, 0, 2), err);
}

#define UNDECLARED "it is no longer in the configuration"

/* Facts of this pipeline that are not declared. */
static bool suspend_others(struct store *store, struct error *err)
{
    _cleanup_buf_ struct buf names = {0};
    _cleanup_result_ struct pg_result *others = NULL;
    const char *params[] = {store->pipeline, NULL};

    codec_text_array_begin(&names);
    for (int i = 0; i < store->config->nfacts; i++) {
        const char *name = store->config->facts[i].name;

        codec_text_array_add(&names, name, (uint32_t) strlen(name));
    }
    codec_text_array_end(&names);
    params[1] = buf_text(&names);
    if (!pg_query(store->mirror,
                  "with o as (update tailwater.fact set suspended = '" UNDECLARED "' where "
                  "pipeline = $1 and not name = any($2::text[]) and suspended is distinct from "
                  "'" UNDECLARED "' returning name), e as (delete from tailwater.fan_out where "
                  "fact in (select name from o)) select name from o order by 1",
                  2, params, &others, err))
        return false;
    for (int i = 0; i < pg_rows(others); i++)
        notes_add(store->notes,
                  "fact %s is no longer in the configuration: it gets no keys, its ledger stays; "
                  "select tailwater.drop_fact('%s') removes it",
                  pg_text(others, i, 0), pg_text(others, i, 0));
    return true;
}

/* Without facts no expander does it. */
static bool withdraw_page(struct store *store, struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL;

    return pg_query(store->mirror, "select tailwater.withdraw_page($1)", 1, &store->pipeline, &done,
                    err);
}

/* One batch for all of them. */
static bool say_everything(struct store *store, struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL;
    const char *params[] = {store->pipeline, buf_text(&store->names), buf_text(&store->reasons)};

    if (store->nowing == 0)
        return true;
    return pg_query(store->mirror,
                    "with n as materialized (select tailwater.next_batch($1) as number), "
                    "e as (insert into tailwater.everything (fact, generation, batch_id, reason) "
                    "select f.name, f.generation, n.number, u.reason from n, "
                    "unnest($2::text[], $3::text[]) u(name, reason) join tailwater.fact f "
                    "on f.name = u.name returning 1) "
                    "insert into tailwater.batch (pipeline, batch_id, kind, lsn_from, lsn_to, "
                    "changes, keys) select $1, n.number, 'manual', c.cursor, c.cursor, 0, 0 "
                    "from n, tailwater.clock c where c.pipeline = $1",
                    3, params, &done, err);
}

static bool read_generations(struct store *store, struct fact_list *facts, struct error *err)
{
    for (int i = 0; i < facts->count; i++) {
        _cleanup_result_ struct pg_result *row = NULL;

        if (!pg_query_row(store->mirror, "select generation from tailwater.fact where name = $1", 1,
                          &facts->facts[i].name, &row, err))
            return false;
        facts->facts[i].generation = pg_int(row, 0, 0);
    }
    return true;
}

static bool store_all(struct store *store, struct fact_list *facts, struct error *err)
{
    if (!pg_exec(store->mirror, "begin; set local lock_timeout = '" LOCK_TIMEOUT "'", err))
        return false;
    for (int i = 0; i < facts->count; i++)
        if ((!store->is_again || facts->facts[i].awaits_ledger) &&
            !store_fact(store, &facts->facts[i], err))
            return error_wrap(err, "storing fact %s", facts->facts[i].name);
    codec_text_array_end(&store->names);
    codec_text_array_end(&store->reasons);
    return (store->is_again || (suspend_others(store, err) && withdraw_page(store, err))) &&
           say_everything(store, err) && read_generations(store, facts, err) &&
           pg_exec(store->mirror, "commit", err);
}

static bool run(struct store *store, struct fact_list *facts, struct error *err)
{
    struct error ignored;
    bool is_done;

    codec_text_array_begin(&store->names);
    codec_text_array_begin(&store->reasons);
    is_done = store_all(store, facts, err);
    if (!is_done && !pg_is_broken(store->mirror))
        (void) pg_exec(store->mirror, "rollback", &ignored);
    buf_release(&store->names);
    buf_release(&store->reasons);
    return is_done;
}

bool store_facts(struct pg *mirror, const struct config *config, struct fact_list *facts,
                 struct notes *notes, struct error *err)
{
    struct store store = {.mirror = mirror,
                          .config = config,
                          .pipeline = config->pipeline,
                          .file = config->file,
                          .notes = notes};

    return run(&store, facts, err);
}

/* ---- later ---- */

bool store_again(struct pg *mirror, const char *pipeline, const char *file, struct fact_list *facts,
                 struct notes *notes, struct error *err)
{
    struct store store = {
        .mirror = mirror, .pipeline = pipeline, .file = file, .notes = notes, .is_again = true};
    bool is_awaited = false;

    for (int i = 0; i < facts->count; i++)
        is_awaited |= facts->facts[i].awaits_ledger;
    return !is_awaited || run(&store, facts, err);
}

bool store_find_free(struct pg *mirror, const struct fact_list *facts, const struct fact **ret_fact,
                     struct error *err)
{
    *ret_fact = NULL;
    for (int i = 0; i < facts->count && *ret_fact == NULL; i++) {
        _cleanup_result_ struct pg_result *row = NULL;

        if (!facts->facts[i].awaits_ledger)
            continue;
        if (!pg_query_row(mirror,
                          "select not exists (select from pg_locks l join pg_class c on c.oid = "
                          "l.relation where l.locktype = 'relation' and l.pid <> pg_backend_pid() "
                          "and l.database = (select oid from pg_database where datname = "
                          "current_database()) and c.relnamespace = 'tailwater'::regnamespace and "
                          "(c.relname = 'ledger_' || $1 or c.relname in (select p.name from "
                          "tailwater.ledger_partitions($1) p)))",
                          1, &facts->facts[i].name, &row, err))
            return error_wrap(err, "looking who reads the ledger of fact %s", facts->facts[i].name);
        if (pg_bool(row, 0, 0))
            *ret_fact = &facts->facts[i];
    }
    return true;
}

bool store_suspend(struct pg *mirror, const char *fact, const char *why, struct error *err)
{
    const char *params[] = {fact, why};
    _cleanup_result_ struct pg_result *done = NULL;

    return pg_query(mirror,
                    "update tailwater.fact set suspended = coalesce(suspended, left($2, 500)) "
                    "where name = $1",
                    2, params, &done, err) ||
           error_wrap(err, "suspending fact %s", fact);
}

bool store_break(struct pg *mirror, const char *pipeline, const char *fact, const char *why,
                 bool *ret_known, struct error *err)
{
    const char *params[] = {pipeline, fact, why};
    _cleanup_result_ struct pg_result *row = NULL;

    if (!pg_query_row(
            mirror,
            "with f as (update tailwater.fact set suspended = left($3, 500) where "
            "(pipeline, name) = ($1, $2) returning name), e as (delete from "
            "tailwater.fan_out where fact in (select name from f)) select count(*) from f",
            3, params, &row, err))
        return error_wrap(err, "suspending fact %s", fact);
    *ret_known = pg_int(row, 0, 0) == 1;
    return true;
}
