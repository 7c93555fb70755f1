/*
 * Matching is by name: attnums of a partition differ from its root's, and pgoutput does not send
 * them.  Types are not compared here; a value that no longer fits is refused by the mirror.
 */
#include "batch/binding.h"

#include <string.h>

bool binding_is_left_out(const struct table *table, const char *name)
{
    for (int i = 0; i < table->nexcluded; i++)
        if (strcmp(table->excluded[i], name) == 0)
            return true;
    return false;
}

/*
 * The columns of the identity must be the key that the mirror was made with (P19, P64).  pgoutput says
 * which they are; wal2json shows them with the first update or delete, and all columns for FULL.
 */
static bool check_identity(const struct binding *binding, struct error *err)
{
    const struct relation *relation = binding->relation;
    const struct table *table = binding->table;
    int matched = 0, others = 0;

    if (relation->identity == IDENTITY_FULL)
        return true;
    for (int i = 0; i < relation->ncolumns; i++) {
        const bool is_key = binding->column[i] >= 0 && table->columns[binding->column[i]].is_key;

        matched += relation->columns[i].is_identity && is_key;
        others += relation->columns[i].is_identity && !is_key;
    }
    if (relation->identity == IDENTITY_UNKNOWN ? matched == table->nkeys || matched + others == 0
                                               : matched == table->nkeys && others == 0)
        return true;
    error_set(err, ERROR_FAILED,
              "%s: its replica identity is no longer the key of the mirror table", table->label);
    return error_hint(err,
                      "restore the replica identity on the source (ALTER TABLE … REPLICA "
                      "IDENTITY …); then tailwater resync %s",
                      table->label);
}

/* The same name with another oid is another table (P59); a root's partitions have oids of their
 * own. */
static bool check_oid(const struct table *table, const struct relation *relation, struct error *err)
{
    if (relation->oid == 0 || relation->oid == table->relid || table->is_partitioned)
        return true;
    error_set(err, ERROR_FAILED, "%s was dropped and created anew on the source", table->label);
    return error_hint(err,
                      "take it out of the configuration, or destroy the pipeline and copy anew");
}

/* pgoutput describes every column that it will send, holes included: one that it does not describe
 * was dropped or renamed (P57). */
static bool check_columns(const struct binding *binding, struct error *err)
{
    const struct relation *relation = binding->relation;
    const struct table *table = binding->table;

    if (relation->identity == IDENTITY_UNKNOWN)
        return true;
    for (int column = 0; column < table->ncolumns; column++) {
        bool is_there = false;

        for (int i = 0; i < relation->ncolumns; i++)
            is_there |= binding->column[i] == column;
        if (is_there)
            continue;
        error_set(err, ERROR_FAILED, "%s: the source no longer has the column \"%s\"", table->label,
                  table->columns[column].name);
        return error_hint(err, "it was dropped or renamed there, or the publication has a column "
                               "list: exclude it in the configuration, or destroy the pipeline "
                               "and copy anew");
    }
    return true;
}

/* A relation that names a column twice is no table's: the values of one would get lost. */
static bool check_once(const struct binding *binding, struct arena *arena, struct error *err)
{
    bool *is_bound = arena_new(arena, bool, binding->table->ncolumns);

    for (int i = 0; i < binding->relation->ncolumns; i++) {
        const int column = binding->column[i];

        if (column >= 0 && is_bound[column])
            return error_set(err, ERROR_PROTOCOL, "%s: the stream has the column \"%s\" twice",
                             binding->table->label, binding->table->columns[column].name);
        if (column >= 0)
            is_bound[column] = true;
    }
    return true;
}

static bool changed(struct error *err)
{
    memcpy(err->sqlstate, BINDING_SHAPE, sizeof(BINDING_SHAPE));
    return false;
}

/* pgoutput's description is in the order of the source's attnums, as the table is: where names are
 * not, two columns have changed places (or one was made anew).  A partition has an order of its own.
 * wal2json tells columns of a row, with those of the key behind them that are stored out of line. */
static bool check_order(const struct binding *binding, struct error *err)
{
    const struct table *table = binding->table;
    int last = -1;

    if (binding->relation->oid == 0 || table->is_partitioned ||
        strcmp(table->name, binding->relation->name) != 0)
        return true;
    for (int i = 0; i < binding->relation->ncolumns; i++) {
        const int column = binding->column[i];

        if (column >= 0 && column < last)
            return error_set(err, ERROR_FAILED,
                             "%s: the column \"%s\" is another one than it was on the source",
                             table->label, table->columns[column].name);
        last = column >= 0 ? column : last;
    }
    return true;
}

bool binding_make(const struct table *table, const struct relation *relation, struct arena *arena,
                  struct binding **ret_binding, struct error *err)
{
    struct binding *binding = arena_new(arena, struct binding, 1);

    if (!check_oid(table, relation, err))
        return changed(err);
    binding->table = table;
    binding->relation = relation;
    binding->column = arena_new(arena, int, relation->ncolumns);
    for (int i = 0; i < relation->ncolumns; i++) {
        const char *name = relation->columns[i].name;

        binding->column[i] = table_find_column(table, name);
        if (binding->column[i] < 0 && !binding_is_left_out(table, name)) {
            error_set(err, ERROR_FAILED,
                      "%s: the source has a column \"%s\" that the mirror table lacks",
                      table->label, name);
            changed(err);
            return error_hint(err,
                              "exclude it in the configuration (tables: - {name: %s, exclude: "
                              "[%s]}), or destroy the pipeline and copy anew",
                              table->label, name);
        }
    }
    if (!check_once(binding, arena, err))
        return false;
    if (!check_identity(binding, err) || !check_columns(binding, err) || !check_order(binding, err))
        return changed(err);
    *ret_binding = binding;
    return true;
}
