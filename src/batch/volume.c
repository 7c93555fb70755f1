/*
 * The sheet is filled by the applier alone.  What is posted stands behind a mutex that is held for as
 * long as it takes to add up the tables of one batch; nothing under it waits.  A table's lines are a
 * short list, newest hour first: a batch that catches up has a few hours, any other one or two.
 */
#include "batch/volume.h"

#include "base/memory.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* A table that was ever posted; these live as long as the process. */
struct counted {
    const char *schema, *name;
    struct volume_total *totals; /* that are in no parcel yet */
    struct counted *next;        /* all of them … */
    struct counted *next_dirty;  /* … and those with totals */
};

struct volume_sheet {
    const struct table_list *list;
    struct volume_line *lines;
    int nlines, size;
    int *newest;              /* per table: the place of its last line, from 1; 0: none */
    struct counted **counted; /* per table; NULL until it is posted for the first time */
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct counted *all, *dirty;
static lsn_t posted_lsn, stored_lsn;
static bool has_parcel; /* it is not stored yet */
static struct volume_parcel parcel;

void volume_count(struct volume_counts *counts, enum volume_kind kind, int64_t commit_time_us)
{
    counts->inserted += kind == VOLUME_INSERT;
    counts->updated += kind == VOLUME_UPDATE;
    counts->deleted += kind == VOLUME_DELETE;
    counts->truncated += kind == VOLUME_TRUNCATE;
    if (counts->first_us == 0 || commit_time_us < counts->first_us)
        counts->first_us = commit_time_us;
    if (commit_time_us > counts->last_us)
        counts->last_us = commit_time_us;
}

static void add(struct volume_counts *counts, const struct volume_counts *more)
{
    counts->inserted += more->inserted;
    counts->updated += more->updated;
    counts->deleted += more->deleted;
    counts->truncated += more->truncated;
    if (counts->first_us == 0 || more->first_us < counts->first_us)
        counts->first_us = more->first_us;
    if (more->last_us > counts->last_us)
        counts->last_us = more->last_us;
}

/* ---- the sheet ---- */

struct volume_sheet *volume_sheet_new(const struct table_list *list)
{
    struct volume_sheet *sheet = memory_new(struct volume_sheet);

    sheet->list = list;
    sheet->newest = memory_alloc((size_t) list->count * sizeof(*sheet->newest));
    sheet->counted = memory_alloc((size_t) list->count * sizeof(*sheet->counted));
    return sheet;
}

void volume_sheet_free(struct volume_sheet *sheet)
{
    if (sheet == NULL)
        return;
    free(sheet->lines);
    free(sheet->newest);
    free(sheet->counted);
    free(sheet);
}

void volume_sheet_add(struct volume_sheet *sheet, const struct volume_line *lines)
{
    for (const struct volume_line *line = lines; line != NULL; line = line->next) {
        const int newest = sheet->newest[line->table->index];

        /* The pieces of a large transaction are all of one hour. */
        if (newest > 0 && sheet->lines[newest - 1].hour == line->hour) {
            add(&sheet->lines[newest - 1].counts, &line->counts);
            continue;
        }
        if (sheet->nlines == sheet->size) {
            sheet->size = sheet->size ? 2 * sheet->size : 16;
            sheet->lines = memory_resize(sheet->lines,
                                         (size_t) sheet->size * sizeof(*sheet->lines));
        }
        sheet->lines[sheet->nlines++] = *line;
        sheet->newest[line->table->index] = sheet->nlines;
    }
}

void volume_sheet_clear(struct volume_sheet *sheet)
{
    for (int i = 0; i < sheet->nlines; i++)
        sheet->newest[sheet->lines[i].table->index] = 0;
    sheet->nlines = 0;
}

/* ---- what is posted ---- */

static struct counted *find(const struct table *table)
{
    struct counted *counted = all;

    while (counted != NULL &&
           (strcmp(counted->name, table->name) != 0 || strcmp(counted->schema, table->schema) != 0))
        counted = counted->next;
    if (counted == NULL) {
        counted = memory_new(struct counted);
        counted->schema = memory_strdup(table->schema);
        counted->name = memory_strdup(table->name);
        counted->next = all;
        all = counted;
    }
    return counted;
}

static void post(struct counted *counted, const struct volume_line *line)
{
    struct volume_total *total = counted->totals;

    if (total == NULL) {
        counted->next_dirty = dirty;
        dirty = counted;
    }
    while (total != NULL && total->hour != line->hour)
        total = total->next;
    if (total == NULL) {
        total = memory_new(struct volume_total);
        total->schema = counted->schema;
        total->name = counted->name;
        total->hour = line->hour;
        total->next = counted->totals;
        counted->totals = total;
    }
    add(&total->counts, &line->counts);
}

void volume_sheet_post(struct volume_sheet *sheet, lsn_t lsn)
{
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < sheet->nlines; i++) {
        const struct volume_line *line = &sheet->lines[i];
        struct counted **counted = &sheet->counted[line->table->index];

        if (*counted == NULL)
            *counted = find(line->table);
        post(*counted, line);
    }
    posted_lsn = lsn;
    pthread_mutex_unlock(&mutex);
    volume_sheet_clear(sheet);
}

void volume_begin(lsn_t lsn)
{
    pthread_mutex_lock(&mutex);
    posted_lsn = stored_lsn = lsn;
    pthread_mutex_unlock(&mutex);
}

/* ---- parcels ---- */

const struct volume_parcel *volume_peek(int64_t complete_us)
{
    pthread_mutex_lock(&mutex);
    if (!has_parcel) {
        struct volume_total *first = NULL;

        for (struct counted *counted = dirty, *next; counted != NULL; counted = next) {
            struct volume_total *last = counted->totals;

            while (last->next != NULL)
                last = last->next;
            last->next = first;
            first = counted->totals;
            counted->totals = NULL;
            next = counted->next_dirty;
            counted->next_dirty = NULL;
        }
        dirty = NULL;
        parcel.number++;
        parcel.lsn = posted_lsn;
        parcel.complete_us = complete_us;
        parcel.first = first;
        has_parcel = true;
    }
    pthread_mutex_unlock(&mutex);
    return &parcel;
}

void volume_stored(void)
{
    struct volume_total *total, *next;

    pthread_mutex_lock(&mutex);
    total = (struct volume_total *) parcel.first;
    parcel.first = NULL;
    has_parcel = false;
    stored_lsn = parcel.lsn;
    pthread_mutex_unlock(&mutex);
    for (; total != NULL; total = next) {
        next = total->next;
        free(total);
    }
}

bool volume_is_waiting(void)
{
    bool is_waiting;

    pthread_mutex_lock(&mutex);
    is_waiting = has_parcel || dirty != NULL || posted_lsn != stored_lsn;
    pthread_mutex_unlock(&mutex);
    return is_waiting;
}
