/*
 * What the source has, and what of it is mirrored: the configuration's table patterns resolved
 * against the source's system catalog.
 *
 * One call, about a dozen queries whatever the number of tables, each fully schema-qualified and
 * under the search_path=pg_catalog that src/pg pins (so that format_type() and pg_get_indexdef()
 * qualify names).  Reads only the system catalog: needs no privilege on any table.
 */
#ifndef TAILWATER_CATALOG_H
#define TAILWATER_CATALOG_H

#include "batch/table.h"
#include "config/config.h"
#include "pg/pg.h"
#include "source/finding.h"

#include <stdbool.h>
#include <stdint.h>

enum catalog_type_kind { CATALOG_ENUM, CATALOG_COMPOSITE, CATALOG_RANGE };

struct catalog_attribute {
    const char *name;
    const char *type;      /* resolved, qualified, with its modifier */
    const char *collation; /* "COLLATE …" clause, or NULL */
};

/*
 * A type of the source that mirror tables need and that is made on the mirror.  Its schema there is
 * the live views' (mirror.view_schema over the type's own schema), so that by default a report's
 * 'new'::public.mood means the same on both sides.
 */
struct catalog_type {
    enum catalog_type_kind kind;
    uint32_t oid;                              /* on the source */
    const char *source_schema, *schema, *name; /* unquoted; schema is the mirror's */
    const char *create_sql;                    /* CREATE TYPE …, complete, without a semicolon */
    int nlabels;                               /* enum: in their order */
    const char **labels;
    int nattributes; /* composite */
    struct catalog_attribute *attributes;
};

/* An extension whose types, operator classes or functions mirror tables use. */
struct catalog_extension {
    const char *name, *schema, *version; /* as on the source; the schema has to be the same */
    bool is_required; /* a column's type is from it; else only indexes or generated columns want it
                       */
    const char *needed_by; /* one example: "public.users.email" */
};

/* A collation that is not the database's default and not built into every server (C, POSIX …). */
struct catalog_collation {
    const char *schema, *name;
    const char *create_sql; /* for the remedy, where it is not in pg_catalog; else NULL */
    const char *needed_by;
};

/* A view or materialized view of the source that reads mirrored tables, directly or through views.
 */
struct catalog_view {
    const char *schema, *name;
    bool is_materialized;
};

/* Everything lives in the arena given to catalog_load(). */
struct catalog {
    struct table_list tables; /* indexed */
    int ntypes;
    struct catalog_type *types; /* in an order in which they can be created */
    int nextensions;
    struct catalog_extension *extensions;
    int ncollations;
    struct catalog_collation *collations;
    int nschemas; /* of the mirror: of mirror tables, live views and types; sorted, each once */
    const char **schemas;
    int nviews;
    struct catalog_view *views;
    struct finding_list findings; /* about tables; warnings only, after catalog_load() */
};

/*
 * The strict form, for whoever goes on to work with the tables: a finding of level error is an
 * ERROR_FINDINGS.  source is a plain connection to the source, outside a transaction.  ERROR_RETRY
 * where a schema change holds a lock for long.
 */
bool catalog_load(struct pg *source, const struct config *config, struct arena *arena,
                  struct catalog *ret_catalog, struct error *err);

/*
 * The same for the check: what is wrong is in ret_catalog->findings, and tables that cannot be
 * mirrored are not in ret_catalog->tables.  False only where the source could not be read.
 */
bool catalog_survey(struct pg *source, const struct config *config, struct arena *arena,
                    struct catalog *ret_catalog, struct error *err);

#endif
