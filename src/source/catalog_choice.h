/*
 * Which relations of the source are mirrored, and how: the configuration's table entries, in their
 * order, over the list of relations.  Pure.
 */
#ifndef TAILWATER_CATALOG_CHOICE_H
#define TAILWATER_CATALOG_CHOICE_H

#include "config/config.h"
#include "source/catalog_source.h"
#include "source/finding.h"

#include <stdbool.h>

/* A relation that the configuration takes, with its policies.  A later entry that says something
 * wins over an earlier one that says it, key by key. */
struct choice {
    struct source_relation *relation;
    bool is_named;                                   /* an entry without wildcards takes it */
    struct config_place place;                       /* of that entry, else of the last glob */
    const struct config_table *exclude, *mask, *key; /* the entry that says it, or NULL */
    struct config_index_choice indexes;              /* never INDEXES_DEFAULT */
    enum table_deletes deletes;
    enum table_truncate truncate;
    int64_t purge_after_us;
    const struct config_known *known; /* columns that are not there are left out; NULL: none is */
};

struct choice_list {
    int count;
    struct choice *items; /* in the relations' order */
};

/*
 * Relations that cannot be mirrored at all (views, partitions, unlogged tables …) are an error
 * where they are named and passed over where a glob takes them, with a warning if a person could
 * wonder.  So are patterns that take nothing.
 */
void catalog_choice_make(const struct config *config, const struct source_catalog *source,
                         struct finding_list *findings, struct choice_list *ret_choices);

/* Columns and indexes that entries speak of and no table of theirs has: a typing error in exclude
 * or mask must not pass silently.  Once columns have been read. */
void catalog_choice_check(const struct config *config, const struct choice_list *choices,
                          struct finding_list *findings);

/* "tailwater.yaml:3:9: ", "" for a default. */
const char *catalog_choice_place(const struct config *config, struct config_place place,
                                 struct arena *arena);

#endif
