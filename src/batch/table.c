/*
 * Finding a table by the name that the stream uses, and a column by its name.
 *
 * The hash of a table list holds own names and leaves' names side by side, open addressing, at most
 * half full, in one piece of arena memory: built once, read by every thread.  Columns are found by
 * looking at one after the other: that happens once per relation that the stream describes, never
 * per row.
 */
#include "batch/table.h"

#include "base/map.h"

#include <string.h>

struct table_slot {
    uint64_t hash;
    const char *schema; /* NULL where the slot is free */
    const char *name;
    const struct table *table;
};

static uint64_t name_hash(const char *schema, const char *name)
{
    uint64_t hashes[2] = {map_hash(schema, strlen(schema)), map_hash(name, strlen(name))};

    return map_hash(hashes, sizeof(hashes));
}

/* The slot that holds the name, or the free one where it belongs. */
static struct table_slot *slot_find(const struct table_list *list, const char *schema,
                                    const char *name, uint64_t hash)
{
    for (uint32_t i = (uint32_t) hash & (list->nslots - 1);; i = (i + 1) & (list->nslots - 1)) {
        struct table_slot *slot = &list->slots[i];

        if (slot->schema == NULL)
            return slot;
        if (slot->hash == hash && strcmp(slot->name, name) == 0 &&
            strcmp(slot->schema, schema) == 0)
            return slot;
    }
}

static void slot_add(struct table_list *list, const char *schema, const char *name,
                     const struct table *table)
{
    uint64_t hash = name_hash(schema, name);
    struct table_slot *slot = slot_find(list, schema, name, hash);

    if (slot->schema == NULL)
        *slot = (struct table_slot){.hash = hash, .schema = schema, .name = name, .table = table};
}

void table_list_index(struct table_list *list, struct arena *arena)
{
    size_t names = 0;

    for (int i = 0; i < list->count; i++)
        names += 1 + (size_t) list->tables[i].nleaves;
    list->nslots = 16;
    while (list->nslots < names * 2)
        list->nslots *= 2;
    list->slots = arena_new(arena, struct table_slot, list->nslots);
    for (int i = 0; i < list->count; i++)
        slot_add(list, list->tables[i].schema, list->tables[i].name, &list->tables[i]);
    for (int i = 0; i < list->count; i++) {
        const struct table *table = &list->tables[i];

        for (int j = 0; j < table->nleaves; j++)
            slot_add(list, table->leaves[j].schema, table->leaves[j].name, table);
    }
}

const struct table *table_list_find(const struct table_list *list, const char *schema,
                                    const char *name)
{
    if (list->nslots == 0)
        return NULL;
    return slot_find(list, schema, name, name_hash(schema, name))->table;
}

int table_find_column(const struct table *table, const char *name)
{
    for (int i = 0; i < table->ncolumns; i++) {
        if (strcmp(table->columns[i].name, name) == 0)
            return i;
    }
    return -1;
}
