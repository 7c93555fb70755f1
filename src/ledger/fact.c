/*
 * Resolution of a declaration, in the order of the functions: the nodes and their tables, joins and
 * parents, the tree, columns that are watched.  The first error of a fact ends it; other facts are
 * looked at all the same, so that a check shows one error of each.
 *
 * A join is found the way it is written: one side names the dimension, the other side its parent.
 * Names of nodes and columns are taken as they are (config/pattern.c says why).
 */
#include "ledger/fact.h"

#include <stdlib.h>
#include <string.h>

/* A statement's target list ends at 1664 columns, and the probe has its own (statement.c). */
#define MAX_TARGETS 1600

struct resolution {
    const struct config *config;
    const struct table_list *tables;
    const struct chain *chain;
    struct arena *arena;
    struct finding_list *findings;
    struct fact *fact; /* the one being resolved */
};

static bool refuse(struct resolution *r, struct config_place place, const char *why,
                   const char *remedy, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

static bool refuse(struct resolution *r, struct config_place place, const char *why,
                   const char *remedy, const char *format, ...)
{
    char message[1024];
    struct finding *finding;
    va_list args;

    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    finding = finding_add(r->findings, "fact", FINDING_ERROR, "%s:%d:%d: fact %s: %s",
                          r->config->file, place.line, place.column, r->fact->name, message);
    if (why != NULL)
        finding_why(r->findings, finding, "%s", why);
    if (remedy != NULL)
        finding_remedy(r->findings, finding, "%s", remedy);
    return false;
}

/* ---- nodes ---- */

/* Hops are made by the key of the table hopped to. */
static const struct table *find_derived(struct resolution *r, const struct config_table_name *name,
                                        const struct config_fact *source)
{
    const struct table *table = chain_find(r->chain, name);

    if (table != NULL && table->nkeys > 0)
        return table;
    if (table == NULL)
        refuse(r, name->place, arena_printf(r->arena, "fact %s makes it", source->name),
               "tailwater run makes it", "%s.%s is not there yet", name->schema, name->name);
    else
        refuse(r, name->place, "rows that change have to be found again",
               arena_printf(r->arena, "give it a primary key, then run again: %s",
                            "facts.NAME.refresh.unique names its columns"),
               "%s has neither a primary key nor a unique index of its query's columns",
               table->label);
    return NULL;
}

static const struct table *find_table(struct resolution *r, const struct config_table_name *name)
{
    const struct table *table = table_list_find(r->tables, name->schema, name->name);
    const struct config_fact *source = chain_source(r->config, name);

    if (table == NULL && source != NULL)
        return find_derived(r, name, source);

    if (table == NULL) {
        const char **labels = arena_new(r->arena, const char *, r->tables->count + 1);
        const char *near;

        for (int i = 0; i < r->tables->count; i++)
            labels[i] = r->tables->tables[i].label;
        near = config_nearest(arena_printf(r->arena, "%s.%s", name->schema, name->name), labels,
                              r->tables->count);
        refuse(r, name->place, "every table on a path to a fact has to be mirrored",
               near ? arena_printf(r->arena, "did you mean %s? else add the table to tables", near)
                    : "add it to tables",
               "%s.%s is not mirrored", name->schema, name->name);
    } else if (strcmp(table->schema, name->schema) != 0 || strcmp(table->name, name->name) != 0) {
        refuse(r, name->place, NULL, arena_printf(r->arena, "name %s", table->label),
               "%s.%s is a partition, mirrored through %s", name->schema, name->name, table->label);
        table = NULL;
    }
    return table;
}

static int find_node(const struct fact *fact, const char *name)
{
    for (int i = 0; i < fact->nnodes; i++)
        if (strcmp(fact->nodes[i].name, name) == 0)
            return i;
    return -1;
}

static bool resolve_nodes(struct resolution *r, const struct config_fact *from)
{
    struct fact *fact = r->fact;

    fact->nodes = arena_new(r->arena, struct fact_node, from->ndimensions + 1);
    fact->nodes[0] = (struct fact_node){.name = from->table.name,
                                        .table = find_table(r, &from->table),
                                        .place = from->place,
                                        .parent = -1};
    if (fact->nodes[0].table == NULL)
        return false;
    fact->nnodes = 1;
    for (int i = 0; i < from->ndimensions; i++) {
        const struct config_dimension *dimension = &from->dimensions[i];
        struct fact_node *node = &fact->nodes[fact->nnodes];

        *node = (struct fact_node){.name = dimension->as,
                                   .table = find_table(r, &dimension->table),
                                   .place = dimension->place,
                                   .parent = -1,
                                   .is_deferred = dimension->fan_out == FAN_OUT_DEFER,
                                   .limit = dimension->fan_out_limit
                                                ? dimension->fan_out_limit
                                                : r->config->ledger.fan_out_limit};
        if (node->table == NULL)
            return false;
        if (find_node(fact, dimension->as) >= 0)
            return refuse(r, dimension->place, "joins could not tell them apart",
                          "give one of them another name: as: …", "%s is there twice",
                          dimension->as);
        fact->nnodes++;
    }
    for (int i = 0; i < fact->nnodes; i++)
        fact->nodes[i].counts = arena_new(r->arena, struct fact_counts, 1);
    return true;
}

/* ---- columns ---- */

/* The column of that name that may be read for a ledger; -1 and a finding otherwise. */
static int find_column(struct resolution *r, const struct table *table, const char *name,
                       struct config_place place, const char *what)
{
    const int column = table_find_column(table, name);
    const char **names, *near;

    if (column >= 0) {
        if (table->columns[column].mask == MASK_NONE)
            return column;
        refuse(r, place, "its values are not the source's", "take the mask off, or the column out",
               "the %s column %s.%s is masked", what, table->label, name);
        return -1;
    }
    for (int i = 0; i < table->nexcluded; i++)
        if (strcmp(table->excluded[i], name) == 0) {
            refuse(r, place, "the ledger compares stored columns as they come from the source",
                   "mirror it, or name the columns that it is made of",
                   "the %s column %s.%s is excluded or generated", what, table->label, name);
            return -1;
        }
    names = arena_new(r->arena, const char *, table->ncolumns);
    for (int i = 0; i < table->ncolumns; i++)
        names[i] = table->columns[i].name;
    near = config_nearest(name, names, table->ncolumns);
    refuse(r, place, NULL, near ? arena_printf(r->arena, "did you mean %s?", near) : NULL,
           "%s has no column %s", table->label, name);
    return -1;
}

static void watch_column(struct fact_node *node, int column)
{
    for (int i = 0; i < node->nwatch; i++)
        if (node->watch[i] == column)
            return;
    node->watch[node->nwatch++] = column;
}

static bool resolve_watch(struct resolution *r, struct fact_node *node, int count,
                          const char **names, struct config_place place)
{
    node->watch = arena_new(r->arena, int, node->table->ncolumns + 1);
    node->is_watch_all = count == 0;
    for (int i = 0; i < count; i++) {
        const int column = find_column(r, node->table, names[i], place, "watched");

        if (column < 0)
            return false;
        watch_column(node, column);
    }
    return true;
}

/* Key and link columns are always watched. */
static void watch_links(struct fact *fact)
{
    for (int i = 1; i < fact->nnodes; i++)
        for (int j = 0; j < fact->nodes[i].nlinks; j++) {
            watch_column(&fact->nodes[i], fact->nodes[i].links[j].column);
            watch_column(&fact->nodes[fact->nodes[i].parent],
                         fact->nodes[i].links[j].parent_column);
        }
}

static bool resolve_key(struct resolution *r, const struct config_fact *from)
{
    struct fact *fact = r->fact;
    const struct table *table = fact->nodes[0].table;

    fact->keys = arena_new(r->arena, struct fact_key, from->nkeys);
    fact->reads = arena_new(r->arena, int, table->ncolumns + 1);
    for (int i = 0; i < from->nkeys; i++) {
        const struct config_fact_key *key = &from->keys[i];
        _cleanup_buf_ struct buf sql = {0};
        const char *dot = strchr(key->name, '.');

        fact->keys[i].name = key->name;
        fact->keys[i].place = key->place;
        fact->keys[i].is_nullable = true;
        if (key->expression != NULL) {
            fact->has_expression = true;
            fact->keys[i].sql = arena_printf(r->arena, "(%s)", key->expression);
            continue;
        }
        if (dot != NULL && table_find_column(table, key->name) < 0)
            return refuse(r, key->place,
                          "a key that needs two tables cannot be told from a changed row alone, "
                          "old and new",
                          "take the columns of the fact's table, or declare the fact over the "
                          "other table",
                          "the key column %s is not one of %s", key->name, table->label);
        const int column = find_column(r, table, key->name, key->place, "key");

        if (column < 0)
            return false;
        pg_add_ident(&sql, key->name);
        fact->keys[i].sql = arena_strdup(r->arena, buf_text(&sql));
        fact->keys[i].is_nullable = !table->columns[column].is_key;
    }
    fact->nkeys = from->nkeys;
    return true;
}

/* ---- joins ---- */

/* Which side of the equality is the dimension's; -1 and a finding where none, or both. */
static int own_side(struct resolution *r, const struct fact_node *node,
                    const struct config_join *join)
{
    const bool is_left = strcmp(join->side[0].node, node->name) == 0;
    const bool is_right = strcmp(join->side[1].node, node->name) == 0;

    if (is_left != is_right)
        return is_left ? 0 : 1;
    refuse(r, join->place, NULL,
           arena_printf(r->arena, "write %s.… = the table or dimension that it is joined to",
                        node->name),
           "the join of %s has to name it on one side", node->name);
    return -1;
}

/* A hop sends its values as arrays, one per column. */
static bool check_link(struct resolution *r, const struct config_join *join,
                       const struct table_column *a, const struct table_column *b)
{
    if (a->wire == WIRE_CAST || b->wire == WIRE_CAST)
        return refuse(r, join->place, NULL, NULL,
                      "%s and %s cannot be joined: arrays and composite values are no links",
                      a->name, b->name);
    if (a->collation != NULL && b->collation != NULL && strcmp(a->collation, b->collation) != 0)
        return refuse(r, join->place, NULL, NULL,
                      "%s and %s cannot be joined: their collations differ (%s, %s)", a->name,
                      b->name, a->collation, b->collation);
    return true;
}

static bool resolve_join(struct resolution *r, struct fact_node *node,
                         const struct config_join *join)
{
    const int own = own_side(r, node, join);
    const char *other;
    struct fact_link link;
    int parent;

    if (own < 0)
        return false;
    other = join->side[1 - own].node;
    parent = find_node(r->fact, other);
    if (parent < 0) {
        const char **names = arena_new(r->arena, const char *, r->fact->nnodes);
        const char *near;

        for (int i = 0; i < r->fact->nnodes; i++)
            names[i] = r->fact->nodes[i].name;
        near = config_nearest(other, names, r->fact->nnodes);
        return refuse(r, join->place, NULL,
                      near ? arena_printf(r->arena, "did you mean %s?", near)
                           : "name the fact's table or another dimension of it",
                      "%s is no table of this fact", other);
    }
    if (node->parent >= 0 && node->parent != parent)
        return refuse(r, join->place,
                      "each dimension is joined to one table nearer to the fact: a tree", NULL,
                      "%s is joined to %s and to %s", node->name, r->fact->nodes[node->parent].name,
                      other);
    node->parent = parent;
    link.column = find_column(r, node->table, join->side[own].column, join->place, "joined");
    if (link.column < 0)
        return false;
    link.parent_column = find_column(r, r->fact->nodes[parent].table, join->side[1 - own].column,
                                     join->place, "joined");
    if (link.parent_column < 0)
        return false;
    if (!check_link(r, join, &node->table->columns[link.column],
                    &r->fact->nodes[parent].table->columns[link.parent_column]))
        return false;
    node->links[node->nlinks++] = link;
    node->path = arena_printf(r->arena, "%s%s%s.%s = %s.%s", node->path ? node->path : "",
                              node->path ? " and " : "", node->name, join->side[own].column, other,
                              join->side[1 - own].column);
    return true;
}

/* From every node a way leads to node 0. */
static bool check_tree(struct resolution *r)
{
    const struct fact *fact = r->fact;

    for (int i = 1; i < fact->nnodes; i++) {
        int node = i, steps = 0;

        while (node > 0 && steps++ < fact->nnodes)
            node = fact->nodes[node].parent;
        if (node != 0)
            return refuse(r, fact->nodes[i].place, NULL,
                          "join one of them to the fact's table, or to a dimension that is",
                          "the joins from %s run in a circle", fact->nodes[i].name);
    }
    return true;
}

static bool resolve_joins(struct resolution *r, const struct config_fact *from)
{
    for (int i = 0; i < from->ndimensions; i++) {
        const struct config_dimension *dimension = &from->dimensions[i];
        struct fact_node *node = &r->fact->nodes[i + 1];

        node->links = arena_new(r->arena, struct fact_link, dimension->njoins);
        for (int j = 0; j < dimension->njoins; j++)
            if (!resolve_join(r, node, &dimension->joins[j]))
                return false;
    }
    return check_tree(r);
}

static bool check_width(struct resolution *r)
{
    for (int i = 0; i < r->fact->nnodes; i++) {
        const struct fact_node *node = &r->fact->nodes[i];

        if (!node->is_watch_all && node->table->ncolumns + node->nwatch > MAX_TARGETS)
            return refuse(r, node->place, "a statement has room for 1664 columns",
                          "leave watch out: then any change counts", "%s watches %d columns of %d",
                          node->name, node->nwatch, node->table->ncolumns);
    }
    return true;
}

static bool resolve(struct resolution *r, const struct config_fact *from)
{
    struct fact *fact = r->fact;

    if (!resolve_nodes(r, from) ||
        !resolve_watch(r, &fact->nodes[0], from->nwatch, from->watch, from->watch_place))
        return false;
    for (int i = 0; i < from->ndimensions; i++)
        if (!resolve_watch(r, &fact->nodes[i + 1], from->dimensions[i].nwatch,
                           from->dimensions[i].watch, from->dimensions[i].watch_place))
            return false;
    if (!resolve_key(r, from) || !resolve_joins(r, from))
        return false;
    watch_links(fact);
    return check_width(r);
}

void fact_resolve(const struct config *config, const struct table_list *tables,
                  const struct chain *chain, int level, struct arena *arena,
                  struct finding_list *findings, struct fact_list *ret_facts)
{
    struct fact_list facts = {.facts = arena_new(arena, struct fact, config->nfacts + 1)};

    for (int i = 0; i < config->nfacts; i++) {
        struct fact *fact = &facts.facts[facts.count];
        struct resolution r = {config, tables, chain, arena, findings, fact};

        if (chain->levels[i] != level)
            continue;
        *fact = (struct fact){.name = config->facts[i].name, .place = config->facts[i].place};
        if (resolve(&r, &config->facts[i]))
            facts.count++;
    }
    *ret_facts = facts;
}

/* ---- the definition ---- */

static void add_text(struct buf *json, const char *before, const char *text)
{
    buf_add(json, before);
    buf_add_json(json, text);
}

static int by_number(const void *a, const void *b)
{
    return *(const int *) a - *(const int *) b;
}

static void add_node(struct buf *json, const struct fact_node *node)
{
    add_text(json, "{\"name\": ", node->name);
    add_text(json, ", \"table\": ", node->table->label);
    if (node->path != NULL)
        add_text(json, ", \"join\": ", node->path);
    if (!node->is_watch_all) {
        qsort(node->watch, (size_t) node->nwatch, sizeof(int), by_number);
        for (int i = 0; i < node->nwatch; i++)
            add_text(json, i ? ", " : ", \"watch\": [", node->table->columns[node->watch[i]].name);
        buf_add_char(json, ']');
    }
    buf_add_char(json, '}');
}

void fact_add_definition(const struct fact *fact, struct buf *json)
{
    for (int i = 0; i < fact->nkeys; i++) {
        add_text(json, i ? ", {\"name\": " : "{\"key\": [{\"name\": ", fact->keys[i].name);
        add_text(json, ", \"sql\": ", fact->keys[i].sql);
        add_text(json, ", \"type\": ", fact->keys[i].type);
        buf_add_char(json, '}');
    }
    buf_add(json, "], \"nodes\": [");
    for (int i = 0; i < fact->nnodes; i++) {
        buf_add(json, i ? ", " : "");
        add_node(json, &fact->nodes[i]);
    }
    buf_add(json, "]}");
}

static bool is_linked(const struct fact_node *node, int column)
{
    for (int i = 0; i < node->nlinks; i++)
        if (node->links[i].column == column)
            return true;
    return false;
}

bool fact_links_have_key(const struct fact *fact, int node)
{
    const struct table *table = fact->nodes[node].table;

    for (int i = 0; i < table->nkeys; i++)
        if (!is_linked(&fact->nodes[node], table->keys[i]))
            return false;
    return true;
}
