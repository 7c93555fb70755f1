/*
 * The general statement, for a table of columns id (key), a, big (toastable), soft deletes and
 * every flag:
 *
 *   with s as materialized (
 *          select u.c0, u.c1, case when u.p2 then u.c2 else b.big end as c2, u.l, u.t, u.g,
 *                 m.ctid as tid, m._deleted_at is null as live,
 *                 not u.g and not (u.p2) and (b.ctid is null or b._deleted_at is not null) as lost,
 *                 row(m.a, m.big, m._deleted_at)::record *<> row(u.c1, …, null)::record as differs
 *            from unnest($1::bigint[], $2::int[], …) as u(c0, c1, c2, l, t, g, p2, b0)
 *            left join mirror m on m.id = u.c0
 *            left join mirror b on b.id = u.b0),
 *        d as (update mirror m set _deleted_at … from s where m.ctid = s.tid and s.g …),
 *        w as (update mirror m set … from s where m.ctid = s.tid and s.differs …),
 *        i as (insert into mirror … select … from s where s.tid is null …),
 *        r as (insert into tailwater.repair … select … from s where s.lost)
 *   select counts
 *
 * One probe per row: s is materialized, d and w reach the rows by their address.  All branches see
 * the same snapshot, and a row of the mirror is touched by at most one of them.  "Differs" compares
 * row images (*<>, record_image_ops): types without an equality operator work, and 1.0 is not 1.00;
 * _deleted_at is part of it.
 *
 * A null that may be a NaN or an infinity (P7; STATEMENT_DOUBTS) leaves one that the mirror has where
 * it is: most likely it has not changed.  The row is asked about anyhow.
 *
 * Where keys may be equal without being the same bytes (P72) the rows of s are ranked within an
 * equal key, present before gone, and only the first acts; the key columns are written then too.
 */
#include "mirror/statement.h"

#include "pg/pg.h"

/* Does a key that is gone leave a tombstone? */
static bool leaves_tombstones(const struct table *table, unsigned flags)
{
    return table_keeps_tombstones(table) || flags & STATEMENT_RESYNC;
}

int statement_slots(const struct table *table, unsigned flags, struct statement_slot *ret_slots)
{
    int count = 0;

    for (int i = 0; i < table->ncolumns; i++)
        ret_slots[count++] = (struct statement_slot){PARAM_COLUMN, i};
    ret_slots[count++] = (struct statement_slot){PARAM_LSN, -1};
    if (leaves_tombstones(table, flags))
        ret_slots[count++] = (struct statement_slot){PARAM_TIME, -1};
    if (flags & STATEMENT_GONE)
        ret_slots[count++] = (struct statement_slot){PARAM_GONE, -1};
    for (int i = 0; flags & STATEMENT_HOLES && i < table->ncolumns; i++)
        if (table->columns[i].is_toastable && !table->columns[i].is_key)
            ret_slots[count++] = (struct statement_slot){PARAM_PRESENCE, i};
    for (int i = 0; flags & STATEMENT_BASES && i < table->nkeys; i++)
        ret_slots[count++] = (struct statement_slot){PARAM_BASE_KEY, table->keys[i]};
    return count;
}

static void add_mirror(struct buf *sql, const struct table *table)
{
    pg_add_qualified(sql, table->mirror_schema, table->mirror_name);
}

static void add_column(struct buf *sql, const char *alias, const struct table_column *column)
{
    buf_add(sql, alias);
    buf_add_char(sql, '.');
    pg_add_ident(sql, column->name);
}

/* The array's type: the column's own, or text where unnest would take the value apart. */
static const char *array_type(const struct table_column *column)
{
    return column->wire == WIRE_CAST ? "text" : column->cast_type;
}

/* The name of a slot's column in u: c3 values, p3 presence, b3 base keys, l, t, g. */
static void add_slot_name(struct buf *sql, const struct statement_slot *slot)
{
    static const char letters[] = {
        [PARAM_COLUMN] = 'c', [PARAM_LSN] = 'l',      [PARAM_TIME] = 't',
        [PARAM_GONE] = 'g',   [PARAM_PRESENCE] = 'p', [PARAM_BASE_KEY] = 'b'};

    buf_add_char(sql, letters[slot->param]);
    if (slot->column >= 0)
        buf_printf(sql, "%d", slot->column);
}

static const char *slot_type(const struct table *table, const struct statement_slot *slot)
{
    switch (slot->param) {
    case PARAM_COLUMN:
    case PARAM_BASE_KEY:
        return array_type(&table->columns[slot->column]);
    case PARAM_LSN:
        return "pg_lsn";
    case PARAM_TIME:
        return "timestamptz";
    case PARAM_GONE:
    case PARAM_PRESENCE:
        return "bool";
    }
    return NULL;
}

/* unnest($1::T[], …) as u(c0, …) */
static void add_unnest(struct buf *sql, const struct table *table, unsigned flags)
{
    struct statement_slot slots[3 * 1600 + 3];
    int count = statement_slots(table, flags, slots);

    buf_add(sql, "unnest(");
    for (int i = 0; i < count; i++)
        buf_printf(sql, "%s$%d::%s[]", i ? ", " : "", i + 1, slot_type(table, &slots[i]));
    buf_add(sql, ") as u(");
    for (int i = 0; i < count; i++) {
        buf_add(sql, i ? ", " : "");
        add_slot_name(sql, &slots[i]);
    }
    buf_add(sql, ")");
}

/* The value as it was sent, in the column's own type. */
static void add_sent(struct buf *sql, const struct table *table, char letter, int i)
{
    buf_printf(sql, "u.%c%d", letter, i);
    if (table->columns[i].wire == WIRE_CAST)
        buf_printf(sql, "::%s", table->columns[i].cast_type);
}

static bool may_be_hole(const struct table *table, unsigned flags, int i)
{
    return flags & STATEMENT_HOLES && table->columns[i].is_toastable && !table->columns[i].is_key;
}

void statement_add_special(struct buf *sql, const char *alias, const struct table_column *column)
{
    add_column(sql, alias, column);
    buf_add(sql, " in ('NaN', 'Infinity', '-Infinity')");
}

/* The value as it was sent; where that was a null in doubt, a NaN or infinity that is there. */
static void add_known(struct buf *sql, const struct table *table, unsigned flags, int i)
{
    const struct table_column *column = &table->columns[i];
    const char *base = flags & STATEMENT_BASES ? "b" : "m";

    if (!(flags & STATEMENT_DOUBTS) || !table_column_is_doubtful(column)) {
        add_sent(sql, table, 'c', i);
        return;
    }
    buf_add(sql, "coalesce(");
    add_sent(sql, table, 'c', i);
    buf_printf(sql, ", case when %s._deleted_at is null and ", base);
    statement_add_special(sql, base, column);
    buf_add(sql, " then ");
    add_column(sql, base, column);
    buf_add(sql, " end)");
}

/* The value after the batch. */
static void add_merged(struct buf *sql, const struct table *table, unsigned flags, int i)
{
    if (!may_be_hole(table, flags, i)) {
        add_known(sql, table, flags, i);
        return;
    }
    buf_printf(sql, "case when u.p%d then ", i);
    add_known(sql, table, flags, i);
    buf_add(sql, " else ");
    add_column(sql, flags & STATEMENT_BASES ? "b" : "m", &table->columns[i]);
    buf_add(sql, " end");
}

/* m.k = u.c0 and … */
static void add_key_join(struct buf *sql, const struct table *table, const char *alias, char letter)
{
    for (int i = 0; i < table->nkeys; i++) {
        buf_add(sql, i ? " and " : "");
        add_column(sql, alias, &table->columns[table->keys[i]]);
        buf_printf(sql, " %s ", table->columns[table->keys[i]].equality);
        add_sent(sql, table, letter, table->keys[i]);
    }
}

/* Some column was not sent. */
static void add_holed(struct buf *sql, const struct table *table, unsigned flags)
{
    bool any = false;

    if (flags & STATEMENT_GONE)
        buf_add(sql, "not u.g and ");
    buf_add(sql, "not (");
    for (int i = 0; i < table->ncolumns; i++) {
        if (!may_be_hole(table, flags, i))
            continue;
        buf_printf(sql, "%su.p%d", any ? " and " : "", i);
        any = true;
    }
    buf_printf(sql, "%s)", any ? "" : "true");
}

/* … and there is no live row to take it from. */
static void add_lost(struct buf *sql, const struct table *table, unsigned flags)
{
    const char *base = flags & STATEMENT_BASES ? "b" : "m";

    add_holed(sql, table, flags);
    buf_printf(sql, " and (%s.ctid is null or %s._deleted_at is not null)", base, base);
}

/* row(the mirror's)::record *<> row(the batch's)::record, the key left out where it cannot differ.
 */
static void add_differs(struct buf *sql, const struct table *table, unsigned flags)
{
    buf_add(sql, "row(");
    for (int i = 0; i < table->ncolumns; i++) {
        if (table->columns[i].is_key && table->is_key_bytewise)
            continue;
        add_column(sql, "m", &table->columns[i]);
        buf_add(sql, ", ");
    }
    buf_add(sql, "m._deleted_at)::record *<> row(");
    for (int i = 0; i < table->ncolumns; i++) {
        if (table->columns[i].is_key && table->is_key_bytewise)
            continue;
        add_merged(sql, table, flags, i);
        buf_add(sql, ", ");
    }
    buf_add(sql, "null::timestamptz)::record");
}

/* row(…) of the watched columns whose images have to be compared; returns how many. */
static int add_images(struct buf *sql, const struct table *table, unsigned flags,
                      const struct capture *capture, bool is_old)
{
    int count = 0;

    buf_add(sql, "row(");
    for (int i = 0; i < capture->nwatch; i++) {
        const struct table_column *column = &table->columns[capture->watch[i]];

        if (column->is_alike || (column->is_key && table->is_key_bytewise))
            continue;
        buf_add(sql, count++ ? ", " : "");
        if (is_old)
            add_column(sql, "m", column);
        else
            add_merged(sql, table, flags, capture->watch[i]);
    }
    buf_add(sql, ")::record");
    return count;
}

/*
 * ", … as g0": does the row count for capture 0, if it is updated?  It was no live row, or a watched
 * column is another.  As in add_differs() the key is left out where it cannot be.  Comparing images
 * builds two rows; where "=" says the same it is asked first.
 */
static void add_counted(struct buf *sql, const struct table *table, unsigned flags,
                        const struct capture *capture, int k)
{
    size_t before;

    buf_add(sql, ", m._deleted_at is not null");
    for (int i = 0; i < capture->nwatch; i++) {
        const struct table_column *column = &table->columns[capture->watch[i]];

        if (!column->is_alike || (column->is_key && table->is_key_bytewise))
            continue;
        buf_add(sql, " or ");
        add_column(sql, "m", column);
        buf_add(sql, " is distinct from (");
        add_merged(sql, table, flags, capture->watch[i]);
        buf_add_char(sql, ')');
    }
    before = sql->len;
    buf_add(sql, " or ");
    if (add_images(sql, table, flags, capture, true) > 0) {
        buf_add(sql, " *<> ");
        add_images(sql, table, flags, capture, false);
    } else {
        sql->len = before;
    }
    buf_printf(sql, " as g%d", k);
}

/* What the captures take along from the probe. */
static void add_captured_probe(struct buf *sql, const struct table *table, unsigned flags,
                               const struct capture_list *captures)
{
    for (int k = 0; captures && k < captures->count; k++)
        if (captures->captures[k].nwatch >= 0)
            add_counted(sql, table, flags, &captures->captures[k], k);
    if (captures)
        capture_add_before(sql, table, captures);
}

/* The probe: rows of the batch beside what the mirror has. */
static void add_probe(struct buf *sql, const struct table *table, unsigned flags,
                      const struct capture_list *captures)
{
    buf_add(sql, "s as materialized (select ");
    for (int i = 0; i < table->ncolumns; i++) {
        add_merged(sql, table, flags, i);
        buf_printf(sql, " as c%d, ", i);
    }
    buf_printf(sql, "u.l, %s%s, m.ctid as tid, m._deleted_at is null as live, ",
               leaves_tombstones(table, flags) ? "u.t, " : "",
               flags & STATEMENT_GONE ? "u.g" : "false as g");
    if (flags & STATEMENT_HOLES)
        add_lost(sql, table, flags);
    else
        buf_add(sql, "false");
    buf_add(sql, " as lost, ");
    if (flags & STATEMENT_HOLES && flags & STATEMENT_RESYNC) {
        add_holed(sql, table, flags);
        buf_add(sql, " as holed, ");
    }
    if (flags & STATEMENT_GUARD)
        buf_add(sql, "m._lsn < u.l as old, ");
    add_differs(sql, table, flags);
    buf_add(sql, " as differs");
    add_captured_probe(sql, table, flags, captures);
    if (!table->is_key_bytewise) {
        buf_add(sql, ", row_number() over (partition by ");
        for (int i = 0; i < table->nkeys; i++) {
            buf_add(sql, i ? ", " : "");
            add_sent(sql, table, 'c', table->keys[i]);
            if (table->columns[table->keys[i]].collation != NULL)
                buf_printf(sql, " %s", table->columns[table->keys[i]].collation);
        }
        buf_printf(sql, " order by %s) as rank", flags & STATEMENT_GONE ? "u.g" : "1");
    }
    buf_add(sql, " from ");
    add_unnest(sql, table, flags);
    buf_add(sql, " left join ");
    add_mirror(sql, table);
    buf_add(sql, " m on ");
    add_key_join(sql, table, "m", 'c');
    if (flags & STATEMENT_BASES) {
        buf_add(sql, " left join ");
        add_mirror(sql, table);
        buf_add(sql, " b on ");
        add_key_join(sql, table, "b", 'b');
    }
    buf_add(sql, ")");
}

/* What makes a row of s belong to a branch.  One place, since the counts ask the same. */
static void add_condition(struct buf *sql, const struct table *table, unsigned flags,
                          enum statement_count branch)
{
    const bool is_resync = flags & STATEMENT_RESYNC, is_guarded = flags & STATEMENT_GUARD;

    switch (branch) {
    case COUNT_TO_REMOVE:
        /* A tombstone that a delete meets again is as new as the delete, where that counts. */
        buf_add(sql, leaves_tombstones(table, flags) && !is_resync
                         ? "s.g and s.live and s.tid is not null"
                         : "s.g and s.tid is not null");
        break;
    case COUNT_TO_UPDATE:
        buf_printf(sql, "not s.g and not s.lost and %ss.tid is not null",
                   is_resync ? "" : "s.differs and ");
        break;
    case COUNT_TO_INSERT:
        buf_printf(sql, "%snot s.lost and s.tid is null",
                   leaves_tombstones(table, flags) && !is_guarded ? "" : "not s.g and ");
        break;
    case COUNT_INCOMPLETE:
        buf_add(sql, is_resync ? "s.holed" : "s.lost");
        return;
    case COUNT_REMOVED:
    case COUNT_UPDATED:
    case COUNT_INSERTED:
    case COUNTS:
        buf_add(sql, "false");
        return;
    }
    if (is_guarded && branch != COUNT_TO_INSERT)
        buf_add(sql, " and s.old");
    if (!table->is_key_bytewise)
        buf_add(sql, " and s.rank = 1");
}

/* Ends the branch d or i: it is counted, or gives what the captures need, was or is the row live first. */
static void add_returning(struct buf *sql, const struct table *table,
                          const struct capture_list *captures, const char *live, char letter)
{
    if (captures == NULL) {
        buf_add(sql, " returning 1)");
        return;
    }
    buf_printf(sql, " returning %s", live);
    capture_add_columns(sql, table, captures, "m", letter);
    buf_add_char(sql, ')');
}

static void add_removal(struct buf *sql, const struct table *table, unsigned flags,
                        const struct capture_list *captures)
{
    if (leaves_tombstones(table, flags)) {
        buf_add(sql, ", d as (update ");
        add_mirror(sql, table);
        buf_add(sql, " m set _lsn = s.l, _deleted_at = s.t from s where ");
    } else {
        buf_add(sql, ", d as (delete from ");
        add_mirror(sql, table);
        buf_add(sql, " m using s where ");
    }
    buf_add(sql, "m.ctid = s.tid and ");
    add_condition(sql, table, flags, COUNT_TO_REMOVE);
    add_returning(sql, table, captures, "s.live as f", 'o');
}

static void add_update(struct buf *sql, const struct table *table, unsigned flags,
                       const struct capture_list *captures)
{
    buf_add(sql, ", w as (update ");
    add_mirror(sql, table);
    buf_add(sql, " m set ");
    for (int i = 0; i < table->ncolumns; i++) {
        if (table->columns[i].is_key && table->is_key_bytewise)
            continue;
        pg_add_ident(sql, table->columns[i].name);
        buf_printf(sql, " = s.c%d, ", i);
    }
    buf_add(sql, "_lsn = s.l, _deleted_at = null from s where m.ctid = s.tid and ");
    add_condition(sql, table, flags, COUNT_TO_UPDATE);
    buf_add(sql, " returning ");
    if (captures) {
        buf_add(sql, "s.live as f");
        for (int k = 0; k < captures->count; k++)
            buf_printf(sql, captures->captures[k].nwatch < 0 ? ", s.differs as g%d" : ", s.g%d", k);
        capture_add_carried(sql, table, captures);
        capture_add_columns(sql, table, captures, "m", 'n');
        buf_add_char(sql, ')');
    } else {
        buf_add(sql, "1)");
    }
}

/* A tombstone of a key that the mirror never saw has its key, and NULL elsewhere, as the batch sent
 * no values. */
static void add_insert(struct buf *sql, const struct table *table, unsigned flags,
                       const struct capture_list *captures)
{
    buf_add(sql, ", i as (insert into ");
    add_mirror(sql, table);
    buf_add(sql, captures ? " as m (" : " (");
    for (int i = 0; i < table->ncolumns; i++) {
        pg_add_ident(sql, table->columns[i].name);
        buf_add(sql, ", ");
    }
    buf_add(sql, "_lsn, _deleted_at) select ");
    for (int i = 0; i < table->ncolumns; i++)
        buf_printf(sql, "s.c%d, ", i);
    buf_printf(sql, "s.l, %s from s where ",
               leaves_tombstones(table, flags) ? "case when s.g then s.t end"
                                               : "null::timestamptz");
    add_condition(sql, table, flags, COUNT_TO_INSERT);
    add_returning(sql, table, captures, "m._deleted_at is null as t", 'n');
}

static void add_repair(struct buf *sql, const struct table *table, unsigned flags,
                       const char *pipeline)
{
    buf_add(sql, ", r as (insert into tailwater.repair (pipeline, schema, name, key, lsn) select ");
    pg_add_literal(sql, pipeline);
    buf_add(sql, ", ");
    pg_add_literal(sql, table->schema);
    buf_add(sql, ", ");
    pg_add_literal(sql, table->name);
    buf_add(sql, ", array[");
    for (int i = 0; i < table->nkeys; i++)
        buf_printf(sql, "%ss.c%d::text", i ? ", " : "", table->keys[i]);
    buf_add(sql, "], s.l from s where ");
    add_condition(sql, table, flags, COUNT_INCOMPLETE);
    buf_add(sql, " returning 1)");
}

void statement_write(const struct table *table, unsigned flags, const char *pipeline,
                     const struct capture_list *captures, struct buf *ret_sql)
{
    const unsigned branches = CAPTURE_UPDATED | CAPTURE_INSERTED |
                              (flags & STATEMENT_GONE ? CAPTURE_GONE : 0) |
                              (flags & STATEMENT_MANY ? CAPTURE_COPIED : 0);
    static const struct {
        enum statement_count wanted;
        const char *done;
        unsigned needs;
    } counts[] = {{COUNT_TO_REMOVE, "d", STATEMENT_GONE},
                  {COUNT_TO_UPDATE, "w", 0},
                  {COUNT_TO_INSERT, "i", 0}};

    buf_add(ret_sql, "with ");
    add_probe(ret_sql, table, flags, captures);
    if (flags & STATEMENT_GONE)
        add_removal(ret_sql, table, flags, captures);
    add_update(ret_sql, table, flags, captures);
    add_insert(ret_sql, table, flags, captures);
    if (flags & STATEMENT_HOLES)
        add_repair(ret_sql, table, flags, pipeline);
    if (captures)
        capture_add_tables(ret_sql, table, captures, branches);
    buf_add(ret_sql, " select n.*");
    if (captures)
        capture_add_results(ret_sql, table, captures, branches);
    buf_add(ret_sql, " from (select ");
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        if ((flags & counts[i].needs) != counts[i].needs) {
            buf_printf(ret_sql, "0 as want_%s, 0 as did_%s, ", counts[i].done, counts[i].done);
            continue;
        }
        buf_add(ret_sql, "count(*) filter (where ");
        add_condition(ret_sql, table, flags, counts[i].wanted);
        buf_printf(ret_sql, ") as want_%s, (select count(*) from %s) as did_%s, ", counts[i].done,
                   counts[i].done, counts[i].done);
    }
    if (flags & STATEMENT_HOLES)
        buf_add(ret_sql, "(select count(*) from r)");
    else
        buf_add(ret_sql, "0");
    buf_add(ret_sql, " from s) n");
    if (captures)
        capture_add_from(ret_sql, table, captures, branches);
    buf_add(ret_sql,
            " where case when want_d = did_d and want_w = did_w and want_i = did_i then true "
            "else tailwater.refuse('" STATEMENT_MISCOUNTED
            "', 'a write touched ' || did_d + did_w + did_i || "
            "' rows where its probe saw ' || want_d + want_w + want_i || "
            "': somebody else changes this mirror table') is null end");
}

void statement_look(const struct table *table, lsn_t lsn, struct buf *ret_sql)
{
    buf_add(ret_sql, "select u.n, m.ctid, case when m.ctid is null or (m._deleted_at is not null "
                     "and m._lsn < ");
    buf_printf(ret_sql, "'" LSN_FORMAT "') then %d when m._lsn < '" LSN_FORMAT "' and ",
               LSN_ARGS(lsn), LOOK_MISSING, LSN_ARGS(lsn));
    add_differs(ret_sql, table, 0);
    buf_printf(ret_sql, " then %d else %d end from unnest(", LOOK_DIFFERENT, LOOK_FINE);
    for (int i = 0; i < table->ncolumns; i++)
        buf_printf(ret_sql, "%s$%d::%s[]", i ? ", " : "", i + 1, array_type(&table->columns[i]));
    buf_add(ret_sql, ") with ordinality as u(");
    for (int i = 0; i < table->ncolumns; i++)
        buf_printf(ret_sql, "c%d, ", i);
    buf_add(ret_sql, "n) left join ");
    add_mirror(ret_sql, table);
    buf_add(ret_sql, " m on ");
    add_key_join(ret_sql, table, "m", 'c');
}

/* One of the table's columns per element of an array. */
static void add_each(struct buf *sql, const struct table *table, bool is_key,
                     void (*add)(struct buf *sql, const struct table *table, int i))
{
    const int count = is_key ? table->nkeys : table->ncolumns;

    buf_add(sql, "array[");
    for (int i = 0; i < count; i++) {
        buf_add(sql, i ? ", " : "");
        add(sql, table, is_key ? table->keys[i] : i);
    }
    buf_add(sql, "]::text[]");
}

static void add_name(struct buf *sql, const struct table *table, int i)
{
    pg_add_literal(sql, table->columns[i].name);
}

static void add_name_if_different(struct buf *sql, const struct table *table, int i)
{
    buf_add(sql, "case when row(");
    add_column(sql, "m", &table->columns[i]);
    buf_add(sql, ")::record *<> row(");
    add_sent(sql, table, 'c', i);
    buf_add(sql, ")::record then ");
    add_name(sql, table, i);
    buf_add(sql, " end");
}

static void add_source_text(struct buf *sql, const struct table *table, int i)
{
    buf_printf(sql, "u.c%d::text", i);
    (void) table;
}

static void add_mirror_text(struct buf *sql, const struct table *table, int i)
{
    add_column(sql, "m", &table->columns[i]);
    buf_add(sql, "::text");
}

/* {"column": "value"} of those that differ; of all where the other side has none. */
static void add_values(struct buf *sql, const char *values, const char *without)
{
    buf_printf(sql,
               "case when f.is_shown and f.kind <> '%s' then (select jsonb_object_agg(v.k, v.v) "
               "from unnest(f.names, f.%s) v(k, v) where f.kind <> 'different' or v.k = any "
               "(f.columns)) end",
               without, values);
}

void statement_explain(const struct table *table, lsn_t lsn, struct buf *ret_sql)
{
    const int n = table->ncolumns;

    buf_add(ret_sql, "with f as materialized (select case when u.g then case when m._deleted_at "
                     "is null and ");
    buf_printf(ret_sql,
               "m._lsn < '" LSN_FORMAT "' then 'extra' end when m.ctid is null or (m._deleted_at "
               "is not null and m._lsn < '" LSN_FORMAT
               "') then 'missing' when m._lsn < '" LSN_FORMAT "' and ",
               LSN_ARGS(lsn), LSN_ARGS(lsn), LSN_ARGS(lsn));
    add_differs(ret_sql, table, 0);
    buf_add(ret_sql, " then 'different' end as kind, ");
    add_each(ret_sql, table, true, add_name);
    buf_add(ret_sql, " as key_names, ");
    add_each(ret_sql, table, true, add_source_text);
    buf_add(ret_sql, " as key, ");
    add_each(ret_sql, table, false, add_name);
    buf_add(ret_sql, " as names, array_remove(");
    add_each(ret_sql, table, false, add_name_if_different);
    buf_add(ret_sql, ", null) as columns, ");
    add_each(ret_sql, table, false, add_source_text);
    buf_add(ret_sql, " as source, ");
    add_each(ret_sql, table, false, add_mirror_text);
    buf_printf(ret_sql, " as mirror, $%d::bool as is_shown from unnest(", n + 5);
    for (int i = 0; i < n; i++)
        buf_printf(ret_sql, "$%d::%s[], ", i + 1, array_type(&table->columns[i]));
    buf_printf(ret_sql, "$%d::bool[]) as u(", n + 1);
    for (int i = 0; i < n; i++)
        buf_printf(ret_sql, "c%d, ", i);
    buf_add(ret_sql, "g) left join ");
    add_mirror(ret_sql, table);
    buf_add(ret_sql, " m on ");
    add_key_join(ret_sql, table, "m", 'c');
    buf_printf(
        ret_sql,
        "), i as (insert into tailwater.job_difference (job, nr, kind, key, columns, source, "
        "mirror) select $%d::bigint, $%d::integer, f.kind, jsonb_object(f.key_names, f.key), "
        "case when f.kind = 'different' then to_jsonb(f.columns) end, ",
        n + 2, n + 3);
    add_values(ret_sql, "source", "extra");
    buf_add(ret_sql, ", ");
    add_values(ret_sql, "mirror", "missing");
    buf_printf(ret_sql,
               " from f where f.kind is not null limit $%d::bigint) select "
               "count(*) filter (where kind = 'missing'), count(*) filter (where kind = "
               "'different'), count(*) filter (where kind = 'extra') from f",
               n + 4);
}

void statement_purge(const struct table *table, struct buf *ret_sql)
{
    buf_add(ret_sql, "delete from ");
    add_mirror(ret_sql, table);
    buf_add(ret_sql, " where ctid = any ($1::tid[]) and _deleted_at is not null");
}

/* unnest($1::T[], …) as u(c0, …), of the key columns alone */
static void add_key_unnest(struct buf *sql, const struct table *table)
{
    buf_add(sql, "unnest(");
    for (int i = 0; i < table->nkeys; i++)
        buf_printf(sql, "%s$%d::%s[]", i ? ", " : "", i + 1,
                   array_type(&table->columns[table->keys[i]]));
    buf_add(sql, ") as u(");
    for (int i = 0; i < table->nkeys; i++)
        buf_printf(sql, "%sc%d", i ? ", " : "", table->keys[i]);
    buf_add(sql, ")");
}

/*
 * delete from mirror m where m.ctid = any (array(select b.ctid from unnest(…) as u(…) left join
 * mirror b on b.id = u.c0)).  By its address like everything else, a seventh slower than a plain join
 * with unnest(): an inner join the planner may turn round, and then the table is read whole (PG_BY_KEY).
 */
static void add_delete(struct buf *sql, const struct table *table)
{
    buf_add(sql, "delete from ");
    add_mirror(sql, table);
    buf_add(sql, " m where m.ctid = any (array(select b.ctid from ");
    add_key_unnest(sql, table);
    buf_add(sql, " left join ");
    add_mirror(sql, table);
    buf_add(sql, " b on ");
    add_key_join(sql, table, "b", 'c');
    buf_add(sql, "))");
}

/* A statement whose only branch is there already: select counts and what the captures say. */
static void add_captured(struct buf *sql, const struct table *table,
                         const struct capture_list *captures, unsigned branch, bool is_many,
                         const char *counts)
{
    const unsigned branches = branch | (is_many ? CAPTURE_COPIED : 0);

    capture_add_tables(sql, table, captures, branches);
    buf_add(sql, " select n.*");
    capture_add_results(sql, table, captures, branches);
    buf_printf(sql, " from (select %s) n", counts);
    capture_add_from(sql, table, captures, branches);
}

void statement_delete(const struct table *table, const struct capture_list *captures, bool is_many,
                      struct buf *ret_sql)
{
    if (captures == NULL) {
        add_delete(ret_sql, table);
        return;
    }
    buf_add(ret_sql, "with d as (");
    add_delete(ret_sql, table);
    buf_add(ret_sql, " returning m._deleted_at is null as f");
    capture_add_columns(ret_sql, table, captures, "m", 'o');
    buf_add_char(ret_sql, ')');
    add_captured(ret_sql, table, captures, CAPTURE_GONE, is_many,
                 "count(*) as want_d, count(*) as did_d, 0 as want_w, 0 as did_w, 0 as want_i, "
                 "0 as did_i, 0 as lost from d");
}

void statement_capture(const struct table *table, const struct capture_list *captures, bool is_many,
                       struct buf *ret_sql)
{
    buf_add(ret_sql, "with i as materialized (select m._deleted_at is null as t");
    capture_add_columns(ret_sql, table, captures, "m", 'n');
    buf_add(ret_sql, " from ");
    add_key_unnest(ret_sql, table);
    buf_add(ret_sql, " cross join lateral (select m.* from ");
    add_mirror(ret_sql, table);
    buf_add(ret_sql, " m where ");
    add_key_join(ret_sql, table, "m", 'c');
    buf_add(ret_sql, " offset 0) as m)");
    add_captured(ret_sql, table, captures, CAPTURE_INSERTED, is_many,
                 "0 as want_d, 0 as did_d, 0 as want_w, 0 as did_w, 0 as want_i, 0 as did_i, "
                 "0 as lost");
}

void statement_forget_all(const struct table *table, const char *pipeline, struct buf *ret_sql)
{
    buf_add(ret_sql, "delete from tailwater.repair r where r.pipeline = ");
    pg_add_literal(ret_sql, pipeline);
    buf_add(ret_sql, " and r.schema = ");
    pg_add_literal(ret_sql, table->schema);
    buf_add(ret_sql, " and r.name = ");
    pg_add_literal(ret_sql, table->name);
}

void statement_forget(const struct table *table, const char *pipeline, struct buf *ret_sql)
{
    statement_forget_all(table, pipeline, ret_sql);
    buf_add(ret_sql, " and exists (select from ");
    add_key_unnest(ret_sql, table);
    buf_add(ret_sql, " where ");
    for (int i = 0; i < table->nkeys; i++) {
        const struct table_column *column = &table->columns[table->keys[i]];

        buf_printf(ret_sql, "%sr.key[%d]::%s %s ", i ? " and " : "", i + 1, column->cast_type,
                   column->equality);
        add_sent(ret_sql, table, 'c', table->keys[i]);
    }
    buf_add(ret_sql, ")");
}

void statement_doubt(const struct table *table, const char *pipeline, struct buf *ret_sql)
{
    buf_add(ret_sql,
            "insert into tailwater.doubt (pipeline, schema, name, n, keys, xids) values (");
    pg_add_literal(ret_sql, pipeline);
    buf_add(ret_sql, ", ");
    pg_add_literal(ret_sql, table->schema);
    buf_add(ret_sql, ", ");
    pg_add_literal(ret_sql, table->name);
    buf_add(ret_sql, ", cardinality($2::bigint[]), $1::text[], $2::bigint[])");
}

void statement_copy(const struct table *table, bool is_binary, struct buf *ret_sql)
{
    buf_add(ret_sql, "copy ");
    add_mirror(ret_sql, table);
    buf_add(ret_sql, " (");
    for (int i = 0; i < table->ncolumns; i++) {
        pg_add_ident(ret_sql, table->columns[i].name);
        buf_add(ret_sql, ", ");
    }
    buf_printf(ret_sql, "_lsn) from stdin with (format %s)", is_binary ? "binary" : "text");
}

void statement_truncate(const struct table *table, struct buf *ret_sql)
{
    if (table_keeps_tombstones(table)) {
        buf_add(ret_sql, "update ");
        add_mirror(ret_sql, table);
        buf_add(ret_sql,
                " set _lsn = $1::pg_lsn, _deleted_at = $2::timestamptz where _deleted_at is null");
    } else {
        buf_add(ret_sql, "delete from ");
        add_mirror(ret_sql, table);
    }
}
