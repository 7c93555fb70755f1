/*
 * The table.  Nothing in it has been taken away again by a later version so far; that is why it has
 * a first version only.
 */
#include "pg/feature.h"

static const int first_major[] = {
    [FEATURE_NONE] = 0,
    [FEATURE_SUPPORTED] = 14,
    [FEATURE_IDLE_SESSION] = 14,
    [FEATURE_SLOT_OPTIONS] = 15,
    [FEATURE_PUBLICATION_SCHEMAS] = 15,
    [FEATURE_ATTACHED_PARTITIONS] = 15,
    [FEATURE_STANDBY_DECODING] = 16,
    [FEATURE_TRANSACTION_TIMEOUT] = 17,
    [FEATURE_FAILOVER_SLOTS] = 17,
};

bool feature_is_in(enum feature feature, int server_version)
{
    return server_version / 10000 >= first_major[feature];
}

int feature_first(enum feature feature)
{
    return first_major[feature];
}
