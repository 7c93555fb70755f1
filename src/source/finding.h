/*
 * What was found wrong, or right, before anything is changed: the catalog's findings about tables,
 * and those of the check about servers and roles.
 *
 * Every finding has a stable name (docs/operations.md lists them), says what and why in words, and
 * in remedy what makes it go away: exact SQL, a setting, a line of the configuration.
 */
#ifndef TAILWATER_FINDING_H
#define TAILWATER_FINDING_H

#include "tailwater/arena.h"
#include "tailwater/error.h"

#include <stdbool.h>

enum finding_level {
    FINDING_OK,      /* looked at, fine */
    FINDING_WARNING, /* works, but something is left out or may hurt later */
    FINDING_ERROR    /* must be mended before run does anything */
};

struct finding {
    const char *name; /* "source_wal_level" */
    enum finding_level level;
    const char *what;
    const char *why;    /* "" where what says it all */
    const char *remedy; /* "" where there is nothing to do */
};

/* Strings and items are arena's; {.arena = …} is an empty one. */
struct finding_list {
    struct arena *arena;
    int count, size;
    struct finding *items;
};

/* Adds one and returns it; what is formatted.  why and remedy follow with the calls below. */
struct finding *finding_add(struct finding_list *list, const char *name, enum finding_level level,
                            const char *format, ...) __attribute__((format(printf, 4, 5)));
void finding_why(struct finding_list *list, struct finding *finding, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void finding_remedy(struct finding_list *list, struct finding *finding, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

int finding_count(const struct finding_list *list, enum finding_level level);

/* The first finding of level error as ERROR_FINDINGS, the remedy as its hint; true if there is
 * none. */
bool finding_none_wrong(const struct finding_list *list, struct error *err);

/* "ok", "warning", "error" */
const char *finding_level_name(enum finding_level level);

#endif
