/* One look, one line where the level changed. */
#include "engine/wal_guard.h"

#include "base/log.h"
#include "source/slot.h"

#include <inttypes.h>

bool wal_guard(struct pg *source, const struct config *config, enum wal_level *level,
               struct error *err)
{
    struct slot_status slot;
    enum wal_level now;

    if (!slot_look(source, config->source.slot, &slot, err))
        return false;
    now = slot.retained_bytes >= config->source.wal_guard.critical_bytes ? WAL_CRITICAL
          : slot.retained_bytes >= config->source.wal_guard.warn_bytes   ? WAL_WARNING
                                                                         : WAL_FINE;
    if (now > *level)
        log_event(now == WAL_CRITICAL ? LOG_ERROR : LOG_WARNING,
                  now == WAL_CRITICAL ? "wal_critical" : "wal_warning",
                  "the slot %s retains %" PRId64 " MB of WAL on the source (warn at %" PRId64
                  " MB, critical at %" PRId64
                  " MB); see whether the mirror keeps up: tailwater status",
                  config->source.slot, slot.retained_bytes >> 20,
                  config->source.wal_guard.warn_bytes >> 20,
                  config->source.wal_guard.critical_bytes >> 20);
    else if (now == WAL_FINE && *level != WAL_FINE)
        log_event(LOG_INFO, "wal_fine", "the slot %s retains %" PRId64 " MB of WAL again",
                  config->source.slot, slot.retained_bytes >> 20);
    *level = now;
    return true;
}
