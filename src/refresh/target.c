/*
 * Opening a target is one transaction, under an advisory lock of the fact's, so that two workers do
 * not make the same table: the query becomes a temporary view, whose columns are those of the
 * derived table; what is there is compared with that.
 *
 * The temporary tables live as long as the connection and are emptied by each commit.  Nothing in
 * them outlasts a transaction, so nothing has to be cleaned up after a failure.  A commit empties all
 * that there are, used or not, which takes some tenths of a millisecond for each: those that most
 * windows do without are made when they are needed first.
 *
 * A table that is there and does not fit is never changed: it may be somebody's.
 */
#include "refresh/target.h"

#include "pg/codec.h"

#include <stdio.h>
#include <string.h>

/* Room on each page for new versions of rows: then no index has to be told of them (HOT).  More of it
 * than the table says in the end: target_end_build(). */
#define FILLFACTOR          "90"
#define FILLFACTOR_OF_BUILD "81"

struct opening {
    struct pg *mirror;
    const struct config *config;
    const struct config_fact *fact;
    struct arena *arena;
    struct notes *notes;
    struct target *target;
};

bool target_find(const struct config *config, const char *name, const struct config_fact **ret_fact,
                 struct error *err)
{
    const char *near, **names;

    for (int i = 0; i < config->nfacts; i++)
        if (strcmp(config->facts[i].name, name) == 0) {
            if (config->facts[i].refresh.is_declared) {
                *ret_fact = &config->facts[i];
                return true;
            }
            config_error_at(config, config->facts[i].place, err,
                            "fact %s has no derived table: its refresh is not declared", name);
            return error_hint(err, "write refresh: {into: report.%s, query: \"select …\"} there",
                              name);
        }
    names = (const char **) calloc((size_t) config->nfacts + 1, sizeof(*names));
    for (int i = 0; names != NULL && i < config->nfacts; i++)
        names[i] = config->facts[i].name;
    near = names != NULL ? config_nearest(name, names, config->nfacts) : NULL;
    free(names);
    if (near != NULL)
        return error_set(err, ERROR_CONFIG, "there is no fact %s; did you mean %s?", name, near);
    return error_set(err, ERROR_CONFIG, "there is no fact %s in %s", name, config->file);
}

static const char *quoted(struct arena *arena, const char *name)
{
    _cleanup_buf_ struct buf text = {0};

    pg_add_ident(&text, name);
    return arena_strdup(arena, buf_text(&text));
}

static const char *qualified(struct arena *arena, const char *schema, const char *name)
{
    _cleanup_buf_ struct buf text = {0};

    pg_add_qualified(&text, schema, name);
    return arena_strdup(arena, buf_text(&text));
}

/* ---- the fact ---- */

static const char *column_of(const struct config_refresh *refresh, const char *key)
{
    for (int i = 0; i < refresh->nkeys; i++)
        if (strcmp(refresh->keys[i].name, key) == 0)
            return refresh->keys[i].column;
    return key;
}

static bool read_fact(struct opening *o, struct error *err)
{
    const char *params[] = {o->fact->name, o->config->pipeline};
    struct target *target = o->target;
    _cleanup_result_ struct pg_result *rows = NULL;

    if (!pg_query(o->mirror,
                  "select k.name, k.type, v.sql, n.name, format('%I.%I', coalesce(t.view_schema, "
                  "n.schema), coalesce(t.view_name, n.table_name)) from tailwater.fact f "
                  "join tailwater.fact_node n on n.fact = f.name and n.node = 0 "
                  "left join tailwater.mirror_table t on t.pipeline = f.pipeline and t.schema = "
                  "n.schema and t.name = n.table_name "
                  "cross join lateral unnest(f.key_names, f.key_types) with ordinality "
                  "k(name, type, i) "
                  "cross join lateral (select f.definition -> 'key' -> (k.i::integer - 1) ->> "
                  "'sql') v(sql) "
                  "where f.name = $1 and f.pipeline = $2 order by k.i",
                  2, params, &rows, err))
        return false;
    if (pg_rows(rows) == 0) {
        error_set(err, ERROR_FAILED, "the mirror does not know fact %s yet", o->fact->name);
        return error_hint(err, "run: tailwater run -c %s", o->config->file);
    }
    target->nkeys = pg_rows(rows);
    target->keys = arena_new(o->arena, struct target_key, target->nkeys);
    target->source_keys = "";
    for (int i = 0; i < target->nkeys; i++) {
        target->keys[i] = (struct target_key){.name = arena_strdup(o->arena, pg_text(rows, i, 0)),
                                              .type = arena_strdup(o->arena, pg_text(rows, i, 1)),
                                              .collation = ""};
        target->keys[i].column = column_of(&o->fact->refresh, target->keys[i].name);
        target->source_keys = arena_printf(o->arena, "%s%s%s", target->source_keys,
                                           i > 0 ? ", " : "", pg_text(rows, i, 2));
    }
    target->source = arena_printf(o->arena, "%s as %s", pg_text(rows, 0, 4),
                                  quoted(o->arena, pg_text(rows, 0, 3)));
    return true;
}

/* ---- the query ---- */

static bool make_key_tables(struct opening *o, struct error *err)
{
    struct target *target = o->target;
    _cleanup_buf_ struct buf sql = {0}, columns = {0};

    for (int i = 0; i < target->nkeys; i++) {
        buf_add(&columns, i > 0 ? ", " : "");
        pg_add_ident(&columns, target->keys[i].name);
        buf_printf(&columns, " %s", target->keys[i].type);
    }
    buf_printf(
        &sql,
        "set local client_min_messages = warning; "
        "drop view if exists pg_temp.tailwater_query_%s; drop table if exists %s, %s, %s, %s, %s; "
        "create temporary table %s (%s) on commit delete rows",
        o->fact->name, target->window, target->chosen, target->rows, target->changes,
        target->onward, target->chosen, buf_text(&columns));
    target->key_columns = arena_strdup(o->arena, buf_text(&columns));
    return pg_exec(o->mirror, buf_text(&sql), err);
}

/* The server's words about the query, with its place in the file. */
static bool blame_query(const struct opening *o, struct error *err)
{
    const struct error failure = *err;

    if (pg_is_broken(o->mirror) || failure.kind == ERROR_MIRROR || failure.kind == ERROR_RETRY)
        return false;
    config_error_at(o->config, o->fact->refresh.query_place, err,
                    "fact %s: its query is refused: %s", o->fact->name, failure.message);
    snprintf(err->sqlstate, sizeof(err->sqlstate), "%s", failure.sqlstate);
    if (strcmp(failure.sqlstate, "42P01") == 0)
        return error_hint(err,
                          "names without a schema are looked up in %s; live views have the "
                          "schema that mirror.view_schema says",
                          TARGET_SEARCH_PATH);
    return error_hint(err, "try it on the mirror with psql");
}

static bool make_view(struct opening *o, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0}, query = {0};

    o->target->has_keys = buf_add_replaced(&query, o->fact->refresh.query, "{keys}",
                                           o->target->chosen) > 0;
    o->target->query = arena_strdup(o->arena, buf_text(&query));
    buf_printf(&sql, "create temporary view tailwater_query_%s as %s", o->fact->name,
               o->target->query);
    return pg_exec(o->mirror, buf_text(&sql), err) || blame_query(o, err);
}

static bool read_columns(struct opening *o, struct error *err)
{
    struct target *target = o->target;
    _cleanup_result_ struct pg_result *rows = NULL;
    const char *name = arena_printf(o->arena, "pg_temp.tailwater_query_%s", o->fact->name);

    if (!pg_query(o->mirror,
                  "select attname from pg_attribute where attrelid = $1::regclass and attnum > 0 "
                  "and not attisdropped order by attnum",
                  1, &name, &rows, err))
        return false;
    target->ncolumns = pg_rows(rows);
    target->columns = arena_new(o->arena, const char *, target->ncolumns);
    for (int i = 0; i < target->ncolumns; i++)
        target->columns[i] = arena_strdup(o->arena, pg_text(rows, i, 0));
    for (int i = 0; i < target->nkeys; i++) {
        int j = 0;

        while (j < target->ncolumns && strcmp(target->columns[j], target->keys[i].column) != 0)
            j++;
        if (j < target->ncolumns)
            continue;
        config_error_at(o->config, o->fact->refresh.query_place, err,
                        "fact %s: its query has no column %s, which is part of the key",
                        o->fact->name, target->keys[i].column);
        return error_hint(err, "where it is called otherwise there: refresh: {key: {%s: …}}",
                          target->keys[i].name);
    }
    return true;
}

/* ---- the table ---- */

static void add_columns(struct buf *sql, int count, const char *const *names)
{
    for (int i = 0; i < count; i++) {
        buf_add(sql, i > 0 ? ", " : "");
        pg_add_ident(sql, names[i]);
    }
}

static bool ensure_schema(struct opening *o, struct error *err)
{
    const char *schema = o->fact->refresh.into.schema;
    _cleanup_result_ struct pg_result *found = NULL;
    _cleanup_buf_ struct buf sql = {0};

    if (!pg_query(o->mirror, "select from pg_namespace where nspname = $1", 1, &schema, &found,
                  err))
        return false;
    if (pg_rows(found) > 0)
        return true;
    buf_add(&sql, "create schema ");
    pg_add_ident(&sql, schema);
    for (int i = 0; i < o->config->mirror.nreaders; i++) {
        buf_add(&sql, "; grant usage on schema ");
        pg_add_ident(&sql, schema);
        buf_add(&sql, " to ");
        pg_add_ident(&sql, o->config->mirror.readers[i]);
    }
    notes_add(o->notes, "schema %s made", schema);
    return pg_exec(o->mirror, buf_text(&sql), err);
}

/* Its rows are told apart by the columns that the declaration names, or by the key. */
static bool make_table(struct opening *o, struct error *err)
{
    const struct config_refresh *refresh = &o->fact->refresh;
    const struct target *target = o->target;
    _cleanup_buf_ struct buf sql = {0}, keys = {0};

    if (!ensure_schema(o, err))
        return false;
    for (int i = 0; i < target->nkeys; i++) {
        buf_add(&keys, i > 0 ? ", " : "");
        pg_add_ident(&keys, target->keys[i].column);
    }
    buf_printf(&sql,
               "create table %s with (fillfactor = " FILLFACTOR_OF_BUILD ") as select * from "
               "pg_temp.tailwater_query_%s with no data; alter table %s add primary key (",
               target->into, o->fact->name, target->into);
    if (refresh->nunique > 0)
        add_columns(&sql, refresh->nunique, refresh->unique);
    else
        buf_add(&sql, buf_text(&keys));
    buf_add(&sql, ")");
    if (refresh->nunique > 0)
        buf_printf(&sql, "; create index on %s (%s)", target->into, buf_text(&keys));
    for (int i = 0; i < o->config->mirror.nreaders; i++) {
        buf_printf(&sql, "; grant select on %s to ", target->into);
        pg_add_ident(&sql, o->config->mirror.readers[i]);
    }
    o->target->is_new = true;
    notes_add(o->notes, "table %s made for fact %s", target->into, o->fact->name);
    return pg_exec(o->mirror, buf_text(&sql), err) || error_wrap(err, "making %s", target->into);
}

static bool find_table(struct opening *o, bool *ret_has, struct error *err)
{
    const struct config_refresh *refresh = &o->fact->refresh;
    const char *params[] = {refresh->into.schema, refresh->into.name};
    _cleanup_result_ struct pg_result *row = NULL;

    if (!pg_query(o->mirror,
                  "select c.oid, c.relkind in ('r', 'p') from pg_class c join pg_namespace n "
                  "on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2",
                  2, params, &row, err))
        return false;
    *ret_has = pg_rows(row) > 0;
    if (!*ret_has)
        return true;
    if (!pg_bool(row, 0, 1)) {
        config_error_at(o->config, refresh->place, err, "fact %s: %s is there and is no table",
                        o->fact->name, o->target->into);
        return error_hint(err, "name another table; or, where it is the materialized view that "
                               "this fact replaces: see docs/refresh.md for how to swap them");
    }
    o->target->oid = arena_strdup(o->arena, pg_text(row, 0, 0));
    return true;
}

/* Does it have all columns of the query? */
static bool compare_columns(struct opening *o, struct error *err)
{
    const struct target *target = o->target;
    const char *params[] = {target->oid,
                            arena_printf(o->arena, "pg_temp.tailwater_query_%s", o->fact->name)};
    _cleanup_result_ struct pg_result *missing = NULL;
    _cleanup_buf_ struct buf hint = {0};

    if (!pg_query(o->mirror,
                  "select q.attname, format_type(q.atttypid, q.atttypmod) from pg_attribute q "
                  "where q.attrelid = $2::regclass and q.attnum > 0 and not q.attisdropped and not "
                  "exists (select from pg_attribute d where d.attrelid = $1::oid and d.attname = "
                  "q.attname and d.attnum > 0 and not d.attisdropped and d.attgenerated = '') "
                  "order by q.attnum",
                  2, params, &missing, err))
        return false;
    if (pg_rows(missing) == 0)
        return true;
    for (int i = 0; i < pg_rows(missing); i++) {
        buf_printf(&hint, "%sadd column ", i > 0 ? ", " : "");
        pg_add_ident(&hint, pg_text(missing, i, 0));
        buf_printf(&hint, " %s", pg_text(missing, i, 1));
    }
    config_error_at(o->config, o->fact->refresh.place, err,
                    "fact %s: %s has no column %s, which the query gives", o->fact->name,
                    target->into, pg_text(missing, 0, 0));
    return error_hint(err, "on the mirror: alter table %s %s", target->into, buf_text(&hint));
}

/* The primary key, or else any unique index, of columns that the query gives. */
static bool read_unique(struct opening *o, struct error *err)
{
    struct target *target = o->target;
    _cleanup_result_ struct pg_result *rows = NULL;
    const char *params[] = {target->oid,
                            arena_printf(o->arena, "pg_temp.tailwater_query_%s", o->fact->name)};

    if (!pg_query(o->mirror,
                  "with i as (select x.indexrelid, x.indrelid, x.indkey::int2[] as key, "
                  "x.indnkeyatts as n from pg_index x where x.indrelid = $1::oid and "
                  "x.indisunique and x.indisvalid and x.indimmediate and x.indpred is null and "
                  "x.indexprs is null and not exists (select from "
                  "generate_series(0, x.indnkeyatts - 1) g join pg_attribute a on a.attrelid = "
                  "x.indrelid and a.attnum = x.indkey[g] where not a.attnotnull or not exists "
                  "(select from pg_attribute q where q.attrelid = $2::regclass and q.attname = "
                  "a.attname and not q.attisdropped)) order by not x.indisprimary, x.indexrelid "
                  "limit 1) select a.attname from i cross join lateral unnest(i.key) with "
                  "ordinality k(attnum, nr) join pg_attribute a on a.attrelid = i.indrelid and "
                  "a.attnum = k.attnum where k.nr <= i.n order by k.nr",
                  2, params, &rows, err))
        return false;
    target->nunique = pg_rows(rows);
    target->unique = arena_new(o->arena, const char *, target->nunique + 1);
    for (int i = 0; i < target->nunique; i++)
        target->unique[i] = arena_strdup(o->arena, pg_text(rows, i, 0));
    return true;
}

/* Ranges of keys are compared on both sides by the collation of the derived table's column. */
static bool read_collations(struct opening *o, struct error *err)
{
    for (int i = 0; i < o->target->nkeys; i++) {
        struct target_key *key = &o->target->keys[i];
        const char *params[] = {o->target->oid, key->column};
        _cleanup_result_ struct pg_result *row = NULL;

        if (!pg_query_row(o->mirror,
                          "select coalesce((select format(' collate %I.%I', n.nspname, c.collname) "
                          "from pg_collation c join pg_namespace n on n.oid = c.collnamespace "
                          "where c.oid = a.attcollation), '') from pg_attribute a "
                          "where a.attrelid = $1::oid and a.attname = $2",
                          2, params, &row, err))
            return false;
        key->collation = arena_strdup(o->arena, pg_text(row, 0, 0));
    }
    return true;
}

static bool make_row_table(struct opening *o, struct error *err)
{
    const struct target *target = o->target;
    _cleanup_buf_ struct buf sql = {0};

    buf_printf(&sql, "create temporary table %s on commit delete rows as select ", target->rows);
    add_columns(&sql, target->ncolumns, target->columns);
    buf_printf(&sql, " from %s with no data", target->into);
    return pg_exec(o->mirror, buf_text(&sql), err);
}

bool target_make_rest(struct pg *mirror, const struct target *target, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};

    buf_printf(
        &sql,
        "create temporary table if not exists %s (tailwater_n bigint primary key, %s) on "
        "commit delete rows; create temporary table if not exists %s (fact text, node "
        "smallint, value text[]) on commit delete rows; create temporary table if not exists "
        "%s on commit delete rows as select null::oid as tailwater_oid, null::tid as "
        "tailwater_tid, false as tailwater_is_gone, ",
        target->window, target->key_columns, target->onward, target->changes);
    for (int i = 0; i < target->nkeys; i++) {
        pg_add_ident(&sql, target->keys[i].column);
        buf_printf(&sql, " as tailwater_k%d, ", i);
    }
    add_columns(&sql, target->ncolumns, target->columns);
    buf_printf(&sql, " from %s with no data", target->into);
    target->memory->has_rest = true;
    return pg_exec(mirror, buf_text(&sql), err);
}

/*
 * A page is cleaned of old versions by whoever comes to it and finds less room than the table's
 * fillfactor asks for.  Were that what the page was filled to, each visit after its first change would
 * clean it, for one old version: that took a fifth of the time of a refresh of keys that lie far apart.
 * A table of somebody's own has what he gave it.
 */
bool target_end_build(struct pg *mirror, const struct target *target, struct error *err)
{
    _cleanup_result_ struct pg_result *row = NULL;
    struct error failure, ignored;

    if (!pg_query(mirror,
                  "select from pg_class where oid = $1::oid and pg_has_role(relowner, 'usage') and "
                  "reloptions @> '{fillfactor=" FILLFACTOR_OF_BUILD "}'",
                  1, &target->oid, &row, err))
        return false;
    if (pg_rows(row) == 0)
        return true;
    if (pg_exec(mirror, "begin; set local lock_timeout = '2s'", &failure) &&
        pg_execf(mirror, &failure, "alter table %s set (fillfactor = " FILLFACTOR ")",
                 target->into) &&
        pg_exec(mirror, "commit", &failure))
        return true;
    if (!pg_is_broken(mirror))
        (void) pg_exec(mirror, "rollback", &ignored);
    /* Somebody vacuums it at this moment: it stays as it is, and is right as it is. */
    if (!pg_is_broken(mirror) && failure.kind == ERROR_RETRY)
        return true;
    *err = failure;
    return error_wrap(err, "setting the fillfactor of %s", target->into);
}

/* ---- the control schema ---- */

/* A new one, one with another query or another table begins with everything. */
static bool subscribe(struct opening *o, bool is_anew, struct error *err)
{
    const char *params[] = {TARGET_CONSUMER, o->fact->name};
    _cleanup_result_ struct pg_result *ended = NULL, *begun = NULL;

    return (!is_anew ||
            pg_query(o->mirror, "select tailwater.unsubscribe($1, $2)", 2, params, &ended, err)) &&
           pg_query(o->mirror, "select tailwater.subscribe($1, $2, 'all')", 2, params, &begun, err);
}

static void add_names(struct buf *array, int count, const char *const *names)
{
    codec_text_array_begin(array);
    for (int i = 0; i < count; i++)
        codec_text_array_add(array, names[i], (uint32_t) strlen(names[i]));
    codec_text_array_end(array);
}

/* Facts over it have read another table until now. */
static bool tell_readers(struct opening *o, struct error *err)
{
    const struct config_table_name *into = &o->fact->refresh.into;
    const char *reason = arena_printf(o->arena, "%s is another table", o->target->into);
    const char *params[] = {o->config->pipeline, into->schema, into->name, reason};
    _cleanup_result_ struct pg_result *told = NULL;

    return pg_query(o->mirror, "select tailwater.owe_to_readers($1, $2, $3, $4)", 4, params, &told,
                    err);
}

static bool store(struct opening *o, struct error *err)
{
    const struct config_refresh *refresh = &o->fact->refresh;
    const struct target *target = o->target;
    const char **key_columns = arena_new(o->arena, const char *, target->nkeys);
    _cleanup_buf_ struct buf definition = {0}, keys = {0}, columns = {0}, unique = {0};
    _cleanup_result_ struct pg_result *former = NULL, *row = NULL;
    const char *params[8] = {o->fact->name, refresh->into.schema, refresh->into.name, target->oid};
    bool is_known, is_same_table, is_same;

    buf_printf(&definition, "%s", refresh->query);
    for (int i = 0; i < target->nkeys; i++) {
        key_columns[i] = target->keys[i].column;
        buf_printf(&definition, "|%s", key_columns[i]);
    }
    add_names(&keys, target->nkeys, key_columns);
    add_names(&columns, target->ncolumns, target->columns);
    add_names(&unique, target->nunique, target->unique);
    params[4] = buf_text(&definition);
    params[5] = buf_text(&keys);
    params[6] = buf_text(&columns);
    params[7] = buf_text(&unique);
    if (!pg_query(
            o->mirror,
            "select t.is_same, t.is_same and tailwater.is_whole($1) and definition_hash = md5($5) "
            "and key_columns = $6::text[], columns = $7::text[] and unique_columns = $8::text[] "
            "from "
            "tailwater.refresh cross join lateral (select into_schema = $2 and into_name = $3 "
            "and into_oid = $4::oid as is_same) t where fact = $1",
            8, params, &former, err))
        return false;
    is_known = pg_rows(former) > 0;
    is_same_table = is_known && pg_bool(former, 0, 0);
    is_same = is_known && pg_bool(former, 0, 1);
    if (is_same && pg_bool(former, 0, 2))
        return subscribe(o, false, err);
    if (!is_same)
        notes_add(o->notes, "%s is built from all of fact %s", target->into, o->fact->name);
    return pg_query(o->mirror,
                    "insert into tailwater.refresh as r (fact, into_schema, into_name, into_oid, "
                    "definition_hash, key_columns, columns, unique_columns) values ($1, $2, $3, "
                    "$4::oid, md5($5), $6::text[], $7::text[], $8::text[]) on conflict (fact) do "
                    "update set (into_schema, into_name, into_oid, definition_hash, key_columns, "
                    "columns, unique_columns) = (excluded.into_schema, excluded.into_name, "
                    "excluded.into_oid, excluded.definition_hash, excluded.key_columns, "
                    "excluded.columns, excluded.unique_columns)",
                    8, params, &row, err) &&
           subscribe(o, !is_same, err) && (is_same_table || tell_readers(o, err));
}

/* ---- all of it ---- */

static bool open_in_transaction(struct opening *o, struct error *err)
{
    const char *params[] = {o->fact->name};
    _cleanup_result_ struct pg_result *locked = NULL;
    bool has;

    if (!pg_query(o->mirror, "select pg_advisory_xact_lock(" TARGET_LOCK " - 1, hashtext($1))", 1,
                  params, &locked, err) ||
        !read_fact(o, err) || !make_key_tables(o, err) || !make_view(o, err) ||
        !read_columns(o, err) || !find_table(o, &has, err) ||
        (!has && (!make_table(o, err) || !find_table(o, &has, err))))
        return false;
    return compare_columns(o, err) && read_unique(o, err) && read_collations(o, err) &&
           make_row_table(o, err) && store(o, err);
}

static struct target *target_new(const struct config_fact *fact, struct arena *arena)
{
    struct target *target = arena_new(arena, struct target, 1);

    target->fact = fact;
    target->window = arena_printf(arena, "pg_temp.tailwater_window_%s", fact->name);
    target->chosen = arena_printf(arena, "pg_temp.tailwater_keys_%s", fact->name);
    target->rows = arena_printf(arena, "pg_temp.tailwater_rows_%s", fact->name);
    target->changes = arena_printf(arena, "pg_temp.tailwater_changes_%s", fact->name);
    target->onward = arena_printf(arena, "pg_temp.tailwater_onward_%s", fact->name);
    target->memory = arena_new(arena, struct target_memory, 1);
    target->memory->analyzed = -1;
    return target;
}

bool target_try(struct pg *mirror, const struct config *config, const struct config_fact *fact,
                struct arena *arena, struct target **ret_target, struct error *err)
{
    struct target *target = target_new(fact, arena);
    struct opening o = {mirror, config, fact, arena, NULL, target};

    if (!read_fact(&o, err) || !make_key_tables(&o, err) || !make_view(&o, err) ||
        !read_columns(&o, err))
        return false;
    *ret_target = target;
    return true;
}

bool target_open(struct pg *mirror, const struct config *config, const struct config_fact *fact,
                 struct arena *arena, struct notes *notes, struct target **ret_target,
                 struct error *err)
{
    struct target *target = target_new(fact, arena);
    struct opening o = {mirror, config, fact, arena, notes, target};
    struct error ignored;

    target->into = qualified(arena, fact->refresh.into.schema, fact->refresh.into.name);
    if (pg_exec(mirror, "begin", err) && open_in_transaction(&o, err) &&
        pg_exec(mirror, "commit", err)) {
        *ret_target = target;
        return true;
    }
    if (!pg_is_broken(mirror))
        (void) pg_exec(mirror, "rollback", &ignored);
    return error_wrap(err, "fact %s", fact->name);
}
