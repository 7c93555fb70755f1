/*
 * What the mirror has of the source's tables, for whoever reads the source's catalog: schema_changes:
 * keep leaves out what is new, and drop_table: apply passes over what is gone.
 */
#ifndef TAILWATER_KNOWN_H
#define TAILWATER_KNOWN_H

#include "config/config.h"
#include "pg/pg.h"
#include "tailwater/arena.h"
#include "tailwater/error.h"

/*
 * *ret_config is config and what the mirror has, where the pipeline streams already and the policies
 * let anything be followed; else a copy of config.  The mirror need not have the control schema, nor
 * one of this program's version.
 */
bool known_read(struct pg *mirror, const struct config *config, struct arena *arena,
                struct config *ret_config, struct error *err);

#endif
