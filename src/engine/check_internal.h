/*
 * What the parts of the check share.  Each part looks at one thing and adds its findings, at least
 * one of level ok; it returns false only where a server failed to answer.
 */
#ifndef TAILWATER_CHECK_INTERNAL_H
#define TAILWATER_CHECK_INTERNAL_H

#include "base/buf.h"
#include "engine/check.h"
#include "mirror/control.h"
#include "pg/pg.h"
#include "source/catalog.h"
#include "source/slot.h"

struct check {
    const struct config *config;
    struct arena *arena;
    struct finding_list findings;

    /* NULL where they could not be reached. */
    struct pg *source, *replication, *mirror;
    bool has_catalog; /* catalog is set */
    struct catalog catalog;

    /* of the source */
    int source_major; /* for texts: what a version can do, feature.h knows */
    const char *source_user, *source_database, *source_encoding, *source_locale;
    bool is_role_replicating; /* by its attribute; a managed service may grant it otherwise */
    bool is_wal_logical, is_source_standby;
    int64_t free_slots, prepared;
    bool has_slot; /* slot is set */
    struct slot_status slot;
    struct slot_identity identity; /* of the replication connection */

    /* of the mirror */
    int mirror_major;
    const char *mirror_user, *mirror_database, *mirror_encoding, *mirror_locale;
    bool may_create_schemas;
    bool has_control_schema; /* whoever's */
    bool has_control;        /* the control schema is there and readable */
    bool has_pipeline;       /* pipeline is set */
    struct control_pipeline pipeline;

    bool is_too_old;    /* one of them is not supported: nothing more is asked */
    bool is_slot_wrong; /* some error finding is about the slot: exit 6 for run */
};

/* ---- check_source.c ---- */

bool check_source(struct check *check, struct error *err);      /* server, role, settings */
bool check_replication(struct check *check, struct error *err); /* the replication connection */
bool check_plugin(struct check *check, struct error *err);      /* may it be used; NaN */
bool check_slot(struct check *check, struct error *err);        /* and the source's identity */

/* ---- check_tables.c ---- */

bool check_privileges(struct check *check, struct error *err);  /* SELECT, row security */
bool check_publication(struct check *check, struct error *err); /* pgoutput's */
void check_views(struct check *check);                          /* the source's own */

/* ---- check_mirror.c ---- */

bool check_mirror(struct check *check, struct error *err);  /* server, role, control schema */
bool check_schemas(struct check *check, struct error *err); /* privileges on them */
bool check_names(struct check *check, struct error *err);   /* relations in the way */
bool check_needs(struct check *check, struct error *err);   /* extensions, types, collations */
bool check_readers(struct check *check, struct error *err);
bool check_quarantine(struct check *check, struct error *err); /* tables that are left out */

/* ---- check_facts.c ---- */

/* Declarations, and indexes of link columns. */
bool check_facts(struct check *check, struct error *err);

/* ---- check_feeds.c ---- */

bool check_feeds(struct check *check, struct error *err);

/* ---- check_versions.c ---- */

/* A mirror that is older than its source. */
void check_mirror_age(struct check *check);

/* source.failover: what it needs on the source and its standbys. */
bool check_failover(struct check *check, struct error *err);

/* Was a standby promoted since, and may the stream go on there (P47)? */
bool check_timeline(struct check *check);

/* pgoutput before 15: partitions that are attached later (P61). */
void check_attached(struct check *check);

/* Built-in types of the columns that an older mirror lacks. */
bool check_builtin_types(struct check *check, struct error *err);

/* ---- helpers, check.c ---- */

void check_ok(struct check *check, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A failed call as a finding of level error: its message and its hint. */
struct finding *check_failed(struct check *check, const char *name, const struct error *err);

/* Add one element to the text of an array parameter, and end it: "{\"a\",\"b\"}". */
void check_add_element(struct buf *array, const char *text);
const char *check_end_array(struct buf *array);

/* Add to a list for people, "a, b, c and 12 more": count is how many there were before. */
#define CHECK_LISTED 8
void check_add_listed(struct buf *text, int count, const char *item);
void check_end_listed(struct buf *text, int count);

/* A quoted name, from the arena. */
const char *check_ident(struct check *check, const char *name);

#endif
