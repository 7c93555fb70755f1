/*
 * The entries are a list that only grows, one for each table ever written; a sheet looks its tables
 * up when they are first posted.  A sheet remembers which tables it has, so that posting costs what was
 * written, not what is mirrored.
 */
#include "batch/tally.h"

#include "base/memory.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct line {
    struct tally *tally; /* NULL until it is posted for the first time */
    bool is_used;
    int64_t inserted, updated, deleted;
};

struct tally_sheet {
    const struct table_list *list;
    struct line *lines; /* by table->index */
    int *used;          /* indexes of those with something on them */
    int nused;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct tally *_Atomic first;

static struct tally *find(const char *table)
{
    struct tally *tally;

    pthread_mutex_lock(&mutex);
    tally = first;
    while (tally != NULL && strcmp(tally->table, table) != 0)
        tally = tally->next;
    if (tally == NULL) {
        tally = memory_new(struct tally);
        tally->table = memory_strdup(table);
        tally->next = first;
        first = tally;
    }
    pthread_mutex_unlock(&mutex);
    return tally;
}

const struct tally *tally_first(void)
{
    return first;
}

struct tally_sheet *tally_sheet_new(const struct table_list *list)
{
    struct tally_sheet *sheet = memory_new(struct tally_sheet);

    sheet->list = list;
    sheet->lines = memory_alloc((size_t) list->count * sizeof(*sheet->lines));
    sheet->used = memory_alloc((size_t) list->count * sizeof(*sheet->used));
    return sheet;
}

void tally_sheet_free(struct tally_sheet *sheet)
{
    if (sheet == NULL)
        return;
    free(sheet->lines);
    free(sheet->used);
    free(sheet);
}

void tally_sheet_add(struct tally_sheet *sheet, const struct table *table, int64_t inserted,
                     int64_t updated, int64_t deleted)
{
    struct line *line = &sheet->lines[table->index];

    if (!line->is_used)
        sheet->used[sheet->nused++] = table->index;
    line->is_used = true;
    line->inserted += inserted;
    line->updated += updated;
    line->deleted += deleted;
}

void tally_sheet_post(struct tally_sheet *sheet)
{
    for (int i = 0; i < sheet->nused; i++) {
        struct line *line = &sheet->lines[sheet->used[i]];

        if (line->tally == NULL)
            line->tally = find(sheet->list->tables[sheet->used[i]].label);
        line->tally->inserted += line->inserted;
        line->tally->updated += line->updated;
        line->tally->deleted += line->deleted;
    }
    tally_sheet_clear(sheet);
}

void tally_sheet_clear(struct tally_sheet *sheet)
{
    for (int i = 0; i < sheet->nused; i++)
        sheet->lines[sheet->used[i]] = (struct line){.tally = sheet->lines[sheet->used[i]].tally};
    sheet->nused = 0;
}
