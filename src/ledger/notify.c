/* One function call, which looks at nothing but the clock while that stands still. */
#include "ledger/notify.h"

#include <inttypes.h>
#include <stdio.h>

bool notify_news(struct pg *mirror, const char *pipeline, int64_t *seen, struct error *err)
{
    char since[24];
    const char *params[] = {pipeline, since};
    _cleanup_result_ struct pg_result *result = NULL;

    snprintf(since, sizeof(since), "%" PRId64, *seen);
    if (!pg_query_row(mirror, "select tailwater.notify_news($1, $2::bigint)", 2, params, &result,
                      err))
        return error_wrap(err, "telling consumers that there is something new");
    *seen = pg_int(result, 0, 0);
    return true;
}
