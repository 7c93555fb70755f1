/*
 * One link is looked up by = any (array): the planner knows how long it is, and goes over index and
 * table once, in their order, or reads the table.  Of a join with unnest() it thinks that it has 200
 * rows, and looks each of them up by itself, which takes five times as long where they are thousands.
 * Several links are looked up one set after the other, PostgreSQL has no = any for rows; OFFSET 0
 * keeps the planner from reading all of a table that was small when it planned (PG_BY_KEY).
 */
#include "ledger/reach.h"

#include "pg/pg.h"

static const struct table_column *link_column(const struct fact_node *child, int link)
{
    return &child->table->columns[child->links[link].column];
}

/* "m.customer_id =" */
static void add_linked_column(struct buf *sql, const struct table_column *column)
{
    buf_add(sql, "m.");
    pg_add_ident(sql, column->name);
    buf_printf(sql, " %s ", column->equality);
}

/* Where only one side says how texts compare. */
static void add_link_collation(struct buf *sql, const struct table_column *own,
                               const struct table_column *column)
{
    if (own->collation != NULL && column->collation == NULL)
        buf_printf(sql, " %s", own->collation);
}

static void add_reach_by_one(struct buf *sql, const struct fact_node *child,
                             const struct table *parent)
{
    const struct table_column *own = link_column(child, 0);
    const struct table_column *column = &parent->columns[child->links[0].parent_column];

    pg_add_qualified(sql, parent->mirror_schema, parent->mirror_name);
    buf_add(sql, " m where ");
    add_linked_column(sql, column);
    buf_printf(sql, "any ($1::%s[]", own->cast_type);
    add_link_collation(sql, own, column);
    buf_add(sql, ") and ");
}

/* Values of several links belong together, row by row. */
static void add_reach_by_several(struct buf *sql, const struct fact_node *child,
                                 const struct table *parent)
{
    buf_add(sql, "(select distinct u.* from unnest(");
    for (int i = 0; i < child->nlinks; i++)
        buf_printf(sql, "%s$%d::%s[]", i ? ", " : "", i + 1, link_column(child, i)->cast_type);
    buf_add(sql, ") as u(");
    for (int i = 0; i < child->nlinks; i++)
        buf_printf(sql, "%sv%d", i ? ", " : "", i);
    buf_add(sql, ")) as u cross join lateral (select m.* from ");
    pg_add_qualified(sql, parent->mirror_schema, parent->mirror_name);
    buf_add(sql, " m where ");
    for (int i = 0; i < child->nlinks; i++) {
        const struct table_column *column = &parent->columns[child->links[i].parent_column];

        buf_add(sql, i ? " and " : "");
        add_linked_column(sql, column);
        buf_printf(sql, "u.v%d", i);
        add_link_collation(sql, link_column(child, i), column);
    }
    buf_add(sql, " offset 0) as m where ");
}

void reach_add(struct buf *sql, const struct fact *fact, int node)
{
    const struct fact_node *child = &fact->nodes[node];
    const struct table *parent = fact->nodes[child->parent].table;

    if (child->nlinks == 1)
        add_reach_by_one(sql, child, parent);
    else
        add_reach_by_several(sql, child, parent);
    buf_add(sql, parent->is_derived ? "true" : "m._deleted_at is null");
}

/* A subquery that the planner dissolves: one in the list of columns is run for each row, which took
 * longer than finding the rows. */
void reach_add_keys(struct buf *sql, const struct fact *fact)
{
    buf_add(sql, " cross join lateral (select ");
    for (int i = 0; i < fact->nkeys; i++)
        buf_printf(sql, "%s%s as tailwater_k%d", i ? ", " : "", fact->keys[i].sql, i);
    buf_add(sql, " from (select ");
    for (int i = 0; i < fact->nreads; i++) {
        buf_add(sql, i ? ", h." : "h.");
        pg_add_ident(sql, fact->nodes[0].table->columns[fact->reads[i]].name);
    }
    buf_add(sql, ") as ");
    pg_add_ident(sql, fact->nodes[0].name);
    buf_add(sql, ") k");
}

bool reach_add_key_test(struct buf *sql, const struct fact *fact, const char *before,
                        const char *test, const char *between)
{
    bool any = false;

    for (int i = 0; i < fact->nkeys; i++) {
        if (!fact->keys[i].is_nullable)
            continue;
        buf_printf(sql, "%sv.k%d %s", any ? between : before, i, test);
        any = true;
    }
    return any;
}

void reach_add_ledger(struct buf *sql, const struct fact *fact)
{
    buf_printf(sql, "tailwater.\"ledger_%s\" (batch_id, lane, node", fact->name);
    for (int i = 0; i < fact->nkeys; i++) {
        buf_add(sql, ", ");
        pg_add_ident(sql, fact->keys[i].name);
    }
    buf_add_char(sql, ')');
}

void reach_add_ledger_arrays(struct buf *sql, const struct fact *fact)
{
    buf_printf(sql, "tailwater.\"ledger_%s\" (batch_id, lane, node", fact->name);
    for (int i = 0; i < fact->nkeys; i++)
        buf_printf(sql, ", \"keys$%d\"", i + 1);
    buf_add_char(sql, ')');
}

void reach_add_copy(struct buf *sql, const struct fact *fact)
{
    buf_add(sql, "copy ");
    reach_add_ledger(sql, fact);
    buf_add(sql, " from stdin");
}
