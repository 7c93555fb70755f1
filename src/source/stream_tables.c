/* wal2json's add-tables list: its own small language, apart from the stream that uses it. */
#include "source/stream.h"

#include "base/buf.h"

#include <ctype.h>
#include <string.h>

/* wal2json compares every change with every entry in turn. */
#define MAX_NAMED 20

/* Its parser ends names at commas and spaces, splits them at the first point, takes a lone * for
 * all, and gives any character after a backslash as it is (string_to_SelectTable() in wal2json.c).
 */
static void add_escaped(struct buf *list, const char *name)
{
    for (; *name != '\0'; name++) {
        if (isspace((unsigned char) *name) || strchr("',.*\\", *name) != NULL)
            buf_add_char(list, '\\');
        buf_add_char(list, *name);
    }
}

struct schemas {
    const char **names;
    int count;
};

static bool schemas_have(const struct schemas *schemas, const char *name)
{
    for (int i = 0; i < schemas->count; i++)
        if (strcmp(schemas->names[i], name) == 0)
            return true;
    return false;
}

static void schemas_add(struct schemas *schemas, const char *name)
{
    if (!schemas_have(schemas, name))
        schemas->names[schemas->count++] = name;
}

const char *stream_add_tables(const struct table_list *tables, struct arena *arena)
{
    _cleanup_buf_ struct buf list = {0};
    struct schemas whole = {0};
    size_t max = 0;

    for (int i = 0; i < tables->count; i++)
        max += 1 + (size_t) tables->tables[i].nleaves;
    whole.names = arena_new(arena, const char *, max);
    for (int i = 0; i < tables->count; i++) {
        const struct table *table = &tables->tables[i];

        if (table->is_partitioned || tables->count > MAX_NAMED)
            schemas_add(&whole, table->schema);
        for (int leaf = 0; leaf < table->nleaves; leaf++)
            schemas_add(&whole, table->leaves[leaf].schema);
    }
    for (int i = 0; i < whole.count; i++) {
        if (list.len > 0)
            buf_add_char(&list, ',');
        add_escaped(&list, whole.names[i]);
        buf_add(&list, ".*");
    }
    for (int i = 0; i < tables->count; i++) {
        const struct table *table = &tables->tables[i];

        if (schemas_have(&whole, table->schema))
            continue;
        if (list.len > 0)
            buf_add_char(&list, ',');
        add_escaped(&list, table->schema);
        buf_add_char(&list, '.');
        add_escaped(&list, table->name);
    }
    return arena_strdup(arena, buf_text(&list));
}
