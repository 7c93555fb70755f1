/*
 * Expansion of fan-outs (tailwater.fan_out): the link values that a batch left are followed to the
 * fact's keys in the background, in pages, each a transaction that takes a number of its own and
 * writes keys of lane 1.
 *
 * It may be done late and in any state of the mirror: whatever is changed on the path in between
 * leaves its own keys, or an entry of its own.  It may be done twice.  What must not happen is that
 * an entry goes before all of its keys are written.
 *
 * Memory is a page per table of the path, however many rows there are: the server keeps what a hop
 * found in a file, under a cursor that holds no snapshot.
 */
#ifndef TAILWATER_EXPANSION_H
#define TAILWATER_EXPANSION_H

#include "ledger/fact.h"

struct expansion;

struct expansion_options {
    const char *conninfo; /* of the mirror */
    const char *pipeline;
    const struct fact_list *facts;
    const atomic_bool *stop;
    int wake_fd; /* readable once stop is raised: a long statement is cancelled */
};

/* Connects.  options and what they point to are the caller's. */
bool expansion_new(const struct expansion_options *options, struct expansion **ret_expansion,
                   struct error *err);
void expansion_free(struct expansion *expansion);

/*
 * The oldest entry, to its end; *ret_found false where there is none.  On a stop request it returns
 * true early, and the entry goes on from its position another time.  A key expression that fails
 * suspends its fact, and is not an error: *ret_suspended says which (NULL: none) and why.
 */
bool expansion_next(struct expansion *expansion, bool *ret_found, const char **ret_suspended,
                    struct error *err);

#endif
