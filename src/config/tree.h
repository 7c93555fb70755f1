/*
 * One YAML document as a tree of scalars, lists and mappings, each with its place in the file.
 * This is YAML without what a configuration does not need: anchors, aliases, tags, several
 * documents and keys that are not names are refused.  What the keys mean is not known here.
 */
#ifndef TAILWATER_TREE_H
#define TAILWATER_TREE_H

#include "config/config.h"
#include "tailwater/arena.h"
#include "tailwater/error.h"

#include <stdbool.h>
#include <stddef.h>

enum tree_kind { TREE_SCALAR, TREE_LIST, TREE_MAPPING };

struct tree {
    enum tree_kind kind;
    struct config_place place;
    const char *text; /* TREE_SCALAR: as written, ${ENV} not yet expanded; "" for an empty one */
    int count;        /* of children: the others */
    struct tree *first;

    /* As a child: the next one, and as an entry of a mapping its key. */
    struct tree *next;
    const char *name;
    struct config_place name_place;
};

/* The document in text; everything in *ret_root lives in arena.  config->file names it in errors.
 */
bool tree_parse(const struct config *config, const char *text, size_t len, struct arena *arena,
                struct tree **ret_root, struct error *err);

#endif
