/*
 * A graph of names, small, built in one go: nodes are found by kind and name, one after the other.
 *
 * A dimension that reaches the fact's table through another one has an edge of its own to the fact, since it
 * is its changes that lead to keys; the way is in words.  Queries are not taken apart here: check
 * compares what they read with what is declared.
 */
#include "feed/lineage.h"

#include "base/human.h"
#include "feed/document.h"
#include "mirror/control.h"

#include <stdio.h>
#include <string.h>

#define FIRST_SIZE 16

static const char *const kinds[] = {[LINEAGE_TABLE] = "table",
                                    [LINEAGE_FACT] = "fact",
                                    [LINEAGE_DERIVED] = "derived",
                                    [LINEAGE_FEED] = "feed",
                                    [LINEAGE_VIEW] = "view"};

/* ---- the graph ---- */

static int find(const struct lineage *lineage, enum lineage_kind kind, const char *name)
{
    for (int i = 0; i < lineage->nnodes; i++)
        if (lineage->nodes[i].kind == kind && strcmp(lineage->nodes[i].name, name) == 0)
            return i;
    return -1;
}

static void *grown(struct arena *arena, const void *items, int count, int *size, size_t each)
{
    void *more;

    *size = *size == 0 ? FIRST_SIZE : *size * 2;
    more = arena_alloc(arena, (size_t) *size * each);
    if (count > 0)
        memcpy(more, items, (size_t) count * each);
    return more;
}

static int node(struct lineage *lineage, enum lineage_kind kind, const char *name, const char *note)
{
    const int at = find(lineage, kind, name);

    if (at >= 0)
        return at;
    if (lineage->nnodes == lineage->nodes_size)
        lineage->nodes = grown(lineage->arena, lineage->nodes, lineage->nnodes,
                               &lineage->nodes_size, sizeof(*lineage->nodes));
    lineage->nodes[lineage->nnodes] = (struct lineage_node){
        .kind = kind, .name = arena_strdup(lineage->arena, name), .note = note};
    return lineage->nnodes++;
}

static void edge(struct lineage *lineage, int from, int to, const char *how)
{
    for (int i = 0; i < lineage->nedges; i++)
        if (lineage->edges[i].from == from && lineage->edges[i].to == to &&
            strcmp(lineage->edges[i].how, how) == 0)
            return;
    if (lineage->nedges == lineage->edges_size)
        lineage->edges = grown(lineage->arena, lineage->edges, lineage->nedges,
                               &lineage->edges_size, sizeof(*lineage->edges));
    lineage->edges[lineage->nedges++] = (struct lineage_edge){.from = from, .to = to, .how = how};
}

/* ---- what the configuration says ---- */

static const char *label(struct lineage *lineage, const struct config_table_name *table)
{
    return arena_printf(lineage->arena, "%s.%s", table->schema, table->name);
}

/* A table of the source, or one that a refresh of another fact writes. */
static int table_node(struct lineage *lineage, const struct config_table_name *table)
{
    const char *name = label(lineage, table);
    const int derived = find(lineage, LINEAGE_DERIVED, name);

    return derived >= 0 ? derived : node(lineage, LINEAGE_TABLE, name, "");
}

/* "countries.id = customers.country_id, through customers" */
static const char *describe_join(struct lineage *lineage, const struct config_fact *fact,
                                 const struct config_dimension *dimension)
{
    _cleanup_buf_ struct buf text = {0};
    const char *parent = NULL;

    for (int i = 0; i < dimension->njoins; i++) {
        const struct config_join *join = &dimension->joins[i];
        const bool is_left = strcmp(join->side[0].node, dimension->as) == 0;

        parent = join->side[is_left].node;
        buf_printf(&text, "%s%s.%s = %s.%s", i > 0 ? " and " : "", join->side[0].node,
                   join->side[0].column, join->side[1].node, join->side[1].column);
    }
    if (parent != NULL && strcmp(parent, fact->table.name) != 0)
        buf_printf(&text, ", through %s", parent);
    return arena_strdup(lineage->arena, buf_text(&text));
}

static const char *describe_key(struct lineage *lineage, const struct config_fact *fact)
{
    _cleanup_buf_ struct buf text = {0};

    buf_add(&text, "key ");
    for (int i = 0; i < fact->nkeys; i++)
        buf_printf(&text, "%s%s", i > 0 ? ", " : "", fact->keys[i].name);
    return arena_strdup(lineage->arena, buf_text(&text));
}

static void add_fact(struct lineage *lineage, const struct config_fact *fact)
{
    const int grain = table_node(lineage, &fact->table);
    const int count = fact->ndimensions;
    int *dimensions = arena_new(lineage->arena, int, count + 1), at;

    for (int i = 0; i < count; i++)
        dimensions[i] = table_node(lineage, &fact->dimensions[i].table);
    at = node(lineage, LINEAGE_FACT, fact->name, describe_key(lineage, fact));
    edge(lineage, grain, at, "");
    for (int i = 0; i < count; i++)
        edge(lineage, dimensions[i], at, describe_join(lineage, fact, &fact->dimensions[i]));
    if (fact->refresh.is_declared)
        edge(lineage, at, find(lineage, LINEAGE_DERIVED, label(lineage, &fact->refresh.into)), "");
}

static const char *describe_destination(struct lineage *lineage, const struct config_feed *feed)
{
    const struct config_destination *to = &feed->destination;

    /* Where a URL leads to, without its path: that may hold what is private. */
    if (to->url != NULL) {
        const char *scheme = strstr(to->url, "://"), *host = scheme ? scheme + 3 : to->url;

        return arena_printf(lineage->arena, "to %.*s", (int) strcspn(host, "/?#"), host);
    }
    if (to->command != NULL)
        return arena_printf(lineage->arena, "to the command %s", to->command[0]);
    if (to->table.name != NULL)
        return arena_printf(lineage->arena, "to the table %s", label(lineage, &to->table));
    return "to standard output";
}

static void add_declared(struct lineage *lineage, const struct config *config)
{
    /* Derived tables are known first: a fact may stand on one that a later fact writes. */
    for (int i = 0; i < config->nfacts; i++)
        if (config->facts[i].refresh.is_declared)
            node(lineage, LINEAGE_DERIVED, label(lineage, &config->facts[i].refresh.into), "");
    for (int i = 0; i < config->nfacts; i++)
        add_fact(lineage, &config->facts[i]);
    for (int i = 0; i < config->nfeeds; i++) {
        const struct config_feed *feed = &config->feeds[i];
        const int fact = find(lineage, LINEAGE_FACT, feed->fact);
        const int at = node(lineage, LINEAGE_FEED, feed->name, describe_destination(lineage, feed));

        /* A process of its own may have a file with feeds alone. */
        edge(lineage, fact >= 0 ? fact : node(lineage, LINEAGE_FACT, feed->fact, ""), at, "");
    }
}

/* ---- what the mirror says ---- */

/* The pipeline's tables, and whatever views read them or the derived tables, at any depth.  Roots stand
 * for a table by its live view and by its mirror table. */
static const char views_sql[] =
    "WITH RECURSIVE root(oid, kind, name) AS ("
    "SELECT r.oid, 'table', m.schema || '.' || m.name FROM tailwater.mirror_table m, LATERAL "
    "(VALUES "
    "(to_regclass(format('%I.%I', m.view_schema, m.view_name))), "
    "(to_regclass(format('%I.%I', m.mirror_schema, m.mirror_name)))) AS r(oid) "
    "WHERE m.pipeline = $1 AND m.state = 'ready' AND r.oid IS NOT NULL "
    "UNION ALL SELECT to_regclass(d.name), 'derived', d.label FROM unnest($2::text[], $3::text[]) "
    "AS d(name, label) WHERE to_regclass(d.name) IS NOT NULL), "
    "reads(lower, upper) AS (SELECT DISTINCT p.refobjid, r.ev_class FROM pg_depend p "
    "JOIN pg_rewrite r ON r.oid = p.objid WHERE p.classid = 'pg_rewrite'::regclass "
    "AND p.refclassid = 'pg_class'::regclass AND p.refobjid <> r.ev_class "
    "AND r.ev_class NOT IN (SELECT oid FROM root)), "
    "walk(lower, upper) AS (SELECT e.* FROM reads e JOIN root ON root.oid = e.lower "
    "UNION SELECT e.* FROM reads e JOIN walk w ON w.upper = e.lower), "
    "named(oid, kind, name, is_materialized) AS (SELECT oid, kind, name, false FROM root "
    "UNION ALL SELECT c.oid, 'view', n.nspname || '.' || c.relname, c.relkind = 'm' FROM pg_class "
    "c "
    "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('v', 'm') "
    "AND c.relpersistence <> 't' AND c.oid IN (SELECT upper FROM walk)) "
    "SELECT DISTINCT a.kind, a.name, a.is_materialized, b.name, b.is_materialized FROM walk w "
    "JOIN named a ON a.oid = w.lower JOIN named b ON b.oid = w.upper ORDER BY 1, 2, 4";

static const char tables_sql[] =
    "SELECT schema || '.' || name FROM tailwater.mirror_table WHERE pipeline = $1 "
    "AND state = 'ready' ORDER BY schema, name";

static const char *list(struct arena *arena, const struct config *config, bool is_quoted)
{
    _cleanup_buf_ struct buf text = {0}, name = {0};
    const char **names = arena_new(arena, const char *, config->nfacts + 1);
    int count = 0;

    for (int i = 0; i < config->nfacts; i++) {
        const struct config_table_name *into = &config->facts[i].refresh.into;

        if (!config->facts[i].refresh.is_declared)
            continue;
        buf_clear(&name);
        if (is_quoted)
            pg_add_qualified(&name, into->schema, into->name);
        else
            buf_printf(&name, "%s.%s", into->schema, into->name);
        names[count++] = arena_strdup(arena, buf_text(&name));
    }
    document_add_array(&text, names, count);
    return arena_strdup(arena, buf_text(&text));
}

static const char *materialized(const struct pg_result *rows, int row, int column)
{
    return pg_bool(rows, row, column) ? "materialized" : "";
}

static bool add_views(struct lineage *lineage, struct pg *mirror, const struct config *config,
                      struct error *err)
{
    const char *params[] = {config->pipeline, list(lineage->arena, config, true),
                            list(lineage->arena, config, false)};
    _cleanup_result_ struct pg_result *tables = NULL, *rows = NULL;

    if (!pg_query(mirror, tables_sql, 1, params, &tables, err) ||
        !pg_query(mirror, views_sql, 3, params, &rows, err))
        return error_wrap(err, "looking for views");
    for (int row = 0; row < pg_rows(tables); row++)
        node(lineage, LINEAGE_TABLE, pg_text(tables, row, 0), "");
    for (int row = 0; row < pg_rows(rows); row++) {
        const char *kind = pg_text(rows, row, 0), *name = pg_text(rows, row, 1);
        const enum lineage_kind of = strcmp(kind, "view") == 0      ? LINEAGE_VIEW
                                     : strcmp(kind, "derived") == 0 ? LINEAGE_DERIVED
                                                                    : LINEAGE_TABLE;

        edge(lineage, node(lineage, of, name, materialized(rows, row, 2)),
             node(lineage, LINEAGE_VIEW, pg_text(rows, row, 3), materialized(rows, row, 4)), "");
    }
    return true;
}

/* ---- of one fact ---- */

/* Marks what leads to a marked node, or away from one, until there is no more. */
static void spread(const struct lineage *lineage, bool *is_marked, bool is_upwards)
{
    for (bool has_grown = true; has_grown;) {
        has_grown = false;
        for (int i = 0; i < lineage->nedges; i++) {
            const struct lineage_edge *one = &lineage->edges[i];
            const int from = is_upwards ? one->to : one->from,
                      to = is_upwards ? one->from : one->to;

            if (!is_marked[from] || is_marked[to])
                continue;
            is_marked[to] = has_grown = true;
        }
    }
}

static bool restrict_to(struct lineage *lineage, const struct config *config, const char *fact,
                        struct error *err)
{
    const int at = find(lineage, LINEAGE_FACT, fact);
    bool *above = arena_new(lineage->arena, bool, lineage->nnodes + 1);
    bool *below = arena_new(lineage->arena, bool, lineage->nnodes + 1);

    if (at < 0) {
        const char **names = arena_new(lineage->arena, const char *, config->nfacts + 1), *nearest;

        for (int i = 0; i < config->nfacts; i++)
            names[i] = config->facts[i].name;
        nearest = config_nearest(fact, names, config->nfacts);
        error_set(err, ERROR_CONFIG, "there is no fact \"%s\" in the configuration", fact);
        return nearest != NULL ? error_hint(err, "did you mean %s?", nearest)
                               : error_hint(err, "all there is: tailwater lineage");
    }
    above[at] = below[at] = true;
    spread(lineage, above, true);
    spread(lineage, below, false);
    for (int i = 0; i < lineage->nnodes; i++)
        lineage->nodes[i].is_hidden = !above[i] && !below[i];
    return true;
}

bool lineage_read(struct pg *mirror, const struct config *config, const char *fact,
                  struct arena *arena, struct lineage *ret_lineage, struct error *err)
{
    struct lineage lineage = {.arena = arena};
    int version, known;

    add_declared(&lineage, config);
    if (!control_version(mirror, &version, &known, err) ||
        (version > 0 && !add_views(&lineage, mirror, config, err)) ||
        (fact != NULL && !restrict_to(&lineage, config, fact, err)))
        return false;
    *ret_lineage = lineage;
    return true;
}

/* ---- as text ---- */

static bool is_shown(const struct lineage *lineage, const struct lineage_edge *one)
{
    return !lineage->nodes[one->from].is_hidden && !lineage->nodes[one->to].is_hidden;
}

static void add_line(struct buf *out, const struct lineage_node *of, const char *how, int depth)
{
    buf_printf(out, "%*s%-7s  %s", 2 + 2 * depth, "", kinds[of->kind], of->name);
    if (how[0] != '\0' || of->note[0] != '\0')
        buf_printf(out, "  (%s)", how[0] != '\0' ? how : of->note);
    buf_add_char(out, '\n');
}

/* What is made of a node, but for facts: these have a paragraph of their own.  Once: where several ways
 * lead to a node, what is below it stands at the first one. */
static void add_below(const struct lineage *lineage, int at, int depth, bool is_views_only,
                      bool *is_told, struct buf *out)
{
    is_told[at] = true;
    for (int i = 0; i < lineage->nedges; i++) {
        const struct lineage_edge *one = &lineage->edges[i];

        if (one->from != at || !is_shown(lineage, one) ||
            (is_views_only && lineage->nodes[one->to].kind != LINEAGE_VIEW))
            continue;
        add_line(out, &lineage->nodes[one->to], one->how, depth);
        if (lineage->nodes[one->to].kind != LINEAGE_FACT && !is_told[one->to])
            add_below(lineage, one->to, depth + 1, is_views_only, is_told, out);
    }
}

/* " to" and what is below, where there is something. */
static void add_to(const struct lineage *lineage, int at, bool is_views_only, struct buf *out)
{
    _cleanup_buf_ struct buf below = {0};

    add_below(lineage, at, 0, is_views_only, arena_new(lineage->arena, bool, lineage->nnodes),
              &below);
    if (below.len > 0)
        buf_printf(out, " to\n%s", buf_text(&below));
}

void lineage_add_text(const struct lineage *lineage, struct buf *out)
{
    for (int i = 0; i < lineage->nnodes; i++) {
        const struct lineage_node *fact = &lineage->nodes[i];

        if (fact->kind != LINEAGE_FACT || fact->is_hidden)
            continue;
        buf_printf(out, "%sfact %s  (%s)\n", out->len > 0 ? "\n" : "", fact->name, fact->note);
        buf_add(out, " from\n");
        for (int j = 0; j < lineage->nedges; j++)
            if (lineage->edges[j].to == i)
                add_line(out, &lineage->nodes[lineage->edges[j].from], lineage->edges[j].how, 0);
        add_to(lineage, i, false, out);
    }
    for (int i = 0; i < lineage->nnodes; i++) {
        const struct lineage_node *table = &lineage->nodes[i];
        _cleanup_buf_ struct buf views = {0};

        if (table->kind == LINEAGE_TABLE && !table->is_hidden)
            add_to(lineage, i, true, &views);
        if (views.len > 0)
            buf_printf(out, "%stable %s\n%s", out->len > 0 ? "\n" : "", table->name,
                       buf_text(&views));
    }
    if (out->len == 0)
        buf_add(out, "no facts are declared, and no view reads what is mirrored\n");
}

/* ---- for programs ---- */

void lineage_add_json(const struct lineage *lineage, struct buf *out)
{
    const char *comma = "";

    buf_add(out, "{\"nodes\": [");
    for (int i = 0; i < lineage->nnodes; i++) {
        const struct lineage_node *one = &lineage->nodes[i];

        if (one->is_hidden)
            continue;
        buf_printf(out, "%s{\"id\": %d, ", comma, i);
        buf_add_json_member(out, "kind", kinds[one->kind]);
        buf_add(out, ", ");
        buf_add_json_member(out, "name", one->name);
        buf_add(out, ", ");
        buf_add_json_member(out, "note", one->note[0] != '\0' ? one->note : NULL);
        buf_add_char(out, '}');
        comma = ", ";
    }
    buf_add(out, "], \"edges\": [");
    comma = "";
    for (int i = 0; i < lineage->nedges; i++) {
        const struct lineage_edge *one = &lineage->edges[i];

        if (!is_shown(lineage, one))
            continue;
        buf_printf(out, "%s{\"from\": %d, \"to\": %d, ", comma, one->from, one->to);
        buf_add_json_member(out, "how", one->how[0] != '\0' ? one->how : NULL);
        buf_add_char(out, '}');
        comma = ", ";
    }
    buf_add(out, "]}");
}

static void add_dot_text(struct buf *out, const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            buf_add_char(out, '\\');
        buf_add_char(out, *text);
    }
}

void lineage_add_dot(const struct lineage *lineage, struct buf *out)
{
    static const char *const shapes[] = {[LINEAGE_TABLE] = "box",
                                         [LINEAGE_FACT] = "hexagon",
                                         [LINEAGE_DERIVED] = "box3d",
                                         [LINEAGE_FEED] = "cds",
                                         [LINEAGE_VIEW] = "note"};

    buf_add(out, "digraph tailwater {\n  rankdir=LR;\n");
    for (int i = 0; i < lineage->nnodes; i++) {
        const struct lineage_node *one = &lineage->nodes[i];

        if (one->is_hidden)
            continue;
        buf_printf(out, "  n%d [shape=%s, label=\"", i, shapes[one->kind]);
        add_dot_text(out, one->name);
        if (one->note[0] != '\0') {
            buf_add(out, "\\n");
            add_dot_text(out, one->note);
        }
        buf_add(out, "\"];\n");
    }
    for (int i = 0; i < lineage->nedges; i++) {
        if (!is_shown(lineage, &lineage->edges[i]))
            continue;
        buf_printf(out, "  n%d -> n%d [tooltip=\"", lineage->edges[i].from, lineage->edges[i].to);
        add_dot_text(out, lineage->edges[i].how);
        buf_add(out, "\"];\n");
    }
    buf_add(out, "}\n");
}
