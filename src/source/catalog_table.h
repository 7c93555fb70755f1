/*
 * One chosen relation made into a struct table: names, key, columns, generated columns, indexes.
 * Pure: everything has been read.
 */
#ifndef TAILWATER_CATALOG_TABLE_H
#define TAILWATER_CATALOG_TABLE_H

#include "batch/table.h"
#include "config/config.h"
#include "source/catalog_choice.h"
#include "source/catalog_source.h"
#include "source/catalog_types.h"
#include "source/finding.h"

#include <stdbool.h>

struct catalog_builder {
    const struct config *config;
    const struct source_catalog *source;
    struct catalog_types *types;
    struct finding_list *findings;
    struct arena *arena;
};

/* First pass, before types are named: is the table usable?  If not a finding says so, an error
 * where it is named, else a warning.  Notes the types that its columns want. */
bool catalog_table_check(struct catalog_builder *builder, const struct choice *choice);

/* Second pass.  ret_table->index stays 0. */
void catalog_table_build(struct catalog_builder *builder, const struct choice *choice,
                         struct table *ret_table);

/* Is the column of the choice stored on the mirror and in the stream: neither excluded nor
 * generated? */
bool catalog_table_has_column(const struct choice *choice, const struct source_column *column);

/*
 * Can an index (oid) or a generated column (index 0, attnum) of the choice be made on the mirror?
 * NULL, or the reason why not.
 */
const char *catalog_table_blocker(const struct catalog_builder *builder,
                                  const struct choice *choice, uint32_t index, int attnum);

#endif
