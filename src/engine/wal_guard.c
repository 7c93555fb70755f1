/* One look, one line where the level changed. */
#include "engine/wal_guard.h"

#include "base/log.h"
#include <inttypes.h>
#include <stdio.h>

bool wal_guard(struct pg *source, const struct config *config, enum wal_level *level,
               struct error *err)
{
    struct slot_status slot;
    enum wal_level now;
    char left[80] = "";

    if (!slot_look(source, config->source.slot, &slot, err))
        return false;
    now = slot_wal_level(&slot, config->source.wal_guard.warn_bytes,
                         config->source.wal_guard.critical_bytes);
    if (now > *level && slot.safe_wal_bytes >= 0)
        snprintf(left, sizeof(left), "; the source gives it up after %" PRId64 " MB more",
                 slot.safe_wal_bytes >> 20);
    if (now > *level)
        log_event(now == WAL_CRITICAL ? LOG_ERROR : LOG_WARNING,
                  now == WAL_CRITICAL ? "wal_critical" : "wal_warning",
                  "the slot %s retains %" PRId64 " MB of WAL on the source (warn at %" PRId64
                  " MB, critical at %" PRId64
                  " MB)%s; what holds it, and what to do: tailwater status",
                  config->source.slot, slot.retained_bytes >> 20,
                  config->source.wal_guard.warn_bytes >> 20,
                  config->source.wal_guard.critical_bytes >> 20, left);
    else if (now == WAL_FINE && *level != WAL_FINE)
        log_event(LOG_INFO, "wal_fine", "the slot %s retains %" PRId64 " MB of WAL again",
                  config->source.slot, slot.retained_bytes >> 20);
    *level = now;
    return true;
}
