/* Tables of a pipeline, a line each on 80 columns: status and table list. */
#ifndef TAILWATER_TABLE_TEXT_H
#define TAILWATER_TABLE_TEXT_H

#include "base/buf.h"
#include "config/config.h"
#include "mirror/control.h"

void table_text_add_header(struct buf *out);
/* A table that config takes and nobody follows is gone from the source. */
void table_text_add_row(struct buf *out, const struct config *config,
                        const struct control_table *table);

#endif
