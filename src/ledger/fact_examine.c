/*
 * Questions to the mirror's server about a declaration.
 *
 * The empty copy of the fact's table stands in a schema that exists only inside the transaction, so
 * that the role needs no more than it has (CREATE on the database), and a table of the same name
 * elsewhere does not matter.  An index over all key parts is what decides: the server refuses in it
 * whatever is not immutable, which includes all that depends on the session's time zone, reads
 * other tables, or cannot be ordered.  A view over the same parts tells their types, and pg_depend
 * the columns that the index reads.
 */
#include "ledger/fact.h"

#include <stdio.h>
#include <string.h>

#define SCHEMA "tailwater_examines"

struct examination {
    struct pg *mirror;
    const struct config *config;
    bool is_lenient;
    struct arena *arena;
    struct finding_list *findings;
};

static struct finding *refuse(struct examination *e, const struct fact *fact,
                              struct config_place place, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static struct finding *refuse(struct examination *e, const struct fact *fact,
                              struct config_place place, const char *format, ...)
{
    char message[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    return finding_add(e->findings, "fact", FINDING_ERROR, "%s:%d:%d: fact %s: %s", e->config->file,
                       place.line, place.column, fact->name, message);
}

/* ---- the key ---- */

static void add_copy_name(struct buf *sql, const struct fact *fact)
{
    pg_add_qualified(sql, SCHEMA, fact->nodes[0].name);
}

/* CREATE TABLE of the columns whose types are there; *ret_missing is one that is not. */
static bool add_copy(struct examination *e, const struct fact *fact, struct buf *sql,
                     const char **ret_missing, struct error *err)
{
    const struct table *table = fact->nodes[0].table;
    _cleanup_buf_ struct buf types = {0};
    _cleanup_result_ struct pg_result *found = NULL;
    const char *comma = "";

    codec_text_array_begin(&types);
    for (int i = 0; i < table->ncolumns; i++)
        codec_text_array_add(&types, table->columns[i].cast_type,
                             (uint32_t) strlen(table->columns[i].cast_type));
    codec_text_array_end(&types);
    if (!pg_query(e->mirror,
                  "select to_regtype(t) is not null from unnest($1::text[]) with ordinality "
                  "u(t, n) order by n",
                  1, (const char *[]){buf_text(&types)}, &found, err))
        return false;
    *ret_missing = NULL;
    buf_add(sql, "create table ");
    add_copy_name(sql, fact);
    buf_add(sql, " (");
    for (int i = 0; i < table->ncolumns; i++) {
        const struct table_column *column = &table->columns[i];

        if (!pg_bool(found, i, 0)) {
            *ret_missing = column->cast_type;
            continue;
        }
        buf_add(sql, comma);
        comma = ", ";
        pg_add_ident(sql, column->name);
        buf_printf(sql, " %s %s", column->type, column->collation ? column->collation : "");
    }
    buf_add(sql, ")");
    return true;
}

static void add_key_parts(struct buf *sql, const struct fact *fact, bool is_view)
{
    for (int i = 0; i < fact->nkeys; i++) {
        buf_printf(sql, is_view ? "%s(%s) as k%d" : "%s(%s)", i ? ", " : "", fact->keys[i].sql, i);
    }
}

/* Part by part, for the place and the name of one that is refused; *ret_part is where it got. */
static bool try_parts(struct examination *e, const struct fact *fact, int *ret_part,
                      struct error *err)
{
    for (*ret_part = 0; *ret_part < fact->nkeys; (*ret_part)++) {
        _cleanup_buf_ struct buf sql = {0};

        buf_add(&sql, "create index on ");
        add_copy_name(&sql, fact);
        buf_printf(&sql, " ((%s))", fact->keys[*ret_part].sql);
        if (!pg_exec(e->mirror, buf_text(&sql), err))
            return false;
    }
    return true;
}

/* *ret_part: the part of the key that was refused, or nkeys. */
static bool make_copy(struct examination *e, const struct fact *fact, const char **ret_missing,
                      int *ret_part, struct error *err)
{
    _cleanup_buf_ struct buf table = {0}, sql = {0};

    *ret_part = fact->nkeys;
    if (!pg_exec(e->mirror, "create schema " SCHEMA, err) ||
        !add_copy(e, fact, &table, ret_missing, err) ||
        !pg_exec(e->mirror, buf_text(&table), err) || !try_parts(e, fact, ret_part, err))
        return false;
    buf_add(&sql, "create index tailwater_key on ");
    add_copy_name(&sql, fact);
    buf_add(&sql, " (");
    add_key_parts(&sql, fact, false);
    buf_add(&sql, "); create view " SCHEMA ".tailwater_types as select ");
    add_key_parts(&sql, fact, true);
    buf_add(&sql, " from ");
    add_copy_name(&sql, fact);
    return pg_exec(e->mirror, buf_text(&sql), err);
}

/* What the server thought of the key. */
static bool refuse_key(struct examination *e, const struct fact *fact, const char *missing,
                       int part, const struct error *failure)
{
    struct finding *finding;

    if (e->is_lenient && missing != NULL) {
        finding = finding_add(e->findings, "fact", FINDING_WARNING,
                              "%s:%d:%d: fact %s: the key could not be tried", e->config->file,
                              fact->place.line, fact->place.column, fact->name);
        finding_why(e->findings, finding, "the mirror has no type %s yet; run makes it", missing);
        return false;
    }
    if (part < fact->nkeys)
        finding = refuse(e, fact, fact->keys[part].place, "its key %s is refused: %s",
                         fact->keys[part].name, failure->message);
    else
        finding = refuse(e, fact, fact->place, "its key is refused: %s", failure->message);
    if (strcmp(failure->sqlstate, "42P17") == 0) {
        finding_why(e->findings, finding,
                    "a key has to be the same for a row whenever and wherever it is computed: it "
                    "must not depend on the time, the session's time zone or other tables");
        finding_remedy(e->findings, finding,
                       "name the time zone, as in (created_at at time zone "
                       "'Europe/London')::date");
    } else if (strcmp(failure->sqlstate, "42P01") == 0) {
        finding_why(e->findings, finding,
                    "a key comes from the fact's table alone: one over two tables cannot be told "
                    "from a changed row, old and new");
        finding_remedy(e->findings, finding, "declare the fact over the other table");
    } else if (strcmp(failure->sqlstate, "42704") == 0) {
        finding_why(e->findings, finding, "keys are compared and ordered");
    }
    return false;
}

static bool read_types(struct examination *e, struct fact *fact, struct error *err)
{
    _cleanup_result_ struct pg_result *types = NULL;

    if (!pg_query(e->mirror,
                  "select format_type(atttypid, -1) from pg_attribute where attrelid = "
                  "'" SCHEMA ".tailwater_types'::regclass and attnum > 0 order by attnum",
                  0, NULL, &types, err))
        return false;
    for (int i = 0; i < fact->nkeys; i++)
        fact->keys[i].type = arena_strdup(e->arena, pg_text(types, i, 0));
    return true;
}

/* *ret_is_fine false: said why. */
static bool read_columns(struct examination *e, struct fact *fact, bool *ret_is_fine,
                         struct error *err)
{
    const struct table *table = fact->nodes[0].table;
    struct fact_node *node = &fact->nodes[0];
    _cleanup_result_ struct pg_result *names = NULL, *whole = NULL;

    if (!pg_query(e->mirror,
                  "select distinct a.attname from pg_depend d join pg_attribute a "
                  "on a.attrelid = d.refobjid and a.attnum = d.refobjsubid "
                  "where d.classid = 'pg_class'::regclass and d.objid = "
                  "'" SCHEMA ".tailwater_key'::regclass and d.refclassid = 'pg_class'::regclass "
                  "and d.refobjsubid > 0 order by 1",
                  0, NULL, &names, err) ||
        !pg_query_row(e->mirror,
                      "select coalesce(indexprs::text like '%:varattno 0 %', false) from pg_index "
                      "where indexrelid = '" SCHEMA ".tailwater_key'::regclass",
                      0, NULL, &whole, err))
        return false;
    *ret_is_fine = false;
    if (pg_bool(whole, 0, 0) || pg_rows(names) == 0) {
        refuse(e, fact, fact->place,
               pg_bool(whole, 0, 0) ? "its key reads the row of %s as a whole: name the columns"
                                    : "its key reads no column of %s",
               table->label);
        return true;
    }
    fact->nreads = 0;
    for (int i = 0; i < pg_rows(names); i++) {
        const int column = table_find_column(table, pg_text(names, i, 0));

        if (table->columns[column].mask != MASK_NONE) {
            refuse(e, fact, fact->place, "its key reads the masked column %s.%s", table->label,
                   pg_text(names, i, 0));
            return true;
        }
        fact->reads[fact->nreads++] = column;
        for (int j = 0; j <= node->nwatch; j++)
            if (j == node->nwatch) {
                node->watch[node->nwatch++] = column;
                break;
            } else if (node->watch[j] == column) {
                break;
            }
    }
    *ret_is_fine = true;
    return true;
}

static bool examine_key(struct examination *e, struct fact *fact, bool *ret_is_fine,
                        struct error *err)
{
    const char *missing = NULL;
    struct error failure = {0};
    bool is_done;
    int part;

    *ret_is_fine = false;
    if (!pg_exec(e->mirror, "begin", err))
        return false;
    if (!make_copy(e, fact, &missing, &part, &failure)) {
        /* A server that is away, full or busy says nothing about the key. */
        if (pg_is_broken(e->mirror) || failure.kind == ERROR_MIRROR ||
            failure.kind == ERROR_RETRY) {
            *err = failure;
            return false;
        }
        refuse_key(e, fact, missing, part, &failure);
        return pg_exec(e->mirror, "rollback", err);
    }
    is_done = read_types(e, fact, err) && read_columns(e, fact, ret_is_fine, err);
    return is_done && pg_exec(e->mirror, "rollback", err);
}

/* ---- joins ---- */

/*
 * Two types compare where one btree family has an equality of both, as integer and bigint do;
 * varchar counts as text.
 */
static const char compares[] =
    "select l.t is null or r.t is null, coalesce((l.t = r.t and exists (select from pg_type y "
    "join pg_opclass c on c.opcdefault and c.opcintype in (y.oid, case y.typtype when 'e' then "
    "'anyenum'::regtype::oid when 'r' then 'anyrange'::regtype::oid else y.oid end) "
    "join pg_am a on a.oid = c.opcmethod and a.amname = 'btree' where y.oid = l.t)) "
    "or exists (select from pg_amop o join pg_am a on a.oid = o.amopmethod and a.amname = 'btree' "
    "where o.amopstrategy = 3 and o.amoplefttype = l.t and o.amoprighttype = r.t), false) "
    "from (select case when t = 'varchar'::regtype then 'text'::regtype else t end::oid as t "
    "from (select to_regtype($1) as t) x) l, "
    "(select case when t = 'varchar'::regtype then 'text'::regtype else t end::oid as t "
    "from (select to_regtype($2) as t) x) r";

static bool examine_joins(struct examination *e, const struct fact *fact, bool *ret_is_fine,
                          struct error *err)
{
    for (int i = 1; i < fact->nnodes; i++) {
        const struct fact_node *node = &fact->nodes[i], *parent = &fact->nodes[node->parent];

        for (int j = 0; j < node->nlinks; j++) {
            const struct table_column *a = &node->table->columns[node->links[j].column];
            const struct table_column *b = &parent->table->columns[node->links[j].parent_column];
            _cleanup_result_ struct pg_result *result = NULL;

            if (!pg_query_row(e->mirror, compares, 2, (const char *[]){a->cast_type, b->cast_type},
                              &result, err))
                return false;
            if (pg_bool(result, 0, 1) ||
                (e->is_lenient && pg_bool(result, 0, 0) && strcmp(a->cast_type, b->cast_type) == 0))
                continue;
            finding_why(e->findings,
                        refuse(e, fact, node->place, "%s.%s (%s) and %s.%s (%s) do not compare",
                               node->name, a->name, a->cast_type, parent->name, b->name,
                               b->cast_type),
                        "joined columns need an = of their own types, so that an index finds them");
            *ret_is_fine = false;
            return true;
        }
    }
    *ret_is_fine = true;
    return true;
}

/* ---- what is there already ---- */

/* A fact's name is one of the mirror database's. */
static bool examine_name(struct examination *e, const struct fact *fact, bool *ret_is_fine,
                         struct error *err)
{
    _cleanup_result_ struct pg_result *there = NULL, *other = NULL;

    *ret_is_fine = true;
    if (!pg_query_row(e->mirror, "select to_regclass('tailwater.fact') is not null", 0, NULL,
                      &there, err))
        return false;
    if (!pg_bool(there, 0, 0))
        return true;
    if (!pg_query(e->mirror,
                  "select pipeline from tailwater.fact where name = $1 and pipeline <> $2", 2,
                  (const char *[]){fact->name, e->config->pipeline}, &other, err))
        return false;
    *ret_is_fine = pg_rows(other) == 0;
    if (!*ret_is_fine)
        finding_remedy(e->findings,
                       refuse(e, fact, fact->place, "pipeline %s has a fact of that name",
                              pg_text(other, 0, 0)),
                       "give it another name: they are unique in a mirror database");
    return true;
}

static void add_column(struct buf *names, const struct table *table, int column)
{
    const char *name = table->columns[column].name;

    codec_text_array_add(names, name, (uint32_t) strlen(name));
}

/* Of node's table: what its children and itself are joined by, and what it watches. */
static void add_columns(struct buf *names, const struct fact *fact, int node)
{
    const struct fact_node *own = &fact->nodes[node];

    codec_text_array_begin(names);
    for (int i = 0; i < own->nlinks; i++)
        add_column(names, own->table, own->links[i].column);
    for (int i = 0; i < own->nwatch; i++)
        add_column(names, own->table, own->watch[i]);
    for (int i = 1; i < fact->nnodes; i++)
        for (int j = 0; fact->nodes[i].parent == node && j < fact->nodes[i].nlinks; j++)
            add_column(names, own->table, fact->nodes[i].links[j].parent_column);
    codec_text_array_end(names);
}

/* The source's tables may have columns that the mirror's have not yet got; run, which has made those that it
 * makes before it asks this, may have been told not to. */
static bool examine_columns(struct examination *e, const struct fact *fact, bool *ret_is_fine,
                            struct error *err)
{
    *ret_is_fine = true;
    if (e->is_lenient && (e->config->schema_changes[CHANGE_ADD_COLUMN] == SCHEMA_CHANGES_APPLY ||
                          e->config->schema_changes[CHANGE_RENAME_COLUMN] == SCHEMA_CHANGES_APPLY))
        return true; /* run will make them */
    for (int i = 0; i < fact->nnodes; i++) {
        const struct table *table = fact->nodes[i].table;
        _cleanup_buf_ struct buf names = {0};
        _cleanup_result_ struct pg_result *missing = NULL;

        add_columns(&names, fact, i);
        if (!pg_query(e->mirror,
                      "select c from unnest($3::text[]) c, to_regclass(format('%I.%I', $1::text, "
                      "$2::text)) m where m is not null and not exists (select from "
                      "pg_attribute a where a.attrelid = m and a.attname = c and not "
                      "a.attisdropped) limit 1",
                      3,
                      (const char *[]){table->mirror_schema, table->mirror_name, buf_text(&names)},
                      &missing, err))
            return false;
        if (pg_rows(missing) == 0)
            continue;
        finding_remedy(e->findings,
                       refuse(e, fact, fact->nodes[i].place,
                              "the mirror's table of %s has no column %s yet", table->label,
                              pg_text(missing, 0, 0)),
                       "schema_changes: {add_column: apply} makes it, at the next start or reload; "
                       "until then leave the fact out");
        *ret_is_fine = false;
        return true;
    }
    return true;
}

bool fact_examine(struct pg *mirror, const struct config *config, bool is_lenient,
                  struct arena *arena, struct finding_list *findings, struct fact_list *facts,
                  struct error *err)
{
    struct examination e = {mirror, config, is_lenient, arena, findings};
    int count = 0;

    for (int i = 0; i < facts->count; i++) {
        struct fact *fact = &facts->facts[i];
        bool is_fine;

        if (!examine_name(&e, fact, &is_fine, err) ||
            (is_fine && !examine_joins(&e, fact, &is_fine, err)) ||
            (is_fine && !examine_key(&e, fact, &is_fine, err)) ||
            (is_fine && !examine_columns(&e, fact, &is_fine, err)))
            return error_wrap(err, "examining fact %s", fact->name);
        if (is_fine)
            facts->facts[count++] = *fact;
    }
    facts->count = count;
    return true;
}

/* ---- indexes ---- */

bool fact_has_index(struct pg *mirror, const struct fact *fact, int node, bool *ret_has,
                    struct error *err)
{
    const struct fact_node *child = &fact->nodes[node];
    const struct table *table = fact->nodes[child->parent].table;
    _cleanup_buf_ struct buf names = {0};
    _cleanup_result_ struct pg_result *found = NULL;

    codec_text_array_begin(&names);
    for (int i = 0; i < child->nlinks; i++) {
        const char *name = table->columns[child->links[i].parent_column].name;

        codec_text_array_add(&names, name, (uint32_t) strlen(name));
    }
    codec_text_array_end(&names);
    if (!pg_query_row(
            mirror,
            "select exists (select from pg_index i join pg_class c on c.oid = i.indexrelid "
            "join pg_am a on a.oid = c.relam and a.amname = 'btree', "
            "(select count(*)::integer as n, array_agg(x collate \"C\" order by x collate \"C\") "
            "as names from unnest($3::text[]) x) w "
            "where i.indrelid = to_regclass(format('%I.%I', $1::text, $2::text)) and i.indisvalid "
            "and i.indpred is null and (select array_agg(t.attname::text collate \"C\" order by "
            "t.attname::text collate \"C\") from unnest(i.indkey::int2[]) with ordinality "
            "k(attnum, "
            "nr) join pg_attribute t on t.attrelid = i.indrelid and t.attnum = k.attnum "
            "where k.nr <= w.n) = w.names)",
            3, (const char *[]){table->mirror_schema, table->mirror_name, buf_text(&names)}, &found,
            err))
        return error_wrap(err, "looking for the indexes of %s", table->label);
    *ret_has = pg_bool(found, 0, 0);
    return true;
}

void fact_add_index(const struct fact *fact, int node, struct buf *sql)
{
    const struct fact_node *child = &fact->nodes[node];
    const struct table *table = fact->nodes[child->parent].table;

    buf_add(sql, "create index on ");
    pg_add_qualified(sql, table->mirror_schema, table->mirror_name);
    for (int i = 0; i < child->nlinks; i++) {
        buf_add(sql, i ? ", " : " (");
        pg_add_ident(sql, table->columns[child->links[i].parent_column].name);
    }
    buf_add_char(sql, ')');
}
