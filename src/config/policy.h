/* The per-table choices that the configuration offers and the batch, the copy and the mirror act
 * on. */
#ifndef TAILWATER_POLICY_H
#define TAILWATER_POLICY_H

enum table_deletes { DELETES_SOFT, DELETES_IGNORE };
enum table_truncate { TRUNCATE_APPLY, TRUNCATE_IGNORE, TRUNCATE_STOP };
enum apply_on_error { ON_ERROR_QUARANTINE, ON_ERROR_STOP };
enum column_mask { MASK_NONE, MASK_NULL, MASK_HASH };

#endif
